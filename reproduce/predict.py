"""A trained network's predictions of your own videos, and its attention in each frame.

    python reproduce/predict.py checkpoint=runs/ucf11/soft_attention_1-0ea1b2c3d4e5 video=clip.mp4
    python reproduce/predict.py checkpoint=runs/hmdb51/soft_attention_0-0ea1b2c3d4e5 video=recordings output=seen top=3
    python reproduce/predict.py checkpoint=runs/hmdb51/soft_attention_0-0ea1b2c3d4e5 video=rtsp://camera:8554/door

Prints the likeliest classes of the whole video, scored as a test scores it (the mean over all its blocks), and over time, where
a line has room for three; summary.json has all.
Writes, for each video, into <output>/<video's name>/:

    overlay.mp4      frame and overlay side by side, the likeliest classes and the time below; plays in a browser
    filmstrip.png    evenly spaced frames above their overlays
    frames.csv       of every step: frame, time, class probabilities, attention by row and column; frames.json is the same
    summary.json     the whole video's scores and those over time

Films may be of any length, in any format that FFmpeg reads. A folder of frames (img_00001.jpg …) is one video. A stream (an
address, a pipe, - for the standard input) is captured to a file in <output> until it ends or Ctrl-C, and predicted then.
A video that is finished is not made again. One that does not decode, or is damaged without damaged=keep, does not stop the
others: it is named at the end, and the exit status is 1.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from datamodules.videos import DAMAGED, SUFFIXES, DataError
from reproduce.common.catalogue import SYSTEMS
from reproduce.common.cli import command_line, fail
from reproduce.common.dataset import feature_folder
from reproduce.common.fields import one_of
from reproduce.common.files import file_names, safe_name
from reproduce.common.processes import leaving_on_sigterm
from reproduce.common.settings import SettingsError

ALSO_SHOWN = 3  # classes of an interval
BAR = 20  # characters
WRITTEN = ("overlay.mp4", "summary.json")  # by this script: a video, and what stands beside it
LEAST_SIDE, MOST_SIDE = 64, 1920  # px


@dataclass
class PredictTrainer:
    """Where it computes."""

    accelerator: str = one_of("auto", ("auto", "cpu", "gpu"))
    """auto (a GPU if there is one), cpu or gpu"""


@dataclass
class PredictSettings:
    """Settings of predict.py."""

    checkpoint: Optional[str] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """the run's folder, for the weights it was tested with, or a .ckpt in its holdout/ or retrain/"""
    video: Optional[str] = None  # noqa: UP045
    """a video file, a folder (all videos in it and in its sub-folders), a folder of frames, or a stream"""
    output: str = "predictions"
    """folder that receives a folder for each video; give each model its own"""
    top: int = 5
    """classes to name; over time at most 3 are printed"""
    side: int = 480
    """larger side of a picture in the overlay video, pixels"""
    columns: int = 6
    """frames of the filmstrip"""
    overwrite: bool = False
    """make again what is finished"""
    damaged: str = one_of(DAMAGED[0], DAMAGED)
    """videos with gaps, an early end or frames that do not decode: refuse them, or keep what decodes, and say so"""
    features: Optional[str] = None  # noqa: UP045
    """folder of the run's features, which holds the weights of a random backbone; null for where the run had it"""
    trainer: PredictTrainer = field(default_factory=PredictTrainer)


def main(argv: list[str] | None = None) -> list[Path]:
    """Predict; returns the folders written."""
    settings = command_line(PredictSettings, __doc__ or "", argv)
    from reproduce.visual import captures

    try:
        checkpoint, word = _checked(settings)
        output = Path(settings.output).expanduser()
        viewer = None
        if captures.is_stream(word):
            viewer = _viewer(settings, checkpoint)  # before anything is captured in vain
            video = output / f"{safe_name(word) or 'stream'}-{time.strftime('%Y%m%d-%H%M%S')}.mkv"
            with leaving_on_sigterm():
                captures.capture_stream(word, video)
        else:
            video = Path(word).expanduser()
        videos = [video] if video.is_file() else videos_in(video, output)
        viewer = viewer or _viewer(settings, checkpoint)
    except (DataError, SettingsError) as error:
        raise fail(error) from None
    from datamodules.decoding import DamagedVideo, VideoError
    from reproduce.visual.prediction_files import Layout, predict_video

    layout = Layout(settings.side, settings.columns, min(settings.top, len(viewer.trained.classes)))
    if not SYSTEMS[viewer.trained.settings.model.name].attends:
        print(f"{viewer.trained.settings.model.name} has no attention: the videos show the probabilities alone")
    keep, written = settings.damaged == "keep", []
    bad: list[VideoError] = []
    with leaving_on_sigterm():
        for path, name in zip(videos, names_of(videos, video), strict=True):
            try:
                if path.is_dir():
                    frames, path = path, output / f"{name}.avi"
                    captures.capture_pictures(frames, path)
                _print(predict_video(viewer, path, output / name, layout, settings.overwrite, keep), layout.top)
            except VideoError as error:
                if isinstance(error, DamagedVideo):
                    error = VideoError(f"{error.path}: {error.what}; damaged=keep keeps what decodes")
                bad.append(error)
                print(f"left out: {error}\n", flush=True)
            except DataError as error:
                raise fail(error) from None
            else:
                written.append(output / name)
                print(f"written: {written[-1].resolve()}\n", flush=True)
    for error in bad:
        print(f"bad: {error}", file=sys.stderr)
    if bad:
        print(f"error: {len(bad)} of {len(videos)} videos do not decode", file=sys.stderr)
        raise SystemExit(1)
    return written


