"""What the manifest and the journals of a feature store may say. Free of torch.

A store holds for every video one or several arrays which share one number of rows. Of the first array, which may be large,
an entry says ``bytes``, ``crc32`` and ``ends_crc32``, of any other ``<name>_bytes`` and ``<name>_crc32``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.blocks import BLOCK_LENGTH
from datamodules.reading import SHOWN, DataError, parse_json, read_text

FORMAT = 2
LARGEST_HEADER = 4096  # bytes of a .npy file before its numbers; NumPy takes 128 for these
HEADER_STEP = 64  # NumPy fills its headers up to a multiple of this
MOST_ROWS, MOST_BYTES, MOST_SIDE = 10**9, 2**60, 10**7  # more than any video and array has
DTYPES = ("<f2", "<f4", "|u1")
CUBES, POOLED, DESCRIPTORS, VECTORS = "cubes", "pooled", "descriptors", "vectors"
CUBES_DTYPE, POOLED_DTYPE = "<f2", "<f4"


class FeatureStoreError(DataError):
    """A feature store is missing, incomplete, damaged, or made with another configuration."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of every video, (rows, *row_shape).

    Args:
        name: of the array.
        dtype: ``<f2``, ``<f4`` or ``|u1``.
        row_shape: of a row.
    """

    name: str
    dtype: str
    row_shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return np.dtype(self.dtype).itemsize * math.prod(self.row_shape)


@dataclass(frozen=True)
class StoreSpec:
    """What a store of any kind holds and what decides the values; two stores with equal specs are the same.

    Args:
        kind: one of ``KINDS``.
        arrays: of every video; the first one is that which the others belong to.
        made_from: what decides the values, as a configuration states it: texts, numbers, or None by name.
    """

    kind: str
    arrays: tuple[ArraySpec, ...]
    made_from: Mapping[str, Any]


@dataclass(frozen=True)
class FeatureSpec:
    """What decides the values of feature cubes, as a configuration states it; the map's shape follows from it.

    Args:
        backbone: name of the network.
        weights: ``imagenet:<torchvision's name>``, ``random:<seed>``, ``file:<SHA-256>`` or ``released``.
        layer: node of the network whose output is stored; None for the last convolutional map.
        size: side in pixels of the square the frames are squashed to; None for the network's own.
        resize: of the paper's own network, ``authors`` or ``direct``; None for others.
        mean: of the paper's own network, ``channels`` or ``image:<SHA-256>``; None for others.
        finer: further nodes whose maps lie packed behind the first one's, apart by commas; None where there are none.
        side: rows and columns that these have at most; None where there are none.
        blocks: drawn at random from each video, and the seed, in words; None where all frames have features.
    """

    backbone: str
    weights: str
    layer: str | None
    size: int | None
    resize: str | None = None
    mean: str | None = None
    finer: str | None = None
    side: int | None = None
    blocks: str | None = None

    @property
    def kind(self) -> str:
        """The kind of store."""
        return CUBES

    @property
    def made_from(self) -> dict[str, Any]:
        """The fields by name; those that few stores have, only of one that has them."""
        always = ("backbone", "weights", "layer", "size")
        return {key: value for key, value in asdict(self).items() if value is not None or key in always}


@dataclass(frozen=True)
class ViewSpec:
    """What decides the values of views, as a configuration states it; their shape follows from the network.

    Args:
        made_from: texts, numbers, or None by name.
    """

    made_from: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The kind of store."""
        return "views"


@dataclass(frozen=True)
class Kind:
    """What all stores of one kind have in common.

    Args:
        row: what a row is; a manifest counts ``<row>s``.
        least, most: rows of a video.
        derived: arrays that follow from the first one; fingerprints pass over them.
        made_by: what of the manifest a fingerprint covers; None for all but the videos and notes.
    """

    row: str
    least: int = 1
    most: int = MOST_ROWS
    derived: tuple[str, ...] = ()
    made_by: tuple[str, ...] | None = None


