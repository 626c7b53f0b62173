"""Blocks of pooled features without labels, of the videos of train alone, for what is learned before any class is named."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.base import VideoDataModule
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


class UnlabelledBlocks(VideoDataModule):
    """The same blocks as ``VideoDataModule`` has, those to validate on among them, as ``UnlabelledBatch``; none of the test."""

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Gather the blocks of a share, or of a span of the held-out videos, on the device."""
        if isinstance(batch, Share):
            return self._gather("train", batch.blocks, batch.weights, batch.batch_size, device)
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
