"""Videos, their labels and splits: what every data set says about itself, checked against what is on disk.

Free of torch and pandas, so that a command can tell in a fraction of a second that data are missing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datamodules.parts import WHOLE, Part
from datamodules.reading import DataError, read_json, unusable_name
from datamodules.removed import removed_videos, video_bytes

MINIATURE_MARKER = "miniature.json"
"""Present in a data set's folder that ``datamodules.miniature`` generated; holds the counts to expect there."""
TRUTHS = ("halo", "ring")
"""What tells whose action counts in generated clips with several actors: a halo around it, or that others ring it."""

MOST_VIDEOS = 10**6  # of a generated data set: more than any
# As cameras, phones and programs name video files.
ENDINGS = (
    "mp4 avi mpg mov mkv webm mpeg mpe m1v m2v m4v mts m2ts ts vob wmv asf flv f4v 3gp 3g2 ogv ogm gif mjpeg mjpg dv divx qt rm"
    " rmvb mxf y4m"
)
SUFFIXES = tuple(f".{ending}" for ending in ENDINGS.split())
"""Of video files, in lower case; any case is understood."""
DAMAGED = ("refuse", "keep")
"""What to do with damaged videos: refuse them, or keep what decodes of them."""
REMEDY = "data.damaged=keep keeps what decodes"
"""Ends a message about a damaged video, and tells it from those that no setting makes decode."""


@dataclass(frozen=True)
class Video:
    """One video file.

    Args:
        name: path below the data set's video folder, with forward slashes; the key of the video everywhere.
        labels: class ids, ascending; exactly one unless the data set is multi-label.
        group: source of the clip. Clips of one group share scene and actor and are never separated by a hold-out.
    """

    name: str
    labels: tuple[int, ...]
    group: str


@dataclass(frozen=True)
class Annotation:
    """A data set under one of its splits.

    Args:
        data: name of the data set, as in ``data.name`` (or the folder's name for a videofolder).
        split: name of the split.
        root: the data set's folder.
        folder: the folder below which the videos' names are paths.
        classes: class names by id.
        multi_label: whether a video may have any number of labels.
        train, test: the videos of the two sides.
        notes: what every table made from these data has to say about them.
        miniature: whether the data are generated stand-ins.
        spare: videos of the data set that this split has on neither side; others of its splits may.
        published_split: whether the split is published as a list of clips; that clips of one source stand on both sides is
            the data set's own affair then, and every published number on it has the same.
        part: which part of the data set was chosen, in words; empty for the whole.
        remarks: how the folder was understood where it is not laid out as asked, in sentences for who prepares it.
        hits: whether a video has one label or several, and a prediction is right that names one of them.
    """

    data: str
    split: str
    root: Path
    folder: Path
    classes: tuple[str, ...]
    multi_label: bool
    train: tuple[Video, ...]
    test: tuple[Video, ...]
    notes: tuple[str, ...] = ()
    miniature: bool = False
    spare: tuple[Video, ...] = ()
    published_split: bool = False
    part: str = ""
    remarks: tuple[str, ...] = ()
    hits: bool = False

    @property
    def several_labels(self) -> bool:
        """Whether a video may have several labels, of which each counts (``multi_label``) or one is enough (``hits``)."""
        return self.multi_label or self.hits

    @property
    def videos(self) -> tuple[Video, ...]:
        """Train and test, in the order of their names."""
        return tuple(sorted(self.train + self.test, key=lambda video: video.name))

    @property
    def listed(self) -> tuple[Video, ...]:
        """Train, test and spare, in the order of their names: the whole data set."""
        return tuple(sorted(self.train + self.test + self.spare, key=lambda video: video.name))

    def path(self, video: Video) -> Path:
        """Where the video's file lies."""
        return self.folder / video.name

    def fingerprint(self) -> str:
        """SHA-256 over the sorted names, file sizes, labels, groups and sides of all videos."""
        sides = {video.name: "train" for video in self.train} | {video.name: "test" for video in self.test}
        gone = removed_videos(self.root)
        sizes = {v.name: video_bytes(self.path(v), gone.get(v.name)) for v in self.videos}
        rows = [(v.name, sizes[v.name], v.labels, v.group, sides[v.name]) for v in self.videos]
        return hashlib.sha256(json.dumps([self.classes, rows]).encode()).hexdigest()

    def without(self, names: Iterable[str], why: str) -> Annotation:
        """The same annotation with some videos left out, and a note that says so if any of them is of train or test."""
        left_out = set(names)
        if not left_out:
            return self
        kept = {side: tuple(v for v in getattr(self, side) if v.name not in left_out) for side in ("train", "test", "spare")}
        return replace(self.noting(left_out, "left out", why), **kept)

    def noting(self, names: Iterable[str], what: str, why: str) -> Annotation:
        """The same annotation with a note on some videos, if any of them is of train or test."""
        named = set(names)
        train, test = (sum(video.name in named for video in side) for side in (self.train, self.test))
        said = f"{self.data}: {train + test} videos {what} ({train} train, {test} test): {why}"
        return replace(self, notes=(*self.notes, said)) if train + test else self


