"""What a trained network sees and says of a video, frame by frame, however long the video is.

A network is trained and tested on blocks of T = 30 steps, so that a frame belongs to up to T blocks. What is shown of a
frame comes from the first of the blocks 0, T, 2T, … (in steps) that holds it; the last frames come from the last block.
The video's scores are those of a test: the mean over all its blocks at the run's stride.

Shapes: F frames, n frames looked at (one every ``skip``), K locations, C classes, T steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.blocks import BLOCK_LENGTH, block_frames
from datamodules.features import FeatureStore
from datamodules.pool import FramePool
from lightning_modules.frames import Frames, Network, Output, run_blocks, run_dense
from lightning_modules.metrics import block_scores

CHUNK = 256  # blocks that are computed at once; bounds the memory that a long video takes


class Seen(NamedTuple):
    """Some consecutive frames that a network looked at.

    Args:
        frames: (n,) int64 their indices, ``skip`` apart.
        attention: (n, K) float32 l_t of Eq. 4, or None for a network without attention.
        probabilities: (n, C) float32 class probabilities after each of them.
    """

    frames: np.ndarray
    attention: np.ndarray | None
    probabilities: np.ndarray


@dataclass(frozen=True)
class Track:
    """All that a network saw and said of one video.

    Args:
        frames: (n,) int64 indices of the frames looked at, ascending.
        attention: (n, rows, columns) float32, each map summing to 1; None for a network without attention.
        probabilities: (n, C) float32 class probabilities after each of them.
        scores: (C,) float32 mean class probabilities of the video's blocks, by which it is classified.
    """

    frames: np.ndarray
    attention: np.ndarray | None
    probabilities: np.ndarray
    scores: np.ndarray


class Watcher:
    """Feeds a network a video's frames as they come, in bounded memory.

    It holds the frames of at most ``CHUNK`` blocks and those of the next chunk that is fed.

    Args:
        network: is put into evaluation mode.
        multi_label: sigmoids instead of a softmax.
        skip: frames between two steps.
        last_n: steps whose probabilities are averaged into a block's scores.
        stride: frames between two blocks that count in the video's scores.
    """

    def __init__(self, network: nn.Module, multi_label: bool, skip: int = 1, last_n: int = 30, stride: int = 1) -> None:
        self.network, self.multi_label = cast(Network, network.eval()), multi_label
        self.skip, self.last_n, self.stride = skip, last_n, stride
        self.held: Frames | None = None
        self.first = 0  # number of the first frame held; frames before it are in no block that is still to come
        self.due = 0  # number in steps of the next frame whose attention is due
        self.blocks = 0  # at stride 1, computed so far
        self.counted = 0  # of them in the scores
        self._total: Tensor | None = None
        self._last: tuple[int, Tensor, Tensor | None] | None = None  # start in steps, probabilities, attention

    @property
    def scores(self) -> np.ndarray:
        """(C,) float32 mean over the blocks so far."""
        assert self._total is not None, "feed frames and close first"
        return (self._total / self.counted).float().cpu().numpy()

    @torch.no_grad()
    def feed(self, frames: Frames) -> Iterator[Seen]:
        """Take the next frames, inputs (k, …) in order; yields what is known by now, in order."""
        self.held = frames if self.held is None else _append(self.held, frames)
        spanned = BLOCK_LENGTH * self.skip
        while (count := min(CHUNK, self.first + _length(self.held) - spanned + 1 - self.blocks)) > 0:
            begin = self.blocks - self.first
            stretch = _part(self.held, begin, begin + count - 1 + (BLOCK_LENGTH - 1) * self.skip + 1)
            yield from self._take(run_dense(self.network, stretch, count, BLOCK_LENGTH, self.skip), count)
            self.held = _part(self.held, self.blocks - self.first, None)
            self.first = self.blocks

    @torch.no_grad()
    def close(self) -> Iterator[Seen]:
        """Yield what only the video's end decides.

        Raises:
            ValueError: no frame was fed.
        """
        if self.held is None:
            raise ValueError("a video without frames cannot be looked at")
        if not self.blocks:
            number = _length(self.held)
            frames = block_frames(np.zeros(1, dtype=np.int64), np.asarray([number]), self.skip)[0].tolist()
            block = Frames(*(None if part is None else cast(Tensor, part)[frames][None] for part in self.held))
            real = 1 + (number - 1) // self.skip  # the last frame is repeated after these
            yield from self._take(run_blocks(self.network, block), 1, real)
        elif self._last is not None and self._last[0] + BLOCK_LENGTH > self.due:
            start, probabilities, attention = self._last
            yield self._seen(start, probabilities, attention, BLOCK_LENGTH)

    def _take(self, output: Output, count: int, steps: int = BLOCK_LENGTH) -> Iterator[Seen]:
        """Score the next blocks; yield the frames of those among them that follow one another."""
        logits, begin = output.logits.float(), self.blocks
        probabilities = logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)  # (N, T, C)
        numbers = torch.arange(begin, begin + count)
        counting = block_scores(logits, self.multi_label, self.last_n)[numbers % self.stride == 0]
        total = counting.double().sum(dim=0)
        self._total = total if self._total is None else self._total + total
        self.counted += len(counting)
        self.blocks += count
        for block in numbers[numbers % self.skip == 0].tolist():
            start = block // self.skip
            maps = None if output.attention is None else output.attention[block - begin].float()
            if start == self.due:
                yield self._seen(start, probabilities[block - begin], maps, steps)
            self._last = (start, probabilities[block - begin], maps)

    def _seen(self, start: int, probabilities: Tensor, attention: Tensor | None, steps: int) -> Seen:
        """The frames of a block that are due."""
        due = slice(self.due - start, steps)
        frames = np.arange(self.due, start + steps) * self.skip
        self.due = start + steps
        return Seen(frames, None if attention is None else attention[due].cpu().numpy(), probabilities[due].cpu().numpy())


def watch(
    network: nn.Module, store: FeatureStore, name: str, watcher: Watcher, chunk: int = CHUNK, limit: int | None = None
) -> Track:
    """Look at a video whose features are there.

    Args:
        network: on the device to compute on.
        store: of the features.
        name: of the video.
        watcher: a fresh one of the network.
        chunk: frames that are read at a time.
        limit: frames after which the video is left; None for all of it.

    Raises:
        DataError: the features cannot be read.
    """
    device = next(network.parameters()).device
    pool = FramePool(store, [name], watcher.network.inputs, "mmap")
    number = store.frames(name) if limit is None else min(limit, store.frames(name))
    seen: list[Seen] = []
    for begin in range(0, number, chunk):
        seen += watcher.feed(Frames(**pool.stretch(0, np.arange(begin, min(number, begin + chunk)), device)))
    seen += watcher.close()
    frames, maps, probabilities = zip(*seen, strict=True)
    attention = None if maps[0] is None else np.concatenate(maps).reshape(-1, *store.grid)
    return Track(np.concatenate(frames), attention, np.concatenate(probabilities), watcher.scores)


def _append(held: Frames, more: Frames) -> Frames:
    pairs = zip(held, more, strict=True)
    return Frames(*(None if part is None else torch.cat([cast(Tensor, part), cast(Tensor, new)]) for part, new in pairs))


def _part(frames: Frames, begin: int, end: int | None) -> Frames:
    return Frames(*(None if part is None else cast(Tensor, part)[begin:end] for part in frames))


def _length(frames: Frames) -> int:
    return next(len(cast(Tensor, part)) for part in frames if part is not None)
