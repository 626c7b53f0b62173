"""BVLC's GoogLeNet in NumPy, float64, one image: what it is follows from the weights' names and shapes alone."""

from __future__ import annotations

import numpy as np


def windows(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """(c, h, w) -> (c, rows, columns, kernel, kernel)."""
    return np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]


def convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int = 1) -> np.ndarray:
    """A convolution that pads by half its kernel, and its ReLU."""
    kernel = weight.shape[-1]
    pad = kernel // 2
    cut = windows(np.pad(x, ((0, 0), (pad, pad), (pad, pad))), kernel, stride)
    return np.maximum(np.einsum("chwij,ocij->ohw", cut, weight, optimize=True) + bias[:, None, None], 0)


def largest(x: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """Pooling over 3 x 3; Caffe rounds sizes up, so windows may end beyond the edge."""
    size = -(-(x.shape[1] + 2 * pad - 3) // stride) + 1
    after = max(0, (size - 1) * stride + 3 - pad - x.shape[1])
    padded = np.pad(x, ((0, 0), (pad, after), (pad, after)), constant_values=-np.inf)
    return windows(padded, 3, stride).max(axis=(3, 4))[:, :size, :size]


def normalised(x: np.ndarray) -> np.ndarray:
    """Local response normalisation, channel by channel."""
    found = np.empty_like(x)
    for channel in range(len(x)):
        near = x[max(0, channel - 2) : channel + 3]
        found[channel] = x[channel] / (1 + 1e-4 / 5 * (near**2).sum(axis=0)) ** 0.75
    return found


def forward(image: np.ndarray, weights: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(3, 224, 224) BGR minus the mean -> (1024, 7, 7) the last map, (1000,) class scores."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}

    def layer(x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
        return convolution(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride)

    x = normalised(largest(layer(image.astype(np.float64), "conv1/7x7_s2", 2), 2, 0))
    x = largest(normalised(layer(layer(x, "conv2/3x3_reduce"), "conv2/3x3")), 2, 0)
    for block in sorted({name.split("/")[0] for name in weights if name.startswith("inception")}):
        if block in ("inception_4a", "inception_5a"):
            x = largest(x, 2, 0)
        branches = [layer(x, f"{block}/1x1")]
        branches += [layer(layer(x, f"{block}/{kind}_reduce"), f"{block}/{kind}") for kind in ("3x3", "5x5")]
        branches += [layer(largest(x, 1, 1), f"{block}/pool_proj")]
        x = np.concatenate(branches)
    return x, weights["loss3/classifier.weight"] @ x.mean(axis=(1, 2)) + weights["loss3/classifier.bias"]


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """(c, S, S) -> (c, side, side), bilinear between the centres of pixels, each value by itself."""
    size = image.shape[1]
    at = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, size - 1), at - low
    rows = image[:, low] * (1 - part)[:, None] + image[:, high] * part[:, None]
    return rows[:, :, low] * (1 - part) + rows[:, :, high] * part
