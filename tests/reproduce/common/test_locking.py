"""A lock is held by one process at a time, waited for or refused, and free again however its holder ends."""

import errno
import signal
import subprocess
import sys
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from conftest import PATIENCE, REPOSITORY, unmeasured
from filelock import FileLock

from datamodules.videos import DataError
from reproduce.common import processes
from reproduce.common.processes import one_at_a_time

HOLD = """
import os, signal, sys
from pathlib import Path
from reproduce.common.processes import one_at_a_time
with one_at_a_time(Path(sys.argv[1]), "works"):
    print("held", flush=True)
    word = sys.stdin.readline().strip()
    Path(sys.argv[1] + ".last").touch()
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "fail":
        raise KeyboardInterrupt
"""
OTHERS = ("WORLD_SIZE", "SLURM_NTASKS")  # by which a launcher says how many processes it started


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in OTHERS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def kept(monkeypatch):
    """Every lock that was made: one that nobody refers to any more is free without having been released."""
    found: list[FileLock] = []

    def make(path: Path) -> FileLock:
        found.append(FileLock(path))
        return found[-1]

    monkeypatch.setattr(processes, "FileLock", make)
    return found


class Holder:
    """Another process that holds a lock until it is told a word."""

    def __init__(self, path: Path) -> None:
        self.last = path.with_name(f"{path.name}.last")
        """What it leaves while it still holds the lock, and nothing else is to come."""
        command = [sys.executable, "-c", HOLD, str(path)]
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=unmeasured(),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Its exit status."""
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode


@contextmanager
def held(path: Path):
    holder = Holder(path)
    try:
        yield holder
    finally:
        holder.process.kill()
        holder.process.communicate()


class Screen(StringIO):
    """Tells the holder a word as soon as somebody says that he waits."""

    def __init__(self, holder: Holder, word: str) -> None:
        super().__init__()
        self.holder, self.word, self.told = holder, word, False

    def flush(self) -> None:
        super().flush()
        if "waiting" in self.getvalue() and not self.told:
            self.told = True
            self.holder.tell(self.word)


def free(path: Path, monkeypatch) -> bool:
    """Whether nobody holds a lock: one of several processes is refused it at once otherwise."""
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        try:
            with one_at_a_time(path, "holds it"):
                return True
        except DataError:
            return False


def test_a_lock_that_is_free_is_taken_without_a_word_and_free_again_afterwards(tmp_path, monkeypatch, capsys, kept):
    path = tmp_path / ".lock"
    with one_at_a_time(path, "works on it"):
        assert not free(path, monkeypatch)
    assert free(path, monkeypatch) and capsys.readouterr().out == "" and len(kept) == 3


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_lock_is_free_again_after_work_that_failed_and_the_error_goes_on(tmp_path, monkeypatch, kept, error):
    path = tmp_path / ".lock"
    with pytest.raises(error, match="what went wrong"), one_at_a_time(path, "works on it"):
        raise error("what went wrong")
    assert free(path, monkeypatch) and len(kept) == 2


def test_locks_of_different_work_are_held_together(tmp_path, monkeypatch):
    with one_at_a_time(tmp_path / "a", "works on a"), one_at_a_time(tmp_path / "b", "works on b"):
        assert not free(tmp_path / "a", monkeypatch) and not free(tmp_path / "b", monkeypatch)
    assert free(tmp_path / "a", monkeypatch) and free(tmp_path / "b", monkeypatch)


@pytest.mark.parametrize(("word", "statuses"), [("go on", {0}), ("fail", {130, -signal.SIGINT}), ("die", {-signal.SIGKILL})])
def test_a_lock_that_another_process_holds_is_waited_for_however_that_one_ends(tmp_path, monkeypatch, word, statuses):
    with held(tmp_path / ".lock") as holder:
        screen = Screen(holder, word)
        monkeypatch.setattr(sys, "stdout", screen)
        with one_at_a_time(tmp_path / ".lock", f"gets the films below {tmp_path}"):
            assert holder.last.exists(), "it had the lock until then"
            assert holder.end() in statuses and not free(tmp_path / ".lock", monkeypatch)
        assert screen.getvalue() == f"another process gets the films below {tmp_path}; waiting for it\n"


@pytest.mark.parametrize(("name", "number"), list(zip(OTHERS, ("1", ""), strict=True)))
def test_a_launcher_of_a_single_process_lets_it_wait(tmp_path, monkeypatch, name, number):
    monkeypatch.setenv(name, number)
    with held(tmp_path / ".lock") as holder:
        screen = Screen(holder, "go on")
        monkeypatch.setattr(sys, "stdout", screen)
        with one_at_a_time(tmp_path / ".lock", "works"):
            assert screen.told and holder.last.exists() and holder.end() == 0


def test_the_first_of_several_processes_does_not_wait_and_says_what_to_do(tmp_path, monkeypatch, capsys):
    with held(tmp_path / ".lock") as holder:
        for name, number in zip(OTHERS, ("2", "16"), strict=True):
            entered = False
            with monkeypatch.context() as patch:
                patch.setenv(name, number)
                with pytest.raises(DataError) as error, one_at_a_time(tmp_path / ".lock", f"works on {tmp_path}/run"):
                    entered = True
            said = f"another process works on {tmp_path}/run; run this again when it has finished"
            assert str(error.value) == said and not entered
        holder.tell("go on")
        assert holder.end() == 0
    assert capsys.readouterr().out == "" and free(tmp_path / ".lock", monkeypatch)


def test_the_file_of_a_lock_that_nobody_holds_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / ".lock").write_text("left by a process that was killed")
    assert free(tmp_path / ".lock", monkeypatch)


@pytest.mark.counts("disks without locks")
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOLCK, "No locks available"), OSError(errno.ENOSYS, "Function not implemented"), NotImplementedError()],
)
def test_a_disk_without_locks_is_said_and_still_one_works_at_a_time(tmp_path, monkeypatch, capsys, error):
    class Lockless(FileLock):
        def _acquire(self):
            raise error

    monkeypatch.setattr(processes, "FileLock", Lockless)
    path = tmp_path / ".lock"
    with one_at_a_time(path, "works on it"):
        said = capsys.readouterr().out
        assert "keeps no locks" in said and str(tmp_path.resolve()) in said and ".lock.held" in said
        assert not free(path, monkeypatch)
    assert free(path, monkeypatch) and not (tmp_path / ".lock.held").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_other_errors_of_a_lock_go_on(tmp_path, monkeypatch, number):
    class Failing(FileLock):
        def _acquire(self):
            raise OSError(number, "of the disk")

    monkeypatch.setattr(processes, "FileLock", Failing)
    with pytest.raises(OSError, match="of the disk"), one_at_a_time(tmp_path / ".lock", "works on it"):
        raise AssertionError("locked")
