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
import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import write_atomically
from datamodules.growing import GrowingArray
from datamodules.manifest import FORMAT, FeatureSpec, FeatureStoreError, problem, read_manifest
from datamodules.reading import DataError, parse_json
from datamodules.videos import Annotation, Video, check_sides

DTYPE = np.dtype("<f2")
POOLED_DTYPE = np.dtype("<f4")
PIECE = 64  # frames looked at together, which fit into a processor's cache
MANIFEST = "manifest.json"
BACKBONE = "backbone.pt"
MADE_BY = ("spec", "grid", "channels", "dtype", "weights_sha256", "resize", "precision", "compiled", "decoder")
"""What of the manifest a fingerprint covers, besides the features themselves."""


OTHER_NUMBERS = "holds other numbers than were written: it is damaged, or another video's. Remove it and run prepare.py again"


class FeatureStore:
    """A feature store on disk.

    Args:
        path: the store's folder; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {}
        self._sound: set[str] = set()  # videos whose pooled file has been compared with what was written
        self._load()

    @property
    def videos(self) -> dict[str, dict[str, Any]]:
        """Video name -> {frames, fps, width, height, declared_frames, crc32, bytes, pooled_bytes}, of every finished video."""
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
        journals, path = list(self.path.glob("journal-*.jsonl")), self.path / MANIFEST  # what is merged after this is missed
        if path.is_file():
            self.manifest = read_manifest(path)
        for journal in journals:
            try:
                lines = journal.read_bytes().split(b"\n")
            except FileNotFoundError:
                return self._load()
            except OSError as error:
                raise FeatureStoreError(f"{journal}: not readable ({error.strerror}). Remove it and run prepare.py") from error
            for line in lines:
                with contextlib.suppress(ValueError):  # a line of a killed process may be cut short
                    self._enter_if_sound(parse_json(line))

    def _enter_if_sound(self, entry: Any) -> None:
        """Take a journal's word on a video; a damaged line is none, and its video is extracted again."""
        if not isinstance(entry, dict) or not isinstance(entry.get("video"), str) or not self.exists():
            return
        locations = self.grid[0] * self.grid[1]
        if isinstance(entry.get("error"), str) or problem(entry, locations, self.channels) is None:
            self._enter(entry)

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

    def fingerprint(self, names: Iterable[str]) -> str | None:
        """SHA-256 over what made the features, and the sorted names, frame counts and CRC-32s of some finished videos.

        Returns:
            The digest; None where a video was extracted before CRC-32s were recorded.
        """
        made = {key: self.manifest.get(key) for key in MADE_BY}
        rows = [(name, self.frames(name), self.videos[name].get("crc32")) for name in sorted(names)]
        if any(crc is None for *_, crc in rows):
            return None
        return hashlib.sha256(json.dumps([made, rows], sort_keys=True).encode()).hexdigest()

    def read(self, name: str) -> np.ndarray:
        """A video's features, (F, K, D) float16, memory-mapped.

        Of the values, the first and the last frame's are compared with those that were written: that tells another video's
        file, and one whose end never reached the disk. ``damaged`` compares all.

        Raises:
            FeatureStoreError: the file is missing, damaged, another video's, or has another shape or dtype than the
                manifest says.
        """
        path, entry = self.file(name), self.videos[name]
        cubes = self._open(path, DTYPE, (self.frames(name), self.grid[0] * self.grid[1], self.channels))
        ends = zlib.crc32(cubes[-1].data, zlib.crc32(cubes[0].data))
        if entry.get("ends_crc32", ends) != ends:
            raise FeatureStoreError(f"{path}: {OTHER_NUMBERS}")
        return cubes

    def pooled(self, name: str) -> np.ndarray:
        """Mean and maximum of a video's cubes over locations, (F, 2, D) float32, memory-mapped. Raises as ``read``."""
        path = self.pooled_file(name)
        pooled = self._open(path, POOLED_DTYPE, (self.frames(name), 2, self.channels))
        if name not in self._sound:
            written = self.videos[name].get("pooled_crc32")
            if written is not None and zlib.crc32(pooled.data) != written:
                raise FeatureStoreError(f"{path}: {OTHER_NUMBERS}")
            self.require_finite(name, pooled)
            self._sound.add(name)
        return pooled

    def require_finite(self, name: str, features: np.ndarray, first: int = 0) -> None:
        """Check that no value of some frames is NaN or infinite; costs a seventh of a second a gigabyte.

        Args:
            name: the video.
            features: (n, …) float16 or float32 of some of its frames.
            first: number of the first of them.

        Raises:
            FeatureStoreError: one is; names the file and the frame.
        """
        # As integers without their sign, numbers are in order, and what is not finite comes last.
        kind, sign, infinity = (np.uint16, 0x8000, 0x7C00) if features.itemsize == 2 else (np.uint32, 1 << 31, 0x7F80_0000)
        for begin in range(0, len(features), PIECE):
            piece = np.ascontiguousarray(features[begin : begin + PIECE])
            magnitude = piece.view(kind) & kind(sign - 1)
            if magnitude.max() >= infinity:
                frame = first + begin + int(np.argmax(magnitude.reshape(len(piece), -1).max(axis=1) >= infinity))
                raise FeatureStoreError(
                    f"{self.file(name)}: features of frame {frame} are not finite; the file is damaged. Remove it and run "
                    "prepare.py again"
                )

    def damaged(self, names: Iterable[str]) -> dict[str, str]:
        """Those of some finished videos whose files do not hold what was written, and why; reads all of it."""
        found = {}
        for name in names:
            try:
                cubes = self.read(name)
                self.require_finite(name, cubes)
                self.pooled(name)
                crc = zlib.crc32(cubes.data)
                if self.videos[name].get("crc32", crc) != crc:
                    found[name] = f"{self.file(name)}: {OTHER_NUMBERS}"
            except FeatureStoreError as error:
                found[name] = str(error)
        return found

    @staticmethod
    def _open(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        try:
            # not np.load, which would also try archives and pickles
            array = np.lib.format.open_memmap(path, mode="r")
        except Exception as error:  # NumPy's reader of headers raises whatever it meets in them
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise FeatureStoreError(f"{path}: not readable ({reason}). Remove it and run prepare.py again") from error
        if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
            order = "" if array.flags.c_contiguous else " in Fortran order"
            raise FeatureStoreError(
                f"{path}: holds {array.dtype} {array.shape}{order}, the manifest says {dtype} {shape}. "
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
        self._cubes = GrowingArray(store.file(name), DTYPE, self._shape)
        self._pooled = GrowingArray(store.pooled_file(name), POOLED_DTYPE, (2, store.channels))
        self._ends: list[np.ndarray] = []  # the first frame and the last
        self._crc = self._pooled_crc = 0  # CRC-32 costs a fifth of the pooling's time, SHA-256 half of it

    @property
    def frames(self) -> int:
        """Frames written so far."""
        return self._cubes.length

    def append(self, features: np.ndarray) -> None:
        """Add (n, K, D) features of the next n frames.

        Raises:
            FeatureStoreError: another shape, or a value that is not finite; the frame is named.
        """
        if not len(features):
            return
        if features.shape[1:] != self._shape:
            raise FeatureStoreError(f"{self.name}: features of shape {features.shape[1:]}, the store has {self._shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            half = np.ascontiguousarray(features, dtype=DTYPE)
            single = half.astype(np.float32)
            pooled = np.stack([single.mean(axis=1), single.max(axis=1)], axis=1)
        if not np.isfinite(pooled).all():  # a cell that is not finite leaves no finite mean
            frame = self.frames + int(np.argmin(np.isfinite(pooled).all(axis=(1, 2))))
            raise FeatureStoreError(f"{self.name}: features of frame {frame} are not finite in half precision")
        self._ends = [self._ends[0] if self._ends else half[0].copy(), half[-1].copy()]
        self._crc = zlib.crc32(half.data, self._crc)
        self._pooled_crc = zlib.crc32(np.ascontiguousarray(pooled, dtype=POOLED_DTYPE).data, self._pooled_crc)
        self._cubes.append(half)
        self._pooled.append(pooled)

    def close(self, **facts: Any) -> None:
        """Put the files in their places and enter the video, with further facts, in the journal.

        Raises:
            FeatureStoreError: there is no frame.
        """
        if not self._ends:
            raise FeatureStoreError(f"{self.name}: has no frame")
        pooled_bytes, size = self._pooled.close(), self._cubes.close()
        entry = {"video": self.name, "frames": self.frames, **facts, "crc32": self._crc, "pooled_crc32": self._pooled_crc}
        entry["ends_crc32"] = zlib.crc32(self._ends[-1].data, zlib.crc32(self._ends[0].data))
        entry |= {"bytes": size, "pooled_bytes": pooled_bytes}
        self.store._journal(entry, self.rank)

    def discard(self) -> None:
        """Drop what was written."""
        self._cubes.discard()
        self._pooled.discard()


def replaced(annotation: Annotation, store: FeatureStore, videos: Iterable[Video] | None = None) -> dict[str, tuple[int, int]]:
    """Videos, of train and test or of those given, whose files are not those that their features were made from.

    Returns:
        Video name -> its file's size in bytes at extraction, and now.
    """
    found = {}
    for video in annotation.videos if videos is None else videos:
        then = store.videos.get(video.name, {}).get("source_bytes")
        if then is not None:
            with contextlib.suppress(OSError):  # a missing video is the annotation's affair
                now = annotation.path(video).stat().st_size
                if now != then:
                    found[video.name] = (then, now)
    return found


def to_extract(annotation: Annotation, store: FeatureStore, videos: Iterable[Video] | None = None) -> list[str]:
    """Videos, of train and test or of those given, that lack features or have those of a file that was replaced since."""
    videos = annotation.videos if videos is None else tuple(videos)
    return sorted({*store.missing(video.name for video in videos), *replaced(annotation, store, videos)})


def usable(annotation: Annotation, store: FeatureStore, skip_bad: bool) -> Annotation:
    """The annotation without the videos that a finished store knows to be bad.

    Raises:
        FeatureStoreError: the store lacks videos, or has features of files that were replaced since.
        DataError: videos are bad and ``skip_bad`` is not set, or leave a class without any.
    """
    names = [video.name for video in annotation.videos]
    missing = store.missing(names)
    if missing:
        raise FeatureStoreError(
            f"{store.path.resolve()}: features of {len(missing)} of {len(names)} videos are missing, {missing[0]!r} for "
            "one; python reproduce/prepare.py with the same settings extracts them"
        )
    others = replaced(annotation, store)
    if others:
        name, (then, now) = next(iter(others.items()))
        raise FeatureStoreError(
            f"{store.path.resolve()}: {len(others)} videos were replaced since their features were made, {name!r} for one: "
            f"it had {then} bytes and has {now}; python reproduce/prepare.py with the same settings extracts them again"
        )
    bad = [name for name in names if name in store.bad]
    if bad and not skip_bad:
        raise DataError(
            f"{annotation.data}: {len(bad)} videos do not decode: {', '.join(map(repr, bad[:5]))}. Replace the files and "
            "run prepare.py with retry_bad=true, or leave them out, and have every table say so, with data.skip_bad=true"
        )
    left = annotation.without(bad, "do not decode")
    if bad:
        check_sides(left, f"    {len(bad)} videos do not decode; replace the files and run prepare.py with retry_bad=true")
    return left
