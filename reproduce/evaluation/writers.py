"""A table as terminal text, Markdown, CSV, LaTeX and HTML, and the record of the runs that it was made from.

pandas writes the CSV. It cannot write this LaTeX: sections that span the table, a rule under each data set's columns, notes
below, names escaped with their signs as mathematics; nor the HTML, whose rows become cards on a phone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.files import write_atomically
from datamodules.videos import DataError
from reproduce.common.catalogue import BASELINE
from reproduce.common.cli import fail
from reproduce.evaluation.notes import fixed, significant_digits
from reproduce.evaluation.results import Cell, Table

if TYPE_CHECKING:
    from pandas import DataFrame

CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of what is no character to be seen
TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # directions of writing
BOLD, DIM, GREEN = "1", "2", "32"  # of a terminal


def to_text(table: Table, terminal: bool = False) -> str:
    """For reading as it is: a block for each column.

    Args:
        table: what to show.
        terminal: in bold, dim and green, notes wrapped to the terminal's width; without, no escape codes.
    """

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if terminal else text

    lines = [paint(table.title, BOLD), "=" * _width(table.title)]
    shown_as = {row: f"{'  ' if table.sections.get(row) else ''}{table.labels[row]}" for row in table.rows}
    labels = max(map(_width, shown_as.values()))
    for column in table.columns:
        cells = {row: table.cells[row, column] for row in table.rows}
        marked = any(cell.significant for cell in cells.values())
        block = {row: _block(table, cell, marked) for row, cell in cells.items() if not table.sources or cell.origin != "–"}
        heads = [*(["number", "from"] if table.sources else ["ours"]), "95 % interval", "paper", "diff.", "seeds"]
        widths = [max(map(_width, parts)) for parts in zip(heads, *block.values(), strict=True)]
        first = max(labels, _width(table.heading(column)))
        lines += ["", paint(_line(table.heading(column), heads, first, widths), BOLD)]
        for section, rows in table.parts():
            shown = [row for row in rows if row in block]
            lines += [paint(section, BOLD)] if section and shown else []
            for row in shown:
                line = _line(shown_as[row], block[row], first, widths)
                lines.append(paint(line, GREEN) if cells[row].significant else line)
        lines += [] if block else [f"{'  ' if table.sections else ''}nothing measured here, nothing quoted"]
    if table.sources:
        lines += ["", paint("Source", BOLD)]
        lines += [f"{_line(shown_as[row], [], labels, [])}  {table.sources[row]}" for row in table.rows]
    notes = [f"- {plain(note)}" for note in table.notes()]
    if terminal:
        columns = shutil.get_terminal_size().columns
        notes = [paint(line, DIM) for note in notes for line in textwrap.wrap(note, columns, subsequent_indent="  ")]
    return "\n".join([*lines, "", *notes]) + "\n"


def _block(table: Table, cell: Cell, marked: bool) -> list[str]:
    """A cell's parts; a space stands where other cells of the column have the mark."""
    number = cell.ours() if cell.values or not table.sources else cell.printed(1)
    number += " " if marked and not cell.significant else ""
    paper = [cell.printed(1 if table.sources else 2), cell.against_paper()]
    return [number, *([cell.origin] if table.sources else []), cell.bounds(), *paper, str(len(cell.values))]


def _line(label: str, parts: Sequence[str], first: int, widths: Sequence[int]) -> str:
    """The label to the left, the parts to the right of their columns."""
    words = [" " * (width - _width(part)) + part for part, width in zip(parts, widths, strict=True)]
    label = plain(label)
    return "  ".join([label + " " * (first - _width(label)), *words])


def _width(text: str) -> int:
    """Terminal cells that a text takes: two for wide characters, none for combining ones."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def to_markdown(table: Table) -> str:
    """For a repository page."""
    head = ["Model"]
    for column in table.columns:
        head += _names(table, column)
    head += ["Source"] if table.sources else []
    rule = ["---"] + ["---:"] * (len(head) - 1 - bool(table.sources)) + ["---"] * bool(table.sources)
    lines = [f"## {table.title}", "", _bars(head), "| " + " | ".join(rule) + " |"]
    for section, rows in table.parts():
        lines += [_bars([f"**{section}**", *[""] * (len(head) - 1)], escaped=False)] if section else []
        lines += [markdown_row(table, row) for row in rows]
    return "\n".join([*lines, "", *(f"* {_markdown(note)}" for note in table.notes())]) + "\n"


def heads(table: Table, column: str) -> list[str]:
    """What stands above a column's parts, in the formats that put all columns beside each other."""
    return ["number"] if table.sources else ["ours [95 % interval]", "paper (difference)"]


