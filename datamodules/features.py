"""The feature store: one fp16 file (F, K, D) a video, and a manifest that says how they were made.

Layout of a store::

    manifest.json            what the features are, and every finished video; written by one process
    journal-<rank>.jsonl     videos finished since, one line each; merged into the manifest when extraction ends
    backbone.pt              weights of a random backbone, so that a resumed extraction uses the same ones
    videos/<video name>.npy  (F, K, D) float16, memory-mapped when read
    pooled/<video name>.npy  (F, 2, D) float32: mean and maximum over the locations of these, once for every network

A file is written under another name and renamed when complete and on disk, and entered in the journal after that: a
video is done exactly if it is listed and its files have the listed sizes. Free of torch.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.videos import Annotation, DataError

FORMAT = 2
DTYPE = np.dtype("<f2")
POOLED_DTYPE = np.dtype("<f4")
MANIFEST = "manifest.json"
BACKBONE = "backbone.pt"


class FeatureStoreError(DataError):
    """A feature store is missing, incomplete, damaged, or made with another configuration."""


@dataclass(frozen=True)
class FeatureSpec:
    """What decides the features' values, as a configuration states it; two stores with equal specs are the same.

    Args:
        backbone: name of the torchvision network.
        weights: ``imagenet:<torchvision's name>``, ``random:<seed>``, ``file:<SHA-256>`` or ``released``.
        layer: node of the network whose output is stored; None for the last convolutional map.
        size: side in pixels of the square the frames are squashed to.
    """

    backbone: str
    weights: str
    layer: str | None
    size: int


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by another that is complete and on disk, or leave it as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class FeatureStore:
    """A feature store on disk.

    Args:
        path: the store's folder; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {}
        self._load()

    @property
    def videos(self) -> dict[str, dict[str, Any]]:
        """Video name -> {frames, fps, width, height, declared_frames, bytes}, of every finished video."""
        return self.manifest.get("videos", {})

    @property
    def bad(self) -> dict[str, str]:
        """Video name -> why it could not be decoded."""
        return self.manifest.get("bad", {})

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the map; K is their product."""
        rows, columns = self.manifest["grid"]
        return rows, columns

    @property
    def channels(self) -> int:
        """D."""
        return self.manifest["channels"]

    @property
    def notes(self) -> list[str]:
        """What every table made from these features has to say about them."""
        return self.manifest.get("notes", [])

    def _load(self) -> None:
        path = self.path / MANIFEST
        if path.is_file():
            try:
                self.manifest = json.loads(path.read_text(encoding="utf-8"))
                format_ = self.manifest["format"]
            except (ValueError, KeyError, TypeError) as error:
                raise FeatureStoreError(
                    f"{path}: not a manifest of a feature store ({error}). Remove the folder and extract again"
                ) from error
            if format_ != FORMAT:
                raise FeatureStoreError(f"{path}: format {format_}, this version reads {FORMAT}. Extract again")
        for journal in self.path.glob("journal-*.jsonl"):
            for line in journal.read_bytes().split(b"\n"):
                with contextlib.suppress(ValueError):  # the last line of a killed process may be cut short
                    self._enter(json.loads(line))

    def _enter(self, entry: dict[str, Any]) -> None:
        name = entry.pop("video")
        self.manifest.setdefault("videos", {}).pop(name, None)
        self.manifest.setdefault("bad", {}).pop(name, None)
        if "error" in entry:
            self.manifest["bad"][name] = entry["error"]
        else:
            self.manifest["videos"][name] = entry

    def exists(self) -> bool:
        """Whether the store has a manifest."""
        return "spec" in self.manifest

    def require(self, spec: FeatureSpec) -> None:
        """Check that the store was made as a configuration asks.

        Raises:
            FeatureStoreError: it was not; every difference is named.
        """
        if not self.exists():
            raise FeatureStoreError(f"no feature store in {self.path.resolve()}; python reproduce/prepare.py makes it")
        found = self.manifest["spec"]
        different = [
            f"{key} is {found.get(key)!r}, the configuration asks for {value!r}"
            for key, value in asdict(spec).items()
            if found.get(key) != value
        ]
        if different:
            raise FeatureStoreError(
                f"the features in {self.path.resolve()} were made with another configuration: {'; '.join(different)}. "
                "Give the backbone.* settings they were made with, choose another paths.features, or remove the folder"
            )

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of some videos that are neither finished nor known to be bad."""
        return [name for name in names if name not in self.bad and not self._is_whole(name)]

    def _is_whole(self, name: str) -> bool:
        entry = self.videos.get(name)
        if entry is None:
            return False
        try:
            sizes = self.file(name).stat().st_size, self.pooled_file(name).stat().st_size
            return sizes == (entry["bytes"], entry["pooled_bytes"])
        except OSError:
            return False

    def file(self, name: str) -> Path:
        """Where a video's features lie."""
        return self.path / "videos" / f"{name}.npy"

    def pooled_file(self, name: str) -> Path:
        """Where the mean and maximum of a video's cubes lie."""
        return self.path / "pooled" / f"{name}.npy"

    def frames(self, name: str) -> int:
        """F of a finished video."""
        return int(self.videos[name]["frames"])

    def read(self, name: str) -> np.ndarray:
        """A video's features, (F, K, D) float16, memory-mapped.

        Raises:
            FeatureStoreError: the file is missing, damaged, or has another shape or dtype than the manifest says.
        """
        return self._open(self.file(name), DTYPE, (self.frames(name), self.grid[0] * self.grid[1], self.channels))

    def pooled(self, name: str) -> np.ndarray:
        """Mean and maximum of a video's cubes over locations, (F, 2, D) float32, memory-mapped. Raises as ``read``."""
        return self._open(self.pooled_file(name), POOLED_DTYPE, (self.frames(name), 2, self.channels))

    @staticmethod
    def _open(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise FeatureStoreError(f"{path}: not readable ({error}). Remove it and run prepare.py again") from error
        if array.shape != shape or array.dtype != dtype:
            raise FeatureStoreError(
                f"{path}: holds {array.dtype} {array.shape}, the manifest says {dtype} {shape}. "
                "Remove it and run prepare.py again"
            )
        return array

    def create(self, spec: FeatureSpec, grid: tuple[int, int], channels: int, about: dict[str, Any]) -> None:
        """Write the manifest of a new store, or find that the one there says the same.

        Args:
            spec: what decides the values.
            grid: rows and columns of the map.
            channels: D.
            about: further facts for the manifest (weights hash, resize rule, versions, notes).

        Raises:
            FeatureStoreError: the store exists with another spec or another map.
        """
        if self.exists():
            self.require(spec)
            if (self.grid, self.channels) != (tuple(grid), channels):
                raise FeatureStoreError(
                    f"{self.path.resolve()}: holds maps of {self.grid} x {self.channels}, the backbone gives "
                    f"{tuple(grid)} x {channels}. Remove the folder and extract again"
                )
            return
        self.manifest |= {
            "format": FORMAT,
            "spec": asdict(spec),
            "grid": list(grid),
            "channels": channels,
            "dtype": DTYPE.str,
            **about,
        }
        self._write_manifest()

    def _write_manifest(self) -> None:
        for part in ("videos", "bad"):
            self.manifest[part] = dict(sorted(self.manifest.get(part, {}).items()))
        write_atomically(self.path / MANIFEST, json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n")

    def merge(self) -> None:
        """Take all journals into the manifest and remove them; call it from one process when no other writes."""
        self._load()
        self._write_manifest()
        for journal in self.path.glob("journal-*.jsonl"):
            journal.unlink()

    def forget_bad(self) -> None:
        """Give bad videos another try at the next extraction (after the user has replaced the files, say)."""
        if self.bad:
            self.merge()
            self.manifest["bad"] = {}
            self._write_manifest()

    def writer(self, name: str, rank: int = 0) -> VideoWriter:
        """Begin to write one video's features."""
        return VideoWriter(self, name, rank)

    def enter_bad(self, name: str, reason: str, rank: int = 0) -> None:
        """Note that a video cannot be decoded."""
        self._journal({"video": name, "error": reason}, rank)

    def _journal(self, entry: dict[str, Any], rank: int) -> None:
        with (self.path / f"journal-{rank}.jsonl").open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # the process before this one was killed within a line
                    file.write(b"\n")
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._enter(dict(entry))


class _GrowingArray:
    """A .npy file whose first axis grows; nothing is seen under the final name before ``close``."""

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.shape, self.length = path, dtype, shape, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part = path.with_name(f"{path.name}.{os.getpid()}.part")
        self._file: BufferedWriter = self._part.open("wb")
        self._header()

    def _header(self) -> None:
        # numpy leaves room for the first axis to grow, so that the final header has this one's length
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length, *self.shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows, dtype=self.dtype).data)
        self.length += len(rows)

    def close(self) -> int:
        """Put the file in its place; returns its size."""
        self._file.seek(0)
        self._header()
        self._file.flush()
        os.fsync(self._file.fileno())
        size = os.fstat(self._file.fileno()).st_size
        self._file.close()
        self._part.replace(self.path)
        return size

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # a full disk refuses the buffer's rest too
            self._file.close()
        self._part.unlink(missing_ok=True)


