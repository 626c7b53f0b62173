"""``published.csv``: what the paper's Tables 1 and 2 print, one number a line with its publication, in percent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from datamodules.reading import DataError, number, read_rows, whole_number

PUBLISHED = Path(__file__).resolve().parent / "published.csv"
COLUMNS = ("table", "section", "row", "model", "data", "figure", "value", "authors", "title", "venue", "year")


@dataclass(frozen=True)
class Published:
    """A row of a table of the paper.

    Args:
        section: what the system sees, which is the part of Table 2 that it stands in; empty in Table 1.
        row: the suite's name of the system, as in ``row=``; empty where the suite cannot run it.
        model: a reader's name of it.
        printed: by data set, the number as the paper's table prints it.
        authors, title, venue, year: the publication that the paper names as the numbers' source.
    """

    section: str
    row: str
    model: str
    printed: dict[str, float]
    authors: str
    title: str
    venue: str
    year: int

    @property
    def key(self) -> str:
        """A name of the row that no other has."""
        return self.row or self.model

    @property
    def citation(self) -> str:
        """``Sun et al., CVPR 2014``."""
        names = self.authors.replace(" and ", ", ").split(", ")
        surnames = [" ".join(word for word in name.split() if not word.endswith(".")) for name in names]
        who = " and ".join(surnames) if len(surnames) < 3 else f"{surnames[0]} et al."
        when = f"({self.year})" if self.venue.startswith("arXiv") else f"{self.year}"
        return f"{who}, {self.venue} {when}"

    @property
    def reference(self) -> str:
        """The publication in full."""
        return f"{self.authors}: {self.title}{'' if self.title.endswith('?') else '.'} {self.venue}, {self.year}"


def table1(data: str, row: str) -> float | None:
    """The paper's number for a data set and a row, or None where it has none."""
    return next((one.printed.get(data) for one in _rows("1") if one.row == row), None)


def table2() -> list[Published]:
    """The rows of the paper's Table 2.

    Raises:
        DataError: ``published.csv`` is damaged; names the line.
    """
    return list(_rows("2"))


@cache
def _rows(table: str) -> tuple[Published, ...]:
    """The rows of a table, each with the numbers of all its lines."""
    found: dict[tuple[str, ...], Published] = {}
    for line, row in read_rows(PUBLISHED, COLUMNS, COLUMNS):
        value, year = number(row["value"]), whole_number(row["year"], 9999)
        if year is None or value is None or not 0 <= value <= 100:
            raise DataError(f"{PUBLISHED}, line {line}: the year or the percentage is no number")
        if row["table"] == table:
            system, source = (row["section"], row["row"], row["model"]), (row["authors"], row["title"], row["venue"])
            one = found.setdefault((*system, *source, row["year"]), Published(*system, {}, *source, year))
            one.printed[row["data"]] = value
    return tuple(found.values())
