"""The report's charts: numbers for report.js, which draws curves and matrices, and bars that are HTML alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reproduce.common.catalogue import ROWS
from reproduce.evaluation.collection import Configuration, DataSet
from reproduce.webreport.html import Markup, join, tag

STYLES = {row: number for number, row in enumerate(list(ROWS)[:6])}  # of the paper's rows, the first of the catalogue
SPARE_STYLES = (6, 7, 1, 2, 0, 4, 5, 3)  # of other rows, in this order, those that no row of the paper beside them has
STAGE_NAMES = {"holdout": "first stage, 15 % of train held out", "retrain": "second stage, all of train"}

# Outlines of the markers around (0, 0), by style: cross, square, triangle, circle, diamond, triangle down, bar, plus.
MARKERS = (
    "M-3.6-3.6 3.6 3.6M-3.6 3.6 3.6-3.6",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.8 4.4 3.2h-8.8z",
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M0-5.2 5.2 0 0 5.2-5.2 0z",
    "M0 4.8 4.4-3.2h-8.8z",
    "M-1.8-5h3.6v10h-3.6z",
    "M-1.6-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",
)

Numbers = list[float | None]


def style(row: str, rows: Sequence[str] = ()) -> int:
    """Number of a row's colour, dashes and marker, which report.css and report.js define.

    Args:
        row: of the catalogue, or another.
        rows: that are shown together; their styles differ as long as there are enough.
    """
    if row in STYLES:
        return STYLES[row]
    others = [name for name in rows if name not in STYLES]
    taken = {STYLES[name] for name in rows if name in STYLES}
    free = [number for number in SPARE_STYLES if number not in taken] or list(SPARE_STYLES)
    return free[others.index(row) % len(free)] if row in others else free[0]


def series(name: str, number: int, columns: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A line: at each place of the x axis the mean of some values, and the lowest and highest of them.

    Args:
        name: for the legend.
        number: of the style.
        columns: the values at each place; none where the line has a gap.
    """
    means: Numbers = [_rounded(math.fsum(column) / len(column)) if column else None for column in columns]
    drawn: dict[str, Any] = {"name": name, "style": number, "y": means}
    if any(len(column) > 1 for column in columns):
        drawn["lo"] = [_rounded(min(column)) if column else None for column in columns]
        drawn["hi"] = [_rounded(max(column)) if column else None for column in columns]
    return drawn


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def curves(data: DataSet) -> list[dict[str, Any]]:
    """Learning curves: training loss and validation figure of the first stage, training loss of the second."""
    goal = "val/mAP" if data.multi_label else "val/accuracy"
    figure = "mAP" if data.multi_label else "accuracy"
    wanted = [
        ("holdout", "train/loss", "Training loss", "nats", 1.0),
        ("holdout", goal, f"Validation {figure}", "%", 100.0),
        ("retrain", "train/loss", "Training loss", "nats", 1.0),
    ]
    charts = []
    for stage, key, title, unit, scale in wanted:
        lines = []
        for row, configuration in data.rows.items():
            histories = [run.history.rows(stage) for run in configuration.runs]
            epochs = max((len(history) for history in histories), default=0)
            columns = [
                [scale * history[epoch][key] for history in histories if epoch < len(history) and key in history[epoch]]
                for epoch in range(epochs)
            ]
            if any(columns):
                lines.append(series(configuration.name, style(row, list(data.rows)), columns))
        if lines:
            length = max(len(line["y"]) for line in lines)
            axis = [str(epoch + 1) for epoch in range(length)]
            charts.append(_lines(title, STAGE_NAMES[stage], axis, "epoch", unit, "lowest and highest seed", lines))
    return charts


def effect(
    groups: Sequence[Sequence[Configuration]],
    setting: str,
    name_of: Callable[[Sequence[Configuration]], str],
    title: str,
    label: str,
    figure: str,
) -> dict[str, Any]:
    """The test figure over the values of one setting, a line for each list of configurations.

    Args:
        groups: as `collect.effects` returns them.
        setting: the dotted key.
        name_of: a group's name, for the legend.
        title: of the chart.
        label: of the x axis.
        figure: ``accuracy`` or ``mAP``.
    """
    values = sorted({one.settings[setting] for group in groups for one in group})
    lines, rows = [], list(dict.fromkeys(group[0].row for group in groups))
    for number, group in enumerate(groups):
        by_value = {one.settings[setting]: one for one in group}
        found = [by_value.get(value) for value in values]
        own = style(group[0].row, rows) if len(rows) == len(groups) else number % 8
        lines.append(
            {
                "name": name_of(group),
                "style": own,
                "y": [one and _rounded(one.mean) for one in found],
                "lo": [one and _rounded(one.bounds[0]) for one in found],
                "hi": [one and _rounded(one.bounds[1]) for one in found],
            }
        )
    axis = [f"{value:g}" for value in values]
    return _lines(title, f"test {figure}", axis, label, "%", "95 % interval", lines) | {"whiskers": True}


def _lines(title: str, subtitle: str, x: list[str], label: str, unit: str, spread: str, lines: list) -> dict[str, Any]:
    return {
        "kind": "lines",
        "title": title,
        "subtitle": subtitle,
        "x": x,
        "label": label,
        "unit": unit,
        "spread": spread,
        "series": lines,
    }


