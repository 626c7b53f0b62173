"""What a network saw and said of every frame it looked at, as CSV and JSON, written and read line by line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reproduce.experiments.attention_files import Moment

DIGITS = 7  # significant ones; a float32 has no more
FEW = 24  # most intervals of a timeline


class FrameTable:
    """Two files that grow by a line a frame.

    ``<stem>.csv`` has the columns ``frame``, ``seconds``, ``top`` (the likeliest classes joined by ``|``), a column a class,
    and ``alpha_<row>_<column>`` of every cell from the upper left one. ``<stem>.json`` is one object: what was given as
    ``about``, then ``frames``, a list of objects.

    Args:
        stem: of the files, without suffix.
        about: facts for the JSON file.
        classes: their names by id.
        grid: rows and columns of the attention; None for a network without.
        top: classes to name.
    """

    def __init__(
        self, stem: Path, about: dict[str, Any], classes: Sequence[str], grid: tuple[int, int] | None, top: int
    ) -> None:
        self.classes, self.top = classes, top
        self._csv = stem.with_name(f"{stem.name}.csv").open("w", newline="", encoding="utf-8")
        self._json = stem.with_name(f"{stem.name}.json").open("w", encoding="utf-8")
        cells = [f"alpha_{row}_{column}" for row in range(grid[0]) for column in range(grid[1])] if grid else []
        self._writer = csv.writer(self._csv, lineterminator="\n")
        self._writer.writerow(["frame", "seconds", "top", *classes, *cells])
        self._json.write(json.dumps(about, ensure_ascii=False)[:-1] + ', "frames": [')
        self._between = "\n"

    def append(self, moment: Moment) -> None:
        """Add a frame."""
        likeliest = [self.classes[label] for label in ranked(moment.probabilities, self.top)]
        probabilities = _rounded(moment.probabilities)
        cells = [] if moment.attention is None else _rounded(moment.attention.ravel())
        seconds = round(moment.seconds, 6)
        self._writer.writerow([moment.frame, seconds, "|".join(likeliest), *probabilities, *cells])
        columns = 0 if moment.attention is None else moment.attention.shape[1]
        record = {
            "frame": moment.frame,
            "seconds": seconds,
            "top": likeliest,
            "probabilities": probabilities,
            "attention": [cells[begin : begin + columns] for begin in range(0, len(cells), columns)] if cells else None,
        }
        self._json.write(self._between + json.dumps(record, ensure_ascii=False))
        self._between = ",\n"

    def close(self, complete: bool = True) -> None:
        """End both files; the JSON file is valid only if they are complete."""
        if complete:
            self._json.write("\n]}\n")
        self._json.close()
        self._csv.close()


def read_moments(path: Path, classes: int, grid: tuple[int, int] | None) -> Iterator[Moment]:
    """What a ``FrameTable`` of that many classes wrote as CSV, one frame at a time."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        next(reader)
        for frame, seconds, _, *figures in reader:
            values = np.asarray(figures, dtype=np.float32)
            attention = values[classes:].reshape(grid) if grid else None
            yield Moment(int(frame), float(seconds), values[:classes], attention)


class Timeline:
    """Mean class probabilities of intervals of one length, at most ``FEW`` of them: of 1 s, or 2, 4, 8 … in a longer film."""

    def __init__(self) -> None:
        self.length = 1.0
        self._sums: dict[int, tuple[int, np.ndarray]] = {}

    def append(self, moment: Moment) -> None:
        """Add a frame."""
        while (number := int(moment.seconds // self.length)) >= FEW:
            self.length *= 2
            earlier, self._sums = self._sums, {}
            for interval, (count, total) in earlier.items():
                self._add(interval // 2, count, total)
        self._add(number, 1, moment.probabilities.astype(np.float64))

    def _add(self, interval: int, count: int, total: np.ndarray) -> None:
        before = self._sums.get(interval)
        self._sums[interval] = (count, total) if before is None else (before[0] + count, before[1] + total)

    def intervals(self) -> list[tuple[float, float, np.ndarray]]:
        """Begin and end in seconds, and (C,) mean probabilities, of each interval in which a frame lies."""
        return [
            (interval * self.length, (interval + 1) * self.length, total / count)
            for interval, (count, total) in sorted(self._sums.items())
        ]


def ranked(probabilities: np.ndarray, top: int) -> list[int]:
    """Ids of the likeliest classes, the likeliest first; of equal ones the lower id."""
    return np.argsort(-probabilities, kind="stable")[:top].tolist()


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
