"""A line of a table's CSV, made again from its runs' predictions and the paper's numbers, and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from datamodules.leaks import MARK
from reproduce.common.catalogue import COLUMNS, DATASETS, ROWS, kind_of
from reproduce.evaluation import published as paper
from reproduce.evaluation.printed import COMPARED, CSV_STEP, Line
from reproduce.evaluation.recompute import Check
from reproduce.evaluation.results import BASELINE as COLUMN_OF_BASELINE
from reproduce.evaluation.significance import bootstrap_p, holm, interval, mcnemar, resample, same_videos
from reproduce.experiments.predictions import Predictions

HALF_STEP = 0.5 * CSV_STEP + 1e-9  # what rounding to four digits may take
SINGLE_STEP = 2e-4  # training computes average precision in single precision, and a point is a hundredth
P_DIGITS = 1e-5  # relative: p values are written with six digits
Runs = Mapping[tuple[int, int], Check]


@dataclass
class Redone:
    """What came of a line.

    Args:
        problems: numbers that differ.
        missing: why some could not be made again.
    """

    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @classmethod
    def quoted(cls, line: Line, quoting: bool) -> Redone:
        """Of a line without runs: the paper's number, and that nothing claims to be more."""
        redone = cls()
        redone.know(line, quoting)
        redone.compare(line, "paper", printed(line, quoting), HALF_STEP)
        if line.values["mean"]:
            return redone
        for name in ("std", "low", "high", "difference"):
            redone.compare(line, name, None, 0.0)
        redone.compare(line, "seeds", 0.0, 0.0)
        redone.not_compared(line)
        origin = "quoted" if quoting and line.values["paper"] else ""
        redone.compare_word(line, "origin", origin)
        for citation in (one.citation for one in paper.table2() if origin and one.key == line.key[1]):
            if citation not in line.values["source"]:
                redone.problems.append(f"source is {line.values['source']!r}, the number is quoted from {citation}")
        return redone

    def know(self, line: Line, quoting: bool) -> None:
        """That the line's row is one that its table may have."""
        rows = [*ROWS, *(one.key for one in paper.table2() if quoting)]
        if line.key[1] not in rows:
            self.problems.append(f"row is {line.key[1]!r}, which is none of the table's; make the table again")

    def not_compared(self, line: Line) -> None:
        """That the line says nothing of a difference from the average-pooled row."""
        for name in COMPARED:
            self.compare(line, name, None, 0.0)
        for name in ("test", "significant"):
            self.compare_word(line, name, "")

    def compare(self, line: Line, name: str, value: float | None, slack: float) -> None:
        """One number of the line with what it should be."""
        text = line.values[name]
        said = float(text) if text else None
        same = said is value if said is None or value is None else abs(said - value) <= slack  # false of nan
        if not same:
            self.problems.append(f"{name} is {text or 'empty'}, {'nothing' if value is None else f'{value:.6g}'} expected")

    def compare_word(self, line: Line, name: str, word: str) -> None:
        """One word of the line with what it should be."""
        if line.values[name] != word:
            self.problems.append(f"{name} is {line.values[name] or 'empty'}, {word or 'nothing'} expected")


def printed(line: Line, quoting: bool) -> float | None:
    """What the paper prints where a line stands."""
    data, row = line.key
    if not quoting:
        return paper.table1(data, row)
    quoted = next((one for one in paper.table2() if one.key == row), None)
    return quoted.printed.get(COLUMNS[data].data) if quoted and data in COLUMNS and COLUMNS[data].published else None


