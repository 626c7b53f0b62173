"""The negative control's labels: whole groups of train, every label in equal parts, and nothing of the test."""

from collections import Counter
from pathlib import Path

import pytest

from datamodules.parts import Part
from datamodules.permuted import NAME, Permuted, permute
from datamodules.videos import Annotation, Video

CLASSES = 4


def annotation(groups: int = 6, clips: int = 2, multi_label: bool = False) -> Annotation:
    train, test = [], []
    for label in range(CLASSES):
        for group in range(groups):
            labels = (label, label + 1) if multi_label and group == 1 and label < 3 else (label,)
            for number in range(clips):
                side = test if group == 0 else train
                side.append(Video(f"{label}/{group}_{number}.avi", labels, f"{label} {group}"))
    names = tuple("abcd")
    return Annotation("mine", "1", Path("x"), Path("x"), names, multi_label, tuple(train), tuple(test), ("said before",))


@pytest.mark.parametrize("seed", range(5))
def test_whole_groups_are_dealt_and_each_class_receives_all_labels_alike(seed):
    data = annotation(groups=9)  # eight of train: two of each label for the groups of each class
    found = permute(data, seed)
    by_group: dict[str, set] = {}
    for video in found.train:
        by_group.setdefault(video.group, set()).add(video.labels)
    assert all(len(labels) == 1 for labels in by_group.values())
    table = Counter((group[0], *labels.pop()) for group, labels in by_group.items())
    assert set(table.values()) == {2} and len(table) == CLASSES**2


def test_the_test_names_groups_and_numbers_of_each_label_stay():
    data = annotation()
    found = permute(data, 1)
    assert found.test == data.test and found.classes == data.classes
    assert [(v.name, v.group) for v in found.train] == [(v.name, v.group) for v in data.train]
    assert Counter(v.labels for v in found.train) == Counter(v.labels for v in data.train)
    uneven = Counter((v.group[0], v.labels[0]) for v in found.train)
    assert max(uneven.values()) <= 4  # five groups of two clips: each label once or twice


def test_the_dealing_depends_on_the_seed_alone_and_is_said():
    data = annotation()
    assert permute(data, 3) == permute(data, 3) and permute(data, 3).train != permute(data, 4).train
    assert permute(data, 3).notes == (
        "said before",
        f"mine: {NAME}: the labels of train's groups were dealt to other groups, seed 3",
    )


def test_videos_of_several_labels_and_groups_of_several_sizes_are_dealt_too():
    data = annotation(multi_label=True)
    assert Counter(v.labels for v in permute(data, 1).train) == Counter(v.labels for v in data.train)
    uneven = annotation()
    uneven = Annotation(**{**vars(uneven), "train": uneven.train[1:]})  # the first group has one clip left
    assert {v.labels for v in permute(uneven, 1).train} == {v.labels for v in uneven.train}


class Mine:
    """A reader."""

    DEFAULT_SPLIT = "1"

    def is_split(self, name: str) -> bool:
        return name == "1"

    def read(self, root: Path, split: str, skip_bad: bool, part: Part) -> Annotation:
        return annotation()


def test_the_reader_of_a_control_reads_as_the_data_sets_own_does():
    control = Permuted(Mine(), 2)
    assert control.DEFAULT_SPLIT == "1" and control.is_split("1") and not control.is_split("2")
    assert control.read(Path("x"), "1", False) == permute(annotation(), 2) and control.annotation_files is None
