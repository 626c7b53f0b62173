"""HMDB-51: 6766 clips of 51 classes, three official splits of 3570/1530. Facts only (protocol §8)."""

from __future__ import annotations

from pathlib import Path

from datamodules.distribution import Archive
from datamodules.parts import WHOLE, Part
from datamodules.reading import SHOWN, DataError, read_lines, unusable_name
from datamodules.videos import Annotation, Video, check, find_folder, miniature_marker

CLIPS = {
    "brush_hair": 107,
    "cartwheel": 107,
    "catch": 102,
    "chew": 109,
    "clap": 130,
    "climb": 108,
    "climb_stairs": 112,
    "dive": 127,
    "draw_sword": 103,
    "dribble": 145,
    "drink": 164,
    "eat": 108,
    "fall_floor": 136,
    "fencing": 116,
    "flic_flac": 107,
    "golf": 105,
    "handstand": 113,
    "hit": 127,
    "hug": 118,
    "jump": 151,
    "kick": 130,
    "kick_ball": 128,
    "kiss": 102,
    "laugh": 128,
    "pick": 106,
    "pour": 106,
    "pullup": 104,
    "punch": 126,
    "push": 116,
    "pushup": 103,
    "ride_bike": 103,
    "ride_horse": 116,
    "run": 232,
    "shake_hands": 162,
    "shoot_ball": 131,
    "shoot_bow": 112,
    "shoot_gun": 103,
    "sit": 142,
    "situp": 105,
    "smile": 102,
    "smoke": 109,
    "somersault": 140,
    "stand": 154,
    "swing_baseball": 143,
    "sword": 127,
    "sword_exercise": 127,
    "talk": 120,
    "throw": 102,
    "turn": 240,
    "walk": 548,
    "wave": 104,
}
"""Clips of each class, 6766 in all: what each of its three split files lists."""

CLASSES = list(CLIPS)
SPLITS = ("1", "2", "3")
DEFAULT_SPLIT = "1"
SPLIT_FOLDERS = (
    "testTrainMulti_7030_splits",
    "test_train_splits/testTrainMulti_7030_splits",
    "annotations/testTrainMulti_7030_splits",
    "annotations",  # as mmaction2's scripts lay it out, with the class folders in videos/
)
VIDEO_FOLDERS = ("hmdb51_org", "videos")
COUNTS = {"train": 3570, "test": 1530}
SIDES = {"0": None, "1": "train", "2": "test"}
ADDRESS = "serre-lab.clps.brown.edu/wp-content/uploads/2013/10"  # often down, or with a certificate that has run out
ARCHIVES = (
    Archive(
        "test_train_splits.rar",
        (f"https://{ADDRESS}/test_train_splits.rar", f"http://{ADDRESS}/test_train_splits.rar"),
        about_bytes=200_000,
        places=SPLIT_FOLDERS,
        parts=tuple(f"{name}_test_split{split}.txt" for name in CLASSES for split in SPLITS),
        md5="15e67781e70dcfbdce2d7dbb9b3344b5",
    ),
    Archive(
        "hmdb51_org.rar",
        (f"https://{ADDRESS}/hmdb51_org.rar", f"http://{ADDRESS}/hmdb51_org.rar"),
        about_bytes=2_100_000_000,
        places=(*VIDEO_FOLDERS, ""),
        parts=tuple(CLASSES),
        nested=True,
    ),
)
LEAST_FRAMES = 639_307
"""In all clips (protocol §8)."""

WHERE = (
    "python reproduce/prepare.py data.name=hmdb51 download=true gets it; or by hand: "
    "get hmdb51_org.rar (2.1 GB, a rar of 51 rars: extract both levels) and test_train_splits.rar from "
    "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/ and lay them out as "
    "<root>/<class>/<clip>.avi and <root>/testTrainMulti_7030_splits/<class>_test_split{1,2,3}.txt"
)


def is_split(name: str) -> bool:
    """Whether there is a split of that name."""
    return name in SPLITS


def read(root: Path, split: str = "1", skip_bad: bool = False, part: Part = WHOLE) -> Annotation:
    """Read and check HMDB-51 below ``root``.

    Args:
        root: folder that holds the class folders (or ``hmdb51_org/`` or ``videos/``) and ``testTrainMulti_7030_splits/``
            (or ``annotations/``).
        split: ``1``, ``2`` or ``3``.
        skip_bad: leave missing clips out instead of raising.
        part: what to take of it.

    Raises:
        DataError: the split is unknown, a split file is missing, malformed or not whole, or any of the 6766 clips is missing.
    """
    if split not in SPLITS:
        raise DataError(f"data.split={split}: HMDB-51 has the splits 1, 2 and 3")
    lists = find_folder(root, SPLIT_FOLDERS, "HMDB-51's split files", WHERE)
    folder = next((root / name for name in VIDEO_FOLDERS if (root / name).is_dir()), root)
    marker = miniature_marker(root, ("counts", COUNTS))
    videos: dict[str | None, list[Video]] = {None: [], "train": [], "test": []}
    for label, name in enumerate(CLASSES):
        path = lists / f"{name}_test_split{split}.txt"
        if not path.is_file():
            raise DataError(f"HMDB-51: the split file {path.resolve()} is missing\n{WHERE}")
        clips = read_split_file(path)
        if not marker and len(clips) != CLIPS[name]:
            raise DataError(
                f"HMDB-51: the split file {path.resolve()} lists {len(clips)} clips instead of {CLIPS[name]}; remove its "
                f"folder and extract test_train_splits.rar again\n{WHERE}"
            )
        for clip, side in clips:
            videos[side].append(Video(f"{name}/{clip}", (label,), source_title(clip, name)))
    annotation = Annotation(
        "hmdb51",
        split,
        root,
        folder,
        tuple(CLASSES),
        False,
        tuple(videos["train"]),
        tuple(videos["test"]),
        miniature=bool(marker),
        spare=tuple(videos[None]),
        published_split=True,
    )
    per_side = {side: number // len(CLASSES) for side, number in COUNTS.items()}
    counts = marker["counts"] if marker else {**COUNTS, "classes": dict.fromkeys(CLASSES, sum(per_side.values()))}
    return check(annotation, WHERE, counts, skip_bad, part)


def read_split_file(path: Path) -> list[tuple[str, str | None]]:
    """Lines ``<clip>.avi <0|1|2> `` -> (clip, side), side ``train`` (1), ``test`` (2) or None (0, unused).

    Raises:
        DataError: a line has another form, or repeats a clip; the message names file and line.
    """
    entries: dict[str, str | None] = {}
    for number, line in read_lines(path):
        clip, _, side = line.rstrip(" \t").rpartition(" ")
        clip = clip.rstrip(" \t")
        if side not in SIDES or "/" in clip or unusable_name(clip):
            raise DataError(f"{path}, line {number}: expected '<clip>.avi <0|1|2>', found {line[:SHOWN]!r}")
        if clip in entries:
            raise DataError(f"{path}, line {number}: {clip!r} listed twice")
        entries[clip] = SIDES[side]
    return list(entries.items())


def source_title(clip: str, class_name: str) -> str:
    """Title of the film a clip was cut from: what stands before ``_<class>_`` in its name.

    The clips of one title share scene and actors; a validation hold-out keeps them together (protocol §3).
    """
    position = clip.rfind(f"_{class_name}_")
    return clip[:position] if position > 0 else clip
