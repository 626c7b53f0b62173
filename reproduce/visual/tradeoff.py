"""The figure of λ against accuracy, focus and coverage: what the paper says of Fig. 3 in words, in numbers.

A panel for the test figure and one for each measure of attention (`MEASURES` of `evaluation.notes`): every seed a ring,
their mean a square, and where uniform attention stands a broken line. λ stands at even distances.
"""

from __future__ import annotations

import statistics as python_statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datamodules.videos import DataError
from reproduce.common.catalogue import label_of
from reproduce.common.files import write_rows
from reproduce.evaluation.collection import PENALTY, Configuration
from reproduce.evaluation.notes import MEASURES, Measure
from reproduce.visual.figure_runs import Need, Request
from reproduce.visual.pages import (
    BLUE,
    CAPTION,
    LABEL,
    MUTED,
    NOTE,
    STYLE,
    TEXT,
    VERMILION,
    WIDTH,
    save_pages,
    titled_page,
)
from reproduce.visual.paper_figures import MINIATURE

PANELS = {
    "mass": ("Focus on the actor", "attention in its box / box area"),
    "pointing": ("Pointing game", "most attended cell in the box, %"),
    "entropy": ("Entropy of a glimpse", "over that of uniform attention"),
    "unevenness": ("Unevenness of coverage", "of Σₜ αₜ over cells: std / mean"),
    "shift": ("Gaze shift", "frame sides a second"),
}
"""By the measure's name: what its panel is called, and its unit."""
ACROSS = 3  # panels in a row
PANEL_HEIGHT = 1.95  # inches, with what is written around it
SPREAD = 0.16  # of the distance of two λ, that seeds stand apart


def tradeoff(request: Request, needs: Sequence[Need]) -> list[Path]:
    """The figure, and its numbers as CSV."""
    found = configurations(request, needs[0])
    if len(found) < 2:
        raise DataError("\n".join(request.lacking(need) for need in needs if not request.runs(need)) or "only one λ ran")
    measures = [
        measure for measure in MEASURES if any(measure.of(run.metrics) is not None for one in found for run in one.runs)
    ]
    first = found[0]
    data = first.runs[0].about["data"]
    miniature = " (miniature)" if first.about["miniature"] else ""
    title = f"What λ trades: {label_of(data)}{miniature}, {first.settings['model.attention']} attention"
    notes = [_meaning(found, bool({"mass", "pointing"} & {measure.name for measure in measures}))]
    if miniature:
        notes.append(MINIATURE)
    with rc_context(STYLE):
        page = _page(found, measures, title, notes)
    path = request.path("tradeoff", needs)
    table = path.with_name(f"{path.name}.csv")
    files = save_pages([page], path)
    write_rows(table, _rows(found, measures))
    return [*files, table]


def configurations(request: Request, need: Need) -> list[Configuration]:
    """What ran with a need's settings and any λ, by λ; where videos changed, on those that most λ ran on."""
    dataset, wanted = request.wanted(need)
    del wanted[PENALTY]
    apart = (PENALTY, "videos")
    alike = [
        one
        for one in request.configurations(dataset)
        if PENALTY in one.settings and {key: value for key, value in one.settings.items() if key not in apart} == wanted
    ]
    by_videos: dict[str, list[Configuration]] = {}
    for one in alike:
        by_videos.setdefault(one.settings["videos"], []).append(one)
    chosen = max(by_videos.values(), key=len, default=[])
    return sorted(chosen, key=lambda one: one.settings[PENALTY])


