"""Slow features of gray video: linear slow feature analysis, two layers of it as local descriptors, and a bag of words.

Shapes: N samples of n numbers, J outputs, F frames of h x w pixels; a cube or a block is (frames, rows, columns).

Source: Wiskott & Sejnowski, Slow feature analysis, Neural Computation 2002; Sun et al., DL-SFA, CVPR 2014, in outline. Sizes
and the chain after the layers follow Le et al., Hierarchical invariant spatio-temporal features, CVPR 2011; the
non-linearity, the maximum over a block's cubes and the scaling of its halves are chosen here. Free of torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lightning_modules.encoders import require_scikit_learn
from lightning_modules.encoders.fitted import arrays_of_options, joined, options_of_arrays, part_of

RESPONSES = ("abs", "square", "relu")
LEAST_VARIANCE = 100  # times the rounding error of the type, as a share of the largest variance: what is below is noise


@dataclass(frozen=True)
class SlowOptions:
    """Sizes of the two layers and of the bag of words.

    Args:
        cube: frames, rows and columns that the first layer sees.
        block: frames, rows and columns of a descriptor; a cube at each of its eight corners.
        shifts: of one frame, over which a place is followed: the differences of a series.
        dimensions: outputs J of the first and of the second layer.
        response: non-linearity after each layer: ``abs``, ``square`` or ``relu``.
        places: series drawn of a train clip, for each layer.
        words: centres of k-means.
        samples: descriptors a word that k-means sees.
        starts: initialisations of k-means, of which the best is taken.

    Raises:
        ValueError: a cube does not fit into a block, or there is no such response.
    """

    cube: tuple[int, int, int] = (10, 16, 16)
    block: tuple[int, int, int] = (14, 20, 20)
    shifts: int = 8
    dimensions: tuple[int, int] = (300, 200)
    response: str = "abs"
    places: int = 200
    words: int = 3000
    samples: int = 1000
    starts: int = 4

    def __post_init__(self) -> None:
        if any(of_cube > of_block for of_cube, of_block in zip(self.cube, self.block, strict=True)):
            raise ValueError(f"a cube of {self.cube} frames, rows and columns does not fit into a block of {self.block}")
        if self.response not in RESPONSES:
            raise ValueError(f"response={self.response!r} is none of {', '.join(RESPONSES)}")


@dataclass(frozen=True)
class Projection:
    """Outputs of linear slow feature analysis: ``y = W (x - mean)``, unit variance, uncorrelated, the slowest first.

    Args:
        mean: (n,).
        weights: W (J, n).
        slowness: (J,), mean square of each output's change from one step to the next.
    """

    mean: np.ndarray
    weights: np.ndarray
    slowness: np.ndarray

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """x (N, n) -> y (N, J), in the type of x."""
        weights = self.weights.astype(x.dtype)
        return x @ weights.T - (self.weights @ self.mean).astype(x.dtype)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, by name."""
        return {"mean": self.mean, "weights": self.weights, "slowness": self.slowness}


