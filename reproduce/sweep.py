"""Run a sweep file here, without a server: one run on each GPU, or some at a time on the CPU.

    python reproduce/sweep.py sweeps/table1.yaml workers=4
    python reproduce/sweep.py sweeps/layers.yaml data.name=hmdb51 preset=miniature
    python reproduce/sweep.py sweeps/cross_validation.yaml count=50 paths.data=/data

The file is W&B's: grid and random give the points that W&B gives; bayes and early_terminate go through Optuna
(pip install -e '.[sweep]'), which proposes other points than W&B's Gaussian process would (see reproduce/search.py). Every
key=value goes to all runs; one that the file varies is fixed by it. Finished runs are reused, so that the same command goes
on after a kill. Writes results/sweep_<name>.csv and prints the best point.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, Optional

from filelock import FileLock, Timeout

from datamodules.files import write_atomically
from datamodules.videos import Annotation, DataError
from reproduce.common.dataset import data_folder, feature_spec, read_annotation
from reproduce.common.processes import Job, run_all, workers_for
from reproduce.common.settings import Settings, SettingsError, command_line, resolve
from reproduce.experiments.folder import RunFolder, run_folder
from reproduce.experiments.history import History
from reproduce.experiments.scheduler import exit_if_failed
from reproduce.experiments.search import Proposal, Search
from reproduce.experiments.sweep_file import (
    Sweep,
    choices,
    first_point,
    grid_points,
    quantile,
    random_points,
    read_sweep,
    words_of,
)


@dataclass
class SweepSettings(Settings):
    """Settings of sweep.py: those of a run, and how to go through the file."""

    sweep: Optional[str] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """the sweep file; a word without = stands for it"""
    workers: Optional[int] = None  # noqa: UP045
    """runs at a time; null for one on each trainer.devices GPUs, or one a core, up to 8, where there is no GPU"""
    count: Optional[int] = None  # noqa: UP045
    """points in all, for random and bayes; null for the file's run_cap"""
    draw_seed: int = 0
    """of the points that random and bayes draw"""


OWN_KEYS = ("sweep", "workers", "count", "draw_seed")
NO_RESULT = ("paths.", "logging.", "trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.threads")


@dataclass
class Point:
    """A point of the sweep.

    Args:
        number: from 1, in the order of their start.
        values: by dotted key.
        words: for train.py.
        folder: where the run ends up.
        proposal: Optuna's side of it, where it has one.
        job: the process that ran it, or None.
        stopped: whether it was stopped early.
    """

    number: int
    values: dict[str, Any]
    words: list[str]
    folder: RunFolder
    proposal: Proposal | None = None
    job: Job | None = None
    stopped: bool = False

    def state(self) -> str:
        """``finished``, ``stopped early``, ``failed`` or ``not run``."""
        if self.folder.metrics() is not None:
            return "finished"
        if self.stopped:
            return "stopped early"
        return "failed" if self.job is not None and self.job.returncode is not None else "not run"

    def score(self, metric: str) -> tuple[str, float | None]:
        """The sweep's metric and its value; mAP takes the place of accuracy for multi-label."""
        metrics = self.folder.metrics() or {}
        name = metric if metric in metrics else metric.replace("accuracy", "mAP")
        return (name, metrics[name]) if name in metrics else (metric, None)


