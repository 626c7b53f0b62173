"""One file from several addresses: broken, lying, slow and changing servers; full disks; kills."""

import errno
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, wait_for
from hosting import Served, ftp_host, http_host

from datamodules.videos import DataError
from reproduce.acquisition import download
from reproduce.acquisition.archives import ArchiveError, kind_of
from reproduce.acquisition.download import OVERLAP, DownloadError, Patience

DATA = b"PK\x03\x04" + np.random.default_rng(0).bytes(500_000)
CALM = Patience(timeout=60, attempts=3, pause=0.01)  # a busy machine is no fault of the server
QUICK = Patience(timeout=0.5, attempts=3, pause=0.01, least_rate=200.0, slow_seconds=0.3)


@pytest.fixture
def host(count):
    with http_host() as host:
        yield host
    count("faults of servers", host.injected)


def fetch(urls, folder: Path, **options) -> tuple[bytes, str]:
    """Download with the checks that a data set's archive gets: its beginning, and (has_hash) its hash."""

    def check(part: Path) -> None:
        if part.read_bytes() != DATA:
            raise DataError("wrong hash")

    target = folder / "file.zip"
    words = [urls] if isinstance(urls, str) else urls
    options = {"check": check, "room": lambda to_come, total: None, "patience": CALM, **options}
    address = download.download(words, target, kind_of, **options)
    assert not list(folder.glob("*.part*")), "nothing is left beside the file"
    return target.read_bytes(), address


def patience_with(faults: tuple[str, ...]) -> Patience:
    return QUICK if {"stall", "trickle"} & set(faults) else CALM


FAULTS = {
    "none": (),
    "dropped once": ("drop:200000",),
    "dropped at the first byte": ("drop:0",),
    "dropped before an archive can be told": ("drop:100",),
    "dropped again and again": tuple(f"drop:{OVERLAP + 40_000}" for _ in range(10)),
    "busy": ("status:503", "status:429", "drop:300000", "status:500"),
    "no answer in time": ("stall",),
    "stalls after a drop": ("drop:200000", "stall"),
    "slower than it is worth": ("trickle",),
    "claims more than it has": ("longer",),
    "claims more after a drop": ("drop:100000", "longer"),
    "a range that was not asked for": ("drop:200000", "elsewhere"),
    "moved": ("redirect:other",),
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_the_file_comes_whole_in_spite_of(faults, host, tmp_path):
    host.put("other", DATA)
    url = host.put("file.zip", DATA, *faults)
    assert fetch(url, tmp_path, patience=patience_with(faults)) == (DATA, url)
    assert host.injected == len(faults)


def test_a_broken_transfer_goes_on_where_it_stopped(host, tmp_path):
    url = host.put("file.zip", DATA, "drop:400000")
    fetch(url, tmp_path)
    file = host.files["file.zip"]
    assert file.asked == [None, f"bytes={400_000 - OVERLAP}-"]
    assert file.sent == len(DATA) + OVERLAP, "only the last bytes come twice"


@pytest.mark.parametrize(("ranges", "tag", "length"), [(False, True, True), (True, False, True), (True, True, False)])
def test_servers_that_know_little_serve_all_the_same(host, tmp_path, ranges, tag, length):
    faults = ("drop:300000",) if length else ()  # who does not say how long a file is cannot break off
    url = host.put("file.zip", DATA, *faults, ranges=ranges, tag=tag, length=length)
    assert fetch(url, tmp_path)[0] == DATA


@pytest.mark.counts("files that change on a server")
@pytest.mark.parametrize("tag", [True, False], ids=["the server knows", "only the bytes tell"])
def test_a_file_that_changes_between_two_attempts_is_never_mixed(host, tmp_path, tag):
    before = b"PK\x03\x04" + bytes(len(DATA) - 4)
    url = host.put("file.zip", before, "drop:300000", tag=tag)
    with pytest.raises(DownloadError):
        fetch(url, tmp_path, patience=replace(CALM, attempts=1), check=lambda part: None, room=no_room_once())
    assert (tmp_path / "file.zip.part").stat().st_size == 300_000
    host.files["file.zip"].data = DATA
    assert fetch(url, tmp_path) == (DATA, url)
    assert host.files["file.zip"].asked[-1] == (f"bytes={300_000 - OVERLAP}-" if tag else None), "all of it again"


def no_room_once():
    """Ends a download at its second request, as a kill would."""
    calls = []

    def room(to_come: int, total: int) -> None:
        calls.append(to_come)
        if len(calls) == 2:
            raise DataError("no room")

    return room


@pytest.mark.counts("files that change on a server")
def test_a_file_that_has_grown_shorter_is_begun_again(host, tmp_path):
    long = DATA + bytes(200_000)
    url = host.put("file.zip", long, "drop:690000")
    with pytest.raises(DownloadError):
        fetch(url, tmp_path, check=lambda part: None, room=no_room_once())
    host.files["file.zip"].data = DATA
    assert fetch(url, tmp_path) == (DATA, url)


BAD_FIRST = {
    "not found": ("status:404",),
    "gone": ("status:410",),
    "forbidden": ("status:403",),
    "a web page": ("page",),
    "a web page after a drop": ("drop:50", "page"),
    "always busy": ("status:503",) * 9,
    "never answers": ("stall",) * 9,
    "always slow": ("trickle",) * 9,
    "claims less than it has": ("shorter",),
    "claims more, always": ("longer",) * 9,
    "garbled": ("garble",),
    "another file": ("change",) * 2,
}


@pytest.mark.parametrize("faults", BAD_FIRST.values(), ids=BAD_FIRST)
def test_the_next_address_serves_where_the_first_does_not(faults, host, tmp_path, capsys):
    bad = host.put("bad.zip", DATA if faults[0] != "longer" else DATA[:-1000], *faults)
    good = host.put("good.zip", DATA)
    assert fetch([bad, good], tmp_path, patience=patience_with(faults)) == (DATA, good)
    assert f"note: {bad}: " in capsys.readouterr().out


@pytest.mark.counts("addresses that do not serve")
@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "data:text/plain,PK",
        "nonsense",
        "http://[",
        "http://127.0.0.1:1/x",
        "ftp://127.0.0.1:1/x",
        "http://",
    ],
)
def test_what_is_no_address_or_unreachable_is_passed_over(address, host, tmp_path):
    good = host.put("good.zip", DATA)
    assert fetch([address, good], tmp_path) == (DATA, good)


