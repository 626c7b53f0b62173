"""Annotations, their checks, and the hold-out."""

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules.videos import (
    MINIATURE_MARKER,
    Annotation,
    DataError,
    Video,
    check,
    find_folder,
    hold_out,
    miniature_marker,
)

QUICK = settings(deadline=None, max_examples=120)


def make_videos(sizes: list[tuple[int, int]]) -> list[Video]:
    """A group for each (class, number of videos)."""
    return [Video(f"{g}/{n}.avi", (label,), f"group {g}") for g, (label, size) in enumerate(sizes) for n in range(size)]


groups_of_one_class = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=25)
fractions = st.sampled_from([0.05, 0.15, 0.3, 0.5, 0.8])
seeds = st.integers(0, 2**31)

any_videos = st.lists(st.tuples(st.frozensets(st.integers(0, 4), max_size=3), st.integers(0, 12)), min_size=1, max_size=40).map(
    lambda rows: [Video(f"{n:03d}.avi", tuple(sorted(labels)), f"group {g}") for n, (labels, g) in enumerate(rows)]
)
"""Several labels or none, and groups that mix classes."""


@given(any_videos, fractions, seeds)
@QUICK
def test_hold_out_keeps_groups_whole_and_loses_nothing(videos, fraction, seed):
    kept, held = hold_out(videos, fraction, seed)
    assert not {video.group for video in kept} & {video.group for video in held}
    assert [v for v in videos if v in set(kept)] == list(kept), "the given order"
    assert [v for v in videos if v in set(held)] == list(held), "the given order"
    assert len(kept) + len(held) == len(videos)


@given(any_videos, fractions, seeds, st.randoms(use_true_random=False))
@QUICK
def test_hold_out_depends_on_the_seed_alone_and_not_on_the_order_of_the_videos(videos, fraction, seed, random):
    _, held = hold_out(videos, fraction, seed)
    shuffled = random.sample(videos, k=len(videos))
    assert set(hold_out(shuffled, fraction, seed)[1]) == set(held)
    assert hold_out(videos, fraction, seed)[1] == held


def test_hold_out_of_another_seed_is_another_one():
    videos = make_videos([(0, 1)] * 40)
    assert len({hold_out(videos, 0.3, seed)[1] for seed in range(5)}) == 5


@given(any_videos, fractions, seeds)
@QUICK
def test_hold_out_leaves_every_class_a_group_to_train_on(videos, fraction, seed):
    kept, _ = hold_out(videos, fraction, seed)
    assert {label for v in kept for label in v.labels} == {label for v in videos for label in v.labels}
    assert kept


@given(groups_of_one_class, fractions, seeds)
@example([(0, 10), (0, 10)], 0.15, 0)  # a class of two sources of equal size, at the protocol's 15 %
@example([(0, 9), (0, 9), (0, 9)], 0.05, 0)
@QUICK
def test_hold_out_takes_a_group_of_every_class_that_has_two(sizes, fraction, seed):
    _, held = hold_out(make_videos(sizes), fraction, seed)
    groups = Counter(label for label, _ in sizes)
    assert {label for v in held for label in v.labels} == {label for label, number in groups.items() if number >= 2}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), fractions, seeds)
@QUICK
def test_hold_out_of_single_videos_takes_the_rounded_fraction_of_each_class(numbers, fraction, seed):
    videos = make_videos([(label, 1) for label, number in enumerate(numbers) for _ in range(number)])
    held = Counter(v.labels[0] for v in hold_out(videos, fraction, seed)[1])
    for label, number in enumerate(numbers):
        assert held[label] == min(number - 1, max(1, round(fraction * number)))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=60, max_size=90), st.sampled_from([0.15, 0.3]), seeds)
@QUICK
def test_hold_out_of_many_small_groups_is_close_to_the_fraction_in_every_class(sizes, fraction, seed):
    videos = make_videos(sizes)
    total = Counter(v.labels[0] for v in videos)
    held = Counter(v.labels[0] for v in hold_out(videos, fraction, seed)[1])
    for label, number in total.items():
        assert abs(held[label] - fraction * number) <= 4, "off by less than one group"


def test_hold_out_never_takes_a_class_of_one_group():
    kept, held = hold_out(make_videos([(0, 5), (1, 5), (1, 5)]), 0.5, 0)
    assert {v.labels[0] for v in held} == {1} and sum(v.labels[0] == 0 for v in kept) == 5


