"""What streams see: draws of (video, frame, crop) that are uniform over classes, and a test video's equally spaced frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.base import Batches
from datamodules.folds import Fold, sides
from datamodules.pool import RAM_SHARE, free_memory
from datamodules.stores import Store
from datamodules.videos import Annotation, Video, strata, targets_of


class DrawnBatch(NamedTuple):
    """A rank's share of a batch of draws.

    Args:
        x: (b, …) what each draw sees.
        target: (b,) class ids, or (b, C) zeros and ones for multi-label.
        batch_size: draws of the global batch.
        second: draws of the second data set, where there is one.
    """

    x: torch.Tensor
    target: torch.Tensor
    batch_size: int
    second: DrawnBatch | None = None


class VideoBatch(NamedTuple):
    """The frames of a video that are scored.

    Args:
        x: (n, …).
        video: its number in the set.
    """

    x: torch.Tensor
    video: int


def equal_steps(length: int, count: int) -> np.ndarray:
    """Choose n of F places equally far apart, t_j = round((j + ½) F / n − ½); where F < n, some repeatedly.

    Args:
        length: F.
        count: n.
    """
    return np.rint((np.arange(count) + 0.5) * length / count - 0.5).astype(int).clip(0, length - 1)


class Draws:
    """Draws videos, each class with the same probability, and each video of it.

    A video of several labels belongs to each; those without any are a class of their own.

    Args:
        videos: to draw from.
    """

    def __init__(self, videos: tuple[Video, ...]) -> None:
        members: dict[int, list[int]] = {}
        for number, video in enumerate(videos):
            for label in strata([video]):
                members.setdefault(label, []).append(number)
        self.members = [np.asarray(members[label]) for label in sorted(members)]

    def videos(self, random: np.random.Generator, count: int) -> np.ndarray:
        """(count,) numbers of videos."""
        classes, places = random.integers(len(self.members), size=count), random.random(count)
        chosen = [self.members[c][int(place * len(self.members[c]))] for c, place in zip(classes, places, strict=True)]
        return np.asarray(chosen)


class StreamDataModule(LightningDataModule):
    """Draws for training, and whole videos for validation and test, from a finished store.

    Args:
        annotation: the data set, without videos that do not decode.
        store: with a row a frame, or a row a flow field.
        batch_size: draws of a batch, over all ranks.
        steps: batches of an epoch.
        seed: of the draws.
        scored: n, frames of a video, or stacks of fields, that are scored.
        length: L of consecutive fields that one draw sees; None where it sees a row.
        crops: of each row, of which a draw sees one; None where rows are whole images.
        fold: to validate on, instead of 15 % of train; None for these.
        second: of a second data set, whose draws stand beside these.
    """

    def __init__(
        self,
        annotation: Annotation,
        store: Store,
        batch_size: int,
        steps: int,
        seed: int,
        scored: int,
        length: int | None = None,
        crops: int | None = None,
        fold: Fold | None = None,
        second: StreamDataModule | None = None,
    ) -> None:
        super().__init__()
        self.annotation, self.store, self.scored = annotation, store, scored
        self.batch_size, self.steps, self.seed, self.length, self.crops = batch_size, steps, seed, length, crops
        self.fold, self.second = fold and (fold.number or 1, fold.folds), second
        self.train_on_all = False
        self._held: dict[str, np.ndarray] = {}
        self._fits: bool | None = None

    def videos(self, which: str) -> tuple[Video, ...]:
        """Videos of ``train``, ``val`` or ``test``, in a fixed order."""
        return sides(self.annotation, which, self.train_on_all, self.fold)

    def targets(self, which: str) -> np.ndarray:
        """(V,) class ids, or (V, C) zeros and ones."""
        return targets_of(self.videos(which), self.annotation)

    def counts(self, which: str) -> np.ndarray:
        """(V,) frames of each video of a set that are scored."""
        return np.full(len(self.videos(which)), self.scored)

    def train_dataloader(self) -> DataLoader:
        """This rank's shares of global batches, other draws each epoch."""
        own, beside = self._draw_batches(), None
        if self.second is not None:
            self.second.trainer = self.trainer
            beside = self.second._draw_batches()

        def batches() -> Iterator[DrawnBatch]:
            # Not trainer.current_epoch: when a run resumes, the first batch is fetched before Lightning has counted on.
            first = self.trainer.global_step // self.steps * self.steps if self.trainer else 0
            for step in range(first, first + self.steps):
                yield own(step)._replace(second=None if beside is None else beside(step))

        return DataLoader(Batches(batches, self.steps), batch_size=None)

    def _draw_batches(self) -> Callable[[int], DrawnBatch]:
        """What draws this rank's share of the batch of a step."""
        videos, targets = self.videos("train"), self.targets("train")
        draws, (rank, world_size) = Draws(videos), self._ranks()

        def batch(step: int) -> DrawnBatch:
            random = np.random.default_rng([self.seed, step])
            numbers = draws.videos(random, self.batch_size)
            places, crops = random.random(self.batch_size), random.integers(self.crops or 1, size=self.batch_size)
            mine = slice(rank, None, world_size)
            drawn = zip(numbers[mine], places[mine], crops[mine], strict=True)
            x = np.stack([self._drawn(videos[number].name, place, crop) for number, place, crop in drawn])
            return DrawnBatch(torch.from_numpy(x), torch.from_numpy(targets[numbers[mine]]), self.batch_size)

        return batch

    def val_dataloader(self) -> DataLoader | list:
        """The held-out videos; nothing when training on all."""
        return [] if self.train_on_all else self._whole("val")

    def test_dataloader(self) -> DataLoader:
        """The test videos."""
        return self._whole("test")

    def _whole(self, which: str) -> DataLoader:
        videos, (rank, world_size) = self.videos(which), self._ranks()
        mine = range(rank, len(videos), world_size)

        def batches() -> Iterator[VideoBatch]:
            for number in mine:
                name = videos[number].name
                yield VideoBatch(torch.from_numpy(self._seen(name, equal_steps(self._places(name), self.scored))), number)

        return DataLoader(Batches(batches, len(mine)), batch_size=None)

    def _places(self, name: str) -> int:
        """Frames of a video, or windows of L fields in it."""
        rows = self.store.rows(name)
        return rows if self.length is None else max(1, rows - self.length + 1)

    def _drawn(self, name: str, place: float, crop: int) -> np.ndarray:
        (seen,) = self._seen(name, np.asarray([int(place * self._places(name))]))
        return seen if self.crops is None else seen[crop]

    def _seen(self, name: str, places: np.ndarray) -> np.ndarray:
        """Rows of a video, or windows that begin at them; the last field repeated where there are fewer."""
        if self.length is not None:
            places = np.minimum(places[:, None] + np.arange(self.length), self.store.rows(name) - 1)
        return self._values(name)[places]

    def _values(self, name: str) -> np.ndarray:
        """A video's rows, in memory where those of all videos fit."""
        if name in self._held:
            return self._held[name]
        if self._fits is None:
            needed = self._bytes() + (0 if self.second is None else self.second._bytes())
            self._fits = needed <= RAM_SHARE * free_memory() / getattr(self.trainer, "num_devices", 1)
            if self.second is not None:
                self.second._fits = self._fits
        values = self.store.read(name)
        self.store.require_finite(name, values)
        if self._fits:
            values = self._held[name] = np.array(values)
        return values

    def _bytes(self) -> int:
        rows = sum(self.store.rows(video.name) for video in self.annotation.videos)
        return rows * sum(array.row_bytes for array in self.store.spec.arrays)

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
