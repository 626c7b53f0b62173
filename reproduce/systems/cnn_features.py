"""Features of a data set: decode every video, run the backbone through ``Trainer.predict``, write the store."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from datamodules.blocks import BLOCK_LENGTH
from datamodules.decoding import VideoError, decoder_version, read_chunks
from datamodules.drawn_blocks import Draw
from datamodules.features import BACKBONE, FeatureStore, FeatureStoreError
from datamodules.files import write_atomically
from datamodules.frames import (
    BROKEN,
    SHARED_MEMORY,
    FrameDataModule,
    SharedMemoryError,
    free_shared_memory,
    shared_bytes,
    workers_that_fit,
)
from datamodules.manifest import FeatureSpec
from datamodules.stored_videos import replaced, to_extract
from datamodules.stores import Store
from datamodules.videos import Annotation, Video
from lightning_modules.backbone import Backbone, BackboneError, calibrate, folded
from lightning_modules.multiresolution import largest
from reproduce.common.dataset import (
    feature_folder,
    feature_spec,
    finer_layers,
    require_videos,
)
from reproduce.common.files import Need, check_space
from reproduce.common.processes import TOGETHER, cores_of_process, is_first_process, leaving_on_sigterm, one_at_a_time
from reproduce.common.settings import Settings, SettingsError
from reproduce.systems.backbones import built, frame_side, notes_on, resize_rule, restore_backbone
from reproduce.systems.devices import accelerator, ieee, set_up, uses_gpu
from reproduce.systems.feature_writer import PRECISIONS, FeatureExtractor, FeatureWriter, Stopwatch
from reproduce.systems.preemption import LostProcess, Preemption, environment_plugins, explained
from reproduce.systems.trainer import quiet_lightning, strategy
from reproduce.systems.video_processes import estimated_frames

CALIBRATION_VIDEOS, CALIBRATION_FRAMES = 32, 4  # frames for a random network's batch norms: of train, spread evenly
MAX_WORKERS = 8
PACKET = {False: 8, True: 256}  # frames a batch, without and with a GPU; on the CPU larger activations leave malloc's heap
LEAST_COSINE = 0.999  # of a frame's features in half precision with those in fp32
TRIED_FRAMES = 16
BEGINNING = 600.0  # seconds within which the first process calibrates the backbone and tries half precision
COMPILE_FRAMES = {False: 20_000, True: 500_000}
"""Frames a device from which on compiling repays, without and with a GPU: it takes half a minute, and saves 2 ms a frame
of the paper's network on two CPU cores and less than 0.1 ms on a GPU."""
EXTRACTION = ("resize", "precision", "compiled", "decoder", "torch")
"""What of the store's manifest says how the features were extracted."""


def ensure(
    settings: Settings, annotation: Annotation, videos: Sequence[Video] | None = None, pyramid: bool = False
) -> FeatureStore:
    """The finished feature store of a run: opened if complete, else extracted from where an earlier call stopped.

    Videos that do not decode are entered in the store as bad, and extraction goes on.

    Args:
        settings: the run's.
        annotation: its data set.
        videos: of the data set, that need features; train and test by default. A random backbone is calibrated on train
            whatever they are.
        pyramid: take several maps of the backbone, packed, in place of its own.

    Raises:
        FeatureStoreError: the store was made with another configuration, or cannot be written.
        SettingsError: the backbone cannot be built, or there are no such devices.
        LostProcess: a process that worked on it too is gone; videos that were finished stay.
    """
    spec = feature_spec(settings, pyramid)
    videos = annotation.videos if videos is None else videos
    path, keep = feature_folder(settings, pyramid), settings.data.keeps_damaged
    store = FeatureStore(path)
    if store.exists():
        store.require(spec)
        if not to_extract(annotation, store, videos, keep):
            return store
    require_videos(annotation, store.missing(video.name for video in videos))
    if spec.weights == "released":
        raise FeatureStoreError(
            f"{path.resolve()}: the released code's features are not imported yet; python reproduce/prepare.py "
            f"data.name={settings.data.name} backbone.weights=released released=<folder with train_features.h5 …>"
        )
    set_up(settings)
    try:
        path.mkdir(parents=True, exist_ok=True)
        first = is_first_process()
        # Ranks other than the first work under the lock that the first one holds.
        lock = one_at_a_time(path / ".lock", f"extracts features to {path.resolve()}")
        with (
            leaving_on_sigterm(),
            explained(settings, "backbone.batch_size lower"),
            lock if first else contextlib.nullcontext(),
        ):
            if first:
                for part in path.rglob("*.part"):  # left by a killed process; nobody else writes now
                    part.unlink()
            store = FeatureStore(path)
            others = replaced(annotation, store, videos)
            if others and first:
                some = ", ".join(map(repr, list(others)[:3]))
                print(
                    f"{len(others)} videos were replaced since their features were made: {some}; extracting them again",
                    flush=True,
                )
            missing = to_extract(annotation, store, videos, keep)
            if missing:
                store = store if first else _begun(path)
                _extract(settings, annotation, store, missing, spec)
    except BackboneError as error:
        raise SettingsError(str(error)) from error
    except OSError as error:
        what = f"cannot write features to {path.resolve()} ({error}); make room or set paths.features, and run it again"
        raise FeatureStoreError(what) from error
    return FeatureStore(path)


