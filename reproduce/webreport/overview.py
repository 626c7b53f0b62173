"""The HTML report as a whole: its head, Tables 1 and 2, the data sets' sections, and what ran where."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from reproduce.common.catalogue import COLUMNS, ROWS, TABLE2_COLUMNS, label_of, measured_columns
from reproduce.common.progress import duration
from reproduce.evaluation import published as paper
from reproduce.evaluation.collection import DataSet, Run
from reproduce.evaluation.paper_tables import runs_of, sections_of, table2
from reproduce.evaluation.results import BASELINE, MINIATURE_TITLE, Cell, Table
from reproduce.experiments.scheduler import Point, sweep_values
from reproduce.webreport import charts
from reproduce.webreport.html import Markup, Section, join, missing, page, table, tag
from reproduce.webreport.sections import SHORT, Data, data_set, head_n, named, ours

FIRST_NOTES = 2  # seeds and intervals, tests; the others are folded away
TITLE = "Action recognition using visual attention"


def report_page(sets: Sequence[DataSet], problems: Sequence[str]) -> str:
    """Make the report, one HTML file.

    Args:
        sets: the data sets with finished runs.
        problems: what could not be read, in words.
    """
    store: Data = {}
    clips: Data = {}
    tables = [section for section in (table_1(sets), table_2(sets)) if section]
    sections = [*tables, *(data_set(data, store, clips) for data in sets), what_ran(sets)]
    footer = tag("footer", tag("p", "Written by ", tag("code", "python reproduce/report.py"), "."))
    top = join([charts.markers(), header(sets, problems)])
    return page(f"Report: {TITLE}", top, sections, footer, store, clips)


def header(sets: Sequence[DataSet], problems: Sequence[str]) -> Markup:
    """Title, what the report holds, and a card for each data set."""
    runs = [run for data in sets for run in data.runs]
    about = (
        f"{len(runs)} finished run{'s' if len(runs) > 1 else ''} of "
        f"{sum(len(data.configurations) for data in sets)} configurations on {', '.join(data.title for data in sets)}"
    )
    days = sorted({str(run.about["started"])[:10] for run in runs if run.about.get("started")})
    when = f", {days[0]} to {days[-1]}" if len(days) > 1 else f", {days[0]}" if days else ""
    warnings = []
    if any(data.miniature for data in sets):
        which = [data.title for data in sets if data.miniature]
        where = "" if len(which) == len(sets) else f" ({', '.join(which)})"
        text = MINIATURE_TITLE.removeprefix("on MINIATURE data: ")
        warnings.append(tag("p", tag("b", f"Miniature data{where}. "), f"{text[0].upper()}{text[1:]}.", class_="warning"))
    if problems:
        warnings.append(tag("ul", *(tag("li", problem) for problem in problems), class_="warning"))
    return tag(
        "header",
        tag("p", "Reproduction report", class_="eyebrow"),
        tag("h1", TITLE),
        tag("p", "Sharma, Kiros and Salakhutdinov, 2015. ", about, tag("span", when, class_="nowrap"), ".", class_="lead"),
        *warnings,
        tag("div", *map(_card, sets), class_="cards"),
    )


def _card(data: DataSet) -> Markup:
    row, best = max(data.rows.items(), key=lambda item: item[1].mean)
    cell = data.cells[row]
    if row == BASELINE and len(data.rows) > 1:
        against = "the average-pooled row itself"
    elif cell.comparison is None:
        against = "no average-pooled row to compare with"
    else:
        sure = "significant" if cell.significant else "not significant"
        against = f"{charts.signed(100 * cell.comparison.difference)} against {SHORT}, {sure}"
    return tag(
        "a",
        tag("span", data.title, class_="eyebrow"),
        tag("span", f"{best.mean:.1f}", tag("small", f" % {data.figure}"), class_="big"),
        tag("span", cell.bounds(), class_="interval"),
        tag("span", best.name),
        tag("span", against, class_="muted"),
        href=f"#{data.anchor}",
        class_="card",
    )


def table_1(sets: Sequence[DataSet]) -> Section:
    """The paper's rows on all data sets, as ``table1.py`` makes them."""
    rows = [row for row in ROWS if any(row in data.rows for data in sets)]
    rows += [row for data in sets for row in data.rows if row not in rows]
    labels = {row: next(data.rows[row].name for data in sets if row in data.rows) for row in rows}
    cells = {(row, data.name): data.cells.get(row) or _empty(data, row) for row in rows for data in sets}
    sections = sections_of(rows)
    whole = Table("Table 1", tuple(rows), tuple(data.name for data in sets), cells, labels, sections)
    absent = [label_of(key) for key in sweep_values("table1")["data.name"] if key not in {data.name for data in sets}]
    sentence = f"There are no runs on {' and '.join(absent)}."
    more = missing(sentence, "python reproduce/table1.py") if absent else None
    return Section("table-1", "Table 1", join([_table(whole), more]))


