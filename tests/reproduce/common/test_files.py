"""CSV files of results, written as a whole or not at all and read back as they were; names of files made of videos'."""

import csv
import random

import pytest

from datamodules.reading import read_records
from datamodules.videos import DataError
from reproduce.common.files import file_names, safe_name, write_rows

ROWS = [
    ["video", "steps", "gaze"],
    ["a \"b\", 'c'.avi", 3, 0.1],
    ["two\nlines\r.avi", 0, ""],
    ["🎬 ü|<b>&amp;", -1, "=1+1"],
    ["", "", ""],
]
TEXTS = [[str(value) for value in row] for row in ROWS]


def test_rows_of_any_names_are_read_back_from_a_folder_that_was_made(tmp_path):
    path = tmp_path / 'results "of" 🎬' / "deep" / "rows.csv"
    write_rows(path, iter(ROWS))
    assert [values for _, values in read_records(path)] == TEXTS
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == TEXTS
    assert list(path.parent.iterdir()) == [path]


def test_an_older_file_is_replaced_and_is_left_as_it_was_by_rows_that_fail(tmp_path):
    path = tmp_path / "rows.csv"
    write_rows(path, [["video"], ["old"], ["older"]])
    write_rows(path, [["video"], ["new"]])
    assert path.read_text() == "video\nnew\n"

    def rows():
        yield ["video"]
        raise FloatingPointError("no gaze")

    with pytest.raises(FloatingPointError, match="no gaze"):
        write_rows(path, rows())
    assert path.read_text() == "video\nnew\n" and list(tmp_path.iterdir()) == [path]


def test_a_table_without_rows_is_its_header_alone(tmp_path):
    write_rows(tmp_path / "rows.csv", [["video", "a,b"]])
    assert (tmp_path / "rows.csv").read_text() == 'video,"a,b"\n'


@pytest.mark.parametrize("kind", ["its folder is a file", "it is a folder"])
def test_where_nothing_can_be_written_the_path_and_what_to_do_are_named(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    if kind == "it is a folder":
        (tmp_path / "results/rows.csv").mkdir()
        path = tmp_path / "results/rows.csv"
    else:
        (tmp_path / "results/notes").write_text("mine")
        path = tmp_path / "results/notes/rows.csv"
    with pytest.raises(DataError) as error:
        write_rows(path.relative_to(tmp_path), ROWS)
    assert str(error.value).startswith(f"cannot write {path.resolve()} (")
    assert str(error.value).endswith("); make room or set paths.results")
    left = [one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob("*")]
    assert left == ["results", "results/rows.csv" if kind == "it is a folder" else "results/notes"]


# names


def test_names_of_files_are_safe():
    assert safe_name("basketball/v_shooting_01/v_01.mpg") == "basketball-v_shooting_01-v_01"
    assert safe_name("wave/#20! (à é)[x]_1.avi") == "wave-20-x-_1"
    assert len(safe_name("a" * 300 + ".avi")) == 80


def test_no_two_videos_have_a_file_s_name_and_none_has_an_empty_one():
    videos = [
        "跑步/01.mp4",
        "跳跃/01.mp4",
        "a b.mp4",
        "a-b.mp4",
        "A-B.avi",
        "a-b-2.avi",
        "日本.mp4",
        "日.mp4",
        "a" * 99,
        "b" + "a" * 98,
    ]
    names = file_names(videos)
    assert names[:8] == ["01", "01-2", "a-b", "a-b-2", "A-B-3", "a-b-2-2", "video", "video-2"]
    assert len({name.lower() for name in names}) == len(names) and all(names)
    assert names == file_names(videos), "the same each time"


def test_names_that_are_safe_and_differ_stay_as_they_are():
    videos = [f"class{label}/clip_{number}.avi" for label in range(3) for number in range(9)]
    random.Random(0).shuffle(videos)
    assert file_names(videos) == [safe_name(video) for video in videos]
