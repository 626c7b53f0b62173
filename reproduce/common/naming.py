"""Names of files and folders that are made of what others wrote: safe on any system, and no two alike. Free of torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

NAME_LENGTH = 80  # of a file, without number and suffix
WORDS_LENGTH = 48  # of what is said in a file's name
DIGEST_LENGTH = 8
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


def file_words(words: str) -> str:
    """Some words as part of a file's name: as they are where they are short and safe, else so many with a hash of them all."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", words).strip("-")[:WORDS_LENGTH].rstrip("-_")
    if plain == words:
        return plain
    return f"{plain}-{hashlib.sha256(words.encode()).hexdigest()[:DIGEST_LENGTH]}".lstrip("-")
