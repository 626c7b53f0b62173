"""The paper's baselines (§4.2.1), called as the attention model is: X (B, T, K, D) -> ``Output``.

Shapes: B blocks, T time steps, K locations, D feature channels, H hidden size, C classes, L LSTM layers.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from lightning_modules.attention import Head, InitialState
from lightning_modules.frames import Frames, Output, Rows, pool_frames, run_blocks
from lightning_modules.layers import Dropout, build_lstm, initialised_linear, run_lstm


class PooledLSTM(nn.Module):
    """The attention model without its location softmax: x_t is the mean or the maximum of X_t over locations.

    Args:
        channels: D.
        num_classes: C.
        pooling: ``mean`` or ``max``. h_0 and c_0 come from the mean (Eq. 6) in either case.
        hidden_dim: H.
        num_layers: L.
        dropout: probability of a zero at every site.
        input_dropout: whether x_t and the connections between LSTM layers are dropout sites too.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        pooling: str,
        hidden_dim: int = 512,
        num_layers: int = 3,
        dropout: float = 0.5,
        input_dropout: bool = True,
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "max"):
            raise ValueError(f"pooling={pooling!r} is neither 'mean' nor 'max'")
        self.pooling = pooling
        self.inputs: tuple[str, ...] = ("mean",) if pooling == "mean" else ("mean", "max")
        self.dropout = Dropout(dropout if input_dropout else 0.0)
        self.initial_state = InitialState(channels, hidden_dim, num_layers)
        self.lstm = build_lstm(channels, hidden_dim, num_layers, self.dropout.p)
        self.head = Head(hidden_dim, num_classes, dropout)

    def forward(self, X: Tensor) -> Output:
        """X (B, T, K, D), any float precision -> logits (B, T, C), no attention."""
        return run_blocks(self, pool_frames(X, self.inputs))

    def per_frame(self, frames: Frames) -> tuple[Tensor, ...]:
        """The pooled x_t (…, D)."""
        pooled = frames.mean if self.pooling == "mean" else frames.max
        assert pooled is not None
        return (pooled,)

    def over_time(self, evidence: tuple[Tensor | Rows, ...], mean: Tensor | None) -> Output:
        """x (B, T, D) and x̄ (B, D) -> logits (B, T, C), no attention."""
        assert mean is not None
        dtype = self.head.hidden.weight.dtype
        x = cast(Tensor, evidence[0])
        h_0, c_0 = self.initial_state(mean.to(dtype))  # Eq. 6: (L, B, H) each
        h = run_lstm(self.lstm, self.dropout(x.to(dtype)), h_0, c_0)  # Eqs. 1-3: (B, T, H)
        return Output(self.head(h), None)  # (B, T, C)


class SoftmaxRegression(nn.Module):
    """An affine map of each frame's flattened feature cube, by itself: ``logits_t = W vec(X_t) + b``, no dropout.

    Args:
        locations: K.
        channels: D.
        num_classes: C.
    """

    inputs: tuple[str, ...] = ("cube",)

    def __init__(self, locations: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classes = initialised_linear(locations * channels, num_classes)

    def forward(self, X: Tensor) -> Output:
        """X (B, T, K, D), any float precision -> logits (B, T, C), no attention."""
        return run_blocks(self, pool_frames(X, self.inputs))

    def per_frame(self, frames: Frames) -> tuple[Tensor, ...]:
        """Class scores of each frame (…, C): all there is to do."""
        x = frames.all_cubes().flatten(-2)  # (…, K · D)
        return (self.classes(x.to(self.classes.weight.dtype)),)

    def over_time(self, evidence: tuple[Tensor | Rows, ...], mean: Tensor | None) -> Output:
        """Class scores (B, T, C), as they are; a frame that several blocks hold was scored once."""
        return Output(cast(Tensor, evidence[0]), None)
