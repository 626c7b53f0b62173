"""``prepare.py`` from an archive to features, as a user runs it: a local server, faults, kills, deletion."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE, REPOSITORY, SMALL_BACKBONE, wait_for
from hosting import http_host
from packing import mark, tarred, ucf11_files, ucf11_names, zipped
from rar import rar

from datamodules import ucf11
from datamodules.features import FeatureStore
from datamodules.miniature import Clip, _write
from datamodules.stored_videos import usable
from datamodules.videos import DataError
from reproduce.acquisition.ledger import delete
from reproduce.acquisition.rar import COMMANDS
from reproduce.common.dataset import require_videos
from reproduce.prepare import main as prepare_main

SMALL = ["data.name=ucf11", *SMALL_BACKBONE]
STORE = "features/ucf11/mobilenet_v3_small-random"


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, bytes]:
    """22 drawn clips of 11 classes."""
    root, found = tmp_path_factory.mktemp("drawn"), {}
    for number, name in enumerate(ucf11_names()):
        _write(root, Clip(name, name, (number // 2,), name, "mpeg1video", Fraction(30000, 1001)))
        found[name] = (root / name).read_bytes()
    return found


@pytest.fixture(scope="module")
def packed(videos) -> dict[str, bytes]:
    files = ucf11_files(videos)
    return {"zip": zipped(files), "tar.gz": tarred(files, "w:gz"), "rar": rar(files)}


@pytest.fixture
def host(count):
    with http_host() as host:
        yield host
    count("faults of servers", host.injected)


def folder(tmp_path: Path) -> Path:
    return mark(tmp_path / "data/ucf11", "ucf11")


def prepare(*words: str) -> str:
    """``prepare.py`` in this process, which has torch already; returns what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
        prepare_main([*SMALL, *words])
    return printed.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "rar"])
def test_from_a_server_that_fails_to_features(kind, host, packed, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if kind == "rar" and not any(map(shutil.which, COMMANDS)):
        pytest.skip("no tool reads RAR here")
    root, size = folder(tmp_path), len(packed[kind])
    page = host.put("page/UCF11_updated_mpg.rar", packed[kind], "page")
    good = host.put("UCF11_updated_mpg.rar", packed[kind], f"drop:{size // 3}", "status:503", f"drop:{size // 2}")
    words = ["download=true", f"mirrors=[{host.url}/gone/,{page},{good}]"]
    printed = prepare(*words)
    assert "22 videos" in printed and "HTTP 404" in printed and "a web page instead" in printed
    store = FeatureStore(tmp_path / STORE)
    assert set(store.videos) == set(videos) and not store.bad and not store.damaged(videos)
    assert {name: (root / "UCF11_updated_mpg" / name).read_bytes() for name in videos} == videos
    asked = [len(file.asked) for file in host.files.values()]
    assert asked == [1, 4] and host.injected == 4
    assert "already" in prepare(*words) and [len(file.asked) for file in host.files.values()] == asked


@pytest.fixture(scope="module")
def prepared(packed, tmp_path_factory) -> Path:
    """A folder in which a placed archive has become features."""
    home = tmp_path_factory.mktemp("prepared")
    root = folder(home)
    (root / "UCF11_updated_mpg.zip").write_bytes(packed["zip"])
    prepare("download=true", f"paths.data={home}/data", f"paths.features={home}/features")
    return home


@pytest.mark.slow
def test_killed_in_download_extraction_and_decoding_the_same_command_goes_on(
    host, packed, prepared, tmp_path, monkeypatch, count
):
    root = folder(tmp_path)
    url = host.put("UCF11_updated_mpg.rar", packed["zip"], "drop:90000", "stall", "stall", "drop:90000", *["stall"] * 20)
    command = [sys.executable, str(REPOSITORY / "reproduce/prepare.py"), *SMALL, "download=true", f"mirrors=[{url}]"]

    def kill_when(happened) -> None:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
        wait_for(happened, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        count("SIGKILLs", 1)

    part = root / "UCF11_updated_mpg.rar.part"
    kill_when(lambda: part.exists() and part.stat().st_size >= 80_000)
    host.files["UCF11_updated_mpg.rar"].faults.clear()
    kill_when(lambda: list(root.glob(".*.part/*.part/in/*/*")) or (root / "UCF11_updated_mpg").exists())
    journal = tmp_path / STORE / "journal-0.jsonl"
    kill_when(lambda: journal.exists() and journal.stat().st_size > 0)
    monkeypatch.chdir(tmp_path)
    prepare("download=true", f"mirrors=[{url}]")
    asked = host.files["UCF11_updated_mpg.rar"].asked
    assert asked[0] is None and asked[-1] is not None and asked[-1].startswith("bytes=")
    one, two = FeatureStore(tmp_path / STORE), FeatureStore(prepared / STORE)
    assert set(one.videos) == set(two.videos)
    for name in one.videos:
        here, there = (np.asarray(store.read(name), dtype=np.float32) for store in (one, two))
        assert np.abs(here - there).max() <= 0.02 * np.abs(there).max()  # other frames beside them round otherwise


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.counts("SIGTERMs")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends orphans")
def test_sigterm_ends_the_tool_too_and_leaves_what_the_next_call_needs(packed, tmp_path):
    root = folder(tmp_path)
    (root / "UCF11_updated_mpg.rar").write_bytes(packed["rar"])
    tool = tmp_path / "bin/bsdtar"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(REPOSITORY / "reproduce/prepare.py"), *SMALL, "download=true"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), process)
    process.terminate()
    assert process.wait(PATIENCE) == 143
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + PATIENCE
    while is_alive(pid):  # the system tells it that its parent has gone
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not list(root.rglob("in")) and (root / "UCF11_updated_mpg.rar").exists()


