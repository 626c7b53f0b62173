"""A .npy file that is written piece by piece. Free of torch."""

from __future__ import annotations

import contextlib
import os
from io import BufferedWriter
from pathlib import Path

import numpy as np


class GrowingArray:
    """A .npy file whose first axis grows; nothing is seen under the final name before ``close``.

    Args:
        path: the file.
        dtype: of its numbers.
        shape: of a row.
    """

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
        """Write (n, *shape) rows after those there are."""
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
        """Drop what was written."""
        with contextlib.suppress(OSError):  # a full disk refuses the buffer's rest too
            self._file.close()
        self._part.unlink(missing_ok=True)
