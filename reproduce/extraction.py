"""Features of a data set: decode every video, run the backbone through ``Trainer.predict``, write the store."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from datamodules.decoding import RESIZE_RULE, VideoError, decoder_version, read_chunks
from datamodules.features import BACKBONE, FeatureStore, FeatureStoreError, VideoWriter
from datamodules.frames import FrameDataModule, FramePacket
from datamodules.videos import Annotation
from lightning_modules.backbone import Backbone, build_backbone, calibrate
from reproduce.inputs import feature_folder, feature_spec
from reproduce.progress import Progress
from reproduce.settings import Settings, cores

CALIBRATION_VIDEOS, CALIBRATION_FRAMES = 32, 4  # frames for a random network's batch norms: of train, spread evenly
MAX_WORKERS = 8


def is_first_process() -> bool:
    """Whether this is rank 0, as far as a launcher's environment tells before a Trainer exists."""
    return all(int(os.environ.get(name, "0") or 0) == 0 for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def ensure_features(settings: Settings, annotation: Annotation) -> FeatureStore:
    """The finished feature store of a run: opened if complete, else extracted from where an earlier call stopped.

    Videos that do not decode are entered in the store as bad, and extraction goes on.

    Raises:
        FeatureStoreError: the store was made with another configuration, or cannot be written.
        BackboneError: the backbone cannot be built.
    """
    spec = feature_spec(settings)
    names = [video.name for video in annotation.videos]
    path = feature_folder(settings)
    store = FeatureStore(path)
    if store.exists():
        store.require(spec)
        if not store.missing(names):
            return store
    if spec.weights == "released":
        raise FeatureStoreError(
            f"{path.resolve()}: the released code's features are not imported yet; python reproduce/prepare.py "
            f"data.name={settings.data.name} backbone.weights=released released=<folder with train_features.h5 …>"
        )
    torch.set_num_threads(settings.trainer.threads or max(1, cores() // settings.trainer.devices))
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Ranks other than the first work under the lock that the first one holds.
        with FileLock(path / ".lock") if is_first_process() else contextlib.nullcontext():
            if is_first_process():
                for part in path.rglob("*.part"):  # left by a killed process; nobody else writes now
                    part.unlink()
            store = FeatureStore(path)
            missing = [video for video in annotation.videos if store.missing([video.name])]
            if missing:
                _extract(settings, annotation, store, [video.name for video in missing])
    except OSError as error:
        raise FeatureStoreError(f"cannot write features to {path.resolve()} ({error})") from error
    return FeatureStore(path)


def _extract(settings: Settings, annotation: Annotation, store: FeatureStore, names: Sequence[str]) -> None:
    backbone = _backbone(settings, annotation, store)
    probe = backbone.map(torch.zeros(1, 3, settings.backbone.size, settings.backbone.size, dtype=torch.uint8))
    _, channels, rows, columns = probe.shape
    bf16 = _use_bf16(settings)
    paths = [annotation.folder / name for name in names]
    if is_first_process():
        _check_space(store, annotation, names, rows * columns * channels * 2)
        notes = [f"Features: {settings.backbone.name}, {_weights_in_words(settings)}"]
        if settings.backbone.name == "googlenet" and settings.backbone.weights != "random":
            notes.append("torchvision's GoogLeNet is a batch-norm port, not the paper's Caffe network")
        about = {
            "layer": backbone.layer,
            "weights_sha256": backbone.sha256(),
            "resize": RESIZE_RULE,
            "precision": "bf16" if bf16 else "fp32",
            "decoder": decoder_version(),
            "torch": torch.__version__,
            "notes": notes,
        }
        store.create(feature_spec(settings), (rows, columns), channels, about)
    data = FrameDataModule(paths, settings.backbone.size, *_packet_and_workers(settings))
    trainer = Trainer(
        accelerator=settings.trainer.accelerator,
        devices=settings.trainer.devices,
        num_nodes=settings.trainer.num_nodes,
        strategy=strategy(settings),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[FeatureWriter(store.path, names, [path.stat().st_size for path in paths])],
    )
    trainer.predict(FeatureExtractor(backbone, bf16), data, return_predictions=False)
    trainer.strategy.barrier()
    if trainer.is_global_zero:
        FeatureStore(store.path).merge()
    trainer.strategy.barrier()


def _packet_and_workers(settings: Settings) -> tuple[int, int]:
    """Frames a batch, and decoding processes, of one device."""
    on_gpu = torch.cuda.is_available() and settings.trainer.accelerator != "cpu"
    packet = settings.backbone.batch_size or (64 if on_gpu else 16)  # larger activations leave malloc's heap
    spare = min(MAX_WORKERS, cores() // settings.trainer.devices - 1)
    if settings.backbone.workers is not None:
        return packet, settings.backbone.workers
    return packet, max(1, spare) if on_gpu else max(0, spare - 1)


def strategy(settings: Settings) -> str:
    """Lightning's strategy: DDP where there is more than one process."""
    return "ddp" if settings.trainer.devices * settings.trainer.num_nodes > 1 else "auto"


def quiet_lightning() -> None:
    """Keep Lightning's notes on hardware and tips out of the progress output; warnings remain."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # index arithmetic needs none
        ".*Couldn't infer the batch indices.*",  # packets carry their own
        ".*LeafSpec.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # that is how a run resumes
        ".*number of training batches .* is smaller than the logging interval.*",
    ):
        warnings.filterwarnings("ignore", message)


def _weights_in_words(settings: Settings) -> str:
    kinds = {"imagenet": "trained on ImageNet", "random": "RANDOM weights, batch norm calibrated on frames of train"}
    return kinds.get(settings.backbone.weights, f"weights of the file {os.path.basename(settings.backbone.weights)}")


def _use_bf16(settings: Settings) -> bool:
    if settings.backbone.precision == "auto":
        return torch.cuda.is_available() and settings.trainer.accelerator != "cpu" and torch.cuda.is_bf16_supported()
    return settings.backbone.precision == "bf16"


def _check_space(store: FeatureStore, annotation: Annotation, names: Sequence[str], frame_bytes: int) -> None:
    """Refuse at once what would fill the disk; frames are estimated from the headers of some videos."""
    from datamodules.decoding import probe

    sample = list(names)[:: max(1, len(names) // 20)]
    frames = []
    for name in sample:
        try:
            frames.append(probe(annotation.folder / name).declared_frames)
        except VideoError:
            continue
    known = [number for number in frames if number]
    if not known:
        return
    needed = np.mean(known) * len(names) * frame_bytes
    free = shutil.disk_usage(store.path).free
    if needed > free:
        raise FeatureStoreError(
            f"{store.path.resolve()}: the features of {len(names)} videos take about {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free; set paths.features to a larger disk"
        )


def _backbone(settings: Settings, annotation: Annotation, store: FeatureStore) -> Backbone:
    """The backbone of a store; random weights are calibrated once and kept beside the features."""
    options = settings.backbone
    backbone = build_backbone(options.name, options.weights, options.layer, options.size, options.seed)
    if options.weights != "random":
        return backbone
    path = store.path / BACKBONE
    if path.is_file():
        backbone.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return backbone
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order, so that the weights do not depend on the number of cores
    calibrate(backbone, calibration_frames(annotation, options.size))
    torch.set_num_threads(threads)
    if is_first_process():
        buffer = BytesIO()  # a full disk is an OSError when bytes are written, a RuntimeError when torch writes
        torch.save(backbone.state_dict(), buffer)
        part = path.with_suffix(".part")
        part.write_bytes(buffer.getvalue())
        part.replace(path)
    return backbone


def calibration_frames(annotation: Annotation, size: int) -> Tensor:
    """Some frames of train videos (N, 3, S, S) uint8, the same at every call; videos that do not decode are passed over.

    Raises:
        FeatureStoreError: no video decodes.
    """
    videos = sorted(annotation.train, key=lambda video: video.name)
    chosen = videos[:: max(1, len(videos) // CALIBRATION_VIDEOS)][:CALIBRATION_VIDEOS]
    frames = []
    for video in chosen:
        try:
            chunk = next(iter(read_chunks(annotation.path(video), size)))
        except VideoError:
            continue
        frames.append(chunk[np.linspace(0, len(chunk) - 1, CALIBRATION_FRAMES).round().astype(int)])
    if not frames:
        raise FeatureStoreError(f"{annotation.folder}: none of {len(chosen)} train videos decodes, {chosen[0].name!r} first")
    return torch.from_numpy(np.concatenate(frames)).permute(0, 3, 1, 2)


class FeatureExtractor(LightningModule):
    """Runs a backbone over packets of frames.

    Args:
        backbone: the network.
        bf16: whether to compute in bfloat16.
    """

    def __init__(self, backbone: Backbone, bf16: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.bf16 = bf16

    def predict_step(self, batch: FramePacket, _: int) -> np.ndarray:
        """(N, 3, S, S) uint8 frames -> (N, K, D) float16."""
        if not len(batch.frames):
            return np.empty((0, 0, 0), dtype=np.float16)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.backbone(batch.frames)
        return features.to(torch.float16).cpu().numpy()


class FeatureWriter(BasePredictionWriter):
    """Writes the features of each packet to its videos' files, and shows progress.

    Args:
        path: the store's folder.
        names: the videos, in the order of the frame data module.
        sizes: their files' sizes in bytes; progress is measured in them, since frame counts are not known ahead.
    """

    def __init__(self, path: Any, names: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__("batch")
        self.path, self.names, self.sizes = path, list(names), list(sizes)
        self.open: dict[int, VideoWriter] = {}
        self.counted: Counter[str] = Counter()
        self.store: FeatureStore | None = None
        self.progress: Progress | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the store; every rank writes its own videos and its own journal."""
        self.store = FeatureStore(self.path)
        self.progress = Progress(f"extracting features of {len(self.names)} videos", "MB", trainer.is_global_zero)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: np.ndarray,
        batch_indices: Any,
        batch: FramePacket,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append each segment; close the files of videos that end."""
        assert self.store is not None and self.progress is not None
        begin = 0
        for segment in batch.segments:
            name = self.names[segment.video]
            if segment.error is not None:
                if segment.video in self.open:
                    self.open.pop(segment.video).discard()
                self.store.enter_bad(name, segment.error, trainer.global_rank)
                self.counted["bad"] += 1
            else:
                if segment.first:
                    self.open[segment.video] = self.store.writer(name, trainer.global_rank)
                self.open[segment.video].append(prediction[begin : begin + segment.frames])
                begin += segment.frames
                if segment.end is not None:
                    end = segment.end
                    self.open.pop(segment.video).close(
                        fps=end.fps, width=end.width, height=end.height, declared_frames=end.declared_frames
                    )
            if segment.error is not None or segment.end is not None:
                self.counted["bytes"] += self.sizes[segment.video] * trainer.world_size
        self.counted["frames"] += begin * trainer.world_size
        self._show()

    def _show(self) -> None:
        assert self.progress is not None
        elapsed = max(1e-9, time.perf_counter() - self.progress.started)
        rate = f"{self.counted['frames']} frames, {self.counted['frames'] / elapsed:.0f} frames/s"
        self.progress.update(min(self.counted["bytes"], sum(self.sizes)) / 1e6, sum(self.sizes) / 1e6, rate)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was done."""
        assert self.progress is not None
        self._show()
        self.progress.close(f"{self.counted['bad']} bad videos" if self.counted["bad"] else "")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Drop unfinished files after an error."""
        for writer in self.open.values():
            writer.discard()
        self.open.clear()
