"""What a tested network saw and said of some test videos, frame by frame, in its run folder: for the report's viewer.

Of a video, at most its first half minute is watched, and of that at most sixty frames are kept, evenly spaced: pictures
of the video, and beside each the attention and the probabilities of the last frame that the network had looked at by
then. So models at 6 and at 30 frames a second show the same pictures.

``watched.npz`` holds, of the video with number i from 0: ``video_i`` its name, ``sheet_i`` the name of its pictures' file,
``length_i`` its frames, ``frames_i`` (n,) int32 those that are kept, ``probabilities_i`` (n, C) float16, of networks with
attention ``attention_i`` (n, rows, columns) float16, and, where its file says so, ``rate_i`` its frames per second, which
earlier versions did not record. Labels and scores are in ``predictions.csv``.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from datamodules.files import write_atomically
from datamodules.videos import DataError
from reproduce.experiments.folder import RunFolder

LONGEST = 900  # frames of a video that are watched: half a minute at 30 a second
PICTURES = 60  # of a video; 200 KB of photographs
SIDE = 160  # px of a picture
COLUMNS = 10  # pictures beside one another on a sheet, which is thus far below WebP's limit of 16383 px
QUALITY = 70  # of WebP: 3 to 4 KB a picture of real videos
METHOD = 0  # of WebP's effort: a quarter of the default's time for half as many bytes again
NEEDED = ("video", "sheet", "length", "frames", "probabilities")  # of every video, in the order of Watched


@dataclass(frozen=True)
class Watched:
    """A video as a network watched it.

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


def kept(length: int) -> np.ndarray:
    """(n,) int32 indices of the frames that are kept of a video with so many."""
    watched = min(length, LONGEST)
    return np.rint(np.linspace(0, watched - 1, min(watched, PICTURES))).astype(np.int32)


def write_sheet(folder: RunFolder, name: str, pictures: np.ndarray) -> None:
    """Write a video's pictures, (n, SIDE, SIDE, 3) uint8 RGB, as rows of ``COLUMNS`` tiles."""
    rows = -(-len(pictures) // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, *pictures.shape[1:]), dtype=np.uint8)
    tiles[: len(pictures)] = pictures
    sheet = tiles.reshape(rows, COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2).reshape(rows * SIDE, COLUMNS * SIDE, 3)
    file = BytesIO()
    Image.fromarray(sheet[:, : min(len(pictures), COLUMNS) * SIDE]).save(file, "WEBP", quality=QUALITY, method=METHOD)
    write_atomically(folder.sheet(name), file.getvalue())


def read_sheet(folder: RunFolder, watched: Watched) -> np.ndarray:
    """(n, SIDE, SIDE, 3) uint8 RGB: the pictures of a video.

    Raises:
        DataError: their file is missing or damaged.
    """
    path = folder.sheet(watched.sheet)
    count = len(watched.frames)
    columns, rows = min(count, COLUMNS), -(-count // COLUMNS)
    try:
        with Image.open(path) as file:
            sheet = np.asarray(file.convert("RGB"))
        tiles = sheet.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2).reshape(rows * columns, SIDE, SIDE, 3)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no pictures of {watched.video} ({error})") from error
    return tiles[:count]


def write_watched(folder: RunFolder, found: Sequence[Watched]) -> None:
    """Write ``watched.npz``."""
    arrays: dict[str, np.ndarray] = {}
    for number, one in enumerate(found):
        fields = {"video": one.video, "sheet": one.sheet, "length": one.length, "frames": one.frames}
        fields |= {"attention": one.attention, "probabilities": one.probabilities, "rate": one.rate}
        arrays |= {f"{name}_{number}": np.asarray(value) for name, value in fields.items() if value is not None}
    file = BytesIO()
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]  # NumPy 2.1's keyword is no array
    write_atomically(folder.watched, file.getvalue())


def read_watched(folder: RunFolder) -> list[Watched]:
    """What a run recorded; nothing where it has no recording, such as one fetched from W&B or of an earlier version.

    Raises:
        DataError: the recording is damaged.
    """
    path, found = folder.watched, []
    if not path.is_file():
        return []
    try:
        with np.load(path, allow_pickle=False) as arrays:
            while f"video_{len(found)}" in arrays:
                found.append(_read(arrays, len(found)))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged ({error}); remove the run's folder to run it again") from error
    return found


def _read(arrays: Mapping[str, np.ndarray], number: int) -> Watched:
    video, sheet, length, frames, probabilities = (arrays[f"{name}_{number}"] for name in NEEDED)
    attention = arrays.get(f"attention_{number}")
    values = [probabilities] if attention is None else [probabilities, attention]
    kinds = {"U": [video, sheet], "iu": [length, frames], "f": values}
    if any(one.dtype.kind not in kind for kind, some in kinds.items() for one in some) or video.ndim + sheet.ndim + length.ndim:
        raise ValueError(f"video {number}: values of another type")
    if (frames.ndim, probabilities.ndim, 3 if attention is None else attention.ndim) != (1, 2, 3) or not len(frames):
        raise ValueError(f"{video}: no frames, or maps and probabilities of another shape")
    if not all(((one >= 0) & (one <= 1)).all() for one in values) or (
        attention is not None and not (attention.max(axis=(1, 2)) > 0).all()
    ):
        raise ValueError(f"{video}: maps or probabilities that are none")
    if {len(frames), len(probabilities), len(frames if attention is None else attention)} != {len(frames)}:
        raise ValueError(f"{video}: not as many maps and probabilities as frames")
    rate = float(arrays[f"rate_{number}"]) if f"rate_{number}" in arrays else None
    if rate is not None and not 0 < rate < float("inf"):
        raise ValueError(f"{video}: {rate} frames per second")
    return Watched(str(video), str(sheet), int(length), frames, attention, probabilities, rate)