def _begun(path: Path) -> FeatureStore:
    """The store that the first process of several has begun: it alone calibrates the backbone and tries half precision.

    Raises:
        LostProcess: it has not begun it in time.
    """
    deadline = time.monotonic() + BEGINNING
    while not (store := FeatureStore(path)).exists():
        if time.monotonic() > deadline:
            raise LostProcess(
                f"the first process of this run has not begun {path.resolve()} in {BEGINNING:.0f} s; its own output says why. "
                "Is paths.features the same folder for all of them?"
            )
        time.sleep(0.2)
    return store


def about(store: FeatureStore, annotation: Annotation) -> dict[str, Any]:
    """What ``run.json`` says of the features that a run was made from."""
    return {
        "features": store.manifest["spec"],
        "weights_sha256": store.manifest.get("weights_sha256"),
        "feature_fingerprint": store.fingerprint(video.name for video in annotation.videos),
        "features_made_by": {key: store.manifest.get(key) for key in EXTRACTION},
    }


def _extract(settings: Settings, annotation: Annotation, store: FeatureStore, names: Sequence[str], spec: FeatureSpec) -> None:
    backbone = calibrated(settings, annotation, store, spec.finer is not None)
    side = frame_side(settings)
    empty = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    maps = backbone.maps(empty)
    scales = [[*one.shape[2:], one.shape[1]] for one in maps]
    rows, columns, channels = scales[0]
    if len(maps) > 1:
        try:
            largest(scales)
        except ValueError as error:
            raise BackboneError(f"multiresolution.layers={finer_layers(settings)}: {error}; choose others") from error
        rows, columns = backbone(empty).shape[1], 1
    precision, compiled = _how(settings, annotation, store, names, backbone)
    paths = [annotation.folder / name for name in names]
    if is_first_process():
        size = (
            _expected_frames(settings, annotation, names) * channels * (rows * columns * 2 + 8)
        )  # fp16 cubes, two fp32 vectors
        check_space([Need(store.path, int(size), f"the features of {len(names)} videos")])
        facts = {
            "layer": backbone.layer,
            "weights_sha256": backbone.sha256(),
            "resize": resize_rule(settings),
            "precision": precision,
            "compiled": compiled,
            "decoder": decoder_version(),
            "torch": torch.__version__,
            "notes": notes_on(settings, backbone),
        }
        store.create(spec, (rows, columns), channels, facts | ({"scales": scales} if len(maps) > 1 else {}))
    draws = _draws(settings, annotation, names)
    extract_into(settings, store, backbone, names, paths, precision, compiled, draws)


def _draws(settings: Settings, annotation: Annotation, names: Sequence[str]) -> list[Draw]:
    """The blocks to draw of each of some videos, by the side that it is on; none where all frames are taken."""
    if settings.data.blocks_per_video is None:
        return []
    of_train, of_test = settings.data.blocks_per_video
    train = {video.name for video in annotation.train}
    seed = settings.data.blocks_seed
    return [Draw(of_train if name in train else of_test, seed, PurePosixPath(name).stem) for name in names]


def _expected_frames(settings: Settings, annotation: Annotation, names: Sequence[str]) -> float:
    """Frames of some videos that get features, at most; 0 where nothing is known."""
    if settings.data.blocks_per_video is not None:
        return BLOCK_LENGTH * sum(draw.count for draw in _draws(settings, annotation, names))
    return estimated_frames(annotation, names) or 0


