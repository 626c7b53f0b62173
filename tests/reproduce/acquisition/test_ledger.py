"""archives.json: what was recorded of an archive at its first use is found again, compared, and kept."""

import hashlib
import json
import os
import re
from datetime import datetime, timedelta

import pytest

from datamodules import files
from datamodules.videos import DataError
from reproduce.acquisition import ledger
from reproduce.acquisition.ledger import Ledger, hashes

ABC = {
    "md5": "900150983cd24fb0d6963f7d28e17f72",
    "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
}
EMPTY = {
    "md5": "d41d8cd98f00b204e9800998ecf8427e",
    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
}
ODD_NAMES = ["a \"b\" 'c'.zip", "two\nlines.rar", "🎬 ünï.zip", "a|b<c>.zip", "-x\\y.zip"]
FIRST, LATER = 1_500_000_000_123_456_789, 1_500_000_000_123_456_790  # ns; a nanosecond apart


@pytest.fixture
def archive(tmp_path):
    """A file of three bytes."""
    path = tmp_path / "videos.zip"
    path.write_bytes(b"abc")
    os.utime(path, ns=(FIRST, FIRST))
    return path


def recorded(root):
    return json.loads((root / "archives.json").read_text(encoding="utf-8"))


# hashes


@pytest.mark.parametrize(("content", "expected"), [(b"abc", ABC), (b"", EMPTY)])
def test_hashes_are_the_published_ones_of_known_texts(tmp_path, content, expected):
    (tmp_path / "a").write_bytes(content)
    assert hashes(tmp_path / "a") == expected