def _page(found: list[Configuration], measures: list[Measure], title: str, notes: list[str]) -> Figure:
    panels = 1 + len(measures)
    rows = -(-panels // ACROSS)
    figure, top, bottom = titled_page(title, notes, rows * PANEL_HEIGHT)
    height = top + rows * PANEL_HEIGHT + bottom
    for number in range(panels):
        left = (number % ACROSS) * WIDTH / ACROSS + 0.45
        upper = top + (number // ACROSS) * PANEL_HEIGHT + 0.42
        size = (WIDTH / ACROSS - 0.6) / WIDTH, (PANEL_HEIGHT - 0.85) / height
        axes = figure.add_axes((left / WIDTH, 1 - upper / height - size[1], *size))
        _draw(axes, found, measures[number - 1] if number else None)
    return figure


def _draw(axes: Axes, found: list[Configuration], measure: Measure | None) -> None:
    """One panel: a measure, or None for the test figure."""
    scale = 100.0 if measure is not None and measure.share else 1.0
    places, means = [], []
    for place, one in enumerate(found):
        values = _values(one, measure)
        if not values:
            continue
        mean = scale * python_statistics.fmean(values)
        places.append(place)
        means.append(mean)
        middle = (len(values) - 1) / 2
        apart = [place + SPREAD * (number - middle) for number in range(len(values))]
        if len(values) > 1:
            axes.plot(apart, [scale * value for value in values], "o", mfc="white", mec=TEXT, ms=3.5, mew=0.8, zorder=4)
        if measure is None:
            low, high = one.bounds
            axes.errorbar(
                [place], [mean], [[max(0.0, mean - low)], [max(0.0, high - mean)]], ecolor=BLUE, capsize=3, lw=1, zorder=1
            )
    axes.plot(places, means, "-s", color=BLUE, ms=4.5, lw=1.2, zorder=3)
    if measure is not None:
        uniform = scale * python_statistics.fmean(
            measure.of_uniform(run.metrics) for one in found for run in one.runs if measure.of(run.metrics) is not None
        )
        axes.axhline(uniform, color=VERMILION, ls=(0, (4, 2)), lw=1, zorder=1)
    name, unit = (
        ("Test mAP" if found[0].multi_label else "Test accuracy", "%")
        if measure is None
        else PANELS.get(measure.name, (measure.name, measure.meaning))
    )
    axes.text(0, 1.17, name, size=CAPTION, weight="bold", transform=axes.transAxes, va="bottom")
    axes.text(0, 1.03, unit, size=NOTE, color=MUTED, transform=axes.transAxes, va="bottom")
    axes.set_xticks(range(len(found)), [f"{one.settings[PENALTY]:g}" for one in found])
    axes.set_xlim(-0.4, len(found) - 0.6)
    axes.set_xlabel("λ", labelpad=1, size=LABEL, color=TEXT)
    axes.margins(y=0.15)
    axes.tick_params(labelsize=LABEL, length=2.5, color=MUTED, pad=2)
    axes.spines[["top", "right"]].set_visible(False)


def _values(one: Configuration, measure: Measure | None) -> list[float]:
    """A configuration's value of each seed that has it."""
    if measure is None:
        return one.values
    return [value for run in one.runs if (value := measure.of(run.metrics)) is not None]


def _meaning(found: list[Configuration], boxes: bool) -> str:
    seeds = {len(one.runs) for one in found}
    some = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else "1 seed" if seeds == {1} else f"{seeds.pop()} seeds"
    rings = "" if seeds == {1} else "; rings: the seeds"
    said = f"Squares: means over {some}{rings}; bars: 95 % bootstrap interval over test videos; broken line: uniform attention."
    return said if boxes else f"{said} The data set says not where the actor is: no focus on it can be measured."


def _rows(found: list[Configuration], measures: list[Measure]) -> list[list]:
    """A line a run: λ, seed, the test figure in percent, and the measures."""
    figure = "test_mAP" if found[0].multi_label else "test_accuracy"
    rows: list[list] = [["lambda", "seed", figure, *(measure.name for measure in measures), "run"]]
    for one in found:
        for run, score in zip(one.runs, one.values, strict=True):
            values = [measure.of(run.metrics) for measure in measures]
            shown = ["" if value is None else f"{value:.6g}" for value in values]
            rows.append([f"{one.settings[PENALTY]:g}", run.settings["seed"], f"{score:.4f}", *shown, run.folder.name])
    return rows
