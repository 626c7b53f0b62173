"""Where a tested network looks: filmstrips of some test videos, and what the report's viewer shows, into the run folder.

The videos are chosen by rule, so that they are the same for every model of a data set: of each of the first classes by
name that have test videos, the first test video by name; one with several labels is taken once. Filmstrips are of four
classes and show the video's first block, every fifth of its 30 steps, which gives six columns. The viewer has twelve.
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
from reproduce.common.naming import safe_name
from reproduce.experiments import watched
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.watched import Watched
from reproduce.systems.base import System
from reproduce.systems.recurrent import RecurrentSystem
from reproduce.systems.tracks import Tracker, track_video
from reproduce.visual.overlay import filmstrip

CLASSES = 4  # filmstrips of a run
WATCHED = 12  # videos that are recorded for the report's viewer
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
    for number, chosen in enumerate(choose(data.annotation.test, classes), start=1):
        video, guess = data.annotation.test[chosen], predicted[chosen]
        try:
            frames, maps = look(network, data.store, video.name, data.skip)
            strip = filmstrip(read_some(data.annotation.path(video), frames[::EVERY]), maps[::EVERY])
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


def record(folder: RunFolder, network: nn.Module, data: VideoDataModule) -> list[Watched]:
    """Watch some test videos with a tested network and write what came of it into the run folder.

    It touches neither the data module's frames nor other processes, and draws no random number. A video that cannot be
    read any more is left out, and a line says so.

    Args:
        folder: of the run.
        network: with the tested weights; is left in evaluation mode.
        data: of the run.
    """
    annotation, found = data.annotation, []
    for number, chosen in enumerate(choose(annotation.test, annotation.classes, WATCHED), start=1):
        video = annotation.test[chosen]
        try:
            found.append(_watch(folder, number, network, data, video))
        except (DataError, OSError) as error:
            print(f"{video.name} is not recorded for the report's viewer: {error}", flush=True)
    try:
        watched.write_watched(folder, found)
    except OSError as error:
        print(f"{folder.watched} is not written: {error}", flush=True)
    return found


def _watch(folder: RunFolder, number: int, network: nn.Module, data: VideoDataModule, video: Video) -> Watched:
    length = data.store.frames(video.name)
    frames = watched.kept(length)
    pictures = read_some(data.annotation.path(video), frames, watched.SIDE)
    watcher = Tracker(network, data.annotation.multi_label, data.skip)
    track = track_video(network, data.store, video.name, watcher, limit=watched.LONGEST)
    last = np.searchsorted(track.frames, frames, side="right") - 1  # looked at by then
    attention = None if track.attention is None else track.attention[last].astype(np.float16)
    name = f"{number}-{safe_name(video.name)}"
    watched.write_sheet(folder, name, pictures)
    rate = probe(data.annotation.path(video)).fps or None
    return Watched(video.name, name, length, frames, attention, track.probabilities[last].astype(np.float16), rate)


def choose(videos: Sequence[Video], classes: Sequence[str], count: int = CLASSES) -> list[int]:
    """Numbers of the videos that are drawn, see above; ``count`` instead of four."""
    by_name = sorted(range(len(videos)), key=lambda number: videos[number].name)
    chosen: list[int] = []
    for label in sorted(range(len(classes)), key=lambda label: classes[label]):
        chosen += [number for number in by_name if label in videos[number].labels and number not in chosen][:1]
    return chosen[:count]


@torch.no_grad()
def look(network: nn.Module, store: FeatureStore, name: str, skip: int) -> tuple[np.ndarray, np.ndarray]:
    """Attention on a video's first block, as when it was tested.

    Args:
        network: is left in evaluation mode.
        store: of the features.
        name: of the video.
        skip: frames between two steps.

    Returns:
        (T,) frame indices, the last one repeated where the video is shorter than a block; (T, rows, columns) float32
        l_t of Eq. 4.

    Raises:
        DataError: the features cannot be read.
    """
    asked, device = cast(Network, network.eval()), next(network.parameters()).device
    frames = block_frames(np.zeros(1, dtype=np.int64), np.asarray([store.frames(name)]), skip)[0]
    inputs = FramePool(store, [name], asked.inputs, "mmap").stretch(0, frames, device)
    attention = run_dense(asked, Frames(**inputs), blocks=1, steps=len(frames)).attention
    assert attention is not None
    return frames, attention[0].float().cpu().numpy().reshape(len(frames), *store.grid)


def read_some(path: Path, wanted: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Some frames of a video, squashed to a square as the backbone saw them.

    Args:
        path: of the file.
        wanted: (n,) frame indices in ascending order, possibly repeated.
        side: of the square, in pixels.

    Returns:
        (n, side, side, 3) uint8 RGB.

    Raises:
        VideoError: the file is missing, does not decode, or has fewer frames.
    """
    decoded = enumerate(islice(read_frames(path, side), int(wanted[-1]) + 1))
    kept = set(wanted.tolist())
    found = {number: frame for number, frame in decoded if number in kept}
    if int(wanted[-1]) not in found:
        raise VideoError(f"{path}: has no frame {wanted[-1]}, though its features have")
    return np.stack([found[number] for number in wanted.tolist()])