def redo(line: Line, own: Runs, baseline: Runs, lines: Sequence[Line], quoting: bool) -> Redone:
    """Make a measured line again.

    Args:
        line: of the CSV.
        own: by seed and position, its runs, all of them readable.
        baseline: the runs of the average-pooled row on the same data.
        lines: all of the CSV, for the correction of p values over a column's rows.
        quoting: whether it is Table 2's.
    """
    redone = Redone()
    redone.know(line, quoting)
    multi_label = any(check.multi_label for check in own.values())
    by_seed: dict[int, list[float]] = {}
    for (seed, _), check in own.items():
        by_seed.setdefault(seed, []).append(100 * check.figure)
    values = [math.fsum(figures) / len(figures) for figures in by_seed.values()]
    mean, count = math.fsum(values) / len(values), len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1)) if count > 1 else None
    groups = _groups([*own.values(), *baseline.values()], line.key[0], quoting)
    low, high = interval(resample(_predictions(own), multi_label, groups))
    said, slack = printed(line, quoting), SINGLE_STEP if multi_label else HALF_STEP
    numbers = {"mean": mean, "std": std, "difference": None if said is None else mean - said}
    for name, value in numbers.items():
        redone.compare(line, name, value, slack)
    for name, value in {"low": 100 * low, "high": 100 * high, "paper": said, "seeds": count}.items():
        redone.compare(line, name, value, HALF_STEP)
    miniature = any(check.about["miniature"] for check in own.values())
    leaky = any(MARK in note for check in own.values() for note in check.about["notes"])
    words = {"figure": "mAP" if multi_label else "acc", "miniature": str(miniature), "leaky": str(leaky), "origin": "measured"}
    for name, word in words.items():
        redone.compare_word(line, name, word)
    if quoting and "measured here" not in line.values["source"]:
        redone.problems.append(f"source is {line.values['source']!r}, though the number is measured here")
    _redo_test(redone, line, own, baseline, lines, multi_label, groups)
    return redone


def _redo_test(
    redone: Redone,
    line: Line,
    own: Runs,
    baseline: Runs,
    lines: Sequence[Line],
    multi_label: bool,
    groups: Mapping[str, str],
) -> None:
    """The comparison with the average-pooled row."""
    seeds = [seed for seed in dict.fromkeys(seed for seed, _ in own) if any(seed == other for other, _ in baseline)]
    ours, theirs = ([check for (seed, _), check in runs.items() if seed in seeds] for runs in (own, baseline))
    lost = [reason for check in theirs for reason in check.missing or check.differs if check.missing or check.found is None]
    if line.key[1] != COLUMN_OF_BASELINE and lost:
        if any(line.values[name] for name in (*COMPARED, "test", "significant")):
            redone.missing.append(f"its difference from {COLUMN_OF_BASELINE}: {lost[0]}")
        return
    mine, other = ([check.found for check in checks if check.found is not None] for checks in (ours, theirs))
    comparable = line.key[1] != COLUMN_OF_BASELINE and bool(seeds) and same_videos(mine, other)
    if not comparable:
        redone.not_compared(line)
        return
    differences = resample(mine, multi_label, groups) - resample(other, multi_label, groups)
    low, high = interval(differences, least=-1.0)
    point = math.fsum(check.figure for check in ours) / len(ours) - math.fsum(check.figure for check in theirs) / len(theirs)
    by_bootstrap = bootstrap_p(differences)
    p = by_bootstrap if multi_label else mcnemar(mine, other, groups)
    column = {one.key[1]: one.values["p"] for one in lines if one.key[0] == line.key[0] and one.values["p"]}
    column[line.key[1]] = str(p)
    corrected = dict(zip(column, holm([float(value) for value in column.values()]), strict=True))[line.key[1]]
    redone.compare(line, "from_baseline", 100 * point, SINGLE_STEP if multi_label else HALF_STEP)
    for name, value in {"from_baseline_low": 100 * low, "from_baseline_high": 100 * high}.items():
        redone.compare(line, name, value, HALF_STEP)
    for name, value in {"p": p, "p_corrected": corrected, "p_bootstrap": by_bootstrap}.items():
        redone.compare(line, name, value, P_DIGITS * value)
    redone.compare_word(line, "test", "bootstrap" if multi_label else "McNemar")
    redone.compare_word(line, "significant", str(corrected < 0.05))


def _predictions(runs: Runs) -> list[Predictions]:
    return [check.found for check in runs.values() if check.found is not None]


def _groups(checks: Sequence[Check], data: str, quoting: bool) -> dict[str, str]:
    """Group of each video, where a column's videos are resampled by groups."""
    if quoting or not DATASETS[kind_of(data)].grouped:
        return {}
    return {video: group for check in checks for video, group in check.about.get("groups", {}).items()}
