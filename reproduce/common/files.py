"""CSV files that results are written to."""

from __future__ import annotations

import os
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


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder that another process may be writing."""
    total, folders = 0, [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as found:
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:  # renamed or removed since
            continue
    return total
