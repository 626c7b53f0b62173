"""Work on videos, one at a time in each of several processes: each writes its videos to a store and to a journal of its own.

The processes are started anew rather than forked, compute with one thread each, and end with this one. Free of torch.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.decoding import VideoError, probe
from datamodules.stores import Store
from datamodules.videos import Annotation, DataError
from reproduce.common.processes import TOGETHER, end_with_parent
from reproduce.common.progress import Progress
from reproduce.common.settings import SettingsError

Pieces = Generator[tuple[np.ndarray, ...], None, dict[str, Any]]
"""Yields the next rows of each array of a video; returns further facts for its entry in the manifest."""
Task = Callable[[str], Pieces]
"""From a video's name to its rows; goes to other processes, so it can be pickled."""
Outcomes = Generator[tuple[str, int], None, None]
"""Name and rows of each video that is done."""
ONE_THREAD: dict[str, str] = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


RANKS = 1024  # of processes that each share may have, as many as settings allow


@dataclass(frozen=True)
class Share:
    """One of several shares of some videos, each taken by a command of its own, such as on another machine.

    Args:
        number: from 1.
        count: of shares.
    """

    number: int = 1
    count: int = 1

    def of(self, names: Sequence[str]) -> list[str]:
        """Its videos."""
        return sorted(names)[self.number - 1 :: self.count]

    @property
    def rank(self) -> int:
        """Number of its first process, for journals."""
        return RANKS * (self.number - 1)


ALL = Share()


def parse_share(text: str) -> Share:
    """Read ``3/16``.

    Raises:
        SettingsError: it is no such text.
    """
    found = re.fullmatch("([0-9]{1,4})/([0-9]{1,4})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise SettingsError(f"part={text}: give the number of a share and how many there are, such as 3/16")
    return Share(int(found[1]), int(found[2]))


class LostWorker(DataError):
    """A process that worked on a video is gone."""


def fill(store: Store, sizes: Mapping[str, int], task: Task, processes: int, what: str, rank: int = 0) -> None:
    """Run a task on videos, the largest first, and write what it gives to a store; finished ones stay whatever happens.

    Videos that do not decode are entered as bad.

    Args:
        store: begun already; nobody else writes under the same ranks.
        sizes: of each video, in any unit, for the order and the progress.
        task: what makes a video's rows.
        processes: how many at a time; with 1, this one does the work.
        what: for the progress line.
        rank: of the first process, for its journal.

    Raises:
        LostWorker: a process died; names the video.
        OSError: the store cannot be written.
    """
    names = sorted(sizes, key=lambda name: (-sizes[name], name))
    total, done = sum(sizes.values()), 0
    progress, processes = Progress(what, ""), min(processes, len(names))
    outcomes = _in_processes(store.path, names, task, processes, rank) if processes > 1 else _here(store, names, task, rank)
    with closing(outcomes):
        for count, (name, rows) in enumerate(outcomes, start=1):
            done += sizes[name]
            progress.update(done, total, f"{count} videos, the last of {rows} rows")
    progress.close()


def _here(store: Store, names: Sequence[str], task: Task, rank: int) -> Outcomes:
    for name in names:
        yield name, _work(store, name, task, rank)


def _work(store: Store, name: str, task: Task, rank: int) -> int:
    """Do one video; returns its rows, 0 of a bad one."""
    writer, pieces = store.writer(name, rank), task(name)
    try:
        while True:
            try:
                writer.append(*next(pieces))
            except StopIteration as ended:
                rows = writer.rows
                writer.close(**ended.value)
                return rows
    except VideoError as error:
        writer.discard()
        store.enter_bad(name, str(error), rank)
        return 0
    except BaseException:
        writer.discard()
        raise


def _in_processes(path: Path, names: list[str], task: Task, processes: int, rank: int) -> Outcomes:
    context, waiting = get_context("spawn"), iter(names)
    workers: dict[Any, tuple[Any, str]] = {}  # by connection: process and the video that it works on
    try:
        with _environment(ONE_THREAD):
            for number in range(processes):
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there, path, task, rank + number, os.getpid()), daemon=True)
                process.start()
                there.close()
                workers[here] = process, next(waiting)
                with contextlib.suppress(OSError):  # what has died already is lost when it is heard
                    here.send(workers[here][1])
        while workers:
            for connection in wait(list(workers)):
                process, name = workers[connection]
                try:
                    rows = connection.recv()  # type: ignore[union-attr]
                except (EOFError, OSError) as error:
                    process.join()
                    if process.exitcode == -signal.SIGTERM:
                        time.sleep(TOGETHER)  # this one is told too, and leaves
                    raise LostWorker(
                        f"the process that worked on {name} died (exit status {process.exitcode}). Finished videos are kept in "
                        f"{path.resolve()}: run the same command again. If memory ran out, take fewer processes; if it dies at "
                        "the same video again, replace that file"
                    ) from error
                if isinstance(rows, BaseException):
                    raise rows
                following = next(waiting, None)
                if following is None:
                    del workers[connection]
                    connection.close()  # type: ignore[union-attr]
                else:
                    workers[connection] = process, following
                    with contextlib.suppress(OSError):
                        connection.send(following)  # type: ignore[union-attr]
                yield name, rows
    finally:
        for process, _ in workers.values():
            process.terminate()
        for process, _ in workers.values():  # else one might still write when another command begins
            process.join()


def _serve(connection: Connection, path: Path, task: Task, rank: int, parent: int) -> None:
    """In a process of its own: do the videos that it is told, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process tells this one
    end_with_parent(parent)
    store = Store(path)
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        try:
            connection.send(_work(store, name, task, rank))
        except Exception as error:
            connection.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """An error that can be sent: its own kind where a text makes one."""
    if isinstance(error, (DataError, OSError)):
        return type(error)(*error.args)
    return RuntimeError(f"{type(error).__name__}: {error}")


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def estimated_frames(annotation: Annotation, names: Sequence[str]) -> float | None:
    """Frames of some videos: their number times the median of what up to 20 headers say; None if those do not say."""
    known = []
    for name in list(names)[:: max(1, len(names) // 20)]:
        with contextlib.suppress(VideoError):
            known.append(probe(annotation.folder / name).expected_frames)
    known = [number for number in known if number]
    return float(np.median(known)) * len(names) if known else None
