"""Stacked Fisher vectors: of each large sub-volume of a video a Fisher vector, compressed; of these codes one Fisher vector.

Shapes: n trajectories of a video with d0 numbers each, A sub-volumes, D numbers of a sub-volume's vector, d of its code.

Source: Peng, Zou, Qiao & Peng, Action recognition with stacked Fisher vectors, ECCV 2014, in outline: large sub-volumes are
densely sampled, their vectors compressed by max-margin dimensionality reduction and encoded again. The grid of sub-volumes is
chosen here: windows of the whole frame and of half its sides, of all frames, 30 and 15.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice, pairwise, product

import numpy as np

from lightning_modules.encoders.fisher import Encoder, fit_encoder, improved
from lightning_modules.encoders.fitted import arrays_of_options, joined, options_of_arrays, part_of
from lightning_modules.encoders.reduction import MarginOptions, Reduction, fit_max_margin, fit_whitening

QUARTERS = 4  # cells along a side of the frame; a window of half a side begins at each of the first three
CELL_FRAMES = 7.5  # of a cell
WINDOWS = (30.0, 15.0)  # frames, besides all; the next begins half of it later
CHUNK = 64  # sub-volumes whose vectors are held at a time


@dataclass(frozen=True)
class StackedOptions:
    """Sizes of stacked Fisher vectors.

    Args:
        components: Gaussians of the first and of the second layer.
        dimensions: after whitening by PCA, of trajectories and of a sub-volume's code.
        least_trajectories: of a sub-volume; those with fewer are left out.
        most: sub-volumes a video, by random choice.
        samples: trajectories, and codes, that the mixtures are fitted to, equally many a video.
        fitted: sub-volumes whose vectors the reduction is fitted to, equally many a video.
    """

    components: tuple[int, int] = (256, 256)
    dimensions: tuple[int, int] = (200, 200)
    least_trajectories: int = 5
    most: int = 500
    samples: int = 256_000
    fitted: int = 10_000


@dataclass(frozen=True, eq=False)
class Trajectories:
    """A video's trajectories.

    Args:
        places: (n, 3), each trajectory's mean x and y in pixels, and the frame of its middle.
        descriptors: (n, d0).
        extent: width and height in pixels, and frames.

    Raises:
        ValueError: places and descriptors are of unequal number.
    """

    places: np.ndarray
    descriptors: np.ndarray
    extent: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.places.shape != (len(self.descriptors), 3):
            raise ValueError(f"places of shape {self.places.shape} for {len(self.descriptors)} descriptors: x, y, t of each")

    def cells(self) -> np.ndarray:
        """(n, 3) int64: the cell that each trajectory lies in, by column, row and time; those beyond the border in the last."""
        shape = cell_shape(self.extent[2])
        cells = np.floor(self.places / np.array([self.extent[0] / QUARTERS, self.extent[1] / QUARTERS, CELL_FRAMES]))
        return np.clip(cells, 0, np.array(shape) - 1).astype(np.int64)


def cell_shape(frames: float) -> tuple[int, int, int]:
    """Columns, rows and times of a video's cells; every sub-volume is a union of cells."""
    return QUARTERS, QUARTERS, max(int(np.ceil(frames / CELL_FRAMES)), 1)


SubVolume = tuple[slice, slice, slice]  # ranges of cells: columns, rows, times