def extract_into(
    settings: Settings,
    store: FeatureStore,
    backbone: Backbone,
    names: Sequence[str],
    paths: Sequence[Path],
    precision: str,
    compiled: bool,
    draws: Sequence[Draw] = (),
) -> Stopwatch:
    """Features of some videos into a store that is there, on all devices; returns where this process's time went.

    Raises:
        LostProcess: a decoding process was killed; names the video, unless shared memory ran out.
    """
    packet, workers = packet_and_workers(settings)
    workers = _within_shared_memory(settings, packet, workers)
    keep = settings.data.keeps_damaged
    data = FrameDataModule(paths, frame_side(settings), packet=packet, num_workers=workers, keep=keep, draws=draws)
    sizes = [path.stat().st_size if path.exists() else 0 for path in paths]
    stopwatch, preemption = Stopwatch(), Preemption()
    quiet_lightning()
    writer = FeatureWriter(store.path, names, sizes, stopwatch)
    trainer = Trainer(
        accelerator=accelerator(settings.trainer.accelerator),
        devices=settings.trainer.devices,
        num_nodes=settings.trainer.num_nodes,
        strategy=strategy(settings),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[writer, preemption],
        default_root_dir=store.path,
        plugins=[*environment_plugins()],
    )
    try:
        trainer.predict(FeatureExtractor(backbone, precision, compiled, packet, stopwatch), data, return_predictions=False)
    except SharedMemoryError as error:
        raise LostProcess(_short_of_shared_memory(error, store)) from error
    except (RuntimeError, OSError, EOFError) as error:
        with _deaf_to_deaths():
            if isinstance(error, OSError) and not isinstance(error, BROKEN):
                raise  # of this process, such as a full disk: decoding processes end because of it
            if not preemption.told:
                time.sleep(TOGETHER)
            preemption.leave_if_told()
            if not data.lost:  # Lightning's call of this may have been cut short
                data.on_exception(error)
            if "Bus error" in str(error):  # what a process dies of that writes to shared memory which is not there
                raise LostProcess(_short_of_shared_memory(error, store)) from error
            if not data.lost:
                raise
            raise LostProcess(_in_words(error, data.lost, store)) from error
    finally:
        writer.drop()
    preemption.leave_if_told()
    trainer.strategy.barrier()
    if trainer.is_global_zero:
        FeatureStore(store.path).merge()
    trainer.strategy.barrier()
    return stopwatch


@contextlib.contextmanager
def _deaf_to_deaths() -> Iterator[None]:
    """That a decoding process died is also raised by torch's signal handler, wherever this process is: not in here."""
    if sys.platform == "win32":  # which has no such signal
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


def _short_of_shared_memory(error: Exception, store: FeatureStore) -> str:
    """What to do about decoding processes that found no room in shared memory."""
    reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__).strip()
    free = free_shared_memory()
    left = "" if free is None else f", of which {free / 2**20:.0f} MiB are free"
    return (
        f"shared memory ran out ({SHARED_MEMORY}{left}), through which decoding processes hand over frames ({reason}). "
        f"Finished videos are kept in {store.path.resolve()}: give the container more (docker run --shm-size=2g), or add "
        "backbone.workers=0, and run the same command again"
    )


