"""Improved dense trajectories of a data set: decode every video, track, describe, write the store. Free of torch.

A store's rows are trajectories, in the order in which they end: ``descriptors`` float16, and ``positions`` float32 with the
level of frame skips as their last column. They depend on no split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.descriptors.opencv import opencv
from datamodules.descriptors.trajectories import POSITIONS, TrajectoryOptions, trajectories
from datamodules.stores import Store
from datamodules.videos import Annotation, Video
from reproduce.common.settings import Settings
from reproduce.systems.store_maker import GrayFrames, Making, about_store, ensure_store
from reproduce.systems.video_processes import ALL, Pieces, Share

ROWS_A_FRAME = 150  # of a frame of 320 x 240 pixels, by estimate: from 30 to 320
SUBSTITUTES = "matches of {} stand for those of SURF, which OpenCV's wheels lack, and people are not masked out"
HEIGHT = "trajectories of frames that were brought to a height of {} pixels where they are higher"
END = POSITIONS.index("end")


def ensure(settings: Settings, annotation: Annotation, videos: Sequence[Video] | None = None, share: Share = ALL) -> Store:
    """The finished trajectories of a run, see ``ensure_store``."""
    return ensure_levels("trajectories", settings, annotation, (0,), videos, share)


def about(store: Store, annotation: Annotation) -> dict[str, Any]:
    """What ``run.json`` says of the trajectories that a run was made from."""
    return about_store("trajectories", "trajectory", store, annotation)


def ensure_levels(
    kind: str,
    settings: Settings,
    annotation: Annotation,
    levels: tuple[int, ...],
    videos: Sequence[Video] | None,
    share: Share,
) -> Store:
    """Trajectories at some levels of frame skips; level l leaves out l frames between two."""
    chosen = settings.trajectories
    options = TrajectoryOptions(chosen.length, chosen.scales, chosen.keypoints)
    frames = GrayFrames(annotation.folder, settings.data.keeps_damaged)
    making = Making(
        kind=kind,
        task=Tracking(frames, options, chosen.height, levels),
        rows_a_frame=ROWS_A_FRAME * sum(1 / (level + 1) for level in levels),
        what="tracking in",
        notes=[
            SUBSTITUTES.format(chosen.keypoints.upper()),
            *([] if chosen.height is None else [HEIGHT.format(chosen.height)]),
        ],
    )
    return ensure_store(settings, annotation, making, videos, share)


@dataclass(frozen=True)
class Tracking:
    """Finds one video's trajectories, once for each level of frame skips.

    Args:
        frames: of the videos.
        options: of the trajectories.
        height: that higher frames are brought to; None for frames as they are.
        levels: of frame skips.
    """

    frames: GrayFrames
    options: TrajectoryOptions
    height: int | None
    levels: tuple[int, ...]

    def __call__(self, name: str) -> Pieces:
        """Descriptors and positions, by the frame at which they end, in frames of the video."""
        opencv().setNumThreads(1)
        facts: dict[str, Any] = {}
        for level in self.levels:
            frames = self.frames.read(name, facts, height=self.height, step=level + 1)
            for positions, descriptors in trajectories(frames, self.options):
                positions[:, END] *= level + 1
                levels = np.full((len(positions), 1), level, dtype=np.float32)
                yield descriptors, np.hstack([positions, levels])
        return facts