def sub_volumes(frames: float) -> list[SubVolume]:
    """List a video's 10 (1 + ⌈F/15⌉ + ⌈F/7.5⌉) sub-volumes in the order in which they end; the last ones overhang."""
    times = cell_shape(frames)[2]
    spans = [slice(0, times)]
    for window in WINDOWS:
        length = round(window / CELL_FRAMES)
        spans += [slice(begin, min(begin + length, times)) for begin in range(0, times, length // 2)]
    half, whole = QUARTERS // 2, slice(0, QUARTERS)
    sides = [(slice(x, x + half), slice(y, y + half)) for x, y in product(range(half + 1), repeat=2)]
    spans.sort(key=lambda span: span.stop)
    return [(x, y, span) for span in spans for x, y in [(whole, whole), *sides]]


def chosen_sub_volumes(trajectories: Trajectories, least_trajectories: int, most: int, seed: int) -> list[SubVolume]:
    """Leave out sub-volumes with too few trajectories, and of the others keep ``most`` at random, in their order."""
    counts = np.zeros(cell_shape(trajectories.extent[2]), np.int64)
    np.add.at(counts, tuple(trajectories.cells().T), 1)
    kept = [volume for volume in sub_volumes(trajectories.extent[2]) if counts[volume].sum() >= least_trajectories]
    if len(kept) > most:
        kept = [kept[i] for i in np.sort(np.random.default_rng(seed).choice(len(kept), most, replace=False))]
    return kept


def sub_volume_sums(trajectories: Trajectories, encoder: Encoder, volumes: Sequence[SubVolume]) -> Iterator[np.ndarray]:
    """Add up the sums of posteriors of each sub-volume's cells.

    Sums are additive, so every trajectory is encoded once, whatever the number of sub-volumes that it is in. The cells of the
    longest window are in memory at a time.

    Args:
        trajectories: of a video.
        encoder: of trajectories.
        volumes: in the order in which they end.

    Yields:
        (K, 1 + 2d) of each.
    """
    columns, rows, times = cell_shape(trajectories.extent[2])
    cells = np.ravel_multi_index(tuple(trajectories.cells().T[[2, 0, 1]]), (times, columns, rows))
    order = np.argsort(cells, kind="stable")
    ends = [0, *np.bincount(cells, minlength=times * columns * rows).cumsum()]
    total = np.zeros(0)
    recent: deque[np.ndarray] = deque(maxlen=round(max(WINDOWS) / CELL_FRAMES))
    done = 0
    for span, group in groupby(volumes, key=lambda volume: (volume[2].start, volume[2].stop)):
        for time in range(done, span[1]):
            inside = pairwise(ends[time * columns * rows : (time + 1) * columns * rows + 1])
            sums = np.stack([encoder.sums(trajectories.descriptors[order[begin:end]]) for begin, end in inside])
            recent.append(sums.reshape(columns, rows, *sums.shape[1:]))
            total = total + recent[-1] if time else recent[-1]
        done = span[1]
        summed = total if span == (0, times) else np.sum(list(recent)[span[0] - done :], axis=0)
        for x, y, _ in group:
            yield summed[x, y].sum(axis=(0, 1))


def sub_volume_vectors(
    trajectories: Trajectories, encoder: Encoder, options: StackedOptions, seed: int
) -> Iterator[np.ndarray]:
    """Encode sub-volumes by improved Fisher vectors f_A.

    Yields:
        (up to CHUNK, D) float32; nothing of a video without a sub-volume of enough trajectories.
    """
    volumes = chosen_sub_volumes(trajectories, options.least_trajectories, options.most, seed)
    vectors = (improved(encoder.gradients(sums)) for sums in sub_volume_sums(trajectories, encoder, volumes))
    while chunk := list(islice(vectors, CHUNK)):
        yield np.stack(chunk)


@dataclass(frozen=True, eq=False)
class StackedEncoder:
    """Stacked Fisher vectors of videos.

    Args:
        options: sizes.
        seed: of the choice of sub-volumes.
        local: encoder of trajectories, whose vectors are reduced to codes.
        reduction: to codes.
        codes: encoder of codes.
    """

    options: StackedOptions
    seed: int
    local: Encoder
    reduction: Reduction
    codes: Encoder

    def video_codes(self, trajectories: Trajectories) -> np.ndarray:
        """Codes of a video's sub-volumes (A, d) float32; A may be 0."""
        vectors = sub_volume_vectors(trajectories, self.local, self.options, self.seed)
        empty = np.empty((0, len(self.reduction.axes)), np.float32)
        return np.concatenate([empty, *(self.reduction.codes(chunk) for chunk in vectors)])

    def vector(self, trajectories: Trajectories) -> np.ndarray:
        """Improved Fisher vector (2Kd,) float32 of a video's codes; zeros of a video without any."""
        return improved(self.codes.gradients(self.codes.sums(self.video_codes(trajectories))))

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, by name: of each option an array too."""
        options = {**arrays_of_options(self.options), "seed": np.asarray(self.seed)}
        parts = {"local": self.local, "reduction": self.reduction, "codes": self.codes}
        return joined(options=options, **{name: part.arrays() for name, part in parts.items()})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> StackedEncoder:
        """Undo ``arrays``."""
        options = options_of_arrays(part_of(arrays, "options"))
        seed = options.pop("seed")
        return cls(
            options=StackedOptions(**options),
            seed=seed,
            local=Encoder.from_arrays(part_of(arrays, "local")),
            reduction=Reduction(**part_of(arrays, "reduction")),
            codes=Encoder.from_arrays(part_of(arrays, "codes")),
        )


def fit_stacked(
    videos: Collection[Trajectories],
    options: StackedOptions,
    seed: int,
    targets: np.ndarray | None = None,
    margin: MarginOptions | None = None,
) -> StackedEncoder:
    """Fit encoder, reduction and encoder of codes to train videos.

    Memory: samples x d0 numbers, and fitted x D float32, which is 4 GB by default.

    Args:
        videos: gone through three times.
        options: sizes.
        seed: of all that is drawn.
        targets: (V, C) booleans, the videos' classes, for a max-margin reduction; None for whitening by PCA.
        margin: of the max-margin reduction; None for its defaults.

    Raises:
        ImportError: scikit-learn is not installed.
        TypeError: ``videos`` is an iterator.
        ValueError: there are too few trajectories or sub-volumes; see ``fit_encoder`` and ``fit_whitening``.
    """
    if not isinstance(videos, Collection):
        raise TypeError("videos are gone through three times: give a list, or a collection that reads them anew, no iterator")
    share = -(-options.samples // max(len(videos), 1))
    drawn = [
        video.descriptors[np.random.default_rng([seed, number]).permutation(len(video.descriptors))[:share]]
        for number, video in enumerate(videos)
    ]
    encoder = fit_encoder(np.concatenate(drawn), options.components[0], options.dimensions[0], seed, whiten=True)
    few = replace(options, most=min(options.most, -(-options.fitted // len(videos))))
    vectors = np.empty((few.most * len(videos), 2 * encoder.means.size), np.float32)
    owners: list[int] = []
    for number, video in enumerate(videos):
        for chunk in sub_volume_vectors(video, encoder, few, seed):
            vectors[len(owners) : len(owners) + len(chunk)] = chunk
            owners += [number] * len(chunk)
    vectors = vectors[: len(owners)]
    reduction = fit_whitening(vectors, options.dimensions[1])
    if targets is not None:
        reduction, _ = fit_max_margin(vectors, targets[owners], reduction, margin or MarginOptions(), seed)
    enough = replace(options, most=min(options.most, share))
    chunks = (chunk for video in videos for chunk in sub_volume_vectors(video, encoder, enough, seed))
    codes = np.concatenate([reduction.codes(chunk) for chunk in chunks])
    second = fit_encoder(codes, options.components[1], options.dimensions[1], seed, whiten=True)
    return StackedEncoder(options, seed, encoder, reduction, second)
