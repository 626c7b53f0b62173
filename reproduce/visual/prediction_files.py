"""The files of one predicted video, made in two passes: the first scores it frame by frame, the second draws it.

The second pass knows the video's length and scores, and takes the track of the first from the file that it wrote, so that
nothing is kept of a frame. All files are made in a folder of their own and take their places when all are complete.
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from datamodules.decoding import VideoError, VideoInfo, probe, read_timed
from datamodules.files import write_atomically
from datamodules.videos import DataError
from reproduce.common.catalogue import SYSTEMS
from reproduce.common.processes import cores
from reproduce.common.progress import Progress
from reproduce.experiments.attention_files import Moment
from reproduce.systems.tracks import FileTrack, FileTracker, ahead
from reproduce.visual.pages import Strip, evenly, save_strips
from reproduce.visual.video_writer import Painter, VideoFile, clock, encoder, ranked

FORMAT = 1  # of what is written; another one is written anew
SUMMARY = "summary.json"  # written last: its presence says that the others are complete
FILES = ("frames.csv", "frames.json", "overlay.mp4", "filmstrip.png")
MOST_THREADS = 8  # of a decoder
LEAST_ASPECT, MOST_ASPECT = 0.1, 10.0  # of a pixel; a header that claims others is wrong
DIGITS = 7  # significant ones of a table; a float32 has no more
MOST_INTERVALS = 24  # of a timeline


@dataclass(frozen=True)
class Layout:
    """What the files show, and how large.

    Args:
        side: of a picture's larger side in the overlay video, px.
        columns: of the filmstrip.
        top: classes to name.
    """

    side: int
    columns: int
    top: int


def predict_video(
    viewer: FileTracker, path: Path, folder: Path, layout: Layout, overwrite: bool = False, keep_damaged: bool = False
) -> dict[str, Any]:
    """Write one video's files, unless the same ones are there; returns its summary.

    Args:
        viewer: the trained network with its backbone.
        path: of the video.
        folder: that receives ``FILES`` and the summary.
        layout: what they show, and how large.
        overwrite: make them even where they are there.
        keep_damaged: take what decodes of a damaged video, and say in the summary what is damaged.

    Raises:
        VideoError: the video does not decode.
        DataError: there is no H.264 encoder, or the folder cannot be written to.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise VideoError(f"{ascii(str(path))}: the path is not UTF-8; rename the file") from None
    made_from = _made_from(viewer, path, layout)
    before = None if overwrite else read_summary(folder)
    if before and before.get("made_from") == made_from and (keep_damaged or "damage" not in before):
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
        summary = {"video": str(path), **_score(viewer, path, draft, layout, keep_damaged), "made_from": made_from}
        _draw(viewer, path, draft, layout, summary)
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


def _made_from(viewer: FileTracker, path: Path, layout: Layout) -> dict[str, Any]:
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
        "look": vars(layout),
    }


def _score(viewer: FileTracker, path: Path, draft: Path, layout: Layout, keep_damaged: bool) -> dict[str, Any]:
    """The first pass: write the frames' tables; returns what the summary says of the video."""
    trained, info = viewer.trained, probe(path)
    report, close = _reporter(f"scoring {path.name}", info.expected_frames or round(info.seconds * info.fps))
    kept = [] if keep_damaged else None
    viewing, timeline, looked_at = FileTrack(viewer, path, report, min(MOST_THREADS, cores()), kept), Timeline(), 0
    grid = trained.grid if _attends(viewer) else None
    about = {
        "video": str(path),
        "run": str(trained.folder.path.resolve()),
        "checkpoint": trained.checkpoint.name,
        "classes": list(trained.classes),
        "multi_label": trained.multi_label,
        "grid": None if grid is None else list(grid),
    }
    table = FrameTable(draft / "frames", about, trained.classes, grid, layout.top)
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
        **({"damage": "; ".join(kept)} if kept else {}),
    }
    over_time = [
        {"begin": begin, "end": min(end, facts["seconds"]), "scores": by_name(scores)}
        for begin, end, scores in timeline.intervals()
    ]
    return {**about, **facts, "scores": by_name(viewing.scores), "over_time": over_time}


def _draw(viewer: FileTracker, path: Path, draft: Path, layout: Layout, summary: dict[str, Any]) -> None:
    """The second pass: draw the overlay video and the filmstrip."""
    classes, grid = viewer.trained.classes, viewer.trained.grid if _attends(viewer) else None
    moments = read_moments(draft / "frames.csv", len(classes), grid)
    frames, seconds, info = summary["frames"], summary["seconds"], probe(path)
    report, close = _reporter(f"drawing {path.name}", frames)
    wanted = set(evenly(frames, layout.columns).tolist())
    painter, video = None, None
    times: list[str] = []
    pictures: list[np.ndarray] = []
    overlays: list[np.ndarray] = []
    moment, upcoming = next(moments), next(moments, None)
    try:
        for number, (shown, frame) in enumerate(ahead(read_timed(path, None, min(MOST_THREADS, cores()), kept=[]))):
            while upcoming is not None and upcoming.frame <= number:
                moment, upcoming = upcoming, next(moments, None)
            if painter is None or video is None:
                painter = Painter(*_shown_size(frame, info), layout.side, classes, grid is not None, seconds)
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
    caption = ", ".join(f"{classes[label]} {scores[label]:.2f}" for label in ranked(scores, layout.top))
    rows = [("frames", pictures), *([("attention", overlays)] if overlays else [])]
    save_strips([Strip(caption, tuple(rows), tuple(times))], draft / "filmstrip", path.name)


