"""Frames of many videos as one stream of full batches, decoded in worker processes, for feature extraction."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from multiprocessing import active_children
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.blocks import deal
from datamodules.decoding import VideoError, VideoInfo, probe, read_chunks, read_frames
from datamodules.drawn_blocks import Draw, draw_blocks

DYING = 5.0  # seconds that a killed process may take from its closed connections to its end
BROKEN = (ConnectionError, EOFError, FileNotFoundError)
"""What a process that dies leaves at the other end of its connections."""
SHARED_MEMORY = Path("/dev/shm")
AHEAD = 2  # packets that each decoding process works ahead
TAKEN = 2  # packets that the main process holds, the one at hand and the next


class SharedMemoryError(RuntimeError):
    """A decoding process found no room for a packet in shared memory."""


class Segment(NamedTuple):
    """A run of frames of one video in a packet.

    Args:
        video: number of the video in the list given to the data module.
        frames: number of frames, 0 for a segment that only reports an error.
        first: whether the video begins with this segment.
        end: header facts of the video if it ends with this segment.
        error: why the video cannot be decoded; what came before of it is void.
        damage: what is damaged in a video that is kept and ends with this segment, in words.
        starts: first frame, in the file, of each block of a video of drawn blocks that ends with this segment.
    """

    video: int
    frames: int
    first: bool
    end: VideoInfo | None = None
    error: str | None = None
    damage: str = ""
    starts: Sequence[int] = ()


class FramePacket(NamedTuple):
    """Frames of one or several videos: ``frames`` (N, 3, S, S) uint8 in channels-last order, and whose they are."""

    frames: Tensor
    segments: list[Segment]


class FrameStream(IterableDataset):
    """Packets of exactly ``packet`` frames (the last of each worker may be smaller), across videos.

    Args:
        paths: the videos' files.
        size: side of the square frames, pixels.
        packet: frames N of a packet.
        rank, world_size: videos are dealt to ranks and to each rank's workers by file size, each video to one.
        workers: decoding processes.
        keep: keep what decodes of damaged videos, instead of reporting an error.
        draws: of each video, where blocks drawn at random take the place of all frames.

    Attributes:
        at: (workers, 2) int64, shared with them: each one's process id and the number of the video it is at, else -1.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int,
        packet: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        keep: bool = False,
        draws: Sequence[Draw] = (),
    ) -> None:
        self.paths, self.keep, self.draws = list(paths), keep, draws
        self.size, self.packet = size, packet
        self.rank, self.world_size = rank, world_size
        self.at = torch.full((max(1, workers), 2), -1)
        if workers:
            self.at.share_memory_()

    def __iter__(self) -> Iterator[FramePacket]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        sizes = np.asarray([path.stat().st_size if path.exists() else 0 for path in self.paths])
        mine = deal(sizes, self.world_size)[self.rank]
        mine = [mine[i] for i in deal(sizes[mine], workers)[worker]]
        buffer = np.empty((self.packet, self.size, self.size, 3), dtype=np.uint8)
        filled, segments = 0, []
        for video in mine:
            self.at[worker] = torch.tensor([os.getpid(), video])
            first, damage = True, []
            try:
                facts = probe(self.paths[video])
                starts, chunks = self._chunks(video, damage if self.keep else None)
                for chunk in _with_last_flag(chunks):
                    images, is_last = chunk
                    while len(images):
                        part = images[: self.packet - filled]
                        images = images[len(part) :]
                        buffer[filled : filled + len(part)] = part
                        filled += len(part)
                        ends = is_last and not len(images)
                        at_end = {"end": facts, "damage": "; ".join(damage), "starts": starts} if ends else {}
                        segments.append(Segment(video, len(part), first, **at_end))
                        first = False
                        if filled == self.packet:
                            yield self._packet(buffer, filled, segments)
                            filled, segments = 0, []
            except VideoError as error:
                segments.append(Segment(video, 0, first, error=str(error)))
        self.at[worker, 1] = -1
        if segments:
            yield self._packet(buffer, filled, segments)

    def _chunks(self, video: int, kept: list[str] | None) -> tuple[tuple[int, ...], Iterator[np.ndarray]]:
        """A video's frames in chunks; where blocks are drawn, these one after the other, and the first frame of each."""
        path = self.paths[video]
        if not self.draws:
            return (), read_chunks(path, self.size, kept=kept)
        blocks = draw_blocks(read_frames(path, self.size, kept=kept), self.draws[video])
        return tuple(start for start, _ in blocks), (np.stack(block) for _, block in blocks)

    @staticmethod
    def _packet(buffer: np.ndarray, filled: int, segments: list[Segment]) -> FramePacket:
        if get_worker_info() and filled:
            # Moved here: the thread that sends packets would drop one for which there is no room, without a word.
            try:
                frames = torch.from_numpy(buffer[:filled]).share_memory_()
            except RuntimeError as error:
                raise SharedMemoryError(str(error)) from error
        else:
            frames = torch.from_numpy(buffer[:filled].copy())
        return FramePacket(frames.permute(0, 3, 1, 2), segments)  # (N, 3, S, S), channels last