class SlowFeatures:
    """Linear slow feature analysis of samples that come in parts; memory depends on n alone."""

    def __init__(self) -> None:
        self.samples = self.changes = 0
        self.offset = self.sum = np.zeros(0)
        self.square = self.change = np.zeros((0, 0))
        self.rounding = np.finfo(np.float64).eps

    def accumulate(self, x: np.ndarray, dx: np.ndarray) -> None:
        """Add samples x (N, n) and differences dx (M, n) between neighbours of a series; products in their type.

        Raises:
            ValueError: the numbers a sample differ from those before.
        """
        if not len(x):
            return
        if not self.samples:
            self.offset = x.mean(axis=0)  # products of numbers near zero round less
            self.sum = np.zeros(x.shape[1])
            self.square, self.change = np.zeros((2, x.shape[1], x.shape[1]))
        if x.shape[1] != len(self.sum) or dx.shape[1] != len(self.sum):
            raise ValueError(f"samples of {x.shape[1]} numbers and differences of {dx.shape[1]}, after some of {len(self.sum)}")
        x = x - self.offset
        self.rounding = max(self.rounding, float(np.finfo(x.dtype).eps))
        self.samples += len(x)
        self.changes += len(dx)
        self.sum += x.sum(axis=0, dtype=np.float64)
        self.square += x.T @ x
        self.change += dx.T @ dx

    def fit(self, dimensions: int) -> Projection:
        """Keep the principal components of largest variance, whiten them, and rotate them by E[Δz Δzᵀ]'s eigenvectors.

        ``z = Λ^-1/2 Uᵀ(x - mean)`` with covariance UΛUᵀ; the eigenvectors of smallest eigenvalue are the slowest outputs.

        Args:
            dimensions: J.

        Raises:
            ValueError: no two samples are neighbours, or the samples vary in fewer directions than J.
        """
        if not self.changes:
            raise ValueError("no series of two samples or more: slow features need differences between neighbours")
        mean = self.sum / self.samples
        variances, axes = np.linalg.eigh(self.square / self.samples - np.outer(mean, mean))  # ascending
        found = int((variances > LEAST_VARIANCE * self.rounding * variances[-1]).sum())
        if found < dimensions:
            raise ValueError(
                f"{self.samples} samples of {len(mean)} numbers vary in {found} directions only; {dimensions} were asked for: "
                "take fewer, or more clips"
            )
        white = axes[:, -dimensions:] / np.sqrt(variances[-dimensions:])  # (n, J)
        slowness, rotation = np.linalg.eigh(white.T @ self.change @ white / self.changes)
        return Projection(mean + self.offset, (white @ rotation).T, slowness)


def differences(series: np.ndarray) -> np.ndarray:
    """Series (S, T, n) -> (S (T - 1), n): x(t + 1) - x(t) within each series."""
    return np.diff(series, axis=1).reshape(-1, series.shape[-1])


