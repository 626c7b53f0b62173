"""A table's files against its runs: the numbers recomputed, the table made and written again, the files compared.

Where ``metrics.json`` agrees with what is recomputed of the predictions, its figure is taken, so that the files agree to
the last digit; else the recomputed one. Cells whose runs are not there are taken as the CSV has them.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

from datamodules.leaks import MARK as MARK_OF_LEAKS
from datamodules.parts import Part
from datamodules.videos import TRUTHS, Annotation
from reproduce.common.catalogue import BASELINE, COLUMNS, DATASETS, ROWS, TABLE2_COLUMNS, kind_of, row_of
from reproduce.common.dataset import drawn, reader_of
from reproduce.evaluation import paper_tables, published
from reproduce.evaluation.file_differences import Difference, differences
from reproduce.evaluation.notes import PREFIX
from reproduce.evaluation.recompute import Check, check_run
from reproduce.evaluation.results import Cell, FinishedRun, Table
from reproduce.evaluation.significance import Comparison
from reproduce.evaluation.table_files import Line, Record, read_csv, read_record
from reproduce.evaluation.writers import CSV_HEAD, ROW_LINES, record_text, to_csv
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import named

VERIFIED, DIFFERS, UNVERIFIED, EMPTY = "verified", "DIFFERS", "not verified", "no number"
COMPARED = ("from_baseline", "from_baseline_low", "from_baseline_high", "p", "p_corrected", "p_bootstrap")
"""Columns of the comparison with the average-pooled row."""
MOST_SEEDS = 1000  # of a line whose runs are not there
P_ROUNDING = 1e-5  # relative: p values are written with six digits
Checks = Mapping[tuple[str, str], Mapping[tuple[int, int], Check]]
"""By data and row, the runs by seed and position."""


@dataclass
class Row:
    """What became of a line of a table's CSV.

    Args:
        line: of the CSV.
        status: ``verified``, ``DIFFERS``, ``not verified`` or ``no number``.
        details: what differs, or why it could not be verified.
        notes: what a reader should know besides, each with the run it is said of.
    """

    line: Line
    status: str
    details: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Verified:
    """What became of a table.

    Args:
        rows: the lines of its CSV.
        problems: what differs outside the cells: title, headings, labels, notes, a file as a whole.
        missing: what could not be verified outside the cells, and why.
        notes: how many notes are verified.
    """

    rows: list[Row]
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: int = 0


def verify(stem: Path, runs: Path | None = None, data: Path | None = None) -> Verified:
    """Verify one table.

    Args:
        stem: path of the table's files without their suffix, ending in ``table1`` or ``table2``.
        runs: run folders; None for where they lay, relative to the table, when it was written.
        data: data sets whose test lists, labels and file sizes are compared with the runs'; None for none.

    Raises:
        DataError: the CSV or the record of the runs cannot be read.
    """
    file, lines, record = stem.with_suffix(".csv"), read_csv(stem.with_suffix(".csv")), read_record(stem.with_suffix(".json"))
    checks = _check_runs(stem.parent, record, runs, data)
    again = _make_again(stem, lines, checks)
    details: dict[tuple[str, str], list[str]] = {}
    for number, key, problem in _in_csv(lines, again):
        details.setdefault(key, []).append(f"{file}, line {number}: {problem}")
    counts = Counter(line.key for line in lines)
    wrong = [key for key in dict.fromkeys([*checks, *counts]) if counts[key] != 1]
    verified = Verified([], [f"{file}: has {counts[key]} lines of {key[1]} on {key[0]} instead of one" for key in wrong])
    unmeasured = {
        (key[0], check.folder.attended): None
        for key, of_cell in checks.items()
        for check in of_cell.values()
        if check.found is not None and check.attends is None and not check.differs
    }
    _compare_files(verified, stem, again, details, {data for data, _ in unmeasured})
    if not details and not wrong and not again.given and again.table is not None:
        _compare_bytes(verified, stem, again.table, record)
    verified.rows = [_row(line, checks, details.pop(line.key, []), again, stem) for line in lines]
    verified.problems += [problem for problems in details.values() for problem in problems]  # of cells that the CSV lacks
    verified.missing += [
        f"{stem.with_suffix('.md')}: the note on attention on {data}: {attended} is missing or cannot be read"
        for data, attended in unmeasured
    ]
    return verified


# The runs


def _check_runs(results: Path, record: Record, runs: Path | None, data: Path | None) -> Checks:
    """Every run that a table names, compared with its own files, with the table's record and with the others of its column."""
    official = _lists(data)
    checks: dict[tuple[str, str], dict[tuple[int, int], Check]] = {}
    for key, of_cell in record.items():
        checks[key] = {}
        for position, run in enumerate(of_cell):
            recorded = Path(run["folder"])
            path = (results / recorded).resolve() if runs is None else runs.resolve() / recorded.parent.name / recorded.name
            checks[key][run["seed"], position] = check_run(RunFolder(path), run, official)
    for key, of_cell in checks.items():
        _compare_cell(key, of_cell)
    for column in {data for data, _ in checks}:
        _compare_column([check for key, found in checks.items() if key[0] == column for check in found.values()])
    return checks


