"""CSV files that results are written to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datamodules.features import write_atomically
from datamodules.reading import csv_text
from datamodules.videos import DataError


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, header first, as a whole or not at all; makes its folder.

    Raises:
        DataError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, csv_text(rows))
    except OSError as error:
        raise DataError(f"cannot write {path.resolve()} ({error}); make room or set paths.results") from error
