"""The store of feature cubes (F, K, D) fp16 and of their means and maxima over locations, (F, 2, D) fp32.

It is a store (``datamodules.stores``) of the arrays ``cubes`` and ``pooled``, the second made from the first, once for
every network. Beside the manifest lies ``backbone.pt``: weights of a random backbone, so that a resumed extraction uses the
same ones. Free of torch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.manifest import CUBES, CUBES_DTYPE, POOLED, FeatureSpec, FeatureStoreError
from datamodules.stores import Store, VideoWriter

BACKBONE = "backbone.pt"


class FeatureStore(Store):
    """A store of feature cubes on disk.

    Args:
        path: the store's folder; need not exist.

    Raises:
        FeatureStoreError: it is damaged, or a store of another kind.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if self.exists() and self.spec.kind != CUBES:
            raise FeatureStoreError(
                f"{path.resolve()}: holds {self.spec.kind}, where feature cubes are expected. Choose another paths.features, "
                "or remove the folder"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the map; of several packed maps, of the largest."""
        rows, columns = max([one[:2] for one in self.scales], default=self.manifest["grid"])
        return rows, columns

    @property
    def locations(self) -> int:
        """K, rows of a frame's cube; of several packed maps, of what holds all of them."""
        return math.prod(self.manifest["grid"])

    @property
    def scales(self) -> list[list[int]]:
        """Rows, columns and channels of each packed map; nothing where there is one."""
        return self.manifest.get("scales", [])

    @property
    def channels(self) -> int:
        """Channels D of the map."""
        return self.manifest["channels"]

    def frames(self, name: str) -> int:
        """Frames F of a finished video that have features: all, or those of its drawn blocks, one block after the other."""
        return self.rows(name)

    @property
    def drawn(self) -> str | None:
        """The blocks of each video that were drawn at random, in words; None where all frames have features."""
        return self.spec.made_from.get("blocks")

    def source_frames(self, name: str) -> np.ndarray:
        """(F,) number in a finished video's file of each frame that has features."""
        starts = np.asarray(self.videos[name].get("starts", [0]), dtype=np.int64)
        return (starts[:, None] + np.arange(self.frames(name) // len(starts))).ravel()

    def pooled(self, name: str) -> np.ndarray:
        """Mean and maximum of a video's cubes over locations, (F, 2, D) float32, memory-mapped. Raises as ``read``."""
        return super().read(name, POOLED)

    def pooled_file(self, name: str) -> Path:
        """Where the mean and maximum of a video's cubes lie."""
        return self.file(name, POOLED)

    def create(self, spec: FeatureSpec, grid: tuple[int, int], channels: int, about: dict[str, Any]) -> None:
        """Write the manifest of a new store, or find that the one there says the same.

        Args:
            spec: what decides the values.
            grid: rows and columns of the map.
            channels: D.
            about: further facts for the manifest (weights hash, resize rule, versions, notes).

        Raises:
            FeatureStoreError: the store exists with another spec or another map.
        """
        if not self.exists():
            shapes = {"grid": list(grid), "channels": channels, "dtype": CUBES_DTYPE}
            self._write_new({"spec": spec.made_from, **shapes, **about})
            return
        self.require(spec)
        if (tuple(self.manifest["grid"]), self.channels) != (tuple(grid), channels):
            raise FeatureStoreError(
                f"{self.path.resolve()}: holds maps of {self.grid} x {self.channels}, the backbone gives "
                f"{tuple(grid)} x {channels}. Remove the folder and extract again"
            )

    def writer(self, name: str, rank: int = 0) -> VideoWriter:
        """Begin to write one video's cubes; the writer pools them."""
        return VideoWriter(self, name, rank, derive=mean_and_max)


def mean_and_max(cubes: np.ndarray) -> np.ndarray:
    """(n, K, D) float16 cubes -> (n, 2, D) float32: mean and maximum over locations."""
    single = cubes.astype(np.float32)
    return np.stack([single.mean(axis=1), single.max(axis=1)], axis=1)