class Reader(Protocol):
    """A module that reads one data set; ``datamodules/README.md`` says what else it may offer."""

    @property
    def DEFAULT_SPLIT(self) -> str:
        """The split that is taken where none is named."""
        ...

    def is_split(self, name: str) -> bool:
        """Whether there is a split of that name."""
        ...

    def read(self, root: Path, split: str, skip_bad: bool, part: Part) -> Annotation:
        """Read and check the data set, or a part, below its folder; raises DataError where it is not the official one."""
        ...


def targets_of(videos: tuple[Video, ...], annotation: Annotation) -> np.ndarray:
    """(V,) int64 class ids, (V, C) int64 zeros and ones for multi-label, or (V, C) float32 shares 1/n of n labels for hits."""
    if not annotation.several_labels:
        return np.asarray([video.labels[0] for video in videos], dtype=np.int64)
    hot = np.zeros((len(videos), len(annotation.classes)), dtype=np.int64)
    for row, video in enumerate(videos):
        hot[row, list(video.labels)] = 1
    return (hot / hot.sum(axis=1, keepdims=True)).astype(np.float32) if annotation.hits else hot


def find_folder(root: Path, candidates: Sequence[str], what: str, advice: str) -> Path:
    """The first candidate below root that is a folder.

    Raises:
        DataError: none is; the message lists every path looked at.
    """
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    looked = "\n".join(f"    {(root / candidate).resolve()}" for candidate in candidates)
    raise DataError(f"{what} not found. Looked for the folder\n{looked}\n{advice}")


def miniature_marker(root: Path, counts: tuple[str, dict[str, Any]] | None = None) -> dict | None:
    """Contents of the miniature marker below root, or None where the data are the real ones.

    Args:
        root: the data set's folder.
        counts: what the marker must hold: a key, and a value of the same form, numbers or equally many numbers by name.

    Raises:
        DataError: it is no marker, or one of another data set.
    """
    path = root / MINIATURE_MARKER
    if not path.is_file():
        return None
    advice = "remove the folder, and preset=miniature draws its clips again"
    marker = read_json(path, advice)
    if counts is not None:
        key, like = counts
        found = marker.get(key)
        if not isinstance(found, dict) or found.keys() != like.keys() or not all(_same_form(found[n], like[n]) for n in like):
            raise DataError(f"{path}: {key!r} is not that of this data set; {advice}")
    return marker


def _same_form(found: Any, like: Any) -> bool:
    """Whether both are numbers of videos, or lists of equally many of them."""
    if isinstance(like, int):
        return type(found) is int and 0 <= found <= MOST_VIDEOS
    return isinstance(found, list) and len(found) == len(like) and all(type(n) is int and 0 <= n <= 99 for n in found)


def check(
    annotation: Annotation,
    advice: str,
    counts: dict | None = None,
    skip_bad: bool = False,
    part: Part = WHOLE,
    group_number: Callable[[Video], int] | None = None,
) -> Annotation:
    """Compare an annotation, or a part of it, with the disk and with itself.

    Args:
        annotation: as read, whole.
        advice: one line that says what to do about missing files.
        counts: expected numbers, any of ``train``, ``test`` and ``classes`` (videos of each class, both sides).
        skip_bad: leave missing videos out, with a note, instead of raising; counts are not compared where train or test
            lacks any.
        part: what to take of it; counts are those of the whole lists.
        group_number: of a video, where groups have numbers.

    Returns:
        The annotation of the part, without missing videos where ``skip_bad`` allows it.

    Raises:
        DataError: a video is missing or listed twice, stands on both sides, a class is empty, or a count is wrong.
    """
    if part:
        if counts:
            _compare_counts(annotation, counts, advice)
        annotation, counts = part.of(annotation, group_number), None
        advice = f"{advice}\n    data.groups and data.classes chose {part}; data.split must leave videos of it on both sides"
    names = [video.name for video in annotation.train + annotation.test + annotation.spare]
    twice = sorted(name for name, number in Counter(names).items() if number > 1)
    if twice:
        raise DataError(
            f"{annotation.data}, split {annotation.split}: {shortened(twice)} listed twice or on both sides of the split. "
            f"Every video may stand once, in train or in test. Looked in {annotation.root.resolve()}"
        )
    for name in names:
        reason = unusable_name(name)
        if reason:
            raise DataError(f"{annotation.data}: the video {name!r} cannot be used: {reason}")
    gone = removed_videos(annotation.root)
    missing = [name for name in names if name not in gone and not (annotation.folder / name).is_file()]
    if missing and not skip_bad:
        lost = set(missing)
        there = {label for video in annotation.listed if video.name not in lost for label in video.labels}
        if 1 < len(there) < len(annotation.classes):
            names = ",".join(annotation.classes[label] for label in sorted(there))
            advice += f"\n    or take the classes that are there: data.classes=[{names}]"
        raise DataError(
            f"{annotation.data}: {len(missing)} of {len(names)} annotated videos are missing: {shortened(missing)}\n"
            f"    looked in {annotation.folder.resolve()}\n{advice}\n"
            "    or leave them out, and have every table say so, with data.skip_bad=true"
        )
    left = annotation.without(missing, "missing on disk")
    check_sides(left, advice)
    if counts and left.videos == annotation.videos:
        _compare_counts(left, counts, advice)
    return left


