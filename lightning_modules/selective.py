"""Attention that reads some locations of a frame instead of all: the loop that these networks share, and top-k attention.

A step's l_t is soft attention's (Eq. 4, or the content's). What enters Eq. 5 are k locations and their weights. So a step
copies k of the cube's K rows. Features are still computed everywhere; and content attention scores all K of them.

Shapes: B blocks, T time steps, K locations, k of them read, D feature channels, H hidden size, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from lightning_modules.attention import ContentAttention, LocationAttention, SoftAttentionLSTM, lstm_step
from lightning_modules.frames import Output, Rows
from lightning_modules.layers import layer_masks

Choose = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""Step t and l_t (B, K) -> locations (B, k) and their weights (B, k), which sum to 1."""


class Reading(NamedTuple):
    """What a network read of a batch of blocks.

    Args:
        hidden: (B, T, H) h_t of the top layer.
        before: (B, T, H) h_{t-1} of the top layer.
        softmax: (B, T, K) l_t.
        locations: (B, T, k) those read.
        weights: (B, T, k) in Eq. 5.
    """

    hidden: Tensor
    before: Tensor
    softmax: Tensor
    locations: Tensor
    weights: Tensor


class SelectiveAttentionLSTM(SoftAttentionLSTM):
    """Soft attention's network with another Eq. 5: ``x_t = Σ_j w_{t,j} X_{t,s_j}`` over the locations s_j that are read."""

    def read_over_time(self, evidence: tuple[Tensor | Rows, ...], mean: Tensor, choose: Choose) -> Reading:
        """Go through Eqs. 1-6 by automatic differentiation, reading what is chosen at each step.

        Args:
            evidence: X (B, T, K, D) or ``Rows``, and with content attention g(X) (B, T, K, D).
            mean: x̄ (B, D).
            choose: from l_t, what is read.
        """
        X, dtype = evidence[0], self.head.hidden.weight.dtype
        mean = mean.to(dtype)
        h, c = (list(state.to(dtype)) for state in self.initial_state(mean))  # Eq. 6: L of (B, H) each
        steps = (X.rows if isinstance(X, Rows) else X).shape[1]
        masks = layer_masks(self.lstm, self.dropout, steps, mean)
        found: list[tuple[Tensor, ...]] = []
        for t in range(steps):
            before = h[-1]
            if isinstance(self.attention, LocationAttention):
                l_t = self.attention(before, before)  # Eq. 4: (B, K); it does not see X_t
            else:
                l_t = cast(ContentAttention, self.attention).weigh(before, cast(Tensor, evidence[1])[:, t])
            s, w = choose(t, l_t)  # (B, k) each
            x_t = (w[:, :, None] * rows_of(X, t, s).to(dtype)).sum(dim=1)  # Eq. 5: (B, D)
            for layer, mask in enumerate(masks):
                x_t = x_t if mask is None else mask[t] * x_t
                h[layer], c[layer] = lstm_step(self.lstm, layer, x_t, h[layer], c[layer])  # Eqs. 1-3: (B, H) each
                x_t = h[layer]
            found.append((h[-1], before, l_t, s, w))
        return Reading(*(torch.stack(part, dim=1) for part in zip(*found, strict=True)))


def rows_of(X: Tensor | Rows, t: int, locations: Tensor) -> Tensor:
    """Copy the rows (B, k, D) of step t's cubes at some locations (B, k), and nothing else of them."""
    if isinstance(X, Rows):
        return X.pool[X.rows[:, t, None], locations]
    return X[torch.arange(len(X), device=X.device)[:, None], t, locations]


class TopKAttentionLSTM(SelectiveAttentionLSTM):
    """Soft attention that keeps the k largest of l_t and renormalises them; the gradient goes through those kept.

    With k = K it is soft attention, to the bit. With k = 1 the weight is 1 whatever l_t is, and nothing is learned of it.

    Args:
        *args: of `SoftAttentionLSTM`.
        top_k: k; K or more keep all.
        **options: of `SoftAttentionLSTM`.
    """

    def __init__(self, *args: Any, top_k: int, **options: Any) -> None:
        super().__init__(*args, **options)
        if top_k < 1:
            raise ValueError(f"top_k={top_k}: at least one location must be read")
        self.top_k = top_k

    def over_time(self, evidence: tuple[Tensor | Rows, ...], mean: Tensor | None) -> Output:
        """As soft attention's; the attention (B, T, K) that it returns are the weights of Eq. 5, 0 where nothing is read."""
        X = evidence[0]
        if self.top_k >= (X.pool if isinstance(X, Rows) else X).shape[-2]:
            return super().over_time(evidence, mean)
        assert mean is not None
        reading = self.read_over_time(evidence, mean, lambda _, l_t: largest(l_t, self.top_k))
        attention = torch.zeros_like(reading.softmax).scatter(-1, reading.locations, reading.weights)
        return Output(self.head(reading.hidden), attention)


def largest(l_t: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Locations of the k largest of l_t (B, K), and their shares of what these have together: (B, k) each."""
    kept, locations = l_t.topk(k, dim=-1)
    return locations, kept / kept.sum(dim=-1, keepdim=True)
