"""The store of several maps of the backbone, packed, for networks over several resolutions.

It is a store of feature cubes, whose ``pooled`` means nothing of one map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datamodules.features import FeatureStore
from datamodules.videos import Annotation, Video
from reproduce.common.settings import Settings
from reproduce.systems import cnn_features


def ensure(settings: Settings, annotation: Annotation, videos: Sequence[Video] | None = None) -> FeatureStore:
    """The finished store of a run, see ``cnn_features.ensure``."""
    return cnn_features.ensure(settings, annotation, videos, pyramid=True)


def about(store: FeatureStore, annotation: Annotation) -> dict[str, Any]:
    """What ``run.json`` says of the maps that a run was made from."""
    found = cnn_features.about(store, annotation)
    return {"pyramids": found.pop("features"), **found, "scales": store.scales}
