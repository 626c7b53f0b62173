"""Which numbers a setting may have, and which folders its words may mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

RANGES: dict[str, tuple[float, float]] = {
    "data.stride": (1, 10_000),
    "data.batch_size": (1, 1_000_000),
    "backbone.size": (16, 4096),
    "model.num_layers": (1, 100),
    "model.hidden_dim": (1, 1_000_000),
    "model.attention_layers": (0, 100),
    "model.last_n": (1, 30),
    "model.dropout": (0, 0.999),
    "objective.attention_penalty": (0, float("inf")),
    "objective.weight_decay": (0, float("inf")),
    "optim.lr": (0, float("inf")),
    "trainer.devices": (1, 100_000),
    "trainer.num_nodes": (1, 100_000),
    "trainer.max_epochs": (1, 1_000_000),
    "data.fps": (1e-3, 30),
    "seed": (0, 2**31),
    "data.ram_budget": (0, 1e9),
    "data.gpu_budget": (0, 1e9),
    "optim.beta1": (0, 0.999999),
    "optim.beta2": (0, 0.9999999),
    "optim.eps": (1e-30, 1),
    "backbone.seed": (0, 2**31),
    "backbone.workers": (0, 1024),
    "backbone.batch_size": (1, 100_000),
    "trainer.threads": (1, 100_000),
}
"""Key -> the lowest and the highest value that make sense; null is a value too where a setting may be null."""


def unusable(values: Mapping[str, Any]) -> str | None:
    """What is wrong with the first value that is out of range or begins with the home of nobody.

    Args:
        values: of all keys that a script has.
    """
    for key, (low, high) in RANGES.items():
        if values.get(key) is not None and not low <= values[key] <= high:
            bounds = f"at least {low}" if high >= 10_000 else f"from {low} to {high}"
            return f"{key}={values[key]}: must be {bounds}"
    for key, value in values.items():
        if isinstance(value, str) and value.startswith("~") and os.path.expanduser(value) == value:
            return f"{key}={value}: nobody here has that home folder; write the path out"
    return None
