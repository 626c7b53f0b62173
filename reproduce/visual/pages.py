"""Pages of figures for print: rows of pictures under captions, wrapped text, and their PNG and PDF files.

A page is as wide as a sheet of paper without its margins and at most as high; clips that do not fit go on another page.
A clip is correct (✓), incorrect (✗) or neither, which its mark says in shape and colour.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from datamodules.videos import DataError

DPI = 200  # of PNG files, and of pictures in PDF files
WIDTH = 7.0  # inches, a page of A4 or letter paper without its margins
TITLE, CAPTION, LABEL, NOTE = 10.0, 8.0, 7.5, 7.0  # pt; 7 is what print still carries
LEADING = 1.3  # line height over font size
POINTS = 72.0  # in an inch
SPARE = 1.015  # a drawn line's width over its measured one, at most as seen
TEXT, MUTED = "#1c2026", "#5d6470"
# Of Okabe and Ito's palette, which stays apart for the colour-blind; every use has a marker, dash or sign of its own too.
BLUE, VERMILION = "#0072B2", "#D55E00"
FONT = "DejaVu Sans"  # comes with matplotlib, and has λ, ✓ and ✗
STYLE: dict[Any, Any] = {
    **{key: value for key, value in rcParamsDefault.items() if key.startswith(("font.", "axes.", "text.", "lines.", "xtick."))},
    "font.family": FONT,
    "font.size": LABEL,
    "text.color": TEXT,
    "text.hinting": "none",  # so that lines are as wide as they were measured
    "text.parse_math": False,  # a $ in a class's name is a dollar
    "axes.edgecolor": MUTED,
    "axes.labelcolor": TEXT,
    "pdf.fonttype": 42,  # TrueType: text can be searched and copied
    "image.composite_image": False,
    "savefig.dpi": DPI,
}

HEIGHT = 9.6  # inches that a page has at most
LARGEST = 1.3  # inches, side of a picture where there is room
SMALLEST = 0.3  # inches, below which pictures of a clip of very many rows do not shrink
MOST_LABEL = 0.95  # inches, width of a row's label before it is wrapped
SMALLER = (0.95, 0.9, 0.85, 0.8, 0.75)  # scales of pictures that are tried for all clips to go on one page
GAP = 0.03  # inches between pictures
BETWEEN = 0.16  # inches between clips, and around title and notes
EDGE = 0.05  # inches around a page
MARKS = {True: ("✓", BLUE), False: ("✗", VERMILION)}


@dataclass(frozen=True)
class Strip:
    """One clip: rows of pictures under a caption.

    Args:
        caption: such as ``v_shooting_05_01 · true: basketball · predicted: diving (0.61)``.
        rows: of each its label, such as ``frames`` or ``λ = 0``, with line feeds where it has to break, and its n pictures
            (H, W, 3) uint8.
        columns: labels of the n columns, such as ``0.2 s``; none for none.
        good: whether the clip was classified correctly; None where that does not apply.
    """

    caption: str
    rows: tuple[tuple[str, Sequence[np.ndarray]], ...]
    columns: tuple[str, ...] = ()
    good: bool | None = None

    def __post_init__(self) -> None:
        counts = {len(pictures) for _, pictures in self.rows}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"{self.caption}: every row needs as many pictures as the others, and at least one")
        if self.columns and len(self.columns) not in counts:
            raise ValueError(f"{self.caption}: {len(self.columns)} column labels for {counts.pop()} columns")


def evenly(number: int, columns: int) -> np.ndarray:
    """Indices of at most ``columns`` evenly spaced ones among ``number``, the first and the last among them."""
    return np.unique(np.linspace(0, number - 1, min(number, columns)).round().astype(np.int64))


def save_strips(strips: Sequence[Strip], path: Path, title: str, notes: Sequence[str] = ()) -> list[Path]:
    """Write clips as ``<path>.pdf`` and ``<path>.png``, further pages as ``<path>.2.png`` and so on.

    Args:
        strips: the clips in order.
        path: without suffix; its folder is made.
        title: stands above the clips of every page.
        notes: stand under the clips of the last page.

    Returns:
        The files written.

    Raises:
        ValueError: there is no clip.
        DataError: the folder cannot be written to.
    """
    if not strips:
        raise ValueError(f"{path}: no clip to draw")
    inner = WIDTH - 2 * EDGE
    heading = wrap(title, inner - text_width("99 / 99", NOTE) - 2 * GAP, TITLE, bold=True)
    below = [line for note in notes for line in wrap(note, inner, NOTE)]
    above = EDGE + len(heading) * line_height(TITLE) + BETWEEN
    after = (BETWEEN / 2 + len(below) * line_height(NOTE) if below else 0) + EDGE
    room = HEIGHT - above - after
    laid = [_Layout(strip, inner, room) for strip in strips]
    for scale in SMALLER:
        if sum(layout.height + BETWEEN for layout in laid) <= room + BETWEEN:
            break
        smaller = [_Layout(strip, inner, room, scale) for strip in strips]
        if sum(layout.height + BETWEEN for layout in smaller) <= room + BETWEEN:
            laid = smaller
    pages: list[list[_Layout]] = [[]]
    for layout in laid:
        if pages[-1] and above + sum(other.height + BETWEEN for other in [*pages[-1], layout]) + after > HEIGHT:
            pages.append([])
        pages[-1].append(layout)
    with rc_context(STYLE):
        figures = []
        for number, page in enumerate(pages, start=1):
            last = number == len(pages)
            height = above + sum(layout.height + BETWEEN for layout in page) - BETWEEN + (after if last else EDGE)
            figure, axes = _sheet(height)
            top = EDGE
            for line in heading:
                axes.text(EDGE, top, line, size=TITLE, weight="bold", va="top")
                top += line_height(TITLE)
            if len(pages) > 1:
                axes.text(WIDTH - EDGE, EDGE, f"{number} / {len(pages)}", size=NOTE, color=MUTED, ha="right", va="top")
            top = above
            for layout in page:
                layout.draw(axes, top)
                top += layout.height + BETWEEN
            top -= BETWEEN / 2
            for line in below if last else ():
                axes.text(EDGE, top, line, size=NOTE, color=MUTED, va="top")
                top += line_height(NOTE)
            figures.append(figure)
    return save_pages(figures, path)


def _sheet(height: float) -> tuple[Figure, Axes]:
    """An empty page whose coordinates are inches from the upper left corner."""
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0), autoscale_on=False)
    axes.axis("off")
    return figure, axes


class _Layout:
    """Where the parts of one clip go, in inches.

    Args:
        strip: the clip.
        inner: width that it may fill.
        most: height that it may fill.
        scale: of the pictures, at most 1.
    """

    def __init__(self, strip: Strip, inner: float, most: float, scale: float = 1.0) -> None:
        self.strip = strip
        self.indent = text_width("✓ ", CAPTION) if strip.good is not None else 0.0
        self.caption = wrap(strip.caption, inner - self.indent, CAPTION)
        self.labels = [
            [part for line in label.split("\n") for part in wrap(line, MOST_LABEL, LABEL)] for label, _ in strip.rows
        ]
        widest = max((text_width(line, LABEL) for lines in self.labels for line in lines), default=0.0)
        self.left = EDGE + (widest + 2 * GAP if widest else 0.0)
        number = len(strip.rows[0][1])
        aspects = [max(picture.shape[0] / picture.shape[1] for picture in row) for _, row in strip.rows]  # height over width
        around = len(self.caption) * line_height(CAPTION) + (line_height(LABEL) if strip.columns else 0) + 2 * GAP
        by_width = min((inner + EDGE - self.left - (number - 1) * GAP) / number, LARGEST / max(1.0, *aspects))
        by_height = (most - around - len(aspects) * GAP) / sum(aspects)
        self.cell_width = max(min(scale * by_width, by_height), min(by_width, SMALLEST))
        self.cell_heights = [self.cell_width * aspect for aspect in aspects]
        self.height = around + sum(height + GAP for height in self.cell_heights) - GAP

    def draw(self, axes: Axes, top: float) -> None:
        """Draw the clip from a height on."""
        strip = self.strip
        if strip.good is not None:
            mark, colour = MARKS[strip.good]
            axes.text(EDGE, top, mark, size=CAPTION, color=colour, weight="bold", va="top")
        for line in self.caption:
            axes.text(EDGE + self.indent, top, line, size=CAPTION, va="top")
            top += line_height(CAPTION)
        top += GAP
        for lines, (_, pictures), height in zip(self.labels, strip.rows, self.cell_heights, strict=True):
            label = "\n".join(lines)
            axes.text(self.left - 2 * GAP, top + height / 2, label, size=LABEL, color=TEXT, ha="right", va="center")
            for column, picture in enumerate(pictures):
                self._place(axes, picture, self._x(column), top, height)
            top += height + GAP
        every = self._every()
        for column, label in enumerate(strip.columns):
            if column % every == 0:
                axes.text(self._x(column) + self.cell_width / 2, top, label, size=LABEL, color=MUTED, ha="center", va="top")

    def _x(self, column: int) -> float:
        return self.left + column * (self.cell_width + GAP)

    def _every(self) -> int:
        """Every how many columns there is room for a label."""
        widest = max((text_width(label, LABEL) for label in self.strip.columns), default=0.0)
        return max(1, int(np.ceil((widest + GAP) / (self.cell_width + GAP))))

    def _place(self, axes: Axes, picture: np.ndarray, left: float, top: float, room: float) -> None:
        """A picture as large as its cell lets it be, in the cell's middle."""
        height, width = picture.shape[:2]
        scale = min(self.cell_width / width, room / height)
        left += (self.cell_width - scale * width) / 2
        top += (room - scale * height) / 2
        axes.imshow(picture, extent=(left, left + scale * width, top + scale * height, top), aspect="auto")


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Measure the width of one line in inches, with a little to spare."""
    font = FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] * SPARE / POINTS


def line_height(size: float) -> float:
    """Inches that a line of text takes."""
    return size * LEADING / POINTS


def wrap(text: str, width: float, size: float, bold: bool = False) -> list[str]:
    """Break a text into lines that fit: at spaces that may break, in words too long for a line after / _ - . or else anywhere.

    Args:
        text: the text.
        width: of a line, in inches.
        size: of the font, in pt.
        bold: whether the font is.
    """
    lines = [""]
    for piece in re.findall(r"[^ \n]+[ \n]*", text):
        if text_width(lines[-1] + piece.rstrip(), size, bold) <= width:
            lines[-1] += piece
            continue
        parts = [piece] if text_width(piece.rstrip(), size, bold) <= width else re.findall(r"[^/_.\-]*[/_.\-\s]*", piece)
        if len(parts) == 1:
            lines.append("")
        for part in parts:
            letters = [part] if text_width(part.rstrip(), size, bold) <= width else list(part)
            for letter in letters:
                if lines[-1] and text_width(lines[-1] + letter.rstrip(), size, bold) > width:
                    lines.append("")
                lines[-1] += letter
    return [line.rstrip() for line in lines if line.strip()]


def titled_page(title: str, notes: Sequence[str], inner: float) -> tuple[Figure, float, float]:
    """Make a page with a title above and notes below; in between is room for panels.

    Args:
        title: above.
        notes: below, one after the other.
        inner: inches between them.

    Returns:
        The page, and the inches that title and notes take.
    """
    heading = wrap(title, WIDTH - 0.1, TITLE, bold=True)
    below = [line for note in notes for line in wrap(note, WIDTH - 0.1, NOTE)]
    top, bottom = 0.1 + len(heading) * line_height(TITLE), 0.1 + len(below) * line_height(NOTE)
    height = top + inner + bottom
    page = Figure(figsize=(WIDTH, height), facecolor="white")
    for number, line in enumerate(heading):
        page.text(0.05 / WIDTH, 1 - (0.05 + number * line_height(TITLE)) / height, line, size=TITLE, weight="bold", va="top")
    for number, line in enumerate(below):
        y = (bottom - 0.05 - number * line_height(NOTE)) / height
        page.text(0.05 / WIDTH, y, line, size=NOTE, color=MUTED, va="top")
    return page, top, bottom


def save_pages(pages: Sequence[Figure], path: Path) -> list[Path]:
    """Write pages as ``<path>.pdf`` and, one file each, ``<path>.png``, ``<path>.2.png``, …; the same bytes each time.

    Pictures of earlier, longer versions are removed.

    Args:
        pages: made under ``STYLE``.
        path: without suffix.

    Raises:
        DataError: the folder cannot be written to.
    """
    files = [path.with_name(f"{path.name}{'' if page == 1 else f'.{page}'}.png") for page in range(1, len(pages) + 1)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with rc_context(STYLE):
            for file, page in zip(files, pages, strict=True):
                picture = BytesIO()
                page.savefig(picture, format="png", dpi=DPI, metadata={"Software": None})
                _write(file, picture.getvalue())
            book = BytesIO()
            with PdfPages(book, metadata={"CreationDate": None}) as pdf:
                for page in pages:
                    pdf.savefig(page, dpi=DPI)
            _write(path.with_name(f"{path.name}.pdf"), book.getvalue())
        for old in path.parent.iterdir():
            if old not in files and re.fullmatch(rf"{re.escape(path.name)}\.\d+\.png", old.name):
                old.unlink()
    except OSError as error:
        raise DataError(f"cannot write {path}.png ({error}); set paths.results") from error
    return [*files, path.with_name(f"{path.name}.pdf")]


def _write(path: Path, data: bytes) -> None:
    """All of a file or nothing."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.replace(path)
