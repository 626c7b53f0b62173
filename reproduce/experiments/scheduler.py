"""The scheduler: points of tables and sweeps are checked, prepared, and run where they are not finished. Free of torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from datamodules.stored_videos import to_extract, usable
from datamodules.videos import Annotation, DataError
from reproduce.common.catalogue import ROWS, SYSTEMS
from reproduce.common.cli import resolve
from reproduce.common.dataset import STORES, data_folder, read_annotation, split_of
from reproduce.common.processes import run_here
from reproduce.common.settings import Settings, SettingsError
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import members, run_folder, seed_of
from reproduce.experiments.jobs import Job, run_all, workers_for
from reproduce.experiments.sources import Source

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"


def sweep_values(name: str) -> dict[str, list[Any]]:
    """The values that ``sweeps/<name>.yaml`` lists for each parameter."""
    parameters = yaml.safe_load((SWEEPS / f"{name}.yaml").read_text(encoding="utf-8"))["parameters"]
    return {parameter: list(entry["values"]) for parameter, entry in parameters.items()}


@dataclass
class Point:
    """One run, as the words that train.py takes, and where it ends up.

    Args:
        column: of the table, or the data set.
        row: of the catalogue.
        seed: that its result depends on.
        words: for train.py.
        folder: of the run.
        name: for a reader; by default column, row and seed.
        turns: how many runs, of a split each, a cell is pooled from under one seed.
        job: the process that runs it, where one has to.
    """

    column: str
    row: str
    seed: int
    words: list[str]
    folder: RunFolder
    name: str = ""
    turns: int = 1
    job: Job | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.name = self.name or f"{self.column} {self.row} seed {self.seed}"

    @property
    def settings(self) -> Settings:
        """What its words say; not to be changed."""
        return _settings(tuple(self.words))

    @property
    def finished(self) -> bool:
        """Whether the run has its figures."""
        return self.folder.metrics() is not None


@lru_cache(maxsize=4096)
def _settings(words: tuple[str, ...]) -> Settings:
    return resolve(Settings, list(words))


class Scheduler:
    """Makes points of words, prepares what they read, and runs them with the runs that they are made from.

    Args:
        settings: of the table or sweep, for paths and devices.
        workers: runs at a time; None for as many as the machine has room for.
    """

    def __init__(self, settings: Settings, workers: int | None) -> None:
        self.settings, self.workers = settings, workers
        self._annotations: dict[str, Annotation] = {}
        self._jobs: dict[Path, Job] = {}

    def annotation(self, settings: Settings) -> Annotation:
        """A point's data set, read once.

        Raises:
            DataError: it is not in place; says where it was looked for.
        """
        data = settings.data
        decides = data.split, data.groups, data.classes, data.fold, data.permuted, data.skip_bad
        key = repr((settings.preset, data.name, data_folder(settings), *decides))
        if key not in self._annotations:
            try:
                self._annotations[key] = read_annotation(settings)
            except DataError as error:
                raise DataError(f"{data.name}: looked in {data_folder(settings).resolve()}\n{error}") from error
        return self._annotations[key]

    def point(self, words: Sequence[str], column: str = "", name: str = "", turns: int = 1) -> Point:
        """The point of some words."""
        settings = _settings(tuple(words))
        folder = run_folder(settings, self.annotation(settings))
        row = settings.row or settings.model.name
        column = column or settings.data.name
        name = name or (f"{column} {settings.data.split} {row} seed {seed_of(settings)}" if turns > 1 else "")
        return Point(column, row, seed_of(settings), list(words), folder, name, turns)

    def members(self, point: Point) -> list[Point]:
        """The points that a point is made from: its words with other rows; none for most."""
        found = []
        for member in members(point.settings):
            own = {"row", "model.name", *(key for row in (point.row, member.row) if row in ROWS for key in ROWS[row].sets)}
            words = [word for word in point.words if word.partition("=")[0] not in own]
            found.append(self.point([*words, f"row={member.row}"], point.column))
        return found

    def prepare(self, points: Iterable[Point]) -> list[tuple[str, str]]:
        """Make what is missing of the stores that points read, once each; returns columns and kinds of those that failed."""
        first: dict[tuple[str, str | None, Path], tuple[str, Point]] = {}
        for point in points:
            for kind in _stores(point):
                key = point.column, point.settings.data.split, STORES[kind].folder(point.settings)
                first.setdefault(key, (kind, point))
        return [(point.column, kind) for kind, point in first.values() if _prepare(point.column, kind, point.words) != 0]

    def lacking(self, point: Point, failed: Sequence[tuple[str, str]]) -> list[str]:
        """Kinds of stores that a point or its members read and that are among those that failed, by column."""
        read = dict.fromkeys((one.column, kind) for one in (point, *self.members(point)) for kind in _stores(one))
        return [kind for column, kind in read if (column, kind) in failed]

    def require_usable(self, points: Iterable[Point]) -> None:
        """Check that every video that points read is in their stores.

        Raises:
            DataError: some are missing or bad; says what to do.
        """
        settings_of = {
            (kind, point.column, point.settings.data.split): point.settings for point in points for kind in _stores(point)
        }
        for (kind, *_), settings in settings_of.items():
            usable(self.annotation(settings), STORES[kind].open(settings), settings.data.skip_bad, settings.data.keeps_damaged)

    def job(self, point: Point) -> Job:
        """The process that runs a point; it waits for those of its members that are not finished."""
        if point.folder.path not in self._jobs:
            logs = Path(self.settings.paths.runs).expanduser() / "logs"
            needs = [self.job(member) for member in self.members(point) if not member.finished]
            log = logs / f"{point.folder.path.name}.txt"
            self._jobs[point.folder.path] = Job(point.name, "train.py", point.words, log, needs=tuple(needs))
        point.job = self._jobs[point.folder.path]
        return point.job

    def run(
        self,
        points: Iterable[Point],
        total: int | None = None,
        stop: Callable[[Job], bool] | None = None,
        ended: Callable[[Job], None] | None = None,
    ) -> list[Job]:
        """Run points that are not finished, each member first; returns the jobs that failed.

        Args:
            points: in the order to start them; each is asked for when there is room for it.
            total: how many there are, where ``points`` does not tell.
            stop, ended: see `run_all`.
        """
        if isinstance(points, Sequence):
            reused = sum(point.finished for point in points)
            if reused:
                print(f"{reused} of {len(points)} runs are finished already", flush=True)
            total = len(set(_with_needs(self.job(point) for point in points if not point.finished)))
        devices = self.settings.trainer.devices
        workers, gpus = workers_for(self.workers, self.settings.trainer.accelerator, devices)
        jobs = _with_needs(self.job(point) for point in points if not point.finished)
        return run_all(jobs, max(1, min(workers, total or 1)), gpus, devices, total, stop, ended) if total else []


def _stores(point: Point) -> tuple[str, ...]:
    return SYSTEMS[point.settings.model.name].stores


def _with_needs(jobs: Iterable[Job]) -> Iterator[Job]:
    """Jobs with those that they wait for before them, each once."""
    seen: set[int] = set()
    for job in jobs:
        for one in (*job.needs, job):
            if id(one) not in seen:
                seen.add(id(one))
                yield one


def _prepare(column: str, kind: str, words: list[str]) -> int:
    """Make what is missing of a column's store; returns the exit status."""
    settings = _settings(tuple(words))
    annotation, store = read_annotation(settings), STORES[kind].open(settings)
    if store.exists():
        store.require(STORES[kind].spec(settings))
        if not to_extract(annotation, store, keep_damaged=settings.data.keeps_damaged):
            return 0
    print(f"preparing {column}", flush=True)
    return run_here("prepare.py", [*words, f"data.split={split_of(settings)}"])  # which no other split's clips hold up


