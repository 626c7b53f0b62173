"""What the tables share: a grid of runs, checked, prepared, run where it is not finished yet. Free of torch."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datamodules.stored_videos import to_extract, usable
from datamodules.videos import Annotation, DataError
from reproduce.common.dataset import data_folder, feature_spec, open_store, read_annotation
from reproduce.common.processes import Job, run_all, run_here, workers_for
from reproduce.common.settings import Settings, SettingsError, resolve
from reproduce.experiments.folder import RunFolder, run_folder
from reproduce.experiments.sources import Source

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"


def sweep_values(name: str) -> dict[str, list[Any]]:
    """The values that ``sweeps/<name>.yaml`` lists for each parameter."""
    parameters = yaml.safe_load((SWEEPS / f"{name}.yaml").read_text(encoding="utf-8"))["parameters"]
    return {parameter: list(entry["values"]) for parameter, entry in parameters.items()}


@dataclass(frozen=True)
class Point:
    """One run of the grid, as the words that train.py takes, and where it ends up."""

    column: str
    row: str
    seed: int
    words: list[str]
    folder: RunFolder


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
    columns: Mapping[str, list[str]],
    rows: Sequence[str],
    seeds: Sequence[int],
    workers: int | None,
    script: str,
    source: str | None = None,
) -> tuple[list[Point], list[Job]]:
    """Check all data, extract what is missing of the features, run what is not finished.

    Args:
        settings: the table's, for paths and devices.
        columns: by column, the words of its runs.
        rows: of `presets.ROWS`.
        seeds: of each cell.
        workers: runs at a time; None for as many as the machine has room for.
        script: for messages.
        source: where finished runs are taken from instead, see `sources.Source`; nothing is run then.

    Returns:
        The grid's points, and the jobs that failed.
    """
    try:
        if source is not None:
            _check_writable(Path(settings.paths.results))
            return _stored(settings, columns, rows, seeds, source), []
        resolved = {column: resolve(Settings, words) for column, words in columns.items()}
        _check_writable(Path(settings.paths.results))
        _read_all(resolved, script)  # before any work, so that nothing is found missing hours later
        failed = [column for column, of_column in resolved.items() if _prepare(column, of_column, columns[column]) != 0]
        if failed:
            raise DataError(f"could not prepare {', '.join(failed)}; the reasons stand above")
        annotations = _read_all(resolved, script, ready=True)
        points = []
        for column, words in columns.items():
            for row in rows:
                for seed in seeds:
                    run_words = [*words, f"row={row}", f"seed={seed}"]
                    run_settings = resolve(Settings, run_words)
                    folder = run_folder(run_settings, annotations[column], feature_spec(run_settings))
                    points.append(Point(column, row, seed, run_words, folder))
        return points, _run(settings, points, workers)
    except (DataError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _stored(
    settings: Settings, columns: Mapping[str, list[str]], rows: Sequence[str], seeds: Sequence[int], source: str
) -> list[Point]:
    """The points that a source has finished runs of."""
    stored = Source(source, Path(settings.paths.runs).expanduser() / "from-wandb")
    points = []
    for (column, words), row, seed in itertools.product(columns.items(), rows, seeds):
        run_words = [*words, f"row={row}", f"seed={seed}"]
        folder = stored.find(resolve(Settings, run_words))
        if folder is None:
            print(f"{source}: no finished run of {column} {row} seed {seed} with these settings", flush=True)
        else:
            points.append(Point(column, row, seed, run_words, folder))
    return points


def finished(points: Sequence[Point], columns: Sequence[str], row: str) -> dict[int, list[RunFolder]]:
    """By seed, a row's finished runs, one for each column; seeds that lack one are left out."""
    folders = {(point.column, point.seed): point.folder for point in points if point.row == row}
    found = {}
    for seed in dict.fromkeys(seed for _, seed in folders):
        of_seed = [folders.get((column, seed)) for column in columns]
        if all(folder is not None and folder.metrics() is not None for folder in of_seed):
            found[seed] = of_seed
    return found


def exit_if_failed(failures: Sequence[Job]) -> None:
    """Name the runs that failed, with the ends of their logs, and exit with status 1 if there are any."""
    for job in failures:
        print(f"FAILED: {job.name}, log {job.log}\n    " + "\n    ".join(job.last_lines()), file=sys.stderr)
    if failures:
        raise SystemExit(1)


def _check_writable(folder: Path) -> None:
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(f"cannot write to {folder.resolve()} ({error}); set paths.results") from error


def _read_all(columns: Mapping[str, Settings], script: str, ready: bool = False) -> dict[str, Annotation]:
    """Every column's data set, or one message about all that are not in place."""
    annotations: dict[str, Annotation] = {}
    problems: dict[str, None] = {}
    for column, settings in columns.items():
        try:
            annotation = read_annotation(settings)
            if ready:
                usable(annotation, open_store(settings), settings.data.skip_bad)
            annotations[column] = annotation
        except DataError as error:
            problems[f"{settings.data.name}: looked in {data_folder(settings).resolve()}\n{error}"] = None
    if problems:
        key = "datasets" if script == "table1.py" else "columns"
        raise DataError(
            "data are not in place.\n\n" + "\n\n".join(problems) + "\n\n"
            f"Say where your data lie with paths.data=<folder>, choose data sets with {key}=[…], or run\n"
            f"    python reproduce/{script} preset=miniature\n"
            "which needs none: it draws small stand-in videos in the same layouts"
        )
    return annotations


def _prepare(column: str, settings: Settings, words: list[str]) -> int:
    """Extract what is missing of a column's features; returns the exit status."""
    annotation = read_annotation(settings)
    store = open_store(settings)
    if store.exists():
        store.require(feature_spec(settings))
        if not to_extract(annotation, store):
            return 0
    print(f"preparing {column}", flush=True)
    return run_here("prepare.py", [*words, f"data.split={annotation.split}"])  # which no other split's clips hold up


def _run(settings: Settings, points: Sequence[Point], workers: int | None) -> list[Job]:
    """Run what is not finished; returns the jobs that failed."""
    workers, gpus = workers_for(workers, settings.trainer.accelerator, settings.trainer.devices)
    logs = Path(settings.paths.runs).expanduser() / "logs"
    jobs = [
        Job(
            f"{point.column} {point.row} seed {point.seed}",
            "train.py",
            point.words,
            logs / f"{point.folder.path.name}.txt",
        )
        for point in points
        if point.folder.metrics() is None
    ]
    reused = len(points) - len(jobs)
    if reused:
        print(f"{reused} of {len(points)} runs are finished already", flush=True)
    return run_all(jobs, min(workers, len(jobs)), gpus, settings.trainer.devices) if jobs else []