def _in_words(error: Exception, videos: Sequence[Path], store: FeatureStore) -> str:
    """What to do about decoding processes that died at some videos."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return (
        f"a decoding process died while it decoded {', '.join(map(str, videos))} ({reason}). Finished videos are kept in "
        f"{store.path.resolve()}: run the same command again. If memory ran out, add backbone.workers=0 or a smaller "
        "backbone.batch_size; if it dies at the same video again, that file crashes the decoder: replace it, or remove it "
        "and set data.skip_bad=true"
    )


def packet_and_workers(settings: Settings) -> tuple[int, int]:
    """Frames a batch, and decoding processes, of one device."""
    on_gpu = uses_gpu(settings)
    packet = settings.backbone.batch_size or PACKET[on_gpu]
    spare = min(MAX_WORKERS, cores_of_process(settings.trainer.devices) - 1)
    if settings.backbone.workers is not None:
        return packet, settings.backbone.workers
    return packet, max(1, spare) if on_gpu else max(0, spare - 1)


def _within_shared_memory(settings: Settings, packet: int, workers: int) -> int:
    """As many decoding processes of each device as shared memory holds the packets of; says where these are fewer."""
    side, devices, free = frame_side(settings), settings.trainer.devices, free_shared_memory()
    fitting = workers_that_fit(workers, packet, side, None if free is None else free // devices)
    if fitting < workers and free is not None and is_first_process():
        print(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free, and {workers} decoding processes a device would fill "
            f"{devices * shared_bytes(workers, packet, side) / 2**20:.0f} MiB: decoding in "
            f"{f'{fitting} of them' if fitting else 'the main process'}. A container gets more by docker run --shm-size=2g",
            flush=True,
        )
    return fitting


def _how(
    settings: Settings, annotation: Annotation, store: FeatureStore, names: Sequence[str], backbone: Backbone
) -> tuple[str, bool]:
    """The precision, and whether to compile the network; a store that exists goes on as it was begun."""
    if store.exists():
        return store.manifest["precision"], bool(store.manifest["compiled"])
    options, on_gpu = settings.backbone, uses_gpu(settings)
    precision = options.precision
    if precision == "auto":
        precision = half_precision(on_gpu) or "fp32"
        if precision != "fp32":
            sample = calibration_frames(annotation, frame_side(settings))
            frames = sample[:: max(1, len(sample) // TRIED_FRAMES)]
            cosine = kept_cosine(backbone, frames, precision, torch.device("cuda" if on_gpu else "cpu"))
            enough = cosine >= LEAST_COSINE
            if is_first_process():
                kept = f"{precision} features keep a cosine of {cosine:.4f} or more with those in fp32 on {len(frames)} frames"
                print(f"{kept}: extracting in {precision if enough else 'fp32'}", flush=True)
            precision = precision if enough else "fp32"
    if options.compile != "auto":
        return precision, options.compile == "true"
    if not on_gpu and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        return precision, False  # torch.compile writes C++
    frames = _expected_frames(settings, annotation, names)
    return precision, frames / (settings.trainer.devices * settings.trainer.num_nodes) >= COMPILE_FRAMES[on_gpu]


def half_precision(on_gpu: bool) -> str | None:
    """The half precision that the hardware multiplies fast: fp16 on GPUs, bf16 on some CPUs, None on others."""
    if on_gpu:
        return "fp16"  # as fast as bf16, with an eighth of its rounding error
    return "bf16" if getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() else None


def kept_cosine(backbone: Backbone, frames: Tensor, precision: str, device: torch.device) -> float:
    """Least cosine, over some frames, between a frame's features in a half precision and in fp32.

    Args:
        backbone: the network.
        frames: (N, 3, S, S) uint8.
        precision: ``fp16`` or ``bf16``.
        device: where to compute.
    """
    network, least = folded(backbone).to(device), 1.0
    for part in frames.to(device).split(16):
        with torch.no_grad(), ieee():
            single = network(part)
            with torch.autocast(device.type, PRECISIONS[precision]):
                half = network(part)
        cosines = torch.nn.functional.cosine_similarity(single.flatten(1), half.float().flatten(1))
        least = min(least, float(cosines.nan_to_num(-1.0).min()))
    return least


def calibrated(settings: Settings, annotation: Annotation, store: Store, pyramid: bool = False) -> Backbone:
    """The backbone of a store; random weights are calibrated once and kept beside the features."""
    backbone = built(settings, pyramid)
    if settings.backbone.weights != "random":
        return backbone
    path = store.path / BACKBONE
    if path.is_file():
        again = f"remove {store.path.resolve()} to extract all features again"
        restore_backbone(backbone, path, again)
        if store.manifest.get("weights_sha256", backbone.sha256()) != backbone.sha256():
            raise FeatureStoreError(f"{path}: not the weights that the features there were made with; {again}")
        return backbone
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order, so that the weights do not depend on the number of cores
    calibrate(backbone, calibration_frames(annotation, frame_side(settings)))
    torch.set_num_threads(threads)
    if is_first_process():
        buffer = BytesIO()  # a full disk is an OSError when bytes are written, a RuntimeError when torch writes
        torch.save(backbone.state_dict(), buffer)
        write_atomically(path, buffer.getbuffer())
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
