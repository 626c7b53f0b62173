"""What ends a process from outside, where it stops, in which words, and the checkpoints that it goes on from.

A cluster that takes a machine back sends SIGTERM, and half a minute later SIGKILL. Training stops after the batch at hand:
the checkpoint of the last whole epoch is on disk already, and the same command repeats the epoch that was cut short, with
the same order of blocks and the same dropout masks, so that the result is the same to the bit. Extraction stops after the
packet at hand; videos that were finished stay. Either stops where it is if that takes longer than `GRACE`, as compiling a
network does: every file is whole, since it is written beside its place. An epoch takes about a minute on a GPU, hours only
on a small CPU; a checkpoint within it would have to hold the half-done metrics of every process.

However the first process of a run ends, those that Lightning started for it have ended before: their GPUs are free for the
next command.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment

from datamodules.files import write_atomically
from datamodules.videos import DataError
from reproduce.common.cli import unavailable
from reproduce.common.processes import leave, wait_or_kill
from reproduce.common.settings import Settings, SettingsError

AGREE_EVERY = 8  # batches between two questions to the other processes; a question makes a GPU wait for the CPU
LOST = re.compile(r"gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe|tcpstore|recvvalue|sendbytes", re.IGNORECASE)
PATIENCE = 10.0  # seconds in which processes that have nothing more to do may end
POLL = 1.0  # seconds
GRACE = 15.0  # seconds after SIGTERM in which the batch at hand may end; SLURM kills after 30
_started: list[subprocess.Popen] = []  # by Lightning, for this process's first Trainer; later Trainers work with them too


def _take_over(processes: list[subprocess.Popen]) -> None:
    """Watch over the processes that Lightning started in the place of its own observer, which an empty list ends.

    That one kills this process with SIGKILL when it finds one of them dead, be it in the middle of the sentence that says so.
    """
    _started.extend(processes)
    processes.clear()
    threading.Thread(target=_watch, daemon=True, name="watch-over-ranks").start()


def _watch() -> None:
    """End this process if another one is lost and the communication with it, which should have failed, does not end."""
    while _started:
        if any(process.poll() for process in _started):  # neither alive nor ended with 0
            time.sleep(_patience())
            if _started:
                print(f"error: {_lost(1 + len(_started), 'it ended with an error')}", file=sys.stderr, flush=True)
                for process in _started:
                    process.kill()
                os._exit(1)
        time.sleep(POLL)


def _patience() -> float:
    """Seconds in which the main thread may find by itself that another process is lost; NCCL's waits, or aborts wordlessly."""
    nccl = torch.distributed.is_initialized() and torch.distributed.get_backend() == "nccl"
    return 0.0 if nccl else PATIENCE


