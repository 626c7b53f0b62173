"""Damaged and wrong input for parsers, and a count, test by test, of what they make of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from datamodules.reading import DataError

EXAMPLES = 200
tries = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
Found = TypeVar("Found")

damage = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat", "swap"]),
        st.integers(0, 10_000),
        st.one_of(
            st.binary(min_size=1, max_size=6),
            st.sampled_from([b",", b'"', b"\n", b"\r", b"\0", b"\xff", b"-1", b"nan", b"9" * 30]),
        ),
    ),
    min_size=1,
    max_size=4,
)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def damaged(content: bytes, steps) -> bytes:
    """Content with bytes flipped, cut out, inserted, repeated or moved."""
    data = bytearray(content)
    for kind, where, what in steps:
        at = where % (len(data) + 1)
        if kind == "flip" and data:
            data[at % len(data)] ^= what[0] or 1
        elif kind == "cut":
            del data[at : at + len(what)]
        elif kind == "insert":
            data[at:at] = what
        elif kind == "repeat":
            data[at:at] = data[max(0, at - 20 * len(what)) : at]
        elif kind == "swap":
            data[:] = data[at:] + data[:at]
    return bytes(data)


class Fed:
    """What parsers make of what a test gives them."""

    def __init__(self) -> None:
        self.read: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.back: Counter[str] = Counter()

    def __call__(self, parser: str, read: Callable[[Path], Found], path: Path) -> Found | None:
        """What a parser makes of damaged input; None where it refuses it by name. Anything but a DataError is a failure."""
        try:
            found = read(path)
        except DataError as error:
            self.refused[parser] += 1
            assert str(path) in str(error), error
            return None
        self.read[parser] += 1
        return found


def feeding(count: Callable[[str, int], None]) -> Iterator[Fed]:
    """A fixture: feeds parsers; counts, at the end of the test, and requires that they refused many, or read all valid ones."""
    fed = Fed()
    yield fed
    for parser in fed.read | fed.refused:
        count(f"{parser}, fuzzed", fed.read[parser] + fed.refused[parser])
        assert fed.refused[parser] >= EXAMPLES // 10, f"{parser}: the damage would not be any"
    for parser, number in fed.back.items():
        assert number >= EXAMPLES // 2, f"{parser}: hardly any valid input was made"
