"""Histograms of oriented gradients and of flow, in windows around points."""

from __future__ import annotations

import numpy as np

from datamodules.descriptors.opencv import opencv

WINDOW = 32  # px, side of the window around a point
CELLS = 2  # along each side of the window
ORIENTATIONS = 8  # over 360°, the first at 0°
STILL = 0.4  # px; a shorter displacement counts in HOF's ninth bin
OFFSET = 0.05  # added to each bin before normalisation
CHANNELS = ("hog", "hof", "mbhx", "mbhy")
BINS = (ORIENTATIONS, ORIENTATIONS + 1, ORIENTATIONS, ORIENTATIONS)  # of each channel
WIDTHS = tuple(CELLS * CELLS * bins for bins in BINS)  # numbers of each channel in a step


def orientation_bins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Split the length of each vector between the two orientations next to its own.

    Args:
        x, y: (h, w) float32.

    Returns:
        (h, w, 8) float32; bin b stands for 45 b degrees.
    """
    cv2 = opencv()
    length, angle = cv2.cartToPolar(x, y, angleInDegrees=True)
    place = angle * np.float32(ORIENTATIONS / 360)
    below = place.astype(int)
    share = place - below
    bins = np.zeros((*x.shape, ORIENTATIONS), np.float32)
    rows, columns = np.indices(x.shape, sparse=True)
    bins[rows, columns, below % ORIENTATIONS] = length * (1 - share)
    bins[rows, columns, (below + 1) % ORIENTATIONS] += length * share
    return bins


def gradient_bins(image: np.ndarray) -> np.ndarray:
    """Give the orientation bins of an image's central differences; ``image`` is (h, w), the result (h, w, 8)."""
    cv2 = opencv()
    return orientation_bins(cv2.Sobel(image, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(image, cv2.CV_32F, 0, 1, ksize=1))


def flow_bins(flow: np.ndarray) -> np.ndarray:
    """Give the orientation bins of a (h, w, 2) flow, and the ninth: 1 where it is still."""
    bins = orientation_bins(flow[..., 0], flow[..., 1])
    still = np.hypot(flow[..., 0], flow[..., 1]) <= STILL
    bins[still] = 0
    return np.concatenate([bins, still[..., None].astype(np.float32)], axis=2)


def integral(bins: np.ndarray) -> np.ndarray:
    """Give (h + 1, w + 1, b) float64: entry (y, x) is the sum of all bins above y and left of x."""
    return np.pad(bins, ((1, 0), (1, 0), (0, 0))).cumsum(axis=0, dtype=np.float64).cumsum(axis=1)


def window_histograms(sums: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Histogram the cells of the window around each point.

    Args:
        sums: (h + 1, w + 1, b) integral of the bins.
        points: (n, 2) integer x and y; a window that would leave the image is moved inside.

    Returns:
        (n, 4 b) float32: the cells, x outer and y inner, each v = √((u + 0.05) / Σ (u + 0.05)).
    """
    height, width, bins = sums.shape
    edges = []
    for coordinate, length in zip(points.T, (width - 1, height - 1), strict=True):
        side = min(WINDOW, length)
        start = np.clip(coordinate - side // 2, 0, length - side)
        edges.append(start[:, None] + np.arange(CELLS + 1) * (side // CELLS))
    corners = sums[edges[1][:, None, :], edges[0][:, :, None]]  # n, x, y, b
    values = np.diff(np.diff(corners, axis=1), axis=2).reshape(len(points), CELLS * CELLS * bins)
    values = np.maximum(values, 0) + OFFSET
    return np.sqrt(values / values.sum(axis=1, keepdims=True)).astype(np.float32)


def frame_integrals(image: np.ndarray, flow: np.ndarray) -> list[np.ndarray]:
    """Give the integrals of all channels: HOG of the image, HOF of the flow, MBH of its x and y.

    Args:
        image: (h, w) uint8.
        flow: (h, w, 2) float32, camera motion taken out.
    """
    return [integral(gradient_bins(image)), integral(flow_bins(flow)), *(integral(gradient_bins(flow[..., i])) for i in (0, 1))]
