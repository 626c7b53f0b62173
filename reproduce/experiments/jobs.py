"""Jobs: entry scripts as processes, several at a time, logs in files, one progress line. Free of torch."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path
from typing import IO

from datamodules.videos import DataError
from reproduce.common.processes import PATIENCE, SCRIPTS, cores, end, leaving_on_sigterm, open_child
from reproduce.common.progress import Progress

STARTED = "== "  # begins a line of a log that says when which command was started
POLL = 0.2  # seconds
CUDA_FILES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")  # of NVIDIA's driver; the last within Windows
MOST_ON_CPU = 8  # runs at a time: each holds its features in memory


@dataclass(eq=False)
class Job:
    """One process to run.

    Args:
        name: for the progress line and the log.
        script: file in ``reproduce/``.
        words: its ``key=value`` words.
        log: file that takes its output.
        needs: jobs that must have ended before it starts.
        stopped: when it was told to stop (monotonic seconds), or None.
    """

    name: str
    script: str
    words: list[str]
    log: Path
    needs: tuple[Job, ...] = ()
    returncode: int | None = None
    stopped: float | None = None
    process: subprocess.Popen | None = field(default=None, repr=False)

    @property
    def ready(self) -> bool:
        """Whether all that it needs has ended, be it in failure: then it says itself what it lacks."""
        return all(job.returncode is not None for job in self.needs)

    def last_lines(self, number: int = 3) -> list[str]:
        """The end of what it has written to the log since it was started last."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        starts = [position for position, line in enumerate(lines) if line.startswith(STARTED)]
        return [line for line in lines[starts[-1] + 1 if starts else 0 :] if line.strip()][-number:]


def workers_for(asked: int | None, accelerator: str, devices: int) -> tuple[int, list[str]]:
    """How many jobs at a time, and the names of the GPUs to hand out to them.

    Args:
        asked: jobs at a time; None for one on each ``devices`` GPUs or, without GPUs, on each ``devices`` cores. One where
            there are GPUs of an unknown number.
        accelerator: ``trainer.accelerator``.
        devices: ``trainer.devices``.
    """
    gpus = visible_gpus() if accelerator != "cpu" else []
    if gpus is None:
        return asked or 1, []
    gpus = gpus if len(gpus) >= devices else []  # a run itself says best that it asks for more than there are
    workers = asked or (len(gpus) // devices if gpus else min(MOST_ON_CPU, cores() // devices))
    return max(1, workers), gpus


def run_all(
    jobs: Iterable[Job],
    workers: int,
    gpus: Sequence[str] = (),
    devices: int = 1,
    total: int | None = None,
    stop: Callable[[Job], bool] | None = None,
    ended: Callable[[Job], None] | None = None,
) -> list[Job]:
    """Run jobs, some at a time; a job that fails does not stop the others. SIGTERM stops them all.

    Args:
        jobs: in the order to start them; each is asked for when there is room for it.
        workers: processes at a time.
        gpus: names of GPUs to hand out, ``devices`` to a job; none on the CPU.
        devices: GPUs a job takes.
        total: number of jobs, where ``jobs`` does not tell.
        stop: whether a running job is to end now; asked again and again.
        ended: told of each job that has ended.

    Returns:
        The jobs that failed.

    Raises:
        DataError: a log cannot be written.
    """
    with leaving_on_sigterm():
        return _run_all(jobs, workers, gpus, devices, total, stop, ended)


def _run_all(
    jobs: Iterable[Job],
    workers: int,
    gpus: Sequence[str],
    devices: int,
    total: int | None,
    stop: Callable[[Job], bool] | None,
    ended: Callable[[Job], None] | None,
) -> list[Job]:
    total = len(jobs) if total is None and isinstance(jobs, Sequence) else total or 0
    waiting, more = iter(jobs), True
    held: list[Job] = []  # they wait for others
    running: list[tuple[Job, list[str]]] = []
    done: list[Job] = []
    free = list(gpus)
    progress = Progress("runs", "finished")
    try:
        while more or held or running:
            while (more or held) and len(running) < workers and (not gpus or len(free) >= devices):
                job = next((one for one in held if one.ready), None)
                if job is not None:
                    held.remove(job)
                elif more and (stop is None or len(held) < workers):  # a search's points depend on what ended before
                    job = next(waiting, None)
                    more = job is not None
                    if job is not None and not job.ready:
                        held.append(job)
                        continue
                else:
                    break
                if job is not None:
                    mine, free = free[:devices], free[devices:]
                    _start(job, mine, workers)
                    running.append((job, mine))
            time.sleep(POLL)
            for entry in list(running):
                job, mine = entry
                job.returncode = job.process.poll()  # type: ignore[union-attr]
                if job.returncode is not None:
                    running.remove(entry)
                    free += mine
                    done.append(job)
                    _say(f"{_outcome(job)}: {job.name} ({len(done)}/{total})")
                    if ended is not None:
                        ended(job)
                elif stop is not None:
                    _stop(job, stop)
            now = "; ".join(f"{job.name}: {(job.last_lines(1) or ['starting'])[0][:60]}" for job, _ in running)
            progress.update(len(done), total, now)
    finally:
        if running:  # an error, or this process is to end
            _say(f"ending {len(running)} runs; the same command goes on with them")
            end([job.process for job, _ in running if job.process is not None])
    return [job for job in done if job.returncode != 0 and job.stopped is None]


def _outcome(job: Job) -> str:
    return "finished" if job.returncode == 0 else "FAILED" if job.stopped is None else "stopped early"


def _stop(job: Job, stop: Callable[[Job], bool]) -> None:
    assert job.process is not None
    if job.stopped is None and stop(job):
        job.stopped = time.monotonic()
        job.process.terminate()
    elif job.stopped is not None and time.monotonic() - job.stopped > PATIENCE:
        job.process.kill()


def _say(text: str) -> None:
    print(f"\r\x1b[K{text}" if sys.stdout.isatty() else text, flush=True)


def _start(job: Job, gpus: Sequence[str], workers: int) -> None:
    environment = dict(os.environ)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    threads = max(1, cores() // workers)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(threads)
    words = (
        job.words if any(w.startswith("trainer.threads=") for w in job.words) else [*job.words, f"trainer.threads={threads}"]
    )
    command = [sys.executable, str(SCRIPTS / job.script), *words]
    with _begin_log(job.log, shlex.join(["python", f"reproduce/{job.script}", *words])) as log:
        job.process = open_child(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _begin_log(path: Path, command: str) -> IO[bytes]:
    """Open a log; what earlier calls wrote stays in it, and so does what another table writes at this moment."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("ab", buffering=0)
        log.write(f"{STARTED}{now} {command}\n".encode())
    except OSError as error:
        raise DataError(f"cannot write {path.resolve()} ({error}); make room or set paths.runs") from error
    return log


def visible_gpus() -> list[str] | None:
    """Names of the GPUs that a job may be given, as ``CUDA_VISIBLE_DEVICES`` takes them; asked without importing torch.

    Returns:
        Numbers, UUIDs or names of MIG slices; None where CUDA is there and nothing tells how many GPUs there are.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        named = [name.strip() for name in allowed.split(",")]
        return list(takewhile(lambda name: name not in ("", "-1", "NoDevFiles"), named))  # CUDA ignores what follows these
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None if any(map(os.path.exists, CUDA_FILES)) else []
    if listed.returncode == 0:
        return [line for line in listed.stdout.split() if line.isdecimal()]
    return None if any(map(os.path.exists, CUDA_FILES)) else []
