"""What train and test share: names, groups, and the bytes of files, read only where sizes are equal."""

import hashlib
import json
import os
from dataclasses import replace

import pytest
from conftest import SHARED

from datamodules import hmdb51, leaks, miniature, ucf11, videofolder
from datamodules.leaks import Leaks, describe, find_leaks, leak_notes
from datamodules.removed import REMOVED
from datamodules.videos import MINIATURE_MARKER, Annotation, DataError, Video


def two_sides(root, train, test, data="clips", notes=()) -> Annotation:
    """Videos of which only names, groups and bytes are known: (name, group, content)."""
    for name, _, content in (*train, *test):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    sides = [tuple(Video(name, (0,), group) for name, group, _ in side) for side in (train, test)]
    return Annotation(data, "default", root, root, ("a",), False, *sides, notes)


TRAIN = [("t0", "g0", b"a" * 10), ("t1", "g1", b"b" * 10), ("t2", "g2", b"c" * 11)]


def test_sides_that_are_apart_share_nothing(tmp_path):
    annotation = two_sides(tmp_path, TRAIN, [("e0", "h0", b"d" * 10), ("e1", "h1", b"c" * 12)])
    assert find_leaks(annotation) == Leaks((), (), 0, ())
    assert leak_notes(annotation, find_leaks(annotation)) == ()
    assert describe(annotation, find_leaks(annotation)) == ["train and test share no video, no group and no file content"]


def test_a_file_under_another_name_is_found_and_said_in_every_table(tmp_path):
    test = [("e0", "h0", b"b" * 10), ("e1", "h1", b"c" * 11), ("e2", "h2", b"b" * 10)]
    annotation = two_sides(tmp_path, [*TRAIN, ("t3", "g3", b"b" * 10)], test)
    found = find_leaks(annotation)
    assert found.contents == (("e0", "t1"), ("e1", "t2"), ("e2", "t1")) and not found.groups
    note = "clips: LEAKY, 3 test files have the content of a train file: 'e0' = 't1', 'e1' = 't2', 'e2' = 't1'"
    assert leak_notes(annotation, found) == (note,) and describe(annotation, found) == [note]


def test_equal_files_on_one_side_are_no_leak(tmp_path):
    annotation = two_sides(tmp_path, [*TRAIN, ("t3", "g3", b"b" * 10)], [("e0", "h0", b"d"), ("e1", "h1", b"d")])
    assert not find_leaks(annotation).contents


def test_a_shared_group_and_a_shared_video_are_found(tmp_path):
    annotation = two_sides(tmp_path, TRAIN, [("e0", "g1", b"d"), ("e1", "g1", b"e"), ("e2", "h", b"f")])
    found = find_leaks(annotation)
    assert found.groups == ("g1",) and found.grouped_test == 2
    note = "clips: LEAKY split, 2 of 3 test videos are of a group that train has too"
    assert leak_notes(annotation, found) == (note,)
    assert describe(annotation, found) == [note, "train and test share no video and no file content"]
    both = replace(annotation, test=(*annotation.test, annotation.train[0]))
    assert find_leaks(both).videos == ("t0",)
    assert any("1 videos stand in train and in test: 't0'" in line for line in describe(both, find_leaks(both)))


