"""UCF-101 against lists in the official form and of the official sizes, which are generated here."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from datamodules import ucf101
from datamodules.parts import Part
from datamodules.videos import DataError, hold_out

LISTS = "ucfTrainTestlist"
TOTALS = ((range(1, 8), 3783), (range(8, 15), 3734), (range(15, 22), 3696), (range(22, 26), 2107))  # clips of some groups


def clips() -> list[tuple[int, int, str]]:
    """(class from 1, group, path) of 13,320 clips, as many in each range of groups as the official lists have."""
    found = []
    for groups, total in TOTALS:
        cells = [(label, name, group) for label, name in enumerate(ucf101.CLASSES, start=1) for group in groups]
        for number, (label, name, group) in enumerate(cells):
            spelt = {"HandstandPushups": "HandStandPushups"}.get(name, name)
            for clip in range(total // len(cells) + (number < total % len(cells))):
                found.append((label, group, f"{name}/v_{spelt}_g{group:02d}_c{clip + 1:02d}.avi"))
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The official layout with placeholders, and lists whose lines end as the official ones do."""
    root = tmp_path_factory.mktemp("ucf101")
    (root / LISTS).mkdir()
    everything = clips()
    for name in ucf101.CLASSES:
        (root / "UCF-101" / name).mkdir(parents=True)
    for _, _, path in everything:
        (root / "UCF-101" / path).touch()
    numbers = "".join(f"{label} {name}\r\n" for label, name in enumerate(ucf101.CLASSES, start=1))
    (root / LISTS / "classInd.txt").write_bytes(numbers.encode())
    for split, (tested, _) in zip("123", TOTALS, strict=False):
        test = "".join(f"{path}\r\n" for _, group, path in everything if group in tested)
        train = "".join(f"{path} {label}\r\n" for label, group, path in everything if group not in tested)
        (root / LISTS / f"testlist0{split}.txt").write_bytes(test.encode())
        (root / LISTS / f"trainlist0{split}.txt").write_bytes(train.encode())
    return root


@pytest.fixture
def copy(root, tmp_path) -> Path:
    """The same with lists that may be changed."""
    shutil.copytree(root / LISTS, tmp_path / LISTS)
    (tmp_path / "UCF-101").symlink_to(root / "UCF-101")
    return tmp_path


def changed(copy: Path, name: str, line: int, text: str) -> Path:
    """Replace a line of a list, counted from 1."""
    path = copy / LISTS / name
    lines = path.read_bytes().decode().split("\r\n")
    lines[line - 1] = text
    path.write_bytes("\r\n".join(lines).encode())
    return path


@pytest.mark.parametrize(("split", "train", "test"), [("1", 9537, 3783), ("2", 9586, 3734), ("3", 9624, 3696)])
def test_every_split_has_the_published_sizes_and_tests_on_its_groups(root, split, train, test):
    annotation = ucf101.read(root, split)
    assert (len(annotation.train), len(annotation.test), len(annotation.classes)) == (train, test, 101)
    assert not annotation.multi_label and annotation.published_split and not annotation.miniature and annotation.notes == ()
    tested = {ucf101.group_number(video) for video in annotation.test}
    assert tested == set(ucf101.TEST_GROUPS[split])
    assert not {video.group for video in annotation.train} & {video.group for video in annotation.test}
    assert len({video.group for video in annotation.listed}) == 101 * 25 and len(annotation.listed) == 13320


def test_the_folder_says_the_class_where_the_clip_spells_it_otherwise(root):
    annotation = ucf101.read(root)
    label = annotation.classes.index("HandstandPushups")
    found = [video for video in annotation.listed if "HandStandPushups" in video.name]
    assert found and all(video.labels == (label,) and video.name.startswith("HandstandPushups/v_HandStand") for video in found)
    assert {video.group for video in found} == {f"HandstandPushups/{group:02d}" for group in range(1, 26)}


def test_lines_may_end_either_way_and_test_lines_may_bear_the_class_number(root, copy):
    for path in (copy / LISTS).iterdir():
        path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
    path = copy / LISTS / "testlist02.txt"
    number = {name: label for label, name in enumerate(ucf101.CLASSES, start=1)}
    path.write_text("".join(f"{line} {number[line.split('/')[0]]}\n" for line in path.read_text().split("\n") if line))
    assert ucf101.read(copy, "2").fingerprint() == ucf101.read(root, "2").fingerprint()


