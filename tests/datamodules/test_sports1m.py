"""Sports-1M against generated lists in the official form, plain and packed, of which some videos lie on disk."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from datamodules import sports1m
from datamodules.parts import Part
from datamodules.videos import DataError, targets_of

TRAIN = {"UDqivjS-lpI": "168,169", "-aBsSSS2uY0": "0", "A_______001": "486", "A_______002": "7", "A_______003": "7,8"}
TEST = {"B_______001": "168", "B_______002": "486,0,3", "B_______003": "5"}
THERE = ("UDqivjS-lpI.mp4", "-aBsSSS2uY0.MKV", "A_______001.webm", "B_______001.mp4", "B_______002.flv")


def lines(videos: dict[str, str], end: str = "\n") -> str:
    return "".join(f"https://www.youtube.com/watch?v={key} {labels}{end}" for key, labels in videos.items())


@pytest.fixture
def root(tmp_path) -> Path:
    """487 labels, two lists, and some of their videos."""
    (tmp_path / "labels.txt").write_text("".join(f"sport number {number}\n" for number in range(487)), encoding="utf-8")
    (tmp_path / "original").mkdir()
    (tmp_path / "original/train_partition.txt").write_text(lines(TRAIN))
    (tmp_path / "original/test_partition.txt").write_text(lines(TEST))
    (tmp_path / "videos").mkdir()
    for name in THERE:
        (tmp_path / "videos" / name).write_bytes(b"x")
    return tmp_path


def test_train_and_test_are_what_lies_there_of_the_lists_and_both_counts_are_noted(root):
    annotation = sports1m.read(root)
    assert [video.name for video in annotation.train] == ["UDqivjS-lpI.mp4", "-aBsSSS2uY0.MKV", "A_______001.webm"]
    assert [video.name for video in annotation.test] == ["B_______001.mp4", "B_______002.flv"]
    assert annotation.notes == ("Sports-1M: 3 of 5 listed train videos and 2 of 3 listed test videos lie on disk",)
    assert annotation.hits and annotation.several_labels and not annotation.multi_label and len(annotation.classes) == 487
    assert all(annotation.path(video).is_file() for video in annotation.videos) and annotation.remarks == ()


def test_labels_are_numbered_from_zero_and_targets_share_one_among_them(root):
    annotation = sports1m.read(root)
    assert annotation.train[0].labels == (168, 169) and annotation.test[1].labels == (0, 3, 486)
    assert annotation.classes[0] == "sport number 0" and annotation.classes[486] == "sport number 486"
    targets = targets_of(annotation.test, annotation)
    assert targets.dtype == np.float32 and targets.shape == (2, 487) and np.allclose(targets.sum(axis=1), 1)
    assert np.flatnonzero(targets[1]).tolist() == [0, 3, 486] and np.allclose(targets[1, [0, 3, 486]], 1 / 3)


@pytest.mark.parametrize("side", ["train", "test"])
@pytest.mark.parametrize("name", ["{}_partition.txt", "{}_partition.txt.gz"])
def test_lists_may_be_packed_under_either_name_and_end_lines_either_way(root, side, name):
    before = sports1m.read(root).fingerprint()
    path = root / "original" / f"{side}_partition.txt"
    content = path.read_text().replace("\n", "\r\n").encode()
    path.unlink()
    (path.parent / name.format(side)).write_bytes(gzip.compress(content))
    assert sports1m.read(root).fingerprint() == before


def test_an_id_that_is_listed_twice_has_the_labels_of_all_its_lines(root):
    path = root / "original/test_partition.txt"
    path.write_text(path.read_text() + lines({"B_______001": "4,168"}))
    annotation = sports1m.read(root)
    assert annotation.test[0].labels == (4, 168) and "2 of 3 listed test" in annotation.notes[0]


def test_an_id_on_both_lists_is_tested_on_and_not_trained_on(root):
    path = root / "original/train_partition.txt"
    path.write_text(path.read_text() + lines({"B_______001": "4", "B_______003": "4"}))
    annotation = sports1m.read(root)
    assert {video.group for video in annotation.test} == {"B_______001", "B_______002"} and len(annotation.train) == 3
    assert annotation.notes[1] == "Sports-1M: 1 videos that both lists name were tested on, and not trained on"
    assert not {video.group for video in annotation.train} & {video.group for video in annotation.test}


def test_other_files_are_passed_over_and_named(root):
    for name in ("notes.txt", "C_______001.mp4", ".hidden.mp4"):
        (root / "videos" / name).write_bytes(b"x")
    annotation = sports1m.read(root)
    assert annotation.remarks == ("2 files passed over, which no list names: 'C_______001.mp4', 'notes.txt'",)
    assert len(annotation.videos) == 5


def test_a_part_takes_some_labels(root):
    annotation = sports1m.read(root, part=Part(classes=("sport number 168", "sport number 486")))
    assert annotation.classes == ("sport number 168", "sport number 486")
    assert [video.labels for video in annotation.train] == [(0,), (1,)]
    with pytest.raises(DataError, match="groups of sports1m have no numbers"):
        sports1m.read(root, part=Part(groups=(1,)))


def test_one_video_in_two_files_is_refused(root):
    (root / "videos/B_______001.avi").write_bytes(b"y")
    with pytest.raises(DataError, match=r"'B_______001.avi' and 'B_______001.mp4' are one video"):
        sports1m.read(root)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    "line",
    [
        "https://www.youtube.com/watch?v=short 1",
        "https://www.youtube.com/watch?v=A_______009",
        "https://www.youtube.com/watch?v=A_______009 1,",
        "https://www.youtube.com/watch?v=A_______009 1, 2",
        "https://www.youtube.com/watch?v=A_______009 487",
        "https://www.youtube.com/watch?v=A_______009 -1",
        "https://www.youtube.com/watch?v=../../../.. 1",
        "https://vimeo.com/watch?v=A_______009 1",
        "A_______009 1",
    ],
)
def test_a_line_that_is_none_is_named_with_its_file_and_number(root, line):
    path = root / "original/train_partition.txt"
    path.write_text(lines(TRAIN) + line + "\n")
    with pytest.raises(DataError) as error:
        sports1m.read(root)
    assert f"{path}, line 6: expected 'https://www.youtube.com/watch?v=<id> <labels from 0 to 486" in str(error.value)


@pytest.mark.counts("damaged lists")
def test_damaged_packed_lists_are_told(root, monkeypatch):
    path = root / "original/train_partition.txt"
    whole = gzip.compress(path.read_bytes())
    path.write_bytes(whole[:-12])
    with pytest.raises(DataError, match="a damaged gzip .it breaks off"):
        sports1m.read(root)
    path.write_bytes(whole[:12] + b"\xff\xff\xff" + whole[15:])
    with pytest.raises(DataError, match="a damaged gzip"):
        sports1m.read(root)
    monkeypatch.setattr("datamodules.reading.LARGEST_LIST", 10_000)
    path.write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(DataError, match="unpacks to more than 10000 bytes"):
        sports1m.read(root)


@pytest.mark.counts("damaged lists")
def test_other_labels_are_refused(root):
    path = root / "labels.txt"
    text = path.read_text()
    path.write_text(text.replace("sport number 486\n", ""))
    with pytest.raises(DataError, match=r"labels.txt: holds 486 labels instead of 487"):
        sports1m.read(root)
    path.write_text(text.replace("sport number 486\n", "sport number 1\n"))
    with pytest.raises(DataError, match=r"labels.txt, line 487: 'sport number 1' stands in line 2 already"):
        sports1m.read(root)


@pytest.mark.parametrize("name", ["labels.txt", "original/test_partition.txt", "videos"])
def test_what_is_missing_is_told_with_where_to_get_it(root, name):
    (root / name).rename(root / "elsewhere")
    with pytest.raises(DataError, match="missing") as error:
        sports1m.read(root)
    assert str((root / name).resolve()) in str(error.value) and "nothing is downloaded" in str(error.value)


def test_a_side_without_a_video_and_other_splits_are_refused(root):
    with pytest.raises(DataError, match="Sports-1M has one split, 'original'"):
        sports1m.read(root, "1")
    for name in ("B_______001.mp4", "B_______002.flv"):
        (root / "videos" / name).unlink()
    with pytest.raises(DataError, match="no test video"):
        sports1m.read(root)
