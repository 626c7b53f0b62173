"""The composite LSTM of Srivastava, Mansimov and Salakhutdinov (2015), and the LSTM classifier that it is for.

An encoder reads 16 frames. From its last state one decoder gives them back in reverse, another the 13 that follow. Then the
encoder's weights begin a classifier, which names the class at each of 16 steps.

Shapes: B blocks, T time steps, D feature channels, H hidden size, C classes, L LSTM layers.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from lightning_modules.frames import Frames, Output, Rows, pool_frames, run_blocks
from lightning_modules.layers import Dropout, build_lstm, initialised_linear

OBSERVED, FUTURE = 16, 13  # frames that the encoder reads, and that follow them


class LSTMClassifier(nn.Module):
    """An LSTM stack over pooled features from a state of zeros, and class scores at every step.

    ``logits_t = W dropout(h_t) + b``, h of the top layer, which reads ``mean_i X_{t,i} / scale``. Dropout acts between layers
    and before the scores, never on ``h_{t-1} → h_t``. A block's prediction is the mean over steps.

    Args:
        channels: D.
        num_classes: C.
        hidden_dim: H.
        num_layers: L.
        dropout: probability of a zero at every site.
    """

    inputs: tuple[str, ...] = ("mean",)
    block_length = OBSERVED
    scale: Tensor
    """Root mean square of the features, a scalar, which they are divided by."""

    def __init__(
        self, channels: int, num_classes: int, hidden_dim: int = 2048, num_layers: int = 2, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.encoder = build_lstm(channels, hidden_dim, num_layers, dropout)
        self.dropout = Dropout(dropout)
        self.classes = initialised_linear(hidden_dim, num_classes)

    def forward(self, X: Tensor) -> Output:
        """X (B, T, K, D), any float precision -> logits (B, T, C), no attention."""
        return run_blocks(self, pool_frames(X, self.inputs))

    def per_frame(self, frames: Frames) -> tuple[Tensor, ...]:
        """The pooled features (…, D)."""
        assert frames.mean is not None
        return (frames.mean,)

    def over_time(self, evidence: tuple[Tensor | Rows, ...], mean: Tensor | None) -> Output:
        """Pooled features (B, T, D) -> logits (B, T, C), no attention."""
        v = cast(Tensor, evidence[0]).to(self.classes.weight.dtype) / self.scale  # (B, T, D)
        h, _ = self.encoder(v)  # (B, T, H)
        return Output(self.classes(self.dropout(h)), None)


class CompositeLSTM(nn.Module):
    """An auto-encoder of 16 frames that also predicts the 13 after them.

    The state (h, c) of all layers after frame 16 is both decoders' state before their first step. Decoders have no input
    (unconditioned), and no peepholes.

    Args:
        encoder: of a classifier; it is copied, without its dropout.
        mean: (D,) mean of the scaled features, which the decoders begin with.
        rectified: whether no feature is below zero; then what decoders give is not either.

    Source: Srivastava et al., and ``lstm_combo`` in their mansimov/unsupervised-videos.
    """

    def __init__(self, encoder: nn.LSTM, mean: Tensor, rectified: bool) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.encoder.dropout = 0.0
        self.reconstruction, self.prediction = (Decoder(encoder.hidden_size, encoder.num_layers, mean) for _ in range(2))
        self.rectified = rectified

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """v (B, 16, D) -> v̂_16 … v̂_1 (B, 16, D), v̂_17 … v̂_29 (B, 13, D)."""
        _, state = self.encoder(v)  # (L, B, H) each
        found = self.reconstruction(state, OBSERVED), self.prediction(state, FUTURE)
        return tuple(part.relu() for part in found) if self.rectified else found  # type: ignore[return-value]


class Decoder(nn.Module):
    """An LSTM stack without input, and an affine map of its top layer at every step.

    Args:
        hidden_dim: H.
        num_layers: L.
        mean: (D,) what it gives where h is zero.
    """

    def __init__(self, hidden_dim: int, num_layers: int, mean: Tensor) -> None:
        super().__init__()
        self.lstm = build_lstm(1, hidden_dim, num_layers, 0.0)
        nn.init.zeros_(self.lstm.get_parameter("weight_ih_l0").requires_grad_(False))
        self.features = initialised_linear(hidden_dim, len(mean))
        self.features.bias.data.copy_(mean)

    def forward(self, state: tuple[Tensor, Tensor], steps: int) -> Tensor:
        """State (L, B, H) each -> (B, steps, D)."""
        h, _ = self.lstm(state[0].new_zeros(state[0].shape[1], steps, 1), state)  # (B, steps, H)
        return self.features(h)


def targets(v: Tensor) -> tuple[Tensor, Tensor]:
    """What the decoders are to give of 29 frames: (B, 29, …) -> v_16 … v_1 (B, 16, …), v_17 … v_29 (B, 13, …)."""
    return v[:, :OBSERVED].flip(1), v[:, OBSERVED : OBSERVED + FUTURE]
