"""What is learned from data, as named arrays: their fingerprint, and parts under a prefix. NumPy alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256, in hexadecimal, of the arrays' names, shapes, types and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name}{values.shape}{values.dtype}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def joined(**parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All parts' arrays, each named ``<part>.<name>``."""
    return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def part_of(arrays: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """Those of ``joined`` arrays that are of one part, by their own names."""
    return {name[len(part) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{part}.")}


def arrays_of_options(options: Any) -> dict[str, np.ndarray]:
    """Fields of a dataclass of numbers, texts and tuples of them, each as an array."""
    return {name: np.asarray(value) for name, value in asdict(options).items()}


def options_of_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Undo ``arrays_of_options``."""
    values: dict[str, Any] = {name: value.tolist() for name, value in arrays.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
