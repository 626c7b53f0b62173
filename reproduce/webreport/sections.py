"""The sections of the HTML report: one function each, from runs to HTML. What is not there is a sentence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from reproduce.evaluation.collection import FPS, LAYERS, PENALTY, Configuration, DataSet, Video, differences, effects, videos
from reproduce.evaluation.results import BASELINE, BASELINE_NAME, MARK, MINIATURE_TITLE, Cell
from reproduce.evaluation.significance import LEVEL
from reproduce.webreport import charts
from reproduce.webreport.attention_viewer import viewer
from reproduce.webreport.html import Markup, Section, join, missing, table, tag

LISTED_VIDEOS = 8  # hardest, and easiest
SHORT = "avg pooled"
CONFUSIONS = 6  # pairs named beside a matrix
EFFECTS = (  # setting, title, axis, what is missing, sweep that makes it
    (PENALTY, "Attention penalty λ", "λ", "λ", "attention_penalty"),
    (LAYERS, "LSTM layers", "layers", "the number of LSTM layers", "layers"),
    (FPS, "Frames per second", "fps", "fps", "fps"),
)
IN_WORDS = {"videos": "other videos", "features.weights": "other weights", "members": "other members"}
"""Settings that nobody reads, such as fingerprints, and what a difference in them is called."""

LABELS = {
    "accuracy": "one label a video: accuracy. ",
    "hit@1": "one label a video or several, of which one is enough: hit@1. ",
    "mAP": "several labels a video: mean average precision. ",
}
"""What a video's labels are, by the figure."""

Data = dict[str, Any]


def named(row: str, name: str, rows: Sequence[str]) -> Markup:
    """A row's name behind its swatch."""
    unbroken = name.replace("λ = ", "λ\u00a0=\u00a0")
    return tag("th", tag("span", charts.swatch(charts.style(row, rows)), unbroken, class_="named"), scope="row")


def data_set(data: DataSet, store: Data, clips: Data) -> Section:
    """Everything about one data set.

    Args:
        data: its runs.
        store: receives the numbers of the charts.
        clips: receives the pictures and the numbers of the attention viewer.
    """
    attention = viewer(data, clips)
    recorded = {video["name"] for video in clips.get(data.anchor, {}).get("videos", ())}
    parts = (
        Section(f"{data.anchor}-results", "Results", results(data)),
        Section(f"{data.anchor}-viewer", "Where it looks", attention),
        Section(f"{data.anchor}-curves", "Learning curves", learning_curves(data, store)),
        Section(f"{data.anchor}-classes", "Class by class", per_class(data)),
        Section(f"{data.anchor}-confusions", "Confusions", confusions(data, store)),
        Section(f"{data.anchor}-settings", "Effect of λ, layers and fps", settings(data, store)),
        Section(f"{data.anchor}-videos", "Hardest and easiest videos", hardest(data, recorded)),
    )
    about = next(iter(data.rows.values())).about
    words = [
        f"{about['train_videos']} train and {about['test_videos']} test videos, split {about['split']}, ",
        LABELS[data.figure],
        f"Generated stand-ins: {MINIATURE_TITLE.removeprefix('on MINIATURE data: generated stand-ins, ')}."
        if data.miniature
        else None,
    ]
    return Section(data.anchor, data.title, tag("p", join(word for word in words if word), class_="lead"), parts)


