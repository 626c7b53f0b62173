"""Verify the tables of a results folder: recompute every number from the runs' predictions, and say row by row what holds.

    python reproduce/verify.py results
    python reproduce/verify.py results paths.runs=/scratch/runs
    python reproduce/verify.py results paths.data=/data          # compare with the data sets' own test lists too

Accuracies and average precisions are computed anew from each run's predictions.csv, by code of their own, and compared
with metrics.json, with the table's CSV and with the numbers that Markdown, LaTeX and HTML show; intervals and p values are
computed again; quoted numbers are compared with the paper's, and the notes on tests, on the sizes of data sets and on
attention with the runs. table1.json, written with the table, names the runs; each must be of the row and the seed that it
stands for. Votes over blocks are not verified: they stand in no table, and predictions.csv does not hold them; nor are
labels, headings and notes without numbers.

Exit status: 0 if every number is verified, 1 if one differs, 3 if none differs but some could not be verified.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from datamodules.videos import Annotation, DataError
from reproduce.common.catalogue import DATASETS, kind_of, row_of
from reproduce.common.cli import command_line, fail
from reproduce.evaluation.noted import Checks, Noted, check_notes
from reproduce.evaluation.printed import Line, compare_formats, read_csv, read_record
from reproduce.evaluation.recompute import Check, check_run
from reproduce.evaluation.redo import COLUMN_OF_BASELINE, Redone, redo
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import named

TABLES = ("table1", "table2")
VERIFIED, DIFFERS, UNVERIFIED, EMPTY = "verified", "DIFFERS", "not verified", "no number"
STATUS = {DIFFERS: 1, UNVERIFIED: 3}


@dataclass
class VerifyPaths:
    """Where things lie; relative paths start at the working directory."""

    results: str = "results"
    """the tables; its key may be left out: verify.py results"""
    runs: Optional[str] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """run folders; null for where they lay, relative to the tables, when these were written"""
    data: Optional[str] = None  # noqa: UP045
    """data sets whose test lists, labels and file sizes are compared with the runs'; null for none"""


@dataclass
class VerifySettings:
    """Settings of verify.py."""

    paths: VerifyPaths = field(default_factory=VerifyPaths)


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


def main(argv: list[str] | None = None) -> dict[str, list[Row]]:
    """Verify the tables; returns their rows by table."""
    words = sys.argv[1:] if argv is None else argv
    if sum("=" not in word and not word.startswith("-") for word in words) > 1:
        raise fail(DataError(f"one results folder at a time, not {' '.join(words)}"))
    named_words = [word if "=" in word or word.startswith("-") else f"paths.results={word}" for word in words]
    settings = command_line(VerifySettings, __doc__ or "", [word for word in named_words if word != "paths.results=help"])
    results = Path(settings.paths.results).expanduser()
    found = {}
    try:
        there = [name for name in TABLES if (results / f"{name}.csv").is_file()]
        if not there:
            raise DataError(
                f"no table1.csv or table2.csv in {results.resolve()}; name the folder, as in python reproduce/verify.py "
                "<folder>, or make a table: python reproduce/table1.py preset=miniature"
            )
        for name in there:
            rows, whole, noted = verify(results / name, settings.paths)
            _show(results / f"{name}.csv", rows, whole, noted)
            found[name] = rows
            of_files = {DIFFERS: whole, UNVERIFIED: noted.missing}
            found[name] += [Row(Line(0, {}), status, said) for status, said in of_files.items() if said]
    except DataError as error:
        raise fail(error) from None
    statuses = {row.status for rows in found.values() for row in rows}
    for status, code in STATUS.items():
        if status in statuses:
            raise SystemExit(code)
    return found


def verify(stem: Path, paths: VerifyPaths) -> tuple[list[Row], list[str], Noted]:
    """Verify one table.

    Args:
        stem: path of the table's files without their suffix.
        paths: where runs and data lie.

    Returns:
        The CSV's lines, what differs in a file as a whole, and what became of the notes.

    Raises:
        DataError: the CSV or the record of the runs cannot be read.
    """
    lines, record = read_csv(stem.with_suffix(".csv")), read_record(stem.with_suffix(".json"))
    look, official = _finder(stem.parent, paths), _lists(paths.data)
    checks = {
        key: {(run["seed"], position): check_run(look(run), run, official) for position, run in enumerate(runs)}
        for key, runs in record.items()
    }
    for key, runs in checks.items():
        _compare_cell(key, runs)
    for data in {data for data, _ in checks}:
        _compare_data({row: runs for (column, row), runs in checks.items() if column == data})
    quoting = stem.name == "table2"
    formats, whole = compare_formats(stem, lines, quoting)
    number = Counter(line.key for line in lines)
    wrong = [key for key in dict.fromkeys([*checks, *number]) if number[key] != 1]
    noted = check_notes(stem.with_suffix(".md"), lines, checks)
    whole += noted.problems
    whole += [f"{stem.with_suffix('.csv')}: has {number[key]} lines of {key[1]} on {key[0]} instead of one" for key in wrong]
    rows = [_row(line, lines, checks, formats.get(line.key, []), stem, quoting) for line in lines]
    return rows, whole, noted


