"""Hollywood2 actions: 823 train and 884 test clips from films, 12 labels, several a clip. Facts only (protocol §8)."""

from __future__ import annotations

import re
from pathlib import Path

from datamodules.distribution import Archive
from datamodules.parts import WHOLE, Part
from datamodules.reading import SHOWN, DataError, read_lines
from datamodules.videos import Annotation, Video, check, find_folder, miniature_marker

CLASSES = [
    "AnswerPhone",
    "DriveCar",
    "Eat",
    "FightPerson",
    "GetOutCar",
    "HandShake",
    "HugPerson",
    "Kiss",
    "Run",
    "SitDown",
    "SitUp",
    "StandUp",
]
SPLITS = ("official",)
DEFAULT_SPLIT = "official"
COUNTS = {"train": 823, "test": 884}
CLIP_NAME = {side: re.compile(rf"actionclip{side}[0-9]{{5}}") for side in COUNTS}
"""Names of the clean clips. ``actionclipautoautotrain…`` are noisily labelled and never used."""

ARCHIVES = (
    Archive(
        "Hollywood2-actions.tar.gz",
        ("ftp://ftp.irisa.fr/local/vistas/actions/Hollywood2-actions.tar.gz",),
        about_bytes=15_000_000_000,
        places=("Hollywood2", ""),
        parts=("AVIClips", "ClipSets"),
        md5="55948d0ef45a569a2134ea44e6f8976c",
    ),
)
LEAST_FRAMES = 487_000
"""In all clips, about (protocol §8)."""

WHERE = (
    "python reproduce/prepare.py data.name=hollywood2 download=true gets it; or by hand: "
    "get Hollywood2-actions.tar.gz (15 GB) from ftp://ftp.irisa.fr/local/vistas/actions/ and extract it there: "
    "<root>/Hollywood2/AVIClips/*.avi and <root>/Hollywood2/ClipSets/<Class>_{train,test}.txt"
)


def is_split(name: str) -> bool:
    """Whether there is a split of that name."""
    return name in SPLITS


def read(root: Path, split: str = "official", skip_bad: bool = False, part: Part = WHOLE) -> Annotation:
    """Read and check Hollywood2 below ``root``.

    Args:
        root: folder that holds ``Hollywood2/`` or its ``AVIClips/`` and ``ClipSets/``.
        split: ``official``, the only one.
        skip_bad: leave missing clips out instead of raising.
        part: what to take of it.

    Raises:
        DataError: the split is unknown, a label file is missing or malformed or disagrees with another about the list
            of clips, or clips are missing.
    """
    if split not in SPLITS:
        raise DataError(f"data.split={split}: Hollywood2 has one split, 'official'")
    sets = find_folder(root, ("Hollywood2/ClipSets", "ClipSets"), "Hollywood2's label files", WHERE)
    folder = find_folder(sets.parent, ("AVIClips",), "Hollywood2's clips", WHERE)
    marker = miniature_marker(root, ("counts", COUNTS))
    sides = {side: tuple(_read_side(sets, side)) for side in COUNTS}
    annotation = Annotation(
        "hollywood2",
        split,
        root,
        folder,
        tuple(CLASSES),
        True,
        sides["train"],
        sides["test"],
        miniature=bool(marker),
        published_split=True,
    )
    return check(annotation, WHERE, marker["counts"] if marker else COUNTS, skip_bad, part)


def _read_side(sets: Path, side: str) -> list[Video]:
    labels: dict[str, list[int]] = {}
    for label, name in enumerate(CLASSES):
        path = sets / f"{name}_{side}.txt"
        if not path.is_file():
            raise DataError(f"Hollywood2: the label file {path.resolve()} is missing\n{WHERE}")
        entries = read_label_file(path, side)
        if label == 0:
            labels = {clip: [] for clip in entries}
        elif entries.keys() != labels.keys():
            odd = sorted(entries.keys() ^ labels.keys())[0]
            raise DataError(f"{path}: lists other clips than {CLASSES[0]}_{side}.txt, {odd!r} for one")
        for clip, present in entries.items():
            if present:
                labels[clip].append(label)
    return [Video(f"{clip}.avi", tuple(ids), clip) for clip, ids in labels.items()]


def read_label_file(path: Path, side: str) -> dict[str, bool]:
    """Lines ``<clip>  <1|-1>`` -> whether the clip shows the class.

    Raises:
        DataError: a line has another form, names a clip of another set, or repeats one; names file and line.
    """
    entries: dict[str, bool] = {}
    for number, line in read_lines(path):
        words = line.split()
        if len(words) != 2 or words[1] not in ("1", "-1") or not CLIP_NAME[side].fullmatch(words[0]):
            raise DataError(f"{path}, line {number}: expected 'actionclip{side}00001  <1|-1>', found {line[:SHOWN]!r}")
        if words[0] in entries:
            raise DataError(f"{path}, line {number}: {words[0]!r} is listed twice")
        entries[words[0]] = words[1] == "1"
    return entries
