"""A set's frames, gathered into blocks by index from where they lie: GPU, host memory, the mapped files, or in turns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from datamodules.features import FeatureStore
from datamodules.rotation import Rotation

RESIDENT = ("auto", "gpu", "ram", "mmap", "rotate")
INPUTS = ("cube", "mean", "max")
ALIGNED = 16  # bytes; arrays that share a transfer begin at multiples of it
RAM_SHARE = 0.5  # of the machine's free memory that ``auto`` may fill; networks and batches need the rest


def free_memory() -> int:
    """Bytes of main memory that are free."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_gpu_memory(device: torch.device, reserve: int) -> int:
    """Bytes of a GPU's memory that are free for features, besides a reserve for networks and batches."""
    return max(0, torch.cuda.mem_get_info(device)[0] - reserve)


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
        capacity: with ``rotate``, frames of the turns that are in memory at a time; None for all.
    """

    def __init__(
        self, store: FeatureStore, names: Sequence[str], inputs: Sequence[str], resident: str, capacity: int | None = None
    ) -> None:
        self.store, self.names, self.inputs, self.resident = store, list(names), tuple(inputs), resident
        self.capacity = capacity
        self.num_frames = np.asarray([store.frames(name) for name in self.names], dtype=np.int64)
        self.offsets = np.cumsum(self.num_frames) - self.num_frames  # (V,) first frame of each video in the pool
        self._whole: dict[str, Tensor] = {}  # (N, …) of each input
        self._mapped: dict[int, np.ndarray] = {}
        self._finite: set[int] = set()  # videos known to hold finite numbers alone
        self._rotation: Rotation | None = None
        if "cube" not in self.inputs and resident in ("mmap", "rotate"):
            self.resident = "ram"

    def gather(
        self,
        videos: np.ndarray,
        frames: np.ndarray,
        device: torch.device,
        turns: np.ndarray | None = None,
        also: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, Tensor]:
        """Gather blocks by index.

        Args:
            videos: (B,) numbers of the videos.
            frames: (B, T) frame indices within the videos.
            device: where the blocks are wanted.
            turns: (V,) of this epoch, with ``resident="rotate"``.
            also: small arrays that go to the device together with the indices, in one transfer.

        Returns:
            Each input (B, T, …) on the device; but where the cubes lie on the device already, all of them (N, K, D) as
            ``cube``, and as ``rows`` (B, T) which of them the blocks hold; rotating ones change with the next gather. And
            what ``also`` names.
        """
        rows = self.offsets[videos][:, None] + frames  # (B, T)
        found: dict[str, Tensor] = {}
        small = dict(also or {})
        if "cube" in self.inputs and self.resident == "rotate":
            assert turns is not None
            found["cube"], small["rows"] = self._rotating(device).locate(videos, frames, turns)
        elif "cube" in self.inputs and self.resident == "mmap":
            found["cube"] = self._gather_mapped(videos, frames, device)
        loaded = {name: self._load(name, device) for name in self.inputs if name not in found}
        if "cube" in loaded and loaded["cube"].device == device:
            found["cube"], small["rows"] = loaded.pop("cube"), rows
        if any(pool.device == device for pool in loaded.values()):
            small["of_pool"] = rows
        sent = send(small, device)
        selected = sent.pop("of_pool", None)
        for name, pool in loaded.items():
            if pool.device == device:
                assert selected is not None
                found[name] = pool.index_select(0, selected.flatten()).unflatten(0, rows.shape)
            else:
                found[name] = _select(pool, rows, device)
        return found | sent

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

    def _gather_mapped(self, videos: np.ndarray, frames: np.ndarray, device: torch.device) -> Tensor:
        found = [self._map(int(video))[steps] for video, steps in zip(videos, frames, strict=True)]
        host = _host(device, len(found), *found[0].shape, dtype=torch.float16)
        np.stack(found, out=host.numpy())
        return host.to(device, non_blocking=True)

    def _load(self, name: str, device: torch.device) -> Tensor:
        """Read one input of all frames to where the pool is to lie; a GPU's goes there video by video."""
        if name not in self._whole:
            shape, dtype = (self.store.locations, self.store.channels), torch.float16
            if name != "cube":
                shape, dtype = (self.store.channels,), torch.float32
            place = device if self.resident in ("gpu", "rotate") else torch.device("cpu")
            pool = torch.empty(int(self.num_frames.sum()), *shape, dtype=dtype, device=place)
            longest = int(self.num_frames.max(initial=0))
            staging = None if place.type == "cpu" else _host(place, longest, *shape, dtype=dtype)
            for video, offset, count in zip(self.names, self.offsets, self.num_frames, strict=True):
                source = self.store.read(video) if name == "cube" else self.store.pooled(video)[:, _PART[name]]
                here = pool[offset : offset + count] if staging is None else staging[:count]
                here.numpy()[:] = source
                if name == "cube":
                    self.store.require_finite(video, here.numpy())
                if staging is not None:
                    pool[offset : offset + count].copy_(here)  # waits, since the next video takes the same memory
            self._whole[name] = pool
        return self._whole[name]

    def _rotating(self, device: torch.device) -> Rotation:
        if self._rotation is None:
            capacity = 2 * int(self.num_frames.sum()) if self.capacity is None else self.capacity
            self._rotation = Rotation(self._read_finite, self.num_frames, device, capacity)
        return self._rotation


_PART = {"mean": 0, "max": 1}  # of the store's pooled frames


def send(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Copy small arrays to a device in one transfer, from page-locked memory, for which a GPU's host does not wait."""
    if device.type == "cpu" or not arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    begins = np.cumsum([0, *(-(-array.nbytes // ALIGNED) * ALIGNED for array in arrays.values())]).tolist()
    host = _host(device, begins[-1], dtype=torch.uint8)
    for begin, array in zip(begins, arrays.values(), strict=False):
        host[begin : begin + array.nbytes].copy_(torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
    there, found = host.to(device, non_blocking=True), {}
    for begin, (name, array) in zip(begins, arrays.items(), strict=False):
        dtype = torch.from_numpy(array[:0]).dtype
        found[name] = there[begin : begin + array.nbytes].view(dtype).view(array.shape)
    return found


def _select(pool: Tensor, rows: np.ndarray, device: torch.device) -> Tensor:
    """Rows (B, T) of a pool that lies elsewhere than on the device, through page-locked memory where they cross a bus."""
    staging = _host(device, rows.size, *pool.shape[1:], dtype=pool.dtype)
    torch.index_select(pool, 0, torch.from_numpy(rows.ravel()), out=staging)
    return staging.to(device, non_blocking=True).unflatten(0, rows.shape)


def _host(device: torch.device, *shape: int, dtype: torch.dtype) -> Tensor:
    """Make a tensor on the CPU from which a device is filled, page-locked where that is a GPU of CUDA's."""
    return torch.empty(*shape, dtype=dtype, device="cpu", pin_memory=device.type == "cuda")
