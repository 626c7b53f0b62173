"""HMDB-51 against its official split files."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import hmdb51
from datamodules.decoding import probe, read_chunks
from datamodules.videos import DataError, hold_out

SHARED = Path(__file__).resolve().parents[3] / "shared"
LISTS = SHARED / "data" / "hmdb51_splits"
needs_lists = pytest.mark.skipif(not LISTS.is_dir(), reason=f"HMDB-51's split files are not there: {LISTS}")
REAL = SHARED / "data" / "hmdb51_clips"
FOLDER = "testTrainMulti_7030_splits"


def official_lines(split: int, name: str) -> list[tuple[str, str]]:
    """(clip, side) of a class, read independently of the library."""
    lines = (LISTS / f"{name}_test_split{split}.txt").read_text().split("\n")
    return [(line[:-2].rstrip(), line.rstrip()[-1]) for line in (line.rstrip() for line in lines) if line]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The official layout with placeholders for all 6766 clips."""
    root = tmp_path_factory.mktemp("hmdb51")
    shutil.copytree(LISTS, root / FOLDER)
    for name in hmdb51.CLASSES:
        (root / name).mkdir()
        for clip, _ in official_lines(1, name):
            (root / name / clip).write_bytes(b"x")
    return root


@needs_lists
@pytest.mark.parametrize("split", ["1", "2", "3"])
def test_every_split_is_3570_to_1530_and_70_to_30_in_every_class(root, split):
    annotation = hmdb51.read(root, split)
    assert (len(annotation.train), len(annotation.test)) == (3570, 1530)
    assert Counter(v.labels for v in annotation.train) == {(label,): 70 for label in range(51)}
    assert Counter(v.labels for v in annotation.test) == {(label,): 30 for label in range(51)}
    assert not {v.name for v in annotation.train} & {v.name for v in annotation.test}
    assert not annotation.miniature and not annotation.multi_label and annotation.notes == ()


@needs_lists
@pytest.mark.parametrize("split", [1, 2, 3])
def test_every_clip_stands_on_the_side_its_line_says_and_unused_ones_on_none(root, split):
    annotation = hmdb51.read(root, str(split))
    expected = {"0": set(), "1": set(), "2": set()}
    for name in hmdb51.CLASSES:
        for clip, side in official_lines(split, name):
            expected[side].add(f"{name}/{clip}")
    assert {v.name for v in annotation.train} == expected["1"]
    assert {v.name for v in annotation.test} == expected["2"]
    assert {v.name for v in annotation.spare} == expected["0"] and len(expected["0"]) == 1666
    assert {v.name for v in annotation.listed} == set().union(*expected.values()) and len(annotation.listed) == 6766


@needs_lists
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real clips are not there: {REAL}")
def test_real_clips_decode_from_the_official_layout(root, tmp_path):
    decoded = {}
    (tmp_path / FOLDER).symlink_to(root / FOLDER)
    for name in hmdb51.CLASSES:
        shutil.copytree(root / name, tmp_path / name)
    for clip in REAL.iterdir():
        official = clip.name.removeprefix("hmdb51_")
        (place,) = tmp_path.glob(f"*/{official}")
        shutil.copyfile(clip, place)
    annotation = hmdb51.read(tmp_path, "1")
    for video in annotation.listed:
        path = annotation.path(video)
        if path.stat().st_size > 1:
            info, chunks = probe(path), list(read_chunks(path, 256))
            assert {chunk.shape[1:] for chunk in chunks} == {(256, 256, 3)}
            decoded[video.name.partition("_")[0]] = (sum(map(len, chunks)), info.width, info.height)
    assert decoded == {  # their headers claim a frame more
        "wave/RATRACE": (72, 560, 240),
        "wave/SchoolRulesHowTheyHelpUs": (74, 320, 240),
        "wave/TrumanShow": (48, 432, 240),
        "cartwheel/Turnk": (83, 320, 240),
    }


@needs_lists
def test_clips_of_each_class_are_as_many_as_every_official_file_lists():
    for split in (1, 2, 3):
        assert {name: len(official_lines(split, name)) for name in hmdb51.CLASSES} == hmdb51.CLIPS
    assert sum(hmdb51.CLIPS.values()) == 6766


@needs_lists
def test_an_official_file_that_lost_the_line_of_an_unused_clip_is_named(root, tmp_path):
    shutil.copytree(root / FOLDER, tmp_path / FOLDER)
    (tmp_path / "hmdb51_org").symlink_to(root)
    path = tmp_path / FOLDER / "walk_test_split2.txt"
    lines = path.read_text().splitlines(keepends=True)
    lines.remove(next(line for line in lines if line.rstrip().endswith(" 0")))
    path.write_text("".join(lines))
    assert len(hmdb51.read(tmp_path, "1").listed) == 6766
    for skip_bad in (False, True):
        with pytest.raises(DataError) as error:
            hmdb51.read(tmp_path, "2", skip_bad)
        message = str(error.value)
        assert f"{path.resolve()} lists 547 clips instead of 548" in message and "test_train_splits.rar again" in message


