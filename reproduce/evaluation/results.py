"""A table's numbers: cells made from finished runs, with intervals, and rows compared with the average-pooled one."""

from __future__ import annotations

import math
import statistics as python_statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from datamodules.leaks import MARK as MARK_OF_LEAKS
from datamodules.videos import DataError
from reproduce.common.catalogue import BASELINE, BASELINE_NAME, ROWS, figure_of, label_of
from reproduce.evaluation import notes
from reproduce.evaluation.notes import CONTROL_TITLE, MARK, MINIATURE_TITLE, fixed, signed
from reproduce.evaluation.significance import Comparison, compare, interval, resample, same_videos
from reproduce.experiments.folder import AGAIN, RunFolder
from reproduce.experiments.predictions import Predictions

TOP5 = "test/accuracy_top5"


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, as a table takes it.

    Args:
        folder: where it lies.
        about: ``run.json``.
        metrics: ``metrics.json``.
        found: scores of the test videos; None for what ``predictions.csv`` says.
    """

    folder: RunFolder
    about: dict[str, Any]
    metrics: dict[str, Any]
    found: Predictions | None = field(default=None, kw_only=True)

    @cached_property
    def predictions(self) -> Predictions:
        """Scores of the test videos."""
        return self.folder.predictions() if self.found is None else self.found


@dataclass(frozen=True)
class Cell:
    """One number of a table, in percent.

    Args:
        figure: ``acc``, ``hit@1`` or ``mAP``.
        values: one a seed; none where nothing was measured.
        interval: 95 % interval of their mean, or None without a finished run.
        paper: what the paper prints, or None.
        notes: what has to be said of the data and features.
        attention: what its runs measured of their attention, as ``notes.means`` gives it.
        miniature: whether the data are generated stand-ins.
        permuted: whether the labels of train were dealt anew among groups, a negative control.
        data: the column's name, for a reader.
        comparison: with the average-pooled row, where both were measured on the same videos.
        untested: why there is no comparison though the row was measured.
        grouped: whether the videos were resampled and exchanged by groups.
        deterministic: whether the system gives the same under every seed, so that one run is all.
        runs: the runs it was made from, each with its seed.
    """

    figure: str
    values: tuple[float, ...]
    interval: tuple[float, float] | None
    paper: float | None
    notes: tuple[str, ...] = ()
    attention: Mapping[str, float] = field(default_factory=dict)
    miniature: bool = False
    permuted: bool = False
    data: str = ""
    comparison: Comparison | None = None
    untested: str = ""
    grouped: bool = False
    deterministic: bool = False
    runs: tuple[tuple[int, RunFolder], ...] = ()

    @property
    def mean(self) -> float | None:
        """Mean over seeds."""
        return python_statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return python_statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's; None where either is missing."""
        if self.mean is None or self.paper is None:
            return None
        return self.mean - self.paper

    @property
    def significant(self) -> bool:
        """Whether the row differs from the average-pooled one."""
        return self.comparison is not None and self.comparison.significant

    @property
    def leaky(self) -> bool:
        """Whether its test set is not apart from its training set."""
        return any(MARK_OF_LEAKS in note for note in self.notes)

    @property
    def origin(self) -> str:
        """``measured`` here, ``quoted``, or neither."""
        return "measured" if self.values else "quoted" if self.paper is not None else "–"

    def ours(self) -> str:
        """``84.9 ± 0.4``, or ``84.9`` for one seed, or ``–`` without a finished run; then ``*`` where it is significant."""
        if self.mean is None:
            return "–"
        spread = f" ± {fixed(self.std, 1)}" if self.std is not None else ""
        return fixed(self.mean, 1) + spread + (MARK if self.significant else "")

    def bounds(self) -> str:
        """``[82.1, 87.3]``."""
        return f"[{fixed(self.interval[0], 1)}, {fixed(self.interval[1], 1)}]" if self.interval else "–"

    def printed(self, digits: int = 2) -> str:
        """The paper's number."""
        return "–" if self.paper is None else fixed(self.paper, digits)

    def against_paper(self) -> str:
        """``+0.4`` or ``−0.4``."""
        return "–" if self.difference is None else signed(self.difference)


