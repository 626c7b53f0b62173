"""The interface of a system, and a run of one: what every system shares, from the lock of its folder to ``metrics.json``.

A system is one module with ``build(settings, annotation)`` and one entry of ``catalogue.SYSTEMS``. Free of Lightning, and, but
for the figures, of torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np

from datamodules.leaks import find_leaks, leak_notes
from datamodules.stored_videos import usable
from datamodules.videos import TRUTHS, Annotation, targets_of
from reproduce.common.catalogue import SYSTEMS
from reproduce.common.dataset import STORES
from reproduce.common.processes import is_first_process, one_at_a_time
from reproduce.common.settings import Settings, to_yaml
from reproduce.experiments import tracking
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import identity, members
from reproduce.experiments.predictions import THRESHOLD, decide
from reproduce.experiments.provenance import provenance, versions

Stores = Mapping[str, Any]
"""Finished stores by kind, those that the system's entry names."""


class System(Protocol):
    """What is fitted on train and scores test; made by ``build(settings, annotation)`` of its module."""

    def fit(self, videos: Annotation, stores: Stores, run: RunFolder, log: tracking.Log) -> dict[str, float]:
        """Fit on train; a repeated call goes on from what an interrupted one left.

        Args:
            videos: the data set, without videos that do not decode.
            stores: what the system's entry names.
            run: the run's folder; a system's own files lie below ``model/`` in it.
            log: for figures while it fits, see ``tracking.log``; None where there is no W&B, and in further processes.

        Returns:
            Figures for ``metrics.json``; ``seconds`` are those that interrupted calls took.
        """
        ...

    def scores(self, videos: Annotation, stores: Stores) -> np.ndarray:
        """Score the test videos: (V, C) from 0 to 1; of several labels, a video has those from `THRESHOLD` on."""
        ...


@runtime_checkable
class Detailed(System, Protocol):
    """A system with more to say than scores."""

    def figures(self) -> dict[str, float]:
        """Tell what else was measured in the test, for ``metrics.json``."""
        ...

    def describe(self, run: RunFolder) -> dict[str, Any]:
        """Write what else a test leaves; returns what ``run.json`` says of the system, its ``notes`` among it."""
        ...


Draw = Callable[[RunFolder, System, np.ndarray], dict[str, str]]
"""Draws a tested system beside its predictions into the run's folder; returns each picture's path below it and caption."""


def run_system(settings: Settings, annotation: Annotation, folder: RunFolder, draw: Draw | None = None) -> dict[str, Any]:
    """Fit, test and write one run, from where an earlier call stopped; returns its metrics.

    Another process that works on the same run is waited for, and its result taken; so is that of another machine in the
    same W&B sweep. Further processes of a run, which the first one starts, come here too and write nothing.

    Args:
        settings: of the run.
        annotation: its data set.
        folder: of the run.
        draw: called between test and end.

    Raises:
        DataError: a file of the run, a store or a member is damaged or missing, or another process of the run is gone.
        FloatingPointError: the loss, the weights or the scores are not finite.
    """
    if not is_first_process():
        return _run(settings, annotation, folder, None)
    folder.path.mkdir(parents=True, exist_ok=True)
    # Before the other processes of this run are started, which would wait for this one in vain.
    with one_at_a_time(folder.lock, f"works on {folder.path}"):
        for part in [*folder.path.glob("*.part"), *folder.path.glob("*/*.part")]:  # left by a killed process
            part.unlink()
        metrics = folder.metrics() or tracking.fetch(settings, folder)
        if metrics is None:
            return _run(settings, annotation, folder, draw)
    tracking.report(settings, folder)
    return metrics


