"""Improved dense trajectories of a data set's videos with frames left out: levels 1 to L of multi-skip feature stacking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datamodules.stores import Store
from datamodules.videos import Annotation, Video
from reproduce.common.settings import Settings
from reproduce.systems.store_maker import about_store
from reproduce.systems.trajectory_store import ensure_levels
from reproduce.systems.video_processes import ALL, Share


def ensure(settings: Settings, annotation: Annotation, videos: Sequence[Video] | None = None, share: Share = ALL) -> Store:
    """The finished trajectories at levels 1 to ``trajectories.skips``, see ``ensure_store``."""
    levels = tuple(range(1, settings.trajectories.skips + 1))
    return ensure_levels("skipped_trajectories", settings, annotation, levels, videos, share)


def about(store: Store, annotation: Annotation) -> dict[str, Any]:
    """What ``run.json`` says of them."""
    return about_store("skipped_trajectories", "skipped_trajectory", store, annotation)
