"""One video through a trained network, in two passages: first it is looked at, then it is drawn.

The second passage knows the video's length and scores, and takes what the first one saw from the file it wrote, so that
nothing is kept of a frame. All files are made in a folder of their own and take their places when all are complete.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from datamodules.decoding import VideoError, VideoInfo, probe, read_timed
from datamodules.features import write_atomically
from datamodules.videos import DataError
from reproduce.common.processes import cores
from reproduce.common.progress import Progress
from reproduce.systems.tracks import FileTrack, FileTracker, ahead
from reproduce.visual.frame_table import FrameTable, Timeline, ranked, read_moments
from reproduce.visual.pages import Strip, evenly, save_strips
from reproduce.visual.video_writer import Painter, VideoFile, clock, encoder

FORMAT = 1  # of what is written; another one is written anew
SUMMARY = "summary.json"  # written last: its presence says that the others are complete
FILES = ("frames.csv", "frames.json", "overlay.mp4", "filmstrip.png")
MOST_THREADS = 8  # of a decoder
LEAST_ASPECT, MOST_ASPECT = 0.1, 10.0  # of a pixel; a header that claims others is wrong


@dataclass(frozen=True)
class Look:
    """How the files are to look.

    Args:
        side: of a picture's larger side in the overlay video, px.
        columns: of the filmstrip.
        top: classes to name.
    """

    side: int
    columns: int
    top: int


def predict_video(viewer: FileTracker, path: Path, folder: Path, look: Look, overwrite: bool = False) -> dict[str, Any]:
    """Write one video's files, unless the same ones are there; returns its summary.

    Args:
        viewer: who looks.
        path: of the video.
        folder: that receives ``FILES`` and the summary.
        look: how they look.
        overwrite: make them even where they are there.

    Raises:
        VideoError: the video does not decode.
        DataError: there is no H.264 encoder, or the folder cannot be written to.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise VideoError(f"{ascii(str(path))}: the path is not UTF-8; rename the file") from None
    made_from = _made_from(viewer, path, look)
    before = None if overwrite else read_summary(folder)
    if before and before.get("made_from") == made_from:
        print(f"{path}: finished before; overwrite=true makes it anew")
        return before
    for what in ("video", "checkpoint"):
        if before and before["made_from"][what][0] != made_from[what][0]:
            other = before["made_from"][what][0]
            advice = "give another output=<folder>, or overwrite=true"
            raise DataError(f"{folder.resolve()}: holds the results of another {what}, {other}; {advice}")
    draft = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(draft, ignore_errors=True)  # of a killed process
        draft.mkdir(parents=True)
        encoder()
        summary = {"video": str(path), **_look_at(viewer, path, draft, look), "made_from": made_from}
        _draw(viewer, path, draft, look, summary)
        folder.mkdir(exist_ok=True)
        (folder / SUMMARY).unlink(missing_ok=True)
        for name in FILES:
            (draft / name).replace(folder / name)
        write_atomically(folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    except (OSError, av.FFmpegError) as error:
        raise DataError(f"cannot write to {folder.resolve()} ({error}); make room, or set output") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return summary


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What was written of a video; None where that is not complete."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    made_from = summary.get("made_from") if isinstance(summary, dict) else None
    whole = isinstance(made_from, dict) and all(isinstance(made_from.get(what), list) for what in ("video", "checkpoint"))
    return summary if whole and all((folder / name).is_file() for name in FILES) else None


def _made_from(viewer: FileTracker, path: Path, look: Look) -> dict[str, Any]:
    """What the files depend on, as it would be read back."""
    try:
        files = [(file.resolve(), file.stat()) for file in (path, viewer.trained.checkpoint)]
    except OSError as error:
        raise DataError(f"{path}: not readable ({error})") from error
    return {
        "format": FORMAT,
        "video": [str(files[0][0]), files[0][1].st_size, files[0][1].st_mtime_ns],
        "checkpoint": [str(files[1][0]), files[1][1].st_size, files[1][1].st_mtime_ns],
        "precision": viewer.precision,
        "look": vars(look),
    }


def _look_at(viewer: FileTracker, path: Path, draft: Path, look: Look) -> dict[str, Any]:
    """The first passage: writes the frames' tables; returns what is to be said of the video."""
    trained, info = viewer.trained, probe(path)
    expected = info.declared_frames or round(info.seconds * info.fps)
    report, close = _reporter(f"looking at {path.name}", expected)
    viewing, timeline, looked_at = FileTrack(viewer, path, report, min(MOST_THREADS, cores())), Timeline(), 0
    grid = trained.grid if attends(viewer) else None
    about = {
        "video": str(path),
        "run": str(trained.folder.path.resolve()),
        "checkpoint": trained.checkpoint.name,
        "classes": list(trained.classes),
        "multi_label": trained.multi_label,
        "grid": None if grid is None else list(grid),
    }
    table = FrameTable(draft / "frames", about, trained.classes, grid, look.top)
    complete = False
    try:
        for moment in viewing:
            table.append(moment)
            timeline.append(moment)
            looked_at += 1
        complete = True
    finally:
        table.close(complete)
    close()

    def by_name(scores: np.ndarray) -> dict[str, float]:
        return dict(zip(trained.classes, np.round(scores, 6).tolist(), strict=True))

    facts = {
        "frames": viewing.frames,
        "looked_at": looked_at,
        "seconds": round(viewing.seconds, 6),
        "interval": timeline.length,
    }
    over_time = [
        {"begin": begin, "end": min(end, facts["seconds"]), "scores": by_name(scores)}
        for begin, end, scores in timeline.intervals()
    ]
    return {**about, **facts, "scores": by_name(viewing.scores), "over_time": over_time}


def _draw(viewer: FileTracker, path: Path, draft: Path, look: Look, summary: dict[str, Any]) -> None:
    """The second passage: the overlay video and the filmstrip."""
    classes, grid = viewer.trained.classes, viewer.trained.grid if attends(viewer) else None
    moments = read_moments(draft / "frames.csv", len(classes), grid)
    frames, seconds, info = summary["frames"], summary["seconds"], probe(path)
    report, close = _reporter(f"drawing {path.name}", frames)
    wanted = set(evenly(frames, look.columns).tolist())
    painter, video = None, None
    times: list[str] = []
    pictures: list[np.ndarray] = []
    overlays: list[np.ndarray] = []
    moment, upcoming = next(moments), next(moments, None)
    try:
        for number, (shown, frame) in enumerate(ahead(read_timed(path, None, min(MOST_THREADS, cores())))):
            while upcoming is not None and upcoming.frame <= number:
                moment, upcoming = upcoming, next(moments, None)
            if painter is None or video is None:
                painter = Painter(*_shown_size(frame, info), look.side, classes, grid is not None, seconds)
                video = VideoFile(draft / "overlay.mp4", painter.height, painter.width, frames / seconds)
            video.append(painter.paint(frame, number, shown, moment), shown)
            if number in wanted:
                times.append(clock(shown))
                pictures.append(painter.fitted(frame))
                if moment.attention is not None:
                    overlays.append(painter.overlaid(pictures[-1], moment.attention))
            report(number + 1)
        if video is not None:
            video.close()
            video = None
    finally:
        if video is not None:
            video.discard()
    close()
    scores = np.asarray(list(summary["scores"].values()))
    caption = ", ".join(f"{classes[label]} {scores[label]:.2f}" for label in ranked(scores, look.top))
    rows = [("frames", pictures), *([("attention", overlays)] if overlays else [])]
    save_strips([Strip(caption, tuple(rows), tuple(times))], draft / "filmstrip", path.name)


def attends(viewer: FileTracker) -> bool:
    """Whether the network has attention."""
    return viewer.trained.settings.model.name == "soft_attention"


def _shown_size(frame: np.ndarray, info: VideoInfo) -> tuple[float, float]:
    """Height and width of a decoded frame in square pixels."""
    height, width = frame.shape[:2]
    aspect = info.pixel_aspect if LEAST_ASPECT <= info.pixel_aspect <= MOST_ASPECT else 1.0
    turned = height != width and (height, width) == (info.width, info.height)
    return (height * aspect, width) if turned else (height, width * aspect)


def _reporter(what: str, expected: int) -> tuple[Callable[[int], None], Callable[[], None]]:
    """What is called with the frames done, and what is called at the end."""
    progress = Progress(what, "frames")

    def report(done: int) -> None:
        rate = done / max(1e-9, time.perf_counter() - progress.started)
        progress.update(done, max(done, expected), f"{rate:.0f} frames/s")  # headers lie

    return report, progress.close
