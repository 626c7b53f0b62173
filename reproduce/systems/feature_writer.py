"""The two ends of extraction: a backbone that runs over packets of frames, and a writer that never holds it up."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor, nn

from datamodules.features import FeatureStore
from datamodules.frames import FramePacket, Segment
from datamodules.stores import VideoWriter
from lightning_modules.backbone import Backbone, folded
from reproduce.common.progress import Progress

PRECISIONS = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
IN_FLIGHT = 4  # packets that may wait for the writer


class Stopwatch:
    """Where the main process's time goes: every moment belongs to one of ``decode``, ``transfer``, ``network``, ``write``."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.last = time.perf_counter()

    def start(self) -> None:
        """Begin to measure."""
        self.seconds.clear()
        self.last = time.perf_counter()

    def lap(self, name: str) -> float:
        """Attribute the time since the last lap; returns it."""
        now = time.perf_counter()
        took, self.last = now - self.last, now
        self.seconds[name] += took  # type: ignore[assignment]
        return took

    def summary(self) -> str:
        """The shares in words."""
        total = max(1e-9, sum(self.seconds.values()))
        parts = [f"{name} {self.seconds[name] / total:.0%}" for name in ("decode", "transfer", "network", "write")]
        return f"time went to {', '.join(parts)}"


class Prediction(NamedTuple):
    """Features (N, K, D) float16 on the host, which are there once ``ready`` has happened (None: already)."""

    features: Tensor
    ready: torch.cuda.Event | None


