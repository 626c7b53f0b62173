"""The composite LSTM as a system: an encoder that learns from train's videos without their labels, then classifies.

The encoder is trained on blocks of 29 frames of the videos that the protocol's first stage keeps, and its best epoch chosen on
those that it holds out. Both stages begin from its weights. The same classifier without pre-training is a system too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.base import VideoDataModule
from datamodules.unlabelled import UnlabelledBlocks
from datamodules.videos import Annotation
from lightning_modules.composite import FUTURE, OBSERVED, CompositeLSTM, LSTMClassifier
from lightning_modules.pretraining import Pretraining
from reproduce.common.catalogue import SYSTEMS, label_of
from reproduce.common.dataset import on_other_data, require_other_data
from reproduce.common.settings import Settings, with_values
from reproduce.experiments.folder import RunFolder
from reproduce.systems.devices import set_up
from reproduce.systems.preemption import read_weights_of
from reproduce.systems.recurrent import RecurrentSystem, build_data
from reproduce.systems.trainer import BEST, Training

STAGE = "pretrain"


def build(settings: Settings, annotation: Annotation) -> ClassifierSystem:
    """Make the system of a run, not yet fitted.

    Raises:
        DataError: of a further data set, videos or features are missing, or it has a test video.
    """
    set_up(settings)
    others: list[Any] = []
    for name in settings.pretrain.data if STAGE in SYSTEMS[settings.model.name].settings else ():
        other = on_other_data(settings, name)
        require_other_data(other, "pretrain.data", "cubes", annotation)
        others.append(build_data(other, UnlabelledBlocks))
        others[-1].take_all()
    return ClassifierSystem(settings, build_data(settings), others)


class Statistics(NamedTuple):
    """Of the pooled features of train's videos, labels apart.

    Args:
        scale: their root mean square, over frames and channels.
        mean: (D,) their mean, over that.
        rectified: whether none is below zero.
    """

    scale: float
    mean: torch.Tensor
    rectified: bool


class ClassifierSystem(RecurrentSystem):
    """The LSTM classifier, whose encoder is pre-trained where its entry of the catalogue has settings of that.

    Args:
        settings: of the run.
        data: of the run.
        others: further data sets that are learned from without labels.
    """

    def __init__(self, settings: Settings, data: VideoDataModule, others: Sequence[UnlabelledBlocks] = ()) -> None:
        super().__init__(settings, data)
        self.others = others

    @property
    def pretrains(self) -> bool:
        """Whether there is pre-training."""
        return STAGE in SYSTEMS[self.settings.model.name].settings

    @cached_property
    def statistics(self) -> Statistics:
        """Of train, whichever part of it is held out."""
        total, squares, frames, least = np.zeros(self.data.store.channels), 0.0, 0, 0.0
        for video in self.data.annotation.train:
            v = self.data.store.pooled(video.name)[:, 0].astype(np.float64)  # (F, D)
            total, squares, frames = total + v.sum(axis=0), squares + np.square(v).sum(), frames + len(v)
            least = min(least, v.min())
        scale = float(np.sqrt(squares / (frames * len(total)))) or 1.0
        return Statistics(scale, torch.from_numpy(total / frames / scale).float(), bool(least >= 0))

    def prepare(self, training: Training, stage: str) -> None:
        """Scale the features; pre-train, or go on with it, and give the classifier the encoder's weights."""
        network = self.network
        assert isinstance(network, LSTMClassifier)
        network.scale.fill_(self.statistics.scale)
        if not self.pretrains:
            return
        before = STAGE if stage in ("holdout", "retrain") else f"{stage}/{STAGE}"  # each fold's goes with its checkpoints
        composite = CompositeLSTM(network.encoder, self.statistics.mean, self.statistics.rectified)
        if stage != "retrain":
            self._pretrain(training, before, composite)
        network.encoder.load_state_dict(read_weights_of(training.folder.stage(before) / BEST, "network.encoder."))

    def _pretrain(self, training: Training, stage: str, composite: CompositeLSTM) -> None:
        options = self.settings.pretrain
        unlabelled: Any = build_data(self.settings, UnlabelledBlocks)
        unlabelled.fold, unlabelled.others = self.data.fold, self.others
        for one in (unlabelled, *self.others):
            one.inputs, one.length = ("mean",), OBSERVED + FUTURE
        own = replace(training, settings=with_values(self.settings, {"trainer.max_epochs": options.max_epochs}))
        weights = options.reconstruction, options.prediction
        module = Pretraining(composite, self.statistics.scale, weights, options.lr)
        own.fit_stage(stage, module, unlabelled, "val/explained")

    def describe(self, run: RunFolder) -> dict[str, Any]:
        """What the recurrent networks say, and what differs from the publication."""
        found, model, data = super().describe(run), self.settings.model, self.data
        widths = f"{model.num_layers} layer{'s' * (model.num_layers > 1)} of {model.hidden_dim} units for 2 of 2048"
        notes = [
            f"LSTM classifier: {data.store.channels} pooled features of a frame for the 4096 of VGG-16's fc6; {widths}; blocks "
            f"of {OBSERVED} frames"
        ]
        if self.pretrains:
            sources = [f", and all {len(one.annotation.train)} of {label_of(one.annotation.data)}" for one in self.others]
            notes.append(
                f"Composite LSTM: pre-trained on train videos of the split{'' if sources else ' alone'}, less those held out "
                f"for selection{''.join(sources)}, for 300 hours of Sports-1M; no decoder has an input, nor any LSTM peepholes"
            )
        known = {one.annotation.data: one.annotation.fingerprint() for one in self.others}
        return found | {"notes": [*found["notes"], *notes], **({"pretrain_fingerprints": known} if known else {})}
