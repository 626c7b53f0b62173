"""Object scores: what the image network itself sees in a video, from stored feature cubes and its own classifier.

o = (1/F) Σ_t softmax(classifier(X_t)), one number for each of the network's categories; the vector is √o, of length 1, so that
the linear kernel is Hellinger's. Source: Jain, van Gemert & Snoek, What do 15,000 object categories tell us about classifying
and localizing actions?, CVPR 2015, who have 15 293 categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from datamodules.features import FeatureStore
from datamodules.stores import Store
from datamodules.videos import DataError
from lightning_modules.backbone import BackboneError
from reproduce.common.settings import Settings
from reproduce.systems.backbones import classifier
from reproduce.systems.representations.base import Representation

FRAMES = 64  # that are classified at a time


class ObjectScores(Representation):
    """Hellinger's map of the mean class probabilities.

    Raises:
        DataError: the network's classifier cannot be had.
    """

    def __init__(self, settings: Settings, stores: Mapping[str, Store]) -> None:
        super().__init__(settings, stores)
        store = self.stores["cubes"]
        assert isinstance(store, FeatureStore)
        if settings.backbone.weights == "released":
            raise DataError("object scores need the network's classifier, which the released features came without")
        try:
            self.classifier: nn.Module | None = classifier(settings)
        except BackboneError as error:
            raise DataError(f"object scores need the network's classifier: {error}") from error
        self.grid = store.grid
        with torch.inference_mode():
            self.categories = self.classifier(torch.zeros(1, store.channels, *self.grid)).shape[1]
        self.notes = (
            f"{self.categories} object categories of {settings.backbone.name} stand for the 15 293 of Jain et al. (2015)",
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without the network, which each process builds."""
        return {**self.__dict__, "classifier": None}

    @property
    def length(self) -> int:
        """The number of categories."""
        return self.categories

    def mean_probabilities(self, name: str) -> np.ndarray:
        """o of a video, (categories,) float64; sums to 1."""
        if self.classifier is None:
            self.classifier = classifier(self.settings)
        cubes, found = self.stores["cubes"].read(name), np.zeros(self.categories)
        with torch.inference_mode():
            for begin in range(0, len(cubes), FRAMES):
                piece = torch.from_numpy(np.asarray(cubes[begin : begin + FRAMES], dtype=np.float32))  # (n, K, D)
                maps = piece.transpose(1, 2).unflatten(2, self.grid)
                found += self.classifier(maps).softmax(dim=1).double().sum(dim=0).numpy()
        return found / len(cubes)

    def vector(self, name: str) -> np.ndarray:
        """√o; o sums to 1, so it is of length 1."""
        return np.sqrt(self.mean_probabilities(name)).astype(np.float32)


make = ObjectScores
