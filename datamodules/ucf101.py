"""UCF-101: 13,320 clips, 101 classes × 25 groups, three official splits by groups. Facts only."""

from __future__ import annotations

import re
from pathlib import Path

from datamodules.distribution import Archive
from datamodules.parts import WHOLE, Part
from datamodules.reading import SHOWN, DataError, read_lines
from datamodules.videos import Annotation, Video, check, find_folder, miniature_marker, shortened

NAMES = """
ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch Basketball BasketballDunk BenchPress
Biking Billiards BlowDryHair BlowingCandles BodyWeightSquats Bowling BoxingPunchingBag BoxingSpeedBag BreastStroke
BrushingTeeth CleanAndJerk CliffDiving CricketBowling CricketShot CuttingInKitchen Diving Drumming Fencing FieldHockeyPenalty
FloorGymnastics FrisbeeCatch FrontCrawl GolfSwing Haircut HammerThrow Hammering HandstandPushups HandstandWalking HeadMassage
HighJump HorseRace HorseRiding HulaHoop IceDancing JavelinThrow JugglingBalls JumpRope JumpingJack Kayaking Knitting LongJump
Lunges MilitaryParade Mixing MoppingFloor Nunchucks ParallelBars PizzaTossing PlayingCello PlayingDaf PlayingDhol PlayingFlute
PlayingGuitar PlayingPiano PlayingSitar PlayingTabla PlayingViolin PoleVault PommelHorse PullUps Punch PushUps Rafting
RockClimbingIndoor RopeClimbing Rowing SalsaSpin ShavingBeard Shotput SkateBoarding Skiing Skijet SkyDiving SoccerJuggling
SoccerPenalty StillRings SumoWrestling Surfing Swing TableTennisShot TaiChi TennisSwing ThrowDiscus TrampolineJumping Typing
UnevenBars VolleyballSpiking WalkingWithDog WallPushups WritingOnBoard YoYo
"""
CLASSES = tuple(NAMES.split())
"""Class folders; ``classInd.txt`` numbers them. ``HandstandPushups`` holds clips ``v_HandStandPushups_…``."""

COUNTS = {"1": {"train": 9537, "test": 3783}, "2": {"train": 9586, "test": 3734}, "3": {"train": 9624, "test": 3696}}
TEST_GROUPS = {"1": range(1, 8), "2": range(8, 15), "3": range(15, 22)}
GROUPS = 25
SPLITS = tuple(COUNTS)
DEFAULT_SPLIT = "1"
NUMBERS = "classInd.txt"
CLIP = re.compile(r"(\w+)/v_(\w+)_g(\d\d)_c\d\d\.avi")
SPLIT_FOLDERS = (
    "ucfTrainTestlist",
    "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
    "annotations",  # as mmaction2's scripts lay it out, with the class folders in videos/
)
VIDEO_FOLDERS = ("UCF-101", "videos")
ADDRESS = "www.crcv.ucf.edu/data/UCF101"
ARCHIVES = (
    Archive(
        "UCF101TrainTestSplits-RecognitionTask.zip",
        (f"https://{ADDRESS}/UCF101TrainTestSplits-RecognitionTask.zip",),
        about_bytes=115_000,
        places=SPLIT_FOLDERS,
        parts=(NUMBERS, *(f"{side}list0{split}.txt" for side in ("train", "test") for split in SPLITS)),
    ),
    Archive(
        "UCF101.rar",
        (f"https://{ADDRESS}/UCF101.rar",),
        about_bytes=6_930_000_000,
        places=(*VIDEO_FOLDERS, ""),
        parts=CLASSES,
        stems=("UCF-101",),
    ),
)
LEAST_FRAMES = 2_483_295
"""In all clips."""

WHERE = (
    "python reproduce/prepare.py data.name=ucf101 download=true gets it; or by hand: get UCF101.rar (6.9 GB) and "
    f"UCF101TrainTestSplits-RecognitionTask.zip from https://{ADDRESS}/ and extract both there: "
    "<root>/UCF-101/<Class>/v_<Class>_g<gg>_c<cc>.avi and <root>/ucfTrainTestlist/{train,test}list0{1,2,3}.txt"
)


def is_split(name: str) -> bool:
    """Whether there is a split of that name."""
    return name in SPLITS


