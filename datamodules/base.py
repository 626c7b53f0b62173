"""The LightningDataModules: a set's blocks of feature cubes, in global batches, dealt to ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from datamodules import hmdb51, hollywood2, ucf11, videofolder
from datamodules.blocks import BlockIndex, Share, evaluation_shares, skip_of, training_shares
from datamodules.boxes import cell_coverage, read_boxes
from datamodules.features import FeatureStore, usable
from datamodules.pool import FramePool
from datamodules.videos import Annotation, DataError, Video, hold_out

BOXES = "boxes.csv"
HOLDOUT_FRACTION = 0.15  # the authors' (issue 13 of the released code): 15 % of train
HOLDOUT_SEED = 0


class Batch(NamedTuple):
    """One rank's share of a global batch of blocks.

    Args:
        X: (b, T, K, D) float16 feature cubes.
        target: (b,) class ids, or (b, C) zeros and ones for multi-label.
        video: (b,) number of each block's video in its set.
        weight: (b,) 1, or 0 for a block that does not count.
        batch_size: blocks of the global batch.
        coverage: (b, T, K) share of each cell that the actor's box covers, where the data set has boxes.
    """

    X: Tensor
    target: Tensor
    video: Tensor
    weight: Tensor
    batch_size: int
    coverage: Tensor | None


class _Shares(IterableDataset):
    """The shares of one epoch, and how many they are."""

    def __init__(self, make: Callable[[], Iterator[Share]], length: int) -> None:
        self.make, self.length = make, length

    def __iter__(self) -> Iterator[Share]:
        return self.make()

    def __len__(self) -> int:
        return self.length


class _Subset:
    """The blocks of one of train, val and test."""

    def __init__(self, module: VideoDataModule, videos: tuple[Video, ...], pool: FramePool) -> None:
        position = {name: number for number, name in enumerate(pool.names)}
        self.videos, self.pool = videos, pool
        self.in_pool = np.asarray([position[video.name] for video in videos], dtype=np.int64)  # (V,) numbers in the pool
        self.index = BlockIndex(pool.num_frames[self.in_pool], module.skip, module.stride)
        self.targets = targets_of(videos, module.annotation)

    def batch(self, share: Share, coverage: Callable[[Video], np.ndarray | None], device: torch.device) -> Batch:
        """The blocks of a share on a device."""
        videos, frames = self.index.locate(share.blocks)
        covered = [coverage(self.videos[v]) for v in videos]
        return Batch(
            X=self.pool.gather(self.in_pool[videos], frames, device),
            target=torch.from_numpy(self.targets[videos]).to(device),
            video=torch.from_numpy(videos).to(device),
            weight=torch.from_numpy(share.weights).to(device),
            batch_size=share.batch_size,
            coverage=_stack(covered, frames, device),
        )


def _stack(covered: list[np.ndarray | None], frames: np.ndarray, device: torch.device) -> Tensor | None:
    if any(cells is None for cells in covered):
        return None
    return torch.from_numpy(np.stack([cells[f] for cells, f in zip(covered, frames, strict=True)])).to(device)  # type: ignore[index]


def targets_of(videos: tuple[Video, ...], annotation: Annotation) -> np.ndarray:
    """(V,) int64 class ids, or (V, C) int64 zeros and ones for multi-label."""
    if not annotation.multi_label:
        return np.asarray([video.labels[0] for video in videos], dtype=np.int64)
    hot = np.zeros((len(videos), len(annotation.classes)), dtype=np.int64)
    for row, video in enumerate(videos):
        hot[row, list(video.labels)] = 1
    return hot


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
        resident: where the features lie while training, see ``FramePool``.
        gpu_budget: bytes of GPU memory for features under ``resident="auto"``.
        skip_bad: leave out videos that are missing or do not decode, and say so, instead of raising.

    Raises:
        DataError: what is on disk is not the data set, or the feature store lacks videos.
    """

    read: ClassVar[Callable[..., Annotation]]
    default_split: ClassVar[str]

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
        gpu_budget: int = 0,
        skip_bad: bool = False,
    ) -> None:
        super().__init__()
        if stride < 1 or batch_size < 1:
            raise ValueError(f"stride={stride}, batch_size={batch_size}: both must be at least 1")
        self.skip, self.stride, self.batch_size = skip_of(fps), stride, batch_size
        self.train_on_all, self.seed = train_on_all, seed
        self.resident, self.gpu_budget = resident, gpu_budget
        self.store = FeatureStore(Path(features))
        annotation = type(self).read(Path(root), split or self.default_split, skip_bad)
        self.annotation = usable(annotation, self.store, skip_bad)
        self._subsets: dict[str, _Subset] = {}
        self._pools: dict[str, FramePool] = {}
        path = Path(root) / BOXES
        self._boxes = read_boxes(path) if path.is_file() else {}
        self._coverage: dict[str, np.ndarray] = {}

    @property
    def map_shape(self) -> tuple[int, int]:
        """(K, D)."""
        rows, columns = self.store.grid
        return rows * columns, self.store.channels

    @property
    def has_boxes(self) -> bool:
        """Whether the data set says where the actor is."""
        return bool(self._boxes)

    def videos(self, which: str) -> tuple[Video, ...]:
        """Videos of ``train``, ``val`` or ``test``, in a fixed order."""
        if which == "test":
            return self.annotation.test
        if self.train_on_all:
            return self.annotation.train if which == "train" else ()
        kept, held = hold_out(self.annotation.train, HOLDOUT_FRACTION, HOLDOUT_SEED)
        if not held:
            raise DataError(
                f"{self.annotation.data}: no video can be held out of train for validation, because each class comes from "
                "one source only; name more groups in videos.csv"
            )
        return kept if which == "train" else held

    def block_counts(self, which: str) -> np.ndarray:
        """(V,) blocks of each video of a set."""
        return self._subset(which).index.counts

    def targets(self, which: str) -> np.ndarray:
        """(V,) class ids, or (V, C) zeros and ones."""
        return self._subset(which).targets

    def _subset(self, which: str) -> _Subset:
        if which not in self._subsets:
            side = "test" if which == "test" else "train"
            if side not in self._pools:
                names = [video.name for video in getattr(self.annotation, side)]
                self._pools[side] = FramePool(self.store, names, self.resident, self.gpu_budget)
            self._subsets[which] = _Subset(self, self.videos(which), self._pools[side])
        return self._subsets[which]

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        """This rank's shares of shuffled global batches, another order each epoch."""
        total = len(self._subset("train").index)
        steps = -(-total // self.batch_size)
        rank, world_size = self._ranks()

        def shares() -> Iterator[Share]:
            # Not trainer.current_epoch: when a run resumes, the first batch is fetched before Lightning has counted on.
            epoch = self.trainer.global_step // steps if self.trainer else 0
            return training_shares(total, self.batch_size, self.seed, epoch, rank, world_size)

        return DataLoader(_Shares(shares, steps), batch_size=None)

    def val_dataloader(self) -> DataLoader | list:
        """Every block of the held-out videos, whole videos dealt to ranks; nothing when training on all."""
        return [] if self.train_on_all else self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader:
        """Every block of the test videos, whole videos dealt to ranks."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, which: str) -> DataLoader:
        shares = list(evaluation_shares(self._subset(which).index, self.batch_size, *self._ranks()))
        return DataLoader(_Shares(lambda: iter(shares), len(shares)), batch_size=None)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Gather a share's blocks where the arithmetic is."""
        if not isinstance(batch, Share):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        trainer = self.trainer
        testing, training = bool(trainer and trainer.testing), bool(trainer and trainer.training)
        which = "test" if testing else "train" if training else "val"
        coverage = self._covered if testing else lambda _: None
        return self._subset(which).batch(batch, coverage, device)

    def _covered(self, video: Video) -> np.ndarray | None:
        """(F, K) covered share of each cell, or None where the data set has no boxes; nan where a video has none."""
        if not self._boxes:
            return None
        if video.name not in self._coverage:
            boxes = np.full((self.store.frames(video.name), 4), np.nan)
            known = self._boxes.get(video.name, boxes)[: len(boxes)]
            boxes[: len(known)] = known
            self._coverage[video.name] = cell_coverage(boxes, self.store.grid)
        return self._coverage[video.name]


class UCF11DataModule(VideoDataModule):
    """UCF-11; splits ``paper_like``, ``logo-1`` … ``logo-25``, ``random``. Validation holds groups out."""

    read = staticmethod(ucf11.read)
    default_split = "paper_like"


class HMDB51DataModule(VideoDataModule):
    """HMDB-51; splits ``1``, ``2``, ``3``. Validation holds source titles out."""

    read = staticmethod(hmdb51.read)
    default_split = "1"


class Hollywood2DataModule(VideoDataModule):
    """Hollywood2, 12 labels, several a clip; split ``official``. Validation holds random clips out."""

    read = staticmethod(hollywood2.read)
    default_split = "official"


class VideoFolderDataModule(VideoDataModule):
    """Anybody's videos; splits ``default``, ``seed-<n>``. Validation holds groups out."""

    read = staticmethod(videofolder.read)
    default_split = "default"
