"""Stacked Fisher vectors of improved dense trajectories: sub-volumes' Fisher vectors, compressed, encoded once more.

Source: Peng, Zou, Qiao & Peng, Action recognition with stacked Fisher vectors, ECCV 2014.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from datamodules.descriptors.trajectories import POSITIONS, channels
from datamodules.videos import Annotation, targets_of
from lightning_modules.encoders.stacked import StackedEncoder, StackedOptions, Trajectories, fit_stacked
from reproduce.common.dataset import PLACES
from reproduce.systems.representations.base import Representation

X, Y, END = (POSITIONS.index(name) for name in ("x", "y", "end"))


class StackedFisher(Representation):
    """The Fisher vector of a video's sub-volumes, 2Kd numbers."""

    encoder: StackedEncoder

    @property
    def notes(self) -> tuple[str, ...]:
        """The choices that the publication leaves open."""
        how = {"max_margin": "max-margin reduction of sub-volumes", "pca": "sub-volumes reduced by PCA, not max-margin"}
        return (f"stacked Fisher vectors: grid of sub-volumes chosen here; {how[self.settings.encoder.subvolume_reduction]}",)

    def learn(self, videos: Annotation) -> None:
        """Fit the mixture of trajectories, the reduction, and the mixture of codes to train."""
        chosen = self.settings.encoder
        sizes = chosen.components, chosen.subvolume_dimensions
        options = StackedOptions((sizes[0], sizes[0]), (sizes[1], sizes[1]), samples=chosen.samples)
        train = sorted(videos.train, key=lambda video: video.name)
        targets = targets_of(tuple(train), videos)
        hot = targets.astype(bool) if videos.several_labels else np.eye(len(videos.classes), dtype=bool)[targets]
        clips = _Clips(self, [video.name for video in train])
        self.encoder = fit_stacked(
            clips, options, self.settings.seed, hot if chosen.subvolume_reduction == "max_margin" else None
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Of all that was fitted."""
        return self.encoder.arrays()

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take what was fitted before."""
        self.encoder = StackedEncoder.from_arrays(arrays)

    @property
    def length(self) -> int:
        """2Kd."""
        return 2 * self.encoder.codes.means.size

    def vector(self, name: str) -> np.ndarray:
        """The improved Fisher vector of the video's codes."""
        return self.encoder.vector(self.trajectories(name))

    def trajectories(self, name: str) -> Trajectories:
        """A video's histograms, by where and when each trajectory is at its middle."""
        store, length = self.stores["trajectories"], self.settings.trajectories.length
        positions, facts = store.read(name, PLACES), store.videos[name]
        middle = positions[:, END] - length / 2
        shape = channels(length)["trajectory"]
        return Trajectories(
            places=np.stack([positions[:, X], positions[:, Y], middle], axis=1),
            descriptors=np.asarray(store.read(name)[:, shape.stop :], dtype=np.float32),
            extent=(facts["width"], facts["height"], facts["frames"]),
        )


class _Clips(Collection):
    """Videos' trajectories, read anew at each time."""

    def __init__(self, representation: StackedFisher, names: Sequence[str]) -> None:
        self.representation, self.names = representation, names

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Trajectories]:
        return map(self.representation.trajectories, self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names


make = StackedFisher