@cache  # one thread a process, for all its Trainers
def _watch_parent(parent: int, processes: int) -> None:
    """End this process, in a thread beside the work, if the one that started it is gone and the communication does not end."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        time.sleep(_patience())
        print(f"error: {_lost(processes, 'the process that started this one ended')}", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-over-parent").start()


@atexit.register  # before Lightning's own, and so called after: NCCL's connections end together
def _end_started() -> None:
    """Wait for the processes that Lightning started; kill those that wait for this one in vain."""
    processes = list(_started)
    _started.clear()
    wait_or_kill(processes, PATIENCE)


class LostProcess(DataError):
    """Another process of the same run, or one that decodes for this one, is gone."""


class Preemption(Callback):
    """Ends a Trainer's work between two batches after SIGTERM, by ``SystemExit`` with status 143.

    It takes the place of Lightning's own handler, which lets extraction go on, ends with status 0, and speaks to the other
    processes in the middle of whatever they are saying to each other.
    """

    def __init__(self) -> None:
        self.told = False

    def leave_if_told(self) -> None:
        """End the process if SIGTERM came."""
        if self.told:
            _leave()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over the processes that this Trainer has started, if it was the first; in one of these, watch over the first."""
        if processes := getattr(trainer.strategy.launcher, "procs", None):
            _take_over(processes)
        elif trainer.world_size > 1 and int(os.environ.get("LOCAL_RANK", "0") or 0):
            _watch_parent(os.getppid(), trainer.world_size)

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():  # Lightning puts the earlier handler back at its end
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: Any) -> None:
        if not self.told:
            for process in _started:  # others hear of it from who started them
                process.send_signal(signal.SIGTERM)
            if hasattr(signal, "setitimer"):
                signal.signal(signal.SIGALRM, _leave)
                signal.setitimer(signal.ITIMER_REAL, GRACE)
        self.told = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to listen."""
        self._listen()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch before has been saved."""
        self._leave_together(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop within the epoch; not after its last batch, since it is validated and saved now."""
        last = batch_idx + 1 >= trainer.num_training_batches
        if not last and (trainer.world_size == 1 or batch_idx % AGREE_EVERY == AGREE_EVERY - 1):
            self._leave_together(trainer)

    def _leave_together(self, trainer: Trainer) -> None:
        """A process that left alone would look to the others like one that was lost."""
        if trainer.strategy.reduce_boolean_decision(self.told, all=False):
            _leave()  # what this process hears meanwhile counts at the next question

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to listen."""
        self._listen()

    def on_test_batch_end(self, *_: Any) -> None:
        """Stop; a test is done as a whole or not at all."""
        self.leave_if_told()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to listen."""
        self._listen()

    def on_predict_batch_end(self, *_: Any) -> None:
        """Stop; the videos that are finished stay."""
        self.leave_if_told()


def _leave(*_: Any) -> NoReturn:
    """End the process, and be told so no second time."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    leave()


def environment_plugins() -> list[SLURMEnvironment]:
    """Plugins for any Trainer: on SLURM one that keeps its hands off the job.

    Lightning's own would, on SIGUSR1, write a checkpoint to the working folder, from which every later Trainer there
    would start, whatever run it belongs to.
    """
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


@contextmanager
def explained(settings: Settings, smaller: str) -> Iterator[None]:
    """Within, a lost process of the run, a GPU's memory that ran out, and devices that are not there, are errors in words.

    Args:
        settings: of the run.
        smaller: what to set, and how, so that less of a GPU's memory is taken.

    Raises:
        LostProcess: says which one, as far as that is known, and that the same command goes on.
        SettingsError: Lightning finds no such devices, or a GPU's memory ran out.
    """
    processes = settings.trainer.devices * settings.trainer.num_nodes
    try:
        yield
    except MisconfigurationException as error:
        raise SettingsError(unavailable(settings, error)) from error
    except torch.cuda.OutOfMemoryError as error:
        raise SettingsError(
            f"a GPU's memory ran out ({str(error).splitlines()[0]}). Finished videos and epochs are kept: set {smaller}, and "
            "run it again"
        ) from error
    except DataError:
        raise
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or LOST.search(str(error))
        if processes == 1 or not lost:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LostProcess(_lost(processes, reason)) from error


def _lost(processes: int, reason: str) -> str:
    return (
        f"another of the {processes} processes of this run is gone, and this one cannot go on without it ({reason}). Its own "
        "output says why; a process that the system killed says nothing. Finished videos and epochs are kept: run the same "
        "command again"
    )


class WholeCheckpoints(CheckpointIO):
    """Writes a checkpoint beside its place, and renames it when it is complete and on disk.

    Lightning's own goes through the system's temporary folder: where that is another disk, the move is a copy, and a
    process killed within it leaves half a checkpoint in place of the last good one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: there is no room, or no permission; the checkpoint that was there stays.
        """
        buffer = BytesIO()  # a full disk is an OSError when bytes are written, a RuntimeError when torch writes
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getbuffer())

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, always as weights and plain values alone. Raises as ``read_checkpoint``."""
        return read_checkpoint(Path(path), map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


def read_weights_of(path: Path, part: str = "network.") -> dict[str, torch.Tensor]:
    """The weights of a checkpoint's network, or of a part of it, by their names there; see ``read_checkpoint``."""
    state = read_checkpoint(path)["state_dict"]
    return {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint that training can go on from; no code in it is run.

    Args:
        path: the file.
        map_location: where its tensors go.

    Raises:
        DataError: it is missing, damaged, no checkpoint of this suite, or its weights are not finite.
    """
    again = f"remove {path.parent.resolve()} to train this stage again"
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
        weights, _ = state["state_dict"], int(state["epoch"])
        bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    except (FileNotFoundError, PermissionError) as error:
        raise DataError(f"{path.resolve()}: cannot be read ({error})") from error
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path.resolve()}: not a checkpoint, or damaged ({reason}); {again}") from error
    if bad:
        raise DataError(f"{path.resolve()}: {len(bad)} of {len(weights)} weights are not finite, {bad[0]} for one; {again}")
    return state
