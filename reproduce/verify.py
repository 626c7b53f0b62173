"""Verify the tables of a results folder: recompute every number from the runs' predictions, and say row by row what holds.

    python reproduce/verify.py results
    python reproduce/verify.py results paths.runs=/scratch/runs
    python reproduce/verify.py results paths.data=/data          # compare with the data sets' own test lists too

Accuracies and average precisions are computed anew from each run's predictions.csv, by code of their own, and compared
with metrics.json; from these figures the table is made again, intervals, tests, published numbers and notes among it,
written by the same writers, and compared with its files. So titles, headings, labels and notes without numbers are
verified too, and every other word and digit of the CSV, the Markdown, the LaTeX and the HTML. table1.json, written with
the table, names the runs; each must be of the row and the seed that it stands for. Votes over blocks are not verified:
they stand in no table, and predictions.csv does not hold them. A table of another version of this suite may differ in its
words: make it again, from the same runs, with source=<folder>.

Exit status: 0 if everything is verified, 1 if something differs, 3 if nothing differs but some could not be verified.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from datamodules.videos import DataError
from reproduce.common.cli import command_line, fail
from reproduce.evaluation.table_files import Line
from reproduce.evaluation.verification import DIFFERS, EMPTY, UNVERIFIED, VERIFIED, Row, Verified, verify

TABLES = ("table1", "table2")
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


def main(argv: list[str] | None = None) -> dict[str, list[Row]]:
    """Verify the tables; returns their rows by table."""
    words = sys.argv[1:] if argv is None else argv
    if sum("=" not in word and not word.startswith("-") for word in words) > 1:
        raise fail(DataError(f"one results folder at a time, not {' '.join(words)}"))
    named_words = [word if "=" in word or word.startswith("-") else f"paths.results={word}" for word in words]
    settings = command_line(VerifySettings, __doc__ or "", [word for word in named_words if word != "paths.results=help"])
    results = Path(settings.paths.results).expanduser()
    runs, data = (Path(path).expanduser() if path else None for path in (settings.paths.runs, settings.paths.data))
    found = {}
    try:
        there = [name for name in TABLES if (results / f"{name}.csv").is_file()]
        if not there:
            raise DataError(
                f"no table1.csv or table2.csv in {results.resolve()}; name the folder, as in python reproduce/verify.py "
                "<folder>, or make a table: python reproduce/table1.py preset=miniature"
            )
        for name in there:
            verified = verify(results / name, runs, data)
            _show(results / f"{name}.csv", verified)
            of_files = {DIFFERS: verified.problems, UNVERIFIED: verified.missing}
            found[name] = verified.rows + [Row(Line(0, {}), status, said) for status, said in of_files.items() if said]
    except DataError as error:
        raise fail(error) from None
    statuses = {row.status for rows in found.values() for row in rows}
    for status, code in STATUS.items():
        if status in statuses:
            raise SystemExit(code)
    return found


def _show(path: Path, verified: Verified) -> None:
    """Print a table's rows, aligned, each with what is to be said of it."""
    rows = verified.rows
    counts = Counter(row.status for row in rows)
    said = ", ".join(f"{counts[status]} {status}" for status in (VERIFIED, DIFFERS, UNVERIFIED, EMPTY) if counts[status])
    print(f"{path}: {said}" + (f"; notes: {verified.notes} {VERIFIED}" if verified.notes else ""))
    cells = [[*row.line.key, row.line.ours, row.status] for row in rows]
    widths = [max(len(line[place]) for line in [["data", "row", "number", "status"], *cells]) for place in range(4)]
    for words, row in zip(cells, rows, strict=True):
        print("  " + "  ".join(word.ljust(width) for word, width in zip(words, widths, strict=True)).rstrip())
        for detail in row.details:
            print(f"      {detail}")
    for problem in verified.problems:
        print(f"  {DIFFERS}: {problem}")
    for reason in verified.missing:
        print(f"  {UNVERIFIED}: {reason}")
    of_runs: dict[str, dict[str, None]] = {}
    for note, run in (said for row in rows for said in row.notes):
        of_runs.setdefault(note, {})[run] = None
    for note, runs in of_runs.items():
        print(f"  note: {note}: {', '.join(runs)}")
    print(flush=True)


if __name__ == "__main__":
    main()