def _run(settings: Settings, annotation: Annotation, folder: RunFolder, draw: Draw | None) -> dict[str, Any]:
    info = SYSTEMS[settings.model.name]
    stores = {kind: import_module(STORES[kind].maker).ensure(settings, annotation) for kind in info.stores}
    begun, origin = time.perf_counter(), provenance()
    videos = _usable(settings, annotation, stores)
    system: System = import_module(info.module).build(settings, annotation)
    first, log = is_first_process(), None
    if first:
        folder.write_config(to_yaml(settings))
        log = tracking.start(settings, folder)
    figures = system.fit(videos, stores, folder, log)
    before = figures.pop("seconds", 0.0)
    scores = None
    if settings.data.fold is None:  # a fold's run never reads the test set
        scores = _scored(system, videos, stores)
        figures |= (system.figures() if isinstance(system, Detailed) else {}) | _figures(scores, videos)
    figures["seconds"] = round(before + time.perf_counter() - begun, 1)
    if first:
        tested = {} if scores is None else _write_test(folder, system, scores, videos, draw)
        folder.write_about(origin | _about(settings, videos, stores, folder, system) | tested)
        folder.finish(figures)
        tracking.finish(log, folder)
    return figures


def _usable(settings: Settings, annotation: Annotation, stores: Stores) -> Annotation:
    """The data set without videos that do not decode, as the run's stores know, or those of its members where they lie here."""
    for store in stores.values():
        annotation = usable(annotation, store, settings.data.skip_bad, settings.data.keeps_damaged)
    for member in members(settings):
        for kind in SYSTEMS[member.model.name].stores:
            store = STORES[kind].open(member)
            if store.exists() and not store.missing(video.name for video in annotation.videos):
                annotation = usable(annotation, store, settings.data.skip_bad, settings.data.keeps_damaged)
    return annotation


def _scored(system: System, videos: Annotation, stores: Stores) -> np.ndarray:
    scores = np.asarray(system.scores(videos, stores), dtype=np.float32)
    shape = len(videos.test), len(videos.classes)
    if scores.shape != shape or not np.isfinite(scores).all():
        raise FloatingPointError(f"the scores of the test videos are not {shape[0]} x {shape[1]} finite numbers")
    return scores


def _figures(scores: np.ndarray, videos: Annotation) -> dict[str, float]:
    import torch

    from lightning_modules.metrics import summarise

    found = summarise(torch.from_numpy(scores), torch.from_numpy(targets_of(videos.test, videos)))
    return {f"test/{name}": value for name, value in found.items()}


def _write_test(folder: RunFolder, system: System, scores: np.ndarray, videos: Annotation, draw: Draw | None) -> dict[str, Any]:
    """Write predictions and pictures; returns each class's score, the confusion matrix, and the pictures' captions."""
    import torch

    from lightning_modules.metrics import confusion_matrix, per_class

    predicted = decide(scores, videos.multi_label)
    folder.write_predictions(videos, scores, predicted)
    given = torch.from_numpy(scores), torch.from_numpy(targets_of(videos.test, videos))
    of_classes = [None if math.isnan(figure) else figure for figure in per_class(*given).tolist()]
    return {
        "per_class": dict(zip(videos.classes, of_classes, strict=True)),
        "confusion": None if videos.several_labels else confusion_matrix(*given).tolist(),
        "filmstrips": {} if draw is None else draw(folder, system, predicted),
    }


def _about(settings: Settings, videos: Annotation, stores: Stores, folder: RunFolder, system: System) -> dict[str, Any]:
    """What a table and a reader have to know of a run."""
    own = system.describe(folder) if isinstance(system, Detailed) else {}
    found = {
        "data": videos.data,
        "identity": identity(settings, videos),
        "system": settings.model.name,
        "stores": list(stores),
        "threshold": THRESHOLD,
        "split": videos.split,
        "miniature": videos.miniature,
        "part": videos.part,
        **({} if settings.data.permuted is None else {"permuted": settings.data.permuted}),
        **({} if settings.data.truth == TRUTHS[0] else {"truth": settings.data.truth}),
        "multi_label": videos.multi_label,
        **({"hits": True} if videos.hits else {}),
        "classes": list(videos.classes),
        "notes": [*videos.notes, *leak_notes(videos, find_leaks(videos))],
        "train_videos": len(videos.train),
        "test_videos": len(videos.test),
        "groups": {video.name: video.group for video in videos.test},
        "data_fingerprint": videos.fingerprint(),
        "versions": versions(),
    }
    for kind, store in stores.items():
        found |= import_module(STORES[kind].maker).about(store, videos)
        found["notes"] += store.notes
    found["notes"] = list(dict.fromkeys([*found["notes"], *own.pop("notes", [])]))
    return found | own
