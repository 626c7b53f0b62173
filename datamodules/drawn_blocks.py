"""Blocks drawn at random from a video, in one pass over its frames: nobody knows how many it has before the last one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from heapq import heappush, heapreplace
from typing import NamedTuple, TypeVar

import numpy as np

from datamodules.blocks import BLOCK_LENGTH

T = TypeVar("T")


class Draw(NamedTuple):
    """Which blocks of a video are drawn: a function of these, and of the number of its frames, alone.

    Args:
        count: blocks at most.
        seed: of the draw.
        video: the video's id.
    """

    count: int
    seed: int
    video: str


def draw_blocks(frames: Iterable[T], draw: Draw) -> list[tuple[int, tuple[T, ...]]]:
    """Keep the blocks of T = 30 consecutive frames whose keys, random and independent, are the ``count`` least.

    All sets of ``count`` blocks are equally likely; blocks may overlap. A video with fewer blocks gives all of them, and one
    of fewer than T frames these frames. Memory holds ``count + 1`` blocks. (Reservoir sampling with random keys: Fan, Muller
    & Rezucha 1962.)

    Args:
        frames: of the video, in order; read to their end.
        draw: which blocks.

    Returns:
        First frame of each block, ascending, and the block's frames.
    """
    random = np.random.default_rng([draw.seed, *draw.video.encode()])
    window: deque[T] = deque(maxlen=BLOCK_LENGTH)
    heap: list[tuple[float, int, tuple[T, ...]]] = []  # the largest key first; starts differ, so frames are not compared
    for number, frame in enumerate(frames):
        window.append(frame)
        if len(window) == BLOCK_LENGTH:
            key = random.random()
            if len(heap) < draw.count:
                heappush(heap, (-key, number + 1 - BLOCK_LENGTH, tuple(window)))
            elif key < -heap[0][0]:
                heapreplace(heap, (-key, number + 1 - BLOCK_LENGTH, tuple(window)))
    if window and not heap:
        return [(0, tuple(window))]
    return sorted((start, block) for _, start, block in heap)
