"""Names of files and folders that are made of names of videos: safe on any system, and no two alike. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

NAME_LENGTH = 80  # of a file, without number and suffix
NAMELESS = "video"  # one whose name has no letter that is safe


def safe_name(video: str) -> str:
    """A video's name as part of a file's name on any system: without suffix, other characters than A-Z a-z 0-9 _ as -."""
    stem = PurePosixPath(video).with_suffix("")
    return re.sub(r"[^A-Za-z0-9_]+", "-", str(stem))[-NAME_LENGTH:].strip("-")


def file_names(videos: Sequence[str]) -> list[str]:
    """A file's name, without suffix, for each of some videos: never empty, and all different, in capitals or not.

    Where ``safe_name`` says the same of several, those after the first have a number; so the names are those of the whole
    list in its order, and another list may give others.
    """
    names: list[str] = []
    taken: set[str] = set()  # in lower case, for systems that take A and a for the same
    for video in videos:
        name = base = safe_name(video) or NAMELESS
        number = 2
        while name.lower() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.lower())
        names.append(name)
    return names
