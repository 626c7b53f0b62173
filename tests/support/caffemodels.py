"""Files of Caffe's kind, written byte by byte: no protobuf library has a part in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np


def number(value: int) -> bytes:
    """A varint."""
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def text(field: int, data: bytes) -> bytes:
    """A field that says its length first."""
    return number(field << 3 | 2) + number(len(data)) + data


def blob(values: np.ndarray, old: bool, packed: bool = True) -> bytes:
    data = values.astype("<f4").tobytes()
    if old:
        sizes = [*[1] * (4 - values.ndim), *values.shape]
        shape = b"".join(number(field << 3) + number(size) for field, size in enumerate(sizes, 1))
    else:
        shape = text(7, text(1, b"".join(map(number, values.shape))))
    if packed:
        return shape + text(5, data)
    return shape + b"".join(number(5 << 3 | 5) + data[at : at + 4] for at in range(0, len(data), 4))


def layer(name: str, blobs: list[bytes], old: bool) -> bytes:
    """A layer of either kind, with a field that nobody reads."""
    if old:
        return text(2, text(4, name.encode()) + number(5 << 3) + number(4) + b"".join(text(6, one) for one in blobs))
    return text(100, text(1, name.encode()) + text(2, b"Convolution") + b"".join(text(7, one) for one in blobs))


def write_caffemodel(path: Path, arrays: Mapping[str, np.ndarray], old: bool) -> Path:
    """Write weights by ``<layer>.weight`` and ``.bias``, as files of 2014 or of later have them."""
    names = dict.fromkeys(name.rpartition(".")[0] for name in arrays)
    layers = [layer(name, [blob(arrays[f"{name}.{part}"], old) for part in ("weight", "bias")], old) for name in names]
    path.write_bytes(text(1, b"GoogleNet") + b"".join(layers) + layer("relu", [], old))
    return path
