"""Parts of data sets: groups and classes that are chosen on purpose, and said."""

from pathlib import Path

import pytest

from datamodules import hollywood2, ucf11, videofolder
from datamodules.parts import WHOLE, Part, in_ranges, parse_groups
from datamodules.videos import Annotation, DataError, Video, check

VIDEOS = tuple(
    Video(f"{name}/{group}_{clip}.avi", (label,), f"{name}/{group:02d}")
    for label, name in enumerate("abc")
    for group in (1, 2, 10)
    for clip in range(2)
)


def number(video: Video) -> int:
    return int(video.group[-2:])


def annotation(folder: Path = Path("nowhere"), multi_label: bool = False) -> Annotation:
    train = tuple(video for video in VIDEOS if number(video) != 2)
    test = tuple(video for video in VIDEOS if number(video) == 2)
    return Annotation("letters", "held-2", folder, folder, ("a", "b", "c"), multi_label, train, test)


@pytest.mark.parametrize(
    ("text", "numbers", "again"),
    [
        ("1-3", (1, 2, 3), "1-3"),
        ("1-3,7", (1, 2, 3, 7), "1-3,7"),
        ("7, 2,1", (1, 2, 7), "1-2,7"),
        ("5", (5,), "5"),
        ("[1-2,4]", (1, 2, 4), "1-2,4"),
        ("1-4,2-6", (1, 2, 3, 4, 5, 6), "1-6"),
    ],
)
def test_groups_are_written_as_numbers_and_ranges(text, numbers, again):
    assert parse_groups(text) == numbers
    assert in_ranges(numbers) == again


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-3", "1;2", "1.5", "1--3", "1,,2", "99999"])
def test_what_is_no_list_of_groups_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="write numbers and ranges, such as 1-3,7"):
        parse_groups(text)


def test_a_part_by_groups_keeps_sides_and_classes_and_says_so():
    part = Part((1, 2))
    found = part.of(annotation(), number)
    assert {number(video) for video in found.train} == {1} and {number(video) for video in found.test} == {2}
    assert (found.split, found.part, found.classes) == ("held-2 of groups 1-2", "groups 1-2", ("a", "b", "c"))
    assert len(found.videos) == 12


def test_a_part_by_classes_numbers_them_anew_in_the_data_sets_order():
    found = Part(classes=("c", "a")).of(annotation(), None)
    assert found.classes == ("a", "c") and found.part == "2 classes" and found.split == "held-2 of 2 classes"
    assert {(video.name[0], video.labels) for video in found.videos} == {("a", (0,)), ("c", (1,))}


def test_of_several_labels_those_stay_whose_class_stays():
    both, other, none = Video("x", (0, 1), "x"), Video("y", (1, 2), "y"), Video("z", (2,), "z")
    whole = Annotation("letters", "s", Path(), Path(), ("a", "b", "c"), True, (both, none), (other,))
    found = Part(classes=("a", "b")).of(whole, None)
    assert found.train == (Video("x", (0, 1), "x"),) and found.test == (Video("y", (1,), "y"),)


def test_the_whole_is_no_part():
    assert not WHOLE and str(WHOLE) == "" and str(Part((4,), ("a", "b"))) == "group 4, 2 classes"


@pytest.mark.counts("bad settings")
@pytest.mark.parametrize(
    ("part", "numbered", "said"),
    [
        (Part((1, 3)), True, r"data\.groups=1,3: letters has no group 3"),
        (Part((1,)), False, r"data\.groups=1: the groups of letters have no numbers; data\.classes"),
        (Part(classes=("a", "z")), True, r"data\.classes: letters has no class 'z'; it has a, b, c"),
    ],
)
def test_a_part_that_is_not_there_is_refused(part, numbered, said):
    with pytest.raises(DataError, match=said):
        part.of(annotation(), number if numbered else None)


def test_only_a_parts_videos_have_to_be_there(tmp_path):
    for video in VIDEOS:
        if number(video) != 10 and video.name[0] != "b":
            (tmp_path / video.name).parent.mkdir(exist_ok=True)
            (tmp_path / video.name).write_bytes(b"x")
    whole = annotation(tmp_path)
    counts = {"train": 12, "test": 6}
    found = check(whole, "get it", counts, part=Part((1, 2), ("a", "c")), group_number=number)
    assert len(found.train) == len(found.test) == 4
    with pytest.raises(DataError, match="13 train videos|12 train videos instead of 13"):  # counts are those of the whole lists
        check(whole, "get it", {"train": 13}, part=Part((1, 2), ("a", "c")), group_number=number)
    with pytest.raises(DataError, match=r"data\.classes=\[a,c\]"):  # what is there is offered
        check(whole, "get it", part=Part((1, 2)), group_number=number)
    with pytest.raises(DataError, match=r"no test video(.|\n)*data\.split must leave videos of it on both sides"):
        check(whole, "get it", part=Part((1,), ("a", "c")), group_number=number)


def test_parts_of_other_data_sets_are_their_classes(tmp_path):
    for name in ("run", "sit", "wave"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for clip in range(4):
            (tmp_path / "set" / name / f"{clip}.avi").write_bytes(bytes([clip]))
    found = videofolder.read(tmp_path / "set", part=Part(classes=("run", "wave")))
    assert found.classes == ("run", "wave") and found.part == "2 classes" and len(found.videos) == 8
    with pytest.raises(DataError, match="the groups of set have no numbers"):
        videofolder.read(tmp_path / "set", part=Part((1,)))


def test_every_reader_of_the_project_takes_a_part():
    import inspect

    for reader in (ucf11, hollywood2, videofolder):
        assert inspect.signature(reader.read).parameters["part"].default is WHOLE
