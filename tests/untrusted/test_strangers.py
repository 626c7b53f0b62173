"""Lists of strangers: each is understood, or refused with its name and the line."""

import ast
import os
import tracemalloc
from pathlib import Path

import pytest
from handmade import put

from datamodules import hmdb51, hollywood2, miniature, ucf11, videofolder
from datamodules.boxes import read_boxes
from datamodules.reading import LONGEST_NAME, DataError, csv_text, read_records, read_rows
from datamodules.videos import MINIATURE_MARKER

REPOSITORY = Path(__file__).resolve().parents[2]
HEADER = "video,frame,left,top,right,bottom\n"


# code that unpickles


def calls(path: Path) -> list[tuple[str, dict[str, object]]]:
    """Every call in a module: the name as written, and its keywords that are constants."""
    return [
        (ast.unparse(node.func), {word.arg: getattr(word.value, "value", None) for word in node.keywords if word.arg})
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def test_no_module_unpickles():
    modules = [
        path for package in ("datamodules", "lightning_modules", "reproduce") for path in (REPOSITORY / package).rglob("*.py")
    ]
    loads = 0
    for path in modules:
        for name, keywords in calls(path):
            if name == "torch.load" or name.endswith(".load_from_checkpoint"):
                assert keywords.get("weights_only") is True, path
                loads += 1
            if name in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle") is False, path
            if name.endswith(".fit") and "ckpt_path" in keywords:
                assert keywords.get("weights_only") is True, path
            assert name not in (
                "pickle.load",
                "pickle.loads",
                "yaml.load",
                "yaml.unsafe_load",
                "joblib.load",
                "eval",
                "exec",
            ), path
            assert not name.startswith(("marshal.", "shelve.", "dill.", "cloudpickle.")), path
    assert len(modules) > 40 and loads >= 3, "the test looks at what it means to look at"


# text, CSV


def lists(tmp_path: Path, content: bytes, clean: str) -> dict[str, tuple[Path, object]]:
    """Every list with one part replaced, and its reader."""
    return {
        "split": (put(tmp_path / "run_test_split1.txt", content), hmdb51.read_split_file),
        "labels": (tmp_path / "run_test_split1.txt", lambda path: hollywood2.read_label_file(path, "train")),
        "boxes": (put(tmp_path / "boxes.csv", HEADER.encode() + content), read_boxes),
        "videos": (put(tmp_path / "mine/videos.csv", b"path,class\n" + content), lambda path: videofolder.read(path.parent)),
    }


UNREADABLE = {
    "latin-1": ("Läufe.avi 1\n".encode("latin-1"), "not UTF-8"),
    "utf-16": ("a.avi 1\n".encode("utf-16"), "not UTF-8|zero byte"),
    "zero byte": (b"a.avi 1\nb\0.avi 1\n", "zero byte"),
    "noise": (bytes(range(128, 256)) * 20, "not UTF-8"),
}


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize("kind", ["split", "labels", "boxes", "videos"])
@pytest.mark.parametrize("damage", UNREADABLE)
def test_a_list_that_is_no_text_is_refused_by_name_and_line(tmp_path, kind, damage):
    content, words = UNREADABLE[damage]
    path, reader = lists(tmp_path, content, "")[kind]
    with pytest.raises(DataError, match=words) as error:
        reader(path)
    assert f"{path}, line " in str(error.value)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize("kind", ["split", "labels", "boxes", "videos"])
def test_a_list_that_cannot_be_read_is_refused_by_name(tmp_path, kind):
    path, reader = lists(tmp_path, b"", "")[kind]
    path.unlink()
    if kind != "videos":
        with pytest.raises(DataError) as error:
            reader(path)
        assert str(path) in str(error.value)
    path.mkdir()
    with pytest.raises(DataError) as error:
        reader(path)
    assert str(path) in str(error.value)


def test_marks_of_byte_order_and_windows_line_ends_do_no_harm(tmp_path):
    split = put(tmp_path / "a.txt", b"\xef\xbb\xbfa b.avi 1 \r\n\r\nc.avi 2\r\n")
    assert hmdb51.read_split_file(split) == [("a b.avi", "train"), ("c.avi", "test")]
    labels = put(tmp_path / "b.txt", b"\xef\xbb\xbfactioncliptrain00001  1\r\nactioncliptrain00002  -1")
    assert hollywood2.read_label_file(labels, "train") == {"actioncliptrain00001": True, "actioncliptrain00002": False}
    found = read_boxes(put(tmp_path / "boxes.csv", b"\xef\xbb\xbf" + HEADER.encode() + b"a.avi, 1, 0, 0.5, 1, 1\r\n"))
    assert found["a.avi"][1].tolist() == [0, 0.5, 1, 1]


def test_only_line_ends_end_a_line(tmp_path):
    names = ["a\u2028b.avi", "c\x85d.avi", "e\x0bf.avi", "g\x1ch.avi"]
    found = hmdb51.read_split_file(put(tmp_path / "a.txt", "".join(f"{name} 1 \n" for name in names)))
    assert [clip for clip, _ in found] == names


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    ("rows", "line", "words"),
    [
        ("path,class,class\na.mp4,run,walk\n", 1, "'class' stands there twice"),
        ("path,,\na.mp4,run,\n", 1, "expected the columns"),
        ("path;class\na.mp4;run;\nb;c.mp4;run\n", 3, "expected 2 values"),
        ('path,class\n"a.mp4,run\nb.mp4,run\n', 2, "not closed"),
        ('path,class\na.mp4,"run"x\n', 2, "not CSV"),
        ("path,class\na.mp4,run\n\nb.mp4,run,more\n", 4, "expected 2 values"),
        ('path,class\n"two\nlines.mp4",run\nc.mp4\n', 4, "expected 2 values"),
        ("path,class\na.mp4,run\n./a.mp4,walk\n", 3, "'a.mp4' listed twice, in line 2 already"),
        ("path,class\na.mp4,run\na.mp4,run\n", 3, "'a.mp4' listed twice, in line 2 already"),
        ("path,class\na.mp4, run\n", 2, "begins or ends with a blank"),
        (f"path,class\n{'n' * 260}.mp4,run\n", 2, "longer than"),
        ("path,class\r" + "a.mp4,run\r", 1, "not CSV"),
        ("path,class\n" + "a.mp4," + "r" * 140_000 + "\n", 2, "not CSV"),
    ],
    ids=lambda value: str(value)[:24].encode("unicode_escape").decode(),
)
def test_a_damaged_list_of_videos_names_its_line(tmp_path, rows, line, words):
    path = put(tmp_path / "mine/videos.csv", rows)
    with pytest.raises(DataError, match=words) as error:
        videofolder.read(path.parent)
    assert f"{path}, line {line}:" in str(error.value)