@needs_lists
def test_a_clip_that_the_split_does_not_use_must_be_there_too(root, tmp_path):
    unused = hmdb51.read(root, "1").spare[100]
    (tmp_path / FOLDER).symlink_to(root / FOLDER)
    for name in hmdb51.CLASSES:
        if unused.name.startswith(f"{name}/"):
            shutil.copytree(root / name, tmp_path / name)
        else:
            (tmp_path / name).symlink_to(root / name)
    (tmp_path / unused.name).unlink()
    with pytest.raises(DataError) as error:
        hmdb51.read(tmp_path, "1")
    assert f"1 of 6766 annotated videos are missing: {unused.name!r}" in str(error.value)
    left = hmdb51.read(tmp_path, "1", skip_bad=True)
    assert len(left.videos) == 5100 and left.notes == () and len(left.listed) == 6765 and unused not in left.listed
    assert left.fingerprint() == hmdb51.read(root, "1").fingerprint()


@needs_lists
@pytest.mark.parametrize("mark", list("!()#[]&+;~@"))
def test_names_with_marks_survive(root, mark):
    listed = {
        f"{name}/{clip}" for name in hmdb51.CLASSES for s in (1, 2, 3) for clip, side in official_lines(s, name) if side != "0"
    }
    found = {video.name for split in "123" for video in hmdb51.read(root, split).videos}
    marked = {name for name in listed if mark in name}
    assert marked and marked == {name for name in found if mark in name}


@needs_lists
def test_classes_are_those_of_the_split_files_and_labels_those_of_the_folders(root):
    assert sorted(hmdb51.CLASSES) == hmdb51.CLASSES
    assert {path.name.rpartition("_test_split")[0] for path in LISTS.iterdir() if "split1" in path.name} == set(hmdb51.CLASSES)
    annotation = hmdb51.read(root, "1")
    assert all(v.name.startswith(f"{annotation.classes[v.labels[0]]}/") for v in annotation.videos)


@needs_lists
def test_the_default_split_is_the_first(root):
    assert {v.name for v in hmdb51.read(root).test} == {v.name for v in hmdb51.read(root, "1").test}


@needs_lists
@pytest.mark.parametrize("split", [1, 2, 3])
def test_source_titles_are_never_empty_and_stand_before_the_class_name(split):
    for name in hmdb51.CLASSES:
        for clip, _ in official_lines(split, name):
            title = hmdb51.source_title(clip, name)
            assert title and clip.startswith(title)
            assert title == clip or clip[len(title) :].startswith(f"_{name}_")


@needs_lists
def test_clips_cut_from_one_film_are_never_separated_by_the_hold_out(root):
    annotation = hmdb51.read(root, "1")
    kept, held = hold_out(annotation.train, 0.15, 0)
    assert 0.10 * 3570 < len(held) < 0.20 * 3570
    assert not {v.group for v in kept} & {v.group for v in held}
    assert {v.labels for v in held} == {v.labels for v in kept} == {(label,) for label in range(51)}


@needs_lists
@pytest.mark.parametrize("nested", ["hmdb51_org", "test_train_splits"])
def test_the_folders_of_the_archives_are_found_too(root, tmp_path, nested):
    if nested == "hmdb51_org":
        (tmp_path / FOLDER).symlink_to(root / FOLDER)
        (tmp_path / "hmdb51_org").symlink_to(root)
    else:
        (tmp_path / "test_train_splits").symlink_to(root)
        for name in hmdb51.CLASSES:
            (tmp_path / name).symlink_to(root / name)
    annotation = hmdb51.read(tmp_path, "2")
    assert len(annotation.train) == 3570 and all(annotation.path(v).is_file() for v in annotation.videos)


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """Two classes of 70 + 30 clips and 5 unused ones, made up."""
    monkeypatch.setattr(hmdb51, "CLASSES", ["kick", "kick_ball"])
    monkeypatch.setattr(hmdb51, "CLIPS", {"kick": 105, "kick_ball": 105})
    monkeypatch.setattr(hmdb51, "COUNTS", {"train": 140, "test": 60})
    (tmp_path / FOLDER).mkdir()
    for name in hmdb51.CLASSES:
        (tmp_path / name).mkdir()
        lines = []
        for number in range(105):
            clip = f"Film #{number % 40} (2)_{name}_f_cm_np1_fr_med_{number}.avi"
            (tmp_path / name / clip).write_bytes(b"x")
            lines.append(f"{clip} {1 if number < 70 else 2 if number < 100 else 0} \n")
        for split in "123":
            (tmp_path / FOLDER / f"{name}_test_split{split}.txt").write_text("".join(lines))
    return tmp_path


def test_a_missing_clip_is_named_with_its_folder_and_what_to_do(small):
    clip = "Film #3 (2)_kick_f_cm_np1_fr_med_3.avi"
    (small / "kick" / clip).unlink()
    with pytest.raises(DataError) as error:
        hmdb51.read(small, "1")
    message = str(error.value)
    assert f"kick/{clip}" in message and str(small.resolve()) in message and "hmdb51_org.rar" in message