def _lists(data: Path | None) -> Callable[[dict[str, Any]], Annotation | None]:
    """From a run's ``run.json`` to its data set as it lies on disk, each read once; None where it is not to be looked at."""
    known: dict[str, Annotation] = {}

    def official(about: dict[str, Any]) -> Annotation | None:
        if data is None:
            return None
        name, said = about["data"], named(about["identity"])
        split, skip_bad = said["data.split"], bool(said["data.skip_bad"])
        part = Part(tuple(said.get("data.groups", ())), tuple(said.get("data.classes", ())))
        permuted, folder = said.get("data.permuted"), data / drawn(name, said.get("data.truth", TRUTHS[0]))
        key = repr((folder, split, skip_bad, part, permuted))
        if key not in known:
            known[key] = reader_of(kind_of(name), permuted).read(folder, split, skip_bad, part)
        return known[key]

    return official


def _compare_cell(key: tuple[str, str], runs: Mapping[tuple[int, int], Check]) -> None:
    """Note runs that are not of the row, the data set or the seed that the table's record says, or stand there twice."""
    data, row = key[0].partition("_")[0], key[1]
    counted: set[Path] = set()
    for (seed, _), check in runs.items():
        if check.found is None:
            continue
        where = check.folder.path / "run.json"
        try:
            own = named(check.about["identity"])
            said = {"seed": own["seed"], "row": row_of(own)}
        except (KeyError, ValueError, TypeError, AttributeError):
            check.missing.append(f"{where}: its identity does not say which row and seed it is")
            continue
        wanted = {"seed": seed, "row": row}
        if data in DATASETS and not DATASETS[data].of_user:
            said["data"], wanted["data"] = check.about["data"], data
        check.differs += [
            f"{where}: {name} is {said[name]!r}, the table's record has it at {wanted[name]!r}"
            for name in wanted
            if said[name] != wanted[name]
        ]
        if check.folder.path in counted:
            check.differs.append(f"{check.folder.path}: stands twice in the table's record")
        counted.add(check.folder.path)


def _compare_column(checks: Sequence[Check]) -> None:
    """Note runs of a column that were made on other videos, or from other features, than most of its split."""
    readable = [check for check in checks if check.found is not None]
    for key, what in (("data_fingerprint", "videos"), ("feature_fingerprint", "features")):
        for split in {check.about["split"] for check in readable}:
            of_split = [check for check in readable if check.about["split"] == split]
            of_split = [check for check in of_split if what == "videos" or check.about.get(key)]  # a fusion has no features
            usual = Counter(check.about.get(key) for check in of_split).most_common(1)
            for check in of_split:
                own = check.about.get(key)
                if own == usual[0][0]:
                    continue
                instead = f"({key} {str(own)[:12]}… instead of {str(usual[0][0])[:12]}…)"
                said = f"made from other {what} than the column's other runs {instead}"
                if what == "videos":
                    check.missing.append(f"{check.folder.path}: {said}")
                else:
                    check.notes.append(said)


# The table, made again


@dataclass(frozen=True)
class Again:
    """A table made again.

    Args:
        table: None where no line of the CSV is of a row and a column that such a table has.
        given: by row and column, the cells that are as the CSV has them, since their runs are not there.
        untested: by row and column, why a comparison with the average-pooled row is as the CSV has it.
    """

    table: Table | None
    given: Mapping[tuple[str, str], Cell]
    untested: Mapping[tuple[str, str], str]

    def is_given(self, data: str) -> bool:
        """Whether something of a column is as the CSV has it."""
        return any(data == column for _, column in (*self.given, *self.untested))


