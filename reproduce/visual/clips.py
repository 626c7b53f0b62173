"""Which clips a figure shows: by rule, from what a run predicted and where it looked. The same clips each time.

A rule is a pool and an order. The clips of the pool are taken in the order, of each class one, then of each class a second
one, and so on; ties go by name. A clip of several classes counts for its first. A clip is classified correctly where the
class of the highest score is one of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from datamodules.videos import DataError
from reproduce.common.settings import SettingsError
from reproduce.experiments.predictions import Predictions

POOLS = {
    "correct": "classified correctly",
    "incorrect": "classified incorrectly",
    "any": "of the test set",
}
ORDERS = {
    "first": "the first by name",
    "confident": "those with the highest score",
    "foreground": "those with the most attention in the actor's box over the box's area",
    "background": "those with the least attention in the actor's box over the box's area",
    "focused": "those with the least entropy of attention",
    "spread": "those with the greatest entropy of attention",
}
BY_BOX = {"foreground": "focused", "background": "spread"}
"""Orders that need boxes, and what takes their place on data without them."""
LARGEST_FIRST = ("confident", "foreground", "spread")


@dataclass(frozen=True)
class Rule:
    """How clips are chosen.

    Args:
        pool: of ``POOLS``.
        order: of ``ORDERS``.
    """

    pool: str
    order: str

    def __str__(self) -> str:
        return f"of the clips {POOLS[self.pool]}, {ORDERS[self.order]}, one a class as long as there are classes"


@dataclass(frozen=True)
class Clip:
    """A test video and what was predicted.

    Args:
        name: of the video.
        kind: its first class; empty for a video without.
        correct: whether the class of the highest score is one of its own.
        score: the highest one.
    """

    name: str
    kind: str
    correct: bool
    score: float


def parse_rule(words: Sequence[str], default: Rule) -> Rule:
    """The rule that ``choose=`` says, a default's part where it says none.

    Raises:
        SettingsError: a word is unknown, or there are two pools or two orders.
    """
    known = [*POOLS, *ORDERS]
    for word in words:
        if word not in known:
            close = difflib.get_close_matches(word, known, n=1)
            raise SettingsError(f"choose={word}: {f'did you mean {close[0]}? ' if close else ''}choose from {', '.join(known)}")
    pools = [word for word in words if word in POOLS]
    orders = [word for word in words if word in ORDERS]
    if len(pools) > 1 or len(orders) > 1:
        raise SettingsError(f"choose=[{','.join(words)}]: at most one of {', '.join(POOLS)} and one of {', '.join(ORDERS)}")
    return Rule((pools or [default.pool])[0], (orders or [default.order])[0])


def clips_of(found: Predictions) -> list[Clip]:
    """The test videos of a run."""
    return [
        Clip(name, next(iter(np.asarray(found.classes)[hot]), ""), bool(hot[scores.argmax()]), float(scores.max()))
        for name, hot, scores in zip(found.videos, found.target, found.scores, strict=True)
    ]


def choose(clips: Iterable[Clip], rule: Rule, count: int, value: Callable[[Clip], float | None]) -> list[str]:
    """Names of the clips that a rule takes, fewer than asked for where the pool has no more.

    Args:
        clips: in any order.
        rule: the rule.
        count: clips to take.
        value: by which the orders from foreground to spread go: attention in the box over the box's area, or entropy; a
            clip that it gives None is left out.
    """
    pool = [clip for clip in clips if rule.pool == "any" or clip.correct == (rule.pool == "correct")]
    ranked: list[tuple[float, str, Clip]] = []
    for clip in pool:
        number = {"first": 0.0, "confident": clip.score}.get(rule.order)
        number = value(clip) if number is None else number
        if number is not None:
            ranked.append((-number if rule.order in LARGEST_FIRST else number, clip.name, clip))
    ranked.sort(key=lambda entry: entry[:2])
    taken: dict[str, int] = {}
    rounds: list[tuple[int, int, str]] = []
    for place, (_, name, clip) in enumerate(ranked):
        rounds.append((taken.get(clip.kind, 0), place, name))
        taken[clip.kind] = taken.get(clip.kind, 0) + 1
    return [name for _, _, name in sorted(rounds)[:count]]


def find_videos(wanted: Sequence[str], names: Sequence[str]) -> dict[str, str | None]:
    """For each name that a user wrote, the one video that it means, or None.

    A video may be called by its whole name, with or without suffix, or by its last parts, such as the file's name.

    Raises:
        DataError: a name means several videos.
    """
    found: dict[str, str | None] = {}
    for word in wanted:
        alike = [name for name in names if word in (name, _stem(name))]
        alike = alike or [name for name in names if name.endswith(f"/{word}") or _stem(name).endswith(f"/{word}")]
        if len(alike) > 1:
            raise DataError(f"videos: {word} may be any of {', '.join(alike[:5])}; write more of the path")
        found[word] = alike[0] if alike else None
    return found


def unknown_video(word: str, names: Sequence[str], where: str) -> DataError:
    """The error that there is no such video, with those whose names come near."""
    by_file = {PurePosixPath(name).name: name for name in names} | {PurePosixPath(name).stem: name for name in names}
    close = difflib.get_close_matches(word, [*names, *by_file], n=3, cutoff=0.6)
    said = list(dict.fromkeys(by_file.get(name, name) for name in close))
    hint = f"did you mean {' or '.join(said)}?" if said else f"the first of them is {min(names)}" if names else "it has none"
    return DataError(f"videos: there is no {word} among the videos of {where}; {hint}")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """For captions: names without folder and suffix where all of them differ in that, else without suffix."""
    stems = [PurePosixPath(name).stem for name in names]
    return dict(zip(names, stems if len(set(stems)) == len(names) else map(_stem, names), strict=True))


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
