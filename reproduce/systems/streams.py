"""The spatial and the temporal stream ConvNet as systems: frames or flow, draws, the protocol's two stages, ten crops.

Of the second stage, the protocol's cost is too noisy a goal where batches are drawn: it takes as many iterations as the best
epoch of the first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import seed_everything

from datamodules.stores import Store
from datamodules.streams import StreamDataModule
from datamodules.videos import Annotation
from lightning_modules.backbone import Backbone, BackboneError
from lightning_modules.streams import CropNetwork, LastLayer, Solver, StreamRecognizer, cross_modality
from reproduce.common.catalogue import SYSTEMS, label_of
from reproduce.common.dataset import (
    CROP,
    CROPS,
    FRAMES,
    FULL,
    STORES,
    crop_settings,
    crop_side,
    on_other_data,
    require_other_data,
)
from reproduce.common.settings import Settings, SettingsError, SpatialSettings, TemporalSettings, with_values
from reproduce.experiments import tracking
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.provenance import versions
from reproduce.systems.backbones import built, notes_on
from reproduce.systems.base import Stores
from reproduce.systems.devices import about_devices, arithmetic_notes, set_up
from reproduce.systems.recurrent import RecurrentSystem, fold_of

SECOND = 2**31  # so far apart are the seeds of the draws of both data sets
DROPS = {"views": (0.7,), "flow": (0.6, 0.8)}
"""Shares of the iterations after which the rate is a tenth: the spatial stream's 14k of 20k, and for flow ours."""


def build(settings: Settings, annotation: Annotation) -> StreamSystem:
    """Make the stream of a run, not yet fitted.

    Raises:
        SettingsError: a library is missing.
        DataError: the second data set is not there, lacks flow, or has a test video.
    """
    system = SYSTEMS[settings.model.name]
    if system.lacks:
        raise SettingsError(f"{settings.model.name} needs {' and '.join(system.lacks)}: pip install -e '.[systems]'")
    set_up(settings)
    (kind,) = system.stores
    second = None
    if kind == "flow" and settings.temporal.second:
        other = on_other_data(settings, settings.temporal.second)
        second = require_other_data(other, "temporal.second", kind, annotation), STORES[kind].open(other)
    return StreamSystem(settings, kind, second)