@pytest.mark.counts("addresses that do not serve")
def test_where_no_address_serves_each_is_named_with_its_reason(host, tmp_path):
    page, gone = host.put("page.zip", DATA, "page"), host.url + "/gone.zip"
    with pytest.raises(DownloadError) as error:
        fetch([page, gone], tmp_path)
    assert f"{page}: a web page instead of an archive" in str(error.value) and f"{gone}: HTTP 404" in str(error.value)
    assert not (tmp_path / "file.zip").exists()


def test_a_page_does_not_overwrite_what_has_come_from_elsewhere(host, tmp_path):
    first = host.put("first.zip", DATA, "drop:300000", *["status:500"] * 9)
    page = host.put("page.zip", DATA, "page")
    with pytest.raises(DownloadError):
        fetch([first, page], tmp_path)
    assert (tmp_path / "file.zip.part").read_bytes() == DATA[:300_000]
    host.files["first.zip"].faults.clear()
    assert fetch([first, page], tmp_path) == (DATA, first)
    assert host.files["first.zip"].asked[-1] == f"bytes={300_000 - OVERLAP}-"


def test_a_published_hash_lets_one_mirror_complete_what_another_began(host, tmp_path):
    first = host.put("first.zip", DATA, "drop:300000", *["status:500"] * 9)
    second = host.put("second.zip", DATA)
    assert fetch([first, second], tmp_path, has_hash=True) == (DATA, second)
    assert host.files["second.zip"].asked == [f"bytes={300_000 - OVERLAP}-"]
    assert fetch([second], tmp_path)[0] == DATA


def test_without_one_bytes_of_two_mirrors_are_never_mixed(host, tmp_path):
    first = host.put("first.zip", DATA, "drop:300000", *["status:500"] * 9)
    second = host.put("second.zip", DATA)
    assert fetch([first, second], tmp_path) == (DATA, second)
    assert host.files["second.zip"].asked == [None]


@pytest.mark.counts("damaged archives")
def test_a_part_that_was_damaged_on_disk_is_fetched_again(host, tmp_path):
    """Bytes that no comparison of the last ones finds: the hash does."""
    url = host.put("file.zip", DATA, "drop:300000")
    with pytest.raises(DownloadError):
        fetch(url, tmp_path, room=no_room_once())
    part = tmp_path / "file.zip.part"
    content = bytearray(part.read_bytes())
    content[1000] ^= 1
    part.write_bytes(content)
    assert fetch(url, tmp_path) == (DATA, url)