def main(argv: list[str] | None = None) -> list[Point]:
    """Run a sweep; returns its points."""
    argv = sys.argv[1:] if argv is None else argv
    argv = [word if "=" in word or word.startswith("-") or word == "help" else f"sweep={word}" for word in argv]
    settings = command_line(SweepSettings, __doc__ or "", argv)
    words = [word for word in argv if word.partition("=")[0] not in OWN_KEYS]
    try:
        sweep = _read(settings, words)
        settings = resolve(SweepSettings, [*sweep.words, *argv])
        _check_values(sweep, words)
        listed = _listed(sweep, settings)
        if listed is not None and sweep.hyperband is None:
            points, failures = _run(sweep, settings, words, listed, None)
        else:
            with _study(sweep, settings, words) as journal:
                search = Search(sweep, listed, len(listed or ()) or _count(sweep, settings), journal, settings.draw_seed)
                points, failures = _run(sweep, settings, words, None, search)
    except (DataError, SettingsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    _say_best(sweep, points)
    print(_write(sweep, settings, points).resolve(), flush=True)
    exit_if_failed(failures)
    return points


def _read(settings: SweepSettings, words: list[str]) -> Sweep:
    """The sweep file, without the parameters that the command line fixes."""
    if settings.sweep is None:
        raise SettingsError("which sweep? For example: python reproduce/sweep.py sweeps/layers.yaml")
    sweep = read_sweep(Path(settings.sweep).expanduser())
    fixed = {word.partition("=")[0] for word in words}
    return replace(sweep, parameters={name: spec for name, spec in sweep.parameters.items() if name not in fixed})


def _check_values(sweep: Sweep, words: list[str]) -> None:
    """Refuse impossible values before any work, not hours later: every one of a list, and the ends of every range."""
    first = first_point(sweep)
    for name, spec in sweep.parameters.items():
        listed = "value" in spec or "values" in spec
        for value in choices(spec) if listed else (quantile(spec, 0), quantile(spec, 1 - 1e-12)):
            resolve(Settings, _words(sweep, words, {**first, name: value}))


def _listed(sweep: Sweep, settings: SweepSettings) -> list[dict[str, Any]] | None:
    """All points of a grid, or those that are drawn at random; None where they depend on the results."""
    if sweep.method == "bayes":
        return None
    if sweep.method == "random":
        return list(itertools.islice(random_points(sweep, settings.draw_seed), _count(sweep, settings)))
    return list(itertools.islice(grid_points(sweep), settings.count or sweep.run_cap))


def _count(sweep: Sweep, settings: SweepSettings) -> int:
    count = settings.count or sweep.run_cap
    if count is None:
        raise SettingsError(f"method {sweep.method} has no end: say how many points, as count=20")
    return count


def _words(sweep: Sweep, words: list[str], values: dict[str, Any]) -> list[str]:
    return [*sweep.words, *words, *words_of(values)]


@contextmanager
def _study(sweep: Sweep, settings: SweepSettings, words: list[str]) -> Iterator[Path]:
    """The file that holds a sweep's study, which is one process's at a time.

    Its name changes with everything that the results depend on.
    """
    result_words = sorted(word for word in words if not word.startswith(NO_RESULT))
    content = [sweep.method, sweep.metric, sweep.maximize, sweep.parameters, str(sweep.hyperband), sweep.words, result_words]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    journal = Path(settings.paths.runs).expanduser() / "sweeps" / f"{sweep.name}-{digest}.journal"
    journal.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(journal.with_suffix(".lock"), timeout=0):
            yield journal
    except Timeout:
        raise SettingsError(f"another process works on this sweep ({journal.resolve()})") from None


def _run(
    sweep: Sweep, settings: SweepSettings, words: list[str], listed: list[dict[str, Any]] | None, search: Search | None
) -> tuple[list[Point], list[Job]]:
    """Run what is not finished; returns all points, and the jobs that failed."""
    points: list[Point] = []
    running: dict[int, Point] = {}
    logs = Path(settings.paths.runs).expanduser() / "logs"
    varied = {name for name, spec in sweep.parameters.items() if len(spec.get("values", (1, 2))) > 1 and "value" not in spec}

    def add(values: dict[str, Any], proposal: Proposal | None = None, stopped: bool = False) -> Point:
        point = _point(len(points) + 1, _words(sweep, words, values), values)
        point.proposal, point.stopped = proposal, stopped
        points.append(point)
        return point

    def jobs() -> Iterator[Job]:
        for point in list(points) if search is None else (add(p.point, p) for p in iter(search.ask, None)):
            if point.folder.metrics() is not None:
                tell(point)
                continue
            name = " ".join(words_of({key: value for key, value in point.values.items() if key in varied}))
            point.job = Job(
                f"point {point.number} {name}".strip(), "train.py", point.words, logs / f"{point.folder.path.name}.txt"
            )
            running[id(point.job)] = point
            yield point.job

    def stop(job: Job) -> bool:
        point = running[id(job)]
        if search is None or sweep.hyperband is None or point.proposal is None:
            return False
        epochs = History(point.folder.history).epochs()
        names = (sweep.metric, sweep.metric.replace("accuracy", "mAP"))  # the second of data with several labels a video
        scores = [next(epoch[name] for name in names if name in epoch) for epoch in epochs if set(names) & set(epoch)]
        return search.should_stop(point.proposal, scores)

    def tell(point: Point) -> None:
        score = point.score(sweep.metric)[1]
        if score is None and (metrics := point.folder.metrics()) is not None:
            raise SettingsError(f"metric: a run has no {sweep.metric}; it has {', '.join(metrics)}")
        if search is None or point.proposal is None:
            return
        search.tell(point.proposal, score, point.stopped)

    def ended(job: Job) -> None:
        point = running.pop(id(job))
        point.stopped = job.stopped is not None
        tell(point)
        _write(sweep, settings, points)

    if search is None:
        for values in listed or ():
            add(values)
        total = sum(point.folder.metrics() is None for point in points)
        if total < len(points):
            print(f"{len(points) - total} of {len(points)} runs are finished already", flush=True)
    else:
        for values, stopped in search.ended():
            add(values, stopped=stopped)
        total = search.left
    workers, gpus = workers_for(settings.workers, settings.trainer.accelerator, settings.trainer.devices)
    failures = run_all(jobs(), max(1, min(workers, total)), gpus, settings.trainer.devices, total, stop, ended)
    return points, failures


def _point(number: int, words: list[str], values: dict[str, Any]) -> Point:
    settings = resolve(Settings, words)
    return Point(number, values, words, run_folder(settings, _annotation(settings), feature_spec(settings)))


_annotations: dict[str, Annotation] = {}


def _annotation(settings: Settings) -> Annotation:
    """A point's data set, read once."""
    data = settings.data
    key = repr((settings.preset, settings.paths.data, data.name, data.folder, data.split, data.fold, data.skip_bad))
    if key not in _annotations:
        try:
            _annotations[key] = read_annotation(settings)
        except DataError as error:
            raise DataError(f"{data.name}: looked in {data_folder(settings).resolve()}\n{error}") from error
    return _annotations[key]


def _write(sweep: Sweep, settings: SweepSettings, points: list[Point]) -> Path:
    """Write ``results/sweep_<name>.csv``: a row a point."""
    names = sorted(sweep.parameters)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["point", *names, "state", "figure", "score", "run"])
    for point in points:
        figure, score = point.score(sweep.metric)
        values = [point.values[name] for name in names]
        writer.writerow([point.number, *values, point.state(), figure, "" if score is None else score, point.folder.name])
    path = Path(settings.paths.results).expanduser() / f"sweep_{sweep.name}.csv"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.getvalue())
    except OSError as error:
        raise DataError(f"cannot write to {path.parent.resolve()} ({error}); set paths.results") from error
    return path


def _say_best(sweep: Sweep, points: list[Point]) -> None:
    """The best point of each data set."""
    scored: dict[str, list[tuple[float, Point]]] = {}
    for point in points:
        score = point.score(sweep.metric)[1]
        if score is not None:
            scored.setdefault(point.folder.path.parent.name, []).append((score if sweep.maximize else -score, point))
    for data, ranked in scored.items():
        point = max(ranked, key=lambda entry: entry[0])[1]
        figure, score = point.score(sweep.metric)
        print(f"best of {len(ranked)} on {data}: {figure} {score:.4f} at {' '.join(words_of(point.values))}", flush=True)


if __name__ == "__main__":
    main()
