"""What the paper prints: Tables 1 and 2 (protocol §7), in percent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datamodules.reading import DataError, number, read_rows, whole_number
from reproduce.common.catalogue import ROWS

TABLE1_ROWS = tuple(ROWS)[:6]
TABLE1 = {
    "ucf11": (82.37, 82.56, 81.60, 84.96, 83.52, 81.44),
    "hmdb51": (33.46, 40.52, 37.58, 41.31, 40.98, 39.87),
    "hollywood2": (34.62, 43.19, 43.22, 43.91, 43.18, 42.92),
}
QUOTED = Path(__file__).resolve().parent / "quoted.csv"
QUOTED_COLUMNS = ("section", "row", "model", "hmdb51", "hollywood2", "authors", "title", "venue", "year")


def table1(data: str, row: str) -> float | None:
    """The paper's number for a data set and a row, or None where it has none."""
    return dict(zip(TABLE1_ROWS, TABLE1.get(data, ()), strict=False)).get(row)


@dataclass(frozen=True)
class Quoted:
    """A row of the paper's Table 2.

    Args:
        section: the data that the system sees, which is the table's part that it stands in.
        row: the suite's name of the system, as in ``row=``; empty where the suite cannot run it.
        model: the paper's name of it.
        printed: by data set, the number as the paper's Table 2 prints it.
        authors, title, venue, year: the publication that the paper names as the number's source.
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


def table2() -> list[Quoted]:
    """The rows of the paper's Table 2, from ``quoted.csv``.

    Raises:
        DataError: the file is damaged; names the line.
    """
    rows = []
    for line, row in read_rows(QUOTED, QUOTED_COLUMNS, QUOTED_COLUMNS):
        printed = {data: number(row[data]) for data in ("hmdb51", "hollywood2") if row[data]}
        year = whole_number(row["year"], 9999)
        numbers = {data: value for data, value in printed.items() if value is not None and 0 <= value <= 100}
        if year is None or len(numbers) < len(printed):
            raise DataError(f"{QUOTED}, line {line}: the year or a percentage is no number")
        system = row["section"], row["row"], row["model"]
        rows.append(Quoted(*system, numbers, row["authors"], row["title"], row["venue"], year))
    return rows