@pytest.mark.counts("names that cannot be")
@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        ("run/a.mp4", "run/A.MP4", "differ only in case"),
        ("run/a.mp4", "Run/b.mp4", "differ only in case"),
        ("run/\u00e9.mp4", "run/e\u0301.mp4", "form of their letters"),
    ],
)
def test_names_that_some_disks_do_not_tell_apart_are_refused(tmp_path, one, two, words):
    for name in (one, two):
        put(tmp_path / "mine" / name, "x")
    with pytest.raises(DataError, match=words) as error:
        videofolder.read(tmp_path / "mine")
    assert str(tmp_path / "mine") in str(error.value)


@pytest.mark.counts("names that cannot be")
@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_one_file_under_two_names_is_refused(tmp_path, link):
    put(tmp_path / "mine/run/a.mp4", "x")
    put(tmp_path / "mine/walk/b.mp4", "x")
    link(tmp_path / "mine/run/a.mp4", tmp_path / "mine/walk/c.mp4")
    with pytest.raises(DataError, match=r"'run/a\.mp4' and 'walk/c\.mp4' are one file"):
        videofolder.read(tmp_path / "mine")


@pytest.mark.counts("names that cannot be")
def test_a_name_that_is_not_utf8_is_refused_before_anything_is_extracted(tmp_path):
    folder = tmp_path / "mine"
    for name in ("run", "walk"):
        for number in range(4):
            put(folder / f"{name}/{number}.mp4", "x")
    os.close(os.open(os.fsencode(folder / "run") + b"/L\xe4ufer.mp4", os.O_CREAT))
    with pytest.raises(DataError, match=r"'run/L\\udce4ufer\.mp4' cannot be used: it is not UTF-8; rename"):
        videofolder.read(folder)


