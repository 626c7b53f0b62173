"""Everything that is said under a table, and of a run's attention at its end: what was measured, tested, guessed, left out.

What the names in ``metrics.json`` mean: ``lightning_modules.measures``.
"""

from __future__ import annotations

import statistics as python_statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reproduce.common.catalogue import BASELINE, BASELINE_NAME, label_of
from reproduce.evaluation.significance import LEVEL, RESAMPLES, Comparison

if TYPE_CHECKING:
    from reproduce.evaluation.results import Cell, Table

MINIATURE_TITLE = "on MINIATURE data: generated stand-ins, a demonstration and no benchmark"
CONTROL_TITLE = "a NEGATIVE CONTROL: the labels of train were dealt anew among its groups"
MARK = "*"
UNFINISHED = "– marks cells without a finished run"
UNIFORM = ", uniform"
PREFIX = ", attention ("  # what follows a column's name in `of_attention`


def fixed(value: float, digits: int) -> str:
    """A number with so many digits; noise of arithmetic in its tenth does not turn the last one, on no machine."""
    return f"{round(value, 9) + 0.0:.{digits}f}"


def significant_digits(value: float, digits: int) -> str:
    """As `fixed`, with so many significant digits."""
    return f"{float(f'{value:.12g}'):.{digits}g}"


def signed(points: float) -> str:
    """``+0.4`` or ``−0.4``, with a true minus."""
    return f"{round(round(points, 9), 1) + 0.0:+.1f}".replace("-", "−")  # no −0.0


def p_in_words(value: float) -> str:
    """``= 0.042``, or that it is small."""
    return f"= {significant_digits(value, 2)}" if value >= 0.001 else "< 0.001"


def under(table: Table) -> list[str]:
    """What has to be said under a table, each once."""
    said = dict.fromkeys(note for cell in table.cells.values() for note in cell.notes)
    found = [f"{table.column_name(column)}, {one}" for column, some in table.findings.items() for one in some]
    notes = [*_of_seeds(table), *of_tests(table), *found, *(f"{note}." for note in said), *_of_columns(table), *table.remarks]
    if table.miniature and any(cell.difference is not None for cell in table.cells.values()):
        notes.append("The differences from the paper compare different data and mean nothing here.")
    return notes


def _of_seeds(table: Table) -> list[str]:
    """How many seeds, and what stands in brackets."""
    notes = []
    seeds = sorted({len(cell.values) for cell in table.cells.values() if cell.values and not cell.deterministic})
    counts = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}" if seeds else ""
    grouped = _grouped(table)
    over = f"mean over {counts} seed{'s' if seeds[-1] != 1 else ''}" if seeds else "one run"
    if any(cell.values for cell in table.cells.values()):
        notes.append(
            f"{'Measured' if table.sources else 'Ours'}: {over}"
            + (", ± their standard deviation" if seeds and seeds[-1] > 1 else "")
            + "; in brackets the 95 % bootstrap interval over test videos"
            + (f" (whole groups of them for {grouped})." if grouped else ".")
        )
    once = [row for row in table.rows if any(table.cells[row, column].deterministic for column in table.columns)]
    if once:
        notes.append(
            f"Deterministic, the same under every seed, hence one run: {', '.join(table.labels[row] for row in once)}."
        )
    return notes


def _grouped(table: Table) -> str:
    """The columns whose videos were drawn and exchanged by groups."""
    grouped = [column for column in table.columns if any(table.cells[row, column].grouped for row in table.rows)]
    return " and ".join(map(table.column_name, grouped))


