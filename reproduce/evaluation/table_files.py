"""A written table's CSV and its record of runs, read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.reading import number, parse_json, read_records, read_text
from datamodules.videos import DataError
from reproduce.evaluation.writers import CSV_HEAD, P_VALUES, POINTS

NUMERIC = (*POINTS, *P_VALUES, "seeds")
Record = dict[tuple[str, str], list[dict[str, Any]]]
"""By data and row, what a table's record says of each run."""


@dataclass(frozen=True)
class Line:
    """A line of a table's CSV.

    Args:
        number: in the file, from 1, where it begins.
        values: by column of the file, as written.
    """

    number: int
    values: dict[str, str]

    @property
    def key(self) -> tuple[str, str]:
        """Data and row."""
        return self.values["data"], self.values["row"]

    def numbers(self, *names: str) -> list[float]:
        """Those of some columns that are not empty."""
        return [float(self.values[name]) for name in names if self.values[name]]

    @property
    def ours(self) -> str:
        """``84.9 [82.1, 87.3]``, or the quoted number, or nothing."""
        mean, paper, low, high = (self.values[name] for name in ("mean", "paper", "low", "high"))
        bounds = f" [{float(low):.1f}, {float(high):.1f}]" if low and high else ""
        quoted = f"{float(paper):.1f} quoted" if paper and self.values["origin"] == "quoted" else "–"
        return f"{float(mean):.1f}{bounds}" if mean else quoted


def read_csv(path: Path) -> list[Line]:
    """The lines of a table's CSV.

    Raises:
        DataError: it is no such file, or a number is none or not finite; the line is named.
    """
    try:
        records = list(read_records(path))
    except DataError as error:
        raise DataError(f"{error}; make the table again") from error
    if not records or records[0][1] != CSV_HEAD:
        raise DataError(f"{path}, line 1: not the columns of a table of this version; make the table again")
    lines = []
    for begin, values in records[1:]:
        where = f"{path}, line {begin}"
        if len(values) != len(CSV_HEAD):
            raise DataError(f"{where}: expected {len(CSV_HEAD)} values, found {len(values)}; make the table again")
        line = Line(begin, dict(zip(CSV_HEAD, values, strict=True)))
        for name in NUMERIC:
            if line.values[name] and number(line.values[name]) is None:
                raise DataError(f"{where}: {name} is {line.values[name]!r}, which is no number; make the table again")
        lines.append(line)
    return lines


def read_record(path: Path) -> Record:
    """By data and row, the runs that a table names; nothing where there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    try:
        if not path.exists():
            return {}
        cells = parse_json(read_text(path))["cells"]
        found = {(cell["data"], cell["row"]): cell["runs"] for cell in cells}
        for key, runs in found.items():
            if not all(isinstance(name, str) for name in key):
                raise ValueError(f"'data' and 'row' of a cell are {key!r}")
            for run in runs:
                _check_run(run)
    except (DataError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error!r}); make the table again") from error
    return found


def _check_run(run: Mapping[str, Any]) -> None:
    kinds = {"folder": str, "seed": int, "predictions_sha256": str, "videos": str | None, "features": str | None}
    for name, kind in kinds.items():
        if not isinstance(run[name], kind) or isinstance(run[name], bool):
            raise ValueError(f"{name!r} of a run is {run[name]!r}")
    if "\0" in run["folder"]:
        raise ValueError(f"'folder' of a run is {run['folder']!r}")