@pytest.mark.slow
def test_two_commands_at_once_end_in_one_data_set(host, packed, videos, tmp_path):
    root = folder(tmp_path)
    url = host.put("UCF11_updated_mpg.rar", packed["zip"], "drop:1000", "status:503", "status:503")
    command = [sys.executable, str(REPOSITORY / "reproduce/prepare.py"), *SMALL, "download=true", f"mirrors=[{url}]"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, cwd=tmp_path, **pipes) for _ in range(2)]
    ends = [(process.communicate(timeout=PATIENCE), process.returncode) for process in both]
    assert [status for _, status in ends] == [0, 0], ends
    assert len(host.files["UCF11_updated_mpg.rar"].asked) == 4, "three faults, and one whole transfer"
    assert set(FeatureStore(tmp_path / STORE).videos) == set(videos) and not list(root.rglob("*.part"))


# deletion


def copy(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "copy")
    return tmp_path / "copy"


def test_archives_and_videos_are_deleted_and_the_data_set_still_counts(prepared, tmp_path, monkeypatch, capsys):
    home = copy(prepared, tmp_path)
    monkeypatch.chdir(home)
    root = home / "data/ucf11"
    before = ucf11.read(root)
    fingerprint, sizes = before.fingerprint(), {v.name: before.path(v).stat().st_size for v in before.videos}
    prepare("download=true", "delete=archives")
    assert not (root / "UCF11_updated_mpg.zip").exists() and len(list(root.rglob("*.mpg"))) == 22
    assert "are free again" in prepare("download=true", "delete=videos") and not list(root.rglob("*.mpg"))
    kept = json.loads((root / "removed.json").read_text())["videos"]
    assert {name: entry["bytes"] for name, entry in kept.items()} == sizes
    after = ucf11.read(root)
    assert after.fingerprint() == fingerprint and usable(after, FeatureStore(home / STORE), skip_bad=False) is after
    assert "already" in prepare("download=true", "delete=videos")
    assert json.loads((root / "removed.json").read_text())["videos"] == kept
    capsys.readouterr()
    with pytest.raises(SystemExit):
        prepare_main([*SMALL, "paths.features=other"])
    refusal = capsys.readouterr().err
    assert "22 videos without features were deleted by delete=videos" in refusal and str(root / "removed.json") in refusal


