"""Optimisers: torch's Adam and SGD, and the Adam that the released code computes (protocol §3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class ReleasedAdam(Optimizer):
    """Adam with the released code's bias correction, which confuses β with 1 - β.

    ``m ← 0.9 m + 0.1 g``, ``v ← 0.999 v + 0.001 g²``, ``θ ← θ - lr · sqrt(1 - 0.001^t) / (1 - 0.1^t) · m / (sqrt(v) + ε)``.
    Against Adam the effective step is ×3.5 at t = 1, ×6.5 at t = 10, ×3.2 at t = 100, ×1.03 at t = 3000.

    Args:
        params: θ.
        lr: learning rate.
        betas: decay of m and v; the correction uses 1 - β where Adam uses β.
        eps: ε.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 2e-4, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter once, and return the closure's value."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            states = [self.state[parameter] for parameter in parameters]
            for parameter, state in zip(parameters, states, strict=True):
                if not state:
                    state["step"] = 0
                    state["m"] = torch.zeros_like(parameter)
                    state["v"] = torch.zeros_like(parameter)
                state["step"] += 1
            gradients = [parameter.grad for parameter in parameters]
            m, v = ([state[name] for state in states] for name in ("m", "v"))
            torch._foreach_lerp_(m, gradients, 1 - beta1)
            torch._foreach_mul_(v, beta2)
            torch._foreach_addcmul_(v, gradients, gradients, value=1 - beta2)
            steps = [state["step"] for state in states]
            rates = [-group["lr"] * math.sqrt(1 - (1 - beta2) ** t) / (1 - (1 - beta1) ** t) for t in steps]
            spread = torch._foreach_sqrt(v)
            torch._foreach_add_(spread, group["eps"])
            torch._foreach_addcdiv_(parameters, m, spread, rates)
        return loss


def build_optimizer(
    parameters: Iterable[Tensor], name: str, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Optimizer:
    """Build ``adam``, ``released_adam`` or ``sgd`` (plain, no momentum); weight decay is part of the loss (Eq. 7).

    Raises:
        ValueError: another name.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if name == "adam":
        return torch.optim.Adam(trainable, lr=lr, betas=betas, eps=eps)
    if name == "released_adam":
        return ReleasedAdam(trainable, lr=lr, betas=betas, eps=eps)
    if name == "sgd":
        return torch.optim.SGD(trainable, lr=lr)
    raise ValueError(f"optimiser {name!r} is none of adam, released_adam, sgd")
