"""HMDB-51: 6766 clips of 51 classes, three official splits of 3570/1530. Facts only (protocol §8)."""

from __future__ import annotations

from pathlib import Path

from datamodules.videos import Annotation, DataError, Video, check, find_folder, miniature_marker

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
WHERE = (
    "Get hmdb51_org.rar (2.1 GB, a rar of 51 rars: extract both levels) and test_train_splits.rar from "
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
    marker = miniature_marker(root)
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
        DataError: a line has another form; the message names file and line.
    """
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), start=1):
        if not line.strip():
            continue
        clip, _, side = line.rstrip().rpartition(" ")
        if side not in SIDES or not clip or "/" in clip or clip in (".", ".."):
            raise DataError(f"{path}, line {number}: expected '<clip>.avi <0|1|2>', found {line!r}")
        entries.append((clip.rstrip(), SIDES[side]))
    return entries


def source_title(clip: str, class_name: str) -> str:
    """Title of the film a clip was cut from: what stands before ``_<class>_`` in its name.

    The clips of one title share scene and actors; a validation hold-out keeps them together (protocol §3).
    """
    position = clip.rfind(f"_{class_name}_")
    return clip[:position] if position > 0 else clip
