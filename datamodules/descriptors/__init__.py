"""Descriptors that are computed from frames without a network: optical flow and improved dense trajectories."""