@pytest.mark.parametrize("length", [1, 6, 7, 8, 14, 20])
def test_a_file_longer_than_what_is_read_at_once_is_hashed_to_its_end(tmp_path, monkeypatch, length):
    monkeypatch.setattr(files, "PIECE", 7)
    content = bytes(range(length))
    (tmp_path / "a").write_bytes(content)
    assert hashes(tmp_path / "a") == {
        "md5": hashlib.md5(content).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


@pytest.mark.parametrize(("length", "said"), [(2_000_000, "hashing films.rar: 2/2 MB, took"), (1_999_999, "")])
def test_only_a_long_file_is_worth_a_line(tmp_path, monkeypatch, capsys, length, said):
    monkeypatch.setattr(ledger, "LONG", 2_000_000)
    (tmp_path / "films.rar").write_bytes(bytes(length))
    hashes(tmp_path / "films.rar")
    out = capsys.readouterr().out
    assert said in out and bool(out) == bool(said)


# what is recorded


def test_a_new_ledger_knows_nothing_and_leaves_no_file(tmp_path, archive):
    assert not Ledger(tmp_path).knows(archive)
    assert list(tmp_path.iterdir()) == [archive]


def test_what_was_entered_is_read_back_by_the_next_call(tmp_path, archive):
    Ledger(tmp_path).enter(archive, "https://host/videos.zip", ABC)
    entry = recorded(tmp_path)["archives"]["videos.zip"]
    first = datetime.fromisoformat(entry.pop("first_used"))
    assert entry == {**ABC, "bytes": 3, "modified": FIRST, "from": "https://host/videos.zip"}
    assert first.utcoffset() == timedelta(0)
    assert Ledger(tmp_path).knows(archive)


def test_a_file_is_known_by_size_and_time_and_not_by_its_content(tmp_path, archive):
    Ledger(tmp_path).enter(archive, "placed by hand", ABC)
    archive.write_bytes(b"xyz")
    os.utime(archive, ns=(FIRST, FIRST))
    assert Ledger(tmp_path).knows(archive)


@pytest.mark.parametrize(("content", "time"), [(b"abcd", FIRST), (b"", FIRST), (b"abc", LATER)])
def test_a_file_of_another_size_or_time_is_not_known(tmp_path, archive, content, time):
    Ledger(tmp_path).enter(archive, "placed by hand", ABC)
    archive.write_bytes(content)
    os.utime(archive, ns=(time, time))
    assert not Ledger(tmp_path).knows(archive)


def test_a_file_of_another_name_is_not_known(tmp_path, archive):
    Ledger(tmp_path).enter(archive, "placed by hand", ABC)
    other = archive.rename(tmp_path / "other.zip")
    assert not Ledger(tmp_path).knows(other)


def test_a_later_use_keeps_the_first_ones_date(tmp_path, archive):
    Ledger(tmp_path).enter(archive, "placed by hand", ABC)
    content = recorded(tmp_path)
    content["archives"]["videos.zip"]["first_used"] = "2015-11-12T10:00:00+00:00"
    (tmp_path / "archives.json").write_text(json.dumps(content))
    os.utime(archive, ns=(LATER, LATER))
    again = Ledger(tmp_path)
    again.enter(archive, "https://host/videos.zip", ABC)
    entry = recorded(tmp_path)["archives"]["videos.zip"]
    assert (entry["first_used"], entry["from"]) == ("2015-11-12T10:00:00+00:00", "https://host/videos.zip")
    assert entry["modified"] == LATER and again.knows(archive)


def test_what_came_out_of_an_archive_stands_beside_it(tmp_path, archive):
    one = Ledger(tmp_path)
    one.enter(archive, "placed by hand", ABC)
    one.enter_extracted("videos.zip", tmp_path / "x" / ".." / "films", 12, 3456, ["zipfile"])
    content = recorded(tmp_path)
    films = str(tmp_path.resolve() / "films")
    assert content["extracted"] == {"videos.zip": {"to": films, "files": 12, "bytes": 3456, "by": ["zipfile"]}}
    assert list(content["archives"]) == ["videos.zip"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_archive_of_any_name_is_known_again(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"abc")
    Ledger(tmp_path).enter(path, "placed by hand", ABC)
    again = Ledger(tmp_path)
    assert again.knows(path) and again.verify(path, None, name) == ABC
    assert list(recorded(tmp_path)["archives"]) == [name]


def test_what_somebody_else_wrote_into_the_file_stays(tmp_path, archive):
    (tmp_path / "archives.json").write_text('{"remark": "<mine> ü", "extracted": {"old.rar": {"files": 1}}}')
    Ledger(tmp_path).enter(archive, "placed by hand", ABC)
    content = recorded(tmp_path)
    assert content["remark"] == "<mine> ü" and content["extracted"] == {"old.rar": {"files": 1}}
    assert list(content["archives"]) == ["videos.zip"]


# what is compared


@pytest.mark.parametrize("md5", [ABC["md5"], None])
def test_the_first_use_of_the_right_file_returns_its_hashes_and_records_nothing(tmp_path, archive, md5):
    assert Ledger(tmp_path).verify(archive, md5, "videos.zip") == ABC
    assert not (tmp_path / "archives.json").exists()


def test_another_file_than_the_published_one_is_refused_with_both_hashes_and_what_to_do(tmp_path, archive):
    with pytest.raises(DataError) as error:
        Ledger(tmp_path).verify(archive, EMPTY["md5"], "videos.zip")
    assert str(error.value) == (
        f"{archive}: is not the published archive: its MD5 is {ABC['md5']}, {EMPTY['md5']} is published. Remove the file and "
        "get it again; an archive that you have packed yourself goes by another name, as archive=<file>"
    )


def test_another_file_than_the_first_one_is_refused_with_both_hashes_the_date_and_what_to_do(tmp_path, archive):
    Ledger(tmp_path).enter(archive, "placed by hand", ABC)
    first = recorded(tmp_path)["archives"]["videos.zip"]["first_used"]
    archive.write_bytes(b"")
    with pytest.raises(DataError) as error:
        Ledger(tmp_path).verify(archive, None, "videos.zip")
    assert str(error.value) == (
        f"{archive}: is not the file that was used before: its SHA-256 is {EMPTY['sha256']}, {tmp_path / 'archives.json'} "
        f"recorded {ABC['sha256']} on {first}. One of the two is damaged, or its publisher has replaced it. Get the file "
        f"again; if the new one is right, remove {tmp_path / 'archives.json'}"
    )


def test_a_download_is_compared_with_what_its_final_name_was_recorded_as(tmp_path, archive):
    Ledger(tmp_path).enter(archive, "placed by hand", ABC)
    part = tmp_path / "videos.zip.part"
    part.write_bytes(b"abcd")
    again = Ledger(tmp_path)
    with pytest.raises(DataError, match=r"videos\.zip\.part: is not the file that was used before"):
        again.verify(part, None, "videos.zip")
    found = again.verify(part, None, "another.zip")
    assert found["md5"] == hashlib.md5(b"abcd").hexdigest()


def test_the_published_hash_counts_before_the_recorded_one(tmp_path, archive):
    Ledger(tmp_path).enter(archive, "placed by hand", EMPTY)
    with pytest.raises(DataError, match="is not the published archive"):
        Ledger(tmp_path).verify(archive, EMPTY["md5"], "videos.zip")
    with pytest.raises(DataError, match="is not the file that was used before"):
        Ledger(tmp_path).verify(archive, ABC["md5"], "videos.zip")


def test_an_entry_without_a_hash_refuses_nothing(tmp_path, archive):
    (tmp_path / "archives.json").write_text('{"archives": {"videos.zip": {}}}')
    again = Ledger(tmp_path)
    assert not again.knows(archive) and again.verify(archive, None, "videos.zip") == ABC


def test_an_archive_whose_name_is_not_utf_8_is_refused_with_what_to_do_and_what_was_recorded_stays(tmp_path, archive):
    Ledger(tmp_path).enter(archive, "placed by hand", ABC)
    before = recorded(tmp_path)
    other = tmp_path / os.fsdecode(b"caf\xe9.zip")
    other.write_bytes(b"abc")
    with pytest.raises(DataError) as error:
        Ledger(tmp_path).enter(other, "placed by hand", ABC)
    said = f"{tmp_path / 'archives.json'}: cannot record a path that is not UTF-8; rename the archive or its folder"
    assert str(error.value) == said and recorded(tmp_path) == before


# damaged files


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "archives.json, line 1: no JSON"),
        ('{\n "archives": {\n', "archives.json, line 3: no JSON"),
        ('{"archives": {}, "archives": {}}', "archives.json: no JSON ('archives' stands there twice)"),
        ("[]", "archives.json: holds no JSON object (list)"),
        ("null", "archives.json: holds no JSON object (NoneType)"),
        ('{"archives": []}', "archives.json: 'archives' is no list of archives"),
        ('{"archives": null}', "archives.json: 'archives' is no list of archives"),
        ('{"archives": {"a.zip": "900150983cd2"}}', "archives.json: 'archives' is no list of archives"),
        ('{"extracted": "all"}', "archives.json: 'extracted' is no list of archives"),
        ('{"archives": {}, "extracted": {"a.zip": {}, "b.zip": 3}}', "archives.json: 'extracted' is no list of archives"),
    ],
)
def test_a_damaged_ledger_is_named_with_what_to_do_and_left_as_it_is(tmp_path, text, says):
    path = tmp_path / "archives.json"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(says)) as error:
        Ledger(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/")
    assert str(error.value).endswith("; remove it, and hashes are recorded anew")
    assert path.read_text() == text


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    ("content", "says"), [(b'{"a":\n "\xe9"}', "line 2: not UTF-8 (byte 0xe9)"), (b"{}\n\0", "line 2: holds a zero byte")]
)
def test_a_ledger_that_is_no_text_is_named_with_its_line(tmp_path, content, says):
    (tmp_path / "archives.json").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'archives.json'}, {says}")):
        Ledger(tmp_path)
