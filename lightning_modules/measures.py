"""Measures of attention: how focused it is, how it covers the frame, how it moves, and whether it meets the actor.

Shapes: N blocks, T steps, K locations row by row, ``attention`` l (N, T, K) with Σ_i l_{t,i} = 1. Every figure is a mean
over the steps, or over the blocks, that were tested. A video shorter than a block is tested on its last frame again and
again (protocol §4); these steps count here as they count in the prediction.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.objective import attention_penalty

NAMES = (
    "attention_entropy",
    "attention_entropy_share",
    "attention_coverage_spread",
    "attention_penalty",
    "attention_shift",
    "attention_in_box",
    "box_area",
    "pointing_game",
    "pointing_chance",
)
"""The figures of ``AttentionMeasures``; the last four only where videos have boxes."""


def entropy(attention: Tensor) -> Tensor:
    """Compute ``-Σ_i l_{t,i} ln l_{t,i}`` in nats, from 0 (one location) to ln K (uniform); (N, T, K) -> (N, T)."""
    return torch.special.entr(attention).sum(dim=-1)  # 0 at 0


def coverage_spread(attention: Tensor) -> Tensor:
    """Measure how unevenly a block's steps together cover the locations: 0 is flat, √(K-1) a gaze fixed on one location.

    The coefficient of variation over i of S_i = Σ_t l_{t,i}: the standard deviation of S over its mean T/K. The doubly
    stochastic penalty of Eq. 7 is the same but for a constant: mean_i (1 - S_i)² = (T/K · spread)² + (1 - T/K)².

    Args:
        attention: l (N, T, K).

    Returns:
        (N,).
    """
    covered = attention.sum(dim=1)  # (N, K)
    return covered.std(dim=-1, correction=0) / covered.mean(dim=-1)


def gaze(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute the gaze's expected position, g_t = Σ_i l_{t,i} p_i, with p_i the centre of cell i.

    Args:
        attention: l (N, T, K).
        grid: rows and columns; K is their product.

    Returns:
        (N, T, 2) fractions of the frame's width (from the left) and height (from the top).
    """
    rows, columns = grid
    across = (torch.arange(columns, device=attention.device, dtype=attention.dtype) + 0.5) / columns
    down = (torch.arange(rows, device=attention.device, dtype=attention.dtype) + 0.5) / rows
    cells = attention.unflatten(-1, (rows, columns))
    return torch.stack([cells.sum(dim=-2) @ across, cells.sum(dim=-1) @ down], dim=-1)


def shift(attention: Tensor, grid: tuple[int, int], steps_per_second: float) -> Tensor:
    """Measure how far the gaze moves in a second: |g_{t+1} - g_t| · steps per second, in fractions of the frame's sides.

    Args:
        attention: l (N, T, K).
        grid: rows and columns.
        steps_per_second: 30 / skip, as the protocol counts, whatever the film's own rate.

    Returns:
        (N, T - 1), empty for blocks of one step.
    """
    return gaze(attention, grid).diff(dim=1).norm(dim=-1) * steps_per_second


def pointing_game(attention: Tensor, inside: Tensor) -> Tensor:
    """Tell whether the most attended location lies on the actor: 1 or 0, and between them where several are most attended.

    ``Σ_{i ∈ M} inside_i / |M|`` with M the locations of the largest l_{t,i}: the expected hits of one that is drawn from
    the ties. Uniform attention therefore gets the chance level, ``mean_i inside_i``.

    Args:
        attention: l (N, T, K).
        inside: (N, T, K) 1 where the cell's centre lies in the box, else 0; nan throughout a step without a box.

    Returns:
        (N, T), nan for steps without a box.

    Source: Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016, §4.1; they let a hit miss the object
    by 15 pixels, here the location's centre has to be inside.
    """
    most = (attention == attention.amax(dim=-1, keepdim=True)).to(inside.dtype)
    return (most * inside).sum(dim=-1) / most.sum(dim=-1)


class VideoMeasures(NamedTuple):
    """Sums and counts of every measure of every video of a set, V videos and M = ``len(NAMES)`` measures.

    Args:
        sums: (V, M) float64, over the video's steps or blocks.
        counts: (V, M) int64, how many of them; 0 where there was none, such as steps with a box.
    """

    sums: Tensor
    counts: Tensor

    def means(self) -> dict[str, float]:
        """Average the measures that at least one step gave."""
        pairs = zip(NAMES, self.sums.sum(dim=0).tolist(), self.counts.sum(dim=0).tolist(), strict=True)
        return {name: total / count for name, total, count in pairs if count}


class AttentionMeasures(Metric):
    """Sums the measures over each video's blocks and steps, to the last bit alike on one process and on several.

    The states are sums and counts by video, whose blocks are all on one rank; so no sum depends on how many there are.

    ``attention_entropy`` (nats) and ``attention_entropy_share`` (over ln K); ``attention_coverage_spread``;
    ``attention_penalty`` (of Eq. 7, before λ); ``attention_shift``; and over the steps that have a box: ``attention_in_box``
    (Σ_i l_{t,i} · covered share of cell i), ``box_area`` (what uniform attention would have in the box, which is the box's
    share of the frame), ``pointing_game``, and ``pointing_chance`` (what uniform attention would get).

    Args:
        videos: V, of the set.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, videos: int) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(videos, len(NAMES)), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(videos, len(NAMES), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        video: int,
        attention: Tensor,
        grid: tuple[int, int],
        steps_per_second: float,
        coverage: Tensor | None = None,
        inside: Tensor | None = None,
    ) -> None:
        """Add blocks of a video.

        Args:
            video: its number in the set.
            attention: l (N, T, K), single or double precision.
            grid: rows and columns.
            steps_per_second: 30 / skip.
            coverage: (N, T, K) share of each cell that the actor's box covers; nan for steps without a box. None for a
                data set without boxes.
            inside: (N, T, K) 1 where the cell's centre lies in the box, else 0; nan as above.
        """
        nats = entropy(attention)
        values = {
            "attention_entropy": nats,
            "attention_entropy_share": nats / math.log(grid[0] * grid[1]) if attention.shape[-1] > 1 else nats + torch.nan,
            "attention_coverage_spread": coverage_spread(attention),
            "attention_penalty": attention_penalty(attention),
            "attention_shift": shift(attention, grid, steps_per_second),
        }
        if coverage is not None:
            values |= {"attention_in_box": (attention * coverage).sum(dim=-1), "box_area": coverage.mean(dim=-1)}
        if inside is not None:
            values |= {"pointing_game": pointing_game(attention, inside), "pointing_chance": inside.mean(dim=-1)}
        for name, found in values.items():
            finite = found.isfinite()
            self.sums[video, NAMES.index(name)] += torch.where(finite, found, 0).sum()
            self.counts[video, NAMES.index(name)] += finite.sum()

    def compute(self) -> VideoMeasures:
        """Return sums and counts of every video, over all ranks."""
        return VideoMeasures(self.sums.cpu().double(), self.counts.cpu())
