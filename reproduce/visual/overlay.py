"""The attention overlay of the released notebook, as pure functions on arrays.

A location map (rows, columns) is upsampled bilinearly to the frame's size (7×7 → 224×224: ×32), blurred by a Gaussian of
σ = 20 px, divided by its maximum (the minimum is not subtracted), and laid as a grey map over the frame:
``0.8 · map + 0.2 · frame``.

Upsampling and blur are scikit-image's ``pyramid_expand``, borders included: the upsampling mirrors the map about the
centres of its outermost cells, the Gaussian mirrors the picture about its edges. Both are linear and separable, so that
each axis is one matrix, (pixels, cells).

Source: paper Figs. 1 and 4; protocol §9.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SIGMA = 20.0  # px, released notebook
TRUNCATE = 4.0  # standard deviations at which SciPy's, and thus scikit-image's, Gaussian ends
MAP_SHARE, FRAME_SHARE = 0.8, 0.2  # released notebook
GAP = 4  # px between the pictures of a filmstrip
WHITE = 255


def expand(alpha: np.ndarray, height: int, width: int, sigma: float | tuple[float, float] = SIGMA) -> np.ndarray:
    """A location map at a frame's size: upsampled and blurred, not normalised.

    Equals ``skimage.transform.pyramid_expand(alpha, upscale, sigma)`` where height and width are upscale times the map's.

    Args:
        alpha: (rows, columns).
        height, width: of the frame, in pixels.
        sigma: of the Gaussian, in pixels; or of its rows and of its columns.

    Returns:
        (height, width) float64.
    """
    rows, columns = alpha.shape
    down, across = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    return _expansion(rows, height, down) @ alpha.astype(np.float64) @ _expansion(columns, width, across).T


def overlay(frame: np.ndarray, alpha: np.ndarray, sigma: float | tuple[float, float] = SIGMA) -> np.ndarray:
    """``0.8 · map / max map + 0.2 · frame``, the map in grey: white where attention is largest.

    Args:
        frame: (H, W, 3) uint8 RGB.
        alpha: (rows, columns) attention of the cells, non-negative, not all zero.
        sigma: see ``expand``.

    Returns:
        (H, W, 3) uint8.
    """
    height, width, _ = frame.shape
    light = expand(alpha, height, width, sigma)  # (H, W)
    light *= WHITE / light.max()
    return np.rint(MAP_SHARE * light[:, :, None] + FRAME_SHARE * frame).astype(np.uint8)


def filmstrip(frames: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """A column per frame, the original above its overlay, with white gaps of ``GAP`` pixels between the pictures.

    Args:
        frames: (n, H, W, 3) uint8 RGB.
        maps: (n, rows, columns) attention of the cells.

    Returns:
        (2 · H + GAP, n · W + (n - 1) · GAP, 3) uint8.
    """
    number, height, width, _ = frames.shape
    strip = np.full((2 * height + GAP, number * (width + GAP) - GAP, 3), WHITE, dtype=np.uint8)
    for column, (frame, alpha) in enumerate(zip(frames, maps, strict=True)):
        left = column * (width + GAP)
        strip[:height, left : left + width] = frame
        strip[height + GAP :, left : left + width] = overlay(frame, alpha)
    return strip


def overlays(frames: np.ndarray, maps: np.ndarray) -> list[np.ndarray]:
    """Lay attention (n, rows, columns) over frames (n, H, W, 3), each map over its own."""
    return [overlay(frame, alpha) for frame, alpha in zip(frames, maps, strict=True)]


@lru_cache
def _expansion(cells: int, pixels: int, sigma: float) -> np.ndarray:
    """(pixels, cells): the weight of every cell in every pixel of one axis."""
    return _gaussian(pixels, sigma) @ _bilinear(cells, pixels)


def _bilinear(cells: int, pixels: int) -> np.ndarray:
    """(pixels, cells): pixel p lies at ``(p + ½) · cells / pixels - ½`` among the cells' centres."""
    position = (np.arange(pixels) + 0.5) * cells / pixels - 0.5
    below = np.floor(position).astype(int)
    share = position - below
    period = max(1, 2 * (cells - 1))  # … 2 1 | 0 1 2 … n-1 | n-2 …: skimage's "reflect", SciPy's "mirror"
    weights = np.zeros((pixels, cells))
    for cell, weight in ((below, 1 - share), (below + 1, share)):
        mirrored = np.minimum(cell % period, -cell % period)
        np.add.at(weights, (np.arange(pixels), mirrored), weight)
    return weights


def _gaussian(pixels: int, sigma: float) -> np.ndarray:
    """(pixels, pixels): a normalised Gaussian around every pixel, cut off at ``TRUNCATE`` · σ."""
    radius = int(TRUNCATE * sigma + 0.5)
    offset = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offset / sigma) ** 2)
    kernel /= kernel.sum()
    source = (np.arange(pixels)[:, None] + offset) % (2 * pixels)  # … 1 0 | 0 1 … n-1 | n-1 …: SciPy's "reflect"
    mirrored = np.minimum(source, 2 * pixels - 1 - source)  # (pixels, 2 · radius + 1)
    weights = np.zeros((pixels, pixels))
    np.add.at(weights, (np.arange(pixels)[:, None], mirrored), kernel)
    return weights
