"""Attention over maps of several resolutions as a system: what the recurrent networks do, and how much each map counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from datamodules.videos import Annotation
from lightning_modules.metrics import BlockMean
from lightning_modules.multiresolution import MultiresolutionLSTM, goes_into_others
from reproduce.common.dataset import feature_folder, finer_layers
from reproduce.common.settings import Settings, SettingsError
from reproduce.experiments.folder import RunFolder
from reproduce.systems.base import Stores
from reproduce.systems.devices import set_up
from reproduce.systems.recurrent import RecurrentSystem, build_data


def build(settings: Settings, annotation: Annotation) -> MultiresolutionSystem:
    """Make the system of a run, not yet fitted.

    Raises:
        SettingsError: maps that are to be nested do not lie in each other.
    """
    set_up(settings)
    data = build_data(settings, features=feature_folder(settings, pyramid=True))
    if settings.multiresolution.nested and not goes_into_others(data.store.scales):
        shapes = ", ".join(f"{rows}x{columns}" for rows, columns, _ in data.store.scales)
        raise SettingsError(f"multiresolution.nested=true: of the maps, {shapes}, each must be a multiple of the first")
    return MultiresolutionSystem(settings, data)


class MultiresolutionSystem(RecurrentSystem):
    """The network over several maps; ``test/gate_<s>`` is the mean of scale s over the steps and blocks of the test."""

    gate: tuple[float, ...] = ()

    def scores(self, videos: Annotation, stores: Stores) -> np.ndarray:
        """(V, C) as of the other networks; the gate's means are of the same blocks, over all processes."""
        network = self.network
        assert isinstance(network, MultiresolutionLSTM)
        metrics = [] if network.concatenated else [metric for metric in network.gates if isinstance(metric, BlockMean)]
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
        nested = "coarse to fine, " if self.settings.multiresolution.nested else ""
        said = "the gate's mean over the test is" if self.gate else "side by side,"
        shares = [f" {share:.2f}" for share in self.gate] or [""] * len(layers)
        maps = ", ".join(
            f"{layer} ({rows}x{columns}x{channels}){share}"
            for layer, (rows, columns, channels), share in zip(layers, scales, shares, strict=True)
        )
        return found | {"notes": [*found["notes"], f"Multi-resolution attention: {nested}{said} {maps}"]}
