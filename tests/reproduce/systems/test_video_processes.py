"""Work on videos by one process and by several: equal stores, bad videos, lost processes, signals, errors, and shares."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from commands import processes
from conftest import PATIENCE, REPOSITORY, wait_for
from drawn import draw
from hypothesis import given
from hypothesis import strategies as st
from runfolders import Names

from datamodules.decoding import VideoError
from datamodules.manifest import ArraySpec, StoreSpec
from datamodules.stores import Store
from datamodules.videos import DataError
from reproduce.common.processes import leaving_on_sigterm
from reproduce.common.settings import SettingsError
from reproduce.systems.video_processes import ONE_THREAD, LostWorker, Share, estimated_frames, fill, parse_share

SPEC = StoreSpec("descriptors", (ArraySpec("descriptors", "<f4", (3,)), ArraySpec("positions", "<f4", (2,))), {})
SIZES = {f"class{number % 2}/clip{number}.avi": 100 + 7 * number % 5 for number in range(9)}
NAMES = sorted(SIZES)


def arrays_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """As many rows as the name says, 0 of the first."""
    rows, random = int(re.sub(r"\D", "", name.partition("/")[2])), np.random.default_rng(list(name.encode()))
    return random.normal(size=(rows, 3)).astype(np.float32), random.normal(size=(rows, 2)).astype(np.float32)


@dataclass(frozen=True)
class Work:
    """Gives a video's rows one at a time; of one video it does something else first.

    Args:
        odd: that video.
        what: ``refuse`` to decode it, ``raise`` an error, ``die`` once, or, whatever the video, ``wait`` without end.
        error: that is raised.
        folder: where it notes what it has done.
    """

    odd: str = ""
    what: str = ""
    error: Exception | None = None
    folder: Path = Path()

    def __call__(self, name: str):
        one, two = arrays_of(name)
        for row in range(len(one)):
            yield one[row : row + 1], two[row : row + 1]
        if self.what == "wait":
            (self.folder / f"{os.getpid()}.pid").touch()
            time.sleep(10_000)
        if name == self.odd and self.what == "refuse":
            raise VideoError(f"{name} breaks off")
        if name == self.odd and self.error:
            raise self.error
        if name == self.odd and self.what == "die" and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"threads": os.environ.get("OMP_NUM_THREADS")}


def begun(path: Path) -> Store:
    path.mkdir(parents=True)
    store = Store(path)
    store.begin(SPEC, {})
    return store


def holds(store: Store, names) -> bool:
    return all(
        np.array_equal(store.read(name, array.name), values)
        for name in names
        for array, values in zip(SPEC.arrays, arrays_of(name), strict=True)
    )


def test_one_process_and_three_write_the_same_store(tmp_path):
    for number in (1, 3):
        store = begun(tmp_path / str(number))
        fill(store, SIZES, Work(), number, "working", rank=40)
        journals = sorted(path.name for path in store.path.glob("journal-*"))
        assert journals == [f"journal-{40 + worker}.jsonl" for worker in range(number)]
        store.merge()
    one, three = (Store(tmp_path / number) for number in "13")
    assert sorted(one.videos) == NAMES and not one.bad and not three.bad and holds(one, NAMES) and holds(three, NAMES)
    facts = [{name: {**entry, "threads": None} for name, entry in store.videos.items()} for store in (one, three)]
    assert facts[0] == facts[1] and one.rows("class0/clip0.avi") == 0
    assert not list(tmp_path.rglob("*.part")) and not three.damaged(NAMES)


def test_processes_compute_with_one_thread_each_and_this_one_goes_on_as_before(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    for name in [name for name in ONE_THREAD if name != "OMP_NUM_THREADS"]:
        monkeypatch.delenv(name, raising=False)
    before, store = dict(os.environ), begun(tmp_path / "store")
    fill(store, SIZES, Work(), 2, "working")
    assert {entry["threads"] for entry in Store(store.path).videos.values()} == {"1"} and dict(os.environ) == before


@pytest.mark.parametrize("number", [1, 3])
def test_a_video_that_does_not_decode_is_entered_as_bad_and_the_work_goes_on(tmp_path, number, capsys, count):
    store, odd = begun(tmp_path / "store"), NAMES[4]
    fill(store, SIZES, Work(odd, "refuse"), number, "working")
    found = Store(store.path)
    assert found.bad == {odd: f"{odd} breaks off"} and sorted([*found.videos, odd]) == NAMES and not found.missing(NAMES)
    assert holds(found, found.videos) and not list(tmp_path.rglob("*.part")) and not found.file(odd).exists()
    assert "working: 100%, 9 videos" in capsys.readouterr().out
    count("bad videos", 1)


@pytest.mark.counts("SIGKILLs")
def test_a_lost_process_names_its_video_and_the_same_call_goes_on(tmp_path):
    store, odd = begun(tmp_path / "store"), NAMES[4]
    task = Work(odd, "die", folder=tmp_path)
    with pytest.raises(LostWorker, match=rf"worked on {odd} died \(exit status -9\)(?s:.*)run the same command again"):
        fill(store, SIZES, task, 3, "working")
    found = Store(store.path)
    written = {name: found.file(name).stat().st_mtime_ns for name in found.videos}
    assert odd not in written and odd not in found.bad and holds(found, written)
    fill(found, {name: SIZES[name] for name in found.missing(NAMES)}, task, 3, "working")
    found.merge()
    assert sorted(found.videos) == NAMES and holds(found, NAMES) and not found.damaged(NAMES)
    assert {name: found.file(name).stat().st_mtime_ns for name in written} == written


ERRORS = [
    (ValueError("no cell 7"), RuntimeError, "ValueError: no cell 7"),
    (DataError("libraries are missing"), DataError, "libraries are missing"),
    (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left on device"),
    (MemoryError("of 5 GB"), RuntimeError, "MemoryError: of 5 GB"),
]


@pytest.mark.counts("errors in processes")
@pytest.mark.parametrize(("error", "kind", "says"), ERRORS, ids=[type(error).__name__ for error, *_ in ERRORS])
def test_an_error_arrives_with_its_text_and_ends_the_other_processes(tmp_path, error, kind, says):
    store = begun(tmp_path / "store")
    with pytest.raises(kind, match=says) as raised:
        fill(store, SIZES, Work(NAMES[0], error=error), 2, "working")
    assert getattr(raised.value, "errno", None) == getattr(error, "errno", None) and not isinstance(raised.value, LostWorker)
    started = [line for parent, _, line in processes().values() if parent == os.getpid()]
    assert not [line for line in started if any("spawn_main" in word for word in line)]
    with pytest.raises(type(error), match=str(error).rpartition("] ")[2]):
        fill(store, SIZES, Work(NAMES[0], error=error), 1, "working")
    assert NAMES[0] in Store(store.path).missing(NAMES)


# the first process ends


def wait_without_end(folder: str) -> None:
    """What a process of its own does in the next test."""
    with leaving_on_sigterm():
        fill(begun(Path(folder) / "store"), SIZES, Work(what="wait", folder=Path(folder)), 2, "working")


def waiting(folder: Path) -> tuple[subprocess.Popen, list[int]]:
    """Such a process, whose two workers are at work, and these."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # which a shell's background jobs ignore
    code += f"from test_video_processes import wait_without_end; wait_without_end({str(folder)!r})"
    paths = [REPOSITORY, Path(__file__).parent, REPOSITORY / "tests", REPOSITORY / "tests/support"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    with (folder / "output.txt").open("w") as log:
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    wait_for(lambda: len(list(folder.glob("*.pid"))) == 2, process, folder / "output.txt")
    return process, [int(path.stem) for path in folder.glob("*.pid")]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_the_processes_end_with_the_first_one(tmp_path, number, count):
    process, workers = waiting(tmp_path)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)  # Ctrl-C comes to all of them
    status = process.wait(PATIENCE)
    assert status == (128 + number if number == signal.SIGTERM else -number)
    deadline = time.monotonic() + PATIENCE
    while left := set(workers) & set(processes()):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
    output = (tmp_path / "output.txt").read_text()
    assert "LostWorker" not in output and (number == signal.SIGINT or "Traceback" not in output), output
    count(f"{number.name}s", 1)


