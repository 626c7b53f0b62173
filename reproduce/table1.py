"""Table 1 of the paper: six models on three data sets, ours beside the paper's.

    python reproduce/table1.py preset=miniature
    python reproduce/table1.py paths.data=/data seeds=[1,2,3]
    python reproduce/table1.py datasets=[hmdb51] rows=[avg_pool_lstm,soft_attention_0] data.split=2

Checks that every data set is in place, extracts features where they are missing, trains and tests each cell as
``train.py`` does (finished runs are reused, interrupted ones go on), and writes results/table1.{md,csv,tex}. The grid is
that of sweeps/table1.yaml.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import yaml

from datamodules.features import usable
from datamodules.videos import Annotation, DataError
from reproduce.inputs import data_folder, feature_spec, has_split, open_store, read_annotation
from reproduce.launch import Job, run_all, run_here, visible_gpus
from reproduce.presets import ROWS
from reproduce.runs import RunFolder, run_folder
from reproduce.settings import DATA_NAMES, Settings, SettingsError, command_line, cores, resolve
from reproduce.tables import Cell, Table, cell_of, write_table

SWEEP = Path(__file__).resolve().parent.parent / "sweeps" / "table1.yaml"


def grid() -> dict[str, list]:
    """The values that sweeps/table1.yaml lists for each parameter."""
    parameters = yaml.safe_load(SWEEP.read_text(encoding="utf-8"))["parameters"]
    return {name: list(entry["values"]) for name, entry in parameters.items()}


@dataclass
class TableSettings(Settings):
    """Settings of table1.py: those of a run, and the grid."""

    datasets: list[str] = field(default_factory=lambda: grid()["data.name"])
    """columns: ucf11, hmdb51, hollywood2, videofolder"""
    rows: list[str] = field(default_factory=lambda: grid()["row"])
    """rows: softmax_regression, avg_pool_lstm, max_pool_lstm, soft_attention_0, soft_attention_1, soft_attention_10"""
    seeds: list[int] = field(default_factory=lambda: grid()["seed"])
    """seeds to average over"""
    workers: Optional[int] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """runs at a time; null for one on each trainer.devices GPUs, or one a core, up to 8, where there is no GPU"""


MOST_ON_CPU = 8  # runs at a time: each holds its features in memory
OWN_KEYS = ("datasets", "rows", "seeds", "workers")


@dataclass
class Point:
    """One run of the grid, as the words that train.py takes, and where it ends up."""

    data: str
    row: str
    seed: int
    words: list[str]
    folder: RunFolder


def main(argv: list[str] | None = None) -> Table:
    """Make Table 1; returns it."""
    argv = sys.argv[1:] if argv is None else argv
    settings = command_line(TableSettings, __doc__ or "", argv)
    words = [word for word in argv if word.partition("=")[0] not in OWN_KEYS]
    try:
        _check_grid(settings, words)
        own_words = {data: _words_of(data, words, settings.datasets) for data in settings.datasets}
        columns = {data: resolve(Settings, own_words[data]) for data in settings.datasets}
        _check_writable(Path(settings.paths.results))
        _read_all(columns)  # before any work, so that nothing is found missing hours later
        failed = [data for data, column in columns.items() if _prepare(column, own_words[data]) != 0]
        if failed:
            raise DataError(f"could not prepare {', '.join(failed)}; the reasons stand above")
        annotations = _read_all(columns, ready=True)
        points = _points(settings, own_words, annotations)
    except (DataError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    failures = _run(settings, points)
    table = _table(settings, points)
    write_table(table, Path(settings.paths.results))
    if failures:
        for job in failures:
            print(f"FAILED: {job.name}, log {job.log}\n    " + "\n    ".join(job.last_lines()), file=sys.stderr)
        raise SystemExit(1)
    return table


def _check_grid(settings: TableSettings, words: list[str]) -> None:
    for name in settings.datasets:
        if name not in DATA_NAMES:
            raise SettingsError(f"datasets: {name} is none of {', '.join(DATA_NAMES)}")
    for name in settings.rows:
        if name not in ROWS:
            raise SettingsError(f"rows: {name} is none of {', '.join(ROWS)}")
    taken = {"data.name": "datasets", "row": "rows", "seed": "seeds", "model.name": "rows"}
    for word in words:
        key = word.partition("=")[0]
        if key in taken:
            raise SettingsError(f"{word}: a table takes {taken[key]}=[…] instead of {key}")
    if not settings.datasets or not settings.rows or not settings.seeds:
        raise SettingsError("datasets, rows and seeds must each name something")


def _words_of(data: str, words: list[str], datasets: list[str]) -> list[str]:
    """A column's words: a split goes to the data sets that have one of that name, and must have one to go to."""
    split = next((word.partition("=")[2] for word in words if word.startswith("data.split=")), None)
    if split is None or has_split(data, split):
        return [*words, f"data.name={data}"]
    if not any(has_split(other, split) for other in datasets):
        raise SettingsError(f"data.split={split}: none of {', '.join(datasets)} has a split of that name")
    return [*(word for word in words if not word.startswith("data.split=")), f"data.name={data}"]


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(f"cannot write to {folder.resolve()} ({error}); set paths.results") from error


