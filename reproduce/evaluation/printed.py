"""A written table, read back: the numbers of its CSV, and whether its other formats show the same ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from datamodules.leaks import MARK as MARK_OF_LEAKS
from datamodules.reading import number, parse_json, read_records, read_text
from datamodules.videos import DataError
from reproduce.evaluation.results import MARK, MINIATURE_TITLE
from reproduce.evaluation.writers import CSV_HEAD

NUMBER = re.compile(r"[+−-]?\d+(?:\.\d+)?")
COMPARED = ("from_baseline", "from_baseline_low", "from_baseline_high", "p", "p_corrected", "p_bootstrap")
"""Columns of the comparison with the average-pooled row."""
NUMERIC = ("mean", "std", "low", "high", "paper", "difference", "seeds", *COMPARED)
CSV_STEP = 1e-4  # of a number in the CSV, which has four digits
MARKS = {"miniature": MINIATURE_TITLE, "leaky": MARK_OF_LEAKS}  # column of the CSV -> what the other formats then say
TEX_SIGNS = {"$-$": "−", "$^{*}$": MARK, "$\\pm$": "±", "--": "–"}


@dataclass(frozen=True)
class Line:
    """A line of a table's CSV.

    Args:
        number: in the file, from 1, where it begins.
        values: by column of the file, as written.
    """

    number: int
    values: dict[str, str]

    @property
    def key(self) -> tuple[str, str]:
        """Data and row."""
        return self.values["data"], self.values["row"]

    def numbers(self, *names: str) -> list[float]:
        """Those of some columns that are not empty."""
        return [float(self.values[name]) for name in names if self.values[name]]

    @property
    def ours(self) -> str:
        """``84.9 [82.1, 87.3]``, or the quoted number, or nothing."""
        mean, paper, low, high = (self.values[name] for name in ("mean", "paper", "low", "high"))
        bounds = f" [{float(low):.1f}, {float(high):.1f}]" if low and high else ""
        quoted = f"{float(paper):.1f} quoted" if paper and self.values["origin"] == "quoted" else "–"
        return f"{float(mean):.1f}{bounds}" if mean else quoted


def read_csv(path: Path) -> list[Line]:
    """The lines of a table's CSV.

    Raises:
        DataError: it is no such file, or a number is none or not finite; the line is named.
    """
    try:
        records = list(read_records(path))
    except DataError as error:
        raise DataError(f"{error}; make the table again") from error
    if not records or records[0][1] != CSV_HEAD:
        raise DataError(f"{path}, line 1: not the columns of a table of this version; make the table again")
    lines = []
    for begin, values in records[1:]:
        where = f"{path}, line {begin}"
        if len(values) != len(CSV_HEAD):
            raise DataError(f"{where}: expected {len(CSV_HEAD)} values, found {len(values)}; make the table again")
        line = Line(begin, dict(zip(CSV_HEAD, values, strict=True)))
        for name in NUMERIC:
            if line.values[name] and number(line.values[name]) is None:
                raise DataError(f"{where}: {name} is {line.values[name]!r}, which is no number; make the table again")
        lines.append(line)
    return lines


def read_record(path: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By data and row, the runs that a table names; nothing where there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    try:
        if not path.exists():
            return {}
        cells = parse_json(read_text(path))["cells"]
        found = {(cell["data"], cell["row"]): cell["runs"] for cell in cells}
        for run in (run for runs in found.values() for run in runs):
            _check_run(run)
    except (DataError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error!r}); make the table again") from error
    return found


def _check_run(run: Mapping[str, Any]) -> None:
    kinds = {"folder": str, "seed": int, "predictions_sha256": str, "videos": str | None, "features": str | None}
    for name, kind in kinds.items():
        if not isinstance(run[name], kind) or isinstance(run[name], bool):
            raise ValueError(f"{name!r} of a run is {run[name]!r}")
    if "\0" in run["folder"]:
        raise ValueError(f"'folder' of a run is {run['folder']!r}")


def markdown_rows(text: str) -> list[list[str]]:
    """The table's rows of numbers: label and cells."""
    rows = [
        [part.strip().replace("\\", "") for part in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    ][2:]
    return [row for row in rows if any(row[1:])]


def latex_rows(text: str) -> list[list[str]]:
    """As `markdown_rows`."""
    body = text.partition("\\midrule")[2].partition("\\bottomrule")[0]
    for word, sign in TEX_SIGNS.items():
        body = body.replace(word, sign)
    rows = [re.split(r"(?<!\\)&", line.removesuffix("\\\\").strip()) for line in body.splitlines() if "&" in line]
    return [[part.strip() for part in row] for row in rows]


def html_rows(text: str) -> list[list[str]]:
    """As `markdown_rows`."""
    rows = [
        re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", row, re.S)
        for row in re.findall(r"<tr>(.*?)</tr>", text, re.S)
        if "<td" in row
    ]
    return [[unescape(re.sub("<[^>]+>", "", part)) for part in row] for row in rows]


READERS = {"md": markdown_rows, "tex": latex_rows, "html": html_rows}


def compare_formats(stem: Path, lines: Sequence[Line], quoting: bool) -> tuple[dict[tuple[str, str], list[str]], list[str]]:
    """What Markdown, LaTeX and HTML show otherwise than the CSV.

    Args:
        stem: path of the table's files without their suffix.
        lines: of the CSV.
        quoting: whether the table stands measured and quoted numbers in one column, as Table 2 does.

    Returns:
        By data and row, what differs there; and what differs in a file as a whole.
    """
    columns = list(dict.fromkeys(data for data, _ in (line.key for line in lines)))
    rows = list(dict.fromkeys(row for _, row in (line.key for line in lines)))
    by_key = {line.key: line for line in lines}
    differs: dict[tuple[str, str], list[str]] = {}
    whole: list[str] = []
    parts = 1 if quoting else 2
    for suffix, read in READERS.items():
        path = stem.with_suffix(f".{suffix}")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            whole.append(f"{path}: not readable ({error})")
            continue
        shown = read(text)
        if len(shown) != len(rows) or any(len(row) < 1 + parts * len(columns) for row in shown):
            whole.append(f"{path}: has {len(shown)} rows, the CSV has {len(rows)} of {len(columns)} columns")
            continue
        for column, words in MARKS.items():
            marked = any(line.values[column] == "True" for line in lines)
            if marked != (words in text):
                has = "lacks" if marked else "has"
                whole.append(f"{path}: {has} the words {words!r}; {column} is {marked} in the CSV")
        for row, words in zip(rows, shown, strict=True):
            for position, column in enumerate(columns):
                line = by_key.get((column, row))
                if line is None:
                    continue  # said of the CSV
                cells = words[1 + parts * position : 1 + parts * (position + 1)]
                problem = _against(line, cells)
                if problem:
                    differs.setdefault(line.key, []).append(f"{path}: shows {problem}")
    return differs, whole


def _against(line: Line, cells: Sequence[str]) -> str:
    """What some cells show otherwise than a line of the CSV, or nothing."""
    measured = bool(line.values["mean"])
    expected = line.numbers(*(["mean", "std", "low", "high"] if measured else []), "paper", "difference")
    text = " ".join(cells)
    found = [word.replace("−", "-") for word in NUMBER.findall(text)]
    digits = [len(word.partition(".")[2]) for word in found]
    agree = len(found) == len(expected) and all(
        abs(float(word) - number) <= 0.5 * 10**-digit + CSV_STEP
        for word, digit, number in zip(found, digits, expected, strict=True)
    )
    if not agree:
        return f"{text!r}, the CSV's line {line.number} has {', '.join(f'{number:g}' for number in expected) or 'nothing'}"
    if (MARK in text) != (line.values["significant"] == "True"):
        truth = "does not differ" if MARK in text else "differs"
        return f"{text!r}, by the CSV's line {line.number} the row {truth} significantly"
    return ""
