"""Table 1 of the paper: its six models and content attention on three data sets, ours beside the paper's.

    python reproduce/table1.py preset=miniature
    python reproduce/table1.py paths.data=/data seeds=[1,2,3]
    python reproduce/table1.py datasets=[hmdb51] rows=[avg_pool_lstm,soft_attention_0] data.split=2
    python reproduce/table1.py preset=miniature datasets=[ucf11] data.permuted=1      # a negative control

Checks that every data set is in place, extracts features where they are missing, trains and tests each cell as
``train.py`` does (finished runs are reused, interrupted ones go on), marks rows that differ significantly from the
average-pooled one, and writes results/table1.{md,csv,tex,html}, and which runs they were made from to
results/table1.json, for verify.py. The grid is that of sweeps/table1.yaml; with preset=miniature, that preset's rows.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from datamodules.videos import DataError
from reproduce.common.catalogue import DATASETS, ROWS
from reproduce.common.cli import command_line, fail, resolve
from reproduce.common.dataset import turns_of
from reproduce.common.fields import ranged
from reproduce.common.presets import PRESETS
from reproduce.common.settings import Settings, SettingsError
from reproduce.evaluation import paper_tables
from reproduce.evaluation.results import Table
from reproduce.evaluation.writers import write_table
from reproduce.experiments.scheduler import check_grid, exit_if_failed, finish_grid, sweep_values


@dataclass
class TableSettings(Settings):
    """Settings of table1.py: those of a run, and the grid."""

    datasets: list[str] = field(default_factory=lambda: sweep_values("table1")["data.name"])
    """columns: ucf11, hmdb51, hollywood2, ucf101, videofolder"""
    rows: list[str] = field(default_factory=lambda: sweep_values("table1")["row"])
    """rows: softmax_regression, avg_pool_lstm, max_pool_lstm, soft_attention_0, …_1, …_10, content_attention_0, …_1, …_10"""
    seeds: list[int] = field(default_factory=lambda: sweep_values("table1")["seed"])
    """seeds to average over"""
    workers: Optional[int] = ranged(None, 1)  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """runs at a time; null for one on each trainer.devices GPUs, or one a core, up to 8, where there is no GPU"""
    source: Optional[str] = None  # noqa: UP045
    """make the table from finished runs elsewhere, of wandb:<entity>/<project>[/<sweep>] or a folder, and run nothing"""


OWN_KEYS = ("datasets", "rows", "seeds", "workers", "source")
TAKEN = {"data.name": "datasets", "column": "datasets", "row": "rows", "model.name": "rows", "seed": "seeds"}


def main(argv: list[str] | None = None) -> Table:
    """Make Table 1; returns it."""
    argv = sys.argv[1:] if argv is None else argv
    settings = command_line(TableSettings, __doc__ or "", argv)
    if not any(word.startswith("rows=") for word in argv):
        settings.rows = next((list(rows) for preset in settings.preset if (rows := PRESETS[preset].rows)), settings.rows)
    words = [word for word in argv if word.partition("=")[0] not in OWN_KEYS]
    try:
        chosen = {
            "datasets": (settings.datasets, list(DATASETS)),
            "rows": (settings.rows, list(ROWS)),
            "seeds": (settings.seeds, ()),
        }
        check_grid(settings, chosen, words, TAKEN)
        columns = {data: _turns_of(data, words, settings.datasets) for data in settings.datasets}
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    points, failures = finish_grid(
        settings, columns, settings.rows, settings.seeds, settings.workers, "table1.py", settings.source
    )
    try:
        table = paper_tables.table1(settings.datasets, settings.rows, paper_tables.runs_of(points))
    except DataError as error:
        raise fail(error) from error
    write_table(table, Path(settings.paths.results))
    exit_if_failed(failures)
    return table


def _turns_of(data: str, words: list[str], datasets: list[str]) -> list[list[str]]:
    """A column's words for each split that it is pooled over."""
    own = _words_of(data, words, datasets)
    turns = turns_of(resolve(Settings, own))
    if len(turns) == 1:
        return [own]
    return [[*(word for word in own if not word.startswith("data.split=")), f"data.split={turn}"] for turn in turns]


def _words_of(data: str, words: list[str], datasets: list[str]) -> list[str]:
    """A column's words: a split goes to the data sets that have one of that name, and must have one to go to."""
    split = next((word.partition("=")[2] for word in words if word.startswith("data.split=")), None)
    if split in (None, "null") or DATASETS[data].has_split(split):
        return [*words, f"data.name={data}"]
    if not any(DATASETS[other].has_split(split) for other in datasets):
        raise SettingsError(f"data.split={split}: none of {', '.join(datasets)} has a split of that name")
    return [*(word for word in words if not word.startswith("data.split=")), f"data.name={data}"]


if __name__ == "__main__":
    main()
