"""Dense optical flow between two frames, and its quantisation to bytes in which no motion is exact.

d(u, v), in pixels, takes the first frame's point (u, v) to the second frame's (u, v) + d. Methods: DIS (Kroeger et al. 2016),
Farnebäck (2003) as OpenCV computes it, TV-L1 (Zach et al. 2007).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datamodules.descriptors.opencv import opencv
from datamodules.reading import DataError

METHODS = ("dis", "farneback", "tvl1")
LARGEST = 20.0  # px of the stored size that the largest code stands for; longer displacements are cut to it
CODES = 127  # of each sign
ZERO = 128  # the code of no motion
FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)  # pyramid's ratio and levels, window, iterations, neighbourhood, its σ, flags
LEAST_SIDE = 16  # px of a frame, below which DIS finds no patch

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From two frames (h, w) uint8 to d (h, w, 2) float32, x and y in pixels."""


def flow_of(method: str) -> Flow:
    """Make a method of optical flow.

    Args:
        method: ``dis`` (its medium preset), ``farneback``, or ``tvl1``, which OpenCV's contributed modules alone have.

    Raises:
        DataError: OpenCV is not installed, or has no such method.
        ValueError: there is no such method.
    """
    cv2 = opencv()
    if method == "dis":
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return lambda first, second: _padded(dis.calc, first, second)
    if method == "farneback":
        return lambda first, second: cv2.calcOpticalFlowFarneback(first, second, None, *FARNEBACK)
    if method == "tvl1":
        extra: Any = getattr(cv2, "optflow", None)
        if extra is None:
            raise DataError(
                f"flow.method=tvl1 needs OpenCV's contributed modules, which the installed wheel {cv2.__version__} lacks. "
                "Replace it by hand: pip uninstall opencv-python-headless; pip install opencv-contrib-python-headless. "
                "Or take flow.method=dis"
            )
        tvl1 = extra.createOptFlow_DualTVL1()
        return lambda first, second: tvl1.calc(first, second, None)
    raise ValueError(f"flow.method={method}: choose from {', '.join(METHODS)}")


def _padded(calc: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Repeat the edges of frames that are too small for a patch."""
    height, width = first.shape
    if min(height, width) >= LEAST_SIDE:
        return calc(first, second, None)
    edges = (0, max(0, LEAST_SIDE - height)), (0, max(0, LEAST_SIDE - width))
    return calc(np.pad(first, edges, "edge"), np.pad(second, edges, "edge"), None)[:height, :width]


def resized(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a field to another size: d^x and d^y shrink as width and height do.

    Args:
        flow: (h, w, 2) float32.
        size: (width, height).
    """
    height, width = flow.shape[:2]
    small = opencv().resize(flow, size, interpolation=opencv().INTER_AREA)
    return small * np.array([size[0] / width, size[1] / height], np.float32)


def quantised(flow: np.ndarray) -> np.ndarray:
    """Round a field to bytes, q = clip(round(d · 127 / 20), −127, 127) + 128: steps of 0.157 px, and 0 ↦ 128.

    Args:
        flow: (h, w, 2) float32, px.

    Returns:
        (2, h, w) uint8, x first.

    Source: ±20 px as of dense_flow, which shifts 0 between two codes; here it has one of its own.
    """
    codes = np.clip(np.rint(flow * (CODES / LARGEST)), -CODES, CODES) + ZERO
    return np.ascontiguousarray(codes.astype(np.uint8).transpose(2, 0, 1))
