"""Fisher vectors of improved dense trajectories, one a channel, the "traditional" part of Table 2's systems.

Source: Wang & Schmid, Action recognition with improved trajectories, ICCV 2013, §4: PCA to half, K Gaussians, a Fisher vector
with signed root and length 1 for each of trajectory, HOG, HOF, MBHx, MBHy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.descriptors.trajectories import channels
from lightning_modules.encoders.fisher import improved
from reproduce.systems.representations.base import Channels


class TrajectoryFisher(Channels):
    """All channels' Fisher vectors of a video's trajectories, Σ_channels 2Kd numbers."""

    def channels(self) -> Mapping[str, slice]:
        """The five of a trajectory."""
        return channels(self.settings.trajectories.length)

    def descriptors(self, name: str) -> Sequence[np.ndarray]:
        """All trajectories of the video."""
        return [self.stores["trajectories"].read(name)]

    @property
    def length(self) -> int:
        """Σ 2Kd."""
        return self.gradients_length

    def vector(self, name: str) -> np.ndarray:
        """The channels' improved Fisher vectors, beside one another."""
        found = self.descriptors(name)
        return np.concatenate([improved(self.gradients(channel, found)) for channel in self.encoders])


make = TrajectoryFisher