def matrix(configuration: Configuration) -> dict[str, Any]:
    """A confusion matrix: the filled cells as (true class, predicted class, videos)."""
    counts = configuration.confusion()
    cells = [[int(i), int(j), int(counts[i, j])] for i, j in zip(*np.nonzero(counts), strict=True)]
    classes = list(configuration.runs[0].predictions.classes)
    return {"kind": "matrix", "title": configuration.name, "classes": classes, "cells": cells}


def plot(key: str, chart: dict[str, Any]) -> Markup:
    """The place of a chart that report.js draws."""
    words = f"{chart['title']}, {chart['subtitle']}" if "subtitle" in chart else f"Confusion matrix of {chart['title']}"
    label = f"{words}. Arrow keys read the values."
    caption = tag("figcaption", tag("b", chart["title"]), f" {chart['subtitle']}") if "subtitle" in chart else None
    return tag(
        "figure",
        caption,
        tag("div", class_="plot", data_chart=key, tabindex="0", role="group", aria_label=label),
        class_="chart",
    )


def track(
    low: float, high: float, at: float, bounds: tuple[float, float], other: float | None, number: int, unit: str = "%"
) -> Markup:
    """A dot with its interval, and a hollow diamond at the paper's number, on the scale of a column.

    Args:
        low, high: ends of the scale.
        at: the dot.
        bounds: of the interval.
        other: the diamond, or None.
        number: of the dot's style.
        unit: of the numbers.
    """

    def place(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    width = f"{100 * (bounds[1] - bounds[0]) / (high - low):.2f}%"
    words = f"{at:.1f} {unit}, interval {bounds[0]:.1f} to {bounds[1]:.1f}" + (f", paper {other:.2f}" if other else "")
    return tag(
        "div",
        tag("i", class_="range", style=f"left:{place(bounds[0])};width:{width}"),
        tag("i", class_="paper", style=f"left:{place(other)}") if other is not None else None,
        tag("i", class_="dot", style=f"left:{place(at)}"),
        class_=f"track s{number}",
        title=words,
    )


def scale(values: Sequence[float]) -> tuple[float, float]:
    """Ends of a percent scale that holds some values, at multiples of 5."""
    low, high = math.floor(min(values) / 5) * 5, math.ceil(max(values) / 5) * 5
    return float(max(0, low)), float(min(100, high) if high > low else low + 5)


def class_bars(configuration: Configuration, baseline: Configuration | None, number: int) -> Markup:
    """Each class's figure as a bar, with a mark at the baseline row's; the largest gains come first."""
    classes = configuration.runs[0].predictions.classes
    ours = configuration.per_class()
    theirs = baseline.per_class() if baseline else np.full(len(ours), np.nan)
    lines = [(name, one, other) for name, one, other in zip(classes, ours, theirs, strict=True) if not math.isnan(one)]
    lines.sort(key=lambda line: (-(line[1] - line[2]) if baseline else -line[1], line[0]))
    return tag("ol", *(_class_bar(*line, number=number) for line in lines), class_="bars")


def _class_bar(name: str, ours: float, theirs: float, number: int) -> Markup:
    has = not math.isnan(theirs)
    change = ours - theirs if has else 0.0
    direction = "up" if change > 0.05 else "down" if change < -0.05 else "same"
    return tag(
        "li",
        tag("span", name, class_="name"),
        tag(
            "span",
            tag("i", class_="fill", style=f"width:{ours:.1f}%"),
            tag("i", class_="mark", style=f"left:{theirs:.1f}%") if has else None,
            class_=f"bar s{number}",
            aria_hidden="true",
        ),
        tag("span", f"{ours:.0f} %", class_="value"),
        tag("span", signed(change, 0), class_=f"change {direction}") if has else None,
    )


def signed(number: float, digits: int = 1) -> str:
    """``+1.2``, ``−1.2`` with a true minus, ``0.0`` without a sign."""
    text = f"{abs(number):.{digits}f}"
    return text if float(text) == 0 else ("−" if number < 0 else "+") + text


def swatch(number: int) -> Markup:
    """A row's line and marker, as in the charts."""
    line = tag("path", class_="line", d="M1 7H29")
    mark = tag("use", class_="mark", href=f"#m{number}", x="15", y="7")
    return tag("svg", line, mark, class_=f"swatch s{number}", aria_hidden="true", width="30", height="14", viewBox="0 0 30 14")


def markers() -> Markup:
    """The markers' outlines, which the charts refer to."""
    paths = [tag("path", id=f"m{number}", d=outline) for number, outline in enumerate(MARKERS)]
    return tag("svg", tag("defs", *paths), width="0", height="0", class_="unseen", aria_hidden="true")


def tabs(key: str, panels: Sequence[tuple[object, Markup]], label: str, chosen: int) -> Markup:
    """Panels of which one is shown at a time.

    Args:
        key: for the ids; unique on the page.
        panels: names and contents.
        label: what the choice is of.
        chosen: number of the panel that is shown first.
    """
    buttons = [
        tag(
            "button",
            name,
            id=f"{key}-tab-{number}",
            role="tab",
            type="button",
            aria_selected="true" if number == chosen else "false",
            aria_controls=f"{key}-{number}",
            tabindex="0" if number == chosen else "-1",
        )
        for number, (name, _) in enumerate(panels)
    ]
    bodies = [
        tag("div", body, id=f"{key}-{number}", role="tabpanel", aria_labelledby=f"{key}-tab-{number}", hidden=number != chosen)
        for number, (_, body) in enumerate(panels)
    ]
    return join([tag("div", *buttons, class_="tabs", role="tablist", aria_label=label), *bodies])