def _make_again(stem: Path, lines: Sequence[Line], checks: Checks) -> Again:
    keys = [*(line.key for line in lines), *checks]
    columns = [data for data in dict.fromkeys(data for data, _ in keys) if data in _known(stem)[0]]
    rows = [row for row in dict.fromkeys(row for _, row in keys) if row in ROWS]
    first = {line.key: line for line in reversed(lines)}
    whole = {key: _is_whole(of_cell) for key, of_cell in checks.items()}
    given = {
        (row, data): _as_said(first[data, row], stem)
        for data in columns
        for row in rows
        if (data, row) in first and first[data, row].values["mean"] and not whole.get((data, row))
    }

    def runs(column: str, row: str) -> dict[int, list[FinishedRun]]:
        by_seed: dict[int, list[FinishedRun]] = {}
        if whole.get((column, row)):
            for (seed, _), check in checks[column, row].items():
                run = FinishedRun(check.folder, check.about, check.metrics, found=check.found)
                by_seed.setdefault(seed, []).append(run)
        return by_seed

    if not columns:
        return Again(None, {}, {})
    if stem.name == "table2":
        measured = [row for row in rows if _is_measured(stem, row, lines, checks)]
        table = paper_tables.table2(measured, runs, given)
    else:
        table = paper_tables.table1(columns, rows, runs, given)
    untested = _untested(table, first, checks, given)
    compared = {key: replace(table.cells[key], comparison=_comparison(first[key[1], key[0]])) for key in untested}
    return Again(replace(table, cells={**table.cells, **compared}), given, untested)


def _known(stem: Path) -> tuple[list[str], list[str]]:
    """The columns and the rows that a table may have."""
    if stem.name == "table2":
        return list(TABLE2_COLUMNS), [*ROWS, *(one.key for one in published.table2())]
    return list(DATASETS), list(ROWS)


def _is_whole(runs: Mapping[tuple[int, int], Check]) -> bool:
    """Whether all runs of a cell can be recomputed."""
    there = all(check.found is not None for check in runs.values())
    return bool(runs) and there and not any(check.missing for check in runs.values())


