"""Table 2 of the paper: HMDB-51 and Hollywood2 beside other published systems, each number measured here or quoted.

    python reproduce/table2.py preset=miniature
    python reproduce/table2.py paths.data=/data seeds=[1,2,3]
    python reproduce/table2.py columns=[hmdb51_1] rows=[avg_pool_lstm,soft_attention_0]

Runs what this suite can run, as ``table1.py`` does: checks that the data are in place, makes features and trajectories where
they are missing, trains and tests each row on each column (finished runs are reused, interrupted ones go on). Every other
number is quoted from reproduce/evaluation/published.csv, which names its publication. Rows of ours that the paper's table does
not have stand at the end of their section. Writes results/table2.{md,csv,tex,html}, and which runs they were made from to
results/table2.json, for verify.py. The grid is that of sweeps/table2.yaml. Without rows=[…], rows whose libraries are missing
or whose stores cannot be made are left out, and it says why.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from datamodules.videos import DataError
from reproduce.common.catalogue import ROWS, TABLE2_COLUMNS, measured_columns
from reproduce.common.cli import command_line, fail
from reproduce.common.fields import ranged
from reproduce.common.settings import Settings, SettingsError
from reproduce.evaluation import paper_tables
from reproduce.evaluation.results import Table
from reproduce.evaluation.writers import write_table
from reproduce.experiments.scheduler import check_grid, exit_if_failed, finish_grid, sweep_values


@dataclass
class TableSettings(Settings):
    """Settings of table2.py: those of a run, and the grid."""

    columns: list[str] = field(default_factory=lambda: sweep_values("table2")["column"])
    """what is measured: hmdb51_1, hmdb51_2, hmdb51_3 (all three for their mean), hollywood2"""
    rows: list[str] = field(default_factory=lambda: sweep_values("table2")["row"])
    """rows that are measured, such as soft_attention_0, idt_fv, video_darwin; any row of the catalogue"""
    seeds: list[int] = field(default_factory=lambda: sweep_values("table2")["seed"])
    """seeds to average over"""
    workers: Optional[int] = ranged(None, 1)  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """runs at a time; null for one on each trainer.devices GPUs, or one a core, up to 8, where there is no GPU"""
    source: Optional[str] = None  # noqa: UP045
    """make the table from finished runs elsewhere, of wandb:<entity>/<project>[/<sweep>] or a folder, and run nothing"""


OWN_KEYS = ("columns", "rows", "seeds", "workers", "source")
TAKEN = {"column": "columns", "data.name": "columns", "data.split": "columns", "row": "rows", "model.name": "rows"}
TAKEN |= {"seed": "seeds"}


def with_libraries(rows: list[str]) -> list[str]:
    """Those of some rows whose optional libraries are installed; says what the others need."""
    for row in rows:
        if lacks := ROWS[row].system.lacks:
            print(f"{row} is not measured: it needs {' and '.join(lacks)}: pip install -e '.[systems]'", flush=True)
    return [row for row in rows if not ROWS[row].system.lacks]


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
    columns = {column: [[*words, f"column={column}"]] for column in settings.columns}
    asked = any(word.startswith("rows=") for word in argv)
    rows = settings.rows if asked or settings.source else with_libraries(settings.rows)
    points, failures = finish_grid(
        settings, columns, rows, settings.seeds, settings.workers, "table2.py", settings.source, leave_out=not asked
    )
    try:
        table = paper_tables.table2(rows, paper_tables.runs_of(points))
    except DataError as error:
        raise fail(error) from error
    write_table(table, Path(settings.paths.results))
    exit_if_failed(failures)
    return table


if __name__ == "__main__":
    main()
