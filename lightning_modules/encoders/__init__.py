"""Encoders: local descriptors and sequences to one vector a video."""
