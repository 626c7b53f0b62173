"""Tables 1 and 2 of the paper, from finished runs and published numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from reproduce.common.catalogue import COLUMNS, DATASETS, ROWS, TABLE2_COLUMNS
from reproduce.evaluation import published
from reproduce.evaluation.controls import findings
from reproduce.evaluation.results import Cell, Column, FinishedRun, Table, cells_of, is_deterministic
from reproduce.experiments.identity import NO_SEED

if TYPE_CHECKING:
    from reproduce.experiments.scheduler import Point

Runs = Callable[[str, str], Mapping[int, Sequence[FinishedRun]]]
"""From a column and a row of a table to the finished runs of each seed, one for each split that it is a mean of or pooled
from."""
Given = Mapping[tuple[str, str], Cell]
"""By row and column, cells that stand in place of those made from runs."""
UNFINISHED = "no finished run here of "
BEYOND = "Beyond the paper"
"""The section of Table 1 that holds the rows that the paper does not have."""
REMARK = (
    "Quoted numbers are those that Table 2 of Sharma et al. (2015) prints; the publications are the sources it names. "
    "It does not say which HMDB-51 splits its own number is of; quoted numbers stand under the mean of the three, the data "
    "set's usual protocol."
)


def runs_of(points: Iterable[Point]) -> Runs:
    """The finished runs among some points.

    A seed counts for a column where all that the column is a mean of, or is pooled from, are finished.
    """
    found: dict[tuple[str, str, int], dict[str, FinishedRun]] = {}
    turns = {}
    for point in points:
        metrics = point.folder.metrics()
        turns[point.column] = point.turns
        if metrics is not None:
            seed = NO_SEED if is_deterministic(point.row) else point.seed
            run = FinishedRun(point.folder, point.folder.about(), metrics)
            found.setdefault((point.column, point.row, seed), {})[str(point.folder.path)] = run

    def of_cell(column: str, row: str) -> dict[int, list[FinishedRun]]:
        parts = COLUMNS[column].parts(column) if column in COLUMNS else (column,)
        seeds = dict.fromkeys(seed for part, other, seed in found if part in parts and other == row)
        by_seed = {seed: [run for part in parts for run in found.get((part, row, seed), {}).values()] for seed in seeds}
        whole = sum(turns.get(part, 1) for part in parts)
        return {seed: runs for seed, runs in by_seed.items() if len(runs) == whole}

    return of_cell


def table1(datasets: Sequence[str], rows: Sequence[str], runs: Runs, given: Given | None = None) -> Table:
    """Table 1: the paper's models and others on data sets, ours beside the paper's; with what controls show.

    Args:
        datasets: its columns, of the catalogue.
        rows: of the catalogue.
        runs: the finished ones.
        given: cells that are no matter of runs.
    """
    cells, controls = {}, {}
    for data in datasets:
        column = Column(
            figure=DATASETS[data].figure,
            printed={row: published.table1(data, row) for row in rows},
            runs={row: runs(data, row) for row in rows},
            grouped=DATASETS[data].grouped,
            name="" if DATASETS[data].of_user else DATASETS[data].label,
            pooled=True,
            given={row: cell for (row, of), cell in (given or {}).items() if of == data},
        )
        cells |= {(row, data): cell for row, cell in cells_of(column).items()}
        controls[data] = findings(data, column)
    return Table("Table 1", tuple(rows), tuple(datasets), cells, sections=sections_of(rows), findings=controls)


def sections_of(rows: Iterable[str]) -> dict[str, str]:
    """The part of Table 1 that a row stands in, of those that are not among the paper's."""
    return {row: BEYOND for row in rows if row in ROWS and ROWS[row].beyond}


def table2(rows: Sequence[str], runs: Runs, given: Given | None = None) -> Table:
    """Table 2: HMDB-51 and Hollywood2 beside other published systems, each number measured here or quoted.

    Args:
        rows: that are measured here; the paper's own stand there anyway.
        runs: the finished ones.
        given: cells that are no matter of runs.
    """
    quoted = {line.key: line for line in published.table2()}
    sections = {key: line.section for key, line in quoted.items()}
    sections |= {row: ROWS[row].system.sees for row in rows if row not in quoted}
    labels = {row: quoted[row].model if row in quoted else ROWS[row].label for row in sections}
    order = [row for section in dict.fromkeys(sections.values()) for row in sections if sections[row] == section]
    cells: dict[tuple[str, str], Cell] = {}
    for key, column in ((key, COLUMNS[key]) for key in TABLE2_COLUMNS):
        name, figure, data = column.label, DATASETS[column.data].figure, column.data if column.published else ""
        printed = {row: quoted[row].printed.get(data) if row in quoted else None for row in order}
        of_rows = {row: runs(key, row) for row in rows}
        there = {row: cell for (row, of), cell in (given or {}).items() if of == key}
        found = cells_of(Column(figure, printed, of_rows, name=name, given=there))
        known = {row for row in order if of_rows.get(row) or row in there}
        unfinished = f"{name}: {UNFINISHED}{'; '.join(labels[row] for row in order if row in rows and row not in known)}"
        for row in order:
            says = (unfinished,) if row in rows else ()
            cells[row, key] = found[row] if row in known else Cell(figure, (), None, printed[row], says, data=name)
    sources = {row: _source(quoted.get(row), {key: cells[row, key] for key in TABLE2_COLUMNS}) for row in order}
    references = dict.fromkeys(f"{line.reference}." for line in quoted.values())
    return Table("Table 2", tuple(order), TABLE2_COLUMNS, cells, labels, sections, sources, (REMARK, *references))


def _source(quoted: published.Published | None, cells: Mapping[str, Cell]) -> str:
    """Where a row's numbers come from, in a few words."""
    by_origin: dict[str, list[str]] = {"measured": [], "quoted": []}
    for cell in cells.values():
        by_origin.get(cell.origin, []).append(cell.data)
    words = {"measured": "measured here", "quoted": f"quoted from {quoted.citation}" if quoted else ""}
    said = [(words[origin], names) for origin, names in by_origin.items() if names]
    if len(said) == 1:
        return said[0][0]
    return "; ".join(f"{' and '.join(names)} {word}" for word, names in said) or "no finished run"
