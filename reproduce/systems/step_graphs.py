"""When a stage's training steps are replayed as a CUDA graph, ``trainer.cuda_graph``."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.recognizer import Recognizer
from lightning_modules.step_graph import EAGER, StepGraph


class StepGraphs(Callback):
    """Lends a module a graph of its training step while a stage is fitted; where it cannot, it says why in a line.

    Args:
        asked: ``auto`` or ``off``.
    """

    def __init__(self, asked: str) -> None:
        self.asked = asked

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lend it; on the CPU there is nothing to lend."""
        if self.asked == "off" or pl_module.device.type != "cuda":
            return
        if why := obstacle(trainer, pl_module):
            if trainer.is_global_zero:
                print(f"{EAGER}: {why}", flush=True)
            return
        assert isinstance(pl_module, Recognizer)
        pl_module.graph = StepGraph(pl_module.batch_cost, pl_module.network.parameters(), pl_module.device)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Free its memory, and the gradients that lie there."""
        if isinstance(pl_module, Recognizer) and pl_module.graph is not None:
            pl_module.graph = None
            pl_module.zero_grad()


def obstacle(trainer: Trainer, module: LightningModule) -> str | None:
    """Say what of a stage is not of the kind that a graph repeats; None where nothing is."""
    if type(module) is not Recognizer:  # one that is derived from it may draw, or count, on the host
        return f"{type(module).__name__} has steps that differ from each other"
    if trainer.world_size > 1:
        return "several processes sum their gradients within the backward pass"
    if trainer.precision == "16-mixed":
        return "trainer.precision=16-mixed scales the loss by what earlier gradients were"
    return None
