"""These functions replace a file as a whole or leave it as it was, and compute its hashes. Free of torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

PIECE = 1 << 22  # bytes read at a time


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Replace a file by another that is complete and on disk, or leave it as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Compute a file's SHA-256, in hexadecimal digits."""
    return file_hashes(path, ["sha256"])["sha256"]


def file_hashes(path: Path, names: Sequence[str], progress: Callable[[int], None] | None = None) -> dict[str, str]:
    """Compute several hashes of a file in one reading.

    Args:
        path: the file.
        names: of the hashes, such as ``md5``.
        progress: told how many bytes are read, after each piece.
    """
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    done = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            for digest in digests.values():
                digest.update(piece)
            done += len(piece)
            if progress:
                progress(done)
    return {name: digest.hexdigest() for name, digest in digests.items()}
