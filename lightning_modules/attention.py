"""The paper's model: attention over the feature cube, a multi-layer LSTM, a head, as one reads them in the paper (Eqs. 1-6).

Shapes: B blocks, T time steps, K locations (row by row), D feature channels, H hidden size, C classes, L LSTM layers.
The paper writes K² for K, and d for H. Symbols as in the paper: X the feature cubes, l the location softmax, x the LSTM's
input, h and c its states, i, f, o, g its gates. Eq. 7, the loss, is in ``objective.py``.

``SoftAttentionLSTM.equations`` is the model, and what ``model.fast=false`` runs. ``attention_fast.py`` computes the same
several times faster. Plain ``nn.Module`` mathematics: nothing here knows of Lightning or configurations.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from lightning_modules.attention_fast import attend_over_time, pack_layers
from lightning_modules.frames import Frames, Output, Rows, pool_frames, run_blocks
from lightning_modules.layers import Dropout, build_lstm, initialised_linear, layer_masks


class SoftAttentionLSTM(nn.Module):
    """The soft attention model (Eqs. 1-6).

    At step t: l_t from h_{t-1} of the top layer (Eq. 4), ``x_t = Σ_i l_{t,i} X_{t,i}`` (Eq. 5), one step of every LSTM
    layer (Eqs. 1-3), class scores from the top layer's h_t. Dropout acts on connections between layers and in the head
    and never on ``h_{t-1} → h_t`` or ``h_{t-1} → l_t``, with a fresh mask at every step.

    Args:
        locations: K.
        channels: D.
        num_classes: C.
        hidden_dim: H; also the width of the head.
        num_layers: L.
        attention: ``location`` (paper) or ``content`` (released code).
        attention_layers: extra layers of content attention.
        dropout: probability of a zero at every site.
        input_dropout: whether x_t and the connections between LSTM layers are dropout sites too (paper), or only the
            two sites of the head (released code).
        fast: compute by ``attention_fast``, or by ``equations``; parameters, dropout masks and, but for rounding, results
            are the same.

    Source: paper §3; protocol §1.
    """

    inputs: tuple[str, ...] = ("cube", "mean")

    def __init__(
        self,
        locations: int,
        channels: int,
        num_classes: int,
        hidden_dim: int = 512,
        num_layers: int = 3,
        attention: str = "location",
        attention_layers: int = 0,
        dropout: float = 0.5,
        input_dropout: bool = True,
        fast: bool = True,
    ) -> None:
        super().__init__()
        if attention == "location":
            self.attention: LocationAttention | ContentAttention = LocationAttention(hidden_dim, locations)
        elif attention == "content":
            self.attention = ContentAttention(channels, hidden_dim, attention_layers)
        else:
            raise ValueError(f"attention={attention!r} is neither 'location' nor 'content'")
        self.dropout = Dropout(dropout if input_dropout else 0.0)
        self.initial_state = InitialState(channels, hidden_dim, num_layers)
        self.lstm = build_lstm(channels, hidden_dim, num_layers, self.dropout.p)
        self.head = Head(hidden_dim, num_classes, dropout)
        self.fast = fast

    def forward(self, X: Tensor) -> Output:
        """X (B, T, K, D), any float precision -> logits (B, T, C), attention (B, T, K)."""
        return run_blocks(self, pool_frames(X, self.inputs)) if self.fast else self.equations(X)

    def equations(self, X: Tensor) -> Output:
        """The model as the paper writes it: X (B, T, K, D) -> logits (B, T, C), attention (B, T, K)."""
        X = X.to(self.head.hidden.weight.dtype)
        mean = X.mean(dim=2).mean(dim=1)  # 1/T Σ_t 1/K Σ_i X_{t,i}: (B, D)
        h, c = (list(state.to(X.dtype)) for state in self.initial_state(mean))  # Eq. 6: L of (B, H) each
        masks = layer_masks(self.lstm, self.dropout, X.shape[1], mean)
        top, attention = [], []
        for t in range(X.shape[1]):
            l_t = self.attention(h[-1], X[:, t])  # Eq. 4: (B, K)
            x_t = (l_t[:, :, None] * X[:, t]).sum(dim=1)  # Eq. 5: (B, D)
            for layer, mask in enumerate(masks):
                x_t = x_t if mask is None else mask[t] * x_t
                h[layer], c[layer] = lstm_step(self.lstm, layer, x_t, h[layer], c[layer])  # Eqs. 1-3: (B, H) each
                x_t = h[layer]  # (B, H), the next layer's input
            top.append(h[-1])
            attention.append(l_t)
        logits = self.head(torch.stack(top, dim=1))  # (B, T, C)
        return Output(logits, torch.stack(attention, dim=1))

    def per_frame(self, frames: Frames) -> tuple[Tensor | Rows, ...]:
        """X (…, K, D), and with fast content attention g(X), which sees no other frame."""
        if isinstance(self.attention, LocationAttention) or not self.fast:
            assert frames.cube is not None
            return (frames.cube,)
        X = frames.all_cubes()
        return X, self.attention.context(X.to(self.head.hidden.weight.dtype))

    def over_time(self, evidence: tuple[Tensor | Rows, ...], mean: Tensor | None) -> Output:
        """What ``per_frame`` gave, as (B, T, …), and x̄ (B, D) of Eq. 6 -> logits (B, T, C), attention (B, T, K)."""
        X, *g = evidence
        if not self.fast:
            return self.equations(X.gather() if isinstance(X, Rows) else X)
        assert mean is not None
        mean, device = mean.to(self.head.hidden.weight.dtype), mean.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else mean.dtype
        h_0, c_0 = (state.to(mean.dtype) for state in self.initial_state(mean))  # Eq. 6: (L, B, H) each
        masks = layer_masks(self.lstm, self.dropout, (X.rows if isinstance(X, Rows) else X).shape[1], mean)
        layers = pack_layers(self.lstm, masks, precision)
        if isinstance(self.attention, LocationAttention):
            weight = self.attention.locations.weight.to(precision)
            hidden, attention = attend_over_time(X, h_0, c_0, layers, location=weight)
        else:
            # The bias c of the scores moves all locations alike: the softmax does not see it, nor does its gradient.
            state, score = self.attention.state.weight.to(precision), self.attention.score.weight[0].to(precision)
            content = (cast(Tensor, g[0]).to(precision), state, score)
            hidden, attention = attend_over_time(X, h_0, c_0, layers, content=content)
        return Output(self.head(hidden), attention)


class LocationAttention(nn.Module):
    """Eq. 4 as printed: ``l_{t,i} = exp(W_i·h_{t-1}) / Σ_j exp(W_j·h_{t-1})``, h of the top layer. It does not see X_t.

    Args:
        hidden_dim: H.
        locations: K.
    """

    def __init__(self, hidden_dim: int, locations: int) -> None:
        super().__init__()
        self.locations = initialised_linear(hidden_dim, locations, bias=False, orthogonal_if_square=False)

    def forward(self, h: Tensor, X_t: Tensor) -> Tensor:
        """h_{t-1} (B, H), and X_t for the sake of the signature -> l_t (B, K)."""
        e = self.locations(h)  # (B, K), in half precision under autocast; l_t is to sum to 1
        return torch.softmax(e, dim=1, dtype=h.dtype)  # Eq. 4


class ContentAttention(nn.Module):
    """The released code's attention (Show, Attend and Tell): ``e_i = u·tanh(g(X_{t,i}) + W_d h_{t-1}) + c``.

    ``g(x) = W_c x + b``; each of n extra layers continues ``a ← W_l a + b_l``, with a tanh after all but the last extra
    layer and none between W_c and W_1. ``l_t = softmax_i(e)``.

    Args:
        channels: D.
        hidden_dim: H.
        extra_layers: n; 0 for UCF-11 and Hollywood2, 2 for HMDB-51.
    """

    def __init__(self, channels: int, hidden_dim: int, extra_layers: int = 0) -> None:
        super().__init__()
        self.content = initialised_linear(channels, channels, orthogonal_if_square=False)
        self.extra = nn.ModuleList(
            initialised_linear(channels, channels, orthogonal_if_square=False) for _ in range(extra_layers)
        )
        self.state = initialised_linear(hidden_dim, channels, bias=False, orthogonal_if_square=False)
        self.score = initialised_linear(channels, 1, orthogonal_if_square=False)

    def forward(self, h: Tensor, X_t: Tensor) -> Tensor:
        """h_{t-1} (B, H), X_t (B, K, D) -> l_t (B, K)."""
        return self.weigh(h, self.context(X_t))

    def weigh(self, h: Tensor, g_t: Tensor) -> Tensor:
        """h_{t-1} (B, H) and g(X_t) (B, K, D) -> l_t (B, K)."""
        a = torch.tanh(g_t + self.state(h)[:, None, :])  # (B, K, D)
        e = self.score(a)[:, :, 0]  # (B, K)
        return torch.softmax(e, dim=1, dtype=h.dtype)  # in place of Eq. 4

    def context(self, X: Tensor) -> Tensor:
        """Compute g of every location, X (…, D) -> (…, D); it does not depend on h, so that it can be done once a frame."""
        a = self.content(X)
        for number, layer in enumerate(self.extra, start=1):
            a = layer(a)
            if number < len(self.extra):
                a = torch.tanh(a)
        return a


class InitialState(nn.Module):
    """Eq. 6: h_0 and c_0 of every LSTM layer from the block's mean feature slice, one affine map + tanh for each.

    ``h_0^l = tanh(U_h^l x̄ + b_h^l)``, ``c_0^l = tanh(U_c^l x̄ + b_c^l)``, ``x̄ = 1/T Σ_t 1/K Σ_i X_{t,i}``.

    Args:
        channels: D.
        hidden_dim: H.
        num_layers: L.
    """

    def __init__(self, channels: int, hidden_dim: int, num_layers: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(initialised_linear(channels, hidden_dim) for _ in range(num_layers))
        self.cell = nn.ModuleList(initialised_linear(channels, hidden_dim) for _ in range(num_layers))

    def forward(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """x̄ (B, D) -> h_0 (L, B, H), c_0 (L, B, H)."""
        h = torch.stack([torch.tanh(layer(mean)) for layer in self.hidden])
        c = torch.stack([torch.tanh(layer(mean)) for layer in self.cell])
        return h, c


def lstm_step(lstm: nn.LSTM, layer: int, x_t: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Move one LSTM layer by one step: x_t (B, D or H), h_{t-1} and c_{t-1} (B, H) -> h_t and c_t (B, H)."""
    W_h, W_x = getattr(lstm, f"weight_hh_l{layer}"), getattr(lstm, f"weight_ih_l{layer}")
    M, b = torch.cat([W_h, W_x], dim=1), getattr(lstm, f"bias_ih_l{layer}")  # (4H, H + D), (4H,)
    i, f, g, o = (torch.cat([h, x_t], dim=1) @ M.T + b).chunk(4, dim=1)  # (B, H) each, in torch's order
    i, f, o, g = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o), torch.tanh(g)  # Eq. 1
    c = f * c + i * g  # Eq. 2
    h = o * torch.tanh(c)  # Eq. 3
    return h, c


class Head(nn.Module):
    """Class scores at every step: ``W_2 · dropout(tanh(W_1 dropout(h) + b_1)) + b_2``; a softmax of them is the paper's y_t.

    Args:
        hidden_dim: H, of the LSTM and of the head's hidden layer.
        num_classes: C.
        dropout: probability of a zero, at the input and at the hidden layer.
    """

    def __init__(self, hidden_dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.hidden = initialised_linear(hidden_dim, hidden_dim)
        self.classes = initialised_linear(hidden_dim, num_classes)
        self.dropout = Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """h (B, T, H) -> (B, T, C)."""
        a = torch.tanh(self.hidden(self.dropout(h)))  # (B, T, H)
        return self.classes(self.dropout(a))  # (B, T, C)
