"""An LSTM cell as one kernel, forward and backward: torch's own, of which there is one on CUDA's GPUs alone.

The operators are private to torch: where they are absent or refuse, `fuses` says so, and plain operations take their place.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def fuses(device: str) -> bool:
    """Try whether this torch has the fused cell on a type of device, such as ``cuda``."""
    if device != "cuda":
        return False
    try:
        gates, c = torch.zeros(1, 4, device=device), torch.zeros(1, 1, device=device)
        _, after, sigmoids = fused_cell(gates, gates, c, gates[0], gates[0])
        fused_cell_backward(c, c, c, after, sigmoids)
        return True
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # absent; not for this device; another signature
        return False


def fused_cell(z: Tensor, more: Tensor, c: Tensor, bias: Tensor, more_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute Eqs. 1-3 from products: gates of ``z + more + bias + more_bias`` in torch's order i, f, g, o.

    Args:
        z, more: (B, 4H), of which one may be zeros.
        c: c_{t-1} (B, H).
        bias, more_bias: (4H,).

    Returns:
        h_t (B, H), c_t (B, H), the gates after their nonlinearities (B, 4H).
    """
    return torch.ops.aten._thnn_fused_lstm_cell(z, more, c, bias, more_bias)


def fused_cell_backward(d_h: Tensor, d_c: Tensor, before: Tensor, after: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of a cell.

    Args:
        d_h, d_c: of h_t and c_t (B, H).
        before, after: c_{t-1} and c_t (B, H).
        gates: as `fused_cell` returns them (B, 4H).

    Returns:
        Gradients of the gates before their nonlinearities (B, 4H), and of c_{t-1} (B, H).
    """
    return torch.ops.aten._thnn_fused_lstm_cell_backward_impl(d_h, d_c, before, after, gates, False)[:2]
