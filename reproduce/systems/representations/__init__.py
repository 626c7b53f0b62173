"""Representations: what describes a video by one vector, for kernel SVMs; one module each, see ``base``."""