def check_grid(
    settings: Settings, chosen: Mapping[str, tuple[list[Any], Sequence[str]]], words: list[str], taken: dict
) -> None:
    """Check a table's own keys.

    Args:
        settings: the table's.
        chosen: by key, what it lists and what it may list; nothing for whatever one likes.
        words: the command line's, for the runs.
        taken: by key of a run, the table's key that stands for it.

    Raises:
        SettingsError: a list is empty or names something unknown, or a word is the table's own affair.
    """
    for key, (listed, known) in chosen.items():
        if not listed:
            raise SettingsError(f"{', '.join(chosen)} must each name something")
        for name in listed:
            if known and name not in known:
                raise SettingsError(f"{key}: {name} is none of {', '.join(known)}")
    for word in words:
        key = word.partition("=")[0]
        if key in taken:
            raise SettingsError(f"{word}: a table takes {taken[key]}=[…] instead of {key}")
    if settings.data.fold is not None:
        raise SettingsError("data.fold: a table shows the test set, which a fold never reads; leave it out")


def finish_grid(
    settings: Settings,
    columns: Mapping[str, Sequence[list[str]]],
    rows: Sequence[str],
    seeds: Sequence[int],
    workers: int | None,
    script: str,
    source: str | None = None,
    leave_out: bool = False,
) -> tuple[list[Point], list[Job]]:
    """Check all data, make what is missing of the stores, run what is not finished.

    Args:
        settings: the table's, for paths and devices.
        columns: by column, the words of its runs, for each split that is pooled.
        rows: of the catalogue.
        seeds: of each cell; a deterministic system takes the first alone.
        workers: runs at a time; None for as many as the machine has room for.
        script: for messages.
        source: where finished runs are taken from instead, see `sources.Source`; nothing is run then.
        leave_out: go on without the rows whose stores cannot be made, and say so.

    Returns:
        The grid's points, and the jobs that failed.
    """
    grid = [
        (column, row, [*words, f"row={row}", f"seed={seed}"])
        for column, turns in columns.items()
        for words in turns
        for row in rows
        for seed in (seeds[:1] if ROWS[row].system.deterministic else seeds)
    ]
    try:
        if source is not None:
            _check_writable(Path(settings.paths.results))
            return _stored(settings, grid, source, {column: len(turns) for column, turns in columns.items()}), []
        _check_writable(Path(settings.paths.results))
        scheduler = Scheduler(settings, workers)
        _read_all(scheduler, [resolve(Settings, words) for turns in columns.values() for words in turns], script)
        points = [scheduler.point(words, column, turns=len(columns[column])) for column, _, words in grid]
        everything = [*points, *(member for point in points for member in scheduler.members(point))]
        if failed := scheduler.prepare(everything):
            lacking = [scheduler.lacking(point, failed) for point in points]
            if not leave_out or all(lacking):
                names = dict.fromkeys(column for column, _ in failed)
                raise DataError(f"could not prepare {', '.join(names)}; the reasons stand above")
            gone = {(point.column, point.row): kinds for point, kinds in zip(points, lacking, strict=True) if kinds}
            for (column, row), kinds in gone.items():
                print(
                    f"{column} {row} is not measured: could not make {' and '.join(kinds)}; the reasons stand above", flush=True
                )
            points = [point for point in points if (point.column, point.row) not in gone]
            everything = [*points, *(member for point in points for member in scheduler.members(point))]
        scheduler.require_usable(everything)
        return points, scheduler.run(points)
    except (DataError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _stored(
    settings: Settings, grid: Sequence[tuple[str, str, list[str]]], source: str, turns: Mapping[str, int]
) -> list[Point]:
    """The points that a source has finished runs of."""
    stored, points = Source(source, Path(settings.paths.runs).expanduser() / "from-wandb"), []
    for column, row, words in grid:
        wanted = _settings(tuple(words))
        folder, seed = stored.find(wanted), seed_of(wanted)
        if folder is None:
            print(f"{source}: no finished run of {column} {row} seed {wanted.seed} with these settings", flush=True)
        else:
            points.append(Point(column, row, seed, words, folder, turns=turns[column]))
    return points


def _check_writable(folder: Path) -> None:
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(f"cannot write to {folder.resolve()} ({error}); set paths.results") from error


def _read_all(scheduler: Scheduler, columns: Iterable[Settings], script: str) -> None:
    """Read every column's data set before any work, so that nothing is found missing hours later.

    Raises:
        DataError: one message about all that are not in place.
    """
    problems: dict[str, None] = {}
    for settings in columns:
        try:
            scheduler.annotation(settings)
        except DataError as error:
            problems[str(error)] = None
    if problems:
        key = "datasets" if script == "table1.py" else "columns"
        raise DataError(
            "data are not in place.\n\n" + "\n\n".join(problems) + "\n\n"
            f"Say where your data lie with paths.data=<folder>, choose data sets with {key}=[…], or run\n"
            f"    python reproduce/{script} preset=miniature\n"
            "which needs none: it draws small stand-in videos in the same layouts"
        )


def exit_if_failed(failures: Sequence[Job]) -> None:
    """Name the runs that failed, with the ends of their logs, and exit with status 1 if there are any."""
    for job in failures:
        print(f"FAILED: {job.name}, log {job.log}\n    " + "\n    ".join(job.last_lines()), file=sys.stderr)
    if failures:
        raise SystemExit(1)
