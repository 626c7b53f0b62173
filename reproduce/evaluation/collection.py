"""Run folders, read and put side by side: which runs are seeds of one configuration, and which configurations compare."""

from __future__ import annotations

import statistics as python_statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.videos import DataError
from reproduce.common.catalogue import DATASETS, PENALTY, ROWS, figure_of, kind_of, label_of, row_label, row_of
from reproduce.evaluation import published
from reproduce.evaluation.results import Cell, Column, FinishedRun, cells_of
from reproduce.evaluation.significance import interval, mean_average_precision, resample
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.history import History
from reproduce.experiments.identity import named, run_folders
from reproduce.experiments.predictions import Predictions

LAYERS, FPS = "model.num_layers", "data.fps"
PERMUTED = "data.permuted"  # of a negative control, which is never shown beside runs on labels as they are
THRESHOLD = 0.5  # of multi-label decisions, where run.json names none


@dataclass(frozen=True)
class Run(FinishedRun):
    """A finished run.

    Args:
        settings: what its result depends on, by dotted key.
    """

    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels."""
        return bool(self.about["multi_label"])

    @property
    def score(self) -> float:
        """Test accuracy, or mAP for multi-label; a fraction."""
        return float(self.metrics["test/mAP" if self.multi_label else "test/accuracy"])

    @cached_property
    def history(self) -> History:
        """Figures by epoch."""
        return History(self.folder.history)

    @property
    def threshold(self) -> float:
        """From which probability on a class is among a video's several labels."""
        return float(self.about.get("threshold", THRESHOLD))


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in nothing but the seed.

    Args:
        runs: one a seed, in the order of the seeds.
    """

    runs: tuple[Run, ...]

    @property
    def about(self) -> dict[str, Any]:
        """``run.json`` of the first seed."""
        return self.runs[0].about

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the results depend on besides the seed, by dotted key."""
        return _without_seeds(self.runs[0].settings)

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels."""
        return self.runs[0].multi_label

    @property
    def row(self) -> str:
        """The row of Table 1 that this is, such as ``soft_attention_1``; other λ make other rows."""
        return row_of(self.settings)

    @property
    def name(self) -> str:
        """For a reader, without a set-up."""
        return row_label(self.row, self.settings)

    @property
    def values(self) -> list[float]:
        """The data set's figure of each seed, in percent."""
        return [100 * run.score for run in self.runs]

    @property
    def mean(self) -> float:
        """Mean of the figure over seeds, in percent."""
        return python_statistics.fmean(self.values)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean, in percent."""
        low, high = interval(resample([run.predictions for run in self.runs], self.multi_label, self.groups))
        return 100 * low, 100 * high

    @property
    def groups(self) -> dict[str, str]:
        """Group of each test video; empty where the data set has none."""
        return self.about["groups"] if DATASETS[self.source].grouped else {}

    @property
    def source(self) -> str:
        """The catalogue's name of the data set, which a user's own has too."""
        return kind_of(str(self.settings["data.name"]))

    def per_class(self) -> np.ndarray:
        """(C,) recall, or average precision for multi-label, of each class in percent, over seeds; nan without a video."""
        return 100 * np.mean([_per_class(run.predictions, self.multi_label) for run in self.runs], axis=0)

    def confusion(self) -> np.ndarray:
        """(C, C) videos, summed over seeds: row the true class, column the predicted one."""
        classes = len(self.runs[0].predictions.classes)
        counts = np.zeros((classes, classes), dtype=np.int64)
        for run in self.runs:
            found = run.predictions
            np.add.at(counts, (found.target.argmax(axis=1), found.scores.argmax(axis=1)), 1)
        return counts


def _without_seeds(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the seed, and of a fusion without those of the runs that it is made from."""
    found = {key: value for key, value in settings.items() if key != "seed"}
    if "members" in found:
        found["members"] = [{key: value for key, value in one.items() if key != "seed"} for one in found["members"]]
    return found


def _per_class(found: Predictions, multi_label: bool) -> np.ndarray:
    if multi_label:
        once = np.ones((1, len(found.videos)), dtype=np.int64)
        columns = range(len(found.classes))
        return np.array([mean_average_precision(found.target[:, [c]], found.scores[:, [c]], once)[0] for c in columns])
    hits = found.target[np.arange(len(found.videos)), found.scores.argmax(axis=1)]
    positives = found.target.sum(axis=0)
    return np.divide(
        (found.target & hits[:, None]).sum(axis=0), positives, out=np.full(len(positives), np.nan), where=positives > 0
    )