MADE_BY = ("spec", "grid", "channels", "dtype", "weights_sha256", "resize", "precision", "compiled", "decoder")
KINDS = {
    CUBES: Kind("frame", derived=(POOLED,), made_by=MADE_BY),
    "flow": Kind("field"),
    "gray": Kind("frame"),
    "views": Kind("view"),
    DESCRIPTORS: Kind("row", least=0),
    VECTORS: Kind("row", most=1),
}


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a store's manifest.

    Raises:
        FeatureStoreError: it is none, one of another format, or contradicts itself; says what is wrong with which video.
    """
    try:
        found = parse_json(read_text(path))
        if not isinstance(found, dict) or "format" not in found:
            raise ValueError("no 'format'")
        if type(found["format"]) is int and found["format"] != FORMAT:
            raise FeatureStoreError(f"{path}: format {found['format']}, this version reads {FORMAT}. Extract again")
        check_manifest(found)
    except FeatureStoreError:
        raise
    except (ValueError, DataError) as error:
        raise FeatureStoreError(
            f"{path}: not a manifest of a feature store ({error}). Remove the folder and extract again"
        ) from error
    return found


def check_manifest(found: dict[str, Any]) -> None:
    """Raise a ValueError that says what is wrong where a manifest contradicts itself."""
    if found["format"] != FORMAT or type(found["format"]) is not int:
        raise ValueError(f"'format' is {found['format']!r}")
    _check_arrays(found) if "kind" in found else _check_cubes(found)
    if not _is_list_of_texts(found.get("notes", [])):
        raise ValueError("'notes' must be a list of texts")
    videos, bad = found.get("videos", {}), found.get("bad", {})
    if not isinstance(videos, dict) or not isinstance(bad, dict):
        raise ValueError("'videos' and 'bad' must say something of each video by its name")
    spec = spec_of(found)
    for name, entry in videos.items():
        reason = problem(entry, spec)
        if reason:
            raise ValueError(f"video {name!r}: {reason}")
    for name, reason in bad.items():
        if not isinstance(reason, str):
            raise ValueError(f"bad video {name!r}: no reason")


def _check_cubes(found: dict[str, Any]) -> None:
    """The manifests of feature cubes are older than other kinds and say the shapes in their own way."""
    if not isinstance(found.get("spec"), dict) or not _is_count(found.get("channels"), MOST_SIDE):
        raise ValueError("'spec' and 'channels' must say what the features are")
    grid = found.get("grid")
    if not isinstance(grid, list) or len(grid) != 2 or not all(_is_count(side, 10**5) for side in grid):
        raise ValueError("'grid' must be its rows and columns")
    scales = found.get("scales", [])
    if not isinstance(scales, list) or not all(map(_is_scale, scales)):
        raise ValueError("'scales' must be rows, columns and channels of each map")


def _is_scale(found: Any) -> bool:
    return isinstance(found, list) and len(found) == 3 and all(_is_count(number, MOST_SIDE) for number in found)


def _check_arrays(found: dict[str, Any]) -> None:
    if found["kind"] not in [kind for kind in KINDS if kind != CUBES]:
        raise ValueError(f"'kind' is {found['kind']!r}")
    if not isinstance(found.get("made_from"), dict):
        raise ValueError("'made_from' must say what decides the values")
    arrays = found.get("arrays")
    if not isinstance(arrays, list) or not arrays or not all(map(_is_array, arrays)):
        raise ValueError("'arrays' must be a name, a dtype and a shape of rows for each array")
    if len({array["name"] for array in arrays}) < len(arrays):
        raise ValueError("'arrays' has a name twice")


def _is_array(found: Any) -> bool:
    if not isinstance(found, dict) or found.keys() != {"name", "dtype", "row_shape"} or found["dtype"] not in DTYPES:
        return False
    # A name is a folder's: it must not lead out of the store, nor be that of the first array.
    named = isinstance(found["name"], str) and re.fullmatch("[a-z]+", found["name"]) and found["name"] != "videos"
    shape = found["row_shape"]
    return bool(named) and isinstance(shape, list) and bool(shape) and all(_is_count(side, MOST_SIDE) for side in shape)


def _is_count(value: Any, most: int, least: int = 1) -> bool:
    return type(value) is int and least <= value <= most


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def spec_of(manifest: Mapping[str, Any]) -> StoreSpec:
    """What a manifest says of its store."""
    if "kind" not in manifest:
        (rows, columns), channels = manifest["grid"], manifest["channels"]
        arrays = (ArraySpec(CUBES, CUBES_DTYPE, (rows * columns, channels)), ArraySpec(POOLED, POOLED_DTYPE, (2, channels)))
        return StoreSpec(CUBES, arrays, manifest.get("spec", {}))
    arrays = tuple(ArraySpec(one["name"], one["dtype"], tuple(one["row_shape"])) for one in manifest["arrays"])
    return StoreSpec(manifest["kind"], arrays, manifest["made_from"])


def described(spec: StoreSpec) -> dict[str, Any]:
    """What a manifest of any kind but feature cubes says of its store; ``spec_of`` reads it."""
    arrays = [{**asdict(array), "row_shape": list(array.row_shape)} for array in spec.arrays]
    return {"kind": spec.kind, "arrays": arrays, "made_from": dict(spec.made_from)}


def problem(entry: Any, spec: StoreSpec) -> str | None:
    """What is wrong with what a manifest or a journal says of a video; None where it may be so."""
    if not isinstance(entry, dict):
        return "no facts about it"
    kind, prefixes = KINDS[spec.kind], prefixes_of(spec)
    rows = f"{kind.row}s"
    if not _is_count(entry.get(rows), kind.most, kind.least):
        return f"{rows} is {entry.get(rows)!r}"
    for prefix in prefixes:
        if not _is_count(entry.get(f"{prefix}bytes"), MOST_BYTES):
            return f"{prefix}bytes is {entry.get(f'{prefix}bytes')!r}"
    optional = {"source_bytes": MOST_BYTES, "ends_crc32": 2**32, **{f"{prefix}crc32": 2**32 for prefix in prefixes}}
    for key, most in optional.items():
        if key in entry and not _is_count(entry[key], most, least=0):
            return f"{key} is {entry[key]!r}"
    declared = entry.get("declared_frames", 0)
    if type(declared) is not int:
        return f"declared_frames is {declared!r}"
    if not isinstance(entry.get("damage", ""), str):
        return f"damage is {entry['damage']!r}"
    drawn, starts = spec.made_from.get("blocks") is not None, entry.get("starts")
    if ("starts" in entry) != drawn or (drawn and not _are_starts(starts, entry[rows])):
        return f"starts is {str(starts)[:SHOWN]}, of {entry[rows]} {rows}"
    for prefix, array in zip(prefixes, spec.arrays, strict=True):
        key, numbers = f"{prefix}bytes", entry[rows] * array.row_bytes
        header = entry[key] - numbers
        if not 0 < header <= LARGEST_HEADER or header % HEADER_STEP:
            return f"{entry[rows]} {rows} take {numbers} {key} and a header, it says {entry[key]}"
    return None


def _are_starts(found: Any, rows: int) -> bool:
    """Whether these may be the first frames of a video's blocks: ascending, each of ``BLOCK_LENGTH`` rows, or one of fewer."""
    if not isinstance(found, list) or not found or not all(_is_count(start, MOST_ROWS, least=0) for start in found):
        return False
    return found == sorted(set(found)) and (rows == len(found) * BLOCK_LENGTH or (found == [0] and rows < BLOCK_LENGTH))


def prefixes_of(spec: StoreSpec) -> list[str]:
    """What stands before ``bytes`` and ``crc32`` of each array in an entry."""
    return ["", *(f"{array.name}_" for array in spec.arrays[1:])]
