"""A set's feature cubes, gathered into blocks by index from where they lie: GPU, host memory, or the mapped files."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datamodules.features import FeatureStore

RESIDENT = ("auto", "gpu", "ram", "mmap")
GPU_SHARE = 0.6  # of the GPU's free memory that ``auto`` may fill; networks and batches need the rest
RAM_SHARE = 0.5  # of the machine's free memory that a pool may fill before ``auto`` reads from the mapped files


class FramePool:
    """The frames of some videos.

    Args:
        store: a finished feature store.
        names: the videos.
        resident: ``ram`` copies the frames into one contiguous tensor; ``mmap`` reads the files at each gather, through
            the system's page cache; ``gpu`` copies to the device at the first gather; ``auto`` takes the first of gpu
            (within ``gpu_budget`` and 60 % of the device's free memory), ram (within half of the free memory) and mmap.
        gpu_budget: bytes of device memory that ``auto`` may take.
    """

    def __init__(self, store: FeatureStore, names: Sequence[str], resident: str = "auto", gpu_budget: int = 0) -> None:
        self.store, self.names = store, list(names)
        self.num_frames = np.asarray([store.frames(name) for name in self.names], dtype=np.int64)
        self.offsets = np.cumsum(self.num_frames) - self.num_frames  # (V,) first frame of each video in the pool
        self.gpu_budget = gpu_budget
        self.resident = self._choose(resident)
        self._frames: Tensor | None = None  # (N, K, D)
        self._mapped: dict[int, np.ndarray] = {}

    @property
    def nbytes(self) -> int:
        """Size of all frames."""
        rows, columns = self.store.grid
        return int(self.num_frames.sum()) * rows * columns * self.store.channels * 2

    def _choose(self, resident: str) -> str:
        if resident not in RESIDENT:
            raise ValueError(f"resident={resident!r} is none of {', '.join(RESIDENT)}")
        if resident != "auto":
            return resident
        if torch.cuda.is_available() and self.nbytes <= min(self.gpu_budget, GPU_SHARE * torch.cuda.mem_get_info()[0]):
            return "gpu"
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return "ram" if self.nbytes <= RAM_SHARE * free else "mmap"

    def gather(self, videos: np.ndarray, frames: np.ndarray, device: torch.device) -> Tensor:
        """Blocks by index.

        Args:
            videos: (B,) numbers of the videos.
            frames: (B, T) frame indices within the videos.
            device: where the blocks are wanted.

        Returns:
            X (B, T, K, D) float16 on the device.
        """
        if self.resident == "mmap":
            blocks = np.stack([self._map(int(v))[steps] for v, steps in zip(videos, frames, strict=True)])
            return torch.from_numpy(blocks).to(device, non_blocking=True)
        pool = self._load(device)
        rows = torch.from_numpy(self.offsets[videos][:, None] + frames).to(pool.device)  # (B, T)
        return pool[rows].to(device, non_blocking=True)

    def _map(self, video: int) -> np.ndarray:
        if video not in self._mapped:
            self._mapped[video] = self.store.read(self.names[video])
        return self._mapped[video]

    def _load(self, device: torch.device) -> Tensor:
        if self._frames is None:
            rows, columns = self.store.grid
            shape = (int(self.num_frames.sum()), rows * columns, self.store.channels)
            frames = torch.empty(shape, dtype=torch.float16)
            for name, offset, count in zip(self.names, self.offsets, self.num_frames, strict=True):
                frames[offset : offset + count] = torch.from_numpy(np.array(self.store.read(name)))
            self._frames = frames.to(device) if self.resident == "gpu" else frames
        return self._frames
