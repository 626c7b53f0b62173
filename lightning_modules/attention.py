"""The paper's model: location or content attention over the feature cube, a multi-layer LSTM, a head (Eqs. 1-6).

Shapes: B blocks, T time steps, K locations, D feature channels, H hidden size, C classes, L LSTM layers.
Locations are numbered row by row. Plain ``nn.Module`` mathematics: nothing here knows of Lightning or configurations.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from lightning_modules.frames import Frames, Output, Rows, pool_frames, run_blocks
from lightning_modules.recurrence import Layer, attend_over_time

WEIGHT_STD = 0.01  # released code: N(0, 0.01²) for matrices that are not square


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


def dropout_mask(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """Zeros with probability p, and 1 / (1 - p), in the precision of ``like``.

    A uniform number for each element: torch's own Bernoulli generator takes four times as long on the CPU.
    """
    return (torch.rand(shape, device=like.device) >= p).to(like.dtype).div_(1 - p or 1.0)


class Dropout(nn.Module):
    """Inverted dropout.

    Args:
        p: probability of a zero.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the identity outside of training."""
        return x * dropout_mask(tuple(x.shape), self.p, x) if self.training and self.p > 0 else x


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
        self.dropout = Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, C)."""
        return self.classes(self.dropout(torch.tanh(self.hidden(self.dropout(h)))))


class LocationAttention(nn.Module):
    """W of Eq. 4 as printed: ``l_t = softmax(W h_{t-1})``, h of the top layer. It does not see X_t.

    Args:
        hidden_dim: H.
        locations: K.
    """

    def __init__(self, hidden_dim: int, locations: int) -> None:
        super().__init__()
        self.locations = initialised_linear(hidden_dim, locations, bias=False, orthogonal_if_square=False)


class ContentAttention(nn.Module):
    """What the released code's attention (Show, Attend and Tell) learns: ``e_i = u·tanh(g(X_{t,i}) + W_d h_{t-1}) + c``.

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
        return run_blocks(self, pool_frames(X, self.inputs))

    def per_frame(self, frames: Frames) -> tuple[Tensor | Rows, ...]:
        """X (…, K, D), and with content attention g(X), which sees no other frame."""
        if isinstance(self.attention, LocationAttention):
            assert frames.cube is not None
            return (frames.cube,)
        X = frames.all_cubes()
        return X, self.attention.context(X.to(self.head.hidden.weight.dtype))

    def over_time(self, evidence: tuple[Tensor | Rows, ...], mean: Tensor | None) -> Output:
        """X (B, T, K, D), with content attention g(X) too, and x̄ (B, D) -> logits (B, T, C), attention (B, T, K)."""
        assert mean is not None
        X, *g = evidence
        precision, device = self.head.hidden.weight.dtype, mean.device.type
        if torch.is_autocast_enabled(device):
            precision = torch.get_autocast_dtype(device)
        mean = mean.to(self.head.hidden.weight.dtype)
        h_0, c_0 = (state.to(mean.dtype) for state in self.initial_state(mean))  # Eq. 6
        steps = (X.rows if isinstance(X, Rows) else X).shape[1]
        layers = [self._layer(number, steps, mean, precision) for number in range(self.lstm.num_layers)]
        if isinstance(self.attention, LocationAttention):
            weight = self.attention.locations.weight.to(precision)
            hidden, attention = attend_over_time(X, h_0, c_0, layers, location=weight)
        else:
            # The bias c of the scores moves all locations alike: the softmax does not see it, nor does its gradient.
            state, score = self.attention.state.weight.to(precision), self.attention.score.weight[0].to(precision)
            content = (cast(Tensor, g[0]).to(precision), state, score)
            hidden, attention = attend_over_time(X, h_0, c_0, layers, content=content)
        return Output(self.head(hidden), attention)

    def _layer(self, number: int, steps: int, like: Tensor, precision: torch.dtype) -> Layer:
        """One layer's M, with torch's gates i, f, g, o in the order i, f, o, g: three sigmoids, then the tanh."""
        matrices = (getattr(self.lstm, f"weight_{kind}_l{number}") for kind in ("ih", "hh"))
        i, f, g, o = torch.cat(tuple(matrices), dim=1).to(precision).chunk(4)
        bias_i, bias_f, bias_g, bias_o = getattr(self.lstm, f"bias_ih_l{number}").chunk(4)
        weight, bias = torch.cat([i, f, o, g]), torch.cat([bias_i, bias_f, bias_o, bias_g])
        mask = None
        if self.training and self.dropout > 0:
            shape = (steps, len(like), weight.shape[1] - self.lstm.hidden_size)
            mask = dropout_mask(shape, self.dropout, like)
        return Layer(weight, bias, mask)
