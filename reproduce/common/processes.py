"""Processes: those that this one starts end with it, and work that one does at a time. Free of torch.

SIGTERM, Ctrl-C and an error end the processes that were started too, and wait for them; so does, on Linux, the death of
the process that started them: nothing goes on unseen.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from filelock import AcquireReturnProxy, FileLock, SoftFileLock, Timeout

from datamodules.videos import DataError

SCRIPTS = Path(__file__).resolve().parents[1]  # the folder of the entry scripts
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
LOCKLESS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of disks without locks, such as NFS without its lock service
TOGETHER = 1.0  # seconds within which SIGTERM reaches all processes of a job
PATIENCE = 30.0  # seconds that a job which is told to stop may take to do so


def leave(*_: Any) -> NoReturn:
    """End this process as a shell says that SIGTERM ended one, through all ``finally`` clauses.

    Processes that Lightning started for the first one end with 0: it kills everything if one of them fails.
    """
    raise SystemExit(0 if int(os.environ.get("LOCAL_RANK", "0") or 0) else 128 + signal.SIGTERM)


def is_first_process() -> bool:
    """Whether this is rank 0, as far as a launcher's environment tells before a Trainer exists."""
    return all(int(os.environ.get(name, "0") or 0) == 0 for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


@contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """Within, SIGTERM ends the process by `leave`; elsewhere than in the main thread, nothing changes."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def open_child(command: Sequence[str], **options: Any) -> subprocess.Popen:
    """Start a process that ends when this one does."""
    if sys.platform == "linux":
        import ctypes

        options["preexec_fn"] = partial(_end_with, os.getpid(), ctypes.CDLL(None).prctl)
    return subprocess.Popen(command, **options)


def end_with_parent(parent: int) -> None:
    """From now on, end when the process that started this one does, be it by SIGKILL; on Linux."""
    if sys.platform == "linux":
        import ctypes

        _end_with(parent, ctypes.CDLL(None).prctl)


def _end_with(parent: int, prctl: Callable[[int, int], int]) -> None:
    """In the new process: ask for SIGTERM when its parent dies."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has died meanwhile
        os._exit(128 + signal.SIGTERM)


def end(processes: Sequence[subprocess.Popen]) -> None:
    """Tell processes to end, wait for them, and kill those that take too long."""
    for process in processes:
        process.terminate()
    wait_or_kill(processes, PATIENCE)


def wait_or_kill(processes: Sequence[subprocess.Popen], seconds: float) -> None:
    """Wait for processes, so many seconds for all of them, and kill those that take longer."""
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_here(script: str, words: Sequence[str]) -> int:
    """Run a script in the foreground with its output shown; returns its exit status."""
    with leaving_on_sigterm():
        process = open_child([sys.executable, str(SCRIPTS / script), *words])
        try:
            return process.wait()
        except BaseException:
            end([process])
            raise


def cores() -> int:
    """Cores this process may use: those it is bound to; of those of its SLURM task, where srun started it, no more."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(bound, of_task) if (of_task := _cores_of_task("SLURM_CPUS_PER_TASK")) else bound


def _cores_of_task(name: str) -> int | None:
    """What SLURM says to a process that srun started; None where it says nothing."""
    value = os.environ.get(name, "") if "SLURM_PROCID" in os.environ else ""
    return int(value) if value.isdecimal() and int(value) else None


def cores_of_process(devices: int) -> int:
    """Cores for each of a run's processes on this machine, one a device; SLURM may have bound a task to its own already.

    Args:
        devices: processes of the run on this machine.
    """
    on_node = _cores_of_task("SLURM_CPUS_ON_NODE")
    own = _cores_of_task("SLURM_CPUS_PER_TASK") or (on_node and cores() < on_node)
    return cores() if own else max(1, cores() // devices)


@contextmanager
def one_at_a_time(path: Path, work: str) -> Iterator[None]:
    """Hold a lock, which the system releases when this process dies; wait where another process holds it, and say so.

    Args:
        path: of the lock.
        work: what the other process does, for the message.

    Raises:
        DataError: another process holds it, and this one is the first of several that torchrun or srun started: the others
            do not know that it waits.
    """
    try:
        held = locked(path, 0)
    except Timeout:
        if any(int(os.environ.get(name, "1") or 1) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS")):
            raise DataError(f"another process {work}; run this again when it has finished") from None
        print(f"another process {work}; waiting for it", flush=True)
        held = locked(path)
    with held:
        yield


def locked(path: Path, seconds: float = -1) -> AcquireReturnProxy:
    """Lock a file, to be released at the end of a ``with``; where a disk has no locks, by a file that is there or not.

    Args:
        path: of the lock.
        seconds: to wait for it; -1 for any number.

    Raises:
        Timeout: another process holds it.
        OSError: the file cannot be made.
    """
    try:
        return FileLock(path).acquire(timeout=seconds)
    except (NotImplementedError, OSError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in LOCKLESS:
            raise
    beside = path.with_name(f"{path.name}.held")
    print(
        f"the disk of {path.parent.resolve()} keeps no locks: {beside.name} there stands for one, from the beginning of the "
        "work to its end; remove it if a process that was killed on another machine left it",
        flush=True,
    )
    return SoftFileLock(beside).acquire(timeout=seconds)