def of_tests(table: Table) -> list[str]:
    """The tests against the average-pooled row in words: which, at what level, with what result."""
    measured = [cell for (row, _), cell in table.cells.items() if cell.values and row != BASELINE]
    if not measured:
        return []
    if BASELINE not in table.rows:
        return [f"No row was tested against {BASELINE_NAME}: it is not among the rows measured here."]
    tested = [cell for cell in measured if cell.comparison]
    notes = [_of_method(table, tested)] if tested else []
    for column in table.columns:
        name = table.column_name(column)
        cells = {table.labels[row]: table.cells[row, column] for row in table.rows if row != BASELINE}
        found = {label: cell.comparison for label, cell in cells.items() if cell.comparison}
        differing = [f"{label} {_in_words(one)}" for label, one in found.items() if one.significant]
        if differing:
            notes.append(f"{name}, points from {BASELINE_NAME}: {'; '.join(differing)}.")
        elif found:
            least = min(one.corrected for one in found.values())
            said = f"(smallest corrected p {p_in_words(least)})"
            notes.append(f"{name}: no difference from {BASELINE_NAME} is significant {said}.")
        reasons: dict[str, list[str]] = {}
        for label, cell in cells.items():
            if cell.untested:
                reasons.setdefault(cell.untested, []).append(label)
        notes += [f"{name}: no test of {', '.join(labels)}: {reason}." for reason, labels in reasons.items()]
    return notes


def _of_method(table: Table, tested: Sequence[Cell]) -> str:
    names = []
    kinds = {cell.comparison.test for cell in tested if cell.comparison}
    grouped = _grouped(table)
    if "McNemar" in kinds:
        names.append(f"accuracies by McNemar's exact test{f' (whole groups of videos for {grouped})' if grouped else ''}")
    if "bootstrap" in kinds:
        names.append(f"mAP by a paired bootstrap of {RESAMPLES} resamples")
    several = table.sources or any(len(cell.values) > 1 for cell in tested)
    return (
        f"{MARK} differs significantly from {BASELINE_NAME} on the same videos: {', '.join(names)}; two-sided, "
        f"{100 * LEVEL:.0f} % level, Holm's correction over a column's rows."
        + (" A video counts once, with all that was predicted of it under several seeds or splits." if several else "")
    )


def _in_words(one: Comparison) -> str:
    low, high = (signed(100 * end) for end in one.interval)
    return f"{signed(100 * one.difference)} [{low}, {high}], corrected p {p_in_words(one.corrected)}"


def of_runs(abouts: Sequence[Mapping[str, Any]], pooled: bool = False) -> list[str]:
    """What has to be said of the data and features of a cell's runs, from their ``run.json``, each once.

    Args:
        abouts: of each run.
        pooled: whether the runs of several splits are pooled.
    """
    name = label_of(str(abouts[0]["data"]))
    tested = {about["split"]: about["test_videos"] for about in abouts}
    several = pooled and len(tested) > 1
    notes = []
    if several:
        notes.append(f"{name}: {sum(tested.values())} test videos, pooled over {len(tested)} splits: {_listed(list(tested))}")
    for about in abouts:
        if not several:
            sizes = f"{about['train_videos']} train and {about['test_videos']} test videos"
            notes.append(f"{name}: {sizes}, split {about['split']}")
        notes += about["notes"]
        if about.get("part"):
            notes.append(f"{name}: a PART of the data set, {about['part']}; no number of it compares with one of the whole")
        if about.get("stride", 1) != 1:
            notes.append(f"{name}: blocks at stride {about['stride']}, the paper's is 1")
    return list(dict.fromkeys(notes))


def _listed(splits: Sequence[str]) -> str:
    """``logo-1, …, logo-25 of groups 1-3``: what all names end in stands once."""
    stems, ends = zip(*(split.partition(" of ")[::2] for split in splits), strict=True)
    shown = stems if len(stems) <= 5 else (*stems[:2], "…", stems[-1])
    return ", ".join(shown) + (f" of {ends[0]}" if ends[0] else "")


def _of_columns(table: Table) -> list[str]:
    """What was measured of the attention of the rows that have one: a line a column, and what its numbers mean."""
    notes, seen = [], []
    for column in table.columns:
        cells = {table.labels[row].removeprefix("Soft attention model, "): table.cells[row, column] for row in table.rows}
        rows = {label: cell.attention for label, cell in cells.items() if cell.attention}
        if rows:
            notes.append(of_attention(table.column_name(column), rows))
            seen += rows.values()
    return [legend(seen), *notes] if notes else []


