"""Fisher vectors of a feature cube's columns: each location of each frame is a local descriptor of D numbers.

PCA leaves ``encoder.column_dimensions`` of them; else as with trajectories (Wang & Schmid, ICCV 2013, §4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lightning_modules.encoders.fisher import improved
from reproduce.systems.representations.base import Channels

COLUMNS = "columns"


class ColumnFisher(Channels):
    """The Fisher vector of all columns of a video's cubes, 2Kd numbers."""

    def channels(self) -> Mapping[str, slice]:
        """One, of all D numbers."""
        return {COLUMNS: slice(None)}

    def kept(self, width: int) -> int:
        """As the settings say."""
        return min(width, self.settings.encoder.column_dimensions)

    def descriptors(self, name: str) -> Sequence[np.ndarray]:
        """All columns of the video, (F K, D)."""
        cubes = self.stores["cubes"].read(name)
        return [cubes.reshape(-1, cubes.shape[-1])]

    @property
    def length(self) -> int:
        """2Kd."""
        return self.gradients_length

    def vector(self, name: str) -> np.ndarray:
        """The improved Fisher vector."""
        return improved(self.gradients(COLUMNS, self.descriptors(name)))


make = ColumnFisher
