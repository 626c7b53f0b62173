"""Boxes of the actor in every frame, and how much of each cell of the attention map they cover."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from datamodules.reading import SHOWN, DataError, number, read_rows, whole_number

MOST_FRAMES = 20_000_000  # of all videos: thirty times HMDB-51, and 640 MB in memory
COLUMNS = ["video", "frame", "left", "top", "right", "bottom"]
"""``boxes.csv``: a row a frame; the edges are fractions of the frame's width and height, from the upper left corner."""


def read_boxes(path: Path) -> dict[str, np.ndarray]:
    """Read ``boxes.csv``.

    Returns:
        Video name -> (F, 4) float64 left, top, right, bottom as fractions; nan for frames without a box.

    Raises:
        DataError: another header, a row that is no box inside the frame, a frame that has one already, or more frames than
            any data set has; names file and line.
    """
    boxes: dict[str, dict[int, tuple[float, ...]]] = defaultdict(dict)
    lengths: dict[str, int] = {}
    frames = 0  # of all videos
    for line, row in read_rows(path, COLUMNS, COLUMNS, in_order=True):
        name, frame = str(PurePosixPath(row["video"])), whole_number(row["frame"], MOST_FRAMES)
        edges = tuple(number(row[edge]) for edge in COLUMNS[2:])
        box = tuple(edge for edge in edges if edge is not None)
        if frame is None or len(box) < 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise DataError(
                f"{path}, line {line}: expected <video>,<frame>,<left>,<top>,<right>,<bottom> with "
                f"0 <= left < right <= 1 and 0 <= top < bottom <= 1, found {','.join(row.values())[:SHOWN]!r}"
            )
        if frame in boxes[name]:
            raise DataError(f"{path}, line {line}: frame {frame} of {name!r} has a box already; each may have one")
        boxes[name][frame] = box
        frames += max(0, frame + 1 - lengths.get(name, 0))
        lengths[name] = max(frame + 1, lengths.get(name, 0))
        if frames > MOST_FRAMES:
            raise DataError(
                f"{path}, line {line}: with frame {frame} of {name!r} the videos have more than {MOST_FRAMES} frames; "
                "frames are counted from 0 in each video"
            )
    arrays = {name: np.full((length, 4), np.nan) for name, length in lengths.items()}
    for name, found in boxes.items():
        arrays[name][list(found)] = list(found.values())
    return arrays


def cell_coverage(boxes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each cell of a grid that lies in the box, or in any of several; what two of them share counts once.

    With attention l, ``Σ_i l_i · coverage_i`` is the attention mass inside the boxes; for uniform attention it equals the
    boxes' share of the frame.

    Args:
        boxes: (F, 4) left, top, right, bottom as fractions; or (F, A, 4), of A actors, nan where one has none.
        grid: rows and columns.

    Returns:
        (F, K) float32 in [0, 1], locations row by row; nan for frames without a box.
    """
    rows, columns = grid
    if boxes.ndim == 2:
        across = _overlap(boxes[:, None, 0], boxes[:, None, 2], columns)[:, 0]  # (F, columns)
        down = _overlap(boxes[:, None, 1], boxes[:, None, 3], rows)[:, 0]  # (F, rows)
        covered = down[:, :, None] * across[:, None, :]
    else:
        # The edges of all boxes and cells cut the frame into rectangles that lie in a box, and in a cell, or do not.
        known = np.nan_to_num(boxes)  # no box is an empty one
        x, y = _cuts(known[..., 0::2], columns), _cuts(known[..., 1::2], rows)  # (F, X + 1), (F, Y + 1)
        inside_x, inside_y = _between(x, known[..., 0], known[..., 2]), _between(y, known[..., 1], known[..., 3])
        inside = (inside_y[:, :, :, None] & inside_x[:, :, None, :]).any(axis=1)  # (F, Y, X)
        across, down = _overlap(x[:, :-1], x[:, 1:], columns), _overlap(y[:, :-1], y[:, 1:], rows)
        covered = np.einsum("fyr,fyx,fxc->frc", down, inside, across, optimize=True)
        covered = np.clip(covered, 0, 1)  # sums of shares end an ulp above 1
        covered[~_boxed(boxes)] = np.nan
    return covered.reshape(len(boxes), rows * columns).astype(np.float32)


def centres_inside(boxes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Whether each cell's centre lies in the box, or in any of several; edges belong to it.

    Args:
        boxes: (F, 4) or (F, A, 4), as for ``cell_coverage``.
        grid: rows and columns.

    Returns:
        (F, K) float32 0 or 1, locations row by row; nan for frames without a box.
    """
    rows, columns = grid
    boxes = boxes[:, None] if boxes.ndim == 2 else boxes
    x, y = (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
    across = (boxes[..., 0, None] <= x) & (x <= boxes[..., 2, None])  # (F, A, columns)
    down = (boxes[..., 1, None] <= y) & (y <= boxes[..., 3, None])  # (F, A, rows)
    inside = (down[..., :, None] & across[..., None, :]).any(axis=1)  # (F, rows, columns)
    return np.where(_boxed(boxes)[:, None], inside.reshape(len(boxes), rows * columns), np.nan).astype(np.float32)


def _boxed(boxes: np.ndarray) -> np.ndarray:
    """Which frames have at least one box, (F, A, 4) -> (F,)."""
    return np.any(~np.isnan(boxes[..., 0]), axis=1)


def _overlap(low: np.ndarray, high: np.ndarray, cells: int) -> np.ndarray:
    """Share of each of some equal cells of [0, 1] that lies between low and high (F, n) -> (F, n, cells)."""
    edges = np.arange(cells + 1) / cells
    return np.clip(np.minimum(high[..., None], edges[1:]) - np.maximum(low[..., None], edges[:-1]), 0, None) * cells


def _cuts(edges: np.ndarray, cells: int) -> np.ndarray:
    """The boxes' edges (F, A, 2) in one direction and those of the cells, in order: (F, 2 A + cells + 1)."""
    of_cells = np.broadcast_to(np.arange(cells + 1) / cells, (len(edges), cells + 1))
    return np.sort(np.concatenate([edges.reshape(len(edges), -1), of_cells], axis=1), axis=1)


def _between(cuts: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether each stretch between two cuts (F, n + 1) lies between low and high (F, A): (F, A, n)."""
    return (low[..., None] <= cuts[:, None, :-1]) & (cuts[:, None, 1:] <= high[..., None])