def test_hold_out_balances_videos_without_label_as_a_class_of_their_own():
    videos = [Video(f"{n}.avi", () if n < 20 else (0,), str(n)) for n in range(40)]
    _, held = hold_out(videos, 0.2, 0)
    assert Counter(len(v.labels) for v in held) == {0: 4, 1: 4}


def test_hold_out_by_another_grouping_keeps_that_one_whole():
    videos = [Video(f"film{n % 10}/{n}.avi", (n % 2,), str(n)) for n in range(60)]
    kept, held = hold_out(videos, 0.3, 0, group_of=lambda video: video.name.split("/")[0])
    assert held and not {v.name.split("/")[0] for v in kept} & {v.name.split("/")[0] for v in held}


# check


@pytest.fixture
def annotation(tmp_path: Path) -> Annotation:
    """Two classes, two train and one test video of each; all files on disk."""
    sides = defaultdict(list)
    for label, name in enumerate(("run", "walk")):
        (tmp_path / name).mkdir()
        for number, side in enumerate(("train", "train", "test")):
            (tmp_path / name / f"{number}.avi").write_bytes(b"video" * (number + 1))
            sides[side].append(Video(f"{name}/{number}.avi", (label,), f"{name} {number}"))
    return Annotation("demo", "1", tmp_path, tmp_path, ("run", "walk"), False, tuple(sides["train"]), tuple(sides["test"]))


def test_check_returns_a_sound_annotation_as_it_is(annotation):
    counts = {"train": 4, "test": 2, "classes": {"run": 3, "walk": 3}}
    assert check(annotation, "advice", counts) == annotation


def test_check_names_a_video_listed_twice(annotation):
    with pytest.raises(DataError, match=r"'run/0\.avi' listed twice"):
        check(replace(annotation, train=annotation.train + annotation.train[:1]), "advice")


def test_check_names_a_video_on_both_sides(annotation):
    with pytest.raises(DataError, match=r"'run/2\.avi' listed twice or on both sides"):
        check(replace(annotation, train=annotation.train + annotation.test[:1]), "advice")


@pytest.mark.parametrize("side", ["train", "test"])
def test_check_names_a_class_without_video_on_a_side(annotation, side):
    left = tuple(v for v in getattr(annotation, side) if v.labels != (1,))
    with pytest.raises(DataError, match=rf"no {side} video of 'walk'"):
        check(replace(annotation, **{side: left}), "advice")


def test_check_accepts_empty_classes_of_a_multi_label_set(annotation):
    lacking = replace(annotation, test=annotation.test[:1], multi_label=True)
    assert check(lacking, "advice") == lacking


@pytest.mark.parametrize("side", ["train", "test"])
def test_check_refuses_a_side_without_videos(annotation, side):
    with pytest.raises(DataError, match=f"no {side} video"):
        check(replace(annotation, **{side: ()}, multi_label=True), "advice")


def test_check_names_missing_videos_their_folder_and_what_to_do(annotation):
    (annotation.folder / "walk/1.avi").unlink()
    with pytest.raises(DataError) as error:
        check(annotation, "get it from there")
    message = str(error.value)
    assert "1 of 6" in message and "'walk/1.avi'" in message and str(annotation.folder.resolve()) in message
    assert "get it from there" in message and "data.skip_bad=true" in message


def test_check_takes_a_folder_in_place_of_a_video_for_missing(annotation):
    (annotation.folder / "walk/1.avi").unlink()
    (annotation.folder / "walk/1.avi").mkdir()
    with pytest.raises(DataError, match=r"walk/1\.avi"):
        check(annotation, "advice")


def test_check_under_skip_bad_leaves_missing_videos_out_and_notes_it(annotation):
    (annotation.folder / "walk/1.avi").unlink()
    checked = check(annotation, "advice", {"train": 4, "test": 2}, skip_bad=True)
    assert [v.name for v in checked.train] == ["run/0.avi", "run/1.avi", "walk/0.avi"]
    assert checked.test == annotation.test
    (note,) = checked.notes
    assert "1 videos left out (1 train, 0 test)" in note and "missing" in note


def test_check_under_skip_bad_still_refuses_a_class_that_lost_all_its_videos(annotation):
    (annotation.folder / "walk/2.avi").unlink()
    with pytest.raises(DataError, match="no test video of 'walk'"):
        check(annotation, "advice", skip_bad=True)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"train": 5}, "4 train videos instead of 5"),
        ({"test": 1}, "2 test videos instead of 1"),
        ({"classes": {"run": 3, "walk": 4}}, "3 videos of walk instead of 4"),
    ],
)
def test_check_names_a_wrong_count(annotation, counts, words):
    with pytest.raises(DataError, match=words):
        check(annotation, "advice", counts)


