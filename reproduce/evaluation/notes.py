"""What runs measured of their attention, in a few words: the numbers under a table and at the end of a run.

Their names in ``metrics.json`` and what they mean: ``lightning_modules.measures``.
"""

from __future__ import annotations

import statistics as python_statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


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


UNIFORM = ", uniform"
PREFIX = ", attention ("  # what follows a column's name in `note`
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


def note(column: str, rows: Mapping[str, Mapping[str, float]]) -> str:
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
    """What the numbers of ``note`` mean, for those that some row has."""
    names = {name for row in rows for name in row}
    return "Attention, means over test steps: " + "; ".join(f"{m.name}: {m.meaning}" for m in MEASURES if m.name in names) + "."


def sentence(figures: Mapping[str, Any]) -> str:
    """What one run measured, with uniform attention's numbers in brackets; empty for a run without attention."""
    found = means([figures])
    parts = [f"{m.name} {m.text(found[m.name])} ({m.text(found[m.name + UNIFORM])})" for m in MEASURES if m.name in found]
    return f"attention (in brackets uniform attention): {', '.join(parts)}" if parts else ""
