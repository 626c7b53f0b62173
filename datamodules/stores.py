"""Stores of what systems read of every video: arrays that share one number of rows, and a manifest that says what made them.

Layout of a store::

    manifest.json              what the arrays are, and every finished video; written by one process
    journal-<rank>.jsonl       videos finished since, one line each; merged into the manifest when extraction ends
    videos/<video name>.npy    the first array, such as feature cubes (F, K, D) float16; memory-mapped when read
    <array>/<video name>.npy   each further array, such as the cubes' means and maxima (F, 2, D) float32

A file is written under another name and renamed when complete and on disk, and entered in the journal after that: a
video is done exactly if it is listed and its files have the listed sizes. Free of torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import write_atomically
from datamodules.growing import GrowingArray
from datamodules.manifest import (
    CUBES,
    FORMAT,
    KINDS,
    ArraySpec,
    FeatureSpec,
    FeatureStoreError,
    StoreSpec,
    ViewSpec,
    check_manifest,
    described,
    prefixes_of,
    problem,
    read_manifest,
    spec_of,
)
from datamodules.reading import parse_json

PIECE = 64  # rows looked at together, which fit into a processor's cache
MANIFEST = "manifest.json"
PRECISION = {2: "half", 4: "single"}  # by bytes of a number
NOT_MADE_BY = ("format", "notes", "videos", "bad")  # of a manifest
OTHER_NUMBERS = "holds other numbers than were written: it is damaged, or another video's. Remove it and run prepare.py again"


class Store:
    """A store of any kind on disk.

    Args:
        path: the store's folder; need not exist.

    Raises:
        FeatureStoreError: its manifest or a journal cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {}
        self._sound: set[tuple[str, str]] = set()  # array and video, of files that were compared with what was written
        self._load()

    @property
    def spec(self) -> StoreSpec:
        """What the store holds and what decides the values, as its manifest says."""
        return spec_of(self.manifest)

    @property
    def videos(self) -> dict[str, dict[str, Any]]:
        """Video name -> {rows or frames, fps, width, height, crc32, bytes …}, of every finished video."""
        return self.manifest.get("videos", {})

    @property
    def bad(self) -> dict[str, str]:
        """Video name -> why it could not be decoded."""
        return self.manifest.get("bad", {})

    @property
    def damaged_files(self) -> dict[str, str]:
        """Name of a finished video whose file is damaged -> what is damaged; its arrays are of what decodes."""
        return {name: entry["damage"] for name, entry in self.videos.items() if "damage" in entry}

    @property
    def notes(self) -> list[str]:
        """What every table made from this store has to say about it."""
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
        if isinstance(entry.get("error"), str) or problem(entry, self.spec) is None:
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
        return "format" in self.manifest

    def require(self, spec: StoreSpec | FeatureSpec | ViewSpec) -> None:
        """Check that the store was made as a configuration asks.

        Raises:
            FeatureStoreError: it was not; every difference is named.
        """
        if not self.exists():
            raise FeatureStoreError(f"no feature store in {self.path.resolve()}; python reproduce/prepare.py makes it")
        found = self.spec
        pairs: dict[str, tuple[Any, Any]] = {"kind": (found.kind, spec.kind)}
        if isinstance(spec, StoreSpec):
            pairs["arrays"] = (_in_words(found.arrays), _in_words(spec.arrays))
        for key in [*spec.made_from, *(key for key in found.made_from if key not in spec.made_from)]:
            pairs[key] = (found.made_from.get(key), spec.made_from.get(key))
        different = [
            f"{key} is {there!r}, the configuration asks for {asked!r}"
            for key, (there, asked) in pairs.items()
            if there != asked
        ]
        if different:
            settings = "backbone.* settings" if found.kind == CUBES else "settings"
            raise FeatureStoreError(
                f"the features in {self.path.resolve()} were made with another configuration: {'; '.join(different)}. "
                f"Give the {settings} they were made with, choose another paths.features, or remove the folder"
            )

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of some videos that are neither finished nor known to be bad."""
        return [name for name in names if name not in self.bad and not self._is_whole(name)]

    def _is_whole(self, name: str) -> bool:
        entry = self.videos.get(name)
        if entry is None:
            return False
        spec = self.spec
        try:
            sizes = [self.file(name, array.name).stat().st_size for array in spec.arrays]
        except OSError:
            return False
        return sizes == [entry[f"{prefix}bytes"] for prefix in prefixes_of(spec)]

    def file(self, name: str, array: str | None = None) -> Path:
        """Where an array of a video lies, the first one by default."""
        folder = "videos" if array in (None, self.spec.arrays[0].name) else array
        return self.path / folder / f"{name}.npy"

    def rows(self, name: str) -> int:
        """Rows of each array of a finished video."""
        return int(self.videos[name][f"{KINDS[self.spec.kind].row}s"])

    def fingerprint(self, names: Iterable[str]) -> str | None:
        """SHA-256 over what made the arrays, and the sorted names, rows and CRC-32s of some finished videos.

        Returns:
            The digest; None where a video was extracted before CRC-32s were recorded.
        """
        spec, kind = self.spec, KINDS[self.spec.kind]
        made_by = [key for key in self.manifest if key not in NOT_MADE_BY] if kind.made_by is None else kind.made_by
        made = {key: self.manifest.get(key) for key in made_by}
        prefixes = [prefix for prefix in prefixes_of(spec) if prefix.rstrip("_") not in kind.derived]
        rows = [
            (name, self.rows(name), *(self.videos[name].get(f"{prefix}crc32") for prefix in prefixes)) for name in sorted(names)
        ]
        if any(crc is None for _, _, *crcs in rows for crc in crcs):
            return None
        return hashlib.sha256(json.dumps([made, rows], sort_keys=True).encode()).hexdigest()

    def read(self, name: str, array: str | None = None) -> np.ndarray:
        """An array of a video, the first one by default, (rows, *row_shape), memory-mapped.

        Of the first array's values, the first and the last row's are compared with those that were written: that tells
        another video's file, and one whose end never reached the disk. Further arrays are compared as a whole, once.
        ``damaged`` compares all.

        Raises:
            FeatureStoreError: the file is missing, damaged, another video's, or has another shape or dtype than the
                manifest says.
        """
        specs, entry = self.spec.arrays, self.videos[name]
        spec = specs[0] if array is None else next(one for one in specs if one.name == array)
        path = self.file(name, spec.name)
        values = self._open(path, np.dtype(spec.dtype), (self.rows(name), *spec.row_shape))
        if spec is specs[0]:
            ends = _crc_of_ends(values[:1], values[-1:])
            if entry.get("ends_crc32", ends) != ends:
                raise FeatureStoreError(f"{path}: {OTHER_NUMBERS}")
        elif (spec.name, name) not in self._sound:
            written = entry.get(f"{spec.name}_crc32")
            if written is not None and zlib.crc32(values.data) != written:
                raise FeatureStoreError(f"{path}: {OTHER_NUMBERS}")
            self.require_finite(name, values, array=spec.name)
            self._sound.add((spec.name, name))
        return values

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

    def require_finite(self, name: str, values: np.ndarray, first: int = 0, array: str | None = None) -> None:
        """Check that no value of some rows is NaN or infinite; costs a seventh of a second a gigabyte.

        Args:
            name: the video.
            values: (n, …) of some of its rows; integers are finite.
            first: number of the first of them.
            array: that they are of; the first one by default.

        Raises:
            FeatureStoreError: one is; names the file and the row.
        """
        odd = _first_not_finite(values)
        if odd is not None:
            raise FeatureStoreError(
                f"{self.file(name, array)}: features of {KINDS[self.spec.kind].row} {first + odd} are not finite; the file is "
                "damaged. Remove it and run prepare.py again"
            )

    def damaged(self, names: Iterable[str]) -> dict[str, str]:
        """Those of some finished videos whose files do not hold what was written, and why; reads all of it."""
        found, spec = {}, self.spec
        for name in names:
            try:
                for array, prefix in zip(spec.arrays, prefixes_of(spec), strict=True):
                    values = self.read(name, array.name)
                    self.require_finite(name, values, array=array.name)
                    crc = zlib.crc32(values.data)
                    if self.videos[name].get(f"{prefix}crc32", crc) != crc:
                        raise FeatureStoreError(f"{self.file(name, array.name)}: {OTHER_NUMBERS}")
            except FeatureStoreError as error:
                found[name] = str(error)
        return found

    def begin(self, spec: StoreSpec, about: dict[str, Any]) -> None:
        """Write the manifest of a new store, or find that the one there says the same; ``FeatureStore`` creates its own.

        Args:
            spec: what the store holds and what decides the values.
            about: further facts of how they are made, for the fingerprint, and ``notes``.

        Raises:
            FeatureStoreError: the store exists with another spec.
            ValueError: no store can be as the spec says.
        """
        if self.exists():
            self.require(spec)
        else:
            self._write_new({**described(spec), **about})

    def _write_new(self, facts: dict[str, Any]) -> None:
        check_manifest({"format": FORMAT, **facts})
        self.manifest |= {"format": FORMAT, **facts}
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
        """Begin to write one video's arrays."""
        return VideoWriter(self, name, rank)

    def enter_bad(self, name: str, reason: str, rank: int = 0) -> None:
        """Note that a video cannot be decoded."""
        self.enter({"video": name, "error": reason}, rank)

    def enter(self, entry: dict[str, Any], rank: int) -> None:
        """Add a line on one video to a process's journal."""
        with (self.path / f"journal-{rank}.jsonl").open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # the process before this one was killed within a line
                    file.write(b"\n")
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._enter(dict(entry))