def _with_last_flag(chunks: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, bool]]:
    """Each chunk with whether it is the last one."""
    previous = None
    for chunk in chunks:
        if previous is not None:
            yield previous, False
        previous = chunk
    if previous is not None:
        yield previous, True


def shared_bytes(workers: int, packet: int, size: int) -> int:
    """Shared memory that some decoding processes fill at most.

    Args:
        workers: decoding processes.
        packet: frames a packet.
        size: side of a frame, pixels.
    """
    page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
    of_packet = -(-packet * size * size * 3 // page) * page + page
    return (AHEAD * workers + TAKEN) * of_packet if workers else 0


def workers_that_fit(workers: int, packet: int, size: int, free: int | None) -> int:
    """The most decoding processes, up to ``workers``, whose packets fit into so many free bytes (None: any number)."""
    while free is not None and workers and shared_bytes(workers, packet, size) > free:
        workers -= 1
    return workers


def free_shared_memory() -> int | None:
    """Free bytes of the disk in memory through which processes hand over packets; None where there is no such disk."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # macOS and Windows
        return None


class FrameDataModule(LightningDataModule):
    """Feeds ``Trainer.predict`` with the frames of some videos.

    Args:
        paths: the videos' files.
        size: side of the square frames, pixels.
        packet: frames a batch.
        num_workers: decoding processes of each rank; 0 decodes in the main process.
        keep: keep what decodes of damaged videos, instead of reporting an error.
        draws: of each video, where blocks drawn at random take the place of all frames.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int,
        packet: int = 64,
        num_workers: int = 0,
        keep: bool = False,
        draws: Sequence[Draw] = (),
    ) -> None:
        super().__init__()
        self.paths, self.size, self.packet, self.num_workers, self.keep = list(paths), size, packet, num_workers, keep
        self.draws = draws
        self.stream: FrameStream | None = None
        self.lost: list[Path] = []
        """Videos at which decoding processes were when they died, after an error."""

    def predict_dataloader(self) -> DataLoader:
        """This rank's packets."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        strategy = getattr(self.trainer, "strategy", None)
        self.stream = FrameStream(
            self.paths, self.size, self.packet, rank, world_size, self.num_workers, keep=self.keep, draws=self.draws
        )
        return DataLoader(
            self.stream,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=strategy is not None and strategy.root_device.type == "cuda",
            prefetch_factor=AHEAD if self.num_workers else None,
        )

    def on_exception(self, exception: BaseException) -> None:
        """Look which decoding processes died; the error may be that of a connection to one of them.

        A process that dies closes its connections first: where one broke, wait until one is gone.
        """
        if self.stream is None or not self.num_workers:
            return
        deadline = time.monotonic() + (DYING if isinstance(exception, BROKEN) else 0.0)
        while True:
            alive = {process.pid for process in active_children()}
            self.lost = [self.paths[video] for pid, video in self.stream.at.tolist() if video >= 0 and pid not in alive]
            if self.lost or time.monotonic() >= deadline:
                return
            time.sleep(0.02)
