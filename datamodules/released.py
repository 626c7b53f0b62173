"""Import of the released code's HDF5 feature files into a feature store (protocol §6).

A set ``train``, ``valid`` or ``test`` of theirs is ``<set>_features.h5`` (data set ``features``, one row of 7·7·1024
float32 a frame), ``<set>_framenum.txt`` (frames of each video) and ``<set>_filename.txt`` (path of each video).
A row is the map in Fortran order: index ``col + 7·row + 49·c``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.features import FeatureSpec, FeatureStore, FeatureStoreError
from datamodules.reading import SHOWN, read_text, whole_number

GRID = (7, 7)
CHANNELS = 1024
ROWS = 256  # frames held in memory at a time
MOST_FRAMES = 10**9  # of a video: more than any
LARGEST_CHUNK = 2**30  # bytes that HDF5 reads at a time
SETS = ("train", "valid", "test")
SPEC = FeatureSpec(backbone="googlenet", weights="released", layer=None, size=224)


def to_locations(rows: np.ndarray) -> np.ndarray:
    """(F, 7·7·1024) rows in Fortran order -> (F, 49, 1024), location ``row·7 + col``."""
    return rows.reshape(len(rows), CHANNELS, GRID[0] * GRID[1]).transpose(0, 2, 1)


def import_features(folder: Path, store: FeatureStore, names: set[str]) -> None:
    """Bring the released code's features of a data set into a store; continues where an earlier call stopped.

    Args:
        folder: holds the three files of each set.
        store: where to write.
        names: the data set's videos. A path in ``filename.txt`` counts as the video it ends with.

    Raises:
        FeatureStoreError: a file is missing or disagrees with another; file and line are named.
    """
    import h5py

    sets = [name for name in SETS if (folder / f"{name}_features.h5").is_file()]
    if not sets:
        raise FeatureStoreError(f"no train_features.h5, valid_features.h5 or test_features.h5 in {folder.resolve()}")
    about = {"resize": "as in the released code", "decoder": "the released code's", "weights_sha256": None}
    note = "Features: imported from the released code's files (Caffe GoogLeNet)"
    store.create(SPEC, GRID, CHANNELS, {**about, "notes": [note]})
    for set_name in sets:
        lengths = _lines(folder / f"{set_name}_framenum.txt")
        paths = _lines(folder / f"{set_name}_filename.txt")
        file_path = folder / f"{set_name}_features.h5"
        if len(lengths) != len(paths):
            raise FeatureStoreError(f"{folder}: {len(lengths)} lines in {set_name}_framenum.txt, {len(paths)} names")
        numbers = [_count(folder / f"{set_name}_framenum.txt", line, text) for line, text in enumerate(lengths, start=1)]
        try:
            file = h5py.File(file_path, "r")
        except OSError as error:
            raise FeatureStoreError(f"{file_path}: not a readable HDF5 file ({error})") from error
        with file:
            rows = _rows(file, file_path, sum(numbers))
            begin, lines = 0, {}
            for line, (path, frames) in enumerate(zip(paths, numbers, strict=True), start=1):
                where = f"{folder / set_name}_filename.txt, line {line}"
                name = _video_of(path, names)
                if name is None:
                    raise FeatureStoreError(f"{where}: {path[:SHOWN]!r} is no video of this set")
                if lines.setdefault(name, line) != line:
                    raise FeatureStoreError(f"{where}: {name!r} stands in line {lines[name]} already")
                if store.missing([name]):
                    _import_video(store, name, rows, begin, begin + frames, file_path)
                elif store.frames(name) != frames:  # of an earlier set: their valid and test sets may be one
                    raise FeatureStoreError(
                        f"{where}: {name!r} has {frames} frames here and {store.frames(name)} in the set before"
                    )
                begin += frames
    store.merge()


def _rows(file: Any, path: Path, frames: int) -> Any:
    """The data set of features, whose numbers lie in the file itself and are read in bounded memory."""
    import h5py

    kept = isinstance(file.get("features", getlink=True), h5py.HardLink)  # other links lead to other files
    rows = file.get("features") if kept else None
    if not isinstance(rows, h5py.Dataset):
        raise FeatureStoreError(f"{path}: 'features' has no data set of that name, {frames} frames are listed")
    if rows.shape != (frames, GRID[0] * GRID[1] * CHANNELS):
        raise FeatureStoreError(f"{path}: 'features' has shape {rows.shape}, {frames} frames are listed")
    if rows.dtype.kind != "f" or rows.dtype.itemsize > 8:
        raise FeatureStoreError(f"{path}: 'features' holds {rows.dtype}, and no floating-point numbers")
    if rows.external or rows.is_virtual:
        raise FeatureStoreError(f"{path}: the numbers of 'features' lie in other files; copy them into this one")
    if rows.chunks and rows.chunks[0] * rows.chunks[1] * rows.dtype.itemsize > LARGEST_CHUNK:
        raise FeatureStoreError(f"{path}: 'features' is stored in pieces of {rows.chunks}, which do not fit into memory")
    return rows


def _import_video(store: FeatureStore, name: str, rows: Any, begin: int, end: int, path: Path) -> None:
    writer = store.writer(name)
    try:
        for start in range(begin, end, ROWS):
            try:
                piece = rows[start : min(start + ROWS, end)]
            except (OSError, RuntimeError) as error:  # h5py's for a file that breaks off or a filter it lacks
                raise FeatureStoreError(f"{path}: rows from {start} of 'features', {name!r}, not readable ({error})") from error
            writer.append(to_locations(piece))
    except BaseException:
        writer.discard()
        raise
    writer.close(fps=0.0, width=0, height=0, declared_frames=0)


def _count(path: Path, line: int, text: str) -> int:
    count = whole_number(text.rstrip("\r"), MOST_FRAMES)
    if not count:
        raise FeatureStoreError(f"{path}, line {line}: expected a number of frames, found {text[:SHOWN]!r}")
    return count


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FeatureStoreError(f"{path.resolve()} is missing; it belongs to the features file beside it")
    return read_text(path).removesuffix("\n").split("\n")


def _video_of(path: str, names: set[str]) -> str | None:
    parts = path.strip().split("/")
    candidates = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((candidate for candidate in candidates if candidate in names), None)