def _names(table: Table, column: str) -> list[str]:
    """The same where nothing stands above them."""
    first, *others = heads(table, column)
    return [f"{table.heading(column)}: {first}", *others] if others else [table.heading(column)]


def _texts(table: Table, cell: Cell) -> list[str]:
    """The parts of a cell that `heads` names."""
    ours = f"{cell.ours()} {cell.bounds()}" if cell.values else "–"
    if not table.sources:
        return [ours, cell.printed() + (f" ({cell.against_paper()})" if cell.difference is not None else "")]
    if not cell.values:
        return [f"{cell.printed(1)} quoted" if cell.paper is not None else "–"]
    printed = f" (paper {cell.printed(1)}, {cell.against_paper()})" if cell.paper is not None else ""
    return [f"{ours} measured{printed}"]


def markdown_row(table: Table, row: str) -> str:
    """A row's line."""
    return _bars(_words(table, row))


def _words(table: Table, row: str) -> list[str]:
    """What stands in a row: its label, the parts of its cells, and its source."""
    parts = [part for column in table.columns for part in _texts(table, table.cells[row, column])]
    return [table.labels[row], *parts, *([table.sources[row]] if table.sources else [])]


def _bars(words: Sequence[str], escaped: bool = True) -> str:
    return "| " + " | ".join(_markdown(word) if escaped else word for word in words) + " |"


def plain(text: str) -> str:
    """A text without what would end a line, move a terminal's cursor or turn the direction of writing: a name may hold it."""
    return "".join(
        " " if unicodedata.category(character) in CONTROLS or character in TURNS else character for character in text
    )


def _markdown(text: str) -> str:
    text = plain(text)
    for character in "\\|*_<`~#":
        text = text.replace(character, f"\\{character}")
    # Links and entities, without a backslash before every bracket of an interval.
    return re.sub(r"&(?=#|\w+;)", r"\\&", text.replace("](", "]\\("))


CSV_HEAD = ["table", "data", "row", "figure", "mean", "std", "low", "high", "paper", "difference", "seeds"]
CSV_HEAD += [
    "miniature",
    "permuted",
    "leaky",
    "origin",
    "source",
    "section",
    "from_baseline",
    "from_baseline_low",
    "from_baseline_high",
]
CSV_HEAD += ["test", "p", "p_corrected", "p_bootstrap", "significant"]


POINTS = ("mean", "std", "low", "high", "paper", "difference", "from_baseline", "from_baseline_low", "from_baseline_high")
P_VALUES = ("p", "p_corrected", "p_bootstrap")


def to_csv(table: Table) -> str:
    """For a program: a line for each cell."""
    frame = to_frame(table)
    for names, shown in ((POINTS, partial(fixed, digits=4)), (P_VALUES, partial(significant_digits, digits=6))):
        for name in names:
            frame[name] = [shown(value) if value == value and value is not None else "" for value in frame[name]]
    return frame.to_csv(index=False, lineterminator="\n")


def to_frame(table: Table) -> DataFrame:
    """For a notebook: a line for each cell, with the columns of the CSV."""
    import pandas

    return pandas.DataFrame([_record(table, column, row) for column in table.columns for row in table.rows], columns=CSV_HEAD)


def _record(table: Table, column: str, row: str) -> dict[str, Any]:
    cell, one = table.cells[row, column], table.cells[row, column].comparison
    low, high = cell.interval or (None, None)
    measured = "measured" if cell.values else ""
    record = {
        "table": table.name,
        "data": column,
        "row": row,
        "figure": cell.figure,
        "mean": cell.mean,
        "std": cell.std,
        "low": low,
        "high": high,
        "paper": cell.paper,
        "difference": cell.difference,
        "seeds": len(cell.values),
        "miniature": cell.miniature,
        "permuted": cell.permuted,
        "leaky": cell.leaky,
        "origin": cell.origin.removeprefix("–") if table.sources else measured,
        "source": table.sources.get(row, ""),
        "section": table.sections.get(row, ""),
    }
    if one:
        points = [100 * value for value in (one.difference, *one.interval)]
        record |= dict(zip(("from_baseline", "from_baseline_low", "from_baseline_high"), points, strict=True))
        record |= {"test": one.test, "p": one.p, "p_corrected": one.corrected, "p_bootstrap": one.bootstrap_p}
        record["significant"] = one.significant
    return record


