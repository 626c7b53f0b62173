"""Soft attention over maps of several resolutions, each with its own location softmax, and a gate over scales.

Shapes: B blocks, T time steps, S scales, K_s locations (row by row) and D_s channels of scale s, H hidden size, C classes. A
frame's maps lie in one array (R, D_1), packed: the first map as it is, then the others' numbers, filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lightning_modules.attention import Head, InitialState, LocationAttention, lstm_step
from lightning_modules.frames import Frames, Output, Rows, pool_frames, run_blocks
from lightning_modules.layers import Dropout, build_lstm, initialised_linear, layer_masks
from lightning_modules.metrics import BlockMean

Scale = tuple[int, int, int]
"""Rows, columns and channels of a map."""


def pack(maps: Sequence[Tensor]) -> Tensor:
    """Lay maps (…, K_s, D_s) into one array (…, R, D_1)."""
    first, *others = maps
    flat = torch.cat([one.flatten(-2) for one in others], dim=-1) if others else first.new_empty(*first.shape[:-2], 0)
    filled = nn.functional.pad(flat, (0, -flat.shape[-1] % first.shape[-1]))
    return torch.cat([first, filled.unflatten(-1, (-1, first.shape[-1]))], dim=-2)


def unpack(X: Tensor, scales: Sequence[Scale]) -> list[Tensor]:
    """Find the maps in what ``pack`` made: (…, R, D_1) -> views (…, K_s, D_s)."""
    found, begin, flat = [], 0, X.flatten(-2)
    for rows, columns, channels in scales:
        end = begin + rows * columns * channels
        found.append(flat[..., begin:end].unflatten(-1, (rows * columns, channels)))
        begin = end
    return found


def largest(scales: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Find rows and columns of the largest map, whose cells those of the others are made of.

    Raises:
        ValueError: they are not.
    """
    height, width = max((rows, columns) for rows, columns, _ in scales)
    if any(height % rows or width % columns for rows, columns, _ in scales):
        raise ValueError(f"maps of {[tuple(one) for one in scales]} (rows, columns, channels) do not go into each other")
    return height, width


def goes_into_others(scales: Sequence[Sequence[int]]) -> bool:
    """Whether each map's rows and columns are multiples of the first map's."""
    height, width, _ = scales[0]
    return not any(rows % height or columns % width for rows, columns, _ in scales)