@dataclass(frozen=True)
class TwoLayers:
    """Local descriptors of gray frames: blocks, dense in space and time, each described by two layers of slow features.

    First layer: r = response(W₁ x) of the cube x at each corner of a block; of the eight, the maximum is kept. Second layer:
    s = response(W₂ max r). A descriptor is [max r / Σ max r, s / Σ s].

    Args:
        options: sizes.
        first, second: W₁, which sees cubes flattened frame by frame, and W₂.
    """

    options: SlowOptions
    first: Projection
    second: Projection

    def blocks(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Describe frames (h, w), a block's frames in memory at a time.

        Blocks overlap by half in each direction.

        Args:
            frames: gray, of one size; numbers from 0 to 255.

        Yields:
            (n, J₁ + J₂) float32, the blocks of one stretch of frames, row by row. None of a video shorter or frames smaller
            than a block.

        Raises:
            ValueError: frames differ in size; says which.
        """
        length, step = self.options.block[0], stride(self.options.block[0])
        window, filled = np.empty(0, np.float32), 0
        for number, frame in enumerate(frames):
            if number == 0:
                window = np.empty((length, *frame.shape), np.float32)
            if frame.shape != window.shape[1:]:
                raise ValueError(
                    f"frame {number} has shape {frame.shape}, the first {window.shape[1:]}: scale them to one size"
                )
            window[filled] = frame
            filled += 1
            if filled < length:
                continue
            if all(have >= need for have, need in zip(window.shape, self.options.block, strict=True)):
                rows, columns = map(stride, self.options.block[1:])
                yield self.descriptors(sliding_window_view(window, self.options.block)[0, ::rows, ::columns])
            window[: length - step] = window[step:]
            filled = length - step

    def descriptors(self, blocks: np.ndarray) -> np.ndarray:
        """Blocks (…, frames, rows, columns) float32 -> (n, J₁ + J₂), n the product of the leading sizes."""
        largest = largest_response(self.first, self.options, blocks)
        second = respond(self.second.outputs(largest), self.options.response)
        return np.hstack([shares(largest), shares(second)])

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, by name: of each option an array too."""
        return joined(options=arrays_of_options(self.options), first=self.first.arrays(), second=self.second.arrays())

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> TwoLayers:
        """Undo ``arrays``."""
        options = SlowOptions(**options_of_arrays(part_of(arrays, "options")))
        return cls(options, Projection(**part_of(arrays, "first")), Projection(**part_of(arrays, "second")))


def stride(length: int) -> int:
    """From one block to the next, along a side of ``length``: half of it."""
    return max(length // 2, 1)


def largest_response(first: Projection, options: SlowOptions, blocks: np.ndarray) -> np.ndarray:
    """Maximum of the first layer's responses over the cubes at a block's corners.

    A cube's own mean needs no removal: ``first`` was fitted without it, so that W₁ 1 = 0.

    Args:
        blocks: (…, frames, rows, columns) float32; a view will do.

    Returns:
        (n, J₁).
    """
    frames, rows, columns = options.cube
    corners = product(*(sorted({0, of_block - of_cube}) for of_cube, of_block in zip(options.cube, options.block, strict=True)))
    cubes = (blocks[..., t : t + frames, y : y + rows, x : x + columns] for t, y, x in corners)
    every = (respond(first.outputs(cube.reshape(-1, frames * rows * columns)), options.response) for cube in cubes)
    return reduce(lambda one, other: np.maximum(one, other, out=one), every)


def respond(y: np.ndarray, response: str) -> np.ndarray:
    """|y|, y² or max(y, 0), in place."""
    if response == "abs":
        return np.abs(y, out=y)
    return np.square(y, out=y) if response == "square" else np.maximum(y, 0, out=y)


def shares(x: np.ndarray) -> np.ndarray:
    """x (…, n), not negative -> x / Σx float32; zeros stay zeros."""
    total = x.sum(axis=-1, keepdims=True)
    return (x / np.where(total > 0, total, 1)).astype(np.float32)


def fit_two_layers(clips: Collection[np.ndarray], options: SlowOptions, seed: int) -> TwoLayers:
    """Fit the first layer to random places of train clips, then the second to other places; memory of one clip.

    Args:
        clips: (F, h, w) gray, gone through twice; of a long video, a stretch. Clips too short or small for a series are
            passed over.
        seed: of the places; a clip's depend on its number, not on the others.

    Raises:
        TypeError: ``clips`` is an iterator.
        ValueError: no clip is long and large enough, or they vary too little.
    """
    if not isinstance(clips, Collection):
        raise TypeError("clips are gone through more than once: give a list, or a collection that reads them anew, no iterator")
    first, second = SlowFeatures(), SlowFeatures()
    for number, clip in enumerate(clips):
        series = draw_series(clip, options.cube, options, np.random.default_rng([seed, 1, number]))
        cubes = series.reshape(*series.shape[:2], int(np.prod(options.cube)))  # (S, T, n)
        cubes = cubes - cubes.mean(axis=-1, keepdims=True)
        first.accumulate(cubes.reshape(-1, cubes.shape[-1]), differences(cubes))
    if not first.changes:
        raise ValueError(f"no clip is larger than {options.cube} frames, rows and columns, and longer: nothing to learn from")
    layer = first.fit(options.dimensions[0])
    for number, clip in enumerate(clips):
        series = draw_series(clip, options.block, options, np.random.default_rng([seed, 2, number]))
        largest = largest_response(layer, options, series)
        second.accumulate(largest, differences(largest.reshape(*series.shape[:2], largest.shape[1])))
    if not second.changes:
        raise ValueError(f"no clip is larger than {options.block} frames, rows and columns, and longer: nothing to learn from")
    return TwoLayers(options, layer, second.fit(options.dimensions[1]))


def draw_series(clip: np.ndarray, size: tuple[int, int, int], options: SlowOptions, random: np.random.Generator) -> np.ndarray:
    """Draw places of a clip, each followed over shifts of one frame; fewer shifts where the clip is short.

    Args:
        clip: (F, h, w).
        size: of what is drawn.
        options: places and shifts.

    Returns:
        (S, T, *size) float32, a view with overlaps over time; S = 0 where not two fit.
    """
    length = min(size[0] + options.shifts, len(clip))
    room = np.subtract(clip.shape, (length, *size[1:]), dtype=np.int64) + 1
    if length <= size[0] or room.min() < 1:
        return np.empty((0, 2, *size), np.float32)
    starts = random.integers(0, room, size=(options.places, 3))
    stretches = sliding_window_view(clip, (length, *size[1:]))[tuple(starts.T)].astype(np.float32)
    return np.moveaxis(sliding_window_view(stretches, size[0], axis=1), -1, 2)


@dataclass(frozen=True)
class BagOfWords:
    """Histograms of a video's descriptors over their nearest centres.

    Args:
        layers: that make the descriptors.
        centres: (words, J₁ + J₂) float32.
    """

    layers: TwoLayers
    centres: np.ndarray

    def counts(self, frames: Iterable[np.ndarray]) -> np.ndarray:
        """Count a video's blocks by word: frames as in ``TwoLayers.blocks`` -> (words,) int64; ``shares`` scales them."""
        counts = np.zeros(len(self.centres), np.int64)
        for descriptors in self.layers.blocks(frames):
            counts += np.bincount(nearest(descriptors, self.centres), minlength=len(counts))
        return counts

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, by name."""
        return {"centres": self.centres, **joined(layers=self.layers.arrays())}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> BagOfWords:
        """Undo ``arrays``."""
        return cls(TwoLayers.from_arrays(part_of(arrays, "layers")), arrays["centres"])


def nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """x (N, d), centres (W, d) -> (N,): the number of each sample's nearest centre; the first of equals."""
    return (np.square(centres).sum(axis=1) - 2 * (x @ centres.T)).argmin(axis=1)


def fit_bag_of_words(clips: Collection[np.ndarray], options: SlowOptions, seed: int) -> BagOfWords:
    """Fit the two layers, then the words to equally many descriptors of each train clip.

    Memory: samples x words x (J₁ + J₂) float32; 6 GB by default, where the clips have as many blocks.

    Args:
        clips: as in ``fit_two_layers``; gone through three times.
        seed: of places, descriptors and k-means.

    Raises:
        ImportError: scikit-learn is not installed.
        TypeError, ValueError: as ``fit_two_layers``; or there are fewer descriptors than words.
    """
    require_scikit_learn("a bag of words")
    from sklearn.cluster import MiniBatchKMeans

    layers = fit_two_layers(clips, options, seed)
    share = -(-options.samples * options.words // len(clips))
    samples = np.empty((0, sum(options.dimensions)), np.float32)
    chosen = (
        sample_rows(layers.blocks(clip), share, np.random.default_rng([seed, 3, number])) for number, clip in enumerate(clips)
    )
    samples = np.concatenate([rows for rows in chosen if len(rows)] or [samples])
    if len(samples) < options.words:
        raise ValueError(f"{len(samples)} descriptors of {len(clips)} clips for {options.words} words: take fewer words")
    starts: dict[str, Any] = {"n_init": options.starts, "init_size": 3 * options.words, "random_state": seed}
    means = MiniBatchKMeans(options.words, **starts).fit(samples)
    return BagOfWords(layers, np.asarray(means.cluster_centers_, np.float32))


def sample_rows(parts: Iterable[np.ndarray], most: int, random: np.random.Generator) -> np.ndarray:
    """Choose ``most`` rows of all parts (n, d) at random without holding more than these and a part; all, if they are fewer."""
    rows, keys = np.empty((0, 0), np.float32), np.empty(0)
    for part in parts:
        rows = np.concatenate([rows, part]) if len(keys) else part
        keys = np.concatenate([keys, random.random(len(part))])
        if len(keys) > most:
            kept = np.argpartition(keys, most)[:most]
            rows, keys = rows[kept], keys[kept]
    return rows