def results(data: DataSet) -> Markup:
    """The rows with their intervals, the paper's numbers and the comparison with the average-pooled row."""
    rows, cells = data.rows, data.cells
    ends = [end for cell in cells.values() if cell.interval for end in cell.interval]
    printed = [cell.paper for cell in cells.values() if cell.paper is not None]
    low, high = charts.scale([*ends, *printed])
    tested = any(cell.comparison for cell in cells.values())
    axis = tag("span", tag("span", f"{low:.0f}"), tag("span", f"{high:.0f} %"), class_="axis")
    head: list[object] = ["Model", head_n("Ours"), head_n("95 % interval"), tag("th", axis, scope="col", class_="wide")]
    head += [head_n("Paper"), head_n("Difference")] if printed else []
    head += [head_n(f"Against {SHORT}")] if tested else []
    best = max(one.mean for one in rows.values())
    body = []
    for row, one in rows.items():
        cell = cells[row]
        line: list[object] = [named(row, one.name, list(rows)), _n(ours(cell, one.mean == best)), _n(cell.bounds())]
        dot = charts.track(
            low, high, one.mean, cell.interval or (one.mean, one.mean), cell.paper, charts.style(row, list(rows))
        )
        line.append(tag("td", dot, class_="wide"))
        line += [_n(cell.printed()), _n(cell.against_paper())] if printed else []
        line += [_against(cell)] if tested else []
        body.append(line)
    seeds = sorted({len(one.runs) for one in rows.values()})
    legend = [
        f"Mean over {seeds[0] if len(seeds) == 1 else f'{seeds[0]} to {seeds[-1]}'} seed{'s' if seeds[-1] > 1 else ''}",
        ", ± their standard deviation" if seeds[-1] > 1 else "",
        "; bars are 95 % bootstrap intervals over test videos",
        " (whole groups of them)" if any(cell.grouped for cell in cells.values()) else "",
        "; hollow diamonds are the paper's numbers." if printed else ".",
    ]
    return join(
        [
            tag("p", verdict(data)),
            table(head, body, f"{data.title}: test {data.figure} of every row", "results"),
            tag("p", "".join(legend), class_="note"),
            other_setups(data),
        ]
    )


def head_n(*words: object) -> Markup:
    """The head of a column of numbers."""
    return tag("th", *words, scope="col", class_="n")


def _n(*words: object) -> Markup:
    return tag("td", *words, class_="n")


def ours(cell: Cell, best: bool) -> Markup:
    """A cell's number, bold for a column's best, with a star where it differs significantly from the average-pooled row."""
    words = cell.ours().removesuffix(MARK)
    star = tag("span", MARK, class_="star", title="significant") if cell.significant else None
    return join([tag("b", words) if best else words, star])


def _against(cell: Cell) -> Markup:
    found = cell.comparison
    if found is None:
        return tag("td", "–", class_="n", title=cell.untested or None)
    p = f"p {'< 0.001' if found.corrected < 0.001 else f'= {found.corrected:.3f}'}"
    star = tag("span", MARK, class_="star", title="significant") if found.significant else None
    return _n(charts.signed(100 * found.difference), star, tag("small", p))


def verdict(data: DataSet) -> str:
    """Which rows differ from the average-pooled row, in words."""
    best = max(data.rows.values(), key=lambda one: one.mean)
    words = f"The best row, {_in_words(best.name)}, has {best.mean:.1f} % {data.figure}. "
    compared = {row: cell.comparison for row, cell in data.cells.items() if cell.comparison}
    if not compared:
        return words + f"There is no run of {BASELINE_NAME} with the same videos and seeds to compare with."
    better = [data.rows[row].name for row, one in compared.items() if one.significant and one.difference > 0]
    worse = [data.rows[row].name for row, one in compared.items() if one.significant and one.difference < 0]
    test = next(iter(compared.values())).test
    how = f" ({'exact McNemar test' if test == 'McNemar' else 'paired bootstrap'}, Holm-corrected, level {LEVEL:g})."
    if not better and not worse:
        return words + f"No row differs significantly from {BASELINE_NAME}{how}"
    parts = [f"significantly {word} {_listed(names)}" for names, word in ((better, "better"), (worse, "worse")) if names]
    return words + f"Compared with {BASELINE_NAME}, " + " and ".join(parts) + how


def _listed(names: list[str]) -> str:
    """``is A``, or ``are A, B and C``."""
    names = [_in_words(name) for name in names]
    return f"are {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else f"is {names[0]}"


def _in_words(name: str) -> str:
    """A row's name within a sentence."""
    return (name[0].lower() + name[1:]).replace(", ", " with ")


