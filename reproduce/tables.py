"""Cells from run folders, and the same table as terminal text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import statistics as python_statistics
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from datamodules.features import write_atomically
from reproduce import paper
from reproduce.runs import Predictions, RunFolder
from reproduce.uncertainty import interval

MINIATURE_TITLE = "on MINIATURE data: generated stand-ins, a demonstration and no benchmark"


@dataclass(frozen=True)
class Cell:
    """One number of a table, in percent.

    Args:
        figure: ``acc`` or ``mAP``.
        values: one a seed.
        interval: 95 % interval of their mean, or None without a finished run.
        paper: what the paper prints, or None.
        notes: what has to be said of the data and features.
        focus: mean attention mass in the actor's box over the box's share of the frame, where it was measured.
        miniature: whether the data are generated stand-ins.
        data: the data set's name, for a reader.
    """

    figure: str
    values: tuple[float, ...]
    interval: tuple[float, float] | None
    paper: float | None
    notes: tuple[str, ...] = ()
    focus: float | None = None
    miniature: bool = False
    data: str = ""

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

    def ours(self) -> str:
        """``84.9 ± 0.4``, or ``84.9`` for one seed, or ``–`` without a finished run."""
        if self.mean is None:
            return "–"
        return f"{self.mean:.1f}" + (f" ± {self.std:.1f}" if self.std is not None else "")

    def bounds(self) -> str:
        """``[82.1, 87.3]``."""
        return f"[{self.interval[0]:.1f}, {self.interval[1]:.1f}]" if self.interval else "–"


@dataclass(frozen=True)
class Table:
    """A table of rows (models) and columns (data sets).

    Args:
        name: ``Table 1``.
        rows: names of the rows, as in ``rows=``.
        columns: names of the data sets, as in ``datasets=``.
        cells: by (row, column).
    """

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]

    @property
    def title(self) -> str:
        """The table's name, and that the data are miniature ones where they are."""
        miniature = any(cell.miniature for cell in self.cells.values())
        return f"{self.name} {MINIATURE_TITLE}" if miniature else self.name

    def heading(self, column: str) -> str:
        """Data set and figure of a column."""
        cell = next((cell for row in self.rows if (cell := self.cells[row, column]).values), self.cells[self.rows[0], column])
        return f"{cell.data or column} ({cell.figure} %)"

    def notes(self) -> list[str]:
        """What has to be said under the table, each once."""
        said = dict.fromkeys(note for cell in self.cells.values() for note in cell.notes)
        seeds = sorted({len(cell.values) for cell in self.cells.values()})
        counts = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        notes = [
            f"Ours: mean over {counts} seed{'s' if seeds[-1] != 1 else ''}"
            + (", ± their standard deviation" if seeds[-1] > 1 else "")
            + "; in brackets the 95 % bootstrap interval over test videos (whole groups of them for UCF-11 and video folders).",
            *(f"{note}." for note in said),
        ]
        for column in self.columns:
            focus = [
                f"{paper.ROW_NAMES[row].removeprefix('Soft attention model, ')} {cell.focus:.2f}"
                for row in self.rows
                if (cell := self.cells[row, column]).focus is not None
            ]
            if focus:
                notes.append(
                    f"{self.heading(column).rsplit(' (', 1)[0]}: attention inside the actor's box over the box's share of "
                    f"the frame (uniform attention has 1): {', '.join(focus)}."
                )
        if self.title != self.name:
            notes.append("The differences from the paper compare different data and mean nothing here.")
        return notes


def cell_of(data: str, row: str, folders: Sequence[RunFolder]) -> Cell:
    """A cell from the finished runs of its seeds."""
    reference = paper.table1(data, row)
    figure = "mAP" if data == "hollywood2" else "acc"
    if not folders:
        return Cell(
            figure, (), None, reference, ("– marks cells without a finished run",), data=paper.DATA_NAMES.get(data, data)
        )
    abouts = [folder.about() for folder in folders]
    about = abouts[0]
    multi_label = bool(about["multi_label"])
    figure = "mAP" if multi_label else "acc"
    metrics = [folder.metrics() or {} for folder in folders]
    key = "test/mAP" if multi_label else "test/accuracy"
    predictions: list[Predictions] = [folder.predictions() for folder in folders]
    by_group = data in ("ucf11", "videofolder")
    groups = [about["groups"][name] if by_group else name for name in predictions[0].videos]
    low, high = interval(predictions, multi_label, groups)
    name = paper.DATA_NAMES.get(data) or str(about["data"])
    sizes = f"{about['train_videos']} train and {about['test_videos']} test videos"
    notes = [f"{name}: {sizes}, split {about['split']}"]
    notes += [note for other in abouts for note in other["notes"]]
    if about["stride"] != 1:
        notes.append(f"{data}: blocks at stride {about['stride']}, the paper's is 1")
    focus = [m["test/attention_in_box"] / m["test/box_area"] for m in metrics if "test/attention_in_box" in m]
    return Cell(
        figure,
        tuple(100 * m[key] for m in metrics),
        (100 * low, 100 * high),
        reference,
        tuple(notes),
        python_statistics.fmean(focus) if focus else None,
        bool(about["miniature"]),
        name,
    )