class FeatureExtractor(LightningModule):
    """Runs a backbone over packets of frames.

    Every packet has the same shape, the last one too, so that a compiled network compiles once and a frame's features
    do not depend on how many frames came with it.

    Args:
        backbone: the network.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        compiled: whether to compile the network; the first packet, in which it does, is not measured.
        packet: frames of a packet.
        stopwatch: told where the time goes.
    """

    def __init__(self, backbone: Backbone, precision: str, compiled: bool, packet: int, stopwatch: Stopwatch) -> None:
        super().__init__()
        self.backbone = folded(backbone)
        self.dtype_of_products, self.packet, self.stopwatch = PRECISIONS[precision], packet, stopwatch
        if self.dtype_of_products is not None:  # as autocast would at every packet
            for layer in self.backbone.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.to(self.dtype_of_products)
        self._run = torch.compile(self.backbone) if compiled else self.backbone
        self._compiling = compiled
        self._copies: torch.cuda.Stream | None = None

    def on_predict_start(self) -> None:
        """Begin to measure."""
        if self.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.device)
        self.stopwatch.start()

    def transfer_batch_to_device(self, batch: FramePacket, device: torch.device, dataloader_idx: int) -> FramePacket:
        """Move the frames, beside the network's work on the packet before; what says whose they are stays."""
        self.stopwatch.lap("decode")  # all that passed since the last packet was handed to the writer
        frames = batch.frames
        if self._copies is not None:
            with torch.cuda.stream(self._copies):
                frames = frames.to(device, non_blocking=True)
            current = torch.cuda.current_stream(device)
            current.wait_stream(self._copies)
            frames.record_stream(current)
        self.stopwatch.lap("transfer")
        return batch._replace(frames=frames)

    def predict_step(self, batch: FramePacket, _: int) -> Prediction:
        """(N, 3, S, S) uint8 frames -> (N, K, D) float16."""
        count = len(batch.frames)
        if not count:
            return Prediction(torch.empty(0, 0, 0, dtype=torch.float16), None)
        frames = batch.frames
        if count < self.packet:
            frames = torch.cat([frames, frames[-1:].expand(self.packet - count, -1, -1, -1)])
            frames = frames.contiguous(memory_format=torch.channels_last)
        dtype = self.dtype_of_products
        with torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            features = self._run(frames)
        if self._compiling:
            self._compiling = False
            self.stopwatch.start()
        features = features[:count].to(torch.float16).contiguous()
        if self.device.type != "cuda":
            return Prediction(features, None)
        host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        host.copy_(features, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return Prediction(host, ready)


class FeatureWriter(BasePredictionWriter):
    """Writes the features of each packet to its videos' files in a thread of its own, and shows progress.

    Args:
        path: the store's folder.
        names: the videos, in the order of the frame data module.
        sizes: their files' sizes in bytes; progress is measured in them, since frame counts are not known ahead.
        stopwatch: told where the time goes.
    """

    def __init__(self, path: Path, names: Sequence[str], sizes: Sequence[int], stopwatch: Stopwatch) -> None:
        super().__init__("batch")
        self.path, self.names, self.sizes, self.stopwatch = path, list(names), list(sizes), stopwatch
        self.open: dict[int, VideoWriter] = {}
        self.counted: Counter[str] = Counter()
        self.store: FeatureStore | None = None
        self.progress: Progress | None = None
        self.thread: ThreadPoolExecutor | None = None
        self.waiting: deque[Future[tuple[float, float]]] = deque()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the store; every rank writes its own videos and its own journal."""
        self.store = FeatureStore(self.path)
        self.progress = Progress(f"extracting features of {len(self.names)} videos", "MB", trainer.is_global_zero)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="features")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Prediction,
        batch_indices: Any,
        batch: FramePacket,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Hand a packet's features over, and wait only if the writer is several packets behind."""
        self.stopwatch.lap("network")
        assert self.thread is not None
        self.waiting.append(self.thread.submit(self._write, prediction, batch.segments, trainer.global_rank))
        for segment in batch.segments:
            self.counted["bad"] += segment.error is not None
            if segment.error is not None or segment.end is not None:
                self.counted["bytes"] += self.sizes[segment.video] * trainer.world_size
        self.counted["frames"] += len(prediction.features) * trainer.world_size
        while len(self.waiting) > IN_FLIGHT:
            self._settle()
        self.stopwatch.lap("write")
        self._show()

    def _settle(self) -> None:
        """Wait for the oldest packet; what the writer itself waited for is the network's time, not its own."""
        for_device, for_disk = self.waiting.popleft().result()
        took = self.stopwatch.lap("write")
        share = took * for_device / max(1e-9, for_device + for_disk)
        self.stopwatch.seconds["write"] -= share  # type: ignore[assignment]
        self.stopwatch.seconds["network"] += share  # type: ignore[assignment]

    def _write(self, prediction: Prediction, segments: list[Segment], rank: int) -> tuple[float, float]:
        """Append each segment, close the files of videos that end; returns seconds waited for the device, and for the disk."""
        assert self.store is not None
        begun = time.perf_counter()
        if prediction.ready is not None:
            prediction.ready.synchronize()
        there = time.perf_counter()
        features, begin = prediction.features.numpy(), 0
        for segment in segments:
            name = self.names[segment.video]
            if segment.error is not None:
                if segment.video in self.open:
                    self.open.pop(segment.video).discard()
                self.store.enter_bad(name, segment.error, rank)
                continue
            if segment.first:
                self.open[segment.video] = self.store.writer(name, rank)
            self.open[segment.video].append(features[begin : begin + segment.frames])
            begin += segment.frames
            if segment.end is not None:
                end = segment.end
                facts = {"width": end.width, "height": end.height, "declared_frames": end.declared_frames}
                facts |= {"source_bytes": self.sizes[segment.video]} | ({"damage": segment.damage} if segment.damage else {})
                facts |= {"starts": list(segment.starts)} if segment.starts else {}
                self.open.pop(segment.video).close(fps=end.fps, **facts)
        return there - begun, time.perf_counter() - there

    def _show(self) -> None:
        assert self.progress is not None
        elapsed = max(1e-9, time.perf_counter() - self.progress.started)
        rate = f"{self.counted['frames']} frames, {self.counted['frames'] / elapsed:.0f} frames/s"
        self.progress.update(min(self.counted["bytes"], sum(self.sizes)) / 1e6, sum(self.sizes) / 1e6, rate)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for what is not written yet, and say where the time went."""
        assert self.progress is not None
        while self.waiting:
            self._settle()
        self._show()
        bad = f"{self.counted['bad']} bad videos; " if self.counted["bad"] else ""
        self.progress.close(bad + self.stopwatch.summary())

    def drop(self) -> None:
        """Stop writing, and drop unfinished files; there are none but after an error. May be called again.

        It is no hook of Lightning's, since a decoding process's death is an exception that can cut a hook short.
        """
        if self.thread is not None:
            self.thread.shutdown(cancel_futures=True)
        for writer in self.open.values():
            writer.discard()
        self.open.clear()
