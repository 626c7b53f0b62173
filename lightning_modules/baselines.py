"""The paper's baselines (§4.2.1), with the attention model's call signature: X (B, T, K, D) -> ``Output``."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.attention import Head, InitialState, Output, build_lstm, initialised_linear


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
        self.dropout = dropout if input_dropout else 0.0
        self.initial_state = InitialState(channels, hidden_dim, num_layers)
        self.lstm = build_lstm(channels, hidden_dim, num_layers, self.dropout)
        self.head = Head(hidden_dim, num_classes, dropout)

    def forward(self, X: Tensor) -> Output:
        """X (B, T, K, D), any float precision -> logits (B, T, C), no attention."""
        mean = X.mean(dim=2, dtype=self.head.hidden.weight.dtype)  # (B, T, D)
        pooled = mean if self.pooling == "mean" else X.amax(dim=2).to(mean.dtype)
        h_0, c_0 = self.initial_state(mean.mean(dim=1))  # Eq. 6
        h, _ = self.lstm(F.dropout(pooled, self.dropout, self.training), (h_0, c_0))
        return Output(self.head(h), None)


class SoftmaxRegression(nn.Module):
    """Classes from the flattened feature cube of each frame by itself: ``logits_t = W vec(X_t) + b``, no dropout.

    Args:
        locations: K.
        channels: D.
        num_classes: C.
    """

    def __init__(self, locations: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classes = initialised_linear(locations * channels, num_classes)

    def forward(self, X: Tensor) -> Output:
        """X (B, T, K, D), any float precision -> logits (B, T, C), no attention."""
        return Output(self.classes(X.flatten(2).to(self.classes.weight.dtype)), None)
