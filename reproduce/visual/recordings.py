"""Filmstrips and recordings of a tested network's attention on some test videos, for its run folder and the report.

The videos are chosen by rule, so that they are the same for every model of a data set: of each of the first classes by
name that have test videos, the first test video by name; one with several labels is taken once. Filmstrips are of four
classes and show the video's first block, every fifth of its 30 steps, which gives six columns. Recordings are of twelve.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from datamodules.base import VideoDataModule
from datamodules.blocks import block_frames
from datamodules.decoding import VideoError, probe, read_frames
from datamodules.features import FeatureStore
from datamodules.pool import FramePool
from datamodules.videos import DataError, Video
from lightning_modules.frames import Frames, Network, run_dense
from reproduce.common.catalogue import SYSTEMS
from reproduce.common.files import safe_name
from reproduce.experiments import attention_files
from reproduce.experiments.attention_files import Recording
from reproduce.experiments.folder import RunFolder
from reproduce.systems.base import System
from reproduce.systems.devices import device_of
from reproduce.systems.recurrent import RecurrentSystem
from reproduce.systems.tracks import Tracker, track_video
from reproduce.visual.overlay import filmstrip

STRIPS = 4  # filmstrips of a run
RECORDED = 12  # videos of a run, for the report's viewer
EVERY = 5  # steps between two columns
SIDE = 224  # px of a column; the recipe's blur is for this size
PNG_LEVEL = 3  # a third of the default's time, for a seventh more bytes


def draw(folder: RunFolder, system: System, predicted: np.ndarray) -> dict[str, str]:
    """Record a tested network, and draw its filmstrips if it attends; other systems than networks leave nothing.

    Args:
        folder: of the run.
        system: after its test.
        predicted: (V,) class ids of the test videos, or (V, C) booleans for multi-label.

    Returns:
        Path of each filmstrip below the run folder -> its caption.
    """
    if not isinstance(system, RecurrentSystem):
        return {}
    system.network.to(device_of(system.settings.trainer.accelerator))  # a Trainer leaves it on the CPU
    record(folder, system.network, system.data)
    if not SYSTEMS[system.settings.model.name].attends:
        return {}
    return draw_filmstrips(folder, system.network, system.data, predicted)


def draw_filmstrips(folder: RunFolder, network: nn.Module, data: VideoDataModule, predicted: np.ndarray) -> dict[str, str]:
    """Write the filmstrips of a tested network with attention.

    It touches neither the data module's frames nor other processes, and draws no random number. A video that cannot be
    read any more is left out, and a line says so.

    Args:
        folder: of the run.
        network: with the tested weights; is left in evaluation mode.
        data: of the run.
        predicted: (V,) class ids of the test videos, or (V, C) booleans for multi-label.

    Returns:
        Path of each picture below the run folder -> its caption: video, true class, prediction.
    """
    classes, captions = data.annotation.classes, {}
    for number, chosen in enumerate(first_videos(data.annotation.test, classes, STRIPS), start=1):
        video, guess = data.annotation.test[chosen], predicted[chosen]
        try:
            frames, maps = first_block(network, data.store, video.name, data.skip)
            if maps is None:
                return {}
            wanted = data.store.source_frames(video.name)[frames[::EVERY]]
            strip = filmstrip(frames_at(data.annotation.path(video), wanted), maps[::EVERY])
        except DataError as error:
            print(f"attention on {video.name} is not drawn: {error}", flush=True)
            continue
        path = folder.filmstrip(f"{number}-{safe_name(video.name)}")
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(strip).save(path, compress_level=PNG_LEVEL)
        labels = np.flatnonzero(guess).tolist() if data.annotation.multi_label else [int(guess)]
        true, found = (", ".join(classes[label] for label in some) or "none" for some in (video.labels, labels))
        captions[path.relative_to(folder.path).as_posix()] = f"{video.name}: {true}; predicted: {found}"
    return captions


def record(folder: RunFolder, network: nn.Module, data: VideoDataModule) -> list[Recording]:
    """Write recordings of some test videos by a tested network into its run folder.

    It touches neither the data module's frames nor other processes, and draws no random number. A video that cannot be
    read any more is left out, and a line says so.

    Args:
        folder: of the run.
        network: with the tested weights; is left in evaluation mode.
        data: of the run.
    """
    annotation, found = data.annotation, []
    if data.store.drawn:
        print("videos with features of drawn blocks alone are not recorded for the report's viewer", flush=True)
        return found
    for number, chosen in enumerate(first_videos(annotation.test, annotation.classes, RECORDED), start=1):
        video = annotation.test[chosen]
        try:
            found.append(_recording(folder, number, network, data, video))
        except (DataError, OSError) as error:
            print(f"{video.name} is not recorded for the report's viewer: {error}", flush=True)
    try:
        attention_files.write_recordings(folder, found)
    except OSError as error:
        print(f"{folder.recordings} is not written: {error}", flush=True)
    return found


def _recording(folder: RunFolder, number: int, network: nn.Module, data: VideoDataModule, video: Video) -> Recording:
    length = data.store.frames(video.name)
    frames = attention_files.recorded_frames(length)
    pictures = frames_at(data.annotation.path(video), frames, attention_files.SIDE)
    watcher = Tracker(network, data.annotation.multi_label, data.skip)
    track = track_video(network, data.store, video.name, watcher, limit=attention_files.LONGEST)
    last = np.searchsorted(track.frames, frames, side="right") - 1  # the last step by then
    attention = None if track.attention is None else track.attention[last].astype(np.float16)
    name = f"{number}-{safe_name(video.name)}"
    attention_files.write_sheet(folder, name, pictures)
    rate = probe(data.annotation.path(video)).fps or None
    return Recording(video.name, name, length, frames, attention, track.probabilities[last].astype(np.float16), rate)


def first_videos(videos: Sequence[Video], classes: Sequence[str], count: int) -> list[int]:
    """Numbers of the videos that the rule chooses, one of each of the first ``count`` classes."""
    by_name = sorted(range(len(videos)), key=lambda number: videos[number].name)
    chosen: list[int] = []
    for label in sorted(range(len(classes)), key=lambda label: classes[label]):
        chosen += [number for number in by_name if label in videos[number].labels and number not in chosen][:1]
    return chosen[:count]


@torch.no_grad()
def first_block(network: nn.Module, store: FeatureStore, name: str, skip: int) -> tuple[np.ndarray, np.ndarray | None]:
    """A network's attention on a video's first block, as when it was tested.

    Args:
        network: is left in evaluation mode.
        store: of the features.
        name: of the video.
        skip: frames between two steps.

    Returns:
        (T,) frame indices, the last one repeated where the video is shorter than a block; (T, rows, columns) float32
        l_t of Eq. 4, or None for a network without attention.

    Raises:
        DataError: the features cannot be read.
    """
    device = next(network.parameters()).device
    frames = block_frames(np.zeros(1, dtype=np.int64), np.asarray([store.frames(name)]), skip)[0]
    inputs = FramePool(store, [name], cast(Network, network).inputs, "mmap").stretch(0, frames, device)
    attention = run_dense(cast(Network, network.eval()), Frames(**inputs), blocks=1, steps=len(frames)).attention
    return frames, None if attention is None else attention[0].float().cpu().numpy().reshape(len(frames), *store.grid)


def frames_at(path: Path, wanted: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Read some frames of a video, squashed to a square as the backbone saw them.

    Args:
        path: of the file.
        wanted: (n,) frame indices in ascending order, possibly repeated.
        side: of the square, in pixels.

    Returns:
        (n, side, side, 3) uint8 RGB.

    Raises:
        VideoError: the file is missing, does not decode, or has fewer frames.
    """
    decoded = enumerate(islice(read_frames(path, side, kept=[]), int(wanted[-1]) + 1))
    kept = set(wanted.tolist())
    found = {number: frame for number, frame in decoded if number in kept}
    if int(wanted[-1]) not in found:
        raise VideoError(f"{path}: has no frame {wanted[-1]}, though its features have")
    return np.stack([found[number] for number in wanted.tolist()])
