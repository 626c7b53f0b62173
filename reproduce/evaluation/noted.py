"""The numbers in the notes under a table, against the table's lines, the runs' predictions, and what was measured of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reproduce.common.catalogue import COLUMNS, TABLE2_COLUMNS, label_of
from reproduce.evaluation import notes as focus
from reproduce.evaluation.printed import CSV_STEP, Line
from reproduce.evaluation.recompute import Check
from reproduce.evaluation.results import p_in_words

Checks = Mapping[tuple[str, str], Mapping[tuple[int, int], Check]]
POINTS = re.compile(r"([+−]\d+\.\d) \[([+−]\d+\.\d), ([+−]\d+\.\d)\], corrected p ([<=] [\d.e-]*\d)")
COMPARED_POINTS = ("from_baseline", "from_baseline_low", "from_baseline_high")
SHOWN_STEP = 0.05 + CSV_STEP  # points are shown with one digit


@dataclass
class Noted:
    """What came of a table's notes.

    Args:
        problems: what differs.
        missing: what could not be verified, and why.
        attention: how many notes on attention are verified.
        others: how many on the tests, and on the sizes of data sets.
    """

    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    attention: int = 0
    others: int = 0


def check_notes(path: Path, lines: Sequence[Line], checks: Checks) -> Noted:
    """Compare the notes that stand in a table's Markdown.

    Args:
        path: the file.
        lines: of the table's CSV.
        checks: by data and row, the runs.
    """
    noted = Noted()
    try:
        text = path.read_text(encoding="utf-8").replace("\\", "")
    except (OSError, ValueError):
        return noted  # said of its rows
    notes = [note.removeprefix("* ") for note in text.splitlines() if note.startswith("* ")]
    for data in dict.fromkeys(line.key[0] for line in lines):
        name = COLUMNS[data].label if data in TABLE2_COLUMNS else label_of(data)
        own = [note for note in notes if note.startswith((f"{name}, ", f"{name}: "))]
        _compare_tests(noted, path, own, data, [line for line in lines if line.key[0] == data])
    _compare_sizes(noted, path, notes, [check for runs in checks.values() for check in runs.values()])
    _compare_attention(noted, path, notes, checks)
    return noted


def _compare_tests(noted: Noted, path: Path, notes: list[str], data: str, lines: Sequence[Line]) -> None:
    """The differences from the average-pooled row that a note lists, or the smallest p value of those that are none."""
    tested = [line for line in lines if line.values["p_corrected"]]
    significant = [line for line in tested if line.values["significant"] == "True"]
    if not tested:
        return
    told = [found for note in notes for found in POINTS.findall(note)]
    if not significant:
        expected = f"(smallest corrected p {p_in_words(min(float(line.values['p_corrected']) for line in tested))})"
        if not told and any(expected in note for note in notes):
            noted.others += 1
        else:
            noted.problems.append(f"{path}: no note says of the tests on {data}: {expected}")
        return
    wrong = [line for number, line in enumerate(significant) if not any(_says(one, line) for one in told[number : number + 1])]
    for line in wrong:
        point, low, high = (f"{float(line.values[name]):+.1f}" for name in COMPARED_POINTS)
        p = p_in_words(float(line.values["p_corrected"]))
        noted.problems.append(
            f"{path}: no note in its place says of {line.key[1]} on {data}: {point} [{low}, {high}], corrected p {p}"
        )
    if len(told) > len(significant):
        noted.problems.append(f"{path}: {len(told)} differences on {data} in the notes, {len(significant)} are significant")
    noted.others += not wrong and len(told) == len(significant)


def _says(told: tuple[str, ...], line: Line) -> bool:
    """Whether a difference in a note, its interval and its p value are those of a line."""
    *points, p = told
    same = [
        abs(float(said.replace("−", "-")) - float(line.values[name])) <= SHOWN_STEP
        for said, name in zip(points, COMPARED_POINTS, strict=True)
    ]
    return all(same) and p == p_in_words(float(line.values["p_corrected"]))


def _compare_sizes(noted: Noted, path: Path, notes: list[str], runs: Sequence[Check]) -> None:
    """How many videos were trained on and tested, of each split."""
    sizes: dict[str, None] = {}
    for check in runs:
        if check.found is not None:
            name, train, split = (check.about.get(key) for key in ("data", "train_videos", "split"))
            size = f"{train} train and {len(check.found.videos)} test videos, split {split}"
            sizes[f"{label_of(str(name))}: {size}"] = None
    for size in sizes:
        if any(note.startswith(size) for note in notes):
            noted.others += 1
        else:
            noted.problems.append(f"{path}: no note says: {size}")


def _compare_attention(noted: Noted, path: Path, notes: list[str], checks: Checks) -> None:
    """What the notes do not say of the attention though the runs' videos do; a column without a run's videos is passed over."""
    noted.missing += [
        f"{path}: the note on attention on {data}: {check.folder.attended} is missing or cannot be read"
        for (data, _), runs in checks.items()
        for check in runs.values()
        if check.found is not None and check.attention is None and not check.differs
    ]
    told, expected, unknown = [_numbers(note) for note in notes if focus.PREFIX in note], {}, not checks
    for data in dict.fromkeys(data for data, _ in checks):
        rows = {row: [check.attention for check in runs.values()] for (column, row), runs in checks.items() if column == data}
        if any(None in found for found in rows.values()):
            unknown = True
            continue
        means = {row: focus.means(filter(None, found)) for row, found in rows.items() if any(found)}
        if means:
            expected[data] = _numbers(focus.note(data, means))
    if unknown:
        wrong = {data: said for data, said in expected.items() if said not in told}
    else:
        wrong = {data: said for number, (data, said) in enumerate(expected.items()) if told[number : number + 1] != [said]}
    problems = [f"no note in its place says of the attention on {data}: {said}" for data, said in wrong.items()]
    if not unknown and len(told) != len(expected):
        problems.append(f"{len(told)} notes on attention, where {len(expected)} columns have some")
    noted.problems += [f"{path}: {problem}" for problem in problems]
    noted.attention = len(expected) - len(wrong)


def _numbers(note: str) -> str:
    """The numbers of a note on attention, without the rows' names."""
    told = note.partition(focus.PREFIX)[2].partition("): ")[2].removesuffix(".")
    return "; ".join(part.rpartition(": ")[2] for part in told.split("; "))
