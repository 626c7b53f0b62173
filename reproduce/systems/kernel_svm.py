"""An SVM on video vectors as a system: the kernels of one or several representations, each with a mean of 1, added.

G = Σ_r N / tr(Φ_r Φ_rᵀ) · Φ_r Φ_rᵀ, with Φ_r the train videos' vectors; one SVM a class against all others with C = 100
(Wang & Schmid 2013 and those after them), so that no video is held out. A score is σ(decision): the same order, and 0.5
where the decision is 0. Free of torch, but for what representations import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.videos import Annotation, targets_of
from lightning_modules.encoders.kernels import KernelSVM
from reproduce.common.catalogue import SYSTEMS
from reproduce.common.settings import Settings, SettingsError
from reproduce.experiments import tracking
from reproduce.experiments.folder import RunFolder
from reproduce.systems.base import Stores
from reproduce.systems.video_vectors import VideoVectors


def build(settings: Settings, annotation: Annotation) -> KernelSystem:
    """Make the system of a run, not yet fitted.

    Raises:
        SettingsError: the run is of a fold; or a library is missing.
    """
    if settings.data.fold is not None:
        raise SettingsError(f"data.fold={settings.data.fold}: an SVM of fixed C has nothing to choose on folds of train")
    system = SYSTEMS[settings.model.name]
    if system.lacks:
        raise SettingsError(f"{settings.model.name} needs {' and '.join(system.lacks)}: pip install -e '.[systems]'")
    return KernelSystem(settings, system.representations)


class KernelSystem:
    """One SVM a class on the sum of some representations' kernels.

    Args:
        settings: of the run.
        names: of the representations.
    """

    def __init__(self, settings: Settings, names: Sequence[str]) -> None:
        self.settings, self.names = settings, names
        self.vectors: list[VideoVectors] = []
        self.svm = KernelSVM()

    def fit(self, videos: Annotation, stores: Stores, run: RunFolder, log: tracking.Log) -> dict[str, float]:
        """Learn the representations, and fit the SVMs, on all of train."""
        self.vectors = [VideoVectors(name, self.settings, videos, stores) for name in self.names]
        self.svm = KernelSVM(balanced=any(one.representation.histograms for one in self.vectors))
        self.svm.fit(self._kernel([video.name for video in videos.train]), _each(targets_of(videos.train, videos), videos))
        return {}

    def scores(self, videos: Annotation, stores: Stores) -> np.ndarray:
        """(V, C): the logistic function of the decisions."""
        train = len(videos.train)
        kernel = self._kernel([video.name for video in videos.train + videos.test])
        with np.errstate(over="ignore"):  # of a class that no train video has: exp(inf)
            return (1 / (1 + np.exp(-self.svm.decisions(kernel[train:, :train])))).astype(np.float32)

    def _kernel(self, names: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(names), len(names)), dtype=np.float32)
        for one in self.vectors:
            one.ensure(names)
            found += one.kernel(names)
        return found

    def figures(self) -> dict[str, float]:
        """Nothing besides the scores' figures."""
        return {}

    def describe(self, run: RunFolder) -> dict[str, Any]:
        """Name the representations' folders, and say what each has to say."""
        said = [note for one in self.vectors for note in one.representation.notes]
        made = {name: one.path.name for name, one in zip(self.names, self.vectors, strict=True)}
        return {"representations": made, "notes": list(dict.fromkeys(said))}


def _each(targets: np.ndarray, videos: Annotation) -> np.ndarray:
    """Targets as (N, C) booleans."""
    return targets.astype(bool) if videos.several_labels else np.eye(len(videos.classes), dtype=bool)[targets]
