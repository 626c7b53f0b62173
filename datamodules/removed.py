"""Videos that were deleted once their features were complete: their names, sizes and hashes stay, in ``removed.json``.

With it a data set still counts as whole: its fingerprint and its comparison by content need no more than this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.reading import DataError, read_json

REMOVED = "removed.json"
"""In a data set's folder: ``{"videos": {name: {"bytes": …, "sha256": …}}}``. Files that are there count, listed or not."""


def removed_videos(root: Path) -> dict[str, dict[str, Any]]:
    """Video name -> ``bytes`` and ``sha256`` of every video that was deleted; empty where none was.

    Raises:
        DataError: the list is damaged.
    """
    path = root / REMOVED
    if not path.is_file():
        return {}
    videos = read_json(path, "remove it, and prepare.py with download=true gets the videos again").get("videos")
    if not isinstance(videos, dict) or not all(_is_entry(entry) for entry in videos.values()):
        raise DataError(f"{path}: no list of videos; remove it, and prepare.py with download=true gets the videos again")
    return videos


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("sha256"), str)


def video_bytes(path: Path, removed: dict[str, Any] | None) -> int:
    """Size of a video's file, or what it was: ``removed`` is its entry, if it has one."""
    return path.stat().st_size if removed is None or path.is_file() else removed["bytes"]