def _row(line: Line, lines: list[Line], checks: Checks, formats: list[str], stem: Path, quoting: bool) -> Row:
    data, row = line.key
    own, baseline = checks.get(line.key, {}), checks.get((data, COLUMN_OF_BASELINE), {})
    file = stem.with_suffix(".csv")
    details, missing = list(formats), []
    for check in own.values():
        details += check.differs
        missing += check.missing
    if line.values["mean"] and not own:
        missing.append(f"{stem.with_suffix('.json')} names no run of it; make the table again")
    if own and not line.values["mean"]:
        details.append(f"{file}, line {line.number}: has no number, though {stem.name}.json names runs of it")
    whole = bool(own) and not missing and all(check.found is not None for check in own.values())
    redone = redo(line, own, baseline, lines, quoting) if whole else Redone.quoted(line, quoting)
    details += [f"{file}, line {line.number}: {problem}" for problem in redone.problems]
    missing += redone.missing
    notes = [(note, check.folder.name) for check in own.values() for note in check.notes]
    if details:
        return Row(line, DIFFERS, [*details, *missing], notes)
    if missing:
        return Row(line, UNVERIFIED, missing, notes)
    return Row(line, VERIFIED if line.values["mean"] or line.values["paper"] else EMPTY, [], notes)


def _finder(results: Path, paths: VerifyPaths) -> Callable[[Mapping[str, Any]], RunFolder]:
    """From a table's record of a run to its folder."""

    def look(run: Mapping[str, Any]) -> RunFolder:
        recorded = Path(run["folder"])
        if paths.runs is None:
            return RunFolder(Path(results / recorded).resolve())
        return RunFolder(Path(paths.runs).expanduser().resolve() / recorded.parent.name / recorded.name)

    return look


def _lists(data: str | None) -> Callable[[dict[str, Any]], Annotation | None]:
    """From a run's ``run.json`` to its data set as it lies on disk, each read once; None where it is not to be looked at."""
    known: dict[tuple[str, str], Annotation] = {}

    def official(about: dict[str, Any]) -> Annotation | None:
        if data is None:
            return None
        name, split = about["data"], about["split"]
        if (name, split) not in known:
            read = named(about["identity"])
            known[name, split] = (
                DATASETS[kind_of(name)].module().read(Path(data).expanduser() / name, split, bool(read["data.skip_bad"]))
            )
        return known[name, split]

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


def _compare_data(rows: Mapping[str, Mapping[tuple[int, int], Check]]) -> None:
    """Note runs of a column that were made on other videos, or from other features, than most of its split."""
    checks = [check for runs in rows.values() for check in runs.values() if check.found is not None]
    for key, what in (("data_fingerprint", "videos"), ("feature_fingerprint", "features")):
        for split in {check.about["split"] for check in checks}:
            of_split = [check for check in checks if check.about["split"] == split]
            usual = Counter(check.about.get(key) for check in of_split).most_common(1)[0][0]
            for check in of_split:
                own = check.about.get(key)
                if own != usual:
                    instead = f"({key} {str(own)[:12]}… instead of {str(usual)[:12]}…)"
                    said = f"made from other {what} than the column's other runs {instead}"
                    if what == "videos":
                        check.missing.append(f"{check.folder.path}: {said}")
                    else:
                        check.notes.append(said)


def _show(path: Path, rows: list[Row], whole: list[str], noted: Noted) -> None:
    """Print a table's rows, aligned, each with what is to be said of it."""
    counts = Counter(row.status for row in rows)
    said = ", ".join(f"{counts[status]} {status}" for status in (VERIFIED, DIFFERS, UNVERIFIED, EMPTY) if counts[status])
    notes = {"attention": noted.attention, "tests and sizes": noted.others}
    print(f"{path}: {said}" + "".join(f"; notes on {what}: {number} verified" for what, number in notes.items() if number))
    cells = [[*row.line.key, row.line.ours, row.status] for row in rows]
    widths = [max(len(line[place]) for line in [["data", "row", "number", "status"], *cells]) for place in range(4)]
    for words, row in zip(cells, rows, strict=True):
        print("  " + "  ".join(word.ljust(width) for word, width in zip(words, widths, strict=True)).rstrip())
        for detail in row.details:
            print(f"      {detail}")
    for problem in whole:
        print(f"  {DIFFERS}: {problem}")
    for reason in noted.missing:
        print(f"  {UNVERIFIED}: {reason}")
    of_runs: dict[str, dict[str, None]] = {}
    for note, run in (said for row in rows for said in row.notes):
        of_runs.setdefault(note, {})[run] = None
    for note, runs in of_runs.items():
        print(f"  note: {note}: {', '.join(runs)}")
    print(flush=True)


if __name__ == "__main__":
    main()