@dataclass(frozen=True)
class DataSet:
    """Everything that ran on one data set.

    Args:
        name: as in the run folders.
        configurations: all of them.
        unfinished: runs without their figures, and the epochs that each has behind it.
    """

    name: str
    configurations: tuple[Configuration, ...]
    unfinished: tuple[tuple[RunFolder, int], ...]

    @property
    def title(self) -> str:
        """For a reader."""
        return label_of(self.name)

    @property
    def anchor(self) -> str:
        """The name as an id of HTML."""
        letters = (letter if letter.isascii() and letter.isalnum() else f"-{ord(letter):x}-" for letter in self.name)
        return f"on-{''.join(letters)}"

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels."""
        return self.configurations[0].multi_label

    @property
    def short(self) -> str:
        """The figure, as tables head their columns."""
        return figure_of(self.multi_label, bool(self.configurations[0].about.get("hits")))

    @property
    def figure(self) -> str:
        """``accuracy``, ``hit@1`` or ``mAP``."""
        return "accuracy" if self.short == "acc" else self.short

    @property
    def miniature(self) -> bool:
        """Whether the data are generated stand-ins."""
        return any(run.about["miniature"] for run in self.runs)

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for configuration in self.configurations for run in configuration.runs]

    @cached_property
    def rows(self) -> dict[str, Configuration]:
        """The rows of Table 1: configurations that differ only in the model and λ.

        Of all set-ups but negative controls that with the most rows is taken, then that on the data set's first split, then
        that with the most runs. Where no run is of Table 1, any configuration is.
        """

        def merit(rows: dict[str, Configuration]) -> tuple:
            first = next(iter(rows.values()))
            on_first_split = first.settings["data.split"] == DATASETS[first.source].default_split
            known = sum(row in ROWS for row in rows)
            attention = any(PENALTY in row.settings for row in rows.values())
            return PERMUTED not in first.settings, known, on_first_split, attention, sum(len(row.runs) for row in rows.values())

        bases = [one for one in self.configurations if "members" not in one.settings] or self.configurations
        best = max(map(self.like, bases), key=merit)
        return {row: best[row] for row in ROWS if row in best} or best

    def like(self, base: Configuration, split: str | None = None) -> dict[str, Configuration]:
        """The configurations that differ from one only in the model and λ, by row.

        Args:
            base: the one.
            split: another split of the data set than its own.
        """

        def is_like(other: Configuration) -> bool:
            apart = {"model.name", PENALTY, *(key for row in (base.row, other.row) if row in ROWS for key in ROWS[row].sets)}
            apart |= {"data.split", "videos"} if split else set()
            same = other.settings.get(PERMUTED) == base.settings.get(PERMUTED)
            return same and not any(differences(one, base, tuple(apart)) for one in _made_of(other))

        alike = [other for other in self.configurations if is_like(other)]
        return {other.row: other for other in alike if split in (None, other.settings["data.split"])}

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """The rows as cells of Table 1: figures, intervals, and comparisons with the average-pooled row."""
        return cells_of(
            Column(
                figure=self.short,
                printed={row: published.table1(self.name, row) for row in self.rows},
                runs={row: {run.settings["seed"]: [run] for run in one.runs} for row, one in self.rows.items()},
                grouped=DATASETS[next(iter(self.rows.values())).source].grouped,
                name=self.title,
            )
        )


def _made_of(one: Configuration) -> list[Mapping[str, Any]]:
    """The settings of a configuration; of a fusion, those of the runs that it is made from too."""
    return [one.settings, *map(named, one.settings.get("members", ()))]


def differences(one: Configuration | Mapping[str, Any], other: Configuration, apart_from: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of ``one`` that ``other`` has too, with another value."""
    return {
        key: value
        for key, value in (one.settings if isinstance(one, Configuration) else one).items()
        if key in other.settings and other.settings[key] != value and key not in apart_from
    }


def effects(configurations: Iterable[Configuration], setting: str) -> list[list[Configuration]]:
    """Configurations that differ only in one setting, each list in the order of its values; lists of one are left out."""
    found: dict[str, list[Configuration]] = {}
    for configuration in configurations:
        if setting in configuration.settings:
            rest = {key: value for key, value in configuration.settings.items() if key != setting}
            found.setdefault(repr(sorted(rest.items())), []).append(configuration)
    return [sorted(group, key=lambda one: one.settings[setting]) for group in found.values() if len(group) > 1]