def _in_words(arrays: tuple[ArraySpec, ...]) -> str:
    return ", ".join(f"{array.name} {array.dtype} {array.row_shape}" for array in arrays)


def _crc_of_ends(first: np.ndarray, last: np.ndarray) -> int:
    """CRC-32 of a first and a last row, (1, …) each, or (0, …) where there is none."""
    return zlib.crc32(last.data, zlib.crc32(first.data))


def _first_not_finite(values: np.ndarray) -> int | None:
    """The first row that holds NaN or infinity; None where all values are finite."""
    if values.dtype.kind != "f":
        return None
    # As integers without their sign, numbers are in order, and what is not finite comes last.
    kind, sign, infinity = (np.uint16, 0x8000, 0x7C00) if values.itemsize == 2 else (np.uint32, 1 << 31, 0x7F80_0000)
    for begin in range(0, len(values), PIECE):
        piece = np.ascontiguousarray(values[begin : begin + PIECE])
        magnitude = piece.view(kind) & kind(sign - 1)
        if magnitude.max() >= infinity:
            return begin + int(np.argmax(magnitude.reshape(len(piece), -1).max(axis=1) >= infinity))
    return None


class VideoWriter:
    """Writes one video's arrays piece by piece; the video is not done before ``close``.

    Args:
        store: the store to write to.
        name: the video.
        rank: number of the writing process.
        derive: makes the last array from the first one; None where all are given.
    """

    def __init__(
        self, store: Store, name: str, rank: int = 0, derive: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        self.store, self.name, self.rank, self._derive = store, name, rank, derive
        spec = store.spec
        self._kind, self._prefixes = KINDS[spec.kind], prefixes_of(spec)
        self._arrays = [GrowingArray(store.file(name, a.name), np.dtype(a.dtype), a.row_shape) for a in spec.arrays]
        self._crcs = [0] * len(spec.arrays)  # CRC-32 costs a fifth of the pooling's time, SHA-256 half of it
        self._ends: list[np.ndarray] = []  # the first row of the first array and the last, (1, …) each

    @property
    def rows(self) -> int:
        """Rows written so far."""
        return self._arrays[0].length

    def append(self, *given: np.ndarray) -> None:
        """Add the next n rows of each array, (n, *row_shape), but for the one that is derived.

        Raises:
            FeatureStoreError: another shape or integers of another type, or a value that is not finite; the row is named.
        """
        lengths = [len(values) for values in given]
        if len(set(lengths)) > 1 or len(given) + (self._derive is not None) != len(self._arrays):
            raise FeatureStoreError(
                f"{self.name}: pieces of {lengths} rows, the store has {len(self._arrays)} arrays of one length"
            )
        if not lengths[0]:
            return
        pieces = [self._converted(values, array) for values, array in zip(given, self._arrays, strict=False)]
        if self._derive is not None:
            pieces.append(np.ascontiguousarray(self._derive(pieces[0]), dtype=self._arrays[-1].dtype))
        self._ends = [self._ends[0] if self._ends else pieces[0][:1].copy(), pieces[0][-1:].copy()]
        for number, (array, values) in enumerate(zip(self._arrays, pieces, strict=True)):
            self._crcs[number] = zlib.crc32(values.data, self._crcs[number])
            array.append(values)

    def _converted(self, values: np.ndarray, array: GrowingArray) -> np.ndarray:
        if values.shape[1:] != array.shape:
            raise FeatureStoreError(f"{self.name}: features of shape {values.shape[1:]}, the store has {array.shape}")
        if array.dtype.kind != "f" and values.dtype != array.dtype:  # a cast would wrap around
            raise FeatureStoreError(f"{self.name}: features of {values.dtype}, the store has {array.dtype}")
        with np.errstate(over="ignore", invalid="ignore"):
            converted = np.ascontiguousarray(values, dtype=array.dtype)
        odd = _first_not_finite(converted)
        if odd is not None:
            where, precision = f"{self._kind.row} {self.rows + odd}", PRECISION[array.dtype.itemsize]
            raise FeatureStoreError(f"{self.name}: features of {where} are not finite in {precision} precision")
        return converted

    def close(self, **facts: Any) -> None:
        """Put the files in their places and enter the video, with further facts, in the journal.

        Raises:
            FeatureStoreError: there are fewer or more rows than a video may have.
        """
        row, rows = self._kind.row, self.rows
        if not self._kind.least <= rows <= self._kind.most:
            raise FeatureStoreError(f"{self.name}: has {f'{rows} {row}s, where one is expected' if rows else f'no {row}'}")
        first, last = self._ends or [np.empty(0), np.empty(0)]
        sizes = [array.close() for array in reversed(self._arrays)][::-1]
        entry = {"video": self.name, f"{row}s": rows, **facts}
        entry |= {f"{prefix}crc32": crc for prefix, crc in zip(self._prefixes, self._crcs, strict=True)}
        entry["ends_crc32"] = _crc_of_ends(first, last)
        entry |= {f"{prefix}bytes": size for prefix, size in zip(self._prefixes, sizes, strict=True)}
        self.store.enter(entry, self.rank)

    def discard(self) -> None:
        """Drop what was written."""
        for array in self._arrays:
            array.discard()