@dataclass(frozen=True)
class Table:
    """A table of rows (models) and columns (data sets).

    Args:
        name: ``Table 1``.
        rows: keys of the rows, as in ``rows=`` where the suite can run them.
        columns: keys of the columns.
        cells: by (row, column).
        labels: the rows' names, for a reader.
        sections: the part of the table that a row stands in; none for a table without parts.
        sources: for a table that also quotes: where each row's numbers come from, in a few words.
        remarks: further notes.
        findings: by column, what its controls show.
    """

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    labels: Mapping[str, str] = field(default_factory=lambda: {name: row.label for name, row in ROWS.items()})
    sections: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    findings: Mapping[str, Sequence[object]] = field(default_factory=dict)

    @property
    def miniature(self) -> bool:
        """Whether generated stand-ins were measured."""
        return any(cell.miniature for cell in self.cells.values())

    @property
    def title(self) -> str:
        """The table's name, and that it is a negative control, or that the data are miniature ones, where it is so."""
        name = f"{self.name}, {CONTROL_TITLE}," if any(cell.permuted for cell in self.cells.values()) else self.name
        return f"{name} {MINIATURE_TITLE}" if self.miniature else name.removesuffix(",")

    def parts(self) -> list[tuple[str, list[str]]]:
        """Sections with their rows, in the rows' order; one without a name for a table without sections."""
        names = dict.fromkeys(self.sections.get(row, "") for row in self.rows)
        return [(name, [row for row in self.rows if self.sections.get(row, "") == name]) for name in names]

    def column_name(self, column: str) -> str:
        """Data set of a column, for a reader; it says so where train and test are not apart."""
        leaky = f", {MARK_OF_LEAKS} split" if any(self.cells[row, column].leaky for row in self.rows) else ""
        return f"{self._first(column).data or column}{leaky}"

    def heading(self, column: str) -> str:
        """Data set and figure of a column."""
        return f"{self.column_name(column)} ({self._first(column).figure} %)"

    def _first(self, column: str) -> Cell:
        return next((cell for row in self.rows if (cell := self.cells[row, column]).values), self.cells[self.rows[0], column])

    def notes(self) -> list[str]:
        """What has to be said under the table, each once."""
        return notes.under(self)


@dataclass(frozen=True)
class Column:
    """What a column of a table is made from.

    Args:
        figure: ``acc``, ``hit@1`` or ``mAP``; what the runs say counts where there are some.
        printed: the paper's number of each row, or None.
        runs: by row and seed, the finished runs, one for each split.
        grouped: whether videos are resampled by their groups.
        name: for a reader; empty for the name that the runs give.
        given: by row, a cell that stands in place of one made from runs.
        pooled: whether a seed's runs, on test sets that share no video, count as one run on all of them.
    """

    figure: str
    printed: Mapping[str, float | None]
    runs: Mapping[str, Mapping[int, Sequence[FinishedRun]]]
    grouped: bool = False
    name: str = ""
    given: Mapping[str, Cell] = field(default_factory=dict)
    pooled: bool = False

    @property
    def finished(self) -> list[FinishedRun]:
        """All runs."""
        return [run for seeds in self.runs.values() for of_seed in seeds.values() for run in of_seed]

    @property
    def heading(self) -> str:
        """The name, with the part of the data set that the runs are of."""
        about = next((run.about for run in self.finished), {})
        name = self.name or label_of(str(about.get("data", "")))
        return ", ".join(filter(None, [name, about.get("part", "")]))

    @property
    def comparable(self) -> bool:
        """Whether the paper's numbers may stand beside the runs: not beside a part of the data, or a negative control."""
        return not any(run.about.get("part") or "permuted" in run.about for run in self.finished)

    def predictions(self, of_seed: Sequence[FinishedRun]) -> list[Predictions]:
        """What a seed's runs predicted, each by itself or pooled."""
        found = [run.predictions for run in of_seed]
        return [pool(found)] if self.pooled and len(found) > 1 else found


