"""The LightningDataModules: a set's blocks of feature cubes, in global batches, dealt to ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from datamodules import hmdb51, hollywood2, sports1m, ucf11, ucf101, videofolder
from datamodules.batches import Subset
from datamodules.blocks import (
    BLOCK_LENGTH,
    NATIVE_FPS,
    BlockIndex,
    Share,
    Span,
    deal,
    evaluation_spans,
    packed,
    rotation,
    skip_of,
    training_order,
    training_shares,
)
from datamodules.boxes import cell_coverage, centres_inside, read_boxes
from datamodules.features import FeatureStore
from datamodules.folds import sides
from datamodules.parts import WHOLE, Part
from datamodules.pool import INPUTS, RAM_SHARE, RESIDENT, FramePool, frame_bytes, free_gpu_memory, free_memory
from datamodules.stored_videos import usable
from datamodules.videos import DataError, Reader, Video, targets_of
from datamodules.viper import annotated_boxes

BOXES = "boxes.csv"
DENSE_BLOCKS = 512  # blocks of a video that are tested at once; bounds the memory that a long one takes


class VideoDataModule(LightningDataModule):
    """Blocks of one data set, from a finished feature store.

    Args:
        root: the data set's folder, in its official layout.
        features: the feature store's folder.
        split: the data set's split; None for its default.
        fps: nominal sampling rate; frames are taken ``int(30 / fps)`` apart.
        stride: frames between two blocks of a video; the paper's is 1.
        batch_size: blocks of a batch, over all ranks.
        train_on_all: train on all of train and validate on nothing (the protocol's second stage), instead of holding
            15 % of train out.
        seed: of the order of blocks.
        resident: where the features lie while training, see ``FramePool``; ``auto`` takes the GPU or, without one, main
            memory, if they fit into the budget, and lets them rotate through it if not.
        gpu_budget: bytes of each GPU's memory for features, if so many are free besides the reserve.
        gpu_reserve: bytes of each GPU's free memory that features leave to the network and its batches.
        ram_budget: bytes of each process's main memory for features; None for its part of half of what is free.
        skip_bad: leave out videos that are missing or do not decode, and say so, instead of raising.
        keep_damaged: take damaged videos whose store has what decodes of them, and say so, instead of raising.
        fold: (i, n) to validate on the i-th of n group-aware folds of train, from 1, and to train on the others.
        reader: module that reads the data set; None for the class's own.
        part: of the data set.

    Raises:
        DataError: what is on disk is not the data set, the feature store lacks videos, or it holds drawn blocks and
            ``fps`` and ``stride`` are not 30.
    """

    reader: Reader | None = None
    """The module that reads the data set."""

    def __init__(
        self,
        root: Path,
        features: Path,
        split: str | None = None,
        fps: float = 30,
        stride: int = 1,
        batch_size: int = 128,
        train_on_all: bool = False,
        seed: int = 0,
        resident: str = "auto",
        gpu_budget: int = 60 * 2**30,
        gpu_reserve: int = 8 * 2**30,
        ram_budget: int | None = None,
        skip_bad: bool = False,
        fold: tuple[int, int] | None = None,
        reader: Reader | None = None,
        part: Part = WHOLE,
        keep_damaged: bool = False,
    ) -> None:
        super().__init__()
        reader = reader or self.reader
        if reader is None:
            raise TypeError(
                "VideoDataModule needs reader=, a module such as datamodules.ucf11 (datamodules/README.md says what it must "
                "offer); or take the data set's own class, such as datamodules.UCF11DataModule"
            )
        if stride < 1 or batch_size < 1:
            raise ValueError(f"stride={stride}, batch_size={batch_size}: both must be at least 1")
        self.skip, self.stride, self.batch_size = skip_of(fps), stride, batch_size
        if resident not in RESIDENT:
            raise ValueError(f"resident={resident!r} is none of {', '.join(RESIDENT)}")
        self.train_on_all, self.fold, self.seed = train_on_all, fold, seed
        self.inputs: tuple[str, ...] = INPUTS
        """What the network needs of each frame: some of ``cube``, ``mean`` and ``max``; nothing else is read."""
        self.length = BLOCK_LENGTH
        """Steps T of a block; set before the first batch."""
        self.together = False
        """Whether short videos are evaluated several at a time on GPUs, where a pass of one leaves most of the device idle."""
        self.resident, self.gpu_budget, self.gpu_reserve, self.ram_budget = resident, gpu_budget, gpu_reserve, ram_budget
        self.store = FeatureStore(Path(features))
        if self.store.exists() and self.store.drawn and (self.skip, stride) != (1, BLOCK_LENGTH):
            raise DataError(
                f"fps={fps:g}, stride={stride}: {self.store.path.resolve()} holds blocks that were drawn ({self.store.drawn}); "
                f"read them with fps={NATIVE_FPS} and stride={BLOCK_LENGTH}, so that no block spans two"
            )
        annotation = reader.read(Path(root), split or reader.DEFAULT_SPLIT, skip_bad, part)
        self.annotation = usable(annotation, self.store, skip_bad, keep_damaged)
        self.capacity: int | None = None
        """Frames that rotate through memory at a time; None where all of them fit."""
        self._subsets: dict[tuple, Subset] = {}
        self._pools: dict[str, tuple[np.ndarray, FramePool]] = {}  # with the rank that owns each video
        path = Path(root) / BOXES
        self._box_notes: list[str] = []
        if path.is_file():
            self._boxes = read_boxes(path)
        else:
            find = getattr(reader, "annotation_files", None)
            files = find(self.annotation.folder) if find else {}
            self._boxes, self._box_notes = annotated_boxes(files, self.annotation, self.store)

    @property
    def map_shape(self) -> tuple[int, int]:
        """Shape of a frame's feature cube, (K, D)."""
        return self.store.locations, self.store.channels

    @property
    def has_boxes(self) -> bool:
        """Whether the data set says where the actor is."""
        return bool(self._boxes)

    def videos(self, which: str) -> tuple[Video, ...]:
        """Videos of ``train``, ``val`` or ``test``, in a fixed order."""
        return sides(self.annotation, which, self.train_on_all, self.fold)

    def block_counts(self, which: str) -> np.ndarray:
        """(V,) blocks of each video of a set."""
        return self._subset(which).index.counts

    def targets(self, which: str) -> np.ndarray:
        """(V,) class ids, or (V, C) labels: see ``targets_of``."""
        return self._subset(which).targets

    @property
    def notes(self) -> list[str]:
        """What every table made with this data module has to say about it."""
        rotating = [
            f"{self.annotation.data}: features exceeded memory; blocks were shuffled within a pool of {self.capacity} frames, "
            "through which whole videos rotate, each once an epoch"
        ]
        return [*self._box_notes, *(rotating if self.capacity is not None else [])]

    def _subset(self, which: str) -> Subset:
        key = which, self.train_on_all, self.fold
        if key not in self._subsets:
            side = "test" if which == "test" else "train"
            videos: tuple[Video, ...] = getattr(self.annotation, side)
            if side not in self._pools:
                self._pools[side] = self._pool(videos, "mmap" if side == "test" else self._place(videos))
            owners, pool = self._pools[side]
            owner = dict(zip((video.name for video in videos), owners, strict=True))
            mine = self.videos(which)
            self._subsets[key] = Subset(
                videos=mine,
                targets=targets_of(mine, self.annotation),
                index=self._blocks(mine),
                owners=np.asarray([owner[video.name] for video in mine], dtype=int),
                pool=pool,
            )
        return self._subsets[key]

    def _pool(self, videos: tuple[Video, ...], resident: str) -> tuple[np.ndarray, FramePool]:
        """Deal videos to ranks, longest first to the one with least; returns each video's rank, and this rank's pool."""
        rank, world_size = self._ranks()
        counts = self._blocks(videos).counts
        owners = np.zeros(len(videos), dtype=np.int64)
        for number, hand in enumerate(deal(counts, world_size)):
            owners[hand] = number
        names = [video.name for video, owner in zip(videos, owners, strict=True) if owner == rank]
        return owners, FramePool(self.store, names, self.inputs, resident, self.capacity)

    def _blocks(self, videos: tuple[Video, ...]) -> BlockIndex:
        return BlockIndex([self.store.frames(video.name) for video in videos], self.skip, self.stride, self.length)

    def _place(self, videos: tuple[Video, ...]) -> str:
        """Choose where the frames of train lie; all ranks agree, because the order of blocks depends on it."""
        strategy = getattr(self.trainer, "strategy", None)
        _, world_size = self._ranks()
        num_frames = np.asarray([self.store.frames(video.name) for video in videos])
        share = num_frames.sum() / world_size + num_frames.max()  # of a rank, at most
        needed = share * frame_bytes(self.store, self.inputs)
        on_gpu = self._on_gpu
        if strategy is not None and on_gpu:
            budget = min(self.gpu_budget, free_gpu_memory(strategy.root_device, self.gpu_reserve))
        elif self.ram_budget is not None:
            budget = self.ram_budget
        else:
            budget = int(RAM_SHARE * free_memory() / getattr(self.trainer, "num_devices", 1))
        place = self.resident
        if place == "auto":
            fits = needed <= budget or "cube" not in self.inputs
            place = ("gpu" if on_gpu else "ram") if fits else "rotate"
        if place == "rotate" and "cube" in self.inputs:
            pooled = share * frame_bytes(self.store, [name for name in self.inputs if name != "cube"])  # stay in memory
            self.capacity = max(1, int((budget - pooled) // frame_bytes(self.store, ["cube"])))
            try:
                rotation(num_frames, np.zeros(len(videos), dtype=np.int64), self.capacity, self.seed, 0)
            except ValueError as error:
                where = "data.gpu_budget" if on_gpu else "data.ram_budget"
                raise DataError(f"{self.annotation.data}: {error}; set {where} higher, or data.resident=mmap") from error
        if strategy is not None:
            place, self.capacity = strategy.broadcast((place, self.capacity))
        return place

    @property
    def _on_gpu(self) -> bool:
        strategy = getattr(self.trainer, "strategy", None)
        return strategy is not None and strategy.root_device.type == "cuda"

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        """This rank's shares of shuffled global batches, another order each epoch.

        Raises:
            DataError: there are more ranks than videos, or the features cannot rotate within the budget.
        """
        subset = self._subset("train")
        steps = -(-len(subset.index) // self.batch_size)
        rank, _ = self._ranks()
        owners = np.repeat(subset.owners, subset.index.counts)

        def shares() -> Iterator[Share]:
            epoch, turns = self._epoch(steps), None
            if self.capacity is not None:
                turns = rotation(subset.index.num_frames, subset.owners, self.capacity, self.seed, epoch)
            order = training_order(subset.index, self.seed, epoch, turns)
            try:
                yield from training_shares(order, self.batch_size, owners, rank, turns, even=self._on_gpu)
            except ValueError as error:
                raise DataError(f"{self.annotation.data}: {error}; set trainer.devices lower") from error

        return DataLoader(Batches(shares, steps), batch_size=None)

    def _epoch(self, steps: int) -> int:
        """The running epoch, of so many steps."""
        # Not trainer.current_epoch: when a run resumes, the first batch is fetched before Lightning has counted on.
        return self.trainer.global_step // steps if self.trainer else 0

    def val_dataloader(self) -> DataLoader | list:
        """Every block of the held-out videos, each video on the rank that holds it; nothing when training on all."""
        return [] if self.train_on_all else self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader:
        """Every block of the test videos, whole videos dealt to ranks."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, which: str) -> DataLoader:
        subset = self._subset(which)
        mine = np.flatnonzero(subset.owners == self._ranks()[0])
        spans: list[Any] = list(evaluation_spans(subset.index, mine.tolist(), DENSE_BLOCKS))
        if self.together and self._on_gpu:
            spans = list(packed(spans, DENSE_BLOCKS))
        return DataLoader(Batches(lambda: iter(spans), len(spans)), batch_size=None)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Gather a share's blocks, or a span's frames, on the device."""
        if isinstance(batch, Share):
            return self._subset("train").batch(batch, device)
        if isinstance(batch, list):
            return [self.transfer_batch_to_device(span, device, dataloader_idx) for span in batch]
        if isinstance(batch, Span):
            testing = bool(self.trainer and self.trainer.testing)
            subset = self._subset("test" if testing else "val")
            cells = self.cells(subset.videos[batch.video]) if testing else None
            return subset.dense_batch(batch, self.store.grid, cells, device)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def cells(self, video: Video) -> tuple[np.ndarray, np.ndarray] | None:
        """Covered share of each cell and whether its centre is covered, (F, K) each, nan in frames without a box.

        None where the data set has no boxes.
        """
        if not self._boxes:
            return None
        known = self._boxes.get(video.name, np.empty((0, 4)))
        frames = self.store.source_frames(video.name)
        boxes = np.full((len(frames), *known.shape[1:]), np.nan)
        boxes[frames < len(known)] = known[frames[frames < len(known)]]
        return cell_coverage(boxes, self.store.grid), centres_inside(boxes, self.store.grid)


class Batches(IterableDataset):
    """The batches of one epoch of training, or of one evaluation, and how many they are."""

    def __init__(self, make: Callable[[], Iterator[Any]], length: int) -> None:
        self.make, self.length = make, length

    def __iter__(self) -> Iterator[Any]:
        return self.make()

    def __len__(self) -> int:
        return self.length


class UCF11DataModule(VideoDataModule):
    """UCF-11; splits ``paper_like``, ``logo-1`` … ``logo-25``, ``random``. Validation holds groups out."""

    reader = ucf11


class HMDB51DataModule(VideoDataModule):
    """HMDB-51; splits ``1``, ``2``, ``3``. Validation holds source titles out."""

    reader = hmdb51


class Hollywood2DataModule(VideoDataModule):
    """Hollywood2, 12 labels, several a clip; split ``official``. Validation holds random clips out."""

    reader = hollywood2


class UCF101DataModule(VideoDataModule):
    """UCF-101; splits ``1``, ``2``, ``3``. Validation holds groups out."""

    reader = ucf101


class Sports1MDataModule(VideoDataModule):
    """Sports-1M, what lies on disk of it; 487 labels, one or several a video; split ``original``."""

    reader = sports1m


class VideoFolderDataModule(VideoDataModule):
    """Anybody's videos; splits ``default``, ``seed-<n>``. Validation holds groups out."""

    reader = videofolder
