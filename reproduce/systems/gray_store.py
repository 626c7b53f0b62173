"""Gray frames of a data set, small and all of one size: decode every video, write the store. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datamodules.descriptors.opencv import opencv
from datamodules.stores import Store
from datamodules.videos import Annotation, Video
from reproduce.common.dataset import four_by_three
from reproduce.common.settings import Settings
from reproduce.systems.store_maker import GrayFrames, Making, about_store, ensure_store, in_pieces
from reproduce.systems.video_processes import ALL, Pieces, Share

FRAMES = 64  # that are written at a time


def ensure(settings: Settings, annotation: Annotation, videos: Sequence[Video] | None = None, share: Share = ALL) -> Store:
    """The finished gray frames of a run, see ``ensure_store``."""
    frames = GrayFrames(annotation.folder, settings.data.keeps_damaged)
    size = four_by_three(settings.slow_features.height)
    making = Making(
        kind="gray",
        task=Decoding(frames, size),
        rows_a_frame=1.0,
        what="decoding gray frames of",
        notes=[f"gray frames squashed to {size[0]}x{size[1]}"],
    )
    return ensure_store(settings, annotation, making, videos, share)


def about(store: Store, annotation: Annotation) -> dict[str, Any]:
    """What ``run.json`` says of the frames that a run was made from."""
    return about_store("gray", "gray", store, annotation)


@dataclass(frozen=True)
class Decoding:
    """Decodes one video to gray frames.

    Args:
        frames: of the videos.
        size: (w, h) that they are squashed to.
    """

    frames: GrayFrames
    size: tuple[int, int]

    def __call__(self, name: str) -> Pieces:
        """(n, h, w) uint8 at a time."""
        opencv().setNumThreads(1)
        facts: dict[str, Any] = {}
        yield from in_pieces(self.frames.read(name, facts, size=self.size), FRAMES)
        return facts
