"""Frames that do not fit into memory at once: whole videos come in turns, two turns at a time, each once an epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor


class Rotation:
    """The turns of the running epoch that are in memory; the next one is read while this one is used.

    Args:
        read: (F, K, D) float16 cubes of a video, by number.
        num_frames: (V,) frames of each video.
        device: where the frames lie while it is their turn.

    Attributes:
        frames_read: frames that have been brought into memory so far.
    """

    def __init__(self, read: Callable[[int], np.ndarray], num_frames: np.ndarray, device: torch.device) -> None:
        self.read, self.num_frames, self.device = read, num_frames, device
        self.frames_read = 0
        self._turns: np.ndarray | None = None  # (V,) of the running epoch
        self._offsets = np.zeros_like(num_frames)  # (V,) first frame of each video within its turn
        self._held: dict[int, Future[Tensor]] = {}
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
            Cubes (N, K, D) on the device: a whole turn, or those of a batch that spans several; and (B, T), on the host,
            which of them the blocks hold.
        """
        if turns is not self._turns:
            self._begin(turns)
        wanted = turns[videos]  # (B,)
        chunks, rows, before = [], np.empty(frames.shape, dtype=np.int64), 0
        several = len(np.unique(wanted)) > 1
        for turn in np.unique(wanted).tolist():
            for past in [held for held in self._held if held < turn]:
                self._held.pop(past)
            for near in (turn, turn + 1):  # the following one is read ahead
                if near not in self._held and near <= turns.max():
                    self._held[near] = self._reader.submit(self._bring, near)
            chunk = self._held[turn].result()
            if self._stream is not None:
                chunk.record_stream(torch.cuda.current_stream(self.device))
            here = wanted == turn
            rows[here] = self._offsets[videos[here]][:, None] + frames[here]
            if several:
                chunk = chunk.index_select(0, torch.from_numpy(rows[here].ravel()).to(self.device))
                rows[here] = before + np.arange(len(chunk)).reshape(-1, frames.shape[1])
                before += len(chunk)
            chunks.append(chunk)
        return chunks[0] if not several else torch.cat(chunks), rows

    def _begin(self, turns: np.ndarray) -> None:
        for future in self._held.values():
            future.cancel()
            with contextlib.suppress(Exception):  # of an epoch that is over; also CancelledError
                future.result()
        self._held.clear()
        self._turns = turns
        for turn in range(int(turns.max()) + 1):
            mine = np.flatnonzero(turns == turn)
            self._offsets[mine] = np.cumsum(self.num_frames[mine]) - self.num_frames[mine]

    def _bring(self, turn: int) -> Tensor:
        """Bring a turn's frames, one after the other, to the device; runs in the reading thread."""
        mine = np.flatnonzero(self._turns == turn)
        if not len(mine):  # another rank's videos have more turns
            return torch.empty(0, device=self.device)
        with torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext():
            shape = self.read(int(mine[0])).shape[1:]
            frames = torch.empty(int(self.num_frames[mine].sum()), *shape, dtype=torch.float16, device=self.device)
            for video in mine:
                begin, count = int(self._offsets[video]), int(self.num_frames[video])
                frames[begin : begin + count] = torch.from_numpy(np.array(self.read(int(video))))
                self.frames_read += count
            if self._stream is not None:
                self._stream.synchronize()
        return frames