def _empty(data: DataSet, row: str) -> Cell:
    reference = paper.table1(data.name, row)
    return Cell(next(iter(data.cells.values())).figure, (), None, reference, data=data.title)


def table_2(sets: Sequence[DataSet]) -> Section | None:
    """Its data sets beside other systems, as ``table2.py`` makes them; None without a run on any of them."""
    points, measured = [], measured_columns(TABLE2_COLUMNS)
    for data in sets:
        base = max(data.rows.values(), key=lambda one: len(one.settings))
        for column in measured:
            if COLUMNS[column].data != data.name:
                continue
            split = COLUMNS[column].split
            rows = data.like(base, split) if split else data.rows
            points += [
                Point(column, row, run.settings["seed"], [], run.folder)
                for row, one in rows.items()
                if row in ROWS
                for run in one.runs
            ]
    found = [row for row in ROWS if any(point.row == row for point in points)]
    if not found:
        return None
    whole = table2(found, runs_of(points))
    there = {point.column for point in points}
    means = [COLUMNS[name] for name in TABLE2_COLUMNS if set(COLUMNS[name].mean_of) - there]
    more = [missing(f"The mean needs every split of {label_of(one.data)}.", "python reproduce/table2.py") for one in means]
    return Section("table-2", "Table 2", join([_table(whole), *more]))


def _table(whole: Table) -> Markup:
    """A table of the paper: ours, the interval below it, and below that what is printed."""
    best = {}
    for column in whole.columns:
        means = [cell.mean for row in whole.rows if (cell := whole.cells[row, column]).mean is not None]
        best[column] = max(means, default=None)
    head: list[object] = ["Model"]
    for column in whole.columns:
        name, _, rest = whole.column_name(column).partition(", ")
        figure = whole.heading(column).rpartition("(")[2].rstrip(")").replace(" ", "\u00a0")
        head.append(head_n(name, tag("small", f"{rest}, {figure}" if rest else figure)))
    head += ["Source"] if whole.sources else []
    drawn = [row for row in whole.rows if row in ROWS]
    body: list[object] = []
    for section, rows in whole.parts():
        if section:
            body.append(tag("tr", tag("th", section, colspan=len(head), scope="rowgroup", class_="part")))
        for row in rows:
            label = whole.labels[row]
            name = named(row, label, drawn) if row in drawn else tag("th", label, scope="row")
            cells = [_cell(whole.cells[row, column], best[column], bool(whole.sources)) for column in whole.columns]
            source = [tag("td", tag("small", whole.sources[row]))] if whole.sources else []
            body.append([name, *cells, *source])
    notes = [tag("li", note) for note in whole.notes()]
    rest = tag("details", tag("summary", "All notes"), tag("ul", *notes[FIRST_NOTES:], class_="notes"))
    shown = tag("ul", *notes[:FIRST_NOTES], class_="notes")
    return join([table(head, body, whole.title, "overview"), shown, rest if notes[FIRST_NOTES:] else None])


