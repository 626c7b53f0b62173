"""Frames that do not fit into memory at once: whole videos come in turns, two turns at a time, each once an epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Rotation:
    """The turns of the running epoch that are in memory; the next one is read while this one is used.

    Memory has two halves of a fixed place, and turn n lies in half n mod 2. So cubes that were located stay as they are until
    blocks are located again, and no longer.

    Args:
        read: (F, K, D) float16 cubes of a video, by number.
        num_frames: (V,) frames of each video.
        device: where the frames lie while it is their turn.
        capacity: frames that two turns in a row have at most.

    Attributes:
        frames_read: frames that have been brought into memory so far.
    """

    def __init__(self, read: Callable[[int], np.ndarray], num_frames: np.ndarray, device: torch.device, capacity: int) -> None:
        self.read, self.num_frames, self.device = read, num_frames, device
        self.half = min(capacity // 2, int(num_frames.sum()))
        self.frames_read = 0
        self._cubes: Tensor | None = None  # both halves
        self._turns: np.ndarray | None = None  # (V,) of the running epoch
        self._offsets = np.zeros_like(num_frames)  # (V,) first frame of each video in memory
        self._held: dict[int, Future[None]] = {}
        on_gpu = device.type == "cuda"  # a thread's own device is the first, where page-locked memory would open a context
        begin = partial(torch.cuda.set_device, device) if on_gpu else None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="rotation", initializer=begin)
        self._stream = torch.cuda.Stream(device) if on_gpu else None

    def locate(self, videos: np.ndarray, frames: np.ndarray, turns: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Locate blocks by index; an epoch asks for its turns in order.

        Args:
            videos: (B,) numbers of the videos.
            frames: (B, T) frame indices within the videos.
            turns: (V,) turn of each video, -1 for those that have none; another array begins another epoch.

        Returns:
            Cubes (N, K, D) on the device: all that are in memory, or those of a batch that spans more than two turns; and
            (B, T), on the host, which of them the blocks hold.
        """
        if turns is not self._turns:
            self._begin(turns)
        wanted = turns[videos]  # (B,)
        rows = self._offsets[videos][:, None] + frames
        first, last = int(wanted.min()), int(wanted.max())
        if last - first < 2:
            self._hold(first)
            for turn in np.unique(wanted).tolist():
                self._held[turn].result()
            assert self._cubes is not None
            return self._cubes, rows
        chunks, copied, before = [], np.empty(frames.shape, dtype=np.int64), 0
        for turn in np.unique(wanted).tolist():
            self._hold(turn)
            self._held[turn].result()
            here, cubes = wanted == turn, self._cubes
            assert cubes is not None
            chunks.append(cubes.index_select(0, torch.from_numpy(rows[here].ravel()).to(self.device)))
            copied[here] = before + np.arange(len(chunks[-1])).reshape(-1, frames.shape[1])
            before += len(chunks[-1])
        return torch.cat(chunks), copied

    def _begin(self, turns: np.ndarray) -> None:
        for future in self._held.values():
            future.cancel()
            with contextlib.suppress(Exception):  # of an epoch that is over; also CancelledError
                future.result()
        self._held.clear()
        self._turns = turns
        for turn in range(int(turns.max()) + 1):
            mine = np.flatnonzero(turns == turn)
            self._offsets[mine] = turn % 2 * self.half + np.cumsum(self.num_frames[mine]) - self.num_frames[mine]

    def _hold(self, turn: int) -> None:
        """Have a turn and the following one in memory, or on their way; what was before is given up."""
        assert self._turns is not None
        for past in [held for held in self._held if held < turn]:
            self._held.pop(past)
        for near in (turn, turn + 1):
            if near not in self._held and near <= self._turns.max():
                used = None if self._stream is None else torch.cuda.current_stream(self.device).record_event()
                self._held[near] = self._reader.submit(self._bring, near, used)

    def _bring(self, turn: int, used: Any) -> None:
        """Bring a turn's frames, one after the other, into its half, once its last use is over; runs in the reading thread."""
        with torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext():
            if self._stream is not None and used is not None:
                self._stream.wait_event(used)
            for video in np.flatnonzero(self._turns == turn):
                cubes = torch.from_numpy(np.array(self.read(int(video))))
                if self._cubes is None:
                    self._cubes = torch.empty(2 * self.half, *cubes.shape[1:], dtype=torch.float16, device=self.device)
                begin = int(self._offsets[video])
                # .data: a backward pass that holds the other half must not take this for a change of what it saved
                self._cubes.data[begin : begin + len(cubes)] = cubes
                self.frames_read += len(cubes)
            if self._stream is not None:
                self._stream.synchronize()
