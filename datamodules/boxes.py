"""Boxes of the actor in every frame, and how much of each cell of the attention map they cover."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from datamodules.videos import DataError

COLUMNS = ["video", "frame", "left", "top", "right", "bottom"]
"""``boxes.csv``: a row a frame; the edges are fractions of the frame's width and height, from the upper left corner."""


def read_boxes(path: Path) -> dict[str, np.ndarray]:
    """Read ``boxes.csv``.

    Returns:
        Video name -> (F, 4) float64 left, top, right, bottom as fractions; nan for frames without a box.

    Raises:
        DataError: another header, or a row that is no box inside the frame; names file and line.
    """
    boxes: dict[str, dict[int, tuple[float, ...]]] = defaultdict(dict)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        if next(reader, None) != COLUMNS:
            raise DataError(f"{path}, line 1: expected the columns {','.join(COLUMNS)}")
        for row in reader:
            try:
                name, frame, *edges = row
                left, top, right, bottom = (float(edge) for edge in edges)
                if int(frame) < 0 or not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                    raise ValueError
            except ValueError:
                raise DataError(
                    f"{path}, line {reader.line_num}: expected <video>,<frame>,<left>,<top>,<right>,<bottom> with "
                    f"0 <= left < right <= 1 and 0 <= top < bottom <= 1, found {','.join(row)!r}"
                ) from None
            boxes[name][int(frame)] = (left, top, right, bottom)
    arrays = {}
    for name, frames in boxes.items():
        arrays[name] = np.full((max(frames) + 1, 4), np.nan)
        for frame, edges in frames.items():
            arrays[name][frame] = edges
    return arrays


def cell_coverage(boxes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each cell of a grid that lies in the box.

    With attention l, ``Σ_i l_i · coverage_i`` is the attention mass inside the box; for uniform attention it equals the
    box's share of the frame.

    Args:
        boxes: (F, 4) left, top, right, bottom as fractions.
        grid: rows and columns.

    Returns:
        (F, K) float32 in [0, 1], locations row by row; nan for frames without a box.
    """
    rows, columns = grid
    across = _overlap(boxes[:, 0], boxes[:, 2], columns)  # (F, columns)
    down = _overlap(boxes[:, 1], boxes[:, 3], rows)  # (F, rows)
    return (down[:, :, None] * across[:, None, :]).reshape(len(boxes), rows * columns).astype(np.float32)


def _overlap(low: np.ndarray, high: np.ndarray, cells: int) -> np.ndarray:
    """Share of each of some equal cells of [0, 1] that lies between low and high, (F, cells)."""
    edges = np.arange(cells + 1) / cells
    return np.clip(np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1]), 0, None) * cells
