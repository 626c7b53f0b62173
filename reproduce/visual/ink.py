"""What all figures share: fonts, colours that survive grey-scale and colour blindness, wrapped text, PNG and PDF files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context, rcParamsDefault
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
INK, SOFT = "#1c2026", "#5d6470"
# Okabe and Ito's palette, which stays apart for the colour-blind; every use has a marker, dash or sign of its own too.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
FONT = "DejaVu Sans"  # comes with matplotlib, and has λ, ✓ and ✗
STYLE: dict[Any, Any] = {
    **{key: value for key, value in rcParamsDefault.items() if key.startswith(("font.", "axes.", "text.", "lines.", "xtick."))},
    "font.family": FONT,
    "font.size": LABEL,
    "text.color": INK,
    "text.hinting": "none",  # so that lines are as wide as they were measured
    "text.parse_math": False,  # a $ in a class's name is a dollar
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "pdf.fonttype": 42,  # TrueType: text can be searched and copied
    "image.composite_image": False,
    "savefig.dpi": DPI,
}


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Width of one line in inches, with a little to spare."""
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
