"""Table 2 of the paper: HMDB-51 and Hollywood2 beside other published systems, each number measured here or quoted.

    python reproduce/table2.py preset=miniature
    python reproduce/table2.py paths.data=/data seeds=[1,2,3]
    python reproduce/table2.py columns=[hmdb51_1] rows=[avg_pool_lstm,soft_attention_0]

Runs what this suite can run, as ``table1.py`` does: checks that the data are in place, extracts features where they are
missing, trains and tests each row on each column (finished runs are reused, interrupted ones go on). Every other number
is quoted from reproduce/quoted.csv, which names its publication. Rows of ours that the paper's table does not have stand
at the end of their section. Writes results/table2.{md,csv,tex,html}, and which runs they
were made from to results/table2.json, for verify.py. The grid is that of sweeps/table2.yaml.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from datamodules.videos import DataError
from reproduce.common.catalogue import COLUMNS, DATASETS, ROWS, TABLE2_COLUMNS, measured_columns
from reproduce.common.cli import command_line, fail
from reproduce.common.settings import Settings, SettingsError, ranged
from reproduce.evaluation import published as paper
from reproduce.evaluation.results import Cell, Column, Table, cells_of
from reproduce.evaluation.writers import write_table
from reproduce.experiments.scheduler import Point, check_grid, exit_if_failed, finish_grid, finished, sweep_values


@dataclass
class TableSettings(Settings):
    """Settings of table2.py: those of a run, and the grid."""

    columns: list[str] = field(default_factory=lambda: sweep_values("table2")["column"])
    """what is measured: hmdb51_1, hmdb51_2, hmdb51_3 (all three for their mean), hollywood2"""
    rows: list[str] = field(default_factory=lambda: sweep_values("table2")["row"])
    """rows that are measured: softmax_regression, avg_pool_lstm, max_pool_lstm, soft_attention_0, soft_attention_1, \
soft_attention_10"""
    seeds: list[int] = field(default_factory=lambda: sweep_values("table2")["seed"])
    """seeds to average over"""
    workers: Optional[int] = ranged(None, 1)  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """runs at a time; null for one on each trainer.devices GPUs, or one a core, up to 8, where there is no GPU"""
    source: Optional[str] = None  # noqa: UP045
    """make the table from finished runs elsewhere, of wandb:<entity>/<project>[/<sweep>] or a folder, and run nothing"""


OWN_KEYS = ("columns", "rows", "seeds", "workers", "source")
TAKEN = {"column": "columns", "data.name": "columns", "data.split": "columns", "row": "rows", "model.name": "rows"}
TAKEN |= {"seed": "seeds"}

REMARK = (
    "Quoted numbers are those that Table 2 of Sharma et al. (2015) prints; the publications are the sources it names. "
    "It does not say which HMDB-51 splits its own number is of; quoted numbers stand under the mean of the three, the data "
    "set's usual protocol."
)


def main(argv: list[str] | None = None) -> Table:
    """Make Table 2; returns it."""
    argv = sys.argv[1:] if argv is None else argv
    settings = command_line(TableSettings, __doc__ or "", argv)
    words = [word for word in argv if word.partition("=")[0] not in OWN_KEYS]
    try:
        chosen = {"columns": (settings.columns, measured_columns(TABLE2_COLUMNS)), "rows": (settings.rows, list(ROWS))}
        check_grid(settings, {**chosen, "seeds": (settings.seeds, ())}, words, TAKEN)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    columns = {column: [*words, f"column={column}"] for column in settings.columns}
    points, failures = finish_grid(
        settings, columns, settings.rows, settings.seeds, settings.workers, "table2.py", settings.source
    )
    try:
        table = make_table(settings.rows, points)
    except DataError as error:
        raise fail(error) from error
    write_table(table, Path(settings.paths.results))
    exit_if_failed(failures)
    return table


def make_table(rows: list[str], points: list[Point]) -> Table:
    """Table 2 from quoted.csv and the finished runs among some points."""
    quoted = {line.key: line for line in paper.table2()}
    sections = {key: line.section for key, line in quoted.items()}
    sections |= {row: ROWS[row].system.sees for row in rows if row not in quoted}
    labels = {row: quoted[row].model if row in quoted else ROWS[row].label for row in sections}
    order = [row for section in dict.fromkeys(sections.values()) for row in sections if sections[row] == section]
    cells: dict[tuple[str, str], Cell] = {}
    for key, column in ((key, COLUMNS[key]) for key in TABLE2_COLUMNS):
        name, figure, data = column.label, DATASETS[column.data].figure, column.data if column.published else ""
        printed = {row: quoted[row].printed.get(data) if row in quoted else None for row in order}
        runs = {row: finished(points, column.parts(key), row) for row in rows}
        found = cells_of(Column(figure, printed, runs, name=name))
        for row in order:
            unfinished = (f"{name}: {labels[row]} has no finished run here",) if row in rows else ()
            cells[row, key] = found[row] if runs.get(row) else Cell(figure, (), None, printed[row], unfinished, data=name)
    sources = {row: _source(quoted.get(row), {key: cells[row, key] for key in TABLE2_COLUMNS}) for row in order}
    references = dict.fromkeys(f"{line.reference}." for line in quoted.values())
    return Table("Table 2", tuple(order), TABLE2_COLUMNS, cells, labels, sections, sources, (REMARK, *references))


def _source(quoted: paper.Quoted | None, cells: Mapping[str, Cell]) -> str:
    """Where a row's numbers come from, in a few words."""
    by_origin: dict[str, list[str]] = {"measured": [], "quoted": []}
    for cell in cells.values():
        by_origin.get(cell.origin, []).append(cell.data)
    words = {"measured": "measured here", "quoted": f"quoted from {quoted.citation}" if quoted else ""}
    said = [(words[origin], names) for origin, names in by_origin.items() if names]
    if len(said) == 1:
        return said[0][0]
    return "; ".join(f"{' and '.join(names)} {word}" for word, names in said) or "no finished run"


if __name__ == "__main__":
    main()
