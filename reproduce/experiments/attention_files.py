"""``attention.csv`` of a run folder: what the test measured of each video's attention, a line a video.

Columns: ``video``; how many ``blocks``, ``steps``, ``moves`` from a step to the next and ``boxed_steps`` were measured; and
the figures of ``lightning_modules.measures``, each the mean over the video's blocks, steps, moves or boxed steps; empty
where there was none. A figure of the whole set is the mean weighted by these counts. Free of torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.features import write_atomically
from datamodules.reading import DataError, csv_text, number, read_records, whole_number
from reproduce.experiments.folder import AGAIN

PER_BLOCK = ("attention_coverage_spread", "attention_penalty")
PER_BOX = ("attention_in_box", "box_area", "pointing_game", "pointing_chance")
COUNTS: tuple[str, ...] = ("blocks", "steps", "moves", "boxed_steps")
MOST = 2**53  # of a count


def counted_in(name: str) -> str:
    """The column that says how many of them a figure is a mean over."""
    if name in PER_BLOCK:
        return "blocks"
    return "moves" if name == "attention_shift" else "boxed_steps" if name in PER_BOX else "steps"


def write_attended(
    path: Path,
    videos: Sequence[str],
    names: Sequence[str],
    sums: Sequence[Sequence[float]],
    counts: Sequence[Sequence[int]],
) -> None:
    """Write the file.

    Args:
        path: of the file.
        videos: V names.
        names: of M figures.
        sums: (V, M) over each video's blocks, steps, moves or boxed steps.
        counts: (V, M) how many of them.
    """
    rows: list[list[object]] = [["video", *COUNTS, *names]]
    for video, total, count in zip(videos, sums, counts, strict=True):
        most = [max(n for name, n in zip(names, count, strict=True) if counted_in(name) == column) for column in COUNTS]
        means = [repr(one / n) if n else "" for one, n in zip(total, count, strict=True)]
        rows.append([video, *most, *means])
    write_atomically(path, csv_text(rows))


def read_attended(path: Path) -> tuple[dict[str, int], dict[str, float]]:
    """The videos, each with its line, and by figure the mean over the whole set; figures that no video has are left out.

    Raises:
        DataError: the file is missing or malformed, or a video stands in it twice; names the line.
    """
    records = read_records(path)
    line, head = next(records, (1, []))
    names = head[1 + len(COUNTS) :]
    if head[: 1 + len(COUNTS)] != ["video", *COUNTS] or not names or len(set(names)) < len(names):
        raise DataError(f"{path}, line {line}: expected video,{','.join(COUNTS)} and a column a figure; {AGAIN}")
    videos: dict[str, int] = {}
    parts: dict[str, list[tuple[float, int]]] = {name: [] for name in names}
    for line, row in records:
        try:
            if len(row) != len(head):
                raise ValueError(f"{len(row)} values instead of {len(head)}")
            if videos.setdefault(row[0], line) != line:
                raise ValueError(f"{row[0]!r} stands in line {videos[row[0]]} already")
            counts = dict(zip(COUNTS, (_count(text) for text in row[1 : 1 + len(COUNTS)]), strict=True))
            for name, text in zip(names, row[1 + len(COUNTS) :], strict=True):
                if text:
                    parts[name].append((_finite(text), counts[counted_in(name)]))
        except ValueError as error:
            raise DataError(f"{path}, line {line}: malformed ({error}); {AGAIN}") from None
    totals = {name: sum(count for _, count in found) for name, found in parts.items()}
    return videos, {
        name: math.fsum(mean * count for mean, count in found) / totals[name] for name, found in parts.items() if totals[name]
    }


def _count(text: str) -> int:
    found = whole_number(text, MOST)
    if found is None:
        raise ValueError(f"{text!r} is no number of steps")
    return found


def _finite(text: str) -> float:
    found = number(text)
    if found is None:
        raise ValueError(f"{text!r} is not finite, or no number")
    return found


class Moment(NamedTuple):
    """What a network saw and said at one frame.

    Args:
        frame: its index.
        seconds: since the first frame.
        probabilities: (C,) of the classes.
        attention: (rows, columns), or None for a network without attention.
    """

    frame: int
    seconds: float
    probabilities: np.ndarray
    attention: np.ndarray | None
