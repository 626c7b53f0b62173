"""Presets: settings by one word, for every data set or one of them. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reproduce.common.catalogue import ROWS


@dataclass(frozen=True)
class PresetInfo:
    """A preset.

    Args:
        sets: by dotted key, for every data set.
        on: the same for one of them.
        above: by another preset's name, what it sets on top where both are given, for one data set each.
        rows: of Table 1, where the command line names none; none for those of ``sweeps/table1.yaml``.
    """

    sets: Mapping[str, Any] = field(default_factory=dict)
    on: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    above: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    rows: tuple[str, ...] = ()


PRESETS: dict[str, PresetInfo] = {
    "paper": PresetInfo(on={"hmdb51": {"model.hidden_dim": 1024}}),
    "released": PresetInfo(
        sets={
            "model.attention": "content",
            "model.num_layers": 1,
            "model.input_dropout": False,
            "model.last_n": 16,
            "objective.batch_reduction": "sum",
            "optim.name": "released_adam",
            "protocol": "holdout",
        },
        on={
            "ucf11": {"model.last_n": 30},
            "hmdb51": {"model.hidden_dim": 1024, "model.attention_layers": 2, "optim.name": "sgd", "optim.lr": 1e-5},
            "hollywood2": {"optim.name": "sgd", "optim.lr": 1e-4},
        },
    ),
    "miniature": PresetInfo(
        sets={
            "paths.data": "data/miniature",
            "paths.features": "features/miniature",
            "backbone.name": "alexnet",
            "backbone.weights": "random",
            "backbone.layer": "features.2",
            "backbone.size": 63,
            "backbone.precision": "fp32",
            "backbone.batch_size": 64,
            "backbone.workers": 1,
            "data.batch_size": 32,
            "model.num_layers": 1,
            "model.hidden_dim": 64,
            "model.dropout": 0.2,
            "objective.weight_decay": 3e-3,
            "optim.lr": 4e-3,
            "trainer.max_epochs": 20,
            "hard.epochs": 4,
            "hard.lr": 2e-3,
            "hard.last_lr": 5e-4,
            "trainer.threads": 1,
            "multiresolution.layers": ["features.1"],
            "multiresolution.nested": True,  # 196 cells of their own would learn nothing in so few steps
            "pretrain.lr": 3e-3,
            "pretrain.max_epochs": 5,
            "trajectories.keypoints": "orb",
            "trajectories.scales": 2,
            "trajectories.skips": 1,  # clips have some 31 frames, and two skips leave 11
            "encoder.components": 16,
            "encoder.samples": 20_000,
            "encoder.subvolume_dimensions": 32,
            "encoder.subvolume_reduction": "pca",
            "slow_features.height": 48,
            "slow_features.cube": [6, 8, 8],
            "slow_features.block": [9, 10, 10],
            "slow_features.dimensions": [64, 32],
            "slow_features.words": 100,
            "flow.size": 48,
            "spatial.batch_size": 128,
            "spatial.iterations": 1200,
            "spatial.dropout": 0.2,
            "spatial.weight_decay": 0.0,
            "spatial.lr": 3.0,  # features of random weights are small
            "temporal.batch_size": 32,
            "temporal.iterations": 240,
            "temporal.dropout": 0.0,
            "temporal.weight_decay": 0.0,
            "temporal.lr": 1.0,
            "temporal.stacks": 3,  # of 10 fields: as many as a clip has
        },
        on={
            "hmdb51": {"optim.lr": 6e-3, "trainer.max_epochs": 12},
            "hollywood2": {"data.batch_size": 16, "optim.lr": 6e-3, "trainer.max_epochs": 12},
        },
        rows=(*(name for name, row in ROWS.items() if not row.beyond), "content_attention_0"),
        # The released optimisers' steps, scaled to the miniature networks.
        above={"released": {"ucf11": {"optim.lr": 2e-4}, "hmdb51": {"optim.lr": 3e-3}, "hollywood2": {"optim.lr": 2e-3}}},
    ),
}
MODELS = ("paper", "released")
"""Presets that say which model is meant: one of them at a time, and the first where none is given."""
GENERATED = "miniature"
"""The preset whose data sets are generated where they are absent."""
