"""Spatial and temporal stream ConvNets: their networks, and the LightningModule that trains and tests them.

Shapes: N images, F frames of a video, C classes, D channels of the network's map, L stacked fields, s a crop's side.

Source: Simonyan & Zisserman, Two-stream convolutional networks for action recognition in videos, NIPS 2014. The cross-modality
initialisation is of Wang et al., Towards good practices for very deep two-stream ConvNets, 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.backbone import Backbone, BackboneError
from lightning_modules.crops import CENTRE, CROPS, followed, jittered, random_crops, stacked, ten_crops
from lightning_modules.metrics import BlockMean, VideoMetric, VideoScores, summarise
from lightning_modules.objective import classification_cost
from lightning_modules.recognizer import VideoScorer

TOGETHER = 5  # frames whose ten crops pass through a network at once


class LastLayer(nn.Module):
    """The last layer alone, on stored features of a frozen network's crops: W dropout(x) + b.

    Args:
        channels: D.
        num_classes: C.
        dropout: probability of a zero in x.
    """

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout, self.last = nn.Dropout(dropout), _last(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> logits (N, C)."""
        return self.last(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees, (N, D)."""
        return self.dropout(x.float())

    def drawn(self, x: Tensor) -> Tensor:
        """A training batch (N, D) as it is: its crops were drawn already."""
        return x

    def views(self, x: Tensor) -> Tensor:
        """A video's crops (F, 10, D) as they are."""
        return x


class CropNetwork(nn.Module):
    """A whole network on crops of frames or of stacked flow: its map's mean over locations, then the last layer.

    Args:
        backbone: whose weights are trained too.
        channels: D.
        num_classes: C.
        dropout: probability of a zero at the last layer's input.
        crop: side of a crop in pixels.
        size: that crops are brought to, bilinear.
        flow: whether the images are stacks of fields.
        second: classes of a second data set, which has a last layer of its own; 0 for none.
        follow: whether fields are stacked along trajectories.
    """

    def __init__(
        self,
        backbone: Backbone,
        channels: int,
        num_classes: int,
        dropout: float,
        crop: int,
        size: int,
        flow: bool,
        second: int = 0,
        follow: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(True)
        self.dropout, self.last = nn.Dropout(dropout), _last(channels, num_classes)
        self.second = _last(channels, second) if second else None
        self.crop, self.size, self.flow, self.follow = crop, size, flow, follow
        self.train()  # a backbone is frozen when it is made

    def forward(self, x: Tensor) -> Tensor:
        """Crops (N, C, s, s) -> logits (N, classes)."""
        return self.last(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the last layers see of crops (N, C, s, s), (N, D)."""
        if x.shape[-1] != self.size:
            x = F.interpolate(x.float(), size=(self.size, self.size), mode="bilinear", align_corners=False)
        return self.dropout(self.backbone.map(x).mean(dim=(-2, -1)))

    def drawn(self, x: Tensor) -> Tensor:
        """One random crop of each image, mirrored or not; images with a random shift of their colours."""
        crops = random_crops(self._images(x), self.crop, self.flow)
        return crops if self.flow else jittered(crops)

    def views(self, x: Tensor) -> Tensor:
        """The ten crops of each image, (F, 10, C, s, s)."""
        return ten_crops(self._images(x), self.crop, self.flow)

    def _images(self, x: Tensor) -> Tensor:
        return (followed if self.follow else stacked)(x) if self.flow else x.float()


def _last(channels: int, num_classes: int) -> nn.Linear:
    layer = nn.Linear(channels, num_classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def cross_modality(backbone: Backbone, channels: int, scratch: bool = False) -> Backbone:
    """Let an image network take a stack of flow fields.

    The first convolution's filters become their mean over RGB, repeated for each channel; fields are scaled by the deviation
    that images were divided by.

    Args:
        backbone: an image network; it is changed, and is not frozen any more.
        channels: 2L.
        scratch: begin with random weights in the first convolution instead (He et al. 2015).

    Raises:
        BackboneError: the network does something else to its three channels first.
    """
    name, first = next(
        (name, one) for name, one in backbone.body.named_modules() if isinstance(one, nn.Conv2d) and one.in_channels == 3
    )
    shape = first.out_channels, first.kernel_size
    made = nn.Conv2d(channels, *shape, stride=first.stride, padding=first.padding, bias=first.bias is not None)  # type: ignore[arg-type]
    with torch.no_grad():
        if scratch:
            nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
        else:
            made.weight.copy_(first.weight.mean(dim=1, keepdim=True).expand_as(made.weight))
        if made.bias is not None and first.bias is not None:
            made.bias.copy_(first.bias)
    backbone.body.set_submodule(name, made)
    backbone.std, backbone.mean = backbone.std.mean().view(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    try:
        with torch.no_grad():
            backbone.map(torch.zeros(1, channels, 224, 224))
    except (RuntimeError, IndexError) as error:
        raise BackboneError(
            f"the network does not take {channels} channels ({str(error).splitlines()[0]}): it rescales those of images before "
            "its first convolution. Choose another backbone.name"
        ) from error
    return backbone.requires_grad_(True)


def pooled_views(backbone: Backbone, frames: Tensor, side: int) -> Tensor:
    """Compute a frozen network's features of the ten crops of each frame: (F, 3, h, w) uint8 -> (F, 10, D)."""
    found = []
    with torch.inference_mode():
        for part in frames.split(TOGETHER):
            crops = ten_crops(part, side)
            found.append(backbone.map(crops.flatten(0, 1)).float().mean(dim=(-2, -1)).unflatten(0, crops.shape[:2]))
    return torch.cat(found)


@dataclass(frozen=True)
class Solver:
    """Stochastic gradient descent with momentum, whose rate falls to a tenth at some steps.

    Args:
        lr: rate of the first steps.
        momentum: of the gradients.
        weight_decay: γ of γ/2 ‖W‖², biases apart.
        drops: numbers of the steps from which the rate is a tenth of what it was.
    """

    lr: float = 1e-2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    drops: tuple[int, ...] = ()


class StreamRecognizer(VideoScorer):
    """Trains a stream on drawn crops, and scores a video by the mean of its frames' ten crops.

    It expects batches as ``datamodules.streams`` gives them, and of the data module the ``targets`` and ``counts`` of a set.

    With a second data set, a batch has draws of both, which pass through the network together. The loss is the sum of both
    means; the second's last layer is of no use in the test.

    Logged: ``train/loss`` (cross-entropy, mean over the epoch's draws, of the first set alone); ``val/…`` and ``test/…`` as
    ``summarise`` names them, and the same of the centre crops alone as ``centre_crop_…``.

    Args:
        network: ``LastLayer`` or ``CropNetwork``.
        num_classes: C.
        multi_label: whether a video may have any number of labels.
        solver: of the loss.
        seed: a step's crops and dropout masks depend on (seed, step, rank) alone, so that a resumed run repeats them.
    """

    def __init__(
        self, network: LastLayer | CropNetwork, num_classes: int, multi_label: bool, solver: Solver, seed: int = 0
    ) -> None:
        super().__init__(seed)
        self.network, self.num_classes, self.multi_label = network, num_classes, multi_label
        self.solver = solver
        self.epoch_loss = BlockMean()
        self.videos: nn.ModuleDict | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Crops, or their features -> logits (N, C)."""
        return self.network(x)

    def configure_optimizers(self) -> Any:
        """One optimiser, whose rate falls by steps."""
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        groups = [
            {"params": [one for one in parameters if one.ndim > 1], "weight_decay": self.solver.weight_decay},
            {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(groups, lr=self.solver.lr, momentum=self.solver.momentum)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(self.solver.drops))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Any, _: int) -> Tensor:
        """Cross-entropy of this rank's share of a global batch."""
        torch.manual_seed(self.step_seed)  # of all devices: crops are drawn on the host
        own, second = len(batch.x), batch.second
        seen = self.network.features(self.network.drawn(batch.x if second is None else torch.cat([batch.x, second.x])))
        costs = classification_cost(self.network.last(seen[:own])[:, None], batch.target)  # (b,)
        self.epoch_loss.update(costs.detach(), torch.ones_like(costs))
        loss = costs.sum() * self.trainer.world_size / batch.batch_size
        if second is not None:
            others = classification_cost(cast(nn.Module, self.network.second)(seen[own:])[:, None], second.target)
            loss = loss + others.sum() * self.trainer.world_size / second.batch_size
        self.log("train/step_loss", loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean over all draws of all ranks.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        value = self.epoch_loss.compute()
        self.epoch_loss.reset()
        if not value.isfinite():
            raise FloatingPointError(f"the training loss of epoch {self.current_epoch} is {float(value)}; try a smaller lr")
        self.log("train/loss", value)

    def _begin(self, which: str) -> None:
        frames = torch.as_tensor(self.trainer.datamodule.counts(which))  # type: ignore[attr-defined]
        metrics = {"all": VideoMetric(frames * CROPS, self.num_classes), "centre": VideoMetric(frames, self.num_classes)}
        self.videos = nn.ModuleDict(metrics).to(self.device)

    def _score(self, batch: Any) -> None:
        assert self.videos is not None
        for part in batch.x.split(TOGETHER):
            views = self.network.views(part)  # (f, 10, …)
            logits = self.network(views.flatten(0, 1)).float().unflatten(0, views.shape[:2])  # (f, 10, C)
            scores = logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)
            cast(VideoMetric, self.videos["all"]).update(scores.flatten(0, 1), batch.video)
            cast(VideoMetric, self.videos["centre"]).update(scores[:, CENTRE], batch.video)

    def _log_figures(self, which: str) -> None:
        assert self.videos is not None
        found = {name: cast(VideoMetric, metric).compute() for name, metric in self.videos.items()}
        self.videos = None
        self.scores = VideoScores(found["all"].mean.cpu(), found["all"].votes.cpu())
        target = torch.as_tensor(self.trainer.datamodule.targets(which))  # type: ignore[attr-defined]
        figures = summarise(self.scores.mean, target)
        centre = summarise(found["centre"].mean.cpu(), target)
        for name, value in {**figures, **{f"centre_crop_{name}": value for name, value in centre.items()}}.items():
            self._log(which, name, value)
