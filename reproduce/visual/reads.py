"""The figure of accuracy against reads: what a finished soft run keeps when a step reads its k likeliest locations alone.

A line for the soft run, tested with k = 1, 2, 4, … and all locations; and, where they ran with the same settings, squares for
networks trained with top-k and with hard attention, means over their seeds. k = 1 at test is hard attention's likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduce.common.catalogue import DEFAULT_ATTENTION, HARD, ROWS, TOP_K, label_of, row_label, row_of
from reproduce.common.files import write_rows
from reproduce.common.settings import Settings, SettingsError, with_values
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import configuration, named
from reproduce.systems.devices import set_up
from reproduce.systems.recurrent import build_data, build_recognizer
from reproduce.systems.trainer import test
from reproduce.visual.figure_runs import Need, Request
from reproduce.visual.pages import BLUE, LABEL, MUTED, NOTE, STYLE, TEXT, VERMILION, WIDTH, save_pages, titled_page
from reproduce.visual.paper_figures import MINIATURE

HEIGHT = 2.4  # inches of the panel, with what is written around it
LEAST = 10  # points that the axis spans, so that a video more or less is no cliff


class Point(NamedTuple):
    """An accuracy at a number of reads.

    Args:
        kind: ``tested``: the soft run; else the row that was trained so.
        k: locations that a step reads.
        seeds: over which it is a mean; that of the soft run.
        value: the test figure in percent.
        run: folder, of the first seed.
    """

    kind: str
    k: int
    seeds: int
    value: float
    run: str


def reads(request: Request, needs: Sequence[Need]) -> list[Path]:
    """The figure, and its numbers as CSV.

    Raises:
        SettingsError: the run is of another system than soft attention.
        DataError: it is not finished, or its data, features or weights are missing or damaged.
    """
    settings = request.settings_of(needs[0])
    if settings.model.name in (TOP_K, HARD):
        raise SettingsError(f"row={settings.row}: takes a row of soft attention, such as row={DEFAULT_ATTENTION}")
    run = request.best(needs[0])
    about, metrics = run.about(), run.metrics() or {}
    locations = about["map"][0] * about["map"][1]
    figure = "test/mAP" if about["multi_label"] else "test/accuracy"
    tested = tested_with(settings, run, [k for k in powers_of_two(locations) if k < locations], figure)
    tested[locations] = float(metrics[figure])
    label = row_label(row_of(request.wanted(needs[0])[1]))
    points = [Point("tested", k, 1, 100 * value, run.path.name) for k, value in tested.items()]
    points += trained_with(request, settings, about["data"], locations)
    title = f"Accuracy against reads: {label_of(about['data'])}{' (miniature)' if about['miniature'] else ''}, {label}"
    notes = [
        f"Line: this run, tested on the k likeliest of {locations} locations. Squares: trained so, means over their seeds. "
        "Features are computed everywhere, whatever is read.",
        *([MINIATURE] if about["miniature"] else []),
    ]
    with rc_context(STYLE):
        page = _page(points, locations, title, notes, "Test mAP, %" if about["multi_label"] else "Test accuracy, %")
    path = request.path("reads", needs)
    table = path.with_name(f"{path.name}.csv")
    files = save_pages([page], path)
    rows: list[list[Any]] = [["kind", "k", "share", "seeds", figure.replace("/", "_"), "run"]]
    rows += [[one.kind, one.k, f"{one.k / locations:.4f}", one.seeds, f"{one.value:.4f}", one.run] for one in points]
    write_rows(table, rows)
    return [*files, table]


def powers_of_two(locations: int) -> list[int]:
    """1, 2, 4, … up to some number of locations."""
    return [2**power for power in range(locations.bit_length()) if 2**power <= locations]


def tested_with(settings: Settings, run: RunFolder, ks: Sequence[int], figure: str) -> dict[int, float]:
    """Test a finished soft run's weights with top-k attention.

    Args:
        settings: of the run, and where its data and features lie.
        run: its folder.
        ks: numbers of locations.
        figure: of the test, such as ``test/accuracy``.

    Raises:
        DataError: data, features or weights are missing or damaged.
    """
    set_up(settings)
    data, found = build_data(settings), {}
    for k in ks:
        alone = {"model.name": TOP_K, "model.top_k": k, "trainer.devices": 1, "trainer.num_nodes": 1}
        changed = with_values(settings, alone)
        recognizer = build_recognizer(changed, data)
        test(changed, recognizer, data, run.tested)
        found[k] = recognizer.figures[figure]
    return found


def trained_with(request: Request, settings: Settings, dataset: str, locations: int) -> list[Point]:
    """Finished runs of top-k attention, and of hard attention that started from this soft run, with the same settings."""
    points = []
    start = row_of(named(configuration(settings)))
    for name in (TOP_K, HARD) if start in ROWS else (TOP_K,):
        wanted = _comparable(named(configuration(with_values(settings, {"model.name": name, "hard.start": start}))))
        for one in request.configurations(dataset):
            if one.settings["model.name"] == name and _comparable(one.settings) == wanted:
                k = min(int(one.settings.get("model.top_k", one.settings.get("hard.region", 1) ** 2)), locations)
                points.append(Point(one.name, k, len(one.runs), one.mean, one.runs[0].folder.path.name))
    return sorted(points, key=lambda point: (point.kind, point.k))


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without what may differ between runs that are shown together: how hard attention was trained, and k."""
    apart = ("seed", "videos", "members", "model.top_k")
    return {
        key: value
        for key, value in settings.items()
        if key not in apart and (not key.startswith("hard.") or key == "hard.start")
    }


def _page(points: Sequence[Point], locations: int, title: str, notes: Sequence[str], unit: str) -> Figure:
    page, top, bottom = titled_page(title, notes, HEIGHT)
    height = top + HEIGHT + bottom
    axes = page.add_axes((0.55 / WIDTH, (bottom + 0.45) / height, (WIDTH - 0.75) / WIDTH, (HEIGHT - 0.6) / height))
    _draw(axes, points, locations, unit)
    return page


def _draw(axes: Axes, points: Sequence[Point], locations: int, unit: str) -> None:
    ks = sorted({point.k for point in points} | {locations})
    place = {k: number for number, k in enumerate(ks)}
    colours = [BLUE, VERMILION, TEXT]
    for kind, colour in zip(dict.fromkeys(point.kind for point in points), colours, strict=False):
        found = [point for point in points if point.kind == kind]
        line = "-o" if kind == "tested" else "s"
        label = "soft, tested so" if kind == "tested" else f"{kind}, trained"
        places, values = [place[one.k] for one in found], [one.value for one in found]
        axes.plot(places, values, line, color=colour, ms=4.5, lw=1.2, label=label, clip_on=False)
    axes.set_xticks(range(len(ks)), [f"{k}" for k in ks])
    axes.set_xlabel("k, locations that a step reads", labelpad=1, size=LABEL, color=TEXT)
    axes.set_ylabel(unit, size=LABEL, color=TEXT)
    axes.margins(y=0.15)
    low, high = axes.get_ylim()
    high = min(high, 100.0)
    axes.set_ylim(max(min(low, high - LEAST), 0), high)
    axes.tick_params(labelsize=LABEL, length=2.5, color=MUTED, pad=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=NOTE, frameon=False)
