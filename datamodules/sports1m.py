"""Sports-1M: lists of 1,133,158 YouTube videos with labels among 487; of them, whatever lies on disk. Facts only.

Nobody hands on the videos, and many are gone: nothing is downloaded. A video has one label or several, and a prediction is
right that names one of them: hit@1 is the figure.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from datamodules.parts import WHOLE, Part
from datamodules.reading import SHOWN, DataError, read_lines
from datamodules.videos import SUFFIXES, Annotation, Video, check, miniature_marker, shortened

COUNTS = {"labels": 487}
SPLITS = ("original",)
DEFAULT_SPLIT = "original"
LABELS = "labels.txt"
VIDEOS = "videos"
LINE = re.compile(r"https?://(?:www\.)?youtube\.com/watch\?v=([\w-]{11})\s+(\d{1,3}(?:,\d{1,3})*)\s*", re.ASCII)
ARCHIVES = ()
LEAST_FRAMES = 0  # nobody knows which videos lie there

WHERE = (
    "Clone https://github.com/gtoderici/sports-1m-dataset for <root>/labels.txt and "
    "<root>/original/{train,test}_partition.txt (or .txt.gz), and lay the videos that you have down as "
    "<root>/videos/<YouTube's 11 characters>.mp4, or of another ending; nothing is downloaded"
)


def is_split(name: str) -> bool:
    """Whether there is a split of that name."""
    return name in SPLITS


def read(root: Path, split: str = DEFAULT_SPLIT, skip_bad: bool = False, part: Part = WHOLE) -> Annotation:
    """Read the lists below ``root``, and take those of their videos that lie there.

    A video that a list names twice has the labels of all its lines. One that both lists name is a test video, and a note says
    so.

    Args:
        root: folder that holds ``labels.txt``, ``original/`` and ``videos/``.
        split: ``original``, the only one.
        skip_bad: of no effect here: a listed video need not be there.
        part: what to take of it.

    Raises:
        DataError: the split is unknown, a list is missing or malformed, a video lies there twice, or none of a side does.
    """
    if split not in SPLITS:
        raise DataError(f"data.split={split}: Sports-1M has one split, 'original'")
    marker = miniature_marker(root, ("counts", COUNTS))
    classes = read_labels(root / LABELS, (marker["counts"] if marker else COUNTS)["labels"])
    listed = {side: read_partition(_partition(root, side), len(classes)) for side in ("train", "test")}
    files, others = _files(root / VIDEOS)
    both = listed["train"].keys() & listed["test"].keys()
    sides = {
        side: tuple(
            Video(files[key], tuple(sorted(labels)), key)
            for key, labels in entries.items()
            if key in files and not (side == "train" and key in both)
        )
        for side, entries in listed.items()
    }
    named = listed["train"].keys() | listed["test"].keys()
    others += [name for key, name in files.items() if key not in named]
    said = [f"{len(sides[side])} of {len(listed[side])} listed {side} videos" for side in sides]
    notes = [f"Sports-1M: {' and '.join(said)} lie on disk"]
    if both & files.keys():
        notes.append(f"Sports-1M: {len(both & files.keys())} videos that both lists name were tested on, and not trained on")
    annotation = Annotation(
        data="sports1m",
        split=split,
        root=root,
        folder=root / VIDEOS,
        classes=classes,
        multi_label=False,
        train=sides["train"],
        test=sides["test"],
        notes=tuple(notes),
        miniature=bool(marker),
        published_split=True,
        remarks=(f"{len(others)} files passed over, which no list names: {shortened(sorted(others))}",) if others else (),
        hits=True,
    )
    return check(annotation, WHERE, skip_bad=skip_bad, part=part)


def read_labels(path: Path, number: int) -> tuple[str, ...]:
    """Lines of a label each, the first of which is label 0.

    Args:
        path: of the file.
        number: of labels that it must hold.

    Raises:
        DataError: it is missing, holds another number, or repeats one; names file and line.
    """
    if not path.is_file():
        raise DataError(f"Sports-1M: the list {path.resolve()} is missing\n{WHERE}")
    labels: dict[str, int] = {}
    for line, text in read_lines(path):
        first = labels.setdefault(text.strip(), line)
        if first != line:
            raise DataError(f"{path}, line {line}: {text.strip()[:SHOWN]!r} stands in line {first} already")
    if len(labels) != number:
        raise DataError(f"{path}: holds {len(labels)} labels instead of {number}\n{WHERE}")
    return tuple(labels)


def _partition(root: Path, side: str) -> Path:
    """A side's list, packed or not."""
    names = [root / "original" / f"{side}_partition.txt{suffix}" for suffix in ("", ".gz")]
    found = next((path for path in names if path.is_file()), None)
    if found is None:
        raise DataError(f"Sports-1M: the list {names[0].resolve()} is missing, and {names[1].name} too\n{WHERE}")
    return found


def read_partition(path: Path, labels: int) -> dict[str, set[int]]:
    """Lines ``<URL> <label>[,<label>…]``, of plain or gzip text -> labels of each video, by YouTube's id.

    Args:
        path: of the list.
        labels: how many there are.

    Raises:
        DataError: a line has another form, or there is no such label; names file and line.
    """
    entries: dict[str, set[int]] = {}
    for number, line in read_lines(path, packed=True):
        found = LINE.fullmatch(line)
        numbers = set(map(int, found[2].split(","))) if found else set()
        if found is None or max(numbers) >= labels:
            expected = f"'https://www.youtube.com/watch?v=<id> <labels from 0 to {labels - 1}, with commas>'"
            raise DataError(f"{path}, line {number}: expected {expected}, found {line[:SHOWN]!r}")
        entries.setdefault(found[1], set()).update(numbers)
    return entries


def _files(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Name of the video of each id that lies in a folder; and the other files there."""
    if not folder.is_dir():
        raise DataError(f"Sports-1M: the folder {folder.resolve()} is missing\n{WHERE}")
    files: dict[str, str] = {}
    others = []
    for name in sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        path = PurePosixPath(name)
        if path.suffix.lower() not in SUFFIXES:
            others.append(name)
        elif path.stem in files:
            raise DataError(f"Sports-1M: {files[path.stem]!r} and {name!r} are one video; remove one from {folder.resolve()}")
        else:
            files[path.stem] = name
    return files, others
