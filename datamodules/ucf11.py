"""UCF-11 (YouTube Action, "updated"): 1600 clips, 11 classes × 25 groups. Facts only (protocol §8)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.distribution import Archive
from datamodules.leaks import MARK
from datamodules.videos import Annotation, DataError, Video, check, find_folder, miniature_marker

PREFIXES = {
    "basketball": "shooting",
    "biking": "biking",
    "diving": "diving",
    "golf_swing": "golf",
    "horse_riding": "riding",
    "soccer_juggling": "juggle",
    "swing": "swing",
    "tennis_swing": "tennis",
    "trampoline_jumping": "jumping",
    "volleyball_spiking": "spiking",
    "walking": "walk_dog",
}
"""Class folder -> prefix of its clips, ``v_<prefix>_<group>_<clip>.mpg``."""

GROUPS = 25
CLIPS = {
    "basketball": (7, 6, 6, 4, 4, 4, 4, 4, 5, 5, 5, 5, 4, 5, 7, 7, 4, 5, 8, 7, 6, 8, 6, 6, 9),
    "biking": (4, 7, 4, 5, 9, 5, 6, 6, 4, 6, 6, 4, 6, 4, 5, 5, 6, 6, 4, 10, 12, 5, 4, 8, 4),
    "diving": (7, 7, 8, 7, 6, 7, 4, 6, 7, 7, 6, 7, 7, 4, 9, 8, 4, 4, 4, 7, 7, 6, 6, 7, 4),
    "golf_swing": (6, 4, 7, 6, 8, 4, 5, 6, 4, 4, 7, 4, 4, 4, 4, 4, 8, 6, 6, 7, 6, 6, 8, 7, 7),
    "horse_riding": (9, 9, 8, 8, 8, 10, 8, 6, 6, 8, 7, 7, 4, 8, 7, 6, 6, 6, 9, 8, 6, 7, 6, 8, 23),
    "soccer_juggling": (5, 6, 4, 6, 6, 5, 8, 4, 7, 4, 6, 6, 5, 10, 4, 8, 7, 8, 8, 6, 5, 8, 6, 8, 6),
    "swing": (5, 5, 4, 8, 8, 9, 8, 5, 6, 4, 6, 4, 4, 5, 8, 5, 4, 4, 4, 6, 6, 5, 5, 5, 4),
    "tennis_swing": (7, 7, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 8, 7, 7, 6, 6, 6, 6, 6, 6, 6, 6),
    "trampoline_jumping": (4, 6, 4, 5, 4, 4, 5, 4, 6, 6, 6, 5, 4, 4, 5, 6, 4, 4, 6, 5, 4, 6, 4, 4, 4),
    "volleyball_spiking": (4, 4, 4, 7, 5, 4, 7, 6, 6, 4, 6, 4, 7, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4),
    "walking": (4, 6, 5, 5, 5, 5, 6, 5, 6, 5, 5, 5, 5, 4, 4, 5, 5, 4, 5, 7, 4, 4, 4, 6, 4),
}
"""Clips in each of a class's 25 groups, numbered 1, 2, … without gaps: 1600 in all."""

TEST_GROUPS = range(5, 15)
"""``paper_like``: of all contiguous group ranges only 5 … 14 total exactly the paper's 625 test clips."""

RANDOM_SPLIT_SEED = 0
ARCHIVES = (
    Archive(
        "UCF11_updated_mpg.rar",
        ("https://www.crcv.ucf.edu/data/UCF11_updated_mpg.rar",),
        about_bytes=1_050_000_000,
        places=("UCF11_updated_mpg", ""),
        parts=tuple(PREFIXES),
    ),
)
LEAST_FRAMES = 320_000
"""In all clips (protocol §8: 32 to 59 GB of features); nobody publishes their number."""

WHERE = (
    "python reproduce/prepare.py data.name=ucf11 download=true gets it; or by hand: "
    "get UCF11_updated_mpg.rar (1.05 GB) from https://www.crcv.ucf.edu/data/UCF11_updated_mpg.rar and extract it there: "
    "<root>/UCF11_updated_mpg/<class>/v_<prefix>_<gg>/v_<prefix>_<gg>_<cc>.mpg"
)
SPLITS = ("paper_like", *(f"logo-{group}" for group in range(1, GROUPS + 1)), "random")
DEFAULT_SPLIT = "paper_like"


def is_split(name: str) -> bool:
    """Whether there is a split of that name."""
    return name in SPLITS


def read(root: Path, split: str = "paper_like", skip_bad: bool = False) -> Annotation:
    """Read and check UCF-11 below ``root``.

    Args:
        root: folder that holds ``UCF11_updated_mpg/`` or the class folders themselves.
        split: ``paper_like`` (test on groups 5 … 14: 975/625), ``logo-1`` … ``logo-25`` (leave one group out), or
            ``random`` (975/625 by clip: leaks scenes and actors between the sides, only to show that it does).
        skip_bad: leave missing clips out instead of raising.

    Raises:
        DataError: the split is unknown, or what is on disk is not the official data set.
    """
    if split not in SPLITS:
        raise DataError(f"data.split={split}: UCF-11 has paper_like, logo-1 … logo-25, and random")
    folder = find_folder(root, ("UCF11_updated_mpg/basketball", "basketball"), "UCF-11", WHERE).parent
    marker = miniature_marker(root, ("clips", {name: CLIPS[name] for name in PREFIXES}))
    clips = marker["clips"] if marker else CLIPS
    videos = []
    for label, (name, prefix) in enumerate(PREFIXES.items()):
        for group in range(1, GROUPS + 1):
            stem = f"v_{prefix}_{group:02d}"
            videos += [
                Video(f"{name}/{stem}/{stem}_{clip:02d}.mpg", (label,), f"{name}/{group:02d}")
                for clip in range(1, clips[name][group - 1] + 1)
            ]
    train, test = sides(videos, split)
    notes = ()
    if split == "paper_like":
        notes = ("UCF-11: the paper's 975/625 list was never published; tested on groups 5 to 14, a documented guess",)
    elif split == "random":
        notes = (f"UCF-11: {MARK} split=random, clips of one scene and actor are on both sides",)
    annotation = Annotation("ucf11", split, root, folder, tuple(PREFIXES), False, train, test, notes, bool(marker))
    return check(annotation, WHERE, skip_bad=skip_bad)


def sides(videos: list[Video], split: str) -> tuple[tuple[Video, ...], tuple[Video, ...]]:
    """(train, test) of the split."""
    if split == "random":
        number = round(len(videos) * 625 / 1600)
        chosen = set(np.random.default_rng(RANDOM_SPLIT_SEED).permutation(len(videos))[:number].tolist())
        is_test = [position in chosen for position in range(len(videos))]
    else:
        groups = TEST_GROUPS if split == "paper_like" else (int(split.removeprefix("logo-")),)
        is_test = [int(video.group[-2:]) in groups for video in videos]
    return (
        tuple(v for v, t in zip(videos, is_test, strict=True) if not t),
        tuple(v for v, t in zip(videos, is_test, strict=True) if t),
    )


def annotation_files(folder: Path) -> dict[str, Path]:
    """The data set's own annotations, ``<class>/Annotation/<clip>.xgtf``: name of the clip without suffix -> file.

    Args:
        folder: that holds the class folders.
    """
    files = (file for name in PREFIXES for file in sorted((folder / name).glob("Annotation*/**/*.xgtf")))
    return {file.stem: file for file in files}