@pytest.mark.counts("names that cannot be")
def test_a_name_too_long_for_its_features_is_refused(tmp_path):
    for name in ("run", "walk"):
        for number in range(4):
            put(tmp_path / f"mine/{name}/{number}{'n' * (LONGEST_NAME if number == 3 else 9)}.mp4", "x")
    with pytest.raises(DataError, match="cannot be used: it is longer than"):
        videofolder.read(tmp_path / "mine")


@pytest.mark.counts("names that cannot be")
@pytest.mark.parametrize("name", ["ucf11", "hmdb51", "hollywood2"])
def test_anybodys_videos_do_not_pass_as_an_official_set(tmp_path, name):
    put(tmp_path / name / "run/a.mp4", "x")
    with pytest.raises(DataError, match="bears the name of an official data set"):
        videofolder.read(tmp_path / name)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    ("rows", "line", "words"),
    [
        ("a.avi,3,0,0,1,1\na.avi,3,0,0,1,1\n", 3, "frame 3 of 'a.avi' has a box already"),
        ("a.avi,3,0,0,1,1\n./a.avi,3,0,0,1,1\n", 3, "frame 3 of 'a.avi' has a box already"),
        ("a.avi,1000000000000,0,0,1,1\n", 2, "expected <video>"),
        ("a.avi,1e3,0,0,1,1\n", 2, "expected <video>"),
        ("a.avi,\u0663,0,0,1,1\n", 2, "expected <video>"),
        ("a.avi,1_0,0,0,1,1\n", 2, "expected <video>"),
        ("a.avi,1,0,0,1_0,1\n", 2, "expected <video>"),
        ("".join(f"{name}.avi,19999990,0,0,1,1\n" for name in "ab"), 3, "have more than 20000000 frames"),
    ],
)
def test_boxes_that_stand_twice_or_fill_the_memory_are_refused_by_line(tmp_path, rows, line, words):
    path = put(tmp_path / "boxes.csv", HEADER + rows)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=words) as error:
            read_boxes(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert f"{path}, line {line}:" in str(error.value)


def test_records_are_read_as_they_were_written(tmp_path):
    records = [["a", "b"], ["<script>", 'quo"te'], ["two\nlines", "carriage\rreturn"], ["\r\n", "-x, |y"], ["🎬", " blank "]]
    path = put(tmp_path / "a.csv", csv_text(records))
    assert [values for _, values in read_records(path)] == records
    assert [row.values["a"] for row in read_rows(path, ["a", "b"])] == [values[0] for values in records[1:]]


# generated data sets


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    "marker",
    [
        "",
        "[]",
        "{",
        "null",
        '{"version": 2}',
        '{"version": 2, "clips": 3}',
        '{"version": 2, "clips": {"basketball": [1]}}',
        "[" * 9999,
    ],
)
def test_a_damaged_marker_of_a_generated_set_is_refused_by_name(tmp_path, marker):
    (tmp_path / "basketball").mkdir()
    put(tmp_path / MINIATURE_MARKER, marker)
    with pytest.raises(DataError) as error:
        ucf11.read(tmp_path)
    assert str(tmp_path / MINIATURE_MARKER) in str(error.value) and "remove the folder" in str(error.value)


def test_a_generated_set_that_lost_a_file_is_drawn_again(tmp_path, monkeypatch, count):
    monkeypatch.setattr(miniature, "HOLLYWOOD_CLIPS", {"train": 2, "test": 1})
    root = tmp_path / "mini"
    assert miniature.generate(root, "hollywood2") and miniature.is_complete(root)
    clip, marker = root / "Hollywood2/AVIClips/actioncliptrain00002.avi", root / MINIATURE_MARKER
    for path in (clip, marker, root / "boxes.csv"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"\0" if path == marker else whole[: len(whole) // 2])
        assert not miniature.is_complete(root), path
        count("damaged data sets", 1)
        path.write_bytes(whole)
        assert miniature.is_complete(root)
    drawn = clip.read_bytes()
    clip.unlink()
    assert not miniature.is_complete(root)
    assert miniature.generate(root, "hollywood2") and clip.read_bytes() == drawn
