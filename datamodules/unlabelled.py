"""Blocks of pooled features without labels, of train's videos and of other data sets; no block is of a test video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.base import Batches, VideoDataModule
from datamodules.blocks import Share, Span


class UnlabelledBatch(NamedTuple):
    """Blocks of pooled features.

    Args:
        frames: (b, T, D) means of the cubes over locations, float32.
        own: (b, T) whether a frame is the video's own, and not its last one again.
        weight: (b,) 1, or 0 for a block that does not count.
        batch_size: blocks of the global batch.
    """

    frames: Tensor
    own: Tensor
    weight: Tensor
    batch_size: int


@dataclass(frozen=True)
class SetShare:
    """A share of a batch, and of which set it is."""

    of: UnlabelledBlocks
    share: Share


class UnlabelledBlocks(VideoDataModule):
    """The same blocks as ``VideoDataModule`` has, those to validate on among them, as ``UnlabelledBatch``; none of the test.

    With further sets, an epoch has their batches too, in random order; each batch is of one set.
    """

    others: Sequence[UnlabelledBlocks] = ()
    """Further data sets, which are trained on and not validated on."""
    steps: int | None = None
    """Batches of an epoch of all sets together; None before the first."""

    def take_all(self) -> None:
        """Train on all videos, those of the test too: another data set is tested."""
        self.annotation = replace(self.annotation, train=self.annotation.videos, test=())
        self.train_on_all = True

    def train_dataloader(self) -> DataLoader:
        """This rank's shares of the global batches of all sets."""
        sets = [self, *self.others]
        for one in self.others:
            one.trainer = self.trainer
        parts = [VideoDataModule.train_dataloader(one).dataset for one in sets]
        counts = [len(part) for part in parts]  # type: ignore[arg-type]
        steps = sum(counts)
        for one in sets:
            one.steps = steps

        def shares() -> Iterator[SetShare]:
            of_sets = [iter(part) for part in parts]
            order = np.repeat(np.arange(len(sets)), counts)
            for number in np.random.default_rng([self.seed, self._epoch(steps), 2]).permutation(order).tolist():
                yield SetShare(sets[number], next(of_sets[number]))

        return DataLoader(Batches(shares, steps), batch_size=None)

    def _epoch(self, steps: int) -> int:
        return super()._epoch(self.steps or steps)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Gather the blocks of a share, or of a span of the held-out videos, on the device."""
        if isinstance(batch, SetShare):
            own = batch.share
            return batch.of._gather("train", own.blocks, own.weights, own.batch_size, device)
        if isinstance(batch, Span):
            index = self._subset("val").index
            first = int(index.ends[batch.video] - index.counts[batch.video]) + batch.first
            ones = np.ones(batch.count, dtype=np.float32)
            return self._gather("val", np.arange(first, first + batch.count), ones, batch.count, device)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _gather(
        self, which: str, blocks: np.ndarray, weights: np.ndarray, batch_size: int, device: torch.device
    ) -> UnlabelledBatch:
        subset = self._subset(which)
        videos, frames = subset.index.locate(blocks)
        also = {"own": np.diff(frames, axis=1, prepend=-1) > 0, "weight": weights}
        found = subset.pool.gather(subset.in_pool[videos], frames, device, also=also)
        return UnlabelledBatch(found["mean"], found["own"], found["weight"], batch_size)

    def test_dataloader(self) -> Any:
        """Refuse: nothing may be learned of a test video.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("unlabelled blocks are of train alone")