def test_only_files_of_equal_size_are_read(tmp_path, monkeypatch):
    annotation = two_sides(tmp_path, TRAIN, [("e0", "h0", b"d" * 11), ("e1", "h1", b"d" * 99)])
    read = []
    digest = leaks.file_sha256
    monkeypatch.setattr(leaks, "file_sha256", lambda path: read.append(path.name) or digest(path))
    find_leaks(annotation)
    assert sorted(read) == ["e0", "t2"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_cannot_be_read_is_named(tmp_path):
    annotation = two_sides(tmp_path, TRAIN, [("e0", "h0", b"d" * 10)])
    (tmp_path / "e0").chmod(0)
    with pytest.raises(DataError, match="e0.*train and test cannot be compared"):
        find_leaks(annotation)


def test_videos_that_were_deleted_after_extraction_are_compared_by_their_recorded_hashes(tmp_path):
    annotation = two_sides(tmp_path, TRAIN, [("e0", "h0", b"b" * 10), ("e1", "h1", b"d" * 10)])
    found = find_leaks(annotation)
    assert found.contents == (("e0", "t1"),)
    entries = {}
    for name in ("t1", "e1", "e0"):
        content = (tmp_path / name).read_bytes()
        entries[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (tmp_path / name).unlink()
    (tmp_path / REMOVED).write_text(json.dumps({"videos": entries}))
    assert find_leaks(annotation) == found


def test_a_file_that_is_gone_is_named(tmp_path):
    annotation = two_sides(tmp_path, TRAIN, [("e0", "h0", b"d" * 10)])
    (tmp_path / "e0").unlink()
    with pytest.raises(DataError, match="e0.*train and test cannot be compared"):
        find_leaks(annotation)


# The data sets


@pytest.fixture(scope="module")
def ucf_root(tmp_path_factory):
    """UCF-11's layout with files of one distinct byte string each."""
    root = tmp_path_factory.mktemp("ucf11")
    clips = {name: [2] * ucf11.GROUPS for name in ucf11.PREFIXES}
    number = 0
    for name, prefix in ucf11.PREFIXES.items():
        for group in range(1, ucf11.GROUPS + 1):
            for clip in (1, 2):
                stem = f"v_{prefix}_{group:02d}"
                path = root / "UCF11_updated_mpg" / name / stem / f"{stem}_{clip:02d}.mpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(number.to_bytes(4, "big"))
                number += 1
    (root / MINIATURE_MARKER).write_text(json.dumps({"version": miniature.VERSION, "clips": clips}))
    return root


@pytest.mark.parametrize("split", ["paper_like", "logo-1", "logo-25"])
def test_ucf11_by_group_shares_nothing(ucf_root, split):
    annotation = ucf11.read(ucf_root, split)
    assert find_leaks(annotation) == Leaks((), (), 0, ())
    assert not any(leaks.MARK in note for note in annotation.notes)


def test_ucf11_at_random_shares_groups_and_says_so_once(ucf_root):
    annotation = ucf11.read(ucf_root, "random")
    found = find_leaks(annotation)
    assert len(found.groups) > 50 and found.grouped_test > 50 and not found.contents
    assert leak_notes(annotation, found) == ()  # the annotation's own note stands in every table already
    said = describe(annotation, found)
    assert said == [annotation.notes[0], "train and test share no video and no file content"] and "LEAKY" in said[0]


def test_a_videofolder_of_copies_is_found_out(tmp_path):
    for name in ("a", "b"):
        for number in range(4):
            path = tmp_path / name / f"{number}.mp4"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"the same clip")
    annotation = videofolder.read(tmp_path)
    assert len(find_leaks(annotation).contents) == len(annotation.test) > 0


@pytest.mark.skipif(not SHARED.is_dir(), reason="the official split files are not beside this checkout")
@pytest.mark.parametrize(("split", "videos", "sources"), [("1", 457, 133), ("2", 527, 149), ("3", 529, 144)])
def test_hmdb51s_published_splits_share_film_titles_which_is_said_and_no_fault(tmp_path, split, videos, sources):
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.symlink_to(SHARED / "data/hmdb51_splits")
    number = 0
    for name in hmdb51.CLASSES:
        (tmp_path / name).mkdir()
        for clip, _ in hmdb51.read_split_file(lists / f"{name}_test_split{split}.txt"):
            number += 1
            (tmp_path / name / clip).write_bytes(number.to_bytes(4, "big"))
    annotation = hmdb51.read(tmp_path, split)
    found = find_leaks(annotation)
    assert (found.grouped_test, len(found.groups), found.contents) == (videos, sources, ())
    assert leak_notes(annotation, found) == ()
    words = f"{videos} of 1530 test videos come from a source that train has too ({sources} sources)"
    assert any(words in line for line in describe(annotation, found))
