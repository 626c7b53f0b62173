"""A linear probe as a system: logistic regression on each video's mean feature, the plain reference beside networks.

x_v = mean over frames and locations of the feature cube, D numbers, each standardised with train's mean and deviation. Of one
label a video, scores are softmax(W x + b); of several, a logistic function of each class by itself. The fit minimises the
cross-entropy plus ‖W‖² / 2 (scikit-learn's C = 1): convex, so it has no seed. Free of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.features import FeatureStore
from datamodules.videos import Annotation, Video, targets_of
from reproduce.common.settings import Settings, SettingsError
from reproduce.experiments import tracking
from reproduce.experiments.folder import RunFolder
from reproduce.systems.base import Stores

MOST_STEPS = 10_000  # of the solver, which takes some dozens


def build(settings: Settings, annotation: Annotation) -> LinearProbe:
    """Make the probe of a run, not yet fitted.

    Raises:
        SettingsError: the run is of a fold; or scikit-learn is missing.
    """
    if settings.data.fold is not None:
        raise SettingsError(
            f"data.fold={settings.data.fold}: a linear probe has nothing to choose on folds of train; leave it out"
        )
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise SettingsError(f"a linear probe needs scikit-learn ({error}): pip install -e '.[systems]'") from error
    return LinearProbe()


class LinearProbe:
    """Logistic regression on mean features."""

    def __init__(self) -> None:
        self.classifiers: list[Any] = []  # one of all classes; of several labels one a class, or a constant probability

    def fit(self, videos: Annotation, stores: Stores, run: RunFolder, log: tracking.Log) -> dict[str, float]:
        """Fit on all of train."""
        x, targets = mean_features(stores["cubes"], videos.train), targets_of(videos.train, videos)
        columns = targets.T > 0 if videos.several_labels else [targets]
        self.classifiers = [_fitted(x, column) for column in columns]
        return {}

    def scores(self, videos: Annotation, stores: Stores) -> np.ndarray:
        """(V, C) class probabilities."""
        x = mean_features(stores["cubes"], videos.test)
        if videos.several_labels:
            given = (np.full(len(x), one) if isinstance(one, float) else one.predict_proba(x)[:, 1] for one in self.classifiers)
            return np.stack([*given], axis=1)
        (classifier,) = self.classifiers  # of all classes: each has a train video, see ``check_sides``
        return classifier.predict_proba(x)


def _fitted(x: np.ndarray, targets: np.ndarray) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(targets)) == 1:  # no train video, or every one, has this label
        return float(targets[0])
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=MOST_STEPS)).fit(x, targets)


def mean_features(store: FeatureStore, videos: Sequence[Video]) -> np.ndarray:
    """(V, D) float64: each video's feature cubes, averaged over frames and locations."""
    return np.stack([store.pooled(video.name)[:, 0].mean(axis=0, dtype=np.float64) for video in videos])
