"""Frames as networks take them, and blocks of T frames: stacked, by reference, or as windows on a whole video.

Shapes: F frames of a stretch of video, K locations, D feature channels, B or N blocks, T time steps, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor


class Glimpses(NamedTuple):
    """What hard attention drew, for the gradient of it.

    Args:
        log_chosen: (B, T) log l_{t,s_t} of the location s_t that was read.
        baseline: (B, T) b_t, which did not see s_t.
    """

    log_chosen: Tensor
    baseline: Tensor


class Output(NamedTuple):
    """What every network returns for a batch of blocks.

    Args:
        logits: (B, T, C) class scores before softmax or sigmoid, at every step.
        attention: (B, T, K) location softmax l_t of Eq. 4, or None for networks without attention.
        glimpses: of networks that draw locations, where they drew some.
        scales: (B, T, Σ K_s) those of several maps side by side, where ``attention`` is what they are together; the penalty's.
    """

    logits: Tensor
    attention: Tensor | None
    glimpses: Glimpses | None = None
    scales: Tensor | None = None


class Rows(NamedTuple):
    """Cubes by reference: [b, t] is ``pool[rows[b, t]]``, so that a step's cubes are copied when the step needs them.

    Args:
        pool: (N, K, D).
        rows: (B, T) int64.
    """

    pool: Tensor
    rows: Tensor

    def gather(self) -> Tensor:
        """Copy the cubes of all steps: (B, T, K, D)."""
        return self.pool.index_select(0, self.rows.flatten()).unflatten(0, self.rows.shape)


class Frames(NamedTuple):
    """Feature cubes and their pooled forms, each with the same leading axes; None where a network does not need it.

    Args:
        cube: X (…, K, D), any float precision; or, in blocks, ``Rows``.
        mean: (…, D) mean over locations, float32.
        max: (…, D) maximum over locations, float32.
        draws: (…,) uniform numbers from 0 to 1, by which locations are drawn; None for none drawn.
    """

    cube: Tensor | Rows | None = None
    mean: Tensor | None = None
    max: Tensor | None = None
    draws: Tensor | None = None

    def all_cubes(self) -> Tensor:
        """Return X (…, K, D), gathered where it is by reference."""
        assert self.cube is not None
        return self.cube.gather() if isinstance(self.cube, Rows) else self.cube


def pool_frames(X: Tensor, inputs: tuple[str, ...]) -> Frames:
    """Pool X (…, K, D) over locations, into those of ``cube``, ``mean`` and ``max`` that a network needs."""
    dtype = X.dtype if X.dtype == torch.float64 else torch.float32
    return Frames(
        X if "cube" in inputs else None,
        X.mean(dim=-2, dtype=dtype) if "mean" in inputs else None,
        X.amax(dim=-2).to(dtype) if "max" in inputs else None,
    )


class Network(Protocol):
    """A network in the two parts that make testing fast: once per frame, and over the time of a block.

    Of another T than the suite's 30, it says so by ``block_length``.
    """

    inputs: tuple[str, ...]

    def per_frame(self, frames: Frames) -> tuple[Tensor | Rows, ...]:
        """What the steps need of frames (F, …), each (F, …); nothing in it depends on other frames."""
        ...

    def over_time(self, evidence: tuple[Tensor | Rows, ...], mean: Tensor | None) -> Output:
        """Blocks (B, T, …) of ``per_frame``, which may be views, and x̄ (B, D) of Eq. 6 -> ``Output``."""
        ...


def run_blocks(network: Network, frames: Frames) -> Output:
    """Run a network on a batch of blocks: ``frames`` with leading axes (B, T)."""
    mean = None if frames.mean is None else frames.mean.mean(dim=1)  # x̄ of Eq. 6: (B, D)
    return network.over_time(network.per_frame(frames), mean)


def run_dense(network: Network, frames: Frames, blocks: int, steps: int, skip: int = 1, stride: int = 1) -> Output:
    """Run a network on all blocks of a stretch of video at once: ``run_blocks`` on the stacked blocks, without stacking.

    Block n holds the frames ``n · stride + t · skip``. What depends on a frame alone is computed once per frame; at
    step t the blocks' frames are the slice ``[t · skip : t · skip + blocks · stride : stride]``, a view.

    Args:
        network: the network.
        frames: leading axis F = (blocks - 1) · stride + (T - 1) · skip + 1, in order.
        blocks: N.
        steps: T.
        skip: frames between two steps of a block.
        stride: frames between the beginnings of two blocks.
    """
    if frames.cube is not None and frames.mean is not None:  # a step's slice is then a view of what it computes with
        frames = frames._replace(cube=frames.all_cubes().to(frames.mean.dtype))
    evidence = tuple(windows(cast(Tensor, part), blocks, steps, skip, stride) for part in network.per_frame(frames))
    mean = None if frames.mean is None else window_means(frames.mean, blocks, steps, skip, stride)  # x̄ of Eq. 6: (N, D)
    return network.over_time(evidence, mean)


class Stretch(NamedTuple):
    """What `run_dense` takes of a stretch of video."""

    frames: Frames
    blocks: int
    skip: int = 1
    stride: int = 1


def run_dense_together(network: Network, stretches: Sequence[Stretch], steps: int) -> list[Output]:
    """Run a network on several stretches of video: `run_dense` on each, with those of one skip and stride in one pass.

    They lie one behind the other, each from where a block begins; blocks that span two are computed and left out. A pass
    launches as many kernels as that of one stretch.

    Args:
        network: the network.
        stretches: short ones; a block more is computed for each frame of a block.
        steps: T.
    """
    outputs: dict[int, Output] = {}
    for skip, stride in {(one.skip, one.stride): None for one in stretches}:
        mine = [number for number, one in enumerate(stretches) if (one.skip, one.stride) == (skip, stride)]
        lengths = [(stretches[n].blocks - 1) * stride + (steps - 1) * skip + 1 for n in mine]
        begins = np.cumsum([0, *(-(-length // stride) for length in lengths)]).tolist()  # in blocks
        parts = zip(*(stretches[n].frames for n in mine), strict=True)
        joined = Frames(*(_joined(given, begins, stride, lengths[-1]) for given in parts))
        found = run_dense(network, joined, begins[-2] + stretches[mine[-1]].blocks, steps, skip, stride)
        for number, begin in zip(mine, begins, strict=False):
            own = slice(begin, begin + stretches[number].blocks)
            outputs[number] = Output(found.logits[own], None if found.attention is None else found.attention[own])
    return [outputs[number] for number in range(len(stretches))]


def _joined(given: Sequence[Tensor | None], begins: list[int], stride: int, last: int) -> Tensor | None:
    if any(part is None for part in given):
        return None
    whole = cast(Tensor, given[0]).new_zeros(begins[-2] * stride + last, *cast(Tensor, given[0]).shape[1:])
    for part, begin in zip(given, begins, strict=False):
        whole[begin * stride : begin * stride + len(cast(Tensor, part))] = cast(Tensor, part)
    return whole


def windows(frames: Tensor, blocks: int, steps: int, skip: int = 1, stride: int = 1) -> Tensor:
    """View frames (F, …) as blocks (N, T, …) on the same memory: element [n, t] is frame ``n · stride + t · skip``.

    Raises:
        ValueError: there are not exactly as many frames as the blocks span.
    """
    spanned = (blocks - 1) * stride + (steps - 1) * skip + 1
    if len(frames) != spanned:
        raise ValueError(f"{blocks} blocks at stride {stride} and skip {skip} span {spanned} frames, not {len(frames)}")
    first, *others = frames.stride()
    return frames.as_strided((blocks, steps, *frames.shape[1:]), (stride * first, skip * first, *others))


def window_means(frames: Tensor, blocks: int, steps: int, skip: int = 1, stride: int = 1) -> Tensor:
    """Average the steps of every block, (F, D) -> (N, D)."""
    return windows(frames, blocks, steps, skip, stride).mean(dim=1)
