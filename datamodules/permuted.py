"""A negative control: labels of train dealt anew among its groups, so that nothing can be learned but chance."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from datamodules.parts import WHOLE, Part
from datamodules.videos import Annotation, Reader, Video

NAME = "NEGATIVE CONTROL"


def permute(annotation: Annotation, seed: int) -> Annotation:
    """Deal the labels of train's groups to other groups of train, and leave the test's as they are.

    The groups of a class receive the labels of all classes in equal parts, as far as whole groups allow: a random
    permutation would leave more of some class by chance, and a network would find that.

    Args:
        annotation: to be changed.
        seed: of the dealing.
    """
    random = np.random.default_rng(seed)
    members: dict[str, list[Video]] = defaultdict(list)
    for video in annotation.train:
        members[video.group].append(video)
    kinds: dict[tuple[int, ...], list[str]] = defaultdict(list)  # groups by the labels that their first clips have
    for group in random.permutation(sorted(members)):
        kinds[members[group][0].labels].append(str(group))
    order = [sorted(kinds)[place] for place in random.permutation(len(kinds))]
    takers = [group for kind in order for group in kinds[kind]]
    # Each kind's groups at even distances, so that so many in a row have each kind in its share.
    spread = [
        ((rank + 0.5) / len(kinds[kind]), place, kind) for place, kind in enumerate(order) for rank in range(len(kinds[kind]))
    ]
    givers = [group for *_, kind in sorted(spread) for group in [kinds[kind].pop()]]
    given = {
        video.name: members[giver][number % len(members[giver])].labels
        for taker, giver in zip(takers, givers, strict=True)
        for number, video in enumerate(members[taker])
    }
    note = f"{annotation.data}: {NAME}: the labels of train's groups were dealt to other groups, seed {seed}"
    train = tuple(replace(video, labels=given[video.name]) for video in annotation.train)
    return replace(annotation, train=train, notes=(*annotation.notes, note))


class Permuted:
    """A reader whose train has the labels of other groups.

    Args:
        reader: of the data set as it is.
        seed: of the dealing.
    """

    def __init__(self, reader: Reader, seed: int) -> None:
        self.reader, self.seed = reader, seed
        self.DEFAULT_SPLIT, self.is_split = reader.DEFAULT_SPLIT, reader.is_split
        self.annotation_files = getattr(reader, "annotation_files", None)

    def read(self, root: Path, split: str, skip_bad: bool, part: Part = WHOLE) -> Annotation:
        """Read the data set, or a part of it, and deal train's labels anew."""
        return permute(self.reader.read(root, split, skip_bad, part), self.seed)