@pytest.mark.counts("damaged features")
def test_nothing_is_deleted_where_features_are_missing_or_damaged(prepared, tmp_path):
    home = copy(prepared, tmp_path)
    root = home / "data/ucf11"
    annotation, store = ucf11.read(root), FeatureStore(home / STORE)
    files = sorted(root.rglob("*"))
    name = annotation.videos[3].name
    content = bytearray(store.file(name).read_bytes())
    content[-100] ^= 1
    store.file(name).write_bytes(content)
    for what in ("archives", "videos"):
        with pytest.raises(DataError, match="nothing was deleted"):
            delete(what, annotation, [store], [root / "UCF11_updated_mpg.zip"])
    store.file(name).unlink()
    with pytest.raises(DataError, match="1 videos have no features yet"):
        delete("videos", annotation, [store], [root / "UCF11_updated_mpg.zip"])
    assert sorted(root.rglob("*")) == files
    assert delete("none", annotation, [store], [root / "UCF11_updated_mpg.zip"]) == 0 and sorted(root.rglob("*")) == files


@pytest.mark.counts("interruptions")
def test_a_deletion_that_was_interrupted_goes_on(prepared, tmp_path, monkeypatch):
    home = copy(prepared, tmp_path)
    root = home / "data/ucf11"
    fingerprint, unlink, count = ucf11.read(root).fingerprint(), Path.unlink, []

    def interrupted(path, *words, **options):
        if path.suffix == ".mpg":
            count.append(path)
            if len(count) == 10:
                raise KeyboardInterrupt
        unlink(path, *words, **options)

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        delete("videos", ucf11.read(root), [FeatureStore(home / STORE)], [])
    assert len(list(root.rglob("*.mpg"))) == 22 - 9
    assert ucf11.read(root).fingerprint() == fingerprint
    delete("videos", ucf11.read(root), [FeatureStore(home / STORE)], [])
    assert not list(root.rglob("*.mpg")) and ucf11.read(root).fingerprint() == fingerprint
    with pytest.raises(DataError, match="1 videos without features were deleted"):
        require_videos(ucf11.read(root), [ucf11.read(root).videos[0].name])


def test_a_damaged_list_of_deleted_videos_is_no_excuse_for_missing_ones(prepared, tmp_path, count):
    root = copy(prepared, tmp_path) / "data/ucf11"
    for text in ("{", "[]", '{"videos": {"x": 1}}', '{"videos": {"x": {"bytes": "many", "sha256": ""}}}'):
        (root / "removed.json").write_text(text)
        with pytest.raises(DataError, match=r"removed\.json"):
            ucf11.read(root)
        count("damaged lists", 1)


# refusals


@pytest.mark.counts("settings that cannot be")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data.name=videofolder", "data.folder=x", "download=true"], "a videofolder is your own"),
        (["data.name=videofolder", "data.folder=x", "delete=videos"], "a videofolder is your own"),
        (["preset=miniature", "data.name=ucf11", "download=true"], "preset=miniature draws its own data"),
        (["data.name=ucf11", "mirrors=[http://127.0.0.1/]"], "mirrors goes with download=true"),
        (["data.name=ucf11", "delete=everything"], "choose from none, archives, videos"),
        (["data.name=ucf11", "archive=nowhere.rar"], "there is no such file"),
        (["data.name=ucf11"], "download=true gets it"),
    ],
)
def test_what_cannot_be_is_refused_in_a_few_lines_and_without_torch(words, says, tmp_path):
    code = (
        "import sys\nfrom reproduce import prepare\n"
        f"try: prepare.main({words!r})\nexcept SystemExit as stop: print('status', stop.code)\n"
        "print('heavy', sorted({'torch', 'lightning'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert says in result.stderr and "Traceback" not in result.stderr
    assert "status 1" in result.stdout and "heavy []" in result.stdout