class VideoWriter:
    """Writes one video's features piece by piece; the video is not done before ``close``.

    Args:
        store: the store to write to.
        name: the video.
        rank: number of the writing process.
    """

    def __init__(self, store: FeatureStore, name: str, rank: int = 0) -> None:
        self.store, self.name, self.rank = store, name, rank
        self._shape = (store.grid[0] * store.grid[1], store.channels)
        self._cubes = _GrowingArray(store.file(name), DTYPE, self._shape)
        self._pooled = _GrowingArray(store.pooled_file(name), POOLED_DTYPE, (2, store.channels))

    @property
    def frames(self) -> int:
        """Frames written so far."""
        return self._cubes.length

    def append(self, features: np.ndarray) -> None:
        """Add (n, K, D) features of the next n frames.

        Raises:
            FeatureStoreError: another shape, or a value that is not finite; the frame is named.
        """
        if features.shape[1:] != self._shape:
            raise FeatureStoreError(f"{self.name}: features of shape {features.shape[1:]}, the store has {self._shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            half = np.ascontiguousarray(features, dtype=DTYPE)
            single = half.astype(np.float32)
            pooled = np.stack([single.mean(axis=1), single.max(axis=1)], axis=1)
        if not np.isfinite(pooled).all():  # a cell that is not finite leaves no finite mean
            frame = self.frames + int(np.argmin(np.isfinite(pooled).all(axis=(1, 2))))
            raise FeatureStoreError(f"{self.name}: features of frame {frame} are not finite in half precision")
        self._cubes.append(half)
        self._pooled.append(pooled)

    def close(self, **facts: Any) -> None:
        """Put the files in their places and enter the video, with further facts, in the journal."""
        pooled_bytes, size = self._pooled.close(), self._cubes.close()
        entry = {"video": self.name, "frames": self.frames, **facts, "bytes": size, "pooled_bytes": pooled_bytes}
        self.store._journal(entry, self.rank)

    def discard(self) -> None:
        """Drop what was written."""
        self._cubes.discard()
        self._pooled.discard()


def usable(annotation: Annotation, store: FeatureStore, skip_bad: bool) -> Annotation:
    """The annotation without the videos that a finished store knows to be bad.

    Raises:
        FeatureStoreError: the store lacks videos.
        DataError: videos are bad and ``skip_bad`` is not set.
    """
    names = [video.name for video in annotation.videos]
    missing = store.missing(names)
    if missing:
        raise FeatureStoreError(
            f"{store.path.resolve()}: features of {len(missing)} of {len(names)} videos are missing, {missing[0]!r} for "
            "one; python reproduce/prepare.py with the same settings extracts them"
        )
    bad = [name for name in names if name in store.bad]
    if bad and not skip_bad:
        raise DataError(
            f"{annotation.data}: {len(bad)} videos do not decode: {', '.join(map(repr, bad[:5]))}. Replace the files and "
            "run prepare.py, or leave them out, and have every table say so, with data.skip_bad=true"
        )
    return annotation.without(bad, "do not decode")
