"""A part of a data set, chosen on purpose: some of its numbered groups, or some of its classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from datamodules.reading import DataError

if TYPE_CHECKING:
    from datamodules.videos import Annotation, Video

RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


@dataclass(frozen=True)
class Part:
    """Which videos of a data set count.

    Args:
        groups: numbers of groups, ascending; none for all.
        classes: names of classes; none for all.
    """

    groups: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether it is less than the whole."""
        return bool(self.groups or self.classes)

    def __str__(self) -> str:
        """``groups 1-3, 9 classes``; empty for the whole."""
        said = [f"group{'s' * (len(self.groups) > 1)} {in_ranges(self.groups)}"] if self.groups else []
        return ", ".join([*said, *([f"{len(self.classes)} classes"] if self.classes else [])])

    def of(self, annotation: Annotation, group_number: Callable[[Video], int] | None) -> Annotation:
        """Leave the other videos out, and number the classes anew, in the data set's order; the split's name says so.

        A video of several labels stays where one of them is of a class that stays, with the labels that stay.

        Args:
            annotation: the whole data set.
            group_number: of a video; None where groups have no numbers.

        Raises:
            DataError: there is no such group or class, or groups have no numbers.
        """
        if self.groups and group_number is None:
            raise DataError(
                f"data.groups={in_ranges(self.groups)}: the groups of {annotation.data} have no numbers; data.classes=[…] "
                "chooses a part of any data set"
            )
        unknown = [name for name in self.classes if name not in annotation.classes]
        if unknown:
            raise DataError(
                f"data.classes: {annotation.data} has no class {unknown[0]!r}; it has {', '.join(annotation.classes)}"
            )
        if group_number is not None and self.groups:
            absent = sorted(set(self.groups) - {group_number(video) for video in annotation.listed})
            if absent:
                raise DataError(f"data.groups={in_ranges(self.groups)}: {annotation.data} has no group {absent[0]}")
        classes = tuple(name for name in annotation.classes if not self.classes or name in self.classes)
        number = {annotation.classes.index(name): new for new, name in enumerate(classes)}

        def chosen(videos: Sequence[Video]) -> tuple[Video, ...]:
            kept = [v for v in videos if group_number is None or not self.groups or group_number(v) in self.groups]
            kept = [replace(v, labels=tuple(number[label] for label in v.labels if label in number)) for v in kept]
            return tuple(video for video in kept if video.labels or not self.classes)

        return replace(
            annotation,
            split=f"{annotation.split} of {self}",
            classes=classes,
            train=chosen(annotation.train),
            test=chosen(annotation.test),
            spare=chosen(annotation.spare),
            part=str(self),
        )


WHOLE = Part()


def parse_groups(text: str) -> tuple[int, ...]:
    """``1-3,7`` -> (1, 2, 3, 7).

    Raises:
        ValueError: it is no list of numbers and ranges.
    """
    numbers: set[int] = set()
    for word in text.replace(" ", "").strip("[]").split(","):
        found = RANGE.fullmatch(word)
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise ValueError(f"data.groups={text}: write numbers and ranges, such as 1-3,7")
        numbers |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    return tuple(sorted(numbers))


def in_ranges(numbers: Sequence[int]) -> str:
    """(1, 2, 3, 7) -> ``1-3,7``."""
    ends: list[list[int]] = []
    for number in sorted(numbers):
        if ends and number == ends[-1][1] + 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in ends)
