"""What train and test share: videos, groups (scene and actor), and file contents under two names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.files import file_sha256
from datamodules.removed import removed_videos, video_bytes
from datamodules.videos import Annotation, DataError, Video

MARK = "LEAKY"
"""Stands in the notes of every run whose test set is not apart from its training set; tables look for it."""

SHOWN = 3  # names in a note


@dataclass(frozen=True)
class Leaks:
    """What both sides of a split have.

    Args:
        videos: names that stand on both sides.
        groups: groups that have videos on both sides.
        grouped_test: how many test videos are of such a group.
        contents: test video and train video whose files are equal byte by byte.
    """

    videos: tuple[str, ...]
    groups: tuple[str, ...]
    grouped_test: int
    contents: tuple[tuple[str, str], ...]


def find_leaks(annotation: Annotation) -> Leaks:
    """Look for videos, groups and file contents that stand on both sides of a split.

    Files are read only where a train file and a test file have the same size, so that the cost is that of asking for
    every file's size; of videos that were deleted once their features were complete, the recorded sizes and hashes count.

    Raises:
        DataError: a file cannot be read.
    """
    train, test = annotation.train, annotation.test
    train_groups = {video.group for video in train}
    of_shared = [video.group for video in test if video.group in train_groups]
    return Leaks(
        tuple(sorted({video.name for video in train} & {video.name for video in test})),
        tuple(sorted(set(of_shared))),
        len(of_shared),
        tuple(equal_files((annotation, train), (annotation, test))),
    )


Side = tuple[Annotation, Sequence[Video]]
"""A data set, and some of its videos."""


def equal_files(trained: Side, tested: Side) -> list[tuple[str, str]]:
    """Find test videos whose files equal a train video's byte by byte: (test name, train name), see ``find_leaks``.

    Raises:
        DataError: a file cannot be read.
    """
    by_size: dict[int, tuple[list[Video], list[Video]]] = defaultdict(lambda: ([], []))
    gone = [removed_videos(annotation.root) for annotation, _ in (trained, tested)]
    equal = []

    def digest(side: int, video: Video) -> str:
        path = (trained, tested)[side][0].path(video)
        return file_sha256(path) if path.is_file() or video.name not in gone[side] else gone[side][video.name]["sha256"]

    try:
        for side, (annotation, videos) in enumerate((trained, tested)):
            for video in videos:
                by_size[video_bytes(annotation.path(video), gone[side].get(video.name))][side].append(video)
        for train, test in by_size.values():
            if not train or not test:
                continue
            digests = {digest(0, video): video.name for video in reversed(train)}  # the first of equal ones
            found = [(video.name, digests.get(digest(1, video))) for video in test]
            equal += [(name, other) for name, other in found if other is not None]
    except OSError as error:
        raise DataError(f"{tested[0].data}: a video cannot be read ({error}); train and test cannot be compared") from error
    return sorted(equal)


def leak_notes(annotation: Annotation, leaks: Leaks) -> tuple[str, ...]:
    """What every table made from these data has to say of leaks that the annotation's own notes do not name; often nothing.

    Groups are not named where the split is the published one.
    """
    notes = []
    if leaks.contents:
        shown = ", ".join(f"{test!r} = {train!r}" for test, train in leaks.contents[:SHOWN])
        more = f" and {len(leaks.contents) - SHOWN} more" if len(leaks.contents) > SHOWN else ""
        notes.append(f"{annotation.data}: {MARK}, {_files(len(leaks.contents))} the content of a train file: {shown}{more}")
    known = any(MARK in note for note in annotation.notes)
    if leaks.groups and not annotation.published_split and not known:
        notes.append(
            f"{annotation.data}: {MARK} split, {leaks.grouped_test} of {len(annotation.test)} test videos are of a group that "
            "train has too"
        )
    return tuple(notes)


def _files(number: int) -> str:
    return f"{number} test file{'s have' if number > 1 else ' has'}"


def describe(annotation: Annotation, leaks: Leaks) -> list[str]:
    """What was found, in sentences for a reader: always at least one."""
    said = [*(note for note in annotation.notes if MARK in note), *leak_notes(annotation, leaks)]
    if leaks.videos:
        said.append(f"{annotation.data}: {MARK}, {len(leaks.videos)} videos stand in train and in test: {leaks.videos[0]!r} …")
    apart = ["no video", *([] if leaks.groups else ["no group"]), "no file content"]
    if not leaks.contents and not leaks.videos:
        said.append(f"train and test share {' and '.join([', '.join(apart[:-1]), apart[-1]])}")
    if leaks.groups and annotation.published_split:
        said.append(
            f"{leaks.grouped_test} of {len(annotation.test)} test videos come from a source that train has too "
            f"({len(leaks.groups)} sources): so is the published split"
        )
    return said
