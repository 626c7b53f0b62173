"""Where a file of a table is not as the writers write it: in which line, and in which cell of the table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from html import unescape
from pathlib import Path

from reproduce.evaluation.results import Table
from reproduce.evaluation.writers import FORMATS, ROW_LINES, heads

BETWEEN = {"md": re.compile(r"(?<!\\)\|"), "tex": re.compile(r"(?<!\\)&"), "html": re.compile(r"(?=<t[hd]\b)")}
"""By format, what stands between two parts of a row."""
TEX_SIGNS = {"$-$": "−", "$^{*}$": "*", "$\\pm$": "±", "--": "–"}
NUMBER = re.compile(r"\d+(?:\.\d+)?")
ALIKE = 0.5  # of two lines, from which on one is taken for the other with something changed
LONGEST = 120  # of what is shown of a line
AROUND = 30  # characters that are shown before and after what differs


@dataclass(frozen=True)
class Difference:
    """Something that a file shows otherwise than the table has it.

    Args:
        path: of the file.
        line: of the file, from 1; 0 where the table's line is missing.
        said: what the file shows; None where it shows nothing.
        expected: what the table has; None where it has nothing.
        cell: data and row; None outside the cells.
    """

    path: Path
    line: int
    said: str | None
    expected: str | None
    cell: tuple[str, str] | None = None

    def __str__(self) -> str:
        if self.said is None:
            return f"{self.path}: lacks the line {_short(self.expected or '')!r}"
        where = f"{self.path}, line {self.line}"
        if self.expected is None:
            return f"{where}: {_short(self.said)!r} should not stand there"
        if self.cell is not None:
            return f"{where}: shows {self.said!r}, {self.expected!r} expected"
        start = f" ({_short(self.expected, 40)!r})" if len(self.expected) > LONGEST else ""
        said, expected = _around(self.said, self.expected)
        return f"{where}{start}: says {said!r}, {expected!r} expected"

    @property
    def close(self) -> bool:
        """Whether it is a matter of rounding: the same but for one unit in the last digit of some numbers."""
        said, expected = self.said or "", self.expected or ""
        if NUMBER.sub("", said) != NUMBER.sub("", expected):
            return False
        for one, other in zip(NUMBER.findall(said), NUMBER.findall(expected), strict=True):
            digits = len(one.partition(".")[2])
            if digits != len(other.partition(".")[2]) or abs(float(one) - float(other)) > 1.01 * 10**-digits:
                return False
        return True


def _short(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _around(said: str, expected: str) -> tuple[str, str]:
    """Two lines without what they share far from where they differ, where they are long."""
    if max(len(said), len(expected)) <= LONGEST:
        return said, expected
    shared = min(len(said), len(expected))
    start = next((at for at in range(shared) if said[at] != expected[at]), shared)
    end = next((at for at in range(shared - start) if said[-1 - at] != expected[-1 - at]), shared - start)
    first, last = max(0, start - AROUND), max(0, end - AROUND)

    def part(text: str) -> str:
        return ("…" if first else "") + _short(text[first : len(text) - last]) + ("…" if last else "")

    return part(said), part(expected)


def differences(path: Path, table: Table) -> list[Difference]:
    """What a file shows otherwise than a table has it.

    Args:
        path: of the file; its suffix names the format.
        table: as it should be.

    Raises:
        OSError, ValueError: the file cannot be read.
    """
    said, wanted = path.read_text(encoding="utf-8").split("\n"), _lines(FORMATS[path.suffix[1:]](table))
    rows = {ROW_LINES[path.suffix[1:]](table, row): row for row in table.rows}
    found = []
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, wanted, said, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        pairs = _pairs(path, wanted, said, [*range(i1, i2)], [*range(j1, j2)], rows)
        for i, j in pairs:
            if i is not None and j is not None and wanted[i] in rows:
                found += _in_row(path, j + 1, said[j], wanted[i], table, rows[wanted[i]])
            else:
                expected = None if i is None else wanted[i]
                found.append(Difference(path, 0 if j is None else j + 1, None if j is None else said[j], expected))
    return found


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _pairs(
    path: Path, wanted: Sequence[str], said: Sequence[str], ours: list[int], theirs: list[int], rows: dict[str, str]
) -> list[tuple[int | None, int | None]]:
    """Which line of a file stands for which of the table's: rows by their label, others by likeness; None for none."""
    between = BETWEEN[path.suffix[1:]]
    labels = {tuple(between.split(said[j])[:2][: 2 if path.suffix != ".tex" else 1]): j for j in reversed(theirs)}
    pairs: list[tuple[int | None, int | None]] = []
    for i in list(ours):
        label = tuple(between.split(wanted[i])[:2][: 2 if path.suffix != ".tex" else 1])
        if wanted[i] in rows and labels.get(label) in theirs:
            pairs.append((i, labels[label]))
            ours.remove(i)
            theirs.remove(labels[label])
    if len(ours) == len(theirs):
        return [*pairs, *zip(ours, theirs, strict=True)]
    for i in ours:
        near = get_close_matches(wanted[i], [said[j] for j in theirs], n=1, cutoff=ALIKE)
        j = next((j for j in theirs if near and said[j] == near[0]), None)
        pairs.append((i, j))
        if j is not None:
            theirs.remove(j)
    return pairs + [(None, j) for j in theirs]


def _in_row(path: Path, number: int, said: str, wanted: str, table: Table, row: str) -> list[Difference]:
    """The parts of a row that differ, each with its cell."""
    suffix = path.suffix[1:]
    theirs, ours = (BETWEEN[suffix].split(text) for text in (said, wanted))
    if len(theirs) != len(ours):
        return [Difference(path, number, said, wanted)]
    before = 1 if suffix == "tex" else 2  # the label, and what stands before it
    columns: list[str | None] = [None] * before
    columns += [column for column in table.columns for _ in heads(table, column)]
    columns += [None] * (len(ours) - len(columns))
    found = []
    for column, one, other in zip(columns, theirs, ours, strict=True):
        if one != other:
            shown, expected = _shown(suffix, one), _shown(suffix, other)
            shown, expected = (shown, expected) if shown != expected else (one, other)  # the difference is one of markup
            found.append(Difference(path, number, shown, expected, (column, row) if column else None))
    return found


def _shown(suffix: str, text: str) -> str:
    """A part of a row, for a reader."""
    if suffix == "html":
        text = unescape(re.sub("<[^>]+>", "", text))
    for word, sign in TEX_SIGNS.items() if suffix == "tex" else ():
        text = text.replace(word, sign)
    return (text.replace("\\", "") if suffix == "md" else text.removesuffix("\\\\")).strip()
