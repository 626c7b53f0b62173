"""Blocks: pure index arithmetic between videos, blocks of T = 30 steps, and frames (protocol §4).

A video of F frames sampled at ``skip`` yields blocks at a stride; block k of a video starts at frame ``k * stride``
and reads the frames ``start, start + skip, …``. Nothing here knows of features, files or torch.

Shapes: B blocks, T time steps, V videos.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK_LENGTH = 30  # T, paper §4.2: "our model takes 30 frames at a time"
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

    def __init__(self, num_frames: np.ndarray, skip: int = 1, stride: int = 1, length: int = BLOCK_LENGTH) -> None:
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

    def of_video(self, video: int) -> np.ndarray:
        """Numbers of all blocks of one video."""
        return np.arange(self.ends[video] - self.counts[video], self.ends[video])


@dataclass(frozen=True)
class Share:
    """One rank's share of one global batch.

    Args:
        blocks: (b,) block numbers.
        weights: (b,) 1, or 0 for a block that only fills the share of a rank that would have none.
        batch_size: blocks in the whole batch, over all ranks.
    """

    blocks: np.ndarray
    weights: np.ndarray
    batch_size: int


def training_shares(total: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Share]:
    """One epoch of shuffled blocks in global batches, dealt to ranks.

    The union of the ranks' shares is the same for any number of ranks; the order depends on (seed, epoch) alone.
    A rank that the last batch leaves empty gets one block of weight 0, so that every rank takes part in every step.
    """
    order = np.random.default_rng([seed, epoch]).permutation(total)
    for begin in range(0, total, batch_size):
        batch = order[begin : begin + batch_size]
        mine = batch[rank::world_size]
        if len(mine):
            yield Share(mine, np.ones(len(mine), dtype=np.float32), len(batch))
        else:
            yield Share(batch[:1], np.zeros(1, dtype=np.float32), len(batch))


def evaluation_shares(index: BlockIndex, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Share]:
    """Every block of this rank's videos once, video by video, no batch over two videos.

    Whole videos are dealt to ranks without padding, so that the sums of all ranks are exact and a video's scores do
    not depend on the number of ranks. Videos go to ranks longest first, each to the rank with least work.
    """
    for video in deal(index.counts, world_size)[rank]:
        blocks = index.of_video(video)
        for begin in range(0, len(blocks), batch_size):
            part = blocks[begin : begin + batch_size]
            yield Share(part, np.ones(len(part), dtype=np.float32), len(part))


def deal(work: np.ndarray, ranks: int) -> list[list[int]]:
    """Split items over ranks, largest first to the least loaded rank; each rank's items in ascending order."""
    load = [0] * ranks
    hands: list[list[int]] = [[] for _ in range(ranks)]
    for item in np.argsort(-np.asarray(work), kind="stable"):
        rank = load.index(min(load))
        hands[rank].append(int(item))
        load[rank] += int(work[item])
    return [sorted(hand) for hand in hands]
