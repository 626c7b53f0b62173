"""Fields of settings: what each may be, and how they are listed with their meanings. Free of torch.

A string below a field is its meaning and appears in ``--help``; ``ranged`` and ``one_of`` say what a field may be.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, get_type_hints

INFINITY = float("inf")
MANY = 10_000  # an upper bound from here on only keeps what is absurd out, and is not named


def ranged(default: Any, low: float, high: float = INFINITY) -> Any:
    """A field for a number from ``low`` to ``high``; null is a value too where the field may be null."""
    return field(default=default, metadata={"range": (low, high)})


def one_of(default: Any, choices: Iterable[str]) -> Any:
    """A field for one of some words, which may be a mapping's keys; null is a value too where the field may be null."""
    return field(default=default, metadata={"choices": choices})


@dataclass(frozen=True)
class Entry:
    """One key: its dotted name, type as written, default, meaning, range and choices."""

    key: str
    type: str
    default: Any
    meaning: str
    range: tuple[float, float] | None = None
    choices: Iterable[str] | None = None


@lru_cache
def entries(cls: type, prefix: str = "") -> tuple[Entry, ...]:
    """Every key of a settings class, with its meaning."""
    found: list[Entry] = []
    meanings = _meanings(cls)
    hints = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        default = item.default_factory() if callable(item.default_factory) else item.default  # type: ignore[misc]
        if dataclasses.is_dataclass(hints[item.name]):
            found += entries(hints[item.name], f"{prefix}{item.name}.")  # type: ignore[arg-type]
        else:
            found.append(Entry(prefix + item.name, str(item.type), default, meanings.get(item.name, ""), **item.metadata))
    return tuple(found)


def _meanings(cls: type) -> dict[str, str]:
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for statement, following in zip(body, body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                meanings[statement.target.id] = following.value.value  # type: ignore[attr-defined]
    return meanings