class MultiresolutionLSTM(nn.Module):
    """The paper's model over several maps: ``x_t = Σ_s g_{t,s} P_s LayerNorm(z_{t,s})``, ``z_{t,s} = Σ_i l_{t,s,i} X_{t,s,i}``.

    ``l_{t,s} = softmax(W_s h_{t-1})`` (Eq. 4 of each scale) and ``g_t = softmax(V h_{t-1})``. Of one scale, P is the identity,
    without LayerNorm, and it is the paper's model. Eq. 6 takes the first map's mean. Concatenated, x_t has all
    ``P_s LayerNorm(z_{t,s})`` side by side, and g is 1 / S. Nested, a finer map's l is coarse to fine: that of the cell of the
    first map around a location, times a softmax of ``W_s h_{t-1}`` over all in this cell.

    Args:
        scales: of the maps, the first one that of the paper's model. The sides of the largest are multiples of the others'.
        num_classes: C.
        hidden_dim: H.
        num_layers: L.
        dropout: probability of a zero at every site.
        input_dropout: whether x_t and the connections between LSTM layers are dropout sites too.
        width: numbers that each scale gives to x_t, where there are several.
        concatenated: whether these stand side by side, in place of their gated sum.
        nested: whether the first map's softmax is part of the others'.

    Raises:
        ValueError: the maps do not go into each other, or, nested, the first not into the others.
    """

    inputs: tuple[str, ...] = ("cube",)

    def __init__(
        self,
        scales: Sequence[Scale],
        num_classes: int,
        hidden_dim: int = 512,
        num_layers: int = 3,
        dropout: float = 0.5,
        input_dropout: bool = True,
        width: int = 512,
        concatenated: bool = False,
        nested: bool = False,
    ) -> None:
        super().__init__()
        self.scales, self.nested = tuple(scales), nested
        self.grid = largest(self.scales)
        if nested and not goes_into_others(self.scales):
            raise ValueError(f"nested: a map of {list(self.scales)} (rows, columns, channels) is no multiple of the first")
        several, channels = len(self.scales) > 1, self.scales[0][2]
        self.attention = nn.ModuleList(LocationAttention(hidden_dim, rows * columns) for rows, columns, _ in self.scales)
        self.dropout = Dropout(dropout if input_dropout else 0.0)
        self.initial_state = InitialState(channels, hidden_dim, num_layers)
        self.concatenated = concatenated and several
        inputs = width * (len(self.scales) if self.concatenated else 1) if several else channels
        self.lstm = build_lstm(inputs, hidden_dim, num_layers, self.dropout.p)
        self.head = Head(hidden_dim, num_classes, dropout)
        self.projections = nn.ModuleList(Projection(one, width) if several else nn.Identity() for *_, one in self.scales)
        self.gate = initialised_linear(hidden_dim, len(self.scales), bias=False, orthogonal_if_square=False)
        self.gate.weight.requires_grad_(several and not self.concatenated)
        if self.concatenated:
            nn.init.zeros_(self.gate.weight)
        self.gates = nn.ModuleList(BlockMean() for _ in self.scales)
        """Means of g over the steps and blocks that were evaluated since their last ``reset``."""

    def forward(self, X: Tensor) -> Output:
        """Packed X (B, T, R, D_1), any float precision -> logits (B, T, C), attention (B, T, K) on the largest map."""
        return run_blocks(self, pool_frames(X, self.inputs))

    def per_frame(self, frames: Frames) -> tuple[Tensor | Rows, ...]:
        """Packed X (…, R, D_1), and the first map's mean (…, D_1)."""
        assert frames.cube is not None
        X, (rows, columns, _) = frames.cube, self.scales[0]
        locations = slice(0, rows * columns)
        first = X._replace(pool=X.pool[:, locations]).gather() if isinstance(X, Rows) else X[..., locations, :]
        return X, first.to(self.head.hidden.weight.dtype).mean(dim=-2)

    def over_time(self, evidence: tuple[Tensor | Rows, ...], mean: Tensor | None) -> Output:
        """What ``per_frame`` gave, as (B, T, …) -> logits (B, T, C), attention (B, T, K), and each scale's side by side."""
        X, first = evidence[0], cast(Tensor, evidence[1])
        x_bar = first.mean(dim=1)  # (B, D_1)
        h, c = (list(state.to(first.dtype)) for state in self.initial_state(x_bar))  # Eq. 6: L of (B, H) each
        masks = layer_masks(self.lstm, self.dropout, first.shape[1], first)
        top, maps, gates = [], [], []
        for t in range(first.shape[1]):
            X_t = X.pool[X.rows[:, t]] if isinstance(X, Rows) else X[:, t]  # (B, R, D_1)
            g = torch.softmax(self.gate(h[-1]), dim=1, dtype=first.dtype)  # (B, S)
            l_t = self.attend(h[-1], X_t)  # S of (B, K_s)
            parts = []
            for s, map_s in enumerate(unpack(X_t, self.scales)):
                z = (l_t[s][:, :, None] * map_s.to(first.dtype)).sum(dim=1)  # Eq. 5: (B, D_s)
                parts.append(self.projections[s](z))  # (B, width)
            x_t = torch.cat(parts, dim=1) if self.concatenated else (g[:, :, None] * torch.stack(parts, dim=1)).sum(dim=1)
            for layer, mask in enumerate(masks):
                x_t = x_t if mask is None else mask[t] * x_t
                h[layer], c[layer] = lstm_step(self.lstm, layer, x_t, h[layer], c[layer])  # Eqs. 1-3: (B, H) each
                x_t = h[layer]
            top.append(h[-1])
            maps.append(torch.cat(l_t, dim=1))
            gates.append(g)
        logits, g = self.head(torch.stack(top, dim=1)), torch.stack(gates, dim=1)  # (B, T, C), (B, T, S)
        locations = torch.stack(maps, dim=1)  # (B, T, Σ K_s)
        if not self.training:
            for s, metric in enumerate(self.gates):
                cast(BlockMean, metric).update(g[..., s].mean(dim=1), torch.ones_like(g[:, 0, s]))
        return Output(logits, self.combined(locations, g), scales=locations)

    def attend(self, h: Tensor, X_t: Tensor) -> list[Tensor]:
        """Eq. 4 of each scale, or coarse to fine: h_{t-1} (B, H) -> S of (B, K_s)."""
        if not self.nested:
            return [attend(h, X_t) for attend in self.attention]
        first, *others = (cast(LocationAttention, one) for one in self.attention)
        found, (height, width, _) = [first(h, X_t)], self.scales[0]
        parents = found[0].unflatten(1, (height, 1, width, 1))
        for attend, (rows, columns, _) in zip(others, self.scales[1:], strict=True):
            below, beside = rows // height, columns // width
            e = attend.locations(h).unflatten(1, (height, below, width, beside)).transpose(2, 3)  # (B, height, width, …)
            children = torch.softmax(e.flatten(3), dim=3, dtype=h.dtype).unflatten(3, (below, beside)).transpose(2, 3)
            found.append((parents * children).flatten(1))
        return found

    def combined(self, locations: Tensor, g: Tensor) -> Tensor:
        """Add up where all scales look, on the largest map: l (B, T, Σ K_s), g (B, T, S) -> ``Σ_s g_s l_s`` (B, T, K).

        A cell's weight is spread evenly over those that it covers there.
        """
        total, begin, (height, width) = locations.new_zeros(()), 0, self.grid
        for s, (rows, columns, _) in enumerate(self.scales):
            own = locations[..., begin : begin + rows * columns].unflatten(-1, (rows, columns))
            below, beside = height // rows, width // columns
            spread = own.repeat_interleave(below, dim=-2).repeat_interleave(beside, dim=-1) / (below * beside)
            total = total + g[..., s, None] * spread.flatten(-2)
            begin += rows * columns
        return total


class Projection(nn.Sequential):
    """P LayerNorm(z), (…, D_s) -> (…, width).

    P begins with N(0, 1 / D_s), so that no map begins ahead of another for the number of its channels.

    Args:
        channels: D_s.
        width: of the result.
    """

    def __init__(self, channels: int, width: int) -> None:
        projection = nn.Linear(channels, width)
        nn.init.normal_(projection.weight, std=channels**-0.5)
        nn.init.zeros_(projection.bias)
        super().__init__(nn.LayerNorm(channels), projection)
