"""Histograms of oriented gradients and of flow, in windows around points."""

from __future__ import annotations

from collections.abc import Iterator

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


def describe(image: np.ndarray, flow: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Describe the window around each point by HOG of the image, HOF of the flow and MBH of the flow's x and y.

    Args:
        image: (h, w) uint8.
        flow: (h, w, 2) float32, camera motion taken out.
        points: (n, 2) integer x and y; a window that would leave the image is moved inside.

    Returns:
        (n, 132) float32: of each channel its cells, x outer and y inner, v = √((u + 0.05) / Σ (u + 0.05)) with the sum over
        the channel.
    """
    cv2 = opencv()
    corners = _corners(points, *image.shape)
    dx, dy = cv2.split(flow)
    found = np.empty((len(points), sum(WIDTHS)), np.float32)
    start = 0
    for bins in (gradient_bins(image), flow_bins(dx, dy), gradient_bins(dx), gradient_bins(dy)):
        numbers = _normalised_cells(bins, corners)
        found[:, start : start + len(numbers)] = numbers.T
        start += len(numbers)
    return found


def _corners(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Give (3, 3, n) places, in a flattened (h + 1, w + 1) integral image, of the corners of each window's cells."""
    edges = []
    for coordinate, length in zip(points.T, (width, height), strict=True):
        side = min(WINDOW, length)
        first = np.clip(coordinate - side // 2, 0, length - side)
        edges.append(first + np.arange(CELLS + 1)[:, None] * (side // CELLS))
    return edges[1] * (width + 1) + edges[0][:, None]


def gradient_bins(image: np.ndarray) -> Iterator[np.ndarray]:
    """Give the orientation bins of the central differences of a (h, w) image."""
    cv2 = opencv()
    return orientation_bins(cv2.Sobel(image, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(image, cv2.CV_32F, 0, 1, ksize=1))


def flow_bins(dx: np.ndarray, dy: np.ndarray) -> Iterator[np.ndarray]:
    """Give the orientation bins of a flow where it moves, and the ninth: 1 where it is still."""
    still = np.hypot(dx, dy) <= STILL
    yield from orientation_bins(np.where(still, np.float32(0), dx), np.where(still, np.float32(0), dy))
    yield still.astype(np.float32)


def orientation_bins(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Split the length of each vector between the two orientations next to its own.

    Args:
        x, y: (h, w) float32.

    Yields:
        8 times (h, w) float32; bin b stands for 45 b degrees. Valid until the next one.
    """
    cv2 = opencv()
    length, angle = cv2.cartToPolar(x, y, angleInDegrees=True)
    place = angle * np.float32(ORIENTATIONS / 360)
    below = place.astype(np.uint8)
    above = length * (place - below)
    length = length * (1 - (place - below))
    below %= ORIENTATIONS
    bins = np.empty_like(length)
    masks = [cv2.compare(below, orientation, cv2.CMP_EQ) for orientation in range(ORIENTATIONS)]
    for orientation in range(ORIENTATIONS):
        bins.fill(0)
        cv2.copyTo(length, masks[orientation], bins)
        cv2.copyTo(above, masks[orientation - 1], bins)
        yield bins


def _normalised_cells(bins: Iterator[np.ndarray], corners: np.ndarray) -> np.ndarray:
    """Sum each bin over each cell by its integral image, and normalise.

    Args:
        bins: (h, w) float32 each.
        corners: (3, 3, n), as ``_corners`` gives them.

    Returns:
        (4 b, n) float32: cells, x outer, and bins inner.
    """
    cv2 = opencv()
    sums, values, cells = None, np.empty(corners.shape, np.float64), []
    for plane in bins:
        sums = cv2.integral(plane, sums, cv2.CV_64F)
        sums.ravel().take(corners, out=values, mode="clip")
        cells.append(values[1:, 1:] - values[1:, :-1] - values[:-1, 1:] + values[:-1, :-1])
    numbers = np.stack(cells, axis=2).reshape(-1, corners.shape[-1]).astype(np.float32)
    np.maximum(numbers, 0, out=numbers)  # where a bin is empty, rounding of the sums leaves less
    numbers += np.float32(OFFSET)
    return np.sqrt(numbers / numbers.sum(axis=0))
