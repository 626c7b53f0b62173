"""Files that are replaced as a whole or not at all, and their hashes."""

import hashlib
import os

import pytest

from datamodules import files
from datamodules.files import file_hashes, file_sha256, write_atomically


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "ü\n🎬\r\n"),
        ('a "b"|<c>.csv', b"\x00\xff"),
        ("two\nlines", memoryview(b"abcdef")[1:4]),
        ("🎬", ""),
        (".hidden", b""),
    ],
)
def test_a_file_holds_what_was_written_and_nothing_is_left_beside_it(tmp_path, name, content):
    path = tmp_path / "new" / "folder" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"an older and a longer one")
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else bytes(content))
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_stands_there_until_the_new_one_is_on_disk(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.json", []
    path.write_text("old")
    sync = os.fsync

    def look(descriptor: int) -> None:
        (part,) = (other for other in tmp_path.iterdir() if other != path)
        assert os.path.samestat(os.fstat(descriptor), part.stat())
        seen.append((path.read_text(), part.read_text()))
        sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", look)
    write_atomically(path, "new")
    assert seen == [("old", "new")] and path.read_text() == "new"


@pytest.mark.counts("full disks")
@pytest.mark.parametrize("old", ["old", None], ids=["over an older file", "where there was none"])
def test_a_disk_that_fails_leaves_what_was_there(tmp_path, monkeypatch, old):
    path = tmp_path / "a.json"
    if old is not None:
        path.write_text(old)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(path, "new")
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == ({} if old is None else {"a.json": old})


def test_a_folder_in_the_files_place_is_left_alone(tmp_path):
    (tmp_path / "a.json").mkdir()
    (tmp_path / "a.json/mine.txt").write_text("mine")
    with pytest.raises(OSError, match=r"a\.json"):
        write_atomically(tmp_path / "a.json", "new")
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["a.json", "mine.txt"]


def test_two_processes_that_write_one_file_do_not_disturb_each_other(tmp_path, monkeypatch):
    path, sync, process = tmp_path / "a.json", os.fsync, iter((1001, 1002))
    seen = []

    def meanwhile(descriptor: int) -> None:
        monkeypatch.setattr(files.os, "fsync", sync)
        write_atomically(path, "of the second")
        seen.append(path.read_text())
        sync(descriptor)

    monkeypatch.setattr(files.os, "getpid", lambda: next(process))
    monkeypatch.setattr(files.os, "fsync", meanwhile)
    write_atomically(path, "of the first")
    assert seen == ["of the second"] and path.read_text() == "of the first" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("length", [0, 1, 6, 7, 8, 14, 20])
def test_hashes_are_of_the_whole_file_and_progress_tells_every_piece(tmp_path, monkeypatch, length):
    monkeypatch.setattr(files, "PIECE", 7)
    content, told = bytes(range(length)), []
    (tmp_path / "a").write_bytes(content)
    found = file_hashes(tmp_path / "a", ["sha256", "md5"], told.append)
    assert found == {name: hashlib.new(name, content).hexdigest() for name in ("sha256", "md5")}
    assert told == [min(end, length) for end in range(7, length + 7, 7)]
    assert file_sha256(tmp_path / "a") == found["sha256"]