def _difference(cell: Cell) -> str:
    return "–" if cell.difference is None else f"{cell.difference:+.1f}".replace("-", "−")


def _paper(cell: Cell) -> str:
    return "–" if cell.paper is None else f"{cell.paper:.2f}"


def to_text(table: Table) -> str:
    """For a terminal: a block for each data set."""
    lines = [table.title, "=" * len(table.title)]
    width = max(len(paper.ROW_NAMES[row]) for row in table.rows)
    for column in table.columns:
        lines += [
            "",
            f"{table.heading(column):<{width}}  {'ours':>12}  {'95 % interval':>14}  {'paper':>6}  {'diff.':>6}  seeds",
        ]
        for row in table.rows:
            cell = table.cells[row, column]
            lines.append(
                f"{paper.ROW_NAMES[row]:<{width}}  {cell.ours():>12}  {cell.bounds():>14}  {_paper(cell):>6}  "
                f"{_difference(cell):>6}  {len(cell.values):>5}"
            )
    return "\n".join([*lines, "", *(f"* {note}" for note in table.notes())]) + "\n"


def to_markdown(table: Table) -> str:
    """For a repository page: two columns for each data set."""
    head = ["Model"]
    for column in table.columns:
        head += [f"{table.heading(column)}: ours [95 % interval]", "paper (difference)"]
    lines = [f"## {table.title}", "", _bars(head), _bars(["---"] * len(head))]
    for row in table.rows:
        line = [paper.ROW_NAMES[row]]
        for column in table.columns:
            cell = table.cells[row, column]
            line += [f"{cell.ours()} {cell.bounds()}", f"{_paper(cell)} ({_difference(cell)})"]
        lines.append(_bars(line))
    return "\n".join([*lines, "", *(f"* {note}" for note in table.notes())]) + "\n"


def _bars(words: Sequence[str]) -> str:
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"


def to_csv(table: Table) -> str:
    """For a program: a line for each cell."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["table", "data", "row", "figure", "mean", "std", "low", "high", "paper", "difference", "seeds", "miniature"]
    )
    for column in table.columns:
        for row in table.rows:
            cell = table.cells[row, column]
            low, high = cell.interval or (None, None)
            numbers = [cell.mean, cell.std, low, high, cell.paper, cell.difference]
            written = ["" if number is None else f"{number:.4f}" for number in numbers]
            writer.writerow([table.name, column, row, cell.figure, *written, len(cell.values), cell.miniature])
    return text.getvalue()


def to_latex(table: Table) -> str:
    """For a paper: booktabs."""
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_tex(table.title)}}}",
        f"\\begin{{tabular}}{{l{'rr' * len(table.columns)}}}",
        "\\toprule",
        "Model" + "".join(f" & \\multicolumn{{2}}{{c}}{{{_tex(table.heading(column))}}}" for column in table.columns) + " \\\\",
        "" + " & ours & paper" * len(table.columns) + " \\\\",
        "\\midrule",
    ]
    for row in table.rows:
        line = [_tex(paper.ROW_NAMES[row])]
        for column in table.columns:
            cell = table.cells[row, column]
            line += [_tex(f"{cell.ours()} {cell.bounds()}"), _tex(_paper(cell))]
        lines.append(" & ".join(line) + " \\\\")
    notes = "\\\\\n".join(_tex(note) for note in table.notes())
    lines += [
        "\\bottomrule",
        "\\end{tabular}",
        "",
        "\\smallskip",
        "\\begin{minipage}{\\linewidth}\\footnotesize",
        notes,
    ]
    return "\n".join([*lines, "\\end{minipage}", "\\end{table}"]) + "\n"


def _tex(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    special |= {"±": "$\\pm$", "λ": "$\\lambda$", "−": "$-$", "–": "--"}
    return "".join(special.get(character, character) for character in text)


def write_table(table: Table, folder: Path) -> None:
    """Print a table and write ``table1.md``, ``.csv`` and ``.tex``."""
    print("\n" + to_text(table), flush=True)
    stem = table.name.lower().replace(" ", "")
    for suffix, text in {"md": to_markdown(table), "csv": to_csv(table), "tex": to_latex(table)}.items():
        write_atomically(folder / f"{stem}.{suffix}", text)
    print(f"written: {folder.resolve() / stem}.md, .csv, .tex", flush=True)