def cells_of(column: Column) -> dict[str, Cell]:
    """A column's cells by row: figures, intervals, and the rows' comparisons with the average-pooled one."""
    runs = column.finished
    column = column if column.comparable else replace(column, printed={})
    multi_label = any(run.about["multi_label"] for run in runs)
    groups = {video: group for run in runs for video, group in run.about["groups"].items()} if column.grouped else {}
    cells = {
        row: column.given[row] if row in column.given else _cell(column, row, multi_label, groups)
        for row in dict.fromkeys([*column.runs, *column.given])
    }
    pairs, reasons = {}, {}
    for row, seeds in column.runs.items():
        if not seeds or row in (BASELINE, *column.given) or BASELINE not in column.runs or BASELINE in column.given:
            continue
        baseline = column.runs[BASELINE]
        if is_deterministic(row):  # its one run stands beside each seed of the other
            seeds = dict.fromkeys(baseline, next(iter(seeds.values())))
        ours, theirs = of_common_seeds(column, seeds, baseline)
        if not ours:
            reasons[row] = f"{BASELINE_NAME} has no finished run of the same seed"
        elif not same_videos(ours, theirs):
            reasons[row] = f"its videos are not those of {BASELINE_NAME}"
        else:
            pairs[row] = (ours, theirs)
    further = [cell.comparison.p for cell in column.given.values() if cell.comparison]
    compared = compare(pairs, multi_label, groups, further)
    return {
        row: cell if row in column.given else replace(cell, comparison=compared.get(row), untested=reasons.get(row, ""))
        for row, cell in cells.items()
    }


def of_common_seeds(
    column: Column, ours: Mapping[int, Sequence[FinishedRun]], theirs: Mapping[int, Sequence[FinishedRun]]
) -> tuple[list[Predictions], list[Predictions]]:
    """Two rows' predictions under the seeds that both have, in one order."""
    common = [seed for seed in ours if seed in theirs]
    one, other = ([found for seed in common for found in column.predictions(of_row[seed])] for of_row in (ours, theirs))
    return one, other


def _cell(column: Column, row: str, multi_label: bool, groups: Mapping[str, str]) -> Cell:
    """A row's cell, not compared yet."""
    seeds, printed = column.runs[row], column.printed.get(row)
    if not seeds:
        return Cell(column.figure, (), None, printed, (notes.UNFINISHED,), data=column.heading)
    runs = list(chain(*seeds.values()))
    key = "test/mAP" if multi_label else "test/accuracy"
    for run in runs:
        if key not in run.metrics:
            raise DataError(f"{run.folder.path / 'metrics.json'}: lacks {key}; {AGAIN}")
    found = [one for of_seed in seeds.values() for one in column.predictions(of_seed)]
    low, high = interval(resample(found, multi_label, groups))
    return Cell(
        figure=figure_of(multi_label, any(run.about.get("hits") for run in runs)),
        values=tuple(100 * _mean(of_seed, key, column.pooled) for of_seed in seeds.values()),
        interval=(100 * low, 100 * high),
        paper=printed,
        notes=(*notes.of_runs([run.about for run in runs], column.pooled), *_hit_at_5(column, row, runs)),
        attention=notes.means(run.metrics for run in runs),
        miniature=any(run.about["miniature"] for run in runs),
        permuted=any("permuted" in run.about for run in runs),
        data=column.heading,
        grouped=column.grouped,
        deterministic=is_deterministic(row),
        runs=tuple((seed, run.folder) for seed, of_seed in seeds.items() for run in of_seed),
    )


def _hit_at_5(column: Column, row: str, runs: Sequence[FinishedRun]) -> list[str]:
    """What a table says besides of a row whose figure is hit@1."""
    found = [run.metrics[TOP5] for run in runs if run.about.get("hits") and TOP5 in run.metrics]
    label = ROWS[row].label if row in ROWS else row
    return [f"{column.heading}, hit@5: {label} {fixed(100 * python_statistics.fmean(found), 1)} %"] if found else []


def _mean(of_seed: Sequence[FinishedRun], key: str, pooled: bool) -> float:
    """Mean of a seed's runs, by their test videos where these are pooled."""
    if not pooled or len(of_seed) == 1:
        return python_statistics.fmean(run.metrics[key] for run in of_seed)
    sizes = [len(run.predictions.videos) for run in of_seed]
    return math.fsum(size * run.metrics[key] for size, run in zip(sizes, of_seed, strict=True)) / sum(sizes)


def pool(found: Sequence[Predictions]) -> Predictions:
    """Predictions on several test sets, which share no video, as those on one."""
    whole = Predictions(
        tuple(video for one in found for video in one.videos),
        found[0].classes,
        np.concatenate([one.target for one in found]),
        np.concatenate([one.scores for one in found]),
    )
    if len(set(whole.videos)) != len(whole.videos) or any(one.classes != whole.classes for one in found):
        raise DataError("test sets that share videos, or differ in their classes, cannot be pooled")
    return whole


def is_deterministic(row: str) -> bool:
    """Whether a row's system gives the same under every seed."""
    return row in ROWS and ROWS[row].system.deterministic
