"""Batches: the blocks of a share, or the frames of a span, gathered on a device with their targets."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.blocks import BlockIndex, Share, Span
from datamodules.pool import INPUTS, FramePool
from datamodules.videos import Video


class Batch(NamedTuple):
    """One rank's share of a global batch of training blocks; what the network does not need is None.

    Args:
        cube: X (b, T, K, D) float16 feature cubes; or, with ``rows``, a pool (N, K, D) of cubes.
        rows: (b, T) number of each cube in the pool: where it lies on the device already, nothing is copied.
        mean: (b, T, D) means of the cubes over locations, float32.
        max: (b, T, D) their maxima.
        target: (b,) class ids, or (b, C): see ``targets_of``.
        weight: (b,) 1, or 0 for a block that does not count.
        batch_size: blocks of the global batch.
        blocks: (b,) their numbers in the set.
    """

    cube: Tensor | None
    rows: Tensor | None
    mean: Tensor | None
    max: Tensor | None
    target: Tensor
    weight: Tensor
    batch_size: int
    blocks: np.ndarray


class DenseBatch(NamedTuple):
    """Consecutive blocks of one video, as the frames they share: step t of block m is frame ``m · stride + t · skip``.

    Args:
        cube: X (n, K, D) float16 feature cubes.
        mean: (n, D) their means over locations, float32.
        max: (n, D) their maxima.
        video: number of the video in its set.
        blocks: N.
        steps: T.
        skip: frames between two steps of a block.
        stride: frames between the beginnings of two blocks.
        grid: rows and columns of the map.
        coverage: (n, K) share of each cell that the actor's box covers, where the data set has boxes; nan for frames
            without one.
        inside: (n, K) 1 where a cell's centre lies in the box, else 0; nan as above.
        first: number of the first block among the video's.
    """

    cube: Tensor | None
    mean: Tensor | None
    max: Tensor | None
    video: int
    blocks: int
    steps: int
    skip: int
    stride: int
    grid: tuple[int, int]
    coverage: Tensor | None
    inside: Tensor | None
    first: int = 0


class Subset:
    """The blocks of one of train, val and test.

    Args:
        videos: of the subset.
        targets: of ``targets_of``.
        index: their blocks.
        owners: (V,) rank that holds each video's frames.
        pool: frames of the videos that this rank holds.
    """

    def __init__(
        self, videos: tuple[Video, ...], targets: np.ndarray, index: BlockIndex, owners: np.ndarray, pool: FramePool
    ) -> None:
        position = {name: number for number, name in enumerate(pool.names)}
        self.videos, self.targets, self.index, self.owners, self.pool = videos, targets, index, owners, pool
        self.in_pool = np.asarray([position.get(video.name, -1) for video in videos], dtype=np.int64)
        self._turns: tuple[np.ndarray, np.ndarray] | None = None  # an epoch's, by video and by number in the pool

    def batch(self, share: Share, device: torch.device) -> Batch:
        """Gather the blocks of a share on a device."""
        videos, frames = self.index.locate(share.blocks)
        also = {"target": self.targets[videos], "weight": share.weights}
        found = self.pool.gather(self.in_pool[videos], frames, device, self._turns_in_pool(share.turns), also)
        parts = {name: found.get(name) for name in (*INPUTS, "rows")}
        return Batch(**parts, target=found["target"], weight=found["weight"], batch_size=share.batch_size, blocks=share.blocks)

    def dense_batch(
        self, span: Span, grid: tuple[int, int], cells: tuple[np.ndarray, np.ndarray] | None, device: torch.device
    ) -> DenseBatch:
        """Gather the frames of a span on a device; cells are the video's (F, K) ``coverage`` and ``inside``."""
        frames, skip, stride = self.index.stretch(span)
        return DenseBatch(
            **_all_inputs(self.pool.stretch(int(self.in_pool[span.video]), frames, device)),
            video=span.video,
            blocks=span.count,
            steps=self.index.length,
            skip=skip,
            stride=stride,
            grid=grid,
            coverage=None if cells is None else torch.from_numpy(cells[0][frames]).to(device),
            inside=None if cells is None else torch.from_numpy(cells[1][frames]).to(device),
            first=span.first,
        )

    def _turns_in_pool(self, turns: np.ndarray | None) -> np.ndarray | None:
        if turns is None:
            return None
        if self._turns is None or self._turns[0] is not turns:
            in_pool = np.full(len(self.pool.names), -1)
            in_pool[self.in_pool[self.in_pool >= 0]] = turns[self.in_pool >= 0]
            self._turns = (turns, in_pool)
        return self._turns[1]


def _all_inputs(given: dict[str, Tensor]) -> dict[str, Any]:
    return {name: given.get(name) for name in INPUTS}
