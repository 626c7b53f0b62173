"""A run's figures from its predictions alone, by arithmetic of its own: nothing here is shared with what made a table."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.leaks import find_leaks, leak_notes
from datamodules.videos import Annotation, DataError
from reproduce.experiments.attention_files import read_attended
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.predictions import Predictions

EXACT = 1e-9  # counts of videos, divided
SINGLE = 2e-6  # training computes average precision in single precision
THRESHOLD = 0.5  # of multi-label decisions, where run.json names none
TOP = 5  # of ``test/accuracy_top5``
ATTENTION = ("test/attention_", "test/box_", "test/pointing_")  # how the names of what is measured of it begin


def accuracy(found: Predictions) -> float:
    """Share of videos whose first largest score is at a class that they have."""
    hits = 0
    for target, scores in zip(found.target.tolist(), found.scores.tolist(), strict=True):
        hits += target[scores.index(max(scores))]
    return hits / len(found.videos)


def top(found: Predictions, number: int = TOP) -> tuple[float, float]:
    """Least and largest share of videos whose class is among the ``number`` largest scores: scores may be equal."""
    own = np.where(found.target, found.scores, -np.inf).max(axis=1, keepdims=True)
    above, level = (found.scores > own).sum(axis=1), (found.scores >= own).sum(axis=1)
    return float(np.mean(level <= number)), float(np.mean(above < number))


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Non-interpolated: the mean, over a class's videos, of the precision among all that score at least as high.

    Args:
        positive: (V,) booleans.
        scores: (V,).

    Returns:
        nan without a positive video.
    """
    ranks = [positive[scores >= score].mean() for score in scores[positive]]
    return math.fsum(ranks) / len(ranks) if ranks else math.nan


def mean_average_precision(found: Predictions) -> float:
    """Mean over the classes that have a video."""
    classes = [average_precision(found.target[:, label], found.scores[:, label]) for label in range(len(found.classes))]
    counted = [value for value in classes if not math.isnan(value)]
    return math.fsum(counted) / len(counted) if counted else math.nan


