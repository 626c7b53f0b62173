"""Dense optical flow from polynomial expansions (Farnebäck 2003), at all scales of a pyramid.

A neighbourhood of each pixel is a quadratic polynomial, f(x) ≈ xᵀAx + bᵀx + c. Moved by d it has the same A and b − 2Ad;
from two frames' A and b follows d. OpenCV's function gives the finest scale alone, and has no median filter between scales.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TypeAlias

import numpy as np

from datamodules.descriptors.opencv import opencv

RATIO = 2**0.5  # of the sizes of adjacent scales
REACH = 7  # px, half the side of the neighbourhood that a polynomial fits
FIT_SIGMA = 1.5  # px, of its Gaussian weights
WINDOW = 5  # px, half the side of the window over which displacements are averaged
WINDOW_SIGMA = 0.3 * WINDOW
ITERATIONS = 2
BORDER = (0.14, 0.14, 0.4472, 0.4472, 0.4472)  # weights of the five pixels next to an edge
RIDGE = 1e-3  # added to determinants

Expansion: TypeAlias = np.ndarray  # (5, h, w) float32: b_y, b_x, A_yy, A_xx, 2 A_xy of each pixel


def expansions(image: np.ndarray, sizes: list[tuple[int, int]]) -> list[Expansion]:
    """Expand an image at each scale.

    Args:
        image: (h, w) uint8.
        sizes: (width, height) of each scale, the finest first.

    Returns:
        For each scale, the polynomials of the image smoothed by σ = (s − 1)/2, s = √2^scale, and resized.
    """
    cv2 = opencv()
    values = image.astype(np.float32)
    found = []
    for scale, size in enumerate(sizes):
        sigma = (RATIO**scale - 1) / 2
        side = max(round(5 * sigma) | 1, 3)
        found.append(expand(cv2.resize(cv2.GaussianBlur(values, (side, side), sigma), size, interpolation=cv2.INTER_LINEAR)))
    return found


def expand(image: np.ndarray) -> Expansion:
    """Fit a quadratic polynomial to each pixel's neighbourhood, by least squares with Gaussian weights.

    Args:
        image: (h, w) float32.

    Returns:
        (5, h, w) float32: the coefficients of y, x, y², x² and xy.
    """
    cv2 = opencv()
    (g, xg, xxg), (linear, constant, square, mixed) = _fit()

    def moment(horizontal: np.ndarray, vertical: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(image, cv2.CV_32F, horizontal, vertical, borderType=cv2.BORDER_REPLICATE)

    mean = moment(g, g) * constant
    return np.stack(
        [
            moment(g, xg) * linear,
            moment(xg, g) * linear,
            mean + moment(g, xxg) * square,
            mean + moment(xxg, g) * square,
            moment(xg, xg) * mixed,
        ]
    )


@cache
def _fit() -> tuple[np.ndarray, list[float]]:
    """Give the kernels g, x g and x² g, and the entries of the inverse normal matrix that weigh their moments."""
    x = np.arange(-REACH, REACH + 1)
    g = np.exp(-(x**2) / (2 * FIT_SIGMA**2))
    g /= g.sum()
    grid_y, grid_x = (axis.ravel() for axis in np.meshgrid(x, x, indexing="ij"))
    basis = np.stack([np.ones_like(grid_x), grid_x, grid_y, grid_x**2, grid_y**2, grid_x * grid_y])
    inverse = np.linalg.inv((basis * np.outer(g, g).ravel()) @ basis.T)
    return np.stack([g, x * g, x**2 * g]), [float(inverse[place]) for place in ((1, 1), (0, 3), (3, 3), (5, 5))]


def flows(first: list[Expansion], second: list[Expansion]) -> list[np.ndarray]:
    """Find the displacement of every pixel between two frames, from the coarsest scale to the finest.

    Args:
        first, second: expansions of the frames at each scale, the finest first.

    Returns:
        For each scale, (h, w, 2) float32: x and y in pixels of that scale.
    """
    cv2 = opencv()
    height, width = first[-1].shape[1:]
    flow = np.zeros((height, width, 2), np.float32)
    found = []
    for one, other in zip(reversed(first), reversed(second), strict=True):
        height, width = one.shape[1:]
        if found:
            flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR) * np.float32(RATIO)
        for _ in range(ITERATIONS):
            flow = refine(one, other, flow)
        flow = cv2.medianBlur(flow, 5)
        found.append(flow)
    return found[::-1]


def refine(one: Expansion, other: Expansion, flow: np.ndarray) -> np.ndarray:
    """Solve for the displacements once, from the polynomials where the present displacements lead.

    Over the window, with A the mean of both frames' and b' = (b₁ − b₂)/2 + A d: d ← (Σ AᵀA)⁻¹ Σ Aᵀb'.
    """
    cv2 = opencv()
    height, width = flow.shape[:2]
    dx, dy = cv2.split(flow)
    x = dx + np.arange(width, dtype=np.float32)
    y = dy + np.arange(height, dtype=np.float32)[:, None]
    outside = np.flatnonzero((x < 0) | (y < 0) | (x >= width - 1) | (y >= height - 1))
    moved = np.empty_like(other)
    for plane, target in zip(other, moved, strict=True):
        cv2.remap(plane, x, y, cv2.INTER_LINEAR, dst=target)
    flat, same = moved.reshape(5, -1), one.reshape(5, -1)
    flat[:2, outside] = 0
    flat[2:, outside] = same[2:, outside]

    b_y, b_x, a_yy, a_xx, a_xy = moved
    a_yy += one[2]
    a_yy *= 0.5
    a_xx += one[3]
    a_xx *= 0.5
    a_xy += one[4]
    a_xy *= 0.25
    np.subtract(one[:2], moved[:2], out=moved[:2])
    moved[:2] *= 0.5
    b_y += a_yy * dy
    b_y += a_xy * dx
    b_x += a_xy * dy
    b_x += a_xx * dx
    moved *= _border_weights(height, width)
    square = a_xy * a_xy
    sums = (a_yy * a_yy + square, (a_yy + a_xx) * a_xy, a_xx * a_xx + square, a_yy * b_y + a_xy * b_x, a_xy * b_y + a_xx * b_x)
    kernel = _window()
    yy, xy, xx, by, bx = (cv2.sepFilter2D(s, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REPLICATE) for s in sums)
    scale = 1 / (yy * xx - xy * xy + np.float32(RIDGE))
    return cv2.merge([(yy * bx - xy * by) * scale, (xx * by - xy * bx) * scale])


@lru_cache(maxsize=16)  # the scales of a video, and of the one before
def _border_weights(height: int, width: int) -> np.ndarray:
    sides = []
    for length in (height, width):
        side = np.ones(length, np.float32)
        for index, weight in enumerate(BORDER[:length]):
            side[index] *= weight
            side[-1 - index] *= weight
        sides.append(side)
    return np.outer(*sides)


@cache
def _window() -> np.ndarray:
    x = np.arange(-WINDOW, WINDOW + 1)
    kernel = np.exp(-(x**2) / (2 * WINDOW_SIGMA**2))
    return kernel / kernel.sum()
