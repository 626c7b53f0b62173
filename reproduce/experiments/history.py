"""``history.csv``: the figures of every epoch of a run. Free of torch, so that reports read it at once."""

from __future__ import annotations

import csv
import math
from io import StringIO
from pathlib import Path
from typing import Any

from datamodules.files import write_atomically
from datamodules.reading import DataError, read_text


class History:
    """``history.csv``: a row an epoch, with every figure of it; survives a kill and an epoch done twice.

    Args:
        path: the file.

    Raises:
        DataError: it is damaged; names the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, Any]] = []
        if path.is_file():
            again = f"remove {path.parent.resolve()} to run it again"
            try:
                text = read_text(path.resolve())
            except DataError as error:
                raise DataError(f"{error}; {again}") from error
            reader = csv.DictReader(StringIO(text, newline=""), strict=True)
            try:
                for row in reader:
                    self._rows.append(_parsed(row))
            except (ValueError, csv.Error) as error:
                raise DataError(f"{path.resolve()}, line {reader.line_num}: damaged ({error}); {again}") from error

    def rows(self, stage: str) -> list[dict[str, Any]]:
        """A stage's epochs in order."""
        return [row for row in self._rows if row["stage"] == stage]

    def epochs(self) -> list[dict[str, Any]]:
        """All epochs of all stages."""
        return list(self._rows)

    def resume(self, stage: str, epochs: int) -> list[dict[str, Any]]:
        """Forget a stage's epochs that its last checkpoint does not have behind it; returns the others.

        Raises:
            DataError: an epoch that it has behind it is not there: the best one may be among those.
        """
        self._rows = [row for row in self._rows if row["stage"] != stage or row["epoch"] < epochs]
        rows = self.rows(stage)
        if [row["epoch"] for row in rows] != list(range(epochs)):
            raise DataError(
                f"{self.path.resolve()}: has epochs {[row['epoch'] for row in rows]} of {stage}, its checkpoint {epochs} of "
                f"them; remove {self.path.parent.resolve()} to run it again"
            )
        return rows

    def best(self, stage: str, goal: str) -> dict[str, Any]:
        """The epoch with the highest figure, the earliest of equals.

        Raises:
            DataError: an epoch has no such figure.
        """
        for row in self.rows(stage):
            if goal not in row:
                again = f"remove {self.path.parent.resolve()} to run it again"
                raise DataError(f"{self.path.resolve()}: epoch {row['epoch']} of {stage} has no {goal}; {again}")
        return max(self.rows(stage), key=lambda row: (row[goal], -row["epoch"]))

    def add(self, row: dict[str, Any], write: bool = True) -> None:
        """Append an epoch; write the file, which one process of a run does."""
        self._rows.append(row)
        if not write:
            return
        columns = list(dict.fromkeys(key for row in self._rows for key in row))
        text = StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self.path, text.getvalue())


def _parsed(row: dict[str | None, Any]) -> dict[str, Any]:
    """A line's values: ``stage``, ``epoch`` and figures.

    Raises:
        ValueError: says what is wrong.
    """
    if None in row or None in row.values():
        raise ValueError("not as many values as the first line has names")
    found = {str(key): _number(value) for key, value in row.items() if value != ""}
    if not isinstance(found.get("stage"), str) or not isinstance(found.get("epoch"), int):
        raise ValueError("no stage, or no number of an epoch")
    if "train/loss" not in found:
        raise ValueError("no train/loss")
    words = [key for key, value in found.items() if key != "stage" and isinstance(value, str)]
    words += [key for key, value in found.items() if isinstance(value, float) and not math.isfinite(value)]
    if words:
        raise ValueError(f"{words[0]} is {found[words[0]]!r}, not a finite number")
    return found


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text
