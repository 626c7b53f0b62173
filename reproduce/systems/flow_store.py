"""Optical flow of a data set: decode every video, find each pair's field, write the store. Free of torch.

A video of F frames has F − 1 fields, (2, h, w) bytes each, see ``datamodules.descriptors.flow``; one of a single frame has
one field without motion. Fields are found at the frames' own size. They depend on no split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.descriptors.flow import ZERO, flow_of, quantised, resized
from datamodules.descriptors.opencv import opencv
from datamodules.stores import Store
from datamodules.videos import Annotation, Video
from reproduce.common.dataset import four_by_three
from reproduce.common.settings import Settings
from reproduce.systems.store_maker import GrayFrames, Making, about_store, ensure_store, in_pieces
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
    width, height = size = four_by_three(settings.flow.size)
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
    return about_store("flow", "flow", store, annotation)


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
        facts: dict[str, Any] = {}
        yield from in_pieces(self._fields(name, facts), PAIRS)
        return facts

    def _fields(self, name: str, facts: dict[str, Any]) -> Iterator[np.ndarray]:
        """(2, h, w) uint8 of each pair."""
        find = flow_of(self.method)
        before: np.ndarray | None = None
        for frame in self.frames.read(name, facts):
            if before is not None:
                yield quantised(resized(find(before, frame), self.size))
            before = frame
        if facts["frames"] == 1:
            yield np.full((2, self.size[1], self.size[0]), ZERO, np.uint8)
