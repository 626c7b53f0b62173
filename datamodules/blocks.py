"""Blocks: pure index arithmetic between videos, blocks of T = 30 steps, and frames (protocol §4).

A video of F frames sampled at ``skip`` yields blocks at a stride; block k of a video starts at frame ``k * stride``
and reads the frames ``start, start + skip, …``. Nothing here knows of features, files or torch.

Shapes: B blocks, T time steps, V videos.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BLOCK_LENGTH = 30  # T, paper §4.2: "our model takes 30 frames at a time"
EVEN = 8  # blocks; tensor cores multiply multiples of it fastest
NATIVE_FPS = 30  # the paper's "@ 30 fps" is every frame, whatever the file's own rate


def skip_of(fps: float) -> int:
    """Distance in frames between two steps of a block: ``int(30 / fps)``.

    Args:
        fps: nominal sampling rate in (0, 30]; 30 keeps every frame, 6 every fifth.

    Raises:
        ValueError: fps is not in (0, 30].
    """
    if not 0 < fps <= NATIVE_FPS:
        raise ValueError(f"fps={fps} is not in (0, {NATIVE_FPS}]; 30 takes every frame, 6 every fifth")
    return int(NATIVE_FPS / fps)


def num_blocks(num_frames: int, skip: int = 1, stride: int = 1, length: int = BLOCK_LENGTH) -> int:
    """Blocks of a video: ``max(1, (F - T·skip) // stride + 1)``; at stride 1 and skip 1 that is max(1, F - 29).

    Raises:
        ValueError: the video has no frame.
    """
    if num_frames < 1:
        raise ValueError(f"a video of {num_frames} frames has no block")
    return max(1, (num_frames - length * skip) // stride + 1)


def block_frames(starts: np.ndarray, num_frames: np.ndarray, skip: int = 1, length: int = BLOCK_LENGTH) -> np.ndarray:
    """Frame index of every step of some blocks.

    A video shorter than ``T·skip`` frames has one block of ``n = 1 + (F - 1) // skip`` frames, the last one repeated.

    Args:
        starts: (B,) first frame of each block.
        num_frames: (B,) frames F of each block's video.

    Returns:
        (B, T) int64 frame indices within the video.
    """
    available = 1 + (num_frames - 1 - starts) // skip  # frames that the video can still give
    steps = np.minimum(np.arange(length)[None, :], available[:, None] - 1)
    return starts[:, None] + steps * skip


class BlockIndex:
    """All blocks of a list of videos, numbered 0 … len-1 in the order of the videos.

    Args:
        num_frames: (V,) frames of each video.
        skip: distance in frames between two steps.
        stride: distance in frames between two blocks.
        length: steps T of a block.

    Attributes:
        counts: (V,) blocks of each video.
        ends: (V,) running sum of counts.
    """

    def __init__(
        self, num_frames: np.ndarray | Sequence[int], skip: int = 1, stride: int = 1, length: int = BLOCK_LENGTH
    ) -> None:
        self.num_frames = np.asarray(num_frames, dtype=np.int64)
        self.skip, self.stride, self.length = skip, stride, length
        counts = [num_blocks(int(frames), skip, stride, length) for frames in self.num_frames]
        self.counts = np.asarray(counts, dtype=np.int64)
        self.ends = np.cumsum(self.counts)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B,) block numbers -> (B,) video numbers and (B, T) frame indices within these videos."""
        videos = np.searchsorted(self.ends, blocks, side="right")
        starts = (blocks - (self.ends - self.counts)[videos]) * self.stride
        return videos, block_frames(starts, self.num_frames[videos], self.skip, self.length)

    def stretch(self, span: Span) -> tuple[np.ndarray, int, int]:
        """The frames that some blocks of a video share, each once, and where the blocks lie in them.

        Returns:
            (n,) frame indices within the video, such that step t of the span's m-th block is frame number
            ``m · stride + t · skip`` of them; skip; stride. A short video's only block comes with its repeated frame.
        """
        start, skip, stride = span.first * self.stride, self.skip, self.stride
        if self.num_frames[span.video] < self.length * skip:
            return block_frames(np.asarray([start]), self.num_frames[[span.video]], skip, self.length)[0], 1, 1
        step = math.gcd(skip, stride) if span.count > 1 else skip  # at 6 fps a block's own frames are read, not all
        last = start + (span.count - 1) * stride + (self.length - 1) * skip
        return np.arange(start, last + 1, step), skip // step, max(1, stride // step)


class Span(NamedTuple):
    """Consecutive blocks of one video: ``count`` of them from its block number ``first``."""

    video: int
    first: int
    count: int


@dataclass(frozen=True)
class Share:
    """One rank's share of one global batch.

    Args:
        blocks: (b,) block numbers.
        weights: (b,) 1, or 0 for a block that only fills up a share.
        batch_size: blocks in the whole batch, over all ranks.
        turns: (V,) see ``rotation``; None where the whole set is at hand.
    """

    blocks: np.ndarray
    weights: np.ndarray
    batch_size: int
    turns: np.ndarray | None = None


def rotation(num_frames: np.ndarray, owners: np.ndarray, capacity: int, seed: int, epoch: int) -> np.ndarray:
    """Number the turns in which the videos of an epoch come into memory, where their frames do not fit at once.

    Each rank's videos, in an order drawn anew each epoch, are cut into turns of about equal size. Two turns in a row
    are in memory at a time, the one that blocks are drawn from and the one that follows.

    Args:
        num_frames: (V,) frames of each video.
        owners: (V,) rank of each video.
        capacity: frames that a rank's memory holds.
        seed: of the run.
        epoch: number of the epoch.

    Returns:
        (V,) turn of each video, from 0.

    Raises:
        ValueError: two turns of a single video each do not fit.
    """
    room = capacity // 2 - int(num_frames.max(initial=0))  # a turn may overshoot by less than one video
    if room < 1:
        raise ValueError(f"{capacity} frames at a time cannot rotate, with a video of {num_frames.max(initial=0)} frames")
    load = np.bincount(owners, weights=num_frames)
    number = max(1, int(np.ceil(load.max() / room)))
    turns = np.zeros(len(num_frames), dtype=np.int64)
    order = np.random.default_rng([seed, epoch, 1]).permutation(len(num_frames))
    for rank in range(len(load)):
        mine = order[owners[order] == rank]
        before = np.cumsum(num_frames[mine]) - num_frames[mine]
        turns[mine] = before * number // max(1, int(load[rank]))
    return turns


def training_order(index: BlockIndex, seed: int, epoch: int, turns: np.ndarray | None = None) -> np.ndarray:
    """(blocks,) all block numbers, shuffled; with ``turns``, shuffled within each turn. Depends on (seed, epoch) alone."""
    order = np.random.default_rng([seed, epoch]).permutation(len(index))
    if turns is None:
        return order
    return order[np.argsort(np.repeat(turns, index.counts)[order], kind="stable")]


def training_shares(
    order: np.ndarray,
    batch_size: int,
    owners: np.ndarray,
    rank: int = 0,
    turns: np.ndarray | None = None,
    even: bool = False,
) -> Iterator[Share]:
    """One rank's shares of an epoch's global batches: of each batch, the blocks of the rank's own videos.

    The union of the ranks' shares is the same for any number of ranks. A rank without a block in a batch gets its next
    one with weight 0, so that every rank takes part in every step.

    Args:
        order: (blocks,) see ``training_order``.
        batch_size: blocks of a global batch.
        owners: (blocks,) rank of each block, by number.
        rank: this one.
        turns: (V,) handed through to the shares.
        even: fill the rank's shares of an epoch up to one size, a multiple of `EVEN` or the whole batch, by its own blocks
            with weight 0: a GPU then runs the same kernels in the same memory at each step.

    Raises:
        ValueError: the rank has no block at all.
    """
    own = np.flatnonzero(owners[order] == rank)  # positions in the order
    if not len(own):
        raise ValueError(f"rank {rank} has no video: there are more processes than videos")
    largest = int(np.bincount(own // batch_size).max())
    size = min(batch_size, -(-largest // EVEN) * EVEN) if even else 0
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        mine = batch[owners[batch] == rank]
        weights = np.ones(len(mine), dtype=np.float32)
        if not len(mine):
            following = own[min(np.searchsorted(own, begin), len(own) - 1)]
            mine, weights = order[following : following + 1], np.zeros(1, dtype=np.float32)
        if (lacking := size - len(mine)) > 0:
            mine, weights = np.resize(mine, size), np.concatenate([weights, np.zeros(lacking, dtype=np.float32)])
        yield Share(mine, weights, len(batch), turns)


def evaluation_spans(index: BlockIndex, videos: Sequence[int], blocks: int) -> Iterator[Span]:
    """Every block of some videos once, video by video, at most ``blocks`` at a time."""
    for video in videos:
        for first in range(0, int(index.counts[video]), blocks):
            yield Span(video, first, min(blocks, int(index.counts[video]) - first))


def packed(spans: Iterable[Span], blocks: int) -> Iterator[list[Span]]:
    """Join spans that follow each other, at most so many blocks together."""
    held: list[Span] = []
    for span in spans:
        if held and sum(one.count for one in held) + span.count > blocks:
            yield held
            held = []
        held.append(span)
    if held:
        yield held


def deal(work: np.ndarray, ranks: int) -> list[list[int]]:
    """Split items over ranks, largest first to the least loaded rank; each rank's items in ascending order."""
    load = [0] * ranks
    hands: list[list[int]] = [[] for _ in range(ranks)]
    for item in np.argsort(-np.asarray(work), kind="stable"):
        rank = load.index(min(load))
        hands[rank].append(int(item))
        load[rank] += int(work[item])
    return [sorted(hand) for hand in hands]
