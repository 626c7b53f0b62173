"""Tracks: what a trained network attends to and says of a video, step by step, however long the video is.

A network is trained and tested on blocks of T steps, 30 or its own ``block_length``, so that a frame belongs to up to T
blocks. A track's step at a frame comes from the first of the blocks 0, T, 2T, … (in steps) that holds it; the last steps come
from the last block. The video's scores are those of a test: the mean over all its blocks at the run's stride.

A track is made of stored features, or of a video file: decoded, put through the backbone and tracked ``FRAMES`` at a time, in
memory that does not grow with it. The network gets what it was trained on: the same reader's frames, features of the same
weights, rounded to half precision as a feature store holds them.

Shapes: F frames, n steps (one every ``skip`` frames), K locations, C classes, T steps of a block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.blocks import BLOCK_LENGTH, block_frames
from datamodules.decoding import FALLBACK_RATE, VideoError, probe, read_timed
from datamodules.features import BACKBONE, FeatureStore
from datamodules.frames import FramePacket
from datamodules.pool import FramePool
from datamodules.videos import DataError
from lightning_modules.backbone import Backbone, BackboneError
from lightning_modules.frames import Frames, Network, Output, pool_frames, run_blocks, run_dense
from lightning_modules.metrics import block_scores
from reproduce.experiments.attention_files import Moment
from reproduce.systems.backbones import built, frame_side, restore_backbone
from reproduce.systems.cnn_features import PACKET, half_precision
from reproduce.systems.devices import set_arithmetic
from reproduce.systems.feature_writer import FeatureExtractor, Stopwatch
from reproduce.systems.loading import Trained

CHUNK = 256  # blocks that are computed at once; bounds the memory that a long video takes
FRAMES = 64  # of a file, decoded and tracked at a time
T = TypeVar("T")


class Part(NamedTuple):
    """Some consecutive steps of a track.

    Args:
        frames: (n,) int64 indices, ``skip`` apart.
        attention: (n, K) float32 l_t of Eq. 4, or None for a network without attention.
        probabilities: (n, C) float32 class probabilities after each of them.
    """

    frames: np.ndarray
    attention: np.ndarray | None
    probabilities: np.ndarray


@dataclass(frozen=True)
class Track:
    """A network's attention and probabilities at every step of one video.

    Args:
        frames: (n,) int64 indices, ascending.
        attention: (n, rows, columns) float32, each map summing to 1; None for a network without attention.
        probabilities: (n, C) float32 class probabilities after each of them.
        scores: (C,) float32 mean class probabilities of the video's blocks, by which it is classified.
    """

    frames: np.ndarray
    attention: np.ndarray | None
    probabilities: np.ndarray
    scores: np.ndarray


class Tracker:
    """Makes a video's track from its frames as they come, in bounded memory.

    It holds the frames of at most ``CHUNK`` blocks and those of the next chunk that is fed.

    Args:
        network: is put into evaluation mode.
        multi_label: sigmoids instead of a softmax.
        skip: frames between two steps.
        last_n: steps whose probabilities are averaged into a block's scores.
        stride: frames between two blocks that count in the video's scores.
    """

    def __init__(self, network: nn.Module, multi_label: bool, skip: int = 1, last_n: int = 30, stride: int = 1) -> None:
        self.network, self.multi_label = cast(Network, network.eval()), multi_label
        self.skip, self.last_n, self.stride = skip, last_n, stride
        self.length = getattr(network, "block_length", BLOCK_LENGTH)
        self.held: Frames | None = None
        self.first = 0  # number of the first frame held; frames before it are in no block that is still to come
        self.due = 0  # the next step of the track
        self.blocks = 0  # at stride 1, computed so far
        self.counted = 0  # of them in the scores
        self._total: Tensor | None = None
        self._last: tuple[int, Tensor, Tensor | None] | None = None  # start in steps, probabilities, attention

    @classmethod
    def of(cls, trained: Trained) -> Tracker:
        """Make a fresh one, which scores a video as the run's test did."""
        settings = trained.settings
        return cls(trained.network, trained.multi_label, trained.skip, settings.model.last_n, settings.data.stride)

    @property
    def scores(self) -> np.ndarray:
        """(C,) float32 mean over the blocks so far."""
        assert self._total is not None, "feed frames and close first"
        return (self._total / self.counted).float().cpu().numpy()

    @torch.no_grad()
    def feed(self, frames: Frames) -> Iterator[Part]:
        """Take the next frames, inputs (k, …) in order; yields the steps that are known by now."""
        self.held = frames if self.held is None else _append(self.held, frames)
        spanned = self.length * self.skip
        while (count := min(CHUNK, self.first + _length(self.held) - spanned + 1 - self.blocks)) > 0:
            begin = self.blocks - self.first
            stretch = _part(self.held, begin, begin + count - 1 + (self.length - 1) * self.skip + 1)
            yield from self._take(run_dense(self.network, stretch, count, self.length, self.skip), count, self.length)
            self.held = _part(self.held, self.blocks - self.first, None)
            self.first = self.blocks

    @torch.no_grad()
    def close(self) -> Iterator[Part]:
        """Yield what only the video's end decides.

        Raises:
            ValueError: no frame was fed.
        """
        if self.held is None:
            raise ValueError("a video without frames has no track")
        if not self.blocks:
            number = _length(self.held)
            frames = block_frames(np.zeros(1, dtype=np.int64), np.asarray([number]), self.skip, self.length)[0].tolist()
            block = Frames(*(None if part is None else cast(Tensor, part)[frames][None] for part in self.held))
            real = 1 + (number - 1) // self.skip  # the last frame is repeated after these
            yield from self._take(run_blocks(self.network, block), 1, real)
        elif self._last is not None and self._last[0] + self.length > self.due:
            start, probabilities, attention = self._last
            yield self._due(start, probabilities, attention, self.length)

    def _take(self, output: Output, count: int, steps: int) -> Iterator[Part]:
        """Score the next blocks; yield the steps of those among them that follow one another."""
        logits, begin = output.logits.float(), self.blocks
        probabilities = logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)  # (N, T, C)
        numbers = torch.arange(begin, begin + count)
        counting = block_scores(logits, self.multi_label, self.last_n)[numbers % self.stride == 0]
        total = counting.double().sum(dim=0)
        self._total = total if self._total is None else self._total + total
        self.counted += len(counting)
        self.blocks += count
        for block in numbers[numbers % self.skip == 0].tolist():
            start = block // self.skip
            maps = None if output.attention is None else output.attention[block - begin].float()
            if start == self.due:
                yield self._due(start, probabilities[block - begin], maps, steps)
            self._last = (start, probabilities[block - begin], maps)

    def _due(self, start: int, probabilities: Tensor, attention: Tensor | None, steps: int) -> Part:
        """The steps of a block that are due."""
        due = slice(self.due - start, steps)
        frames = np.arange(self.due, start + steps) * self.skip
        self.due = start + steps
        return Part(frames, None if attention is None else attention[due].cpu().numpy(), probabilities[due].cpu().numpy())