def read(root: Path, split: str = DEFAULT_SPLIT, skip_bad: bool = False, part: Part = WHOLE) -> Annotation:
    """Read and check UCF-101 below ``root``.

    Args:
        root: folder that holds the class folders (or ``UCF-101/`` or ``videos/``) and ``ucfTrainTestlist/`` (or
            ``annotations/``).
        split: ``1``, ``2`` or ``3``, which test on groups 1 … 7, 8 … 14 and 15 … 21.
        skip_bad: leave missing clips out instead of raising.
        part: what to take of it; its groups are numbered from 1 to 25.

    Raises:
        DataError: the split is unknown, a list is missing, malformed or not the official one, or clips are missing.
    """
    if split not in SPLITS:
        raise DataError(f"data.split={split}: UCF-101 has the splits 1, 2 and 3")
    lists = find_folder(root, SPLIT_FOLDERS, "UCF-101's lists", WHERE)
    folder = next((root / name for name in VIDEO_FOLDERS if (root / name).is_dir()), root)
    marker = miniature_marker(root, ("counts", COUNTS[split]))
    classes = read_classes(_list(lists, NUMBERS))
    sides = {side: read_list(_list(lists, f"{side}list0{split}.txt"), classes) for side in ("train", "test")}
    for side, videos in sides.items():
        odd = [video.name for video in videos if (group_number(video) in TEST_GROUPS[split]) != (side == "test")]
        if odd:
            first, *_, last = TEST_GROUPS[split]
            raise DataError(
                f"UCF-101, split {split}: {side} lists {shortened(odd)}, but tests on groups {first} to {last}\n{WHERE}"
            )
    annotation = Annotation(
        data="ucf101",
        split=split,
        root=root,
        folder=folder,
        classes=classes,
        multi_label=False,
        train=sides["train"],
        test=sides["test"],
        miniature=bool(marker),
        published_split=True,
    )
    return check(annotation, WHERE, marker["counts"] if marker else COUNTS[split], skip_bad, part, group_number)


def _list(lists: Path, name: str) -> Path:
    if not (lists / name).is_file():
        raise DataError(f"UCF-101: the list {(lists / name).resolve()} is missing\n{WHERE}")
    return lists / name


def read_classes(path: Path) -> tuple[str, ...]:
    """Lines ``<number> <Class>``, numbered from 1 -> the classes in their order.

    Raises:
        DataError: a line has another form or number, or the classes are not UCF-101's; names file and line.
    """
    classes: list[str] = []
    for number, line in read_lines(path):
        words = line.split()
        if len(words) != 2 or words[0] != str(len(classes) + 1):
            raise DataError(f"{path}, line {number}: expected '{len(classes) + 1} <Class>', found {line[:SHOWN]!r}")
        if words[1] not in CLASSES or words[1] in classes:
            raise DataError(f"{path}, line {number}: {words[1][:SHOWN]!r} is no class of UCF-101, or stands there twice")
        classes.append(words[1])
    absent = [name for name in CLASSES if name not in classes]
    if absent:
        raise DataError(f"{path}: lacks {shortened(absent)}\n{WHERE}")
    return tuple(classes)


def read_list(path: Path, classes: tuple[str, ...]) -> tuple[Video, ...]:
    """Lines ``<Class>/v_<Class>_g<gg>_c<cc>.avi[ <number>]`` -> videos; the folder says the class, numbers are compared.

    Raises:
        DataError: a line has another form, contradicts its folder, or repeats a clip; names file and line.
    """
    videos: dict[str, Video] = {}
    for number, line in read_lines(path):
        name, *said = line.split()
        found = CLIP.fullmatch(name)
        if found is None or len(said) > 1 or found[1] not in classes or found[1].lower() != found[2].lower():
            expected = "'<Class>/v_<Class>_g<gg>_c<cc>.avi', and in train the class's number"
            raise DataError(f"{path}, line {number}: expected {expected}, found {line[:SHOWN]!r}")
        if not 1 <= int(found[3]) <= GROUPS:
            raise DataError(f"{path}, line {number}: group {found[3]} is none of 1 to {GROUPS}, found {line[:SHOWN]!r}")
        label = classes.index(found[1])
        if said and said[0] != str(label + 1):
            raise DataError(
                f"{path}, line {number}: class {said[0][:SHOWN]} instead of {label + 1}, as {NUMBERS} has {found[1]}"
            )
        if name in videos:
            raise DataError(f"{path}, line {number}: {name!r} listed twice")
        videos[name] = Video(name, (label,), f"{found[1]}/{found[3]}")
    return tuple(videos.values())


def group_number(video: Video) -> int:
    """Its group, from 1 to 25; clips of one class and group share scene and actor."""
    return int(video.group[-2:])
