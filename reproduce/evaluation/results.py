"""A table's numbers: cells from run folders, rows against the average-pooled one, and what is said under the table."""

from __future__ import annotations

import statistics as python_statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from datamodules.leaks import MARK as MARK_OF_LEAKS
from datamodules.videos import DataError
from reproduce.common.catalogue import BASELINE, BASELINE_NAME, ROWS, label_of
from reproduce.evaluation import notes as focus
from reproduce.evaluation.significance import LEVEL, RESAMPLES, Comparison, compare, interval, resample, same_videos
from reproduce.experiments.folder import AGAIN, RunFolder

MINIATURE_TITLE = "on MINIATURE data: generated stand-ins, a demonstration and no benchmark"
MARK = "*"
UNFINISHED = "– marks cells without a finished run"


@dataclass(frozen=True)
class Cell:
    """One number of a table, in percent.

    Args:
        figure: ``acc`` or ``mAP``.
        values: one a seed; none where nothing was measured.
        interval: 95 % interval of their mean, or None without a finished run.
        paper: what the paper prints, or None.
        notes: what has to be said of the data and features.
        focus: what its runs measured of their attention, as ``focus.means`` gives it.
        miniature: whether the data are generated stand-ins.
        data: the column's name, for a reader.
        comparison: with the average-pooled row, where both were measured on the same videos.
        untested: why there is no comparison though the row was measured.
        grouped: whether the videos were resampled and exchanged by groups.
        runs: the runs it was made from, each with its seed.
    """

    figure: str
    values: tuple[float, ...]
    interval: tuple[float, float] | None
    paper: float | None
    notes: tuple[str, ...] = ()
    focus: Mapping[str, float] = field(default_factory=dict)
    miniature: bool = False
    data: str = ""
    comparison: Comparison | None = None
    untested: str = ""
    grouped: bool = False
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
        return f"{self.mean:.1f}" + (f" ± {self.std:.1f}" if self.std is not None else "") + (MARK if self.significant else "")

    def bounds(self) -> str:
        """``[82.1, 87.3]``."""
        return f"[{self.interval[0]:.1f}, {self.interval[1]:.1f}]" if self.interval else "–"

    def printed(self, digits: int = 2) -> str:
        """The paper's number."""
        return "–" if self.paper is None else f"{self.paper:.{digits}f}"

    def against_paper(self) -> str:
        """``+0.4`` or ``−0.4``."""
        return "–" if self.difference is None else signed(self.difference)


def signed(points: float) -> str:
    """``+0.4`` or ``−0.4``, with a true minus."""
    return f"{round(points, 1) + 0.0:+.1f}".replace("-", "−")  # no −0.0


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
    """

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    labels: Mapping[str, str] = field(default_factory=lambda: {name: row.label for name, row in ROWS.items()})
    sections: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def miniature(self) -> bool:
        """Whether generated stand-ins were measured."""
        return any(cell.miniature for cell in self.cells.values())

    @property
    def title(self) -> str:
        """The table's name, and that the data are miniature ones where they are."""
        return f"{self.name} {MINIATURE_TITLE}" if self.miniature else self.name

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
        said = dict.fromkeys(note for cell in self.cells.values() for note in cell.notes)
        notes = [*self._seeds(), *self.significance(), *(f"{note}." for note in said)]
        notes += self._attention()
        notes += self.remarks
        if self.miniature:
            notes.append("The differences from the paper compare different data and mean nothing here.")
        return notes

    def _attention(self) -> list[str]:
        """What was measured of the attention of the rows that have one: a line a column, and what its numbers mean."""
        notes, seen = [], []
        for column in self.columns:
            cells = {self.labels[row].removeprefix("Soft attention model, "): self.cells[row, column] for row in self.rows}
            rows = {label: cell.focus for label, cell in cells.items() if cell.focus}
            if rows:
                notes.append(focus.note(self.column_name(column), rows))
                seen += rows.values()
        return [focus.legend(seen), *notes] if notes else []

    def _seeds(self) -> list[str]:
        seeds = sorted({len(cell.values) for cell in self.cells.values() if cell.values})
        if not seeds:
            return []
        counts = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        grouped = self._grouped()
        return [
            f"{'Measured' if self.sources else 'Ours'}: mean over {counts} seed{'s' if seeds[-1] != 1 else ''}"
            + (", ± their standard deviation" if seeds[-1] > 1 else "")
            + "; in brackets the 95 % bootstrap interval over test videos"
            + (f" (whole groups of them for {grouped})." if grouped else ".")
        ]

    def _grouped(self) -> str:
        """The columns whose videos were drawn and exchanged by groups."""
        grouped = [column for column in self.columns if any(self.cells[row, column].grouped for row in self.rows)]
        return " and ".join(map(self.column_name, grouped))

    def significance(self) -> list[str]:
        """The tests against the average-pooled row in words: which, at what level, with what result."""
        measured = [cell for (row, _), cell in self.cells.items() if cell.values and row != BASELINE]
        if not measured:
            return []
        if BASELINE not in self.rows:
            return [f"No row was tested against {BASELINE_NAME}: it is not among the rows measured here."]
        tested = [cell for cell in measured if cell.comparison]
        notes = [self._method(tested)] if tested else []
        for column in self.columns:
            cells = {self.labels[row]: self.cells[row, column] for row in self.rows if row != BASELINE}
            found = {label: cell.comparison for label, cell in cells.items() if cell.comparison}
            differing = [f"{label} {_in_words(one)}" for label, one in found.items() if one.significant]
            if differing:
                notes.append(f"{self.column_name(column)}, points from {BASELINE_NAME}: {'; '.join(differing)}.")
            elif found:
                least = min(one.corrected for one in found.values())
                notes.append(
                    f"{self.column_name(column)}: no difference from {BASELINE_NAME} is significant "
                    f"(smallest corrected p {p_in_words(least)})."
                )
            reasons: dict[str, list[str]] = {}
            for label, cell in cells.items():
                if cell.untested:
                    reasons.setdefault(cell.untested, []).append(label)
            for reason, labels in reasons.items():
                notes.append(f"{self.column_name(column)}: no test of {', '.join(labels)}: {reason}.")
        return notes

    def _method(self, tested: Sequence[Cell]) -> str:
        names = []
        kinds = {cell.comparison.test for cell in tested if cell.comparison}
        grouped = self._grouped()
        if "McNemar" in kinds:
            names.append(f"accuracies by McNemar's exact test{f' (whole groups of videos for {grouped})' if grouped else ''}")
        if "bootstrap" in kinds:
            names.append(f"mAP by a paired bootstrap of {RESAMPLES} resamples")
        several = self.sources or any(len(cell.values) > 1 for cell in tested)
        return (
            f"{MARK} differs significantly from {BASELINE_NAME} on the same videos: {', '.join(names)}; two-sided, "
            f"{100 * LEVEL:.0f} % level, Holm's correction over a column's rows."
            + (" A video counts once, with all that was predicted of it under several seeds or splits." if several else "")
        )