def _append(held: Frames, more: Frames) -> Frames:
    pairs = zip(held, more, strict=True)
    return Frames(*(None if part is None else torch.cat([cast(Tensor, part), cast(Tensor, new)]) for part, new in pairs))


def _part(frames: Frames, begin: int, end: int | None) -> Frames:
    return Frames(*(None if part is None else cast(Tensor, part)[begin:end] for part in frames))


def _length(frames: Frames) -> int:
    return next(len(cast(Tensor, part)) for part in frames if part is not None)


def track_video(
    network: nn.Module, store: FeatureStore, name: str, tracker: Tracker, chunk: int = CHUNK, limit: int | None = None
) -> Track:
    """Make the track of a video whose features are stored.

    Args:
        network: on the device to compute on.
        store: of the features.
        name: of the video.
        tracker: a fresh one of the network.
        chunk: frames that are read at a time.
        limit: frames after which the video is left; None for all of it.

    Raises:
        DataError: the features cannot be read, or are of blocks drawn at random.
    """
    if store.drawn:
        raise DataError(f"{name}: has features of drawn blocks alone, where attention is followed through the whole video")
    device = next(network.parameters()).device
    pool = FramePool(store, [name], tracker.network.inputs, "mmap")
    number = store.frames(name) if limit is None else min(limit, store.frames(name))
    parts: list[Part] = []
    for begin in range(0, number, chunk):
        parts += tracker.feed(Frames(**pool.stretch(0, np.arange(begin, min(number, begin + chunk)), device)))
    parts += tracker.close()
    frames, maps, probabilities = zip(*parts, strict=True)
    attention = None if maps[0] is None else np.concatenate(maps).reshape(-1, *store.grid)
    return Track(np.concatenate(frames), attention, np.concatenate(probabilities), tracker.scores)


class FileTracker:
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
        set_arithmetic(trained.settings)

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


class FileTrack:
    """The track of a video file: iterate over its moments, then ask for the rest.

    Args:
        source: network and backbone.
        path: of the video.
        told: called with the frames so far, now and then.
        threads: that decode.
        kept: keep what decodes of a damaged video; this list receives what is damaged. None refuses it.

    Attributes:
        frames: F, so far.
        seconds: from the first frame's beginning to the last one's end, so far.
    """

    def __init__(
        self,
        source: FileTracker,
        path: Path,
        told: Callable[[int], None],
        threads: int = 1,
        kept: list[str] | None = None,
    ) -> None:
        self.source, self.path, self.told, self.threads, self.kept = source, path, told, threads, kept
        self.frames, self.seconds = 0, 0.0
        self.tracker = Tracker.of(source.trained)
        self._times: deque[float] = deque()  # of the frames whose moments are still to come
        self._first = 0  # index of the frame that the first of them belongs to

    @property
    def scores(self) -> np.ndarray:
        """(C,) float32 mean class probabilities of the video's blocks, by which a test classifies it."""
        return self.tracker.scores

    @torch.no_grad()
    def __iter__(self) -> Iterator[Moment]:
        """Every step, in order.

        Raises:
            VideoError: the video does not decode, or its features are not finite.
        """
        info = probe(self.path)
        size = frame_side(self.source.trained.settings)
        for chunk in ahead(chunks(read_timed(self.path, size, self.threads, self.kept), FRAMES)):
            times, images = zip(*chunk, strict=True)
            features = self.source.features(np.stack(images))
            finite = torch.isfinite(features).all(dim=2).all(dim=1)
            if not finite.all():
                number = self.frames + int(finite.int().argmin())
                raise VideoError(f"{self.path}: features of frame {number} are not finite in half precision")
            self.frames += len(times)
            self._times.extend(times)
            interval = times[-1] / (self.frames - 1) if self.frames > 1 else 1 / (info.fps or FALLBACK_RATE)
            self.seconds = times[-1] + interval
            for part in self.tracker.feed(pool_frames(features, self.tracker.network.inputs)):
                yield from self._moments(part)
            self.told(self.frames)
        for part in self.tracker.close():
            yield from self._moments(part)

    def _moments(self, part: Part) -> Iterator[Moment]:
        for row, frame in enumerate(part.frames.tolist()):
            while self._first < frame:
                self._times.popleft()
                self._first += 1
            attention = None if part.attention is None else part.attention[row].reshape(self.source.trained.grid)
            yield Moment(frame, self._times[0], part.probabilities[row], attention)


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
        backbone = built(trained.settings, "scales" in trained.about)
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