def test_classes_have_the_numbers_of_the_official_list_whatever_their_order(copy):
    names = [*reversed(ucf101.CLASSES)]
    (copy / LISTS / "classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(names, start=1)))
    with pytest.raises(DataError, match=r"trainlist01.txt, line 1: class 1 instead of 101, as classInd.txt has ApplyEyeMakeup"):
        ucf101.read(copy)


def test_the_hold_out_and_parts_take_whole_groups(root):
    annotation = ucf101.read(root, "1")
    kept, held = hold_out(annotation.train, 0.15, 0)
    assert not {video.group for video in kept} & {video.group for video in held}
    assert {video.labels for video in held} == {video.labels for video in kept} and 0.1 < len(held) / 9537 < 0.2
    part = ucf101.read(root, "1", part=Part((6, 7, 8, 9), ("Archery", "YoYo")))
    assert part.classes == ("Archery", "YoYo") and str(part.part) == "groups 6-9, 2 classes"
    assert Counter(ucf101.group_number(video) for video in part.test).keys() == {6, 7}
    assert Counter(ucf101.group_number(video) for video in part.train).keys() == {8, 9}


@pytest.mark.parametrize("folders", [("videos", "annotations"), ("", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist")])
def test_other_layouts_are_found_too(root, tmp_path, folders):
    videos, lists = folders
    (tmp_path / lists).parent.mkdir(exist_ok=True)
    (tmp_path / lists).symlink_to(root / LISTS)
    if videos:
        (tmp_path / videos).symlink_to(root / "UCF-101")
    else:
        for name in ucf101.CLASSES:
            (tmp_path / name).symlink_to(root / "UCF-101" / name)
    assert len(ucf101.read(tmp_path).listed) == 13320


def test_missing_clips_are_named_and_can_be_left_out(root, tmp_path):
    (tmp_path / LISTS).symlink_to(root / LISTS)
    (tmp_path / "UCF-101").mkdir()
    for name in ucf101.CLASSES[:-1]:
        (tmp_path / "UCF-101" / name).symlink_to(root / "UCF-101" / name)
    shutil.copytree(root / "UCF-101/YoYo", tmp_path / "UCF-101/YoYo")
    (tmp_path / "UCF-101/YoYo/v_YoYo_g01_c01.avi").unlink()
    with pytest.raises(DataError, match="1 of 13320 annotated videos are missing: 'YoYo/v_YoYo_g01_c01.avi'"):
        ucf101.read(tmp_path)
    left = ucf101.read(tmp_path, skip_bad=True)
    assert left.notes == ("ucf101: 1 videos left out (0 train, 1 test): missing on disk",) and len(left.test) == 3782


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Archery/v_Archery_g08_c01.avi 4", "class 4 instead of 3"),
        ("Archery/v_YoYo_g08_c01.avi 3", "expected '<Class>/v_<Class>_g<gg>_c<cc>.avi'"),
        ("archery/v_Archery_g08_c01.avi 3", "expected '<Class>/"),
        ("Archery/v_Archery_g08_c01.avi 3 3", "expected '<Class>/"),
        ("../Archery/v_Archery_g08_c01.avi 3", "expected '<Class>/"),
        ("Archery/v_Archery_g26_c01.avi 3", "group 26 is none of 1 to 25"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", "listed twice"),
    ],
)
def test_a_line_that_is_none_is_named_with_its_file_and_number(copy, line, said):
    path = changed(copy, "trainlist01.txt", 5, line)
    with pytest.raises(DataError) as error:
        ucf101.read(copy, "1")
    assert f"{path}, line 5: " in str(error.value) and said in str(error.value)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    ("line", "said"), [("2 YoYo", "expected '1 <Class>'"), ("1 Yoga", "'Yoga' is no class"), ("1 YoYo", "line 101: 'YoYo'")]
)
def test_numbers_of_other_classes_are_refused(copy, line, said):
    changed(copy, "classInd.txt", 1, line)
    with pytest.raises(DataError, match="classInd.txt") as error:
        ucf101.read(copy)
    assert said in str(error.value)


@pytest.mark.counts("damaged lists")
def test_a_clip_on_the_wrong_side_or_missing_from_a_list_is_told(copy):
    lines = (copy / LISTS / "testlist01.txt").read_bytes().decode().split("\r\n")
    path = copy / LISTS / "testlist01.txt"
    path.write_bytes("\r\n".join(lines[1:]).encode())
    with pytest.raises(DataError, match="3782 test videos instead of 3783"):
        ucf101.read(copy)
    path.write_bytes("\r\n".join([*lines[:-1], "YoYo/v_YoYo_g25_c01.avi"]).encode())
    with pytest.raises(DataError, match="test lists 'YoYo/v_YoYo_g25_c01.avi', but tests on groups 1 to 7"):
        ucf101.read(copy)


@pytest.mark.counts("damaged lists")
def test_missing_lists_and_unknown_splits_are_told(copy):
    with pytest.raises(DataError, match=r"data\.split=4: UCF-101 has the splits 1, 2 and 3"):
        ucf101.read(copy, "4")
    (copy / LISTS / "trainlist03.txt").unlink()
    with pytest.raises(DataError, match="trainlist03.txt is missing") as error:
        ucf101.read(copy, "3")
    assert "https://www.crcv.ucf.edu/data/UCF101/" in str(error.value)
    shutil.rmtree(copy / LISTS)
    with pytest.raises(DataError, match="UCF-101's lists not found"):
        ucf101.read(copy)