def to_latex(table: Table) -> str:
    """For a paper: booktabs; scaled to the line's width where graphicx is loaded."""
    above = {column: heads(table, column) for column in table.columns}
    source = ["Source"] if table.sources else []
    width = 1 + sum(map(len, above.values())) + len(source)
    top = [f"\\multicolumn{{{len(above[column])}}}{{c}}{{{_tex(table.heading(column))}}}" for column in table.columns]
    lines = [
        "% needs \\usepackage{booktabs}; with \\usepackage{graphicx} it is scaled to the line's width",
        "\\providecommand{\\resizebox}[3]{#3}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_tex(table.title)}}}",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * (width - 1 - len(source))}{'l' * len(source)}}}",
        "\\toprule",
        " & ".join(["Model", *top, *source]) + " \\\\",
    ]
    if not table.sources:
        start = 2
        for parts in above.values():
            lines.append(f"\\cmidrule(lr){{{start}-{start + len(parts) - 1}}}")
            start += len(parts)
        lines.append("".join(f" & {_tex(part)}" for parts in above.values() for part in parts) + " \\\\")
    for section, rows in table.parts():
        lines.append("\\midrule")
        lines += [f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{_tex(section)}}}}} \\\\"] if section else []
        lines += [latex_row(table, row) for row in rows]
    notes = "\\\\\n".join(_tex(note) for note in table.notes())
    lines += ["\\bottomrule", "\\end{tabular}}", "", "\\smallskip", "\\begin{minipage}{\\linewidth}\\footnotesize", notes]
    return "\n".join([*lines, "\\end{minipage}", "\\end{table}"]) + "\n"


def latex_row(table: Table, row: str) -> str:
    """A row's line."""
    return " & ".join(map(_tex, _words(table, row))) + " \\\\"


def _tex(text: str) -> str:
    text = plain(text)
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    special |= {"±": "$\\pm$", "λ": "$\\lambda$", "−": "$-$", "–": "--", "*": "$^{*}$", "<": "$<$", ">": "$>$"}
    special |= {"|": "\\textbar{}"}
    written = "".join(special.get(character, character) for character in text)
    # After the end of a line, LaTeX takes a bracket for a length.
    return f"{{[}}{written[1:]}" if written.startswith("[") else written


STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; }
thead tr:first-child th { text-align: center; }
thead tr:first-child th:first-child, th[scope=row], th[scope=rowgroup], th.source, td.source { text-align: left; }
th[scope=row] { font-weight: 500; }
th[scope=rowgroup] { font-style: italic; }
td span, th span { white-space: nowrap; }
thead { border-top: 2px solid; border-bottom: 1px solid; }
tbody { border-bottom: 1px solid var(--line); }
tbody tr:nth-child(even) { background: var(--soft); }
.significant { font-weight: 700; }
.notes { font-size: .9rem; padding-left: 1.2rem; overflow-wrap: anywhere; }
@media (max-width: 46rem) {
  body { margin: 1rem auto; }
  table, tbody, tr, th, td { display: block; }
  thead { display: none; }
  tbody tr { padding: .4rem 0; border-bottom: 1px solid var(--line); }
  th[scope=row], th[scope=rowgroup] { font-weight: 700; padding: .2rem .4rem; }
  td, td.source { display: flex; gap: 1rem; justify-content: space-between; padding: .1rem .4rem; text-align: right; }
  td::before { content: attr(data-label); opacity: .75; text-align: left; }
}
""".strip()
UNBROKEN = re.compile(r"[\d.]+ ± [\d.]+\*?|\[[^]]*\]|\([^)]*\)|λ = \d+")  # parts of a cell that stay on one line


def to_html(table: Table) -> str:
    """For a browser: one page without outside parts; on a phone every row becomes a card."""
    title = escape(table.title)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>",
            f"<style>\n{STYLE}\n</style></head>",
            f"<body>\n<main>\n<h1>{title}</h1>",
            html_table(table),
            "</main>\n</body>\n</html>\n",
        ]
    )


def html_table(table: Table) -> str:
    """The table and its notes as elements, for a page of its own or for a larger one."""
    many = len(heads(table, table.columns[0])) > 1
    span = ' rowspan="2"' if many else ""
    top = [f'<th scope="col"{span}>Model</th>']
    for column in table.columns:
        count = len(heads(table, column))
        top.append(f'<th scope="{"colgroup" if many else "col"}" colspan="{count}">{escape(table.heading(column))}</th>')
    top += ['<th scope="col" class="source">Source</th>'] if table.sources else []
    lines = ["<table>", f"<thead>\n<tr>{''.join(top)}</tr>"]
    if many:
        below = [part for column in table.columns for part in heads(table, column)]
        lines.append("<tr>" + "".join(f'<th scope="col">{escape(part)}</th>' for part in below) + "</tr>")
    lines.append("</thead>")
    width = 1 + sum(len(heads(table, column)) for column in table.columns) + bool(table.sources)
    for section, rows in table.parts():
        lines.append("<tbody>")
        lines += [f'<tr><th scope="rowgroup" colspan="{width}">{escape(section)}</th></tr>'] if section else []
        lines += [html_row(table, row) for row in rows]
        lines.append("</tbody>")
    notes = [f"<li>{escape(note)}</li>" for note in table.notes()]
    return "\n".join([*lines, "</table>", '<ul class="notes">', *notes, "</ul>"])


def html_row(table: Table, row: str) -> str:
    """A row's line."""
    words = [f'<th scope="row">{_html(table.labels[row])}</th>']
    for column in table.columns:
        cell, names = table.cells[row, column], _names(table, column)
        marks = [' class="significant"' if cell.significant else "", *[""] * (len(names) - 1)]
        for name, mark, text in zip(names, marks, _texts(table, cell), strict=True):
            words.append(f'<td data-label="{escape(name)}"{mark}><div>{_html(text)}</div></td>')
    if table.sources:
        words.append(f'<td class="source" data-label="Source"><div>{_html(table.sources[row])}</div></td>')
    return f"<tr>{''.join(words)}</tr>"


def _html(text: str) -> str:
    return UNBROKEN.sub(r"<span>\g<0></span>", escape(text))


FORMATS = {"md": to_markdown, "csv": to_csv, "tex": to_latex, "html": to_html}
ROW_LINES: dict[str, Callable[[Table, str], str]] = {"md": markdown_row, "tex": latex_row, "html": html_row}
"""By format, a row's line in it."""


def made_from(table: Table, folder: Path) -> str:
    """Which runs each measured number was made from, as JSON: for ``verify.py``.

    Args:
        table: the table.
        folder: where it is written; the runs' paths start there, so that both can be moved together.
    """
    cells = [
        {
            "data": column,
            "row": row,
            "runs": [
                {
                    "folder": Path(os.path.relpath(run.path.resolve(), folder.resolve())).as_posix(),
                    "seed": seed,
                    "predictions_sha256": run.predictions_sha256(),
                    "videos": run.about().get("data_fingerprint"),
                    "features": run.about().get("feature_fingerprint"),
                }
                for seed, run in table.cells[row, column].runs
            ],
        }
        for column in table.columns
        for row in table.rows
        if table.cells[row, column].runs
    ]
    return record_text(table.name, cells)


def record_text(name: str, cells: Iterable[dict[str, Any]]) -> str:
    """The record of a table of that name, from what it says of each cell."""
    return json.dumps({"table": name, "baseline": BASELINE, "cells": [*cells]}, indent=1, ensure_ascii=False) + "\n"


def write_table(table: Table, folder: Path) -> None:
    """Print a table and write it to ``table1.md``, ``.csv``, ``.tex``, ``.html``, and what it was made from to ``.json``."""
    print("\n" + to_text(table, terminal=sys.stdout.isatty() and not os.environ.get("NO_COLOR")), flush=True)
    folder, stem = folder.expanduser(), table.name.lower().replace(" ", "")
    try:
        for suffix, write in FORMATS.items():
            write_atomically(folder / f"{stem}.{suffix}", write(table))
        write_atomically(folder / f"{stem}.json", made_from(table, folder))
    except OSError as error:
        what = f"cannot write to {folder.resolve()} ({error}); make room or set paths.results, and run it again"
        raise fail(DataError(what)) from error
    print(f"written: {folder.resolve() / stem}" + ", ".join(f".{suffix}" for suffix in [*FORMATS, "json"]), flush=True)
