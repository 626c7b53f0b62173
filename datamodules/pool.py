"""A set's frames, gathered into blocks by index from where they lie: GPU, host memory, the mapped files, or in turns."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datamodules.features import FeatureStore
from datamodules.rotation import Rotation

RESIDENT = ("auto", "gpu", "ram", "mmap", "rotate")
INPUTS = ("cube", "mean", "max")
GPU_SHARE = 0.6  # of the GPU's free memory that ``auto`` may fill; networks and batches need the rest
RAM_SHARE = 0.5  # of the machine's free memory, likewise


def free_memory() -> int:
    """Bytes of main memory that are free."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def frame_bytes(store: FeatureStore, inputs: Sequence[str]) -> int:
    """Bytes of one frame of what a network needs."""
    return store.channels * (store.locations * 2 * ("cube" in inputs) + 4 * (("mean" in inputs) + ("max" in inputs)))


class FramePool:
    """The frames of some videos.

    Args:
        store: a finished feature store.
        names: the videos.
        inputs: which of ``cube`` X (K, D) float16, ``mean`` and ``max`` (D,) float32 are wanted of each frame.
        resident: ``ram``: one contiguous tensor; ``gpu``: the same on the device; ``mmap``: the cubes are read from
            their files at each gather, through the system's page cache; ``rotate``: the cubes come into memory (that of
            the GPU, if that is where blocks are wanted) in turns, each once an epoch. Means and maxima are one
            contiguous tensor in every case.
    """

    def __init__(self, store: FeatureStore, names: Sequence[str], inputs: Sequence[str], resident: str) -> None:
        self.store, self.names, self.inputs, self.resident = store, list(names), tuple(inputs), resident
        self.num_frames = np.asarray([store.frames(name) for name in self.names], dtype=np.int64)
        self.offsets = np.cumsum(self.num_frames) - self.num_frames  # (V,) first frame of each video in the pool
        self._whole: dict[str, Tensor] = {}  # (N, …) of each input
        self._mapped: dict[int, np.ndarray] = {}
        self._finite: set[int] = set()  # videos known to hold finite numbers alone
        self._rotation: Rotation | None = None
        if "cube" not in self.inputs and resident in ("mmap", "rotate"):
            self.resident = "ram"

    def gather(
        self, videos: np.ndarray, frames: np.ndarray, device: torch.device, turns: np.ndarray | None = None
    ) -> dict[str, Tensor]:
        """Gather blocks by index.

        Args:
            videos: (B,) numbers of the videos.
            frames: (B, T) frame indices within the videos.
            device: where the blocks are wanted.
            turns: (V,) of this epoch, with ``resident="rotate"``.

        Returns:
            Each input (B, T, …) on the device; but where the cubes lie on the device already, all of them (N, K, D) as
            ``cube``, and as ``rows`` (B, T) which of them the blocks hold.
        """
        rows = torch.from_numpy((self.offsets[videos][:, None] + frames).ravel())  # (B · T,)
        found = {}
        for name in self.inputs:
            if name == "cube" and self.resident == "mmap":
                found[name] = self._gather_mapped(videos, frames).to(device, non_blocking=True)
            elif name == "cube" and self.resident == "rotate":
                assert turns is not None
                found[name], found["rows"] = self._rotating(device).locate(videos, frames, turns)
            elif name == "cube" and self._load(name, device).device == device:
                found[name], found["rows"] = self._load(name, device), rows.view(frames.shape).to(device)
            else:
                found[name] = _select(self._load(name, device), rows, device).unflatten(0, frames.shape)
        return found

    def stretch(self, video: int, frames: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """Gather frames of one video, each input (n, …) on the device; read from the files where they are not in memory."""
        found = {}
        for name in self.inputs:
            if name in self._whole:
                first, last = frames[[0, -1]] + self.offsets[video]
                steps = np.diff(frames)
                even = len(frames) == 1 or (steps[0] > 0 and (steps == steps[0]).all())  # a short video repeats its last
                rows = slice(first, last + 1, int(steps[0]) if len(steps) else 1) if even else frames + self.offsets[video]
                found[name] = self._whole[name][rows].to(device, non_blocking=True)
            else:
                source = self._map(video) if name == "cube" else self.store.pooled(self.names[video])[:, _PART[name]]
                wanted = np.ascontiguousarray(source[frames])
                if name == "cube":
                    self.store.require_finite(self.names[video], wanted, int(frames[0]))
                found[name] = torch.from_numpy(wanted).to(device, non_blocking=True)
        return found

    def _map(self, video: int) -> np.ndarray:
        if video not in self._mapped:
            self._mapped[video] = self.store.read(self.names[video])
        return self._mapped[video]

    def _read_finite(self, video: int) -> np.ndarray:
        cubes = self._map(video)
        if video not in self._finite:
            self.store.require_finite(self.names[video], cubes)
            self._finite.add(video)
        return cubes

    def _gather_mapped(self, videos: np.ndarray, frames: np.ndarray) -> Tensor:
        return torch.from_numpy(np.stack([self._map(int(v))[steps] for v, steps in zip(videos, frames, strict=True)]))

    def _load(self, name: str, device: torch.device) -> Tensor:
        """Read one input of all frames to where the pool is to lie."""
        if name not in self._whole:
            shape, dtype = (self.store.locations, self.store.channels), torch.float16
            if name != "cube":
                shape, dtype = (self.store.channels,), torch.float32
            frames = torch.empty(int(self.num_frames.sum()), *shape, dtype=dtype)
            for video, offset, count in zip(self.names, self.offsets, self.num_frames, strict=True):
                source = self.store.read(video) if name == "cube" else self.store.pooled(video)[:, _PART[name]]
                frames[offset : offset + count].numpy()[:] = source
                if name == "cube":
                    self.store.require_finite(video, frames[offset : offset + count].numpy())
            self._whole[name] = frames.to(device) if self.resident in ("gpu", "rotate") else frames
        return self._whole[name]

    def _rotating(self, device: torch.device) -> Rotation:
        if self._rotation is None:
            self._rotation = Rotation(self._read_finite, self.num_frames, device)
        return self._rotation


_PART = {"mean": 0, "max": 1}  # of the store's pooled frames


def _select(pool: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Rows of the pool on a device, through page-locked memory where they cross a bus."""
    if pool.device == device or device.type == "cpu":
        return pool.index_select(0, rows.to(pool.device))
    staging = torch.empty(len(rows), *pool.shape[1:], dtype=pool.dtype, pin_memory=device.type == "cuda")
    return torch.index_select(pool, 0, rows, out=staging).to(device, non_blocking=True)
