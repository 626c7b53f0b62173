"""A sweep, run here: its trials in order or as a search proposes them, finished ones reused, results as CSV. Free of torch."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from reproduce.common.cli import resolve
from reproduce.common.files import write_rows
from reproduce.common.processes import locked
from reproduce.common.settings import Settings, SettingsError
from reproduce.experiments.history import History
from reproduce.experiments.jobs import Job
from reproduce.experiments.scheduler import Point, Scheduler
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

NO_RESULT = ("paths.", "logging.", "trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.threads")


@dataclass
class Trial:
    """A point of the sweep.

    Args:
        number: from 1, in the order of their start.
        values: by dotted key.
        point: the run.
        proposal: Optuna's side of it, where it has one.
        stopped: whether it was stopped early.
    """

    number: int
    values: dict[str, Any]
    point: Point
    proposal: Proposal | None = None
    stopped: bool = False

    def state(self) -> str:
        """``finished``, ``stopped early``, ``failed`` or ``not run``."""
        if self.point.finished:
            return "finished"
        if self.stopped:
            return "stopped early"
        job = self.point.job
        return "failed" if job is not None and job.returncode is not None else "not run"

    def score(self, metric: str) -> tuple[str, float | None]:
        """The sweep's metric and its value; mAP takes the place of accuracy for multi-label."""
        metrics = self.point.folder.metrics() or {}
        name = metric if metric in metrics else metric.replace("accuracy", "mAP")
        return (name, metrics[name]) if name in metrics else (metric, None)


def read(path: str | None, words: Sequence[str]) -> Sweep:
    """A sweep file, without the parameters that the command line fixes, all of whose values are possible.

    Raises:
        SettingsError: there is no file, it is no sweep, or one of its values is impossible.
    """
    if path is None:
        raise SettingsError("which sweep? For example: python reproduce/sweep.py sweeps/layers.yaml")
    sweep = read_sweep(Path(path).expanduser())
    fixed = {word.partition("=")[0] for word in words}
    sweep = replace(sweep, parameters={name: spec for name, spec in sweep.parameters.items() if name not in fixed})
    first = first_point(sweep)
    for name, spec in sweep.parameters.items():  # every one of a list, and the ends of every range, not hours later
        listed = "value" in spec or "values" in spec
        for value in choices(spec) if listed else (quantile(spec, 0), quantile(spec, 1 - 1e-12)):
            resolve(Settings, [*sweep.words, *words, *words_of({**first, name: value})])
    return sweep