def _read_all(columns: dict[str, Settings], ready: bool = False) -> dict[str, Annotation]:
    """Every data set, or one message about all that are not in place."""
    annotations, problems = {}, []
    for data, column in columns.items():
        try:
            annotation = read_annotation(column)
            if ready:
                usable(annotation, open_store(column), column.data.skip_bad)
            annotations[data] = annotation
        except DataError as error:
            problems.append(f"{data}: looked in {data_folder(column).resolve()}\n{error}")
    if problems:
        raise DataError(
            "data are not in place.\n\n" + "\n\n".join(problems) + "\n\n"
            "Say where your data lie with paths.data=<folder>, choose data sets with datasets=[…], or run\n"
            "    python reproduce/table1.py preset=miniature\n"
            "which needs none: it draws small stand-in videos in the same layouts"
        )
    return annotations


def _prepare(column: Settings, words: list[str]) -> int:
    """Extract what is missing of a data set's features; returns the exit status."""
    annotation = read_annotation(column)
    store = open_store(column)
    if store.exists():
        store.require(feature_spec(column))
        if not store.missing(video.name for video in annotation.videos):
            return 0
    print(f"preparing {column.data.name}", flush=True)
    return run_here("prepare.py", words)


def _points(settings: TableSettings, words: dict[str, list[str]], annotations: dict[str, Annotation]) -> list[Point]:
    points = []
    for data in settings.datasets:
        for row in settings.rows:
            for seed in settings.seeds:
                run_words = [*words[data], f"row={row}", f"seed={seed}"]
                run_settings = resolve(Settings, run_words)
                folder = run_folder(run_settings, annotations[data], feature_spec(run_settings))
                points.append(Point(data, row, seed, run_words, folder))
    return points


def _run(settings: TableSettings, points: list[Point]) -> list[Job]:
    """Run what is not finished; returns the jobs that failed."""
    gpus = visible_gpus() if settings.trainer.accelerator != "cpu" else []
    workers = settings.workers or (
        len(gpus) // settings.trainer.devices if gpus else min(MOST_ON_CPU, cores() // settings.trainer.devices)
    )
    logs = Path(settings.paths.runs).expanduser() / "logs"
    jobs = [
        Job(
            f"{point.data} {point.row} seed {point.seed}",
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
    workers = max(1, min(workers, len(jobs)))
    return run_all(jobs, workers, gpus, settings.trainer.devices) if jobs else []


def _table(settings: TableSettings, points: list[Point]) -> Table:
    cells: dict[tuple[str, str], Cell] = {}
    for data in settings.datasets:
        for row in settings.rows:
            folders = [point.folder for point in points if (point.data, point.row) == (data, row)]
            cells[row, data] = cell_of(data, row, [folder for folder in folders if folder.metrics() is not None])
    return Table("Table 1", tuple(settings.rows), tuple(settings.datasets), cells)


if __name__ == "__main__":
    main()
