"""A video file -> what a trained network sees and says of it, frame by frame, in memory that does not grow with it.

Frames are decoded, put through the backbone and watched ``FRAMES`` at a time. The network gets what it was trained on: the
same reader's frames, features of the same weights, rounded to half precision as a feature store holds them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from datamodules.decoding import FALLBACK_RATE, VideoError, probe, read_timed
from datamodules.features import BACKBONE
from datamodules.frames import FramePacket
from datamodules.videos import DataError
from lightning_modules.backbone import Backbone, BackboneError, build_backbone
from lightning_modules.frames import pool_frames
from reproduce.experiments.attention_files import Moment
from reproduce.systems.checkpoints import restore_backbone
from reproduce.systems.cnn_features import PACKET, half_precision
from reproduce.systems.feature_writer import FeatureExtractor, Stopwatch
from reproduce.systems.loading import Trained
from reproduce.systems.tracks import Seen

FRAMES = 64  # decoded, and watched, at a time
T = TypeVar("T")


class Viewer:
    """A trained network together with the backbone it was trained on.

    Args:
        trained: the network.
        store: folder of the run's features; asked for the weights of a random backbone alone.
        device: where to compute.

    Raises:
        DataError: the backbone cannot be had, or is not the one that the network was trained on.
    """

    def __init__(self, trained: Trained, store: Path, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        made = (trained.about.get("features_made_by") or {}).get("precision") or "fp32"
        self.trained, self.device = trained, device
        # Half precision only where the hardware is made for it: elsewhere it is slow, and fp32 is no farther off.
        self.precision = made if on_gpu or made == half_precision(on_gpu) else "fp32"
        self.packet = trained.settings.backbone.batch_size or PACKET[on_gpu]
        backbone = load_backbone(trained, store)
        self.extractor = FeatureExtractor(backbone, self.precision, False, self.packet, Stopwatch()).to(device).eval()
        trained.network.to(device)

    def features(self, frames: np.ndarray) -> Tensor:
        """(n, S, S, 3) uint8 -> (n, K, D) float16, on the CPU or the GPU."""
        images = torch.from_numpy(frames).permute(0, 3, 1, 2)
        parts = []
        for part in images.split(self.packet):
            found = self.extractor.predict_step(FramePacket(part.to(self.device), []), 0)
            if found.ready is not None:
                found.ready.synchronize()
            parts.append(found.features)
        return torch.cat(parts).to(self.device)


class Viewing:
    """One passage through a video: iterate over its moments, then ask for the rest.

    Args:
        viewer: who looks.
        path: of the video.
        told: called with the frames seen so far, now and then.
        threads: that decode.

    Attributes:
        frames: F, so far.
        seconds: from the first frame's beginning to the last one's end, so far.
    """

    def __init__(self, viewer: Viewer, path: Path, told: Callable[[int], None], threads: int = 1) -> None:
        self.viewer, self.path, self.told, self.threads = viewer, path, told, threads
        self.frames, self.seconds = 0, 0.0
        self.watcher = viewer.trained.watcher()
        self._times: deque[float] = deque()  # of the frames whose moments are still to come
        self._first = 0  # index of the frame that the first of them belongs to

    @property
    def scores(self) -> np.ndarray:
        """(C,) float32 mean class probabilities of the video's blocks, by which a test classifies it."""
        return self.watcher.scores

    @torch.no_grad()
    def __iter__(self) -> Iterator[Moment]:
        """Every frame that the network looks at, in order.

        Raises:
            VideoError: the video does not decode, or its features are not finite.
        """
        info = probe(self.path)
        size = self.viewer.trained.settings.backbone.size
        for chunk in ahead(chunks(read_timed(self.path, size, self.threads), FRAMES)):
            times, images = zip(*chunk, strict=True)
            features = self.viewer.features(np.stack(images))
            finite = torch.isfinite(features).all(dim=2).all(dim=1)
            if not finite.all():
                number = self.frames + int(finite.int().argmin())
                raise VideoError(f"{self.path}: features of frame {number} are not finite in half precision")
            self.frames += len(times)
            self._times.extend(times)
            interval = times[-1] / (self.frames - 1) if self.frames > 1 else 1 / (info.fps or FALLBACK_RATE)
            self.seconds = times[-1] + interval
            for seen in self.watcher.feed(pool_frames(features, self.watcher.network.inputs)):
                yield from self._moments(seen)
            self.told(self.frames)
        for seen in self.watcher.close():
            yield from self._moments(seen)

    def _moments(self, seen: Seen) -> Iterator[Moment]:
        for row, frame in enumerate(seen.frames.tolist()):
            while self._first < frame:
                self._times.popleft()
                self._first += 1
            attention = None if seen.attention is None else seen.attention[row].reshape(self.viewer.trained.grid)
            yield Moment(frame, self._times[0], seen.probabilities[row], attention)


def load_backbone(trained: Trained, store: Path) -> Backbone:
    """The backbone that a network was trained on.

    Args:
        trained: the network.
        store: folder of the run's features, where random weights lie.

    Raises:
        DataError: there is none, its weights are not there, or they are others.
    """
    options, folder = trained.settings.backbone, trained.folder.path
    if options.weights == "released":
        raise DataError(
            f"{folder}: was trained on the released code's feature files, and the network that made those was never "
            "published, so that no new video can be shown to it. Train on a backbone: train.py … backbone.weights=imagenet"
        )
    try:
        backbone = build_backbone(options.name, options.weights, options.layer, options.size, options.seed)
    except BackboneError as error:
        raise DataError(f"the backbone of {folder}: {error}") from error
    if options.weights == "random":
        path = store / BACKBONE
        if not path.is_file():
            raise DataError(
                f"{path.resolve()} is missing: it holds the random weights of the backbone that {folder} was trained on. "
                "Give the folder of the run's features, with backbone.pt in it, as features=<folder>"
            )
        restore_backbone(backbone, path, "give another one as features=<folder>, or extract and train again")
    said = trained.about.get("weights_sha256")
    if said is not None and backbone.sha256() != said:
        where = store / BACKBONE if options.weights == "random" else f"backbone.weights={options.weights}"
        raise DataError(f"{where}: other weights than those of the features that {folder} was trained on (SHA-256 differs)")
    return backbone


def chunks(items: Iterable[T], length: int) -> Iterator[list[T]]:
    """Consecutive items, at most ``length`` together."""
    held: list[T] = []
    for item in items:
        held.append(item)
        if len(held) == length:
            yield held
            held = []
    if held:
        yield held


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, none of them None, each made in another thread while the one before is worked on."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = thread.submit(next, items, None)
            yield item
