"""What the manifest and the journals of a feature store may say. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.reading import DataError, parse_json, read_text

FORMAT = 2
LARGEST_HEADER = 4096  # bytes of a .npy file before its numbers; NumPy takes 128 for these
HEADER_STEP = 64  # NumPy fills its headers up to a multiple of this
ENTRY = {"frames": 10**9, "bytes": 2**60, "pooled_bytes": 2**60}  # numbers of every video, and what none exceeds
OPTIONAL = {"source_bytes": 2**60, **dict.fromkeys(("crc32", "pooled_crc32", "ends_crc32"), 2**32)}


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


def read_manifest(path: Path) -> dict[str, Any]:
    """A store's manifest.

    Raises:
        FeatureStoreError: it is none, one of another format, or contradicts itself; says what is wrong with which video.
    """
    try:
        found = parse_json(read_text(path))
        if not isinstance(found, dict) or "format" not in found:
            raise ValueError("no 'format'")
        if type(found["format"]) is int and found["format"] != FORMAT:
            raise FeatureStoreError(f"{path}: format {found['format']}, this version reads {FORMAT}. Extract again")
        _check(found)
    except FeatureStoreError:
        raise
    except (ValueError, DataError) as error:
        raise FeatureStoreError(
            f"{path}: not a manifest of a feature store ({error}). Remove the folder and extract again"
        ) from error
    return found


def _check(found: dict[str, Any]) -> None:
    if found["format"] != FORMAT or type(found["format"]) is not int:
        raise ValueError(f"'format' is {found['format']!r}")
    spec = found.get("spec")
    if not isinstance(spec, dict) or not _is_count(found.get("channels"), 10**7):
        raise ValueError("'spec' and 'channels' must say what the features are")
    grid = found.get("grid")
    if not isinstance(grid, list) or len(grid) != 2 or not all(_is_count(side, 10**5) for side in grid):
        raise ValueError("'grid' must be its rows and columns")
    if not _is_list_of_texts(found.get("notes", [])):
        raise ValueError("'notes' must be a list of texts")
    videos, bad = found.get("videos", {}), found.get("bad", {})
    if not isinstance(videos, dict) or not isinstance(bad, dict):
        raise ValueError("'videos' and 'bad' must say something of each video by its name")
    for name, entry in videos.items():
        reason = problem(entry, grid[0] * grid[1], found["channels"])
        if reason:
            raise ValueError(f"video {name!r}: {reason}")
    for name, reason in bad.items():
        if not isinstance(reason, str):
            raise ValueError(f"bad video {name!r}: no reason")


def problem(entry: Any, locations: int, channels: int) -> str | None:
    """What is wrong with what a manifest or a journal says of a video; None where it may be so.

    Args:
        entry: what it says.
        locations: K.
        channels: D.
    """
    if not isinstance(entry, dict):
        return "no facts about it"
    for key, most in ENTRY.items():
        if not _is_count(entry.get(key), most):
            return f"{key} is {entry.get(key)!r}"
    for key, most in OPTIONAL.items():
        if key in entry and not (type(entry[key]) is int and 0 <= entry[key] <= most):
            return f"{key} is {entry[key]!r}"
    declared = entry.get("declared_frames", 0)
    if type(declared) is not int:
        return f"declared_frames is {declared!r}"
    frames = entry["frames"]
    sizes = (("bytes", frames * locations * channels * 2), ("pooled_bytes", frames * channels * 2 * 4))
    for key, numbers in sizes:
        header = entry[key] - numbers
        if not 0 < header <= LARGEST_HEADER or header % HEADER_STEP:
            return f"{frames} frames take {numbers} {key} and a header, it says {entry[key]}"
    return None


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 < value <= most


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
