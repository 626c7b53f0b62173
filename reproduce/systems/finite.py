"""Numbers that are not finite end a run before anything is saved that was made with them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_modules.recognizer import Recognizer

ADVICE = "Nothing of this epoch was saved. Try a smaller optim.lr, or trainer.precision=32-true"


class LossWatch:
    """Remembers the first loss that is not finite, on the device, without making it wait."""

    def __init__(self) -> None:
        self.begin(torch.device("cpu"))

    def begin(self, device: torch.device) -> None:
        """Forget all."""
        self._step = torch.full((), math.inf, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
        self._value = torch.zeros((), device=device)

    def see(self, loss: Tensor, step: int) -> None:
        """Look at a step's loss.

        Args:
            loss: a scalar.
            step: its number, from 1.
        """
        first = ~loss.isfinite() & self._step.isinf()
        self._step = torch.where(first, step, self._step)
        self._value = torch.where(first, loss.detach().to(self._value.dtype), self._value)

    def require_finite(self, epoch: int, stage: str) -> None:
        """Wait for the device, and raise if a loss was not finite.

        Raises:
            FloatingPointError: names epoch, step and stage.
        """
        if math.isfinite(float(self._step)):
            step, value = int(self._step), float(self._value)
            raise FloatingPointError(f"the training loss of epoch {epoch} is {value} at step {step} of {stage}. {ADVICE}")


def require_finite_weights(recognizer: Recognizer, epoch: int, stage: str) -> None:
    """Check what the last steps of an epoch left: their losses were computed before their updates.

    Raises:
        FloatingPointError: names epoch, stage and weight.
    """
    weights = dict(recognizer.network.named_parameters())
    finite = torch.stack([weight.detach().isfinite().all() for weight in weights.values()]).tolist()
    if not all(finite):
        name = list(weights)[finite.index(False)]
        raise FloatingPointError(f"after epoch {epoch} of {stage}, the weights {name} are not finite. {ADVICE}")


def require_finite_scores(recognizer: Recognizer, what: str) -> None:
    """Check an evaluation's scores: the largest of several that are not finite is the first, and looks like a prediction.

    Args:
        recognizer: after an evaluation.
        what: which videos, for the message.

    Raises:
        FloatingPointError: says how many videos.
    """
    assert recognizer.scores is not None
    bad = int((~recognizer.scores.mean.isfinite().all(dim=1)).sum())
    if bad:
        raise FloatingPointError(
            f"the scores of {bad} of {len(recognizer.scores.mean)} {what}, are not finite. Try trainer.precision=32-true, or "
            "a smaller optim.lr"
        )
