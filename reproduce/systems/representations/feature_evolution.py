"""Rank pooling of stored CNN features: how the mean feature of a video's frames evolves.

Source: Fernando, Gavves, Oramas, Ghodrati & Tuytelaars, Modeling video evolution for action recognition, CVPR 2015, with the
network's features in place of Fisher vectors. x_t is the mean over locations of frame t's feature cube.
"""

from __future__ import annotations

import numpy as np

from datamodules.features import FeatureStore
from lightning_modules.encoders.rank_pooling import rank_pool
from reproduce.systems.representations.base import Representation


class FeatureEvolution(Representation):
    """Forward and reversed rank pooling of the mean features, 4D numbers."""

    @property
    def length(self) -> int:
        """4D."""
        store = self.stores["cubes"]
        assert isinstance(store, FeatureStore)
        return 4 * store.channels

    def vector(self, name: str) -> np.ndarray:
        """Of the frames' means."""
        store = self.stores["cubes"]
        assert isinstance(store, FeatureStore)
        return rank_pool(np.asarray(store.pooled(name)[:, 0], dtype=np.float32))


make = FeatureEvolution
