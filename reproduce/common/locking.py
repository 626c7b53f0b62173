"""Work that one process does at a time. Free of torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from datamodules.videos import DataError


@contextlib.contextmanager
def one_at_a_time(path: Path, work: str) -> Iterator[None]:
    """Hold a lock, which the system releases when this process dies; wait where another process holds it, and say so.

    Args:
        path: of the lock.
        work: what the other process does, for the message.

    Raises:
        DataError: another process holds it, and this one is the first of several that torchrun or srun started: the others
            do not know that it waits.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if any(int(os.environ.get(name, "1") or 1) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS")):
            raise DataError(f"another process {work}; run this again when it has finished") from None
        print(f"another process {work}; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
