"""Attention on file: what a test measured of each video's (``attention.csv``), and recordings of some videos for the report.

``attention.csv`` has a line a video. Columns: ``video``; how many ``blocks``, ``steps``, ``moves`` from a step to the next
and ``boxed_steps`` were measured; and the figures of ``lightning_modules.measures``, each the mean over the video's blocks,
steps, moves or boxed steps; empty where there was none. A figure of the whole set is the mean weighted by these counts.

A recording is a clip's track, thinned: of the first half minute at most sixty frames, evenly spaced, as pictures, and beside
each the attention and the probabilities of the last step by then. So models at 6 and at 30 frames a second show the same
pictures. ``watched.npz`` holds, of the video with number i from 0: ``video_i`` its name, ``sheet_i`` the name of its
pictures' file, ``length_i`` its frames, ``frames_i`` (n,) int32 those that are recorded, ``probabilities_i`` (n, C) float16,
of networks with attention ``attention_i`` (n, rows, columns) float16, and, where its file says so, ``rate_i`` its frames per
second, which earlier versions did not record. Labels and scores are in ``predictions.csv``. Free of torch.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datamodules.files import write_atomically
from datamodules.reading import DataError, csv_text, number, read_records, whole_number
from reproduce.experiments.folder import AGAIN, RunFolder

PER_BLOCK = ("attention_coverage_spread", "attention_penalty")
PER_BOX = ("attention_in_box", "box_area", "pointing_game", "pointing_chance")
COUNTS: tuple[str, ...] = ("blocks", "steps", "moves", "boxed_steps")
MOST = 2**53  # of a count
LONGEST = 900  # frames of a video that are recorded: half a minute at 30 a second
PICTURES = 60  # of a video; 200 KB of photographs
SIDE = 160  # px of a picture
COLUMNS = 10  # pictures beside one another on a sheet, which is thus far below WebP's limit of 16383 px
QUALITY = 70  # of WebP: 3 to 4 KB a picture of real videos
METHOD = 0  # of WebP's effort: a quarter of the default's time for half as many bytes again
NEEDED = ("video", "sheet", "length", "frames", "probabilities")  # of every video, in the order of Recording


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
    """Write ``attention.csv``.

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
    """Read ``attention.csv``: the videos, each with its line, and each figure's mean over the whole set, if any video has it.

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
    """One step of a track: what a network attends to and predicts at one frame.

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


@dataclass(frozen=True)
class Recording:
    """Some frames of a test video, and what a tested network attends to and predicts at each.

    Args:
        video: its name.
        sheet: name of the file with its pictures.
        length: its frames.
        frames: (n,) int32 indices of the pictures, ascending.
        attention: (n, rows, columns) float16, each map summing to 1; None for a network without attention.
        probabilities: (n, C) float16 class probabilities.
        rate: its frames per second; None where that is not known.
    """

    video: str
    sheet: str
    length: int
    frames: np.ndarray
    attention: np.ndarray | None
    probabilities: np.ndarray
    rate: float | None = None


def recorded_frames(length: int) -> np.ndarray:
    """(n,) int32 indices of the frames that are recorded of a video with so many."""
    span = min(length, LONGEST)
    return np.rint(np.linspace(0, span - 1, min(span, PICTURES))).astype(np.int32)


def write_sheet(folder: RunFolder, name: str, pictures: np.ndarray) -> None:
    """Write a recording's pictures, (n, SIDE, SIDE, 3) uint8 RGB, as rows of ``COLUMNS`` tiles."""
    rows = -(-len(pictures) // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, *pictures.shape[1:]), dtype=np.uint8)
    tiles[: len(pictures)] = pictures
    sheet = tiles.reshape(rows, COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2).reshape(rows * SIDE, COLUMNS * SIDE, 3)
    file = BytesIO()
    Image.fromarray(sheet[:, : min(len(pictures), COLUMNS) * SIDE]).save(file, "WEBP", quality=QUALITY, method=METHOD)
    write_atomically(folder.sheet(name), file.getvalue())


def read_sheet(folder: RunFolder, recording: Recording) -> np.ndarray:
    """Read a recording's pictures, (n, SIDE, SIDE, 3) uint8 RGB.

    Raises:
        DataError: their file is missing or damaged.
    """
    path = folder.sheet(recording.sheet)
    count = len(recording.frames)
    columns, rows = min(count, COLUMNS), -(-count // COLUMNS)
    try:
        with Image.open(path) as file:
            sheet = np.asarray(file.convert("RGB"))
        tiles = sheet.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2).reshape(rows * columns, SIDE, SIDE, 3)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no pictures of {recording.video} ({error})") from error
    return tiles[:count]


def write_recordings(folder: RunFolder, found: Sequence[Recording]) -> None:
    """Write a run's recordings, ``watched.npz``."""
    arrays: dict[str, np.ndarray] = {}
    for place, one in enumerate(found):
        fields = {"video": one.video, "sheet": one.sheet, "length": one.length, "frames": one.frames}
        fields |= {"attention": one.attention, "probabilities": one.probabilities, "rate": one.rate}
        arrays |= {f"{name}_{place}": np.asarray(value) for name, value in fields.items() if value is not None}
    file = BytesIO()
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]  # NumPy 2.1's keyword is no array
    write_atomically(folder.recordings, file.getvalue())


def read_recordings(folder: RunFolder) -> list[Recording]:
    """Read a run's recordings; none where it has no file of them, such as one fetched from W&B or of an earlier version.

    Raises:
        DataError: the file is damaged.
    """
    path, found = folder.recordings, []
    if not path.is_file():
        return []
    try:
        with np.load(path, allow_pickle=False) as arrays:
            while f"video_{len(found)}" in arrays:
                found.append(_read(arrays, len(found)))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged ({error}); {AGAIN}") from error
    return found


def _read(arrays: Mapping[str, np.ndarray], place: int) -> Recording:
    video, sheet, length, frames, probabilities = (arrays[f"{name}_{place}"] for name in NEEDED)
    attention = arrays.get(f"attention_{place}")
    values = [probabilities] if attention is None else [probabilities, attention]
    kinds = {"U": [video, sheet], "iu": [length, frames], "f": values}
    if any(one.dtype.kind not in kind for kind, some in kinds.items() for one in some) or video.ndim + sheet.ndim + length.ndim:
        raise ValueError(f"video {place}: values of another type")
    if (frames.ndim, probabilities.ndim, 3 if attention is None else attention.ndim) != (1, 2, 3) or not len(frames):
        raise ValueError(f"{video}: no frames, or maps and probabilities of another shape")
    if not all(((one >= 0) & (one <= 1)).all() for one in values) or (
        attention is not None and not (attention.max(axis=(1, 2)) > 0).all()
    ):
        raise ValueError(f"{video}: maps or probabilities that are none")
    if {len(frames), len(probabilities), len(frames if attention is None else attention)} != {len(frames)}:
        raise ValueError(f"{video}: not as many maps and probabilities as frames")
    rate = float(arrays[f"rate_{place}"]) if f"rate_{place}" in arrays else None
    if rate is not None and not 0 < rate < float("inf"):
        raise ValueError(f"{video}: {rate} frames per second")
    return Recording(str(video), str(sheet), int(length), frames, attention, probabilities, rate)
