"""Folders of anybody's videos, with and without a list."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest

from datamodules import videofolder
from datamodules.decoding import probe, read_chunks
from datamodules.leaks import find_leaks, leak_notes
from datamodules.videos import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared"
FIGHTS = SHARED / "data" / "fights"
UCF101 = {"ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi": 164, "BaseballPitch/v_BaseballPitch_g01_c01.avi": 107}


def place(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def write_csv(root: Path, *rows: tuple[str, ...], encoding: str = "utf-8") -> Path:
    with (root / "videos.csv").open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows(rows)
    return root / "videos.csv"


@pytest.fixture
def scanned(tmp_path: Path) -> Path:
    """Two classes of ten videos without a list."""
    return place(tmp_path / "mine", *(f"{name}/{n}.mp4" for name in ("run", "walk") for n in range(10)))


def names(videos) -> set[str]:
    return {video.name for video in videos}


# without a list


def test_sub_folders_are_the_classes_in_alphabetical_order(scanned):
    annotation = videofolder.read(scanned)
    assert annotation.classes == ("run", "walk") and annotation.data == "mine"
    assert all(v.name.startswith(annotation.classes[v.labels[0]] + "/") for v in annotation.videos)


def test_scanning_finds_every_kind_of_video_in_any_case_and_nothing_else(tmp_path):
    kinds = ("mp4", "avi", "mpg", "mov", "mkv", "webm", "MP4", "Avi")
    kinds += ("m4v", "MTS", "wmv", "flv", "3gp", "ts", "mpeg", "ogv", "gif")
    videos = [f"{name}/{n}.{kind}" for name in "ab" for n, kind in enumerate(kinds)]
    place(tmp_path, *videos, "a/notes.txt", "a/thumbs.jpg", "README.md", ".hidden/x.mp4", "a/.x.mp4")
    annotation = videofolder.read(tmp_path)
    assert names(annotation.videos) == set(videos)
    said = "2 files passed over, which do not end like a video: 'a/notes.txt', 'a/thumbs.jpg'"
    assert said in annotation.remarks


def test_sub_folders_of_a_class_are_read_and_links_to_folders_named(tmp_path):
    videos = [f"{name}/{sub}{n}.mp4" for name in ("run", "walk") for sub in ("", "day 1/", "day 2/am/") for n in range(2)]
    place(tmp_path, *videos, "run/day 1/.hidden/x.mp4")
    (tmp_path / "run/day 2/back").symlink_to(tmp_path / "run")
    annotation = videofolder.read(tmp_path)
    assert names(annotation.videos) == set(videos) and annotation.classes == ("run", "walk")
    assert annotation.remarks == ("1 files passed over, which do not end like a video: 'run/day 2/back/'",)


# groups by name

CLIPS = [
    f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi" for name in ("Run", "Walk") for group in range(1, 8) for clip in (1, 2, 3)
]


def test_clips_of_ucf_101_share_groups_by_their_names_and_stay_together(tmp_path):
    place(tmp_path, *CLIPS, "Run/other_g01_c01.avi", "Walk/sub/v_Walk_g01_c09.avi")
    annotation = videofolder.read(tmp_path)
    groups = {video.name: video.group for video in annotation.videos}
    assert groups["Run/v_Run_g03_c02.avi"] == "v_Run_g03" and groups["Walk/sub/v_Walk_g01_c09.avi"] == "v_Walk_g01"
    assert groups["Run/other_g01_c01.avi"] == "Run/other_g01_c01.avi"
    assert not {v.group for v in annotation.train} & {v.group for v in annotation.test}
    assert find_leaks(annotation).groups == ()


def test_a_listed_split_that_parts_groups_by_name_is_leaky_and_said_to_be(tmp_path):
    rows = [(name, name.partition("/")[0], "test" if name.endswith("c03.avi") else "train") for name in CLIPS]
    for number, name in enumerate(CLIPS):
        place(tmp_path, name).joinpath(name).write_bytes(bytes([number]))
    write_csv(tmp_path, ("path", "class", "split"), *rows)
    annotation = videofolder.read(tmp_path)
    found = find_leaks(annotation)
    assert len(found.groups) == 14 and found.grouped_test == 14
    (note,) = leak_notes(annotation, found)
    assert "LEAKY split, 14 of 14 test videos are of a group that train has too" in note


def test_a_group_column_goes_before_the_names(tmp_path):
    place(tmp_path, *CLIPS)
    write_csv(tmp_path, ("path", "class", "group"), *((name, name.partition("/")[0], name[-6:]) for name in CLIPS))
    assert {video.group for video in videofolder.read(tmp_path).videos} == {"01.avi", "02.avi", "03.avi"}


def test_a_class_of_one_group_by_name_is_refused_with_the_reason(tmp_path):
    place(tmp_path, *(name for name in CLIPS if "Run" in name or "g01" in name))
    with pytest.raises(DataError, match=r"no test video of 'Walk'(.|\n)*differ in the last number alone are one group"):
        videofolder.read(tmp_path)


def test_without_a_list_the_split_is_70_to_30_in_every_class_and_always_the_same(scanned):
    annotation = videofolder.read(scanned)
    assert Counter(v.labels for v in annotation.train) == {(0,): 7, (1,): 7}
    assert Counter(v.labels for v in annotation.test) == {(0,): 3, (1,): 3}
    assert videofolder.read(scanned).test == annotation.test


def test_seeds_give_other_splits(scanned):
    splits = [frozenset(names(videofolder.read(scanned, f"seed-{seed}").test)) for seed in range(6)]
    assert len(set(splits)) > 1
    assert frozenset(names(videofolder.read(scanned, "seed-3").test)) == splits[3]


@pytest.mark.parametrize("split", ["seed-", "seed-x", "seed--1", "1", "random", "official"])
def test_an_unknown_split_is_refused(scanned, split):
    with pytest.raises(DataError, match="'default' and 'seed-<n>'"):
        videofolder.read(scanned, split)


def test_an_empty_class_folder_is_named(scanned):
    (scanned / "jump").mkdir()
    (scanned / "jump/notes.txt").write_text("to do")
    with pytest.raises(DataError) as error:
        videofolder.read(scanned)
    assert str((scanned / "jump").resolve()) in str(error.value)


def test_a_missing_root_and_a_root_without_classes_are_named(tmp_path):
    for root in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError) as error:
            videofolder.read(root)
        assert str(root.resolve()) in str(error.value) and "<root>/<class>/<video>" in str(error.value)


def test_a_class_of_one_video_cannot_be_split_and_is_named(scanned):
    place(scanned, "jump/1.mp4")
    with pytest.raises(DataError, match="no test video of 'jump'"):
        videofolder.read(scanned)


ODD_NAMES = [
    'quote\'d "twice".mp4',
    "two\nlines.mp4",
    "🎬 ünïcödé 手.mp4",
    "-rf.mp4",
    "--help.mp4",
    "a,b;c.mp4",
    "100%03d #[x](y)!&+~@.mp4",
    " leading and trailing .mp4",
    "$HOME `ls`.mp4",
    "concat:x.mp4",
]


@pytest.mark.parametrize("listed", [False, True], ids=["scanned", "listed"])
def test_odd_names_survive(tmp_path, listed):
    paths = [f"-c '{label}'/{name}" for label in "ab" for name in ODD_NAMES]
    place(tmp_path, *paths)
    if listed:
        write_csv(tmp_path, ("path", "class"), *((path, path.split("/")[0]) for path in paths))
    annotation = videofolder.read(tmp_path)
    assert names(annotation.videos) == set(paths)
    assert annotation.classes == ("-c 'a'", "-c 'b'")
    assert len(annotation.fingerprint()) == 64


# with a list


def test_only_listed_videos_are_used_with_the_classes_of_the_list(scanned):
    write_csv(scanned, ("path", "class"), *((f"run/{n}.mp4", "quick" if n % 2 else "slow") for n in range(8)))
    annotation = videofolder.read(scanned)
    assert annotation.classes == ("quick", "slow")
    assert names(annotation.videos) == {f"run/{n}.mp4" for n in range(8)}
    assert all(annotation.classes[v.labels[0]] == ("quick" if int(v.name[4]) % 2 else "slow") for v in annotation.videos)


def test_groups_of_the_list_are_kept_whole(scanned):
    rows = [(f"{name}/{n}.mp4", name, f"film {n // 2}") for name in ("run", "walk") for n in range(10)]
    write_csv(scanned, ("path", "class", "group"), *rows)
    annotation = videofolder.read(scanned)
    train, test = ({v.group for v in side} for side in (annotation.train, annotation.test))
    assert train | test == {f"film {n}" for n in range(5)} and not train & test and test


def test_a_video_without_group_is_its_own(scanned):
    rows = [(f"{name}/{n}.mp4", name, "film" if n < 2 else "") for name in ("run", "walk") for n in range(10)]
    write_csv(scanned, ("path", "class", "group"), *rows)
    groups = Counter(v.group for v in videofolder.read(scanned).videos)
    assert groups.pop("film") == 4 and len(groups) == 16 and set(groups.values()) == {1}


def test_the_split_of_the_list_is_taken_as_it_is(scanned):
    rows = [(f"{name}/{n}.mp4", "test" if n in (0, 9) else "train", name) for name in ("run", "walk") for n in range(10)]
    write_csv(scanned, ("path", "split", "class"), *rows)
    annotation = videofolder.read(scanned)
    assert names(annotation.test) == {f"{name}/{n}.mp4" for name in ("run", "walk") for n in (0, 9)}
    assert len(annotation.train) == 16


def test_a_seed_beside_a_split_column_is_refused(scanned):
    write_csv(scanned, ("path", "class", "split"), ("run/0.mp4", "run", "train"), ("run/1.mp4", "run", "test"))
    with pytest.raises(DataError, match="own split column"):
        videofolder.read(scanned, "seed-1")


def test_one_class_is_none(scanned):
    shutil.rmtree(scanned / "walk")
    with pytest.raises(DataError, match="has one class only, 'run'; recognition needs two"):
        videofolder.read(scanned)


def test_a_list_that_is_a_link_to_nothing_is_not_passed_over(scanned):
    (scanned / "videos.csv").symlink_to("gone.csv")
    with pytest.raises(DataError, match=r"videos\.csv: cannot be read"):
        videofolder.read(scanned)


def test_a_byte_order_mark_does_no_harm(scanned):
    rows = [(f"{name}/{n}.mp4", name) for name in ("run", "walk") for n in range(4)]
    listing = write_csv(scanned, ("path", "class"), *rows, encoding="utf-8-sig")
    assert listing.read_bytes().startswith(b"\xef\xbb\xbf")
    assert len(videofolder.read(scanned).videos) == 8


def test_a_path_has_one_name_however_it_is_written(scanned):
    rows = [("./run/0.mp4", "run"), ("run//1.mp4", "run"), ("walk/./0.mp4", "walk"), ("walk/1.mp4", "walk")]
    write_csv(scanned, ("path", "class"), *rows)
    assert names(videofolder.read(scanned).videos) == {"run/0.mp4", "run/1.mp4", "walk/0.mp4", "walk/1.mp4"}


GOOD = ("run/0.mp4", "run", "g", "train")


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (("../outside.mp4", "run", "g", "train"), "does not lie below"),
        (("run/../../outside.mp4", "run", "g", "train"), "does not lie below"),
        (("/etc/outside.mp4", "run", "g", "train"), "does not lie below"),
        (("", "run", "g", "train"), "does not lie below"),
        (("run/1.mp4", "", "g", "train"), "no class"),
        (("run/1.mp4", "run", "g", "both"), "neither train nor test"),
        (("run/1.mp4", "run", "g", ""), "neither train nor test"),
        (("run/1.mp4", "run", "g"), "expected 4 values"),
        (("run/1.mp4", "run", "g", "train", "more"), "expected 4 values"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(scanned, bad, words):
    listing = write_csv(scanned, ("path", "class", "group", "split"), GOOD, bad)
    with pytest.raises(DataError, match=words) as error:
        videofolder.read(scanned)
    assert f"{listing}, line 3" in str(error.value)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize("header", [("path", "label"), ("file", "class"), ("path",), ("path:class",), ("run/1.mp4", "run")])
def test_a_header_that_lacks_a_column_is_named_with_file_and_line(scanned, header):
    listing = write_csv(scanned, header, ("run/0.mp4", "run", "x")[: len(header)])
    with pytest.raises(DataError, match=r"expected the columns path,class\[,group\]\[,split\]") as error:
        videofolder.read(scanned)
    assert f"{listing}, line 1" in str(error.value)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize("text", ["", "path,class\n"])
def test_a_list_without_videos_is_refused(scanned, text):
    (scanned / "videos.csv").write_text(text)
    with pytest.raises(DataError, match=r"videos\.csv"):
        videofolder.read(scanned)


@pytest.mark.counts("damaged lists")
def test_a_list_that_is_not_utf8_is_refused_by_name(scanned):
    (scanned / "videos.csv").write_bytes("path,class\nrun/0.mp4,Läufe\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"videos\.csv"):
        videofolder.read(scanned)


@pytest.mark.counts("damaged lists")
def test_a_group_on_both_sides_is_named(scanned):
    rows = [("run/0.mp4", "run", "film", "train"), ("run/1.mp4", "run", "film", "test")]
    write_csv(scanned, ("path", "class", "group", "split"), *rows)
    with pytest.raises(DataError, match="group 'film' is in train and in test"):
        videofolder.read(scanned)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize("again", ["run/0.mp4", "./run/0.mp4"])
def test_a_video_listed_twice_is_named(scanned, again):
    write_csv(scanned, ("path", "class"), ("run/0.mp4", "run"), ("run/1.mp4", "run"), (again, "run"))
    with pytest.raises(DataError, match=r"'run/0\.mp4' listed twice"):
        videofolder.read(scanned)


def test_a_listed_video_that_is_missing_is_named_and_left_out_under_skip_bad(scanned):
    rows = [(f"{name}/{n}.mp4", name, "train" if n < 8 else "test") for name in ("run", "walk") for n in range(11)]
    write_csv(scanned, ("path", "class", "split"), *rows)
    with pytest.raises(DataError, match=r"2 of 22 annotated videos are missing: 'run/10\.mp4', 'walk/10\.mp4'"):
        videofolder.read(scanned)
    annotation = videofolder.read(scanned, skip_bad=True)
    assert len(annotation.videos) == 20 and "2 videos left out (0 train, 2 test)" in annotation.notes[0]


# real videos


@pytest.mark.skipif(not FIGHTS.is_dir(), reason=f"the real videos are not there: {FIGHTS}")
def test_the_real_fights_split_70_to_30_with_no_source_on_both_sides():
    annotation = videofolder.read(FIGHTS)
    assert annotation.classes == ("fight", "noFight") and len(annotation.videos) == 300
    assert (len(annotation.train), len(annotation.test)) == (210, 90)
    assert Counter(v.labels for v in annotation.test) == {(0,): 45, (1,): 45}
    assert not {v.group for v in annotation.train} & {v.group for v in annotation.test}
    assert len({v.group for v in annotation.videos}) == 46


@pytest.mark.skipif(not (SHARED / "data/clips").is_dir(), reason="the real clips are not there")
def test_real_clips_of_ucf101_decode_from_class_folders(tmp_path):
    place(tmp_path, *UCF101, *(path.replace("c01", "c02") for path in UCF101))  # a class needs a clip on either side
    for path in UCF101:
        shutil.copyfile(SHARED / "data/clips" / Path(path).name, tmp_path / path)
    rows = [(path, path.partition("/")[0], "train") for path in UCF101]
    rows += [(path.replace("c01", "c02"), name, "test") for path, name, _ in rows]
    write_csv(tmp_path, ("path", "class", "split"), *rows)
    annotation = videofolder.read(tmp_path, "default")
    for video in annotation.train:
        info, chunks = probe(annotation.path(video)), list(read_chunks(annotation.path(video), 256))
        assert (info.width, info.height, sum(map(len, chunks))) == (320, 240, UCF101[video.name])
        assert {chunk.shape[1:] for chunk in chunks} == {(256, 256, 3)}
    assert [video.name for video in annotation.train] == list(UCF101)
