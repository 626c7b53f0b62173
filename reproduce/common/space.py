"""Disk space: what work will take, compared with what is free, before it begins."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.videos import DataError

RESERVE = 256 << 20  # bytes that stay free on every disk


@dataclass(frozen=True)
class Need:
    """Bytes that something will take below a folder, which need not exist yet."""

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
    """A folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
