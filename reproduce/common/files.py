"""These functions write CSV files, make safe names, and compare the disk space that work takes. Free of torch."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.files import write_atomically
from datamodules.reading import csv_text
from datamodules.videos import DataError

NAME_LENGTH = 80  # of a file, without number and suffix
WORDS_LENGTH = 48  # of what is said in a file's name
DIGEST_LENGTH = 8
NAMELESS = "video"  # one whose name has no letter that is safe
RESERVE = 256 << 20  # bytes that stay free on every disk


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, header first, as a whole or not at all; make its folder.

    Raises:
        DataError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, csv_text(rows))
    except OSError as error:
        raise DataError(f"cannot write {path.resolve()} ({error}); make room or set paths.results") from error


def sync_folder(folder: Path) -> None:
    """Wait until a folder's list of names is on disk, where the system has a way to."""
    with contextlib.suppress(OSError):  # Windows, and some network disks
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def safe_name(video: str) -> str:
    """Make of a video's name a part of a file's name: without suffix, other characters than A-Z a-z 0-9 _ as -."""
    stem = PurePosixPath(video).with_suffix("")
    return re.sub(r"[^A-Za-z0-9_]+", "-", str(stem))[-NAME_LENGTH:].strip("-")


def file_names(videos: Sequence[str]) -> list[str]:
    """Make a file's name, without suffix, for each of some videos: never empty, and all different, in capitals or not.

    Where ``safe_name`` says the same of several, those after the first have a number; so the names are those of the whole
    list in its order, and another list may give others.
    """
    names: list[str] = []
    taken: set[str] = set()  # in lower case, for systems that take A and a for the same
    for video in videos:
        name = base = safe_name(video) or NAMELESS
        number = 2
        while name.lower() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.lower())
        names.append(name)
    return names


def file_words(words: str) -> str:
    """Make of words a part of a file's name: as they are if short and safe, else some with a hash of all."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", words).strip("-")[:WORDS_LENGTH].rstrip("-_")
    if plain == words:
        return plain
    return f"{plain}-{hashlib.sha256(words.encode()).hexdigest()[:DIGEST_LENGTH]}".lstrip("-")


@dataclass(frozen=True)
class Need:
    """Says how many bytes something will take below a folder, which need not exist yet."""

    folder: Path
    bytes: int
    what: str


def check_space(needs: Sequence[Need]) -> None:
    """Compare what is needed on each disk with what is free there.

    Raises:
        DataError: a disk is too small; says what needs how much, where, and how much is free.
    """
    by_disk: dict[int, list[Need]] = {}
    for need in needs:
        if need.bytes > 0:
            by_disk.setdefault(os.stat(existing(need.folder)).st_dev, []).append(need)
    for on_disk in by_disk.values():
        total = sum(need.bytes for need in on_disk)
        folder = existing(on_disk[0].folder)
        free = shutil.disk_usage(folder).free
        if total + RESERVE > free:
            listed = "\n".join(f"    {_gib(need.bytes)} for {need.what} in {need.folder.resolve()}" for need in on_disk)
            raise DataError(
                f"too little disk space: {_gib(total)} are needed, {_gib(free)} are free on the disk of {folder.resolve()}\n"
                f"{listed}\nMake room, or set paths.data or paths.features to a larger disk"
            )


def existing(folder: Path) -> Path:
    """Find the nearest folder that exists: a folder itself, or one above it."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


def size_of(folder: Path) -> int:
    """Sum the bytes of all files below a folder, which another process may be writing."""
    total, folders = 0, [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as found:
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:  # renamed or removed since
            continue
    return total
