"""The LightningModule that trains a composite LSTM, on blocks without labels."""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_modules.composite import OBSERVED, CompositeLSTM, targets
from lightning_modules.metrics import BlockMean, VideoScores


class Pretraining(LightningModule):
    """Trains a composite LSTM on blocks of 29 frames, whatever their classes.

    ``L = ½ Σ_t ‖v̂_t - v_t‖²``, each decoder's part with its weight, averaged over blocks; a short video's repeated frames do
    not count. It expects batches as ``datamodules.unlabelled`` gives them.

    Logged: ``train/loss``, L over the epoch's blocks; ``val/explained``, 1 - L / L(v̂ = 0) over the held-out ones.

    Args:
        network: the model.
        scale: the features' root mean square, which they are divided by.
        weights: of reconstruction and of prediction.
        lr: learning rate of Adam.
    """

    scores: VideoScores | None = None
    """None: there are no classes."""

    def __init__(
        self, network: CompositeLSTM, scale: float, weights: tuple[float, float] = (1.0, 1.0), lr: float = 1e-4
    ) -> None:
        super().__init__()
        self.network, self.scale, self.weights, self.lr = network, scale, weights, lr
        self.means = nn.ModuleDict({name: BlockMean() for name in ("loss", "cost", "energy")})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, constant learning rate."""
        return torch.optim.Adam([one for one in self.network.parameters() if one.requires_grad], self.lr)

    def costs(self, v: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """L of each block, and L where nothing is decoded.

        Args:
            v: (B, 29, D) features as they are stored.
            own: (B, 29) whether a frame is the video's own, and not its last one again.

        Returns:
            (B,) and (B,).
        """
        v = v / self.scale
        cost, energy = v.new_zeros(len(v)), v.new_zeros(len(v))
        decoded = self.network(v[:, :OBSERVED])
        for weight, found, true, counts in zip(self.weights, decoded, targets(v), targets(own), strict=True):
            cost = cost + weight / 2 * ((found.float() - true).square().sum(dim=2) * counts).sum(dim=1)
            energy = energy + weight / 2 * (true.square().sum(dim=2) * counts).sum(dim=1)
        return cost, energy

    def training_step(self, batch: Any, _: int) -> Tensor:
        """L of this rank's share of a global batch."""
        cost = self.costs(batch.frames, batch.own)[0]
        self._mean("loss").update(cost.detach(), batch.weight)
        loss = (cost * batch.weight).sum() * self.trainer.world_size / batch.batch_size
        self.log("train/step_loss", loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean over all blocks of all ranks."""
        self.log("train/loss", self._mean("loss").compute())
        self._mean("loss").reset()

    def validation_step(self, batch: Any, _: int) -> None:
        """Add some held-out blocks."""
        for name, value in zip(("cost", "energy"), self.costs(batch.frames, batch.own), strict=True):
            self._mean(name).update(value, batch.weight)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/explained``."""
        cost, energy = (self._mean(name).compute() for name in ("cost", "energy"))
        for name in ("cost", "energy"):
            self._mean(name).reset()
        self.log("val/explained", 1 - cost / energy.clamp_min(torch.finfo(energy.dtype).tiny))

    def _mean(self, name: str) -> BlockMean:
        return cast(BlockMean, self.means[name])
