"""UCF-11 (YouTube Action): 1600 clips, 11 classes × 25 groups, in two editions. Facts only (protocol §8)."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np

from datamodules.distribution import Archive
from datamodules.leaks import MARK
from datamodules.parts import WHOLE, Part
from datamodules.removed import removed_videos
from datamodules.videos import TRUTHS, Annotation, DataError, Video, check, miniature_marker

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
"""Class folder -> prefix of its clips, ``v_<prefix>_<group>_<clip>.mpg``, or ``.avi``."""

EDITIONS = {"UCF11_updated_mpg": ".mpg", "action_youtube_naudio": ".avi"}
"""Folder of an edition -> suffix of its clips; the first is the later one. Their clips bear the same names."""

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
        places=(*EDITIONS, ""),
        parts=tuple(PREFIXES),
        stems=("action_youtube_naudio", "UCF11_updated_avi"),
    ),
)
LEAST_FRAMES = 320_000
"""In all clips (protocol §8: 32 to 59 GB of features); nobody publishes their number."""

WHERE = (
    "python reproduce/prepare.py data.name=ucf11 download=true gets it; or by hand: "
    "get UCF11_updated_mpg.rar (1.05 GB) from https://www.crcv.ucf.edu/data/UCF11_updated_mpg.rar and extract it there: "
    "<root>/UCF11_updated_mpg/<class>/v_<prefix>_<gg>/v_<prefix>_<gg>_<cc>.mpg (or the AVI edition, as "
    "<root>/action_youtube_naudio/…)"
)
SPLITS = ("paper_like", *(f"logo-{group}" for group in range(1, GROUPS + 1)), "random")
DEFAULT_SPLIT = "paper_like"
EACH = "logo"
"""In the place of a split: every group is left out in its turn, and what is predicted of all of them is pooled."""


def is_split(name: str) -> bool:
    """Whether there is a split of that name."""
    return name in (*SPLITS, EACH)


def turns(part: Part) -> tuple[str, ...]:
    """The splits that ``data.split=logo`` stands for: one for each group of the part."""
    return tuple(f"logo-{group}" for group in part.groups or range(1, GROUPS + 1))


def read(root: Path, split: str = "paper_like", skip_bad: bool = False, part: Part = WHOLE) -> Annotation:
    """Read and check UCF-11 below ``root``.

    Args:
        root: folder that holds ``UCF11_updated_mpg/`` or ``action_youtube_naudio/``, or the class folders themselves, or that
            lies beside one of the two.
        split: ``paper_like`` (test on groups 5 … 14: 975/625), ``logo-1`` … ``logo-25`` (leave one group out), or
            ``random`` (975/625 by clip: leaks scenes and actors between the sides, only to show that it does).
        skip_bad: leave missing clips out instead of raising.
        part: what to take of it; its groups are numbered from 1 to 25.

    Raises:
        DataError: the split is unknown, both editions are there, or what is on disk is not the official data set.
    """
    if split == EACH:
        raise DataError(
            f"data.split={EACH}: is every group in turn, which tables take; a run takes one: {', '.join(turns(part))}"
        )
    if split not in SPLITS:
        raise DataError(f"data.split={split}: UCF-11 has paper_like, {EACH}, logo-1 … logo-25, and random")
    folder, suffix = find_edition(root)
    marker = miniature_marker(root, ("clips", {name: CLIPS[name] for name in PREFIXES}))
    clips = marker["clips"] if marker else CLIPS
    videos = []
    for label, (name, prefix) in enumerate(PREFIXES.items()):
        for group in range(1, GROUPS + 1):
            stem = f"v_{prefix}_{group:02d}"
            videos += [
                Video(f"{name}/{stem}/{stem}_{clip:02d}{suffix}", (label,), f"{name}/{group:02d}")
                for clip in range(1, clips[name][group - 1] + 1)
            ]
    train, test = sides(videos, split)
    notes = ()
    if split == "paper_like":
        notes = ("UCF-11: the paper's 975/625 list was never published; tested on groups 5 to 14, a documented guess",)
    elif split == "random":
        notes = (f"UCF-11: {MARK} split=random, clips of one scene and actor are on both sides",)
    if marker and marker.get("truth") == TRUTHS[1]:
        notes += ("UCF-11: drawn with data.truth=ring: nothing marks the actor that counts, in the middle of the others",)
    annotation = Annotation("ucf11", split, root, folder, tuple(PREFIXES), False, train, test, notes, bool(marker))
    return check(annotation, WHERE, skip_bad=skip_bad, part=part, group_number=group_number)


def find_edition(root: Path) -> tuple[Path, str]:
    """The folder of the class folders, and the suffix of the clips in them.

    Raises:
        DataError: there is none, or more than one.
    """
    looked = [root / name for name in EDITIONS] + [root, *(root / name / name for name in EDITIONS)]
    looked += [root.parent / name for name in EDITIONS]
    places = ((folder, _suffix(root, folder)) for folder in looked if any((folder / name).is_dir() for name in PREFIXES))
    found = {folder.resolve(): (folder, suffix) for folder, suffix in places}
    if len(found) > 1:
        raise DataError(
            f"UCF-11 is there twice: {' and '.join(map(str, found))}. A run takes one edition: move the other one away, or "
            "name the one's folder with paths.data and data.folder"
        )
    if not found:
        listed = "\n".join(f"    {folder.resolve()}" for folder in looked)
        raise DataError(f"UCF-11 not found. Looked for the class folders, such as basketball, in\n{listed}\n{WHERE}")
    return next(iter(found.values()))


def _suffix(root: Path, folder: Path) -> str:
    """Of an edition's clips: of the first one there, or that was there before it was deleted; else by the folder's name."""
    clips = (clip.name for name in PREFIXES for clip in sorted((folder / name).glob(f"v_{PREFIXES[name]}_*/v_*")))
    suffixes = (Path(clip).suffix for clip in chain(clips, sorted(removed_videos(root))))
    known = EDITIONS.get(folder.name, next(iter(EDITIONS.values())))
    return next((suffix for suffix in suffixes if suffix in EDITIONS.values()), known)


def group_number(video: Video) -> int:
    """Its group, from 1 to 25."""
    return int(video.group[-2:])


def sides(videos: list[Video], split: str) -> tuple[tuple[Video, ...], tuple[Video, ...]]:
    """(train, test) of the split."""
    if split == "random":
        number = round(len(videos) * 625 / 1600)
        chosen = set(np.random.default_rng(RANDOM_SPLIT_SEED).permutation(len(videos))[:number].tolist())
        is_test = [position in chosen for position in range(len(videos))]
    else:
        groups = TEST_GROUPS if split == "paper_like" else (int(split.removeprefix("logo-")),)
        is_test = [group_number(video) in groups for video in videos]
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