def other_setups(data: DataSet) -> Markup | None:
    """The configurations that the results' rows do not show, and how they differ from those."""
    shown = list(data.rows.values())
    others = [one for one in data.configurations if one not in shown]
    if not others:
        return None
    base = max(shown, key=lambda one: len(one.settings))
    head = ["Model", "Set-up", head_n("Ours"), head_n("95 % interval"), head_n("Seeds")]
    body = []
    for one in sorted(others, key=lambda one: -one.mean):
        interval = f"[{one.bounds[0]:.1f}, {one.bounds[1]:.1f}]"
        body.append([one.name, tag("td", setup(one, base)), _n(f"{one.mean:.1f}"), _n(interval), _n(len(one.runs))])
    summary = f"{len(others)} other configuration{'s' if len(others) > 1 else ''}"
    return tag("details", tag("summary", summary), table(head, body, f"{data.title}: other configurations"))


def setup(one: Configuration, base: Configuration) -> Markup:
    """How a configuration differs from another, as settings."""
    found = differences(one, base, ("model.name", PENALTY))
    words = [f"{key}={value}" for key, value in found.items() if key not in IN_WORDS]
    words += [said for key, said in IN_WORDS.items() if key in found]
    return join(part for word in words for part in (tag("code", word), " ")) if words else Markup("as above but for λ")


def learning_curves(data: DataSet, store: Data) -> Markup:
    """Loss and validation figure by epoch, of the rows that were trained by epochs."""
    found = charts.curves(data)
    if not found:
        return tag("p", "The run folders hold no history.csv, so there are no curves to draw.", class_="missing")
    without = [one.name for one in data.rows.values() if not any(run.history.epochs() for run in one.runs)]
    plots = []
    for number, chart in enumerate(found):
        key = f"{data.anchor}-curve-{number}"
        store[key] = chart
        plots.append(charts.plot(key, chart))
    seeds = max(len(one.runs) for one in data.rows.values())
    note = "Means over seeds; the shade spans from the lowest to the highest." if seeds > 1 else None
    absent = f"Without a history.csv, and so without a curve: {', '.join(without)}."
    return join(
        [
            tag("div", *plots, class_="charts"),
            tag("p", note, class_="note") if note else None,
            tag("p", absent, class_="note") if without else None,
        ]
    )


def per_class(data: DataSet) -> Markup:
    """Every row's classes against the baseline row's."""
    rows = data.rows
    reference = rows.get(BASELINE)
    others = {row: one for row, one in rows.items() if row != BASELINE or len(rows) == 1}
    panels, best = [], max(others.values(), key=lambda one: one.mean)
    for row, one in others.items():
        number = charts.style(row, list(rows))
        compared = reference if reference is not one else None
        panels.append((join([charts.swatch(number), one.name]), charts.class_bars(one, compared, number)))
    what = "Average precision" if data.multi_label else "Recall"
    note = f"{what} of each class, mean over seeds. "
    if reference is not None and len(rows) > 1:
        note += f"The upright mark is the {SHORT} LSTM; the largest gains over it come first."
    command = f"python reproduce/train.py row={BASELINE} …"
    sentence = missing(f"There is no row {BASELINE} to compare with.", command) if reference is None else None
    chosen = list(others.values()).index(best)
    return join([tag("p", note), sentence, charts.tabs(f"{data.anchor}-class", panels, "Row", chosen)])


def confusions(data: DataSet, store: Data) -> Markup:
    """The confusion matrix of each row, and its most frequent confusions."""
    if data.figure != "accuracy":
        sentence = "A confusion matrix needs one label a video; here videos have several."
        return tag("p", sentence, class_="missing")
    panels, best = [], max(data.rows.values(), key=lambda one: one.mean)
    for number, (row, one) in enumerate(data.rows.items()):
        key = f"{data.anchor}-matrix-{number}"
        store[key] = charts.matrix(one)
        name = join([charts.swatch(charts.style(row, list(data.rows))), one.name])
        panels.append((name, tag("div", charts.plot(key, store[key]), _most_confused(store[key]), class_="matrix")))
    note = "Rows are the true classes, columns the predicted ones; the darker, the larger the share of the true class."
    return join([tag("p", note), charts.tabs(f"{data.anchor}-matrix", panels, "Row", list(data.rows.values()).index(best))])


