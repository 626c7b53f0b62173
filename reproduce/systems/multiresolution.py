"""Attention over maps of several resolutions as a system: what the recurrent networks do, and how much each map counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from datamodules.videos import Annotation
from lightning_modules.metrics import BlockMean
from lightning_modules.multiresolution import MultiresolutionLSTM
from reproduce.common.dataset import feature_folder, finer_layers
from reproduce.common.settings import Settings
from reproduce.experiments.folder import RunFolder
from reproduce.systems.base import Stores
from reproduce.systems.devices import set_up
from reproduce.systems.recurrent import RecurrentSystem, build_data


def build(settings: Settings, annotation: Annotation) -> MultiresolutionSystem:
    """Make the system of a run, not yet fitted."""
    set_up(settings)
    return MultiresolutionSystem(settings, build_data(settings, features=feature_folder(settings, pyramid=True)))


class MultiresolutionSystem(RecurrentSystem):
    """The network over several maps; ``test/gate_<s>`` is the mean of scale s over the steps and blocks of the test."""

    gate: tuple[float, ...] = ()

    def scores(self, videos: Annotation, stores: Stores) -> np.ndarray:
        """(V, C) as of the other networks; the gate's means are of the same blocks, over all processes."""
        network = self.network
        assert isinstance(network, MultiresolutionLSTM)
        metrics = [metric for metric in network.gates if isinstance(metric, BlockMean)]
        for metric in metrics:
            metric.reset()
        found = super().scores(videos, stores)
        self.gate = tuple(float(metric.compute()) for metric in metrics)
        return found

    def figures(self) -> dict[str, float]:
        """The gate's means too."""
        return super().figures() | {f"test/gate_{number}": value for number, value in enumerate(self.gate, start=1)}

    def describe(self, run: RunFolder) -> dict[str, Any]:
        """What the recurrent networks say, the maps, and the gate's means."""
        found, scales = super().describe(run), self.data.store.scales
        layers = [self.data.store.manifest["layer"], *finer_layers(self.settings)]
        shares = ", ".join(
            f"{layer} ({rows}x{columns}x{channels}) {share:.2f}"
            for layer, (rows, columns, channels), share in zip(layers, scales, self.gate, strict=True)
        )
        return found | {"notes": [*found["notes"], f"Multi-resolution attention: the gate's mean over the test is {shares}"]}
