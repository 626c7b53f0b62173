"""Make a network look where it is told, and say what it predicts then (paper Fig. 5).

A glimpse is a cell, a box, or a whole map over the locations; or every cell is tried, and the one taken that makes the
true class most probable.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from datamodules.blocks import BLOCK_LENGTH, BlockIndex, Span
from datamodules.boxes import cell_coverage
from datamodules.features import FeatureStore
from datamodules.pool import FramePool
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.frames import Frames
from lightning_modules.glimpses import run_glimpse
from lightning_modules.metrics import block_scores
from reproduce.common.files import write_rows
from reproduce.common.settings import SettingsError
from reproduce.systems.loading import Trained

SEARCH = "search"
FORMS = (
    "a cell as row,column from 0 (glimpse=3,4); a box as left,top,right,bottom in fractions of the frame "
    "(glimpse=0.2,0.1,0.6,0.9); a map as a CSV file with a row of numbers for each row of cells (glimpse=map.csv); or "
    f"glimpse={SEARCH}, which tries every cell"
)


@dataclass(frozen=True)
class Dense:
    """All blocks of one video, as ``run_dense`` takes them: the frames that they share, and how they lie in them.

    Args:
        frames: inputs of the frames, in order.
        blocks: N.
        skip: frames between two steps of a block.
        stride: frames between the beginnings of two blocks.
    """

    frames: Frames
    blocks: int
    skip: int
    stride: int


def dense(trained: Trained, store: FeatureStore, name: str) -> Dense:
    """A video's blocks as they are tested, on the network's device.

    Raises:
        DataError: the features cannot be read.
    """
    network = attending(trained)
    index = BlockIndex([store.frames(name)], trained.skip, trained.settings.data.stride)
    frames, skip, stride = index.stretch(Span(0, 0, int(index.counts[0])))
    device = next(network.parameters()).device
    inputs = FramePool(store, [name], network.inputs, "mmap").stretch(0, frames, device)
    return Dense(Frames(**inputs), int(index.counts[0]), skip, stride)


def attending(trained: Trained) -> SoftAttentionLSTM:
    """The network of a run with attention.

    Raises:
        SettingsError: it has none.
    """
    if not isinstance(trained.network, SoftAttentionLSTM):
        raise SettingsError(f"{trained.folder.path}: {trained.settings.model.name} has no attention; take a soft_attention run")
    return trained.network


def parse_glimpse(text: str, grid: tuple[int, int]) -> np.ndarray:
    """(rows, columns) float64 summing to 1, from what a user wrote; see ``FORMS``.

    Raises:
        SettingsError: it is none of the forms, or lies outside the frame.
    """
    rows, columns = grid
    if text.endswith(".csv"):
        return _read_map(Path(text).expanduser(), grid)
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 2 and all(number.is_integer() for number in numbers):
        row, column = map(int, numbers)
        if not (0 <= row < rows and 0 <= column < columns):
            raise SettingsError(f"glimpse={text}: the map has rows 0 to {rows - 1} and columns 0 to {columns - 1}")
        made = np.zeros(grid)
        made[row, column] = 1
        return made
    if len(numbers) == 4:
        left, top, right, bottom = numbers
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise SettingsError(f"glimpse={text}: a box needs 0 <= left < right <= 1 and 0 <= top < bottom <= 1")
        covered = cell_coverage(np.asarray([numbers]), grid)[0].astype(np.float64).reshape(grid)
        return covered / covered.sum()
    raise SettingsError(f"glimpse={text}: give {FORMS}")


def _read_map(path: Path, grid: tuple[int, int]) -> np.ndarray:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            made = np.asarray([[float(value) for value in row] for row in csv.reader(file) if row])
    except (OSError, ValueError, csv.Error) as error:
        raise SettingsError(f"glimpse={path}: no readable CSV file of numbers ({error})") from error
    if made.shape != grid or not np.isfinite(made).all() or made.min() < 0 or made.sum() <= 0:
        rows, columns = grid
        raise SettingsError(
            f"glimpse={path}: expected {rows} rows of {columns} numbers that are not negative and not all 0; "
            f"found an array of shape {made.shape}"
        )
    return made / made.sum()


def scores_with(trained: Trained, video: Dense, glimpse: np.ndarray) -> np.ndarray:
    """(C,) the video's scores when the network is made to look at a glimpse (rows, columns) in every frame."""
    network = attending(trained)
    logits = run_glimpse(
        network, video.frames, torch.from_numpy(glimpse.ravel()), video.blocks, BLOCK_LENGTH, video.skip, video.stride
    )
    return block_scores(logits, trained.multi_label, trained.settings.model.last_n).mean(dim=0).cpu().numpy()


def scores_of_cells(trained: Trained, video: Dense) -> np.ndarray:
    """(rows, columns, C) the video's scores when the network looks at one cell alone."""
    cells = np.eye(trained.grid[0] * trained.grid[1]).reshape(-1, *trained.grid)
    return np.stack([scores_with(trained, video, cell) for cell in cells]).reshape(*trained.grid, -1)


def top(trained: Trained, scores: np.ndarray, number: int = 5) -> str:
    """The most probable classes in words: ``diving 0.61, biking 0.20``."""
    best = np.argsort(-scores, kind="stable")[:number]
    return ", ".join(f"{trained.classes[label]} {scores[label]:.2f}" for label in best)


def write_cells(path: Path, trained: Trained, scores: np.ndarray, target: tuple[int, ...]) -> None:
    """Write what the network predicts when it looks at each cell alone, a row a cell.

    Raises:
        DataError: the file cannot be written.
    """
    rows: list[tuple] = [("row", "column", "prediction", "probability", "probability_of_true_class")]
    for row, column in np.ndindex(*trained.grid):
        here = scores[row, column]
        best = int(here.argmax())
        true = max((float(here[label]) for label in target), default=float("nan"))
        rows.append((row, column, trained.classes[best], f"{here[best]:.6f}", f"{true:.6f}"))
    write_rows(path, rows)