def _most_confused(chart: Data) -> Markup:
    classes, totals = chart["classes"], [0] * len(chart["classes"])
    for true, _, count in chart["cells"]:
        totals[true] += count
    wrong = [cell for cell in chart["cells"] if cell[0] != cell[1]]
    wrong.sort(key=lambda cell: (-cell[2] / totals[cell[0]], -cell[2], cell))
    if not wrong:
        return tag("aside", tag("p", "Nothing is confused: every video is recognised."))
    lines = [
        tag("li", tag("b", classes[i]), " taken for ", tag("b", classes[j]), tag("small", f"{count} of {totals[i]}"))
        for i, j, count in wrong[:CONFUSIONS]
    ]
    return tag("aside", tag("h4", "Most often confused"), tag("ol", *lines))


def settings(data: DataSet, store: Data) -> Markup:
    """The effect of λ, of the number of layers and of fps, wherever runs differ only in that."""
    plots, absent = [], []
    base = max(data.rows.values(), key=lambda one: len(one.settings))
    for setting, title, label, words, sweep in EFFECTS:
        groups = effects(data.configurations, setting)
        if not groups:
            command = f"python reproduce/sweep.py sweeps/{sweep}.yaml"
            absent.append(missing(f"No runs on {data.title} differ only in {words}.", command))
            continue
        groups.sort(key=lambda group: (len(differences(group[0], base, (PENALTY, "model.name", setting))), -len(group)))

        def name_of(group: Sequence[Configuration], setting: str = setting) -> str:
            name = group[0].name if setting != PENALTY else "Soft attention"
            apart = differences(group[0], base, (PENALTY, "model.name", setting, *IN_WORDS))
            return ", ".join([name, *(f"{key.rpartition('.')[2]} {value}" for key, value in apart.items())])

        key = f"{data.anchor}-{sweep}"
        store[key] = charts.effect(groups[:8], setting, name_of, title, label, data.figure)
        plots.append(charts.plot(key, store[key]))
    note = tag("p", "Whiskers are 95 % intervals. Within a line nothing but the axis' setting differs.", class_="note")
    return join([tag("div", *plots, class_="charts own") if plots else None, note if plots else None, *absent])


def hardest(data: DataSet, recorded: Collection[str]) -> Markup:
    """The videos with the lowest and the highest mean score of their true class.

    Args:
        data: its runs.
        recorded: names of the videos that the attention viewer has.
    """
    rows = data.rows.values()
    found = videos(rows)
    runs = sum(len(one.runs) for one in rows)
    count = min(LISTED_VIDEOS, len(found) // 2)
    what = "The mean score of each video's true class" + ("es" if data.multi_label else "")
    words = f"{what} over {runs} run{'s' if runs > 1 else ''} of {len(rows)} row{'s' if len(rows) > 1 else ''}."
    columns = [("Hardest", found[:count]), ("Easiest", found[::-1][:count])]
    lists = []
    for title, listed in columns:
        items = [_video(video, f"{data.anchor}-viewer" if video.name in recorded else None) for video in listed]
        lists.append(tag("div", tag("h4", title), tag("ol", *items, class_="videos")))
    return join([tag("p", words), tag("div", *lists, class_="two")])


def _video(video: Video, viewer_at: str | None) -> Markup:
    link = viewer_at and tag("a", "watch", href=f"#{viewer_at}", data_video=video.name)
    taken = f", mostly taken for {video.mistaken}" if video.mistaken else ""
    return tag(
        "li",
        tag("span", video.name, class_="name"),
        tag("span", tag("i", class_="fill", style=f"width:{100 * video.score:.1f}%"), class_="bar", aria_hidden="true"),
        tag("span", f"{video.score:.2f}", class_="value"),
        tag("small", f"{', '.join(video.target)}: recognised in {video.hits} of {video.runs}{taken}", link and " · ", link),
    )
