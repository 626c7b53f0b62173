"""Optical flow of a data set: decode every video, find each pair's field, write the store. Free of torch.

A video of F frames has F − 1 fields, (2, h, w) bytes each, see ``datamodules.descriptors.flow``; one of a single frame has
one field without motion. Fields are found at the frames' own size. They depend on no split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.descriptors.flow import ZERO, flow_of, quantised, resized
from datamodules.descriptors.opencv import opencv
from datamodules.stores import Store
from datamodules.videos import Annotation, Video
from reproduce.common.dataset import flow_size
from reproduce.common.settings import Settings
from reproduce.systems.store_maker import GrayFrames, Making, ensure_store
from reproduce.systems.video_processes import ALL, Pieces, Share

NAMES = {
    "dis": "DIS (Kroeger et al. 2016), medium preset",
    "farneback": "Farnebäck's (2003), as OpenCV computes it",
    "tvl1": "TV-L1 (Zach et al. 2007)",
}
PAIRS = 16  # whose fields are written at a time


def ensure(settings: Settings, annotation: Annotation, videos: Sequence[Video] | None = None, share: Share = ALL) -> Store:
    """The finished fields of a run, see ``ensure_store``; before it begins it says what they will cost."""
    flow_of(settings.flow.method)  # whether it is there
    width, height = size = flow_size(settings)
    making = Making(
        kind="flow",
        task=Flowing(GrayFrames(annotation.folder, settings.data.keeps_damaged), settings.flow.method, size),
        rows_a_frame=1.0,
        what="finding optical flow in",
        notes=[f"optical flow is {NAMES[settings.flow.method]} instead of Brox et al. (2004), stored at {width}x{height}"],
        timed=True,
    )
    return ensure_store(settings, annotation, making, videos, share)


def about(store: Store, annotation: Annotation) -> dict[str, Any]:
    """What ``run.json`` says of the fields that a run was made from."""
    return {
        "flow": store.manifest["made_from"],
        "flow_fingerprint": store.fingerprint(video.name for video in annotation.videos),
    }


@dataclass(frozen=True)
class Flowing:
    """Finds one video's fields.

    Args:
        frames: of the videos.
        method: of ``datamodules.descriptors.flow.METHODS``.
        size: (w, h) of what is stored.
    """

    frames: GrayFrames
    method: str
    size: tuple[int, int]

    def __call__(self, name: str) -> Pieces:
        """(n, 2, h, w) uint8 at a time."""
        opencv().setNumThreads(1)
        find = flow_of(self.method)
        facts: dict[str, Any] = {}
        held: list[np.ndarray] = []
        before: np.ndarray | None = None
        for frame in self.frames.read(name, facts):
            if before is not None:
                held.append(quantised(resized(find(before, frame), self.size)))
            before = frame
            if len(held) == PAIRS:
                yield (np.stack(held),)
                held = []
        if facts["frames"] == 1:
            held.append(np.full((2, self.size[1], self.size[0]), ZERO, np.uint8))
        if held:
            yield (np.stack(held),)
        return facts
