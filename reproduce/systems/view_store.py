"""Views of a data set: 25 frames a video, as features of their ten crops, or as frames from which crops are drawn.

Frames are equally spaced, and squashed to a square as the attention rows' are. Features are a frozen network's last map,
averaged over locations; they serve training and test, so that each crop passes through the network once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.decoding import probe, read_frames
from datamodules.manifest import ArraySpec
from datamodules.stored_videos import to_extract
from datamodules.stores import Store
from datamodules.streams import equal_steps
from datamodules.videos import Annotation, Video
from lightning_modules.backbone import Backbone, BackboneError
from lightning_modules.streams import pooled_views
from reproduce.common.dataset import CROPS, FRAMES, STORES, crop_settings, crop_side, view_side
from reproduce.common.settings import Settings, SettingsError
from reproduce.systems.backbones import notes_on
from reproduce.systems.cnn_features import calibrated
from reproduce.systems.devices import set_up, uses_gpu
from reproduce.systems.store_maker import Making, about_store, ensure_store
from reproduce.systems.video_processes import ALL, Pieces, Share

COUNTING_SIDE = 16  # px that frames are brought to while they are only counted


def ensure(settings: Settings, annotation: Annotation, videos: Sequence[Video] | None = None, share: Share = ALL) -> Store:
    """The finished views of a run, see ``ensure_store``.

    Raises:
        SettingsError: the network cannot be built.
    """
    kind, side = STORES["views"], view_side(settings)
    store, spec = kind.open(settings), kind.spec(settings)
    if store.exists():
        store.require(spec)
        if not to_extract(annotation, store, videos, settings.data.keeps_damaged):
            return store
    frames = SpacedFrames(annotation.folder, settings.data.keeps_damaged, side)
    squashed = f"{FRAMES} frames a video, squashed to {side}x{side}"
    common: dict[str, Any] = {"kind": "views", "rows_a_frame": 0.0, "rows_a_video": FRAMES, "opencv": False, "timed": True}
    if settings.spatial.layers == "all":
        arrays = (ArraySpec("views", "|u1", (3, side, side)),)
        making = Making(task=frames, what="decoding frames of", notes=[squashed], arrays=arrays, **common)
        return ensure_store(settings, annotation, making, videos, share)
    set_up(settings)
    store.path.mkdir(parents=True, exist_ok=True)
    try:
        backbone = calibrated(crop_settings(settings), annotation, store)
    except BackboneError as error:
        raise SettingsError(str(error)) from error
    size, device = crop_side(settings), torch.device("cuda" if uses_gpu(settings) else "cpu")
    channels = backbone.map(torch.zeros(1, 3, size, size, dtype=torch.uint8)).shape[1]
    making = Making(
        task=Viewing(frames, backbone.to(device), size, device),
        what="features of ten crops of",
        notes=[*notes_on(crop_settings(settings), backbone), f"ten crops of {size}x{size} of {squashed}"],
        facts={"layer": backbone.layer, "weights_sha256": backbone.sha256(), "torch": torch.__version__},
        arrays=(ArraySpec("views", "<f2", (CROPS, channels)),),
        processes=1,
        **common,
    )
    return ensure_store(settings, annotation, making, videos, share)


def about(store: Store, annotation: Annotation) -> dict[str, Any]:
    """What ``run.json`` says of the views that a run was made from."""
    return about_store("views", "view", store, annotation)


@dataclass(frozen=True)
class SpacedFrames:
    """Decodes a video's equally spaced frames; it is decoded twice, since headers lie about the number.

    Args:
        folder: of the videos.
        keep: whether what decodes of a damaged video is kept.
        side: of the square that frames are squashed to.
    """

    folder: Path
    keep: bool
    side: int

    def __call__(self, name: str) -> Pieces:
        """(25, 3, s, s) uint8."""
        frames, facts = self.read(name)
        yield (np.ascontiguousarray(frames.transpose(0, 3, 1, 2)),)
        return facts

    def read(self, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """(25, s, s, 3) uint8, and what the manifest says of the video."""
        path = self.folder / name
        kept: list[str] | None = [] if self.keep else None
        count = sum(1 for _ in read_frames(path, COUNTING_SIDE, kept=kept))
        wanted, found = equal_steps(count, FRAMES), {}
        for number, frame in enumerate(read_frames(path, self.side, kept=None if kept is None else [])):
            if number in wanted:
                found[number] = frame
        facts: dict[str, Any] = {"fps": probe(path).fps, "source_bytes": path.stat().st_size, "frames": count}
        return np.stack([found[number] for number in wanted]), facts | ({"damage": kept[0]} if kept else {})


@dataclass(frozen=True)
class Viewing:
    """Passes a video's crops through a frozen network.

    Args:
        frames: of the videos.
        backbone: the network.
        size: of a crop.
        device: where it computes.
    """

    frames: SpacedFrames
    backbone: Backbone
    size: int
    device: torch.device

    def __call__(self, name: str) -> Pieces:
        """(25, 10, D) float32."""
        frames, facts = self.frames.read(name)
        images: Tensor = torch.from_numpy(frames).permute(0, 3, 1, 2).to(self.device)
        yield (pooled_views(self.backbone, images, self.size).cpu().numpy(),)
        return facts
