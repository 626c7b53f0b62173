"""Folders and lists of videos as people and their programs leave them: understood, and said."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import REPOSITORY

from datamodules import hmdb51, videofolder
from datamodules.videos import DataError

CLASSES = ("run", "walk")


def place(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def clips(folder: str = "", number: int = 4) -> list[str]:
    return [f"{folder}{name}/{clip}.mp4" for name in CLASSES for clip in range(number)]


def sides(annotation) -> dict[str, Counter]:
    return {side: Counter(v.name.split("/")[0] for v in getattr(annotation, side)) for side in ("train", "test")}


# folders


@pytest.mark.counts("layouts of folders")
@pytest.mark.parametrize("names", [("train", "test"), ("Training", "TESTING"), ("train", "val"), ("train", "valid")])
def test_folders_of_a_split_are_the_split(tmp_path, names):
    train, test = names
    place(tmp_path, *clips(f"{train}/"), *clips(f"{test}/", 2), "README.md", f"{train}/labels.txt")
    annotation = videofolder.read(tmp_path)
    assert annotation.classes == CLASSES
    assert sides(annotation) == {"train": {train: 8}, "test": {test: 4}}
    assert bool(annotation.remarks) == test.startswith("val")
    with pytest.raises(DataError, match="has its own folders of a split; use data.split=default"):
        videofolder.read(tmp_path, "seed-1")


@pytest.mark.counts("layouts of folders")
def test_a_validation_folder_beside_train_and_test_joins_train(tmp_path):
    place(tmp_path, *clips("train/"), *clips("val/", 1), *clips("test/", 2))
    annotation = videofolder.read(tmp_path)
    assert sides(annotation) == {"train": {"train": 8, "val": 2}, "test": {"test": 4}}
    (remark,) = annotation.remarks
    assert remark.startswith("2 videos of the split's validation set are taken into train")


def test_classes_of_such_names_stay_classes(tmp_path):
    place(tmp_path, *(f"{name}/{clip}.mp4" for name in ("train", "test") for clip in range(4)))
    assert videofolder.read(tmp_path).classes == ("test", "train")


@pytest.mark.counts("layouts of folders")
@pytest.mark.parametrize("left", ["__MACOSX", "@eaDir", ".ipynb_checkpoints", "#recycle", "System Volume Information"])
def test_what_archives_and_systems_leave_is_passed_over_and_said(tmp_path, left):
    place(
        tmp_path, *clips(), f"{left}/run/._0.mp4", f"{left}/x.mp4", "run/._0.mp4", ".DS_Store", "Thumbs.db", "run/desktop.ini"
    )
    annotation = videofolder.read(tmp_path)
    assert annotation.classes == CLASSES and len(annotation.videos) == 8
    assert annotation.remarks == (
        f"folders passed over, as hidden or left by an archive or a system: {left!r}",
        "1 files passed over, which do not end like a video: 'run/desktop.ini'",
    )


@pytest.mark.counts("layouts of folders")
@pytest.mark.parametrize("inner", ["mine/", "mine/mine/", "data set v1.2/videos/"])
def test_an_archive_unpacked_into_itself_is_understood(tmp_path, inner):
    place(tmp_path, *clips(inner), f"{inner}README.txt", "__MACOSX/mine/._README.txt")
    annotation = videofolder.read(tmp_path)
    assert annotation.classes == CLASSES
    assert {video.name for video in annotation.videos} == set(clips(inner))
    assert annotation.remarks[-1] == f"the classes are taken from {inner[:-1]!r}, the only folder there"


@pytest.mark.counts("layouts of folders")
def test_a_split_within_an_archive_unpacked_into_itself(tmp_path):
    place(tmp_path, *clips("mine/train/"), *clips("mine/test/", 2))
    assert {side: len(getattr(videofolder.read(tmp_path), side)) for side in ("train", "test")} == {"train": 8, "test": 4}


def test_what_was_passed_over_is_printed(tmp_path):
    place(tmp_path / "data/mine", *clips(), "__MACOSX/x.mp4")
    command = [sys.executable, str(REPOSITORY / "reproduce/prepare.py"), "data.name=videofolder", "data.folder=mine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert "mine: folders passed over, as hidden or left by an archive or a system: '__MACOSX'" in done.stdout


@pytest.mark.counts("layouts of folders")
@pytest.mark.parametrize("lists", ["annotations", "annotations/testTrainMulti_7030_splits"])
def test_mmaction2s_layout_of_hmdb51(tmp_path, lists):
    from datamodules.miniature import generate

    generate(tmp_path / "usual", "hmdb51", 2, lambda *_: None)
    usual = hmdb51.read(tmp_path / "usual")
    theirs = tmp_path / "theirs"
    shutil.copytree(usual.folder, theirs / "videos", ignore=shutil.ignore_patterns("*splits*", "*.json"))
    for path in (tmp_path / "usual").rglob("*_test_split?.txt"):
        place(theirs, f"{lists}/{path.name}")
        shutil.copy(path, theirs / lists)
    shutil.copy(tmp_path / "usual/miniature.json", theirs)
    annotation = hmdb51.read(theirs)
    assert annotation.folder == theirs / "videos"
    assert (annotation.train, annotation.test) == (usual.train, usual.test)
    assert annotation.fingerprint() == usual.fingerprint()


# lists


def listed(root: Path, text: str, encoding: str = "utf-8") -> videofolder.Annotation:
    place(root, *clips())
    (root / "videos.csv").write_bytes(text.encode(encoding))
    return videofolder.read(root)


ROWS = [("run/0.mp4", "run"), ("run/1.mp4", "run"), ("walk/0.mp4", "walk"), ("walk/1.mp4", "walk")]


def table(separator: str, header: str = "path,class", end: str = "\n", extra: str = "") -> str:
    lines = [header, *(",".join(row) for row in ROWS)]
    return "".join(line.replace(",", separator) + extra + end for line in lines)


AS_SAVED = {
    "semicolons": table(";"),
    "tabs": table("\t"),
    "bars": table("|"),
    "semicolons and CRLF": table(";", end="\r\n"),
    "a line that names the separator": "sep=;\r\n" + table(";", end="\r\n"),
    "the same of a comma": "sep=,\n" + table(","),
    "a byte order mark": "\ufeff" + table(";"),
    "capitals": table(",", "Path,CLASS"),
    "blanks in the header": table(",", "path, class "),
    "quotes": table(",", '"path","class"'),
    "emptied rows": table(",") + ",\n , \n,\n",
    "emptied columns": table(",", extra=",,"),
    "emptied columns of the rows": "path,class\n" + table(",", extra=",,").partition("\n")[2],
    "further columns": "path,class,seconds,note\n" + "".join(f"{path},{name},1.5,\n" for path, name in ROWS),
    "columns in another order": "nr,class,path\n" + "".join(f"1,{name},{path}\n" for path, name in ROWS),
    "backslashes": table(",").replace("/", "\\"),
}


@pytest.mark.counts("lists as spreadsheets save them")
@pytest.mark.parametrize("kind", AS_SAVED)
def test_a_list_is_read_as_spreadsheets_save_it(tmp_path, kind):
    annotation = listed(tmp_path, AS_SAVED[kind])
    assert [video.name for video in annotation.videos] == [path for path, _ in ROWS]
    assert annotation.classes == CLASSES
    further = {"further columns": "seconds, note", "columns in another order": "nr"}.get(kind)
    assert annotation.remarks == ((f"columns of videos.csv passed over: {further}",) if further else ())


@pytest.mark.counts("lists as spreadsheets save them")
@pytest.mark.parametrize("linked", [False, True])
def test_absolute_paths_below_the_folder_are_names_below_it(tmp_path, linked):
    root = tmp_path / "mine"
    if linked:
        (tmp_path / "disk").mkdir()
        root.symlink_to(tmp_path / "disk")
    text = "path,class\n" + "".join(f"{root.resolve() / path},{name}\n" for path, name in ROWS)
    assert [video.name for video in listed(root, text).videos] == [path for path, _ in ROWS]
    with pytest.raises(DataError, match="line 2: path .* does not lie below"):
        listed(root, f"path,class\n{tmp_path}/elsewhere/0.mp4,run\n")


def test_a_backslash_of_a_name_stays_one(tmp_path):
    place(tmp_path, "run\\0.mp4")
    annotation = listed(tmp_path, table(",").replace("run/0", "run\\0"))
    assert "run\\0.mp4" in {video.name for video in annotation.videos}


@pytest.mark.counts("lists as spreadsheets save them")
@pytest.mark.parametrize(
    ("words", "train", "test"),
    [
        (("Train", "TEST", "train ", "test"), 2, 2),
        (("train", "val", "training", "validation"), 2, 2),
        (("train", "test", "val", "testing"), 2, 2),
    ],
)
def test_sides_of_a_split_in_other_words(tmp_path, words, train, test):
    rows = [(path, name, word) for (path, name), word in zip(ROWS, words, strict=True)]
    annotation = listed(tmp_path, "path,class,split\n" + "".join(",".join(row) + "\n" for row in rows))
    assert (len(annotation.train), len(annotation.test)) == (train, test)
    assert any("validation set" in remark for remark in annotation.remarks) == any(word.startswith("val") for word in words)


@pytest.mark.counts("lists as spreadsheets save them")
@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("Datei;Klasse\nrun/0.mp4;run\n", 1, r"expected the columns path,class\[,group\]\[,split\].*rename them in that line"),
        ("path,class,Class\nrun/0.mp4,run,run\n", 1, "the column 'class' stands there twice"),
        ("path,class\nrun/0.mp4,run\nrun,1.mp4,run\n", 3, "quote a value that holds the separator"),
        ("path,class,split\nrun/0.mp4,run,both\n", 2, "split 'both' is neither train nor test, nor val"),
        ("sep=;\n", 1, "found nothing"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_the_line_to_change(tmp_path, text, line, says):
    with pytest.raises(DataError, match=says) as error:
        listed(tmp_path, text)
    assert f"videos.csv, line {line}:" in str(error.value)