@dataclass
class Check:
    """What is found of a run.

    Args:
        folder: the run's.
        about: ``run.json``.
        found: the predictions; None where they cannot be read.
        metrics: ``metrics.json``, with the recomputed figure in place of each that differs.
        missing: why the run cannot be verified.
        differs: what is not as another file says.
        notes: what a reader should know besides.
        attends: whether what was measured of its attention is recomputed from the videos'; None where that cannot be done.
    """

    folder: RunFolder
    about: dict[str, Any] = field(default_factory=dict)
    found: Predictions | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    attends: bool | None = None

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels."""
        return bool(self.about.get("multi_label"))


def check_run(folder: RunFolder, record: Mapping[str, Any], official: Callable[[dict[str, Any]], Annotation | None]) -> Check:
    """Compare a run's files with each other, with what a table recorded of them, and with the data set's own list.

    Args:
        folder: of the run.
        record: the table's: ``predictions_sha256``, ``videos``, ``features``.
        official: from ``run.json``, the data set as it lies on disk; None where it is not to be looked at.
    """
    check = Check(folder)
    if not os.path.isdir(folder.path):  # also of a name that no disk takes
        check.missing.append(f"the run folder {folder.path} is missing")
        return check
    try:
        metrics, check.about = folder.metrics(), folder.about()
        if metrics is None or not check.about:
            names = [name for name, there in (("metrics.json", metrics), ("run.json", check.about)) if not there]
            check.missing.append(f"{folder.path / ' and '.join(names)} missing")
        found = folder.predictions(sound=False)
    except DataError as error:
        check.missing.append(str(error).partition(";")[0])
        return check
    if check.missing:
        return check
    path = folder.path / "predictions.csv"
    if not found.videos:
        check.missing.append(f"{path} holds no video")
        return check
    if not np.isfinite(found.scores).all():
        line = found.lines[int(np.argmin(np.isfinite(found.scores).all(axis=1)))]
        check.differs.append(f"{path}, line {line}: a score is not finite")
        return check
    check.found, check.metrics = found, dict(metrics or {})
    check.differs += _against_record(folder, check.about, record)
    check.differs += _within(path, found, check.about)
    check.differs += _against_metrics(check, found)
    _check_attention(check, found)
    annotation = official(check.about)
    if annotation is not None:
        check.differs += _against_list(path, found, check.about, annotation)
    check.notes += _origin(check.about)
    return check


def _against_record(folder: RunFolder, about: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    differs = []
    digest = folder.predictions_sha256()
    if digest != record["predictions_sha256"]:
        differs.append(
            f"{folder.path / 'predictions.csv'} is not the file the table was made from: its SHA-256 is {digest[:12]}…, "
            f"the table's record says {record['predictions_sha256'][:12]}…"
        )
    for name, key in (("videos", "data_fingerprint"), ("features", "feature_fingerprint")):
        if about.get(key) != record[name]:
            said, recorded = (f"{str(value)[:12]}…" if value else "none" for value in (about.get(key), record[name]))
            differs.append(f"{folder.path / 'run.json'}: {key} is {said}, the table's record says {recorded}")
    return differs


def _within(path: Path, found: Predictions, about: Mapping[str, Any]) -> list[str]:
    """Contradictions inside a file of predictions."""
    differs, seen = [], {}
    multi_label, threshold = about["multi_label"], about.get("threshold", THRESHOLD)
    for number, (video, line) in enumerate(zip(found.videos, found.lines, strict=True)):
        if video in seen:
            differs.append(f"{path}, line {line}: {video!r} stands in line {seen[video]} already")
        seen.setdefault(video, line)
        scores = found.scores[number]
        chosen = np.flatnonzero(scores >= threshold) if multi_label else [int(scores.argmax())]
        implied = "|".join(found.classes[label] for label in chosen)
        if found.predicted[number] != implied:
            said = found.predicted[number]
            differs.append(f"{path}, line {line}: {video!r} is predicted as {said!r}, its scores say {implied!r}")
        if not multi_label and not about.get("hits") and found.target[number].sum() != 1:
            differs.append(f"{path}, line {line}: {video!r} has {found.target[number].sum()} classes instead of one")
    return differs


def _against_metrics(check: Check, found: Predictions) -> list[str]:
    expected = {"test/mAP": (mean_average_precision(found),) * 2}
    if not check.multi_label:
        expected |= {"test/accuracy": (accuracy(found),) * 2, "test/accuracy_top5": top(found)}
    differs, where = [], check.folder.path / "metrics.json"
    for name, (least, most) in expected.items():
        said, slack = check.metrics.get(name), SINGLE if name == "test/mAP" else EXACT
        if said is not None and least - slack <= said <= most + slack:
            continue
        decides = name == ("test/mAP" if check.multi_label else "test/accuracy")
        if said is not None:
            differs.append(f"{where}: {name} is {said:.6f}, {least:.6f} recomputed from predictions.csv")
        elif decides:
            differs.append(f"{where} has no {name}")
        check.metrics[name] = least
    return differs


def _check_attention(check: Check, found: Predictions) -> None:
    """Compare what ``metrics.json`` says of the attention with the videos' own lines."""
    path = check.folder.attended
    said = {name: value for name, value in check.metrics.items() if name.startswith(ATTENTION)}
    if not path.is_file():
        if said:
            check.notes.append(f"what it measured of its attention is not verified, {path.name} is missing")
        else:
            check.attends = False
        return
    try:
        videos, means = read_attended(path)
    except DataError as error:
        check.differs.append(str(error))
        return
    if set(videos) != set(found.videos):
        name = sorted(set(videos) ^ set(found.videos))[0]
        where = f"line {videos[name]}: {name!r} is not" if name in videos else f"{name!r} is"
        check.differs.append(f"{path}: {where} in predictions.csv")
    check.attends = True
    recomputed = {f"test/{name}": mean for name, mean in means.items()}
    for name in sorted(said.keys() | recomputed.keys()):
        here, there = recomputed.get(name), said.get(name)
        if here is None or there is None or not math.isclose(here, there, rel_tol=EXACT, abs_tol=EXACT):
            value, written = ("nothing" if one is None else f"{one:.6f}" for one in (here, there))
            where = check.folder.path / "metrics.json"
            check.differs.append(f"{where}: {name} is {written}, {value} recomputed from {path.name}")
            check.metrics.pop(name, None)
            check.metrics |= {} if here is None else {name: here}


def _against_list(path: Path, found: Predictions, about: Mapping[str, Any], annotation: Annotation) -> list[str]:
    """The data set's own list of test videos: each stands once, with its labels; some may be left out by ``skip_bad``."""
    differs = []
    labels = {video.name: video.labels for video in annotation.test}
    strange = [video for video in found.videos if video not in labels]
    absent = sorted(set(labels) - set(found.videos))
    skipping = about["test_videos"] + len(absent) == len(labels) and any("left out" in note for note in about["notes"])
    where = f"the test list of {annotation.data}, split {annotation.split}, in {annotation.root}"
    if strange:
        differs.append(f"{path}: {strange[0]!r} and {len(strange) - 1} more are not in {where}")
    if absent and not skipping:
        differs.append(f"{path}: lacks {absent[0]!r} and {len(absent) - 1} more of {where}")
    for video, target, line in zip(found.videos, found.target, found.lines, strict=True):
        if video in labels and tuple(np.flatnonzero(target).tolist()) != labels[video]:
            wanted = "|".join(annotation.classes[label] for label in labels[video])
            said = "|".join(found.classes[label] for label in np.flatnonzero(target))
            differs.append(f"{path}, line {line}: {video!r} is of class {said!r}, {wanted!r} in {where}")
    if not absent and annotation.fingerprint() != about["data_fingerprint"]:
        said = f"{path.parent / 'run.json'}: data_fingerprint"
        differs.append(f"{said} is not that of the videos, sizes, labels and sides now in {annotation.root}")
    unsaid = [note for note in leak_notes(annotation, find_leaks(annotation)) if note not in about["notes"]]
    differs += [f"{path.parent / 'run.json'}: its notes do not say {note!r}" for note in unsaid]
    return differs


def _origin(about: Mapping[str, Any]) -> list[str]:
    commit = str(about.get("commit") or "")[:9]
    if not commit:
        return ["the run names no commit"]
    return [f"commit {commit}, with uncommitted changes"] if about.get("dirty") else []