def _in_words(one: Comparison) -> str:
    low, high = (signed(100 * end) for end in one.interval)
    return f"{signed(100 * one.difference)} [{low}, {high}], corrected p {p_in_words(one.corrected)}"


def p_in_words(value: float) -> str:
    """``= 0.042``, or that it is small."""
    return f"= {value:.2g}" if value >= 0.001 else "< 0.001"


@dataclass(frozen=True)
class Column:
    """What a column of a table is made from.

    Args:
        figure: ``acc`` or ``mAP``; what the runs say counts where there are some.
        printed: the paper's number of each row, or None.
        runs: by row and seed, the finished runs, one for each split.
        grouped: whether videos are resampled by their groups.
        name: for a reader; empty for the name that the runs give.
    """

    figure: str
    printed: Mapping[str, float | None]
    runs: Mapping[str, Mapping[int, Sequence[RunFolder]]]
    grouped: bool = False
    name: str = ""


def cells_of(column: Column) -> dict[str, Cell]:
    """A column's cells by row: figures, intervals, and the rows' comparisons with the average-pooled one."""
    predictions = {
        row: {seed: [folder.predictions() for folder in folders] for seed, folders in seeds.items()}
        for row, seeds in column.runs.items()
    }
    folders = [folder for seeds in column.runs.values() for of_seed in seeds.values() for folder in of_seed]
    abouts = {folder: folder.about() for folder in folders}
    multi_label = any(about["multi_label"] for about in abouts.values())
    groups = {video: group for about in abouts.values() for video, group in about["groups"].items()} if column.grouped else {}

    cells = {}
    for row, seeds in column.runs.items():
        cells[row] = Cell(column.figure, (), None, column.printed.get(row), (UNFINISHED,), data=column.name)
        if not seeds:
            continue
        metrics = {folder: folder.metrics() or {} for of_seed in seeds.values() for folder in of_seed}
        key = "test/mAP" if multi_label else "test/accuracy"
        for folder, found in metrics.items():
            if key not in found:
                raise DataError(f"{folder.path / 'metrics.json'}: lacks {key}; {AGAIN}")
        values = [python_statistics.fmean(metrics[folder][key] for folder in of_seed) for of_seed in seeds.values()]
        low, high = interval(resample(list(chain(*predictions[row].values())), multi_label, groups))
        cells[row] = replace(
            cells[row],
            figure="mAP" if multi_label else "acc",
            values=tuple(100 * value for value in values),
            interval=(100 * low, 100 * high),
            notes=tuple(dict.fromkeys(note for folder in metrics for note in _notes(abouts[folder]))),
            focus=focus.means(metrics.values()),
            miniature=any(abouts[folder]["miniature"] for folder in metrics),
            data=column.name or _name(abouts[next(iter(metrics))]),
            grouped=column.grouped,
            runs=tuple((seed, folder) for seed, of_seed in seeds.items() for folder in of_seed),
        )

    pairs, reasons = {}, {}
    baseline = predictions.get(BASELINE, {})
    for row, seeds in predictions.items():
        if not seeds or row == BASELINE or BASELINE not in predictions:
            continue
        common = [seed for seed in seeds if seed in baseline]
        ours, theirs = (list(chain(*(runs[seed] for seed in common))) for runs in (seeds, baseline))
        if not common:
            reasons[row] = f"{BASELINE_NAME} has no finished run of the same seed"
        elif not same_videos(ours, theirs):
            reasons[row] = f"its videos are not those of {BASELINE_NAME}"
        else:
            pairs[row] = (ours, theirs)
    compared = compare(pairs, multi_label, groups)
    return {row: replace(cell, comparison=compared.get(row), untested=reasons.get(row, "")) for row, cell in cells.items()}


def _name(about: dict) -> str:
    return label_of(str(about["data"]))


def _notes(about: dict) -> list[str]:
    sizes = f"{about['train_videos']} train and {about['test_videos']} test videos"
    notes = [f"{_name(about)}: {sizes}, split {about['split']}", *about["notes"]]
    if about.get("stride", 1) != 1:
        notes.append(f"{_name(about)}: blocks at stride {about['stride']}, the paper's is 1")
    return notes
