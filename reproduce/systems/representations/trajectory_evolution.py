"""VideoDarwin: rank pooling of the Fisher vectors of a video's frames, made of the trajectories that end in each.

Source: Fernando, Gavves, Oramas, Ghodrati & Tuytelaars, Modeling video evolution for action recognition, CVPR 2015, and its
published code: HOG, HOF and MBH by their square roots once more, MBHx and MBHy as one channel, Fisher vectors of frames not
normalised; frames in which no trajectory ends are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.descriptors.trajectories import POSITIONS, channels
from lightning_modules.encoders.rank_pooling import rank_pool
from reproduce.common.dataset import PLACES
from reproduce.systems.representations.base import Channels

END = POSITIONS.index("end")


class TrajectoryEvolution(Channels):
    """Forward and reversed rank pooling of each channel, Σ_channels 8Kd numbers."""

    def channels(self) -> Mapping[str, slice]:
        """Trajectory, HOG, HOF, and MBHx with MBHy."""
        known = channels(self.settings.trajectories.length)
        *others, x, y = known
        return {**{name: known[name] for name in others}, f"{x}+{y}": slice(known[x].start, known[y].stop)}

    def descriptors(self, name: str) -> Sequence[np.ndarray]:
        """All trajectories of the video."""
        return [self.stores["trajectories"].read(name)]

    def prepared(self, channel: str, descriptors: np.ndarray) -> np.ndarray:
        """Histograms by their square roots; the trajectory's shape as it is."""
        found = super().prepared(channel, descriptors)
        return found if channel == "trajectory" else np.sqrt(found)

    @property
    def length(self) -> int:
        """Σ 8Kd."""
        return 4 * self.gradients_length

    def vector(self, name: str) -> np.ndarray:
        """Channel by channel."""
        (found,) = self.descriptors(name)
        if not len(found):
            return np.zeros(self.length, dtype=np.float32)
        ends = np.asarray(self.stores["trajectories"].read(name, PLACES)[:, END])
        begins = np.flatnonzero(np.diff(ends, prepend=-1))  # trajectories lie in the order in which they end
        parts = []
        for channel in self.encoders:
            frames = [self.gradients(channel, [piece]) for piece in np.split(found, begins[1:])]
            parts.append(rank_pool(np.stack(frames)))
        return np.concatenate(parts)


make = TrajectoryEvolution