class SweepRun:
    """A sweep on this machine.

    Args:
        sweep: the file.
        settings: of the command line, for paths and devices.
        words: of the command line, for all runs.
        workers: runs at a time; None for as many as the machine has room for.
        count: points in all, for random and bayes; None for the file's.
        seed: of the points that are drawn.
    """

    def __init__(
        self, sweep: Sweep, settings: Settings, words: list[str], workers: int | None, count: int | None, seed: int
    ) -> None:
        self.sweep, self.settings, self.words = sweep, settings, words
        self.count, self.seed = count, seed
        self.scheduler = Scheduler(settings, workers)
        self.trials: list[Trial] = []

    def run(self) -> list[Job]:
        """Run what is not finished; returns the jobs that failed."""
        listed = self._listed()
        if listed is not None and self.sweep.hyperband is None:
            for values in listed:
                self._add(values)
            self.scheduler.prepare([one.point for one in self.trials if not one.point.finished])
            return self.scheduler.run([one.point for one in self.trials], ended=lambda job: self._ended(job, None))
        with self._journal() as journal:
            search = Search(self.sweep, listed, len(listed or ()) or self._count(), journal, self.seed)
            for values, stopped in search.ended():
                self._add(values, stopped=stopped)
            return self.scheduler.run(
                self._proposed(search),
                total=search.left,
                stop=lambda job: self._should_stop(job, search),
                ended=lambda job: self._ended(job, search),
            )

    def _listed(self) -> list[dict[str, Any]] | None:
        """All points of a grid, or those that are drawn at random; None where they depend on the results."""
        if self.sweep.method == "bayes":
            return None
        if self.sweep.method == "random":
            return list(itertools.islice(random_points(self.sweep, self.seed), self._count()))
        return list(itertools.islice(grid_points(self.sweep), self.count or self.sweep.run_cap))

    def _count(self) -> int:
        count = self.count or self.sweep.run_cap
        if count is None:
            raise SettingsError(f"method {self.sweep.method} has no end: say how many points, as count=20")
        return count

    def _add(self, values: dict[str, Any], proposal: Proposal | None = None, stopped: bool = False) -> Trial:
        varied = {key: value for key, value in values.items() if _varies(self.sweep.parameters[key])}
        number = len(self.trials) + 1
        name = f"point {number} {' '.join(words_of(varied))}".strip()
        point = self.scheduler.point([*self.sweep.words, *self.words, *words_of(values)], name=name)
        self.trials.append(Trial(number, values, point, proposal, stopped))
        return self.trials[-1]

    @contextmanager
    def _journal(self) -> Iterator[Path]:
        """The file that holds a sweep's study, which is one process's at a time.

        Its name changes with everything that the results depend on.
        """
        sweep = self.sweep
        words = sorted(word for word in self.words if not word.startswith(NO_RESULT))
        content = [sweep.method, sweep.metric, sweep.maximize, sweep.parameters, str(sweep.hyperband), sweep.words, words]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
        journal = Path(self.settings.paths.runs).expanduser() / "sweeps" / f"{sweep.name}-{digest}.journal"
        journal.parent.mkdir(parents=True, exist_ok=True)
        try:
            with locked(journal.with_suffix(".lock"), 0):
                yield journal
        except Timeout:
            raise SettingsError(f"another process works on this sweep ({journal.resolve()})") from None

    def _proposed(self, search: Search) -> Iterator[Point]:
        """The points that a search asks for and that are not finished; what their stores lack is made first."""
        for proposal in iter(search.ask, None):
            trial = self._add(proposal.point, proposal)
            if trial.point.finished:
                self._tell(trial, search)
                continue
            self.scheduler.prepare([trial.point])
            yield trial.point

    def _trial(self, job: Job) -> Trial | None:
        """The trial that a job runs; None for a member's."""
        return next((trial for trial in self.trials if trial.point.job is job), None)

    def _should_stop(self, job: Job, search: Search) -> bool:
        trial = self._trial(job)
        if trial is None or trial.proposal is None or self.sweep.hyperband is None:
            return False
        epochs = History(trial.point.folder.history).epochs()
        metric = self.sweep.metric
        names = (metric, metric.replace("accuracy", "mAP"))  # the second of data with several labels a video
        scores = [next(epoch[name] for name in names if name in epoch) for epoch in epochs if set(names) & set(epoch)]
        return search.should_stop(trial.proposal, scores)

    def _ended(self, job: Job, search: Search | None) -> None:
        trial = self._trial(job)
        if trial is not None:
            trial.stopped = job.stopped is not None
            self._tell(trial, search)
            self.write()

    def _tell(self, trial: Trial, search: Search | None) -> None:
        score = trial.score(self.sweep.metric)[1]
        if score is None and (metrics := trial.point.folder.metrics()) is not None:
            raise SettingsError(f"metric: a run has no {self.sweep.metric}; it has {', '.join(metrics)}")
        if search is not None and trial.proposal is not None:
            search.tell(trial.proposal, score, trial.stopped)

    def write(self) -> Path:
        """Write ``results/sweep_<name>.csv``: a row a point."""
        names = sorted(self.sweep.parameters)
        rows: list[Sequence[Any]] = [["point", *names, "state", "figure", "score", "run"]]
        for trial in self.trials:
            figure, score = trial.score(self.sweep.metric)
            values = [trial.values[name] for name in names]
            rows.append([trial.number, *values, trial.state(), figure, "" if score is None else score, trial.point.folder.name])
        path = Path(self.settings.paths.results).expanduser() / f"sweep_{self.sweep.name}.csv"
        write_rows(path, rows)
        return path

    def say_best(self) -> None:
        """Print the best point of each data set."""
        scored: dict[str, list[tuple[float, Trial]]] = {}
        for trial in self.trials:
            score = trial.score(self.sweep.metric)[1]
            if score is not None:
                signed = score if self.sweep.maximize else -score
                scored.setdefault(trial.point.folder.path.parent.name, []).append((signed, trial))
        for data, ranked in scored.items():
            trial = max(ranked, key=lambda entry: entry[0])[1]
            figure, score = trial.score(self.sweep.metric)
            print(f"best of {len(ranked)} on {data}: {figure} {score:.4f} at {' '.join(words_of(trial.values))}", flush=True)


def _varies(spec: dict[str, Any]) -> bool:
    return len(spec.get("values", (1, 2))) > 1 and "value" not in spec