def _attends(viewer: FileTracker) -> bool:
    return SYSTEMS[viewer.trained.settings.model.name].attends


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


class FrameTable:
    """A track as two files, CSV and JSON, that grow by a line a moment.

    ``<stem>.csv`` has the columns ``frame``, ``seconds``, ``top`` (the likeliest classes joined by ``|``), a column a class,
    and ``alpha_<row>_<column>`` of every cell from the upper left one. ``<stem>.json`` is one object: what was given as
    ``about``, then ``frames``, a list of objects.

    Args:
        stem: of the files, without suffix.
        about: facts for the JSON file.
        classes: their names by id.
        grid: rows and columns of the attention; None for a network without.
        top: classes to name.
    """

    def __init__(
        self, stem: Path, about: dict[str, Any], classes: Sequence[str], grid: tuple[int, int] | None, top: int
    ) -> None:
        self.classes, self.top = classes, top
        self._csv = stem.with_name(f"{stem.name}.csv").open("w", newline="", encoding="utf-8")
        self._json = stem.with_name(f"{stem.name}.json").open("w", encoding="utf-8")
        cells = [f"alpha_{row}_{column}" for row in range(grid[0]) for column in range(grid[1])] if grid else []
        self._writer = csv.writer(self._csv, lineterminator="\n")
        self._writer.writerow(["frame", "seconds", "top", *classes, *cells])
        self._json.write(json.dumps(about, ensure_ascii=False)[:-1] + ', "frames": [')
        self._between = "\n"

    def append(self, moment: Moment) -> None:
        """Add a moment."""
        likeliest = [self.classes[label] for label in ranked(moment.probabilities, self.top)]
        probabilities = _rounded(moment.probabilities)
        cells = [] if moment.attention is None else _rounded(moment.attention.ravel())
        seconds = round(moment.seconds, 6)
        self._writer.writerow([moment.frame, seconds, "|".join(likeliest), *probabilities, *cells])
        columns = 0 if moment.attention is None else moment.attention.shape[1]
        record = {
            "frame": moment.frame,
            "seconds": seconds,
            "top": likeliest,
            "probabilities": probabilities,
            "attention": [cells[begin : begin + columns] for begin in range(0, len(cells), columns)] if cells else None,
        }
        self._json.write(self._between + json.dumps(record, ensure_ascii=False))
        self._between = ",\n"

    def close(self, complete: bool = True) -> None:
        """End both files; the JSON file is valid only if they are complete."""
        if complete:
            self._json.write("\n]}\n")
        self._json.close()
        self._csv.close()


def read_moments(path: Path, classes: int, grid: tuple[int, int] | None) -> Iterator[Moment]:
    """Read a ``FrameTable`` of that many classes from its CSV file, a moment at a time."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        next(reader)
        for frame, seconds, _, *figures in reader:
            values = np.asarray(figures, dtype=np.float32)
            attention = values[classes:].reshape(grid) if grid else None
            yield Moment(int(frame), float(seconds), values[:classes], attention)


class Timeline:
    """Mean class probabilities of intervals of one length: of 1 s, or 2, 4, 8 … for at most ``MOST_INTERVALS`` of them."""

    def __init__(self) -> None:
        self.length = 1.0
        self._sums: dict[int, tuple[int, np.ndarray]] = {}

    def append(self, moment: Moment) -> None:
        """Add a moment."""
        while (number := int(moment.seconds // self.length)) >= MOST_INTERVALS:
            self.length *= 2
            earlier, self._sums = self._sums, {}
            for interval, (count, total) in earlier.items():
                self._add(interval // 2, count, total)
        self._add(number, 1, moment.probabilities.astype(np.float64))

    def _add(self, interval: int, count: int, total: np.ndarray) -> None:
        before = self._sums.get(interval)
        self._sums[interval] = (count, total) if before is None else (before[0] + count, before[1] + total)

    def intervals(self) -> list[tuple[float, float, np.ndarray]]:
        """Begin and end in seconds, and (C,) mean probabilities, of each interval in which a frame lies."""
        return [
            (interval * self.length, (interval + 1) * self.length, total / count)
            for interval, (count, total) in sorted(self._sums.items())
        ]


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
