"""``history.csv``: the figures of every epoch of a run. Free of torch, so that reports read it at once."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

from datamodules.features import write_atomically


class History:
    """``history.csv``: a row an epoch, with every figure of it; survives a kill and an epoch done twice.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, Any]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self._rows = [
                    {key: _number(value) for key, value in row.items() if value != ""} for row in csv.DictReader(file)
                ]

    def rows(self, stage: str) -> list[dict[str, Any]]:
        """A stage's epochs in order."""
        return [row for row in self._rows if row["stage"] == stage]

    def epochs(self) -> list[dict[str, Any]]:
        """All epochs of all stages."""
        return list(self._rows)

    def resume(self, stage: str, epochs: int) -> list[dict[str, Any]]:
        """Forget a stage's epochs that its last checkpoint does not have behind it; returns the others."""
        self._rows = [row for row in self._rows if row["stage"] != stage or row["epoch"] < epochs]
        return self.rows(stage)

    def best(self, stage: str, goal: str) -> dict[str, Any]:
        """The epoch with the highest figure, the earliest of equals."""
        return max(self.rows(stage), key=lambda row: (row[goal], -row["epoch"]))

    def add(self, row: dict[str, Any]) -> None:
        """Append an epoch and write the file."""
        self._rows.append(row)
        columns = list(dict.fromkeys(key for row in self._rows for key in row))
        text = StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self.path, text.getvalue())


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text
