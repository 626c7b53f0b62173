"""HMDB-51: 6766 clips of 51 classes, three official splits of 3570/1530. Facts only (protocol §8)."""

from __future__ import annotations

from pathlib import Path

from datamodules.distribution import Archive
from datamodules.reading import SHOWN, DataError, read_lines, unusable_name
from datamodules.videos import Annotation, Video, check, find_folder, miniature_marker

CLASSES = [
    "brush_hair",
    "cartwheel",
    "catch",
    "chew",
    "clap",
    "climb",
    "climb_stairs",
    "dive",
    "draw_sword",
    "dribble",
    "drink",
    "eat",
    "fall_floor",
    "fencing",
    "flic_flac",
    "golf",
    "handstand",
    "hit",
    "hug",
    "jump",
    "kick",
    "kick_ball",
    "kiss",
    "laugh",
    "pick",
    "pour",
    "pullup",
    "punch",
    "push",
    "pushup",
    "ride_bike",
    "ride_horse",
    "run",
    "shake_hands",
    "shoot_ball",
    "shoot_bow",
    "shoot_gun",
    "sit",
    "situp",
    "smile",
    "smoke",
    "somersault",
    "stand",
    "swing_baseball",
    "sword",
    "sword_exercise",
    "talk",
    "throw",
    "turn",
    "walk",
    "wave",
]
SPLITS = ("1", "2", "3")
SPLIT_FOLDERS = ("testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits")
COUNTS = {"train": 3570, "test": 1530}
CLIPS = 6766
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
        places=("hmdb51_org", ""),
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


def read(root: Path, split: str = "1", skip_bad: bool = False) -> Annotation:
    """Read and check HMDB-51 below ``root``.

    Args:
        root: folder that holds the class folders (or ``hmdb51_org/``) and ``testTrainMulti_7030_splits/``.
        split: ``1``, ``2`` or ``3``.
        skip_bad: leave missing clips out instead of raising.

    Raises:
        DataError: the split is unknown, a split file is missing or malformed, or clips are missing.
    """
    if split not in SPLITS:
        raise DataError(f"data.split={split}: HMDB-51 has the splits 1, 2 and 3")
    lists = find_folder(root, SPLIT_FOLDERS, "HMDB-51's split files", WHERE)
    folder = root / "hmdb51_org" if (root / "hmdb51_org").is_dir() else root
    marker = miniature_marker(root, ("counts", COUNTS))
    videos: dict[str | None, list[Video]] = {None: [], "train": [], "test": []}
    for label, name in enumerate(CLASSES):
        path = lists / f"{name}_test_split{split}.txt"
        if not path.is_file():
            raise DataError(f"HMDB-51: the split file {path.resolve()} is missing\n{WHERE}")
        for clip, side in read_split_file(path):
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
    )
    per_side = {side: number // len(CLASSES) for side, number in COUNTS.items()}
    counts = marker["counts"] if marker else {**COUNTS, "classes": dict.fromkeys(CLASSES, sum(per_side.values()))}
    return check(annotation, WHERE, counts, skip_bad)


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