def _cell(cell: Cell, best: float | None, quotes: bool) -> Markup:
    digits = 1 if quotes else 2
    printed = None if cell.paper is None else f"paper {cell.printed(digits)}"
    if not cell.values:
        if quotes and cell.paper is not None:
            return tag("td", cell.printed(digits), tag("small", "quoted"), class_="n quoted")
        return tag("td", "–", printed and tag("small", printed), class_="n")
    return tag("td", ours(cell, cell.mean == best), tag("small", cell.bounds()), printed and tag("small", printed), class_="n")


def what_ran(sets: Sequence[DataSet]) -> Section:
    """Every run: when, how long, on what, from which commit, with which versions, by which command."""
    parts = tuple(Section(f"{data.anchor}-runs", f"{data.title} runs", _runs(data)) for data in sets)
    runs = [run for data in sets for run in data.runs]
    seconds = sum(float(run.metrics.get("seconds", 0)) for run in runs)
    dirty = sum(1 for run in runs if run.about.get("dirty"))
    words = [f"{len(runs)} runs, {duration(seconds)} of training and testing in all. "]
    words.append(
        f"{dirty} of them from a checkout with uncommitted changes (marked +). "
        if dirty
        else "None of them from a checkout with uncommitted changes. "
    )
    words.append("A run that was interrupted shows the time since it was taken up again.")
    return Section("runs", "What ran", join([tag("p", "".join(words)), _environments(runs)]), parts)


def _environments(runs: Sequence[Run]) -> Markup:
    found: dict[tuple[str, str], int] = {}
    for run in runs:
        versions = ", ".join(f"{name} {version}" for name, version in run.about.get("versions", {}).items())
        key = (_hardware(run.about), versions)
        found[key] = found.get(key, 0) + 1
    body = [[hardware, versions, tag("td", count, class_="n")] for (hardware, versions), count in found.items()]
    head = ["Machine", "Versions", head_n("Runs")]
    return table(head, body, "Machines and versions")


def _hardware(about: dict[str, Any]) -> str:
    device, processes = str(about.get("device", "cpu")), int(about.get("processes", 1))
    if device in ("cpu", "x86_64", "aarch64", ""):
        words = f"{about.get('cpu', 'CPU')}, {about.get('cores', '?')} cores"
        return words if processes == 1 else f"{words}, {processes} processes"
    return device if processes == 1 else f"{processes} × {device}"


def _runs(data: DataSet) -> Markup:
    head: list[object] = ["Run"]
    head += [head_n(words) for words in ("Seed", f"Test {data.figure}", "Epochs")]
    head += ["Started", head_n("Took"), "Commit"]
    body = []
    for run in sorted(data.runs, key=lambda run: str(run.about.get("started", ""))):
        about = run.about
        epochs = " + ".join(str(len(rows)) for stage in ("holdout", "retrain") if (rows := run.history.rows(stage)))
        commit = str(about.get("commit") or "unknown")[:9] + ("+" if about.get("dirty") else "")
        command = tag("small", about.get("command", "command unknown"))
        line: list[object] = [tag("th", tag("code", run.folder.path.name), command, scope="row", class_="run")]
        line += [tag("td", words, class_="n") for words in (run.settings["seed"], f"{100 * run.score:.1f}", epochs or "–")]
        line += [tag("td", _moment(about.get("started")), class_="nowrap")]
        line += [tag("td", duration(float(run.metrics.get("seconds", 0))), class_="n")]
        line += [tag("td", tag("code", commit))]
        body.append(line)
    waiting = [tag("li", tag("code", folder.path.name), f": {epochs} epochs done") for folder, epochs in data.unfinished]
    left = join([tag("p", f"Not finished ({len(waiting)}):"), tag("ul", *waiting)]) if waiting else None
    return join([table(head, body, f"Runs on {data.title}", "runs"), left])


def _moment(started: object) -> str:
    if not started:
        return "unknown"
    return datetime.fromisoformat(str(started)).strftime("%Y-%m-%d %H:%M UTC")
