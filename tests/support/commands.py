"""Entry scripts as tests start, watch and kill them."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY, TINY, wait_for


def words(clips, *more):
    return [*TINY, f"paths.data={clips}", *more]


def kill_when(condition, name, *arguments, cwd: Path) -> None:
    """Start a script, and kill its process group with SIGKILL as soon as a condition holds."""
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "reproduce" / name), *arguments],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(condition, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def untested_copy(trained: Path, folder: Path) -> Path:
    """A finished run as it was before its test, in a folder of its own; returns the run's."""
    shutil.copytree(trained / "runs", folder / "runs")
    shutil.copytree(trained / "features", folder / "features")
    run = folder / (trained / "run").resolve().relative_to(trained.resolve())
    for name in ("metrics.json", "predictions.csv"):
        (run / name).unlink()
    return run


MPI_FREE = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RANK", "WORLD_SIZE"))}
STORE = "features/miniature/clips/mobilenet_v3_small-random"


def start(name: str, *arguments: str, cwd: Path, before: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
    """A script in a process group of its own, its output in ``output.txt``."""
    command = [sys.executable, *before, str(REPOSITORY / "reproduce" / name), *arguments]
    with (cwd / "output.txt").open("ab") as log:
        return subprocess.Popen(
            command, cwd=cwd, stdout=log, stderr=log, start_new_session=True, env={**MPI_FREE, **environment}
        )


def processes() -> dict[int, tuple[int, int, list[str]]]:
    """(parent, group, command line) of every living process, by its id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes().decode().split("\0")
            parent, group = (path / "stat").read_text().rpartition(")")[2].split()[1:3]
        except (OSError, ValueError):
            continue
        if line != [""]:  # zombies have none
            found[int(path.name)] = (int(parent), int(group), line)
    return found


def commands(group: int) -> dict[int, list[str]]:
    """Command lines of the living processes of a group."""
    return {pid: line for pid, (_, of, line) in processes().items() if of == group}


def children(process: subprocess.Popen, word: str) -> list[int]:
    """Processes below a script's that were started with a word, whatever their group: torchrun gives each one of its own."""
    there, below = processes(), {process.pid}
    for _ in range(3):  # generations
        below |= {pid for pid, (parent, _, _) in there.items() if parent in below}
    return sorted(pid for pid in below - {process.pid} if any(word in part for part in there.get(pid, (0, 0, [""]))[2]))