class StreamSystem:
    """A ConvNet that scores a video by 25 frames, or stacks of flow, and the ten crops of each.

    Args:
        settings: of the run.
        kind: of the store that it sees.
        second: a second data set, whose classes a last layer of its own learns, and its store.
    """

    def __init__(self, settings: Settings, kind: str, second: tuple[Annotation, Store] | None = None) -> None:
        self.settings, self.kind, self.second = settings, kind, second
        self.own: SpatialSettings | TemporalSettings = settings.temporal if kind == "flow" else settings.spatial
        self.last_alone = isinstance(self.own, SpatialSettings) and self.own.layers == "last"
        self.said: list[str] = []
        self.stages: Stages | None = None

    def fit(self, videos: Annotation, stores: Stores, run: RunFolder, log: tracking.Log) -> dict[str, float]:
        """Go through the protocol's stages, see ``RecurrentSystem.fit``."""
        self.stages = Stages(self, self.data(videos, stores[self.kind]))
        return self.stages.fit(videos, stores, run, log)

    def data(self, videos: Annotation, store: Store) -> StreamDataModule:
        """What the stream sees of its data set; of a second one, all videos, half of each batch."""
        own, settings = self.own, self.settings
        options: dict[str, Any] = {
            "steps": -(-own.iterations // settings.trainer.max_epochs),
            "scored": own.stacks if isinstance(own, TemporalSettings) else FRAMES,
            "length": own.length if isinstance(own, TemporalSettings) else None,
            "crops": CROPS if self.last_alone else None,
        }
        half, second = own.batch_size // 2, None
        if self.second is not None:
            other, of_other = self.second
            everything = replace(other, train=other.videos, test=())
            second = StreamDataModule(everything, of_other, half, seed=settings.seed + SECOND, **options)
            second.train_on_all = True
        size = own.batch_size - half if second else own.batch_size
        return StreamDataModule(videos, store, size, seed=settings.seed, fold=fold_of(settings), second=second, **options)

    def scores(self, videos: Annotation, stores: Stores) -> np.ndarray:
        """(V, C) float32 mean class probabilities over the crops of each test video."""
        assert self.stages is not None, "fit first"
        return self.stages.scores(videos, stores)

    def figures(self) -> dict[str, float]:
        """What the centre crops alone score."""
        assert self.stages is not None, "fit first"
        return self.stages.figures()

    def describe(self, run: RunFolder) -> dict[str, Any]:
        """Say what the network is, what of it was trained, and what it saw."""
        known = {} if self.second is None else {self.second[0].data: self.second[0].fingerprint()}
        return {
            "notes": [*self.said, *arithmetic_notes(self.settings)],
            **({"second_fingerprints": known} if known else {}),
            "versions": versions() | {"torch": torch.__version__},
            **about_devices(self.settings),
        }

    def recognizer(self, data: StreamDataModule) -> StreamRecognizer:
        """Network and solver of a run, freshly initialised from its seed."""
        settings, own = self.settings, self.own
        classes = len(data.annotation.classes)
        backbone = None if self.last_alone else self._backbone(data)
        seed_everything(settings.seed, workers=True, verbose=False)
        if backbone is None:
            network: LastLayer | CropNetwork = LastLayer(data.store.spec.arrays[0].row_shape[-1], classes, own.dropout)
            self.said = [f"{settings.backbone.name} at {crop_side(settings)} px, its last layer alone trained"]
        else:
            size, length = crop_side(settings), own.length if isinstance(own, TemporalSettings) else 0
            network = CropNetwork(
                backbone=backbone,
                channels=backbone.map(torch.zeros(1, 2 * length or 3, size, size)).shape[1],
                num_classes=classes,
                dropout=own.dropout,
                crop=round(data.store.spec.arrays[0].row_shape[-2] * CROP / FULL),
                size=size,
                flow=length > 0,
                second=len(data.second.annotation.classes) if data.second else 0,
                follow=isinstance(own, TemporalSettings) and own.stacking == "trajectories",
            )
        solver = Solver(
            lr=own.lr,
            weight_decay=own.weight_decay,
            drops=tuple(round(share * own.iterations) for share in DROPS[self.kind]),
        )
        return StreamRecognizer(network, classes, data.annotation.multi_label, solver, settings.seed)

    def _backbone(self, data: StreamDataModule) -> Backbone:
        """The network whose weights are all trained.

        Raises:
            SettingsError: it cannot be built, or takes no flow.
        """
        settings, own = self.settings, self.own
        name, size = settings.backbone.name, crop_side(settings)
        scratch = isinstance(own, TemporalSettings) and own.init == "scratch"
        chosen = crop_settings(settings)
        if scratch:
            chosen = with_values(chosen, {"backbone.weights": "random", "backbone.seed": settings.seed})
        try:
            backbone = built(chosen)
            self.said = [f"{name} at {size} px, all layers trained", *([] if scratch else notes_on(chosen, backbone))]
            if isinstance(own, TemporalSettings):
                begun = "all from random weights" if scratch else "the first layer's averaged over RGB"
                stacked = "stacked flow fields" if own.stacking == "fields" else "flow fields stacked along trajectories"
                task = "without UCF-101 as a second task"
                if self.second is not None:
                    other = self.second[0]
                    task = f"{label_of(other.data)} as a second task, all {len(other.videos)} videos, half of each batch"
                self.said[0] += f" on {own.length} {stacked}, {begun}; {task}"
                backbone = cross_modality(backbone, 2 * own.length, scratch)
        except BackboneError as error:
            raise SettingsError(str(error)) from error
        return backbone


class Stages(RecurrentSystem):
    """The protocol's stages of a stream.

    Args:
        stream: whose network is trained.
        data: of the run.
    """

    by_epochs = True

    def __init__(self, stream: StreamSystem, data: StreamDataModule) -> None:
        super().__init__(stream.settings, data)
        self.stream = stream

    def begin(self, stage: str) -> StreamRecognizer:
        """Network and solver, freshly initialised from the run's seed."""
        return self.stream.recognizer(self.data)