def test_skip_bad_leaves_missing_clips_out_with_a_note(small):
    (small / "kick" / "Film #3 (2)_kick_f_cm_np1_fr_med_3.avi").unlink()
    (small / "kick_ball" / "Film #0 (2)_kick_ball_f_cm_np1_fr_med_80.avi").unlink()
    annotation = hmdb51.read(small, "1", skip_bad=True)
    assert (len(annotation.train), len(annotation.test)) == (139, 59)
    assert annotation.notes == ("hmdb51: 2 videos left out (1 train, 1 test): missing on disk",)


@pytest.mark.parametrize("split", ["4", "0", "01", "", "one"])
def test_an_unknown_split_is_refused(small, split):
    with pytest.raises(DataError, match=f"data.split={split}: HMDB-51 has the splits 1, 2 and 3"):
        hmdb51.read(small, split)


def test_no_split_files_are_refused_with_the_paths_looked_at(tmp_path):
    with pytest.raises(DataError) as error:
        hmdb51.read(tmp_path)
    assert str((tmp_path / FOLDER).resolve()) in str(error.value) and "test_train_splits.rar" in str(error.value)


@pytest.mark.counts("damaged lists")
def test_a_missing_split_file_is_named(small):
    path = small / FOLDER / "kick_ball_test_split2.txt"
    path.unlink()
    with pytest.raises(DataError) as error:
        hmdb51.read(small, "2")
    assert str(path.resolve()) in str(error.value)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    "line", ["clip.avi 3 ", "clip.avi", "clip.avi one", " 1 ", "../clip.avi 1", "other/clip.avi 1", ".. 1", "clip.avi 1 2.5"]
)
def test_a_malformed_line_is_named_with_its_file_and_number(small, line):
    path = small / FOLDER / "kick_test_split1.txt"
    lines = path.read_text().splitlines()
    lines[4] = line
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        hmdb51.read(small, "1")
    assert str(path) in str(error.value) and "line 5" in str(error.value)


@pytest.mark.counts("damaged lists")
def test_a_truncated_list_is_told_by_its_counts(small):
    path = small / FOLDER / "kick_test_split1.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match=r"kick_test_split1\.txt lists 104 clips instead of 105"):
        hmdb51.read(small, "1")


def test_a_clip_on_another_side_is_told_by_the_counts(small):
    path = small / FOLDER / "kick_test_split1.txt"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first.replace(" 1 \n", " 0 \n"), *rest]))
    with pytest.raises(DataError, match="139 train videos instead of 140; 99 videos of kick instead of 100"):
        hmdb51.read(small, "1")
    (small / "kick_ball" / "Film #22 (2)_kick_ball_f_cm_np1_fr_med_102.avi").unlink()
    with pytest.raises(DataError, match="139 train videos instead of 140"):  # an unused clip that lacks excuses nothing
        hmdb51.read(small, "1", skip_bad=True)


@pytest.mark.counts("damaged lists")
def test_a_clip_listed_twice_is_named(small):
    path = small / FOLDER / "kick_test_split1.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[:-1]]))
    with pytest.raises(DataError, match=r"Film #0 \(2\)_kick_f_cm_np1_fr_med_0\.avi' listed twice"):
        hmdb51.read(small, "1")


def test_lines_keep_names_with_spaces_and_lose_trailing_blanks(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"a  b (1).avi 1 \r\n\r\nc;d&e.avi 2\nf~@.avi 0 ")
    assert hmdb51.read_split_file(path) == [("a  b (1).avi", "train"), ("c;d&e.avi", "test"), ("f~@.avi", None)]


@pytest.mark.parametrize(
    ("clip", "name", "title"),
    [
        ("50_FIRST_DATES_wave_f_cm_np1_fr_med_0.avi", "wave", "50_FIRST_DATES"),
        ("he_kick_it_kick_ball_f_cm_np1_fr_med_0.avi", "kick_ball", "he_kick_it"),
        ("a_kick_kick_f_cm_np1_fr_med_0.avi", "kick", "a_kick"),
        ("_kick_f_cm_np1_fr_med_0.avi", "kick", "_kick_f_cm_np1_fr_med_0.avi"),
        ("unrelated.avi", "kick", "unrelated.avi"),
    ],
)
def test_source_title_is_what_stands_before_the_last_class_name(clip, name, title):
    assert hmdb51.source_title(clip, name) == title


@given(st.text(min_size=1, max_size=20), st.sampled_from(hmdb51.CLASSES), st.text(max_size=12))
@settings(deadline=None, max_examples=100)
def test_source_title_of_any_name_is_a_beginning_of_it_and_not_empty(before, name, after):
    clip = f"{before}_{name}_{after}.avi"
    title = hmdb51.source_title(clip, name)
    assert title and clip.startswith(title)