def check_sides(annotation: Annotation, advice: str) -> None:
    """Check that train and test have videos, and each of them some of every class unless videos have several labels.

    Args:
        annotation: to be checked.
        advice: what to do otherwise.

    Raises:
        DataError: a side is empty, or lacks a class.
    """
    for side in ("train", "test"):
        videos = getattr(annotation, side)
        if not videos:
            raise DataError(f"{annotation.data}, split {annotation.split}: no {side} video below {annotation.root}\n{advice}")
        per_class = Counter(label for video in videos for label in video.labels)
        empty = [name for label, name in enumerate(annotation.classes) if not per_class[label]]
        if empty and not annotation.several_labels:
            raise DataError(
                f"{annotation.data}, split {annotation.split}: no {side} video of {shortened(empty)}\n"
                f"    looked in {annotation.folder.resolve()}\n{advice}"
            )


def _compare_counts(annotation: Annotation, counts: dict, advice: str) -> None:
    wrong = [
        f"{len(getattr(annotation, side))} {side} videos instead of {counts[side]}"
        for side in ("train", "test")
        if side in counts and len(getattr(annotation, side)) != counts[side]
    ]
    if "classes" in counts:
        found = Counter(label for video in annotation.videos for label in video.labels)
        wrong += [
            f"{found[label]} videos of {name} instead of {counts['classes'][name]}"
            for label, name in enumerate(annotation.classes)
            if found[label] != counts["classes"][name]
        ]
    if wrong:
        raise DataError(
            f"{annotation.data}, split {annotation.split}: {'; '.join(wrong)}\n"
            f"    looked in {annotation.folder.resolve()}\n{advice}"
        )


def hold_out(
    videos: Sequence[Video], fraction: float, seed: int, group_of: Callable[[Video], str] | None = None
) -> tuple[tuple[Video, ...], tuple[Video, ...]]:
    """Split videos in two, whole groups at a time, with every class in proportion as far as groups allow.

    Groups come in seeded random order. A group is held out while no class it touches exceeds its quota
    ``max(1, round(fraction · N_c))`` by doing so; for a class that has no group small enough, its smallest one is taken. A
    class keeps at least one group on each side where it has two and no group ties it to a class that has one.

    Args:
        videos: what to split.
        fraction: share to hold out, in (0, 1).
        seed: of the order of groups.
        group_of: what must stay together; default the video's group.

    Returns:
        (kept, held out), each in the given order.
    """
    group_of = group_of or (lambda video: video.group)
    members: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        members[group_of(video)].append(video)
    touched = {group: Counter(strata(vs)) for group, vs in members.items()}
    total = sum(touched.values(), Counter())
    groups_left = Counter(label for labels in touched.values() for label in labels)
    quota = {label: max(1, round(fraction * number)) for label, number in total.items()}
    held: Counter[int] = Counter()
    chosen: set[str] = set()
    names = sorted(members)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    # Later passes take groups over quota, the smallest first, for classes that found no small enough one.
    for allowance in (1.0, 2.5, float("inf")):
        within_quota = allowance == 1.0
        for group in order if within_quota else sorted(order, key=lambda name: len(members[name])):
            labels = touched[group]
            fits = all(held[c] + n <= allowance * quota[c] and groups_left[c] > 1 for c, n in labels.items())
            wanted = within_quota or any(held[c] == 0 for c in labels)
            if group not in chosen and fits and wanted:
                chosen.add(group)
                held.update(labels)
                groups_left.subtract(labels.keys())
    kept = tuple(v for v in videos if group_of(v) not in chosen)
    return kept, tuple(v for v in videos if group_of(v) in chosen)


def strata(videos: Iterable[Video]) -> Iterable[int]:
    """Class ids to balance; -1 stands for a video without label."""
    for video in videos:
        yield from video.labels or (-1,)


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first names, quoted, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