def read(root: Path, datasets: Sequence[str] = ()) -> tuple[list[DataSet], list[str]]:
    """All runs below ``paths.runs``.

    Args:
        root: that folder.
        datasets: names of the data sets to read; none for all.

    Returns:
        The data sets with a finished run, the paper's first; and what could not be read, in words.

    Raises:
        DataError: a file of a run is damaged.
    """
    runs: dict[str, list[Run]] = {}
    unfinished: dict[str, list[tuple[RunFolder, int]]] = {}
    problems = []
    for folder in run_folders(root):
        data = folder.path.parent.name
        if datasets and data not in datasets:
            continue
        metrics, about = folder.metrics(), folder.about()
        if metrics is None:
            unfinished.setdefault(data, []).append((folder, len(History(folder.history).epochs())))
            continue
        try:
            run = Run(folder, about, metrics, settings=named(about["identity"]))
            if "test/mAP" in metrics:
                _ = run.score, row_of(run.settings), run.settings["seed"]
                runs.setdefault(data, []).append(run)
            else:
                problems.append(f"{folder.path}: has no test figures, such as the folds of a cross-validation; left out")
        except (KeyError, ValueError, TypeError, AttributeError):
            problems.append(f"{folder.path}: written by an earlier version of this suite; left out")
    unknown = [name for name in datasets if name not in runs and name not in unfinished]
    if unknown:
        there = ", ".join(sorted({folder.path.parent.name for folder in run_folders(root)})) or "none"
        raise DataError(f"datasets: no run of {', '.join(unknown)} below {root.resolve()}; there: {there}")
    problems += _without_copies(runs)
    order = [*DATASETS, *sorted(set(runs) - set(DATASETS))]
    sets = [DataSet(name, _configurations(runs[name]), tuple(unfinished.get(name, ()))) for name in order if name in runs]
    problems += [
        f"{name}: {len(waiting)} unfinished run{'s' if len(waiting) > 1 else ''} and no finished one"
        for name, waiting in unfinished.items()
        if name not in runs
    ]
    return sets, problems


def _without_copies(runs: dict[str, list[Run]]) -> list[str]:
    """Leave out runs of a configuration and seed that another run has already; returns what was left out, in words."""
    problems = []
    for data, group in runs.items():
        kept: dict[str, Run] = {}
        for run in sorted(group, key=lambda run: not run.folder.path.name.startswith(run.settings["model.name"])):
            first = kept.setdefault(repr(sorted(run.settings.items())), run)  # the videos' fingerprint is among them
            if first is not run:
                problems.append(f"{run.folder.path}: the same configuration and seed as {first.folder.path.name}; left out")
        there = {id(run) for run in kept.values()}
        runs[data] = [run for run in group if id(run) in there]
    return problems


def _configurations(runs: Iterable[Run]) -> tuple[Configuration, ...]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(repr(sorted(_without_seeds(run.settings).items())), []).append(run)
    return tuple(Configuration(tuple(sorted(group, key=lambda run: run.settings["seed"]))) for group in found.values())


@dataclass(frozen=True)
class Video:
    """A test video, over rows and seeds.

    Args:
        name: of the video.
        target: its classes.
        score: mean score of its true classes, a fraction.
        hits: in how many runs it was recognised.
        runs: in how many it was scored.
        mistaken: the class that was most often taken for its own, or None.
    """

    name: str
    target: tuple[str, ...]
    score: float
    hits: int
    runs: int
    mistaken: str | None


def videos(configurations: Iterable[Configuration]) -> list[Video]:
    """Every labelled test video, the hardest first.

    A video with one label is recognised where its class has the largest score; one with several, where each of them has
    a probability of at least the run's threshold.
    """
    import pandas

    seen = []
    for run in (run for configuration in configurations for run in configuration.runs):
        found = run.predictions
        for name, hot, scores in zip(found.videos, found.target, found.scores, strict=True):
            if hot.any():
                target = tuple(found.classes[label] for label in np.flatnonzero(hot))
                hit = bool((scores[hot] >= run.threshold).all()) if run.multi_label else bool(hot[scores.argmax()])
                mistaken = None if hit or hot.all() else found.classes[int(np.where(hot, -np.inf, scores).argmax())]
                seen.append((name, target, float(scores[hot].mean()), hit, mistaken))
    frame = pandas.DataFrame(seen, columns=["name", "target", "score", "hit", "mistaken"])
    of_video = frame.groupby("name", sort=False)
    table = of_video.agg(target=("target", "last"), score=("score", "mean"), hits=("hit", "sum"), runs=("hit", "size"))
    often = frame.dropna(subset=["mistaken"]).groupby("name")["mistaken"].agg(lambda taken: taken.mode().iloc[0])
    columns = [table.index.tolist(), *(table[name].tolist() for name in ("target", "score", "hits", "runs"))]
    rows = [Video(*values, mistaken=often.get(values[0])) for values in zip(*columns, strict=True)]
    return sorted(rows, key=lambda video: (video.score, video.name))