def of_attention(column: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """One line on a column: what each row's attention measured, in the order of the measures.

    Args:
        column: the data set, for a reader.
        rows: name of each row with attention -> its ``means``.
    """
    measured = [measure for measure in MEASURES if any(measure.name in row for row in rows.values())]

    def numbers(row: Mapping[str, float], of: str = "") -> str:
        return " / ".join(m.text(row[m.name + of]) if m.name + of in row else "–" for m in measured)

    uniform = {key: value for row in rows.values() for key, value in row.items()}
    said = [*(f"{name}: {numbers(row)}" for name, row in rows.items()), f"uniform attention: {numbers(uniform, UNIFORM)}"]
    return f"{column}{PREFIX}{' / '.join(m.name for m in measured)}): {'; '.join(said)}."


def legend(rows: Iterable[Mapping[str, float]]) -> str:
    """What the numbers of `of_attention` mean, for those that some row has."""
    names = {name for row in rows for name in row}
    return "Attention, means over test steps: " + "; ".join(f"{m.name}: {m.meaning}" for m in MEASURES if m.name in names) + "."


@dataclass(frozen=True)
class Measure:
    """One number of attention, for a reader.

    Args:
        name: in a list of several.
        meaning: in full.
        uniform: what uniform attention has, or the figure that says so.
        figures: whose quotient it is, or one figure.
        share: whether it is written in percent.
    """

    name: str
    meaning: str
    uniform: float | str
    figures: tuple[str, ...]
    share: bool = False

    def of(self, figures: Mapping[str, Any]) -> float | None:
        """Its value in a run's figures, None where the run did not measure it."""
        if any(name not in figures for name in self.figures):
            return None
        first, *others = (float(figures[name]) for name in self.figures)
        return first / others[0] if others else first

    def of_uniform(self, figures: Mapping[str, Any]) -> float:
        """What uniform attention would have had in its place."""
        return float(figures[self.uniform]) if isinstance(self.uniform, str) else self.uniform

    def text(self, value: float) -> str:
        """``3.62`` or ``39 %``."""
        return f"{100 * value:.0f} %" if self.share else f"{value:.2f}"


MEASURES = (
    Measure(
        "mass",
        "attention inside the actor's box over the box's share of the frame",
        1.0,
        ("test/attention_in_box", "test/box_area"),
    ),
    Measure(
        "pointing",
        "how often the most attended cell lies in the box",
        "test/pointing_chance",
        ("test/pointing_game",),
        share=True,
    ),
    Measure("entropy", "over that of uniform attention", 1.0, ("test/attention_entropy_share",)),
    Measure(
        "unevenness",
        "standard deviation over cells of the attention that all steps of a block give them, over its mean",
        0.0,
        ("test/attention_coverage_spread",),
    ),
    Measure("shift", "way of the gaze's centre in a second, in sides of the frame", 0.0, ("test/attention_shift",)),
)


def means(runs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean over runs of each measure that they have, and of what uniform attention has in its place.

    Args:
        runs: the figures of each, as in ``metrics.json``.

    Returns:
        By the measure's name; uniform attention's as ``<name>, uniform``.
    """
    runs = list(runs)
    found: dict[str, float] = {}
    for measure in MEASURES:
        pairs = [(value, measure.of_uniform(figures)) for figures in runs if (value := measure.of(figures)) is not None]
        if pairs:
            found[measure.name] = python_statistics.fmean(value for value, _ in pairs)
            found[measure.name + UNIFORM] = python_statistics.fmean(value for _, value in pairs)
    return found


def sentence(figures: Mapping[str, Any]) -> str:
    """What one run measured, with uniform attention's numbers in brackets; empty for a run without attention."""
    found = means([figures])
    parts = [f"{m.name} {m.text(found[m.name])} ({m.text(found[m.name + UNIFORM])})" for m in MEASURES if m.name in found]
    return f"attention (in brackets uniform attention): {', '.join(parts)}" if parts else ""
