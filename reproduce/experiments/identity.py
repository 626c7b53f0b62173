"""A run's identity: everything that its result depends on, and the run folder that is named after it. Free of torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datamodules.videos import Annotation
from reproduce.common.catalogue import PENALTY, ROWS, SYSTEMS
from reproduce.common.dataset import STORES, dataset_of, part_of, split_of
from reproduce.common.settings import Settings, get, keys_of, with_values
from reproduce.experiments.folder import RunFolder

NO_SEED = 0
"""Stands for the seed of deterministic systems."""
ADDED_OF_DATA = ("data.damaged", "data.permuted", "data.truth")
ADDED = (
    "pretrain.data",
    "temporal.second",
    "temporal.stacking",
    "hard.region",
    "multiresolution.combine",
    "multiresolution.nested",
)
"""Settings that came after runs had names, of data and of systems: a run that says nothing of them keeps its own."""
# Parts whose values stand in a list, in this order, where a system has all of them.
LISTED = {
    "data": ("data.name", "data.split", "data.fps", "data.stride", "data.batch_size", "data.skip_bad"),
    "training": ("protocol", "trainer.max_epochs", "trainer.precision"),
}


def identity(settings: Settings, annotation: Annotation) -> dict[str, Any]:
    """Everything that a run's result depends on, and nothing else: the configuration and the videos."""
    return {**configuration(settings, annotation.data), "videos": annotation.fingerprint()}


def configuration(settings: Settings, dataset: str | None = None) -> dict[str, Any]:
    """What settings say of a run's result: data set, split, seed, stores, members, and the settings that its system names.

    So λ does not tell two average-pooled LSTMs apart; paths, devices, logging and where features lie while training do not
    count either.

    Args:
        settings: of the run.
        dataset: the data set's name; None for what the settings say.
    """
    system = SYSTEMS[settings.model.name]
    keys = ["data.name", "data.split", "data.skip_bad", *(key for group in system.settings for key in keys_of(group))]
    plain = Settings()
    values = {key: get(settings, key) for key in keys if key not in ADDED or get(settings, key) != get(plain, key)}
    values |= {"data.name": dataset or dataset_of(settings), "data.split": split_of(settings)}
    if settings.data.fold is not None:
        values["protocol"] = "holdout"  # of a fold there is no second stage
    found = _by_part(values)
    found |= {STORES[kind].part: dict(STORES[kind].spec(settings).made_from) for kind in system.stores}
    found["seed"] = seed_of(settings)
    if settings.data.fold is not None:
        found["data.fold"] = settings.data.fold
    part = part_of(settings)
    found |= {f"data.{name}": list(chosen) for name, chosen in asdict(part).items() if chosen}
    found |= {key: value for key in ADDED_OF_DATA if (value := get(settings, key)) != get(plain, key)}
    if settings.trainer.tf32 and "trainer.precision" in keys:
        found["trainer.tf32"] = True
    if system.members:
        found["members"] = [configuration(member, dataset) for member in members(settings)]
    return found


def _by_part(values: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted key as nested parts; `LISTED` ones, where all are there, as lists."""
    values, found = dict(values), {}
    for part, keys in LISTED.items():
        if values.keys() >= set(keys):
            found[part] = [values.pop(key) for key in keys]
    for key, value in values.items():
        part, _, name = key.rpartition(".")
        if part:
            found.setdefault(part, {})[name] = value
        else:
            found[key] = value
    return found


def named(found: dict[str, Any]) -> dict[str, Any]:
    """What ``identity`` returned, by dotted keys as on the command line."""
    flat: dict[str, Any] = {}
    for part, values in found.items():
        if part in LISTED and isinstance(values, list):
            flat |= dict(zip(LISTED[part], values, strict=True))
        elif isinstance(values, dict):
            flat |= {f"{part}.{key}": value for key, value in values.items()}
        else:
            flat[part] = values
    return flat


def seed_of(settings: Settings) -> int:
    """The seed that a run's result depends on; `NO_SEED` of a deterministic system."""
    return NO_SEED if SYSTEMS[settings.model.name].deterministic else settings.seed


def members(settings: Settings) -> list[Settings]:
    """The runs that a run is made from: the same settings with other rows."""
    key = SYSTEMS[settings.model.name].members
    found = get(settings, key) if key else ()
    rows: Iterable[str] = [found] if isinstance(found, str) else found
    return [replace(with_values(settings, ROWS[row].sets), row=row) for row in rows]


def run_folder(settings: Settings, annotation: Annotation) -> RunFolder:
    """The folder of a configuration, the same on all ranks and machines that see the same data."""
    text = json.dumps(identity(settings, annotation), sort_keys=True)
    name = settings.row or settings.model.name
    if SYSTEMS[settings.model.name].attends and not settings.row:
        name += f"_{get(settings, PENALTY):g}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return RunFolder(Path(settings.paths.runs).expanduser() / annotation.data / f"{name}-{digest}")


def run_folders(root: Path) -> list[RunFolder]:
    """Every run folder below ``paths.runs``, finished or not, in the order of their names."""
    return [RunFolder(path.parent) for path in sorted(root.glob("*/*/config.yaml"))]
