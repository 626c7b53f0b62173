"""Layers that all networks are made of: affine maps and LSTM stacks with the released code's initialisation, dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WEIGHT_STD = 0.01  # released code: N(0, 0.01²) for matrices that are not square


def initialised_linear(inputs: int, outputs: int, bias: bool = True, orthogonal_if_square: bool = True) -> nn.Linear:
    """Build an affine map with the released code's initialisation and zero bias."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    initialise_matrix(linear.weight.data, orthogonal_if_square)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def build_lstm(inputs: int, hidden_dim: int, num_layers: int, dropout: float) -> nn.LSTM:
    """Build an LSTM stack with the paper's parameters: one bias a gate, no peepholes, all biases 0 (Eqs. 1-3).

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


def run_lstm(lstm: nn.LSTM, x: Tensor, h_0: Tensor, c_0: Tensor) -> Tensor:
    """Run an LSTM stack, x (B, T, D), h_0 and c_0 (L, B, H) -> (B, T, H); where cuDNN would drop out, layer by layer."""
    drops = lstm.training and lstm.dropout and lstm.num_layers > 1
    return run_layers(lstm, x, h_0, c_0) if drops and x.device.type != "cpu" else lstm(x, (h_0, c_0))[0]


def run_layers(lstm: nn.LSTM, x: Tensor, h_0: Tensor, c_0: Tensor) -> Tensor:
    """Run an LSTM stack as `run_lstm` does, with dropout masks of our own: to the bit what torch's LSTM computes on the CPU.

    cuDNN's dropout between layers has a state of its own, which seeding makes anew each time, in milliseconds.
    """
    for layer in range(lstm.num_layers):
        if layer:
            B, T, H = x.shape
            kept = 1 - lstm.dropout
            mask = torch.empty(T, B, H, dtype=h_0.dtype, device=x.device).bernoulli_(kept).div_(kept or 1.0)
            x = x * mask.transpose(0, 1)
        weights = [getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        states = (h_0[layer : layer + 1], c_0[layer : layer + 1])
        x = torch.lstm(
            x, states, weights, has_biases=True, num_layers=1, dropout=0.0, train=True, bidirectional=False, batch_first=True
        )[0]
    return x


def layer_masks(lstm: nn.LSTM, dropout: Dropout, steps: int, like: Tensor) -> list[Tensor | None]:
    """Draw the dropout masks of every LSTM layer's input, (T, B, D) and (T, B, H), layer by layer.

    Args:
        lstm: the stack.
        dropout: of its sites.
        steps: T.
        like: (B, …) on the masks' device and in their precision.
    """
    widths = [lstm.input_size] + [lstm.hidden_size] * (lstm.num_layers - 1)
    return [dropout.mask((steps, len(like), width), like) for width in widths]


def initialise_matrix(weight: Tensor, orthogonal_if_square: bool = True) -> None:
    """Fill a matrix from N(0, 0.01²), or with a random orthogonal one where it is square (released code)."""
    if orthogonal_if_square and weight.shape[0] == weight.shape[1]:
        nn.init.orthogonal_(weight)
    else:
        nn.init.normal_(weight, std=WEIGHT_STD)


class Dropout(nn.Module):
    """Inverted dropout: kept values are scaled by 1 / (1 - p), so that the mean stays.

    Args:
        p: probability of a zero.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the identity outside of training."""
        mask = self.mask(tuple(x.shape), x)
        return x if mask is None else x * mask

    def mask(self, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Draw a mask on the device and in the precision of ``like``; None where nothing is dropped."""
        return dropout_mask(shape, self.p, like) if self.training and self.p > 0 else None


def seed_masks(device: torch.device, seed: int) -> None:
    """Seed the generator that draws masks on a device, and no other: ``torch.manual_seed`` sees to all, and takes 0.2 ms."""
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def dropout_mask(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """Draw zeros with probability p, and else 1 / (1 - p), in the precision of ``like``.

    A uniform number for each element: torch's own Bernoulli generator takes four times as long on the CPU.
    """
    return (torch.rand(shape, device=like.device) >= p).to(like.dtype).div_(1 - p or 1.0)
