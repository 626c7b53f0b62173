"""Extraction of zip, tar and RAR: whole or not at all, whatever a stranger has put into them."""

import bz2
import gzip
import io
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import pytest
from conftest import REPOSITORY, wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packing import FILES, fake_tool, refused, tar_of, tarred, tree, write, zipped
from rar import FOLDER, SYMLINK, Item, block4, block5, rar, vint

from reproduce.acquisition import entries
from reproduce.acquisition import rar as rar_module
from reproduce.acquisition.archives import extract, inspect
from reproduce.acquisition.entries import MOST_RATIO, SMALL, ArchiveError, Entry, wrong_name
from reproduce.acquisition.rar import COMMANDS, list_rar

REAL = [name for name in COMMANDS if shutil.which(name)]
needs_a_tool = pytest.mark.skipif(not REAL, reason=f"none of {', '.join(COMMANDS)} is on PATH")


def zip_entry(name: str, data: bytes = b"x", mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    info = zipfile.ZipInfo("placeholder")
    info.filename, info.orig_filename, info.external_attr = name, name, mode << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("good.txt", b"good")
        archive.writestr(info, data)
    return buffer.getvalue()


def tar_entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return tar_of([(tarfile.TarInfo("good.txt"), b"good"), (info, data)])


GOOD = {
    "zip": zipped(FILES),
    "zip, stored": zipped(FILES, zipfile.ZIP_STORED),
    "zip, bzip2": zipped(FILES, zipfile.ZIP_BZIP2),
    "tar": tarred(FILES),
    "tar.gz": tarred(FILES, "w:gz"),
    "tar.bz2": tarred(FILES, "w:bz2"),
    "tar.xz": tarred(FILES, "w:xz"),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_zip_and_tar_by_the_standard_library(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    path = write(tmp_path, data)
    done = extract(path, tmp_path / "out")
    assert tree(tmp_path / "out") == FILES
    assert (done.files, done.bytes) == (len(FILES), sum(map(len, FILES.values())))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "outer"]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("name", list(COMMANDS))
def test_rar_by_each_tool(name, version, tmp_path, monkeypatch):
    if name not in REAL:
        pytest.skip(f"{name} is not on PATH")
    if (name, version) == ("unar", 5):
        pytest.skip("unar expects records in RAR 5 that the writer of these tests leaves out")
    monkeypatch.setattr(rar_module, "COMMANDS", {name: COMMANDS[name]})
    path = write(tmp_path, rar([Item("top", mode=FOLDER), *(Item(n, d) for n, d in FILES.items())], version))
    assert extract(path, tmp_path / "out").tool == name
    assert tree(tmp_path / "out") == FILES


@pytest.mark.parametrize("version", [4, 5])
def test_rar_headers_say_what_is_in_it(version, tmp_path):
    path = write(tmp_path, rar([Item("top", mode=FOLDER), *(Item(n, d) for n, d in FILES.items())], version))
    found = list_rar(path)
    assert found[0].name == "top" and found[0].kind == "folder"
    assert found[1:] == [Entry(name, len(data), "file", zlib.crc32(data)) for name, data in FILES.items()]


def test_names_that_rar_4_writes_in_unicode_are_read(tmp_path):
    code = bytes([0, 0, 0b00000001, *b"caf", 0xE9, 0b00000000, *b".avi"])
    path = write(tmp_path, MAIN[4] + entry4(b"caf?.avi", 0x200, code=code))
    assert [entry.name for entry in list_rar(path)] == ["café.avi"]


# strangers' archives

LONG = "n" * 256
DEEP = "/".join(["folder"] * 160) + "/x"
NAMES = ["../x", "a/../../x", "/etc/x", "//x", "C:/x", "c:x", "a\\..\\x", "..", "a/..", "a//b", "a\nb", "a\x1bb", LONG, DEEP]


@pytest.mark.counts("hostile archives")
@pytest.mark.parametrize("name", NAMES, ids=[name[:12] for name in NAMES])
@pytest.mark.parametrize("kind", ["zip", "tar", "rar4", "rar5"])
def test_names_that_lead_elsewhere_or_that_no_disk_takes_are_refused(kind, name, tmp_path):
    data = {
        "zip": lambda: zip_entry(name),
        "tar": lambda: tar_entry(name, data=b"x"),
        "rar4": lambda: rar([Item("good.txt", b"good"), Item(name, b"x")], 4),
        "rar5": lambda: rar([Item("good.txt", b"good"), Item(name, b"x")], 5),
    }[kind]()
    assert "refused: the entry" in refused(tmp_path, data)


@pytest.mark.counts("hostile archives")
def test_a_zero_byte_hides_no_part_of_a_zips_name(tmp_path):
    data = zip_entry("harmlessQ../../x").replace(b"harmlessQ", b"harmless\0")
    assert "refused: the entry" in refused(tmp_path, data)


@pytest.mark.counts("hostile archives")
@pytest.mark.parametrize("name", [b"\0hidden.avi", b"\0\0\0\0\0\0\0\0\0\0\0"])
def test_a_zips_name_that_is_nothing_but_hidden_is_refused(tmp_path, name):
    assert "refused: the entry" in refused(tmp_path, zip_entry("visible.avi").replace(b"visible.avi", name))


LINKS = {
    "zip, symbolic": (zip_entry("link", b"/etc", SYMLINK), "link"),
    "zip, device": (zip_entry("null", b"", stat.S_IFCHR | 0o666), "special file"),
    "zip, pipe": (zip_entry("pipe", b"", stat.S_IFIFO | 0o666), "special file"),
    "tar, symbolic": (tar_entry("link", tarfile.SYMTYPE, "/etc"), "link"),
    "tar, symbolic, near": (tar_entry("link", tarfile.SYMTYPE, "good.txt"), "link"),
    "tar, hard": (tar_entry("link", tarfile.LNKTYPE, "good.txt"), "link"),
    "tar, hard, far": (tar_entry("link", tarfile.LNKTYPE, "../home/archive.bin"), "link"),
    "tar, character device": (tar_entry("null", tarfile.CHRTYPE), "special file"),
    "tar, block device": (tar_entry("sda", tarfile.BLKTYPE), "special file"),
    "tar, pipe": (tar_entry("pipe", tarfile.FIFOTYPE), "special file"),
    "rar 4, symbolic": (rar([Item("link", b"/etc", SYMLINK)], 4), "link"),
    "rar 4, device": (rar([Item("null", b"", stat.S_IFCHR | 0o666)], 4), "special file"),
    "rar 5, symbolic": (rar([Item("link", link="/etc")], 5), "link"),
    "rar 5, hard": (rar([Item("good", b"x"), Item("link", link="good", link_kind=4)], 5), "link"),
    "rar 5, by its mode": (rar([Item("link", b"/etc", SYMLINK)], 5), "link"),
}


@pytest.mark.counts("hostile archives")
@pytest.mark.parametrize(("data", "kind"), LINKS.values(), ids=LINKS)
def test_links_and_special_files_are_refused(data, kind, tmp_path):
    assert f"is a {kind}; only plain files and folders" in refused(tmp_path, data)


@pytest.mark.counts("hostile archives")
def test_a_link_followed_by_a_file_through_it_writes_nothing(tmp_path):
    link = tarfile.TarInfo("top")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    refused(tmp_path, tar_of([(link, b""), (tarfile.TarInfo("top/escaped"), b"x")]))
    assert not (tmp_path / "escaped").exists()


def nested_zip(layers: int) -> bytes:
    return zipped({f"{n}.bin": bytes(8 << 20) for n in range(layers)})


def lying_zip(declared: int) -> bytes:
    """Its directory and its header declare another size than there is."""
    data = bytearray(zipped({"a.bin": bytes(100_000)}))
    at = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, 22, declared)
    struct.pack_into("<I", data, at + 24, declared)
    return bytes(data)


def sparse_tar() -> bytes:
    info = tarfile.TarInfo("sparse")
    info.pax_headers = {"GNU.sparse.size": str(10 << 20), "GNU.sparse.numblocks": "0", "GNU.sparse.map": "0,0"}
    return tar_of([(info, b"")])


BOMBS = {
    "zip, zeros": (nested_zip(8), "no archive of videos"),
    "zip, says 4 GB": (lying_zip(2**32 - 2), "no archive of videos"),
    "zip, says less than there is": (lying_zip(10), "damaged"),
    "zip, says more than there is": (lying_zip(200_000), "damaged|declares"),
    "tar.gz, zeros": (tarred({"zeros": bytes(64 << 20)}, "w:gz"), "no archive of videos"),
    "tar.gz, many": (tarred({f"{n}": bytes(1 << 20) for n in range(40)}, "w:gz"), "no archive of videos"),
    "tar, sparse": (sparse_tar(), "sparse|no archive"),
    "tar.gz, a header of 64 MiB": (gzip.compress(tar_entry("x", tarfile.XHDTYPE, data=bytes(64 << 20))), "damaged|no archive"),
    "rar 4, says 4 GB": (rar([Item("a", b"x", size=2**32 - 1)], 4), "no archive of videos"),
    "rar 5, says 2^60": (rar([Item("a", b"x", size=2**60)], 5), "no archive of videos"),
}


@pytest.mark.counts("hostile archives")
@pytest.mark.parametrize(("data", "says"), BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_before_they_go_off(data, says, tmp_path):
    message = refused(tmp_path, data)
    assert any(word in message for word in says.split("|")), message


@pytest.mark.counts("hostile archives")
def test_what_little_archives_may_become_has_a_limit_and_so_has_the_number_of_entries(tmp_path, monkeypatch):
    path = write(tmp_path, zipped({"x": bytes(SMALL)}))
    assert extract(path, tmp_path / "out").bytes == SMALL
    assert path.stat().st_size * MOST_RATIO < SMALL
    monkeypatch.setattr(entries, "MOST_ENTRIES", 3)
    assert "more than 3 entries" in refused(tmp_path / "other", GOOD["zip"])


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, monkeypatch, count):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(entries.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    for data in (GOOD["zip"], GOOD["tar"], rar(FILES)):
        assert "GiB are free" in refused(tmp_path, data)
        count("full disks", 1)


CLASHES = {
    "twice": ([("a", b"1"), ("a", b"2")], "stands twice"),
    "file and folder": ([("a/b", b"1"), ("a", b"2")], "is a file and a folder"),
    "in a file": ([("a", b"1"), ("a/b", b"2")], "lies in a file"),
    "dot": ([("a", b"1"), ("./a", b"2")], "on this disk|stands twice"),
}


@pytest.mark.parametrize(("items", "says"), CLASHES.values(), ids=CLASHES)
def test_entries_that_would_overwrite_each_other_are_refused(items, says, tmp_path, count):
    for data in (tar_of([(tarfile.TarInfo(n), d) for n, d in items]), rar([Item(n, d) for n, d in items], 4)):
        assert any(word in refused(tmp_path, data) for word in says.split("|"))
        count("hostile archives", 1)


@pytest.mark.counts("hostile archives")
def test_names_that_differ_by_case_need_a_disk_that_tells_it(tmp_path, monkeypatch):
    data = tarred({"Clip.avi": b"1", "clip.avi": b"2"})
    if entries.tells_case(tmp_path):
        path = write(tmp_path / "sensitive", data)
        extract(path, tmp_path / "out")
        assert tree(tmp_path / "out") == {"Clip.avi": b"1", "clip.avi": b"2"}
    monkeypatch.setattr(entries, "tells_case", lambda folder: False)
    assert "does not tell case" in refused(tmp_path, data)


DAMAGED = {
    "zip, first half": GOOD["zip"][: len(GOOD["zip"]) // 2],
    "zip, a wrong byte": GOOD["zip, stored"].replace(b"videovideo", b"videovidea", 1),
    "tar, first half": GOOD["tar"][: len(GOOD["tar"]) // 2],
    "tar, ends after an entry": GOOD["tar"][: 512 + 27136],
    "tar, a wrong header": GOOD["tar"].replace(b"second.avi", b"sec\xffnd.avi", 1),
    "tar.gz, first half": GOOD["tar.gz"][: len(GOOD["tar.gz"]) // 2],
    "tar.gz, wrong sum": GOOD["tar.gz"][:-8] + b"\0" * 8,
    "tar.bz2, first half": GOOD["tar.bz2"][: len(GOOD["tar.bz2"]) // 2],
    "tar.xz, first half": GOOD["tar.xz"][: len(GOOD["tar.xz"]) // 2],
    "gzip of a text": gzip.compress(b"hello" * 1000),
    "bzip2 of nothing": bz2.compress(b""),
    "rar 4, first half": rar(FILES, 4)[:12_000],
    "rar 5, first half": rar(FILES, 5)[:12_000],
    "rar 4, wrong header": rar(FILES, 4).replace(b"second.avi", b"secund.avi", 1),
    "rar 5, wrong header": rar(FILES, 5).replace(b"second.avi", b"secund.avi", 1),
    "rar, one of several volumes": b"Rar!\x1a\x07\x00" + block4(0x73, 1, bytes(6)),
    "rar 5, encrypted headers": b"Rar!\x1a\x07\x01\x00" + block5(4, 0, 0),
    "rar 4, encrypted": rar([Item("a", b"x", encrypted=True)], 4),
    "rar 5, encrypted": rar([Item("a", b"x", encrypted=True)], 5),
    "a web page": b"<!DOCTYPE html><html></html>",
    "nothing": b"",
    "7z": b"7z\xbc\xaf'\x1c" + bytes(100),
}


@pytest.mark.counts("damaged archives")
@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_damaged_archives_are_refused_whole(data, tmp_path):
    assert refused(tmp_path, data)


VOLUMES, ENCRYPTED, DAMAGE = "one of several volumes; join them", "encrypted; the official", "damaged or cut short"
MAIN = {4: b"Rar!\x1a\x07\x00" + block4(0x73, 0, bytes(6)), 5: b"Rar!\x1a\x07\x01\x00" + block5(1, 0, 0)}
END = {4: block4(0x7B, 0x4000, b""), 5: block5(5, 0, 0)}


def entry4(name: bytes, flags: int = 0, host: int = 3, mode: int = 0o100644, code: bytes = b"") -> bytes:
    """A file of one byte in RAR 4."""
    fields = (1, 1, host, zlib.crc32(b"x"), 0, 20, 0x30, len(name + code), mode)
    return block4(0x74, 0x8000 | flags, struct.pack("<IIBIIBBHI", *fields) + name + code) + b"x"


def entry5(name: bytes, flags: int = 2, file_flags: int = 0, host: int = 1, mode: int = 0o100644) -> bytes:
    """A file of one byte in RAR 5."""
    return block5(2, flags, 1, file_flags, 1, mode, 0, host, len(name), body=name) + b"x"


UNUSABLE = {
    "rar 4, a volume": (MAIN[4][:7] + block4(0x73, 1, bytes(6)) + entry4(b"a") + END[4], VOLUMES),
    "rar 4, begun in another": (MAIN[4] + entry4(b"a", 1) + END[4], VOLUMES),
    "rar 4, goes on in another": (MAIN[4] + entry4(b"a", 2) + END[4], VOLUMES),
    "rar 5, a volume": (MAIN[5][:8] + block5(1, 0, 1) + entry5(b"a") + END[5], VOLUMES),
    "rar 5, the third volume": (MAIN[5][:8] + block5(1, 0, 3, 2) + entry5(b"a") + END[5], VOLUMES),
    "rar 5, begun in another": (MAIN[5] + entry5(b"a", 2 | 8) + END[5], VOLUMES),
    "rar 5, goes on in another": (MAIN[5] + entry5(b"a", 2 | 16) + END[5], VOLUMES),
    "rar 4, encrypted headers": (MAIN[4][:7] + block4(0x73, 0x80, bytes(6)) + bytes(64), ENCRYPTED),
    "rar 4, encrypted": (rar([Item("a", b"x", encrypted=True)], 4), ENCRYPTED),
    "rar 5, encrypted headers": (MAIN[5][:8] + block5(4, 0, 0, 0, body=b"\x0f" + bytes(16)) + bytes(64), ENCRYPTED),
    "rar 5, encrypted": (rar([Item("a", b"x" * 64, encrypted=True)], 5), "encrypted; the official|" + DAMAGE),
    "rar 5, of any size": (MAIN[5] + entry5(b"a", file_flags=8) + END[5], "does not say how large 'a' is"),
    "rar 4, a junction": (MAIN[4] + entry4(b"a", host=2, mode=0x410) + END[4], "is a link"),
    "rar 5, a junction": (MAIN[5] + entry5(b"a", host=0, mode=0x410) + END[5], "is a link"),
    "rar 4, leads out in no known encoding": (MAIN[4] + entry4(b"..\\\xff") + END[4], "leads out of its folder"),
    "rar 4, leads out in Unicode": (MAIN[4] + entry4(b"ab/c", 0x200, code=b"\0\0\0../c") + END[4], "leads out of its folder"),
    "rar 4, first half": (rar(FILES, 4)[:12_000], "cut short: it has 12,000 bytes"),
    "rar 5, first half": (rar(FILES, 5)[:12_000], "cut short: it has 12,000 bytes"),
    "rar 4, half a header": (MAIN[4] + entry4(b"a")[:20], DAMAGE),
    "rar 5, half a header": (MAIN[5] + entry5(b"a")[:8], DAMAGE),
    "rar 4, something behind its entries": (MAIN[4] + entry4(b"a") + b"more", DAMAGE),
    "rar 5, a header of an unknown kind": (MAIN[5] + entry5(b"a") + block5(9, 0) + entry5(b"../b") + END[5], DAMAGE),
    "rar 5, a header of 3 MiB": (MAIN[5] + entry5(b"a") + bytes(4) + vint(3 << 20) + bytes(3 << 20), DAMAGE),
    "rar of another version": (b"Rar!\x1a\x07\x02\x00" + rar(FILES, 5), DAMAGE),
}


@pytest.mark.counts("damaged archives")
@pytest.mark.parametrize(("data", "says"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_rar_that_cannot_be_used_is_refused_by_what_its_headers_say(data, says, tmp_path):
    message = refused(tmp_path, data)
    assert any(words in message for words in says.split("|")), message


def test_no_tool_is_started_to_list_a_rar_nor_another_volume_opened(tmp_path, monkeypatch):
    for name in COMMANDS:
        fake_tool(tmp_path / "bin", name, "")
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    comment = (4, 4, 3, zlib.crc32(b"said"), 0, 29, 0x33, 3, 0)
    block = block4(0x7A, 0x8000, struct.pack("<IIBIIBBHI", *comment) + b"CMT") + b"said"
    old = struct.pack("<HBHHHBBH", 0, 0x75, 0, 17, 4, 29, 0x33, 0) + b"said"
    main = struct.pack("<BHH", 0x73, 2, 13 + len(old)) + bytes(6)
    main = struct.pack("<H", zlib.crc32(main) & 0xFFFF) + main + old  # the sum leaves the comment out
    path = write(tmp_path, MAIN[4][:7] + main + block + entry4(b"a") + END[4])
    assert [entry.name for entry in list_rar(path)] == ["a"]
    (path.parent / "archive.r00").write_bytes(MAIN[4] + entry4(b"b") + END[4])
    path.write_bytes(MAIN[4] + entry4(b"a") + block4(0x7B, 0x4001, b""))
    with pytest.raises(ArchiveError, match="several volumes"):
        list_rar(path)
    assert not (tmp_path / "started").exists()


@needs_a_tool
def test_a_rar_with_a_wrong_byte_is_refused_by_every_tool(tmp_path, count):
    """bsdtar extracts it without a word (3.6.2): the comparison with the headers' sums finds it."""
    for version in (4, 5):
        message = refused(tmp_path, rar(FILES, version).replace(b"videovideo", b"videovidea", 1))
        assert all(f"    {name}: " in message for name in REAL)
        count("damaged archives", 1)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_any_archive_is_noticed_or_harmless(data, tmp_path, count):
    """Bytes flipped, cut or added: extraction fails with its own error or gives exactly the files; never another file."""
    kind = data.draw(st.sampled_from(["zip", "tar", "tar.gz", "rar4", "rar5"]))
    content = bytearray({"rar4": rar(FILES, 4), "rar5": rar(FILES, 5)}.get(kind) or GOOD[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(content) - 1))) % max(1, len(content))
        if data.draw(st.booleans()):
            content[at : at + 1] = data.draw(st.binary(max_size=3))
        else:
            del content[at : at + data.draw(st.integers(1, 5000))]
        content = content or bytearray(b"x")
    path = write(tmp_path, bytes(content))
    count("archives, fuzzed", 1)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    try:
        found = inspect(path)
        if kind.startswith("rar"):
            assert all(isinstance(entry, Entry) for entry in found or ())
            return
        extract(path, tmp_path / "out")
    except ArchiveError as error:
        assert str(path) in str(error)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["outer"]
    else:
        assert sorted(tmp_path.iterdir()) == [tmp_path / "out", tmp_path / "outer"]


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_a_name_that_is_let_through_stays_below_its_folder(name):
    if wrong_name(name) is None:
        joined = os.path.normpath(os.path.join("/base/folder", name))
        assert joined == "/base/folder" or joined.startswith("/base/folder/")


@pytest.mark.counts("hostile archives")
def test_folders_that_nobody_may_enter_become_usable(tmp_path):
    folder, file = tarfile.TarInfo("shut"), tarfile.TarInfo("shut/x")
    folder.type, folder.mode, file.mode = tarfile.DIRTYPE, 0, 0o4000
    extract(write(tmp_path, tar_of([(folder, b""), (file, b"1")])), tmp_path / "out")
    assert (tmp_path / "out/shut").stat().st_mode & 0o700 == 0o700
    assert stat.S_IMODE((tmp_path / "out/shut/x").stat().st_mode) & 0o7100 == 0


EXTRACT = """
import sys, time
from pathlib import Path
from reproduce.acquisition.archives import extract
# slowly, so that it can be caught
sys.addaudithook(lambda event, words: time.sleep(0.01) if event == "open" and "/in/top/" in str(words[0]) else None)
extract(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "rar"])
def test_killed_at_any_moment_the_same_call_extracts_all(kind, tmp_path, monkeypatch, count):
    files = {f"top/{n:04}.avi": os.urandom(20_000) for n in range(400)}
    data = {"zip": lambda: zipped(files), "tar.gz": lambda: tarred(files, "w:gz"), "rar": lambda: rar(files)}[kind]()
    path = write(tmp_path, data)
    if kind == "rar":
        slow = "for n in range(400):\n p = here / f'top/{n:04}.avi'; p.parent.mkdir(exist_ok=True)\n p.touch(); time.sleep(.01)"
        fake_tool(tmp_path / "bin", "bsdtar", slow)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for least in (1, 100):
        process = subprocess.Popen([sys.executable, "-c", EXTRACT, path, tmp_path / "out"], cwd=REPOSITORY)
        wait_for(lambda least=least: len(list(tmp_path.glob("out.*.part/in/top/*"))) >= least, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list(tmp_path.glob("out.*.part")) and not (tmp_path / "out").exists()
        count("SIGKILLs", 1)
    if kind == "rar":
        monkeypatch.undo()
        if not REAL:
            pytest.skip("no tool to end with")
    extract(path, tmp_path / "out")
    assert tree(tmp_path / "out") == files
    extract(path, tmp_path / "again")
    assert not list(tmp_path.glob("again.*"))
