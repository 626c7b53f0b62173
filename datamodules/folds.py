"""What of train is validated on: 15 % of it, or group-aware folds, with classes balanced as well as groups allow."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from datamodules.videos import Annotation, DataError, Video, hold_out, strata

FOLD_SEED = 0
HOLDOUT_FRACTION = 0.15  # the authors' (issue 13 of the released code): 15 % of train
HOLDOUT_SEED = 0
EVERY_VIDEO = -2  # stands for the videos of any class, where folds are balanced by their size


class Fold(NamedTuple):
    """``i/n``: the i-th of n folds is validated on; ``all/n``: each in its turn.

    Args:
        number: i from 1 to n, or None for all.
        folds: n.
    """

    number: int | None
    folds: int


def parse_fold(text: str) -> Fold:
    """Read ``i/n`` or ``all/n``.

    Raises:
        ValueError: it is neither, or i is out of range.
    """
    match = re.fullmatch(r"(\d+|all)/(\d+)", text)
    if not match:
        raise ValueError(f"data.fold={text}: write i/n, such as 1/5 for the first of five folds, or all/n")
    folds = int(match[2])
    if folds < 2:
        raise ValueError(f"data.fold={text}: train can be dealt to 2 folds or more")
    number = None if match[1] == "all" else int(match[1])
    if number is not None and not 1 <= number <= folds:
        raise ValueError(f"data.fold={text}: folds are numbered from 1 to {folds}")
    return Fold(number, folds)


def sides(annotation: Annotation, which: str, train_on_all: bool, fold: tuple[int, int] | None) -> tuple[Video, ...]:
    """Videos of ``train``, ``val`` or ``test``, in a fixed order.

    Args:
        annotation: the data set.
        which: set.
        train_on_all: whether all of train is trained on, and nothing is validated on.
        fold: (i, n) to validate on the i-th of n folds of train; None for 15 % of train.

    Raises:
        DataError: no video can be held out.
    """
    if which == "test":
        return annotation.test
    if train_on_all:
        return annotation.train if which == "train" else ()
    if fold is not None:
        number, folds = fold
        dealt = deal_folds(annotation.train, folds, annotation.classes) == number - 1
        return tuple(v for v, held in zip(annotation.train, dealt, strict=True) if held == (which == "val"))
    kept, held = hold_out(annotation.train, HOLDOUT_FRACTION, HOLDOUT_SEED)
    if not held:
        raise DataError(
            f"{annotation.data}: no video can be held out of train for validation, because each class comes from "
            "one source only; name more groups in videos.csv"
        )
    return kept if which == "train" else held


def deal_folds(videos: Sequence[Video], folds: int, classes: Sequence[str], seed: int = FOLD_SEED) -> np.ndarray:
    """Deal videos to folds by whole groups.

    The largest group comes first, equal ones in seeded random order; each goes to the fold in which its classes are rarest
    so far: where ``Σ_c ((m_fc + g_c)² - m_fc²) / N_c²`` is least, for m_fc videos of class c in the fold, g_c in the group
    and N_c in all, the number of videos counting as one more class. Where a class has only as many groups left as folds
    lack it, the group goes to one of those.

    Args:
        videos: those of train.
        folds: n.
        classes: names, for messages.
        seed: of the order of groups of one size.

    Returns:
        (V,) fold of each video, from 0.

    Raises:
        DataError: a class comes from fewer groups than there are folds, so that some folds would lack it.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for number, video in enumerate(videos):
        members[video.group].append(number)
    touched = {group: Counter(strata(videos[i] for i in mine)) for group, mine in members.items()}
    _check_groups(touched, folds, classes)
    total = sum(touched.values(), Counter())
    total[EVERY_VIDEO] = len(videos)
    names = sorted(members)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    order.sort(key=lambda group: -len(members[group]))
    dealt: list[Counter[int]] = [Counter() for _ in range(folds)]
    fold_of = np.zeros(len(videos), dtype=np.int64)
    left = Counter(label for labels in touched.values() for label in labels)  # groups of each class that are not dealt yet
    for group in order:
        lacking = {c: {fold for fold in range(folds) if not dealt[fold][c]} for c in touched[group] if c >= 0}
        tight = [some for c, some in lacking.items() if left[c] <= len(some)]
        allowed = set.intersection(*tight) or set.union(*tight) if tight else set(range(folds))
        left.subtract(touched[group].keys())
        gain = touched[group] + Counter({EVERY_VIDEO: len(members[group])})
        cost = [sum(((m[c] + g) ** 2 - m[c] ** 2) / total[c] ** 2 for c, g in gain.items()) for m in dealt]
        best = min(sorted(allowed), key=lambda fold: cost[fold])
        dealt[best].update(gain)
        fold_of[members[group]] = best
    return fold_of


def _check_groups(touched: dict[str, Counter[int]], folds: int, classes: Sequence[str]) -> None:
    groups_of = Counter(label for labels in touched.values() for label in labels)
    few = {classes[label]: number for label, number in sorted(groups_of.items()) if label >= 0 and number < folds}
    if few:
        listed = ", ".join(f"{name} {number}" for name, number in list(few.items())[:5])
        more = f" and {len(few) - 5} more classes" if len(few) > 5 else ""
        raise DataError(
            f"data.fold: {folds} folds need {folds} groups (sources) of each class in train; there are of {listed}{more}; "
            f"take at most {min(few.values())} folds"
            if min(few.values()) > 1
            else f"data.fold: train cannot be dealt to folds by whole groups (sources): there is one only of {listed}{more}"
        )