def _is_measured(stem: Path, row: str, lines: Sequence[Line], checks: Checks) -> bool:
    """Whether a row of Table 2 was to be measured, which one that is quoted may not have been."""
    if any(line.values["mean"] for line in lines if line.key[1] == row) or any(other == row for _, other in checks):
        return True
    quoted = next((one for one in published.table2() if one.key == row), None)
    try:
        text = stem.with_suffix(".md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        text = ""
    lists = [line.partition(paper_tables.UNFINISHED)[2].rstrip(".").split("; ") for line in text.splitlines()]
    return quoted is None or any(quoted.model in names for names in lists)


def _as_said(line: Line, stem: Path) -> Cell:
    """A cell as a line of the CSV has it."""
    values = {name: float(text) if text else None for name, text in line.values.items() if name in NUMBERS}
    mean, std, low, high, count = (values[name] for name in ("mean", "std", "low", "high", "seeds"))
    assert mean is not None
    number = int(count) if count is not None and 1 <= count <= MOST_SEEDS else 1
    apart = (std or 0.0) * math.sqrt((number - 1) / 2)  # two values so far from the mean have this deviation
    data, quoting = line.key[0], stem.name == "table2"
    return Cell(
        figure=line.values["figure"],
        values=(mean + apart, mean - apart, *[mean] * (number - 2)) if number > 1 else (mean,),
        interval=None if low is None or high is None else (low, high),
        paper=values["paper"],
        notes=(f"{MARK_OF_LEAKS} split",) if line.values["leaky"] == "True" else (),
        miniature=line.values["miniature"] == "True",
        permuted=line.values["permuted"] == "True",
        data=COLUMNS[data].label if quoting else "" if DATASETS[data].of_user else DATASETS[data].label,
        comparison=_comparison(line),
        grouped=not quoting and DATASETS[data].grouped,
    )


NUMBERS = ("mean", "std", "low", "high", "paper", "seeds", *COMPARED)


def _comparison(line: Line) -> Comparison | None:
    """The comparison with the average-pooled row as a line of the CSV has it; None where it has none, or not all of it."""
    if not all(line.values[name] for name in COMPARED):
        return None
    point, low, high, p, corrected, by_bootstrap = (float(line.values[name]) for name in COMPARED)
    return Comparison(point / 100, (low / 100, high / 100), line.values["test"], p, corrected, by_bootstrap)


def _untested(
    table: Table, lines: Mapping[tuple[str, str], Line], checks: Checks, given: Mapping[tuple[str, str], Cell]
) -> dict[tuple[str, str], str]:
    """By row and column, why the comparison that a line claims cannot be made again: the average-pooled runs are not there."""
    reasons = {}
    for row, data in table.cells:
        line, baseline = lines.get((data, row)), checks.get((data, BASELINE), {})
        claims = line is not None and any(line.values[name] for name in (*COMPARED, "test", "significant"))
        if not claims or row == BASELINE or (row, data) in given or not table.cells[row, data].values:
            continue
        lost = [reason for check in baseline.values() for reason in check.missing or check.differs[: check.found is None]]
        if lost:
            reasons[row, data] = lost[0]
    return reasons


# The files


def _in_csv(lines: Sequence[Line], again: Again) -> list[tuple[int, tuple[str, str], str]]:
    """Line, key and what is to be said of each value of the CSV that differs."""
    wanted = {}
    if again.table is not None:
        wanted = {(one["data"], one["row"]): one for one in csv.DictReader(StringIO(to_csv(again.table)))}
    found = []
    for line in lines:
        data, row = line.key
        if line.key not in wanted:
            said = f"row is {row!r} on {data!r}, which is none of the table's; make the table again"
            found.append((line.number, line.key, said))
            continue
        given = (row, data) in again.given
        for name in CSV_HEAD if not given else ("table", "paper", "section", "figure"):
            said, expected = line.values[name], wanted[line.key][name]
            if said != expected and not (name == "p_corrected" and again.is_given(data) and _close(said, expected)):
                found.append((line.number, line.key, f"{name} is {said or 'empty'}, {expected or 'nothing'} expected"))
    return found


def _close(said: str, expected: str) -> bool:
    """Whether two p values are the same but for rounding, which those that they are corrected for may have had."""
    return bool(said and expected) and math.isclose(float(said), float(expected), rel_tol=P_ROUNDING)


def _compare_files(
    verified: Verified, stem: Path, again: Again, details: dict[tuple[str, str], list[str]], unmeasured: Collection[str]
) -> None:
    """Markdown, LaTeX and HTML: differences in a cell go to its details, others to the table's.

    Args:
        verified: receives what differs outside the cells, and how many notes do not.
        stem: path of the table's files without their suffix.
        again: the table.
        details: by data and row, receives what differs there.
        unmeasured: columns whose note on attention is not verified.
    """
    for suffix in ROW_LINES:
        path = stem.with_suffix(f".{suffix}")
        try:
            found = [] if again.table is None else differences(path, again.table)
        except (OSError, ValueError) as error:
            verified.problems.append(f"{path}: not readable ({error})")
            continue
        for one in found:
            if one.cell is None:
                (verified.missing if _is_open(one, again) else verified.problems).append(str(one))
            elif not ((one.cell[1], one.cell[0]) in again.given and one.close):
                details.setdefault(one.cell, []).append(str(one))
        if suffix == "md" and again.table is not None:
            notes = [line for line in path.read_text(encoding="utf-8").split("\n") if line.startswith("* ")]
            wrong, unknown = {one.said for one in found}, {f"* {again.table.column_name(data)}{PREFIX}" for data in unmeasured}
            verified.notes = sum(note not in wrong and not note.startswith(tuple(unknown)) for note in notes)


def _is_open(one: Difference, again: Again) -> bool:
    """Whether a difference outside the cells may come of runs that are not there: all but what is said of other columns."""
    if not again.given and not again.untested or again.table is None:
        return False
    text = (one.expected or one.said or "").removeprefix("* ")
    for column in again.table.columns:
        name = again.table.column_name(column)
        if text.startswith((f"{name}, ", f"{name}: ")):
            return again.is_given(column)
    return True


def _compare_bytes(verified: Verified, stem: Path, table: Table, record: Record) -> None:
    """What is left where all values agree: quotes, order, names and entries that nothing reads."""
    written = stem.with_suffix(".csv").read_text(encoding="utf-8")
    cells = [{"data": data, "row": row, "runs": runs} for (data, row), runs in record.items()]
    pairs = [(stem.with_suffix(".csv"), written, to_csv(table))]
    if record:
        path = stem.with_suffix(".json")
        pairs.append((path, path.read_text(encoding="utf-8"), record_text(table.name, cells)))
    for path, said, expected in pairs:
        if said != expected:
            lines = list(zip(said.split("\n"), expected.split("\n"), strict=False))
            number = next((number for number, (one, other) in enumerate(lines) if one != other), len(lines) - 1)
            verified.problems.append(str(Difference(path, number + 1, *lines[number])))


def _row(line: Line, checks: Checks, details: list[str], again: Again, stem: Path) -> Row:
    own = checks.get(line.key, {})
    missing = [reason for check in own.values() for reason in check.missing]
    details += [problem for check in own.values() for problem in check.differs]
    if line.values["mean"] and not own:
        missing.append(f"{stem.with_suffix('.json')} names no run of it; make the table again")
    if own and not line.values["mean"]:
        said = f"has no number, though {stem.name}.json names runs of it"
        details.append(f"{stem.with_suffix('.csv')}, line {line.number}: {said}")
    reason = again.untested.get((line.key[1], line.key[0]))
    missing += [f"its difference from {BASELINE}: {reason}"] if reason else []
    notes = [(note, check.folder.name) for check in own.values() for note in check.notes]
    if details:
        return Row(line, DIFFERS, [*details, *missing], notes)
    if missing:
        return Row(line, UNVERIFIED, missing, notes)
    return Row(line, VERIFIED if line.values["mean"] or line.values["paper"] else EMPTY, [], notes)
