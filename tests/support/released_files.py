"""Feature files in the released code's layout, written by hand."""

from pathlib import Path

import h5py
import numpy as np

ROWS = COLUMNS = 7


CHANNELS = 1024


LENGTHS = {"run/a.avi": 3, "run/b (1)!.avi": 1, "walk/c.avi": 2}


PREFIX = "/ais/gobi3/u/someone/hmdb51/"


def grids(frames: int, seed: int) -> np.ndarray:
    """(F, row, column, channel), exact in half precision."""
    return np.random.default_rng(seed).integers(-2048, 2048, (frames, ROWS, COLUMNS, CHANNELS)).astype(np.float32) / 64


def released_rows(grid: np.ndarray) -> np.ndarray:
    """Protocol §6, by the index formula: col + 7·row + 49·c."""
    row, column, channel = np.indices((ROWS, COLUMNS, CHANNELS))
    flat = np.empty((len(grid), ROWS * COLUMNS * CHANNELS), dtype=np.float32)
    flat[:, column + 7 * row + 49 * channel] = grid
    return flat


def write_set(folder: Path, name: str, videos: dict[str, np.ndarray], prefix: str = PREFIX) -> None:
    with h5py.File(folder / f"{name}_features.h5", "w") as file:
        file["features"] = np.concatenate([released_rows(grid) for grid in videos.values()])
    (folder / f"{name}_framenum.txt").write_text("".join(f"{len(grid)}\n" for grid in videos.values()))
    (folder / f"{name}_filename.txt").write_text("".join(f"{prefix}{video}\n" for video in videos))
    (folder / f"{name}_labels.txt").write_text("0\n" * len(videos))