def _checked(settings: PredictSettings) -> tuple[Path, str]:
    """The run and the video.

    Raises:
        SettingsError: a setting is missing or impossible.
    """
    if settings.checkpoint is None or settings.video is None:
        lacking = " and ".join(f"{key}=<path>" for key in ("checkpoint", "video") if getattr(settings, key) is None)
        raise SettingsError(f"say {lacking}; --help shows examples")
    for key, least in {"top": 1, "columns": 1}.items():
        if getattr(settings, key) < least:
            raise SettingsError(f"{key}={getattr(settings, key)}: must be at least {least}")
    if not LEAST_SIDE <= settings.side <= MOST_SIDE:
        raise SettingsError(f"side={settings.side}: must be from {LEAST_SIDE} to {MOST_SIDE}")
    return Path(settings.checkpoint).expanduser(), settings.video


def videos_in(video: Path, output: Path) -> list[Path]:
    """The videos that are meant, in order of their paths; those written by this script are not among them.

    Raises:
        DataError: there is none.
    """
    if not os.path.isdir(video):
        if not os.path.exists(video):
            raise DataError(f"video={video}: there is no such file or folder (looked at {os.path.realpath(video)})")
        return [video]
    from reproduce.visual.captures import pictures_in

    own = Path(os.path.realpath(output))
    try:
        below = sorted([video, *video.rglob("*")])
    except OSError as error:  # it changes meanwhile, or a disk fails
        raise DataError(f"video={video}: the folder cannot be read ({error}); name the file itself, or try again") from error
    seen = [
        path
        for path in below
        if not any(part.startswith(".") for part in path.relative_to(video).parts)
        and own not in [real := Path(os.path.realpath(path)), *real.parents]  # also of a link that leads to itself
    ]
    found = [
        path
        for path in seen
        if path.suffix.lower() in SUFFIXES
        and not (path.name == WRITTEN[0] and os.path.isfile(path.with_name(WRITTEN[1])))  # by another call
        and os.path.isfile(path)
    ]
    with_videos = {path.parent for path in found}
    found += [path for path in seen if path.is_dir() and path not in with_videos and pictures_in(path)]
    if not found:
        raise DataError(f"video={video}: the folder holds no video and no numbered frames ({', '.join(SUFFIXES)})")
    return sorted(found)


def names_of(videos: list[Path], root: Path) -> list[str]:
    """A folder's name for each video, from its path below the root, all different."""
    return file_names([path.relative_to(root).as_posix() if path != root else path.name for path in videos])


def _viewer(settings: PredictSettings, checkpoint: Path):
    """The network with its backbone, on the device.

    Raises:
        DataError: the run, its checkpoint or its backbone is not there.
        SettingsError: there is no GPU.
    """
    from reproduce.systems.devices import device_of
    from reproduce.systems.loading import load_trained
    from reproduce.systems.tracks import FileTracker
    from reproduce.systems.trainer import quiet_lightning

    quiet_lightning()
    device = device_of(settings.trainer.accelerator)
    trained = load_trained(checkpoint)
    store = (
        Path(settings.features).expanduser()
        if settings.features
        else feature_folder(trained.settings, "scales" in trained.about)
    )
    viewer = FileTracker(trained, store, device)
    options = trained.settings.backbone
    print(
        f"{trained.folder.name}, {trained.checkpoint.parent.name}/{trained.checkpoint.name}: {len(trained.classes)} classes; "
        f"{options.name} ({options.weights} weights) in {viewer.precision} on the {'GPU' if device.type == 'cuda' else 'CPU'}",
        flush=True,
    )
    return viewer


def _print(summary: dict[str, Any], top: int) -> None:
    """Print a video's scores."""
    from reproduce.common.progress import duration
    from reproduce.visual.video_writer import clock

    kind = "each class by itself" if summary["multi_label"] else "they sum to 1"
    frames = f"{summary['frames']} frame{'s' if summary['frames'] != 1 else ''}"
    print(f"{summary['video']}: {frames}, {clock(summary['seconds'])}; probabilities ({kind}):")
    if "damage" in summary:
        print(f"  damaged: {summary['damage']}; what decodes is kept")
    ranking = sorted(summary["scores"].items(), key=lambda item: -item[1])[:top]
    width = max(len(name) for name, _ in ranking)
    for place, (name, score) in enumerate(ranking, start=1):
        print(f"  {place}. {name:{width}}  {score:.3f}  {'#' * round(BAR * score)}")
    print(f"  over time, mean of each {duration(summary['interval'])} from:")
    begins = [clock(part["begin"]) for part in summary["over_time"]]
    likeliest = [
        sorted(part["scores"].items(), key=lambda item: -item[1])[: min(top, ALSO_SHOWN)] for part in summary["over_time"]
    ]
    longest = max(len(names[0][0]) for names in likeliest)
    for begin, ((name, score), *others) in zip(begins, likeliest, strict=True):
        rest = ", ".join(f"{other} {less:.2f}" for other, less in others)
        print(f"  {begin:>{len(begins[-1])}}  {name:{longest}}  {score:.2f} {'#' * round(BAR * score):{BAR}}  {rest}".rstrip())


if __name__ == "__main__":
    main()
    sys.exit(0)