@pytest.mark.counts("damaged archives")
def test_a_wrong_hash_leaves_nothing_behind(host, tmp_path):
    url = host.put("file.zip", DATA[:-1] + b"x")
    with pytest.raises(DownloadError, match="wrong hash"):
        fetch(url, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.counts("full disks")
def test_a_full_disk_keeps_what_has_come(host, tmp_path, monkeypatch):
    url = host.put("file.zip", DATA)
    written = []

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            if sum(written) + len(data) > 200_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(len(data))
            return self.file.write(data)

    monkeypatch.setattr(download, "CHUNK", 50_000)
    whole = download._Transfer._write
    monkeypatch.setattr(download._Transfer, "_write", lambda self, file, data, at: whole(self, Full(file), data, at))
    with pytest.raises(DownloadError, match="No space left.*make room"):
        fetch(url, tmp_path)
    kept = sum(written)
    assert 0 < kept <= 200_000 and (tmp_path / "file.zip.part").read_bytes() == DATA[:kept]
    monkeypatch.undo()
    fetch(url, tmp_path)
    assert host.files["file.zip"].asked[-1] in (f"bytes={kept - OVERLAP}-", None)


@pytest.mark.counts("full disks")
def test_room_is_asked_for_before_a_byte_is_written(host, tmp_path):
    url = host.put("file.zip", DATA)

    def room(to_come: int, total: int) -> None:
        assert (to_come, total) == (len(DATA), len(DATA)) and not (tmp_path / "file.zip.part").exists()
        raise DataError("too little disk space")

    with pytest.raises(DownloadError, match="too little disk space"):
        fetch(url, tmp_path, room=room)
    assert not list(tmp_path.iterdir())


FTP = {"none": (), "drop": ("drop:200000",), "busy": ("status:421",), "drop, drop": ("drop:150000", "drop:150000")}


@pytest.mark.parametrize("rest", [True, False], ids=["REST", "no REST"])
@pytest.mark.parametrize("faults", FTP.values(), ids=FTP)
def test_ftp_serves_and_resumes(faults, rest, tmp_path, count):
    file = Served(DATA, list(faults), ranges=rest)
    with ftp_host({"pub/file.zip": file}) as address:
        assert fetch(f"{address}/pub/file.zip", tmp_path)[0] == DATA
    count("faults of servers", len(faults) - len(file.faults))
    if faults == FTP["drop"] and rest:
        assert file.asked == ["0", str(200_000 - OVERLAP)]


@pytest.mark.counts("addresses that do not serve")
def test_ftp_without_the_file_gives_way_to_the_next_address(host, tmp_path):
    good = host.put("good.zip", DATA)
    with ftp_host({}) as address:
        assert fetch([f"{address}/file.zip", good], tmp_path) == (DATA, good)


FETCH = """
import sys
from pathlib import Path
from reproduce.acquisition.archives import kind_of
from reproduce.acquisition.download import download
download([sys.argv[1]], Path(sys.argv[2]), kind_of, lambda part: None, lambda to_come, total: None)
"""


def test_killed_at_any_moment_the_same_command_goes_on(host, tmp_path, count):
    data = b"PK\x03\x04" + np.random.default_rng(1).bytes(8_000_000)
    url = host.put("file.zip", data)
    part, sizes = tmp_path / "file.zip.part", []
    for least in (1, 2_000_000, 5_000_000):
        host.files["file.zip"].faults[:] = [f"drop:{least + OVERLAP}", *["stall"] * 50]  # so that it can be caught
        command = [sys.executable, "-c", FETCH, url, str(tmp_path / "file.zip")]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        wait_for(lambda least=least: part.exists() and part.stat().st_size >= least, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        sizes.append(part.stat().st_size)
    assert 0 < sizes[0] < sizes[1] < sizes[2] < len(data)
    host.files["file.zip"].faults.clear()
    assert fetch(url, tmp_path, check=lambda part: None)[0] == data
    asked = host.files["file.zip"].asked
    assert asked[0] is None and asked[-1] == f"bytes={sizes[2] - OVERLAP}-"
    count("SIGKILLs", len(sizes))


@pytest.mark.counts("damaged archives")
@pytest.mark.parametrize(
    "head", [b"", b"  <!DOCTYPE html>", b"\xef\xbb\xbf<html>", b"<?xml version", b"7z\xbc\xaf'\x1c", b"GIF89a", bytes(512)]
)
def test_what_is_no_archive_is_told_by_its_first_bytes(head):
    with pytest.raises(ArchiveError, match="archive"):
        kind_of(head)