# Annotation


def test_videos_of_both_sides_come_in_the_order_of_their_names(annotation):
    names = [video.name for video in annotation.videos]
    assert names == sorted(names) and len(names) == 6


def test_spare_videos_are_listed_and_checked_but_on_no_side(annotation):
    (annotation.folder / "run/9.avi").write_bytes(b"unused")
    spare = Video("run/9.avi", (0,), "run 9")
    more = replace(annotation, spare=(spare,))
    assert check(more, "advice", {"train": 4, "test": 2, "classes": {"run": 3, "walk": 3}}) == more
    assert more.videos == annotation.videos and set(more.listed) == {*annotation.videos, spare}
    assert more.listed[3] == spare and more.fingerprint() == annotation.fingerprint()
    with pytest.raises(DataError, match=r"'run/0\.avi' listed twice"):
        check(replace(annotation, spare=annotation.train[:1]), "advice")


def test_a_spare_video_that_is_left_out_is_no_news_of_the_split(annotation):
    more = replace(annotation, spare=(Video("run/9.avi", (0,), "run 9"),))
    with pytest.raises(DataError, match=r"1 of 7 annotated videos are missing: 'run/9\.avi'"):
        check(more, "advice")
    assert check(more, "advice", {"train": 4}, skip_bad=True) == annotation
    with pytest.raises(DataError, match="4 train videos instead of 5"):
        check(more, "advice", {"train": 5}, skip_bad=True)
    (note,) = more.without(["run/9.avi", "run/0.avi", "walk/2.avi"], "why").notes
    assert note == "demo: 2 videos left out (1 train, 1 test): why"


def test_path_lies_below_the_folder(annotation):
    assert annotation.path(annotation.test[1]) == annotation.folder / "walk" / "2.avi"
    assert all(annotation.path(video).is_file() for video in annotation.videos)


def test_fingerprint_does_not_depend_on_the_place_or_the_order_of_listing(annotation, tmp_path):
    turned = replace(annotation, train=annotation.train[::-1], root=tmp_path / "elsewhere", notes=("a note",))
    assert turned.fingerprint() == annotation.fingerprint()


@pytest.mark.parametrize("what", ["label", "group", "side", "size", "class names", "name"])
def test_fingerprint_tells_a_change_of(annotation, what):
    before = annotation.fingerprint()
    first, *rest = annotation.train
    if what == "label":
        annotation = replace(annotation, train=(replace(first, labels=(1,)), *rest))
    elif what == "group":
        annotation = replace(annotation, train=(replace(first, group="other"), *rest))
    elif what == "side":
        annotation = replace(annotation, train=tuple(rest), test=(*annotation.test, first))
    elif what == "size":
        annotation.path(first).write_bytes(b"longer than it was before")
    elif what == "class names":
        annotation = replace(annotation, classes=("run", "stroll"))
    else:
        annotation.path(first).rename(annotation.folder / "run/9.avi")
        annotation = replace(annotation, train=(replace(first, name="run/9.avi"), *rest))
    assert annotation.fingerprint() != before


def test_without_nothing_is_the_same_annotation(annotation):
    assert annotation.without([], "why") is annotation


def test_without_counts_the_sides_in_its_note(annotation):
    left = annotation.without(["run/0.avi", "walk/1.avi", "walk/2.avi"], "do not decode")
    assert (len(left.train), len(left.test)) == (2, 1)
    assert left.notes == ("demo: 3 videos left out (2 train, 1 test): do not decode",)


def test_find_folder_takes_the_first_that_is_there(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "a").write_text("a file, no folder")
    assert find_folder(tmp_path, ("a", "b", "c"), "it", "advice") == tmp_path / "b"


def test_find_folder_lists_every_place_it_looked_at_and_the_advice(tmp_path):
    with pytest.raises(DataError) as error:
        find_folder(tmp_path, ("one", "two/three"), "the set", "go and get it")
    message = str(error.value)
    assert str((tmp_path / "one").resolve()) in message and str((tmp_path / "two/three").resolve()) in message
    assert "the set" in message and "go and get it" in message


def test_miniature_marker_is_read_where_there_is_one(tmp_path):
    assert miniature_marker(tmp_path) is None
    (tmp_path / MINIATURE_MARKER).write_text('{"version": 1}')
    assert miniature_marker(tmp_path) == {"version": 1}
