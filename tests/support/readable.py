"""The soft attention model as one reads it in the paper, and blocks stacked one by one as protocol §4 numbers them.

Plain loops over steps and layers on a ``SoftAttentionLSTM``'s own parameters, left to automatic differentiation: what
the fast implementation must equal, forward and backward.

Shapes: B blocks, T time steps, K locations, D feature channels, H hidden size, C classes, L LSTM layers, F frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_modules.attention import ContentAttention, LocationAttention, SoftAttentionLSTM
from lightning_modules.frames import Output


def forward(
    network: SoftAttentionLSTM,
    X: Tensor,
    masks: list[Tensor] | None = None,
    head_masks: tuple[Tensor, Tensor] | None = None,
) -> Output:
    """Eqs. 1-6 of X (B, T, K, D), with given dropout masks: (T, B, inputs) for each layer, two of (B, T, H) for the head."""
    X = X.to(network.head.hidden.weight.dtype)
    h, c = initial_state(network, X)
    hidden, attention = [], []
    for t in range(X.shape[1]):
        l_t = location_softmax(network.attention, h[-1], X[:, t])
        x_t = (l_t[:, :, None] * X[:, t]).sum(dim=1)  # Eq. 5
        for layer in range(network.lstm.num_layers):
            x_t = x_t if masks is None else masks[layer][t] * x_t
            h[layer], c[layer] = lstm_step(network.lstm, layer, x_t, h[layer], c[layer])
            x_t = h[layer]
        hidden.append(h[-1])
        attention.append(l_t)
    return Output(head(network, torch.stack(hidden, dim=1), head_masks), torch.stack(attention, dim=1))


def affine(linear: nn.Linear, x: Tensor) -> Tensor:
    """``W x + b``."""
    return x @ linear.weight.T + (0 if linear.bias is None else linear.bias)


def initial_state(network: SoftAttentionLSTM, X: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Eq. 6: h_0 and c_0 of every layer, each (B, H)."""
    mean = X.mean(dim=2).mean(dim=1)
    h_0 = [torch.tanh(affine(layer, mean)) for layer in network.initial_state.hidden]
    c_0 = [torch.tanh(affine(layer, mean)) for layer in network.initial_state.cell]
    return h_0, c_0


def location_softmax(attention: LocationAttention | ContentAttention, h: Tensor, X_t: Tensor) -> Tensor:
    """l_t (B, K) of h_{t-1} (B, H): Eq. 4, or the released code's scores of every location of X_t (B, K, D)."""
    if isinstance(attention, LocationAttention):
        return torch.softmax(affine(attention.locations, h), dim=1)  # Eq. 4
    a = affine(attention.content, X_t)
    for number, layer in enumerate(attention.extra):
        a = affine(layer, a)
        a = a if number == len(attention.extra) - 1 else torch.tanh(a)
    e = affine(attention.score, torch.tanh(a + affine(attention.state, h)[:, None, :]))  # (B, K, 1)
    return torch.softmax(e[:, :, 0], dim=1)


def lstm_step(lstm: nn.LSTM, layer: int, x_t: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """h_t and c_t (B, H) of one layer."""
    M = torch.cat([getattr(lstm, f"weight_ih_l{layer}"), getattr(lstm, f"weight_hh_l{layer}")], dim=1)
    gates = torch.cat([x_t, h], dim=1) @ M.T + getattr(lstm, f"bias_ih_l{layer}")  # Eq. 1
    i, f, g, o = gates.chunk(4, dim=1)  # torch's order
    c_t = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)  # Eq. 2
    return torch.sigmoid(o) * torch.tanh(c_t), c_t  # Eq. 3


def head(network: SoftAttentionLSTM, h: Tensor, masks: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Class scores (B, T, C) of h (B, T, H)."""
    first, second = (1, 1) if masks is None else masks
    return affine(network.head.classes, second * torch.tanh(affine(network.head.hidden, first * h)))


def stacked(frames: Tensor, steps: int, skip: int = 1, stride: int = 1) -> Tensor:
    """Every block of a video's frames (F, …), copied frame by frame: (B, T, …); a short video's last frame is repeated."""
    if len(frames) < steps * skip:
        own = list(range(0, len(frames), skip))
        return torch.stack([frames[own + [own[-1]] * (steps - len(own))]])
    starts = range(0, len(frames) - steps * skip + 1, stride)
    return torch.stack([torch.stack([frames[start + t * skip] for t in range(steps)]) for start in starts])
