"""The paper's model: location or content attention over the feature cube, a multi-layer LSTM, a head (Eqs. 1-6).

Shapes: B blocks, T time steps, K locations, D feature channels, H hidden size, C classes, L LSTM layers.
Locations are numbered row by row. Plain ``nn.Module`` mathematics: nothing here knows of Lightning or configurations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHT_STD = 0.01  # released code: N(0, 0.01²) for matrices that are not square


class Output(NamedTuple):
    """What every network returns for a batch of blocks.

    Args:
        logits: (B, T, C) class scores before softmax or sigmoid, at every step.
        attention: (B, T, K) location softmax l_t of Eq. 4, or None for networks without attention.
    """

    logits: Tensor
    attention: Tensor | None


def initialise_matrix(weight: Tensor, orthogonal_if_square: bool = True) -> None:
    """N(0, 0.01²), or a random orthogonal matrix where the matrix is square (released code)."""
    if orthogonal_if_square and weight.shape[0] == weight.shape[1]:
        nn.init.orthogonal_(weight)
    else:
        nn.init.normal_(weight, std=WEIGHT_STD)


def initialised_linear(inputs: int, outputs: int, bias: bool = True, orthogonal_if_square: bool = True) -> nn.Linear:
    """An affine map with the released code's initialisation and zero bias."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    initialise_matrix(linear.weight.data, orthogonal_if_square)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def build_lstm(inputs: int, hidden_dim: int, num_layers: int, dropout: float) -> nn.LSTM:
    """An LSTM stack with the paper's parameters: one bias a gate, no peepholes, all biases 0 (Eqs. 1-3).

    ``nn.LSTM`` holds two biases a gate; the recurrent one stays frozen at 0 so that M is the affine map of Eq. 1.
    Each gate's matrix is initialised by itself, orthogonal where it is square. torch orders the gates i, f, g, o.
    """
    lstm = nn.LSTM(inputs, hidden_dim, num_layers, batch_first=True, dropout=dropout if num_layers > 1 else 0.0)
    for name, parameter in lstm.named_parameters():
        if name.startswith("weight"):
            for gate in parameter.data.chunk(4):
                initialise_matrix(gate)
        else:
            nn.init.zeros_(parameter)
            parameter.requires_grad_(not name.startswith("bias_hh"))
    return lstm


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


class Head(nn.Module):
    """Class scores at every step: ``W_2 · dropout(tanh(W_1 dropout(h) + b_1)) + b_2``.

    Args:
        hidden_dim: H, of the LSTM and of the head's hidden layer.
        num_classes: C.
        dropout: probability of a zero, at the input and at the hidden layer.
    """

    def __init__(self, hidden_dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.hidden = initialised_linear(hidden_dim, hidden_dim)
        self.classes = initialised_linear(hidden_dim, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, C)."""
        return self.classes(self.dropout(torch.tanh(self.hidden(self.dropout(h)))))


class LocationAttention(nn.Module):
    """Eq. 4 as printed: ``l_t = softmax(W h_{t-1})``. It does not see X_t.

    Args:
        hidden_dim: H.
        locations: K.
    """

    def __init__(self, hidden_dim: int, locations: int) -> None:
        super().__init__()
        self.locations = initialised_linear(hidden_dim, locations, bias=False, orthogonal_if_square=False)

    def context(self, X: Tensor) -> None:
        """Nothing of it can be computed ahead of the recurrence."""

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """h_{t-1} of the top layer (B, H) -> l_t (B, K)."""
        return torch.softmax(self.locations(h), dim=-1)


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

    def context(self, X: Tensor) -> Tensor:
        """g of every location: X (…, D) -> (…, D). It does not depend on h, so it is computed outside the recurrence."""
        a = self.content(X)
        for number, layer in enumerate(self.extra, start=1):
            a = layer(a)
            if number < len(self.extra):
                a = torch.tanh(a)
        return a

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        """h_{t-1} (B, H) and g(X_t) (B, K, D) -> l_t (B, K)."""
        e = self.score(torch.tanh(context + self.state(h)[:, None, :])).squeeze(-1)  # (B, K)
        return torch.softmax(e, dim=-1)


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

    Source: paper §3; protocol §1.
    """

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
    ) -> None:
        super().__init__()
        if attention == "location":
            self.attention: LocationAttention | ContentAttention = LocationAttention(hidden_dim, locations)
        elif attention == "content":
            self.attention = ContentAttention(channels, hidden_dim, attention_layers)
        else:
            raise ValueError(f"attention={attention!r} is neither 'location' nor 'content'")
        self.dropout = dropout if input_dropout else 0.0
        self.initial_state = InitialState(channels, hidden_dim, num_layers)
        self.lstm = build_lstm(channels, hidden_dim, num_layers, self.dropout)
        self.head = Head(hidden_dim, num_classes, dropout)

    def forward(self, X: Tensor) -> Output:
        """X (B, T, K, D), any float precision -> logits (B, T, C), attention (B, T, K)."""
        dtype = self.head.hidden.weight.dtype
        T = X.shape[1]
        h_0, c_0 = self.initial_state(X.mean(dim=(1, 2), dtype=dtype))  # Eq. 6
        h, c = list(h_0.unbind()), list(c_0.unbind())
        cells = [self._cell(layer) for layer in range(self.lstm.num_layers)]
        masks = [self._masks(X, weight.shape[1] - self.lstm.hidden_size, dtype) for weight, _ in cells]
        hidden, attention = [], []
        for t in range(T):
            X_t = X[:, t].to(dtype)  # (B, K, D)
            l_t = self.attention(h[-1], self.attention.context(X_t))  # type: ignore[arg-type]  # Eq. 4
            x_t = torch.einsum("bk,bkd->bd", l_t, X_t)  # Eq. 5
            for layer, (weight, bias) in enumerate(cells):
                x_t = x_t if masks[layer] is None else x_t * masks[layer][t]  # type: ignore[index]
                gates = F.linear(torch.cat([x_t, h[layer]], dim=1), weight, bias)  # M (x_t, h_{t-1}), Eq. 1
                i, f, g, o = gates.chunk(4, dim=1)
                c[layer] = torch.sigmoid(f) * c[layer] + torch.sigmoid(i) * torch.tanh(g)  # Eq. 2
                h[layer] = torch.sigmoid(o) * torch.tanh(c[layer])  # Eq. 3
                x_t = h[layer]
            hidden.append(h[-1])
            attention.append(l_t)
        return Output(self.head(torch.stack(hidden, dim=1)), torch.stack(attention, dim=1))

    def _cell(self, layer: int) -> tuple[Tensor, Tensor]:
        """M of one layer: (4H, inputs + H) and its bias (4H,)."""
        inputs, recurrent = getattr(self.lstm, f"weight_ih_l{layer}"), getattr(self.lstm, f"weight_hh_l{layer}")
        return torch.cat([inputs, recurrent], dim=1), getattr(self.lstm, f"bias_ih_l{layer}")

    def _masks(self, X: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
        """Dropout masks (T, B, width) of one site, drawn together, a fresh one for each step."""
        if not self.training or self.dropout == 0.0:
            return None
        ones = torch.ones(X.shape[1], X.shape[0], width, device=X.device, dtype=dtype)
        return F.dropout(ones, self.dropout)