@pytest.mark.counts("SIGTERMs")
def test_sigterm_to_the_workers_before_the_first_one_blames_no_video(tmp_path):
    """As a scheduler may send it: to one process after another."""
    process, workers = waiting(tmp_path)
    for worker in workers:
        os.kill(worker, signal.SIGTERM)
    wait_for(lambda: len(set(workers) & set(processes())) < 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    assert not re.search(r"died|Traceback|\.avi", (tmp_path / "output.txt").read_text())


# shares


@given(st.sets(st.text(min_size=1, max_size=3), max_size=40), st.integers(1, 12))
def test_shares_part_the_videos_evenly_whatever_their_order(names, count):
    parts = [Share(number, count).of(list(names)) for number in range(1, count + 1)]
    assert sorted(sum(parts, [])) == sorted(names)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts == [Share(number, count).of(sorted(names, reverse=True)) for number in range(1, count + 1)]


def test_no_two_shares_have_a_journal_in_common():
    """Each may take as many processes as the setting allows."""
    ranks = [set(range(share.rank, share.rank + 1024)) for share in (Share(number, 5) for number in range(1, 6))]
    assert len(set.union(*ranks)) == 5 * 1024


@pytest.mark.parametrize("text", ["1/1", "3/16", "16/16", "0003/0016"])
def test_a_share_is_read(text):
    number, count = map(int, text.split("/"))
    assert parse_share(text) == Share(number, count)


@pytest.mark.counts("bad settings")
@pytest.mark.parametrize(
    "text", ["", "3", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "1/ 3", "1/3\n", "a/b", "1.0/3", "\u0661/\u0663", "1/12345"]
)
def test_what_is_no_share_is_refused_with_one_that_is(text):
    with pytest.raises(SettingsError, match=re.escape(f"part={text}: ") + "(?s:.*)such as 3/16"):
        parse_share(text)


def test_frames_are_estimated_from_headers(tmp_path):
    for number, frames in enumerate((4, 6, 6, 8)):
        draw(tmp_path / f"{number}.avi", frames=frames)
    (tmp_path / "broken.avi").write_bytes(b"no video")
    annotation = Names("clips", "", tmp_path, tmp_path, ("a",), False, (), (), (), False)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert estimated_frames(annotation, names) == 5 * 6
    assert estimated_frames(annotation, ["broken.avi"]) is None
