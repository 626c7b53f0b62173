"""``predictions.csv``: what a run predicted of every test video, with one score a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import write_atomically
from datamodules.reading import DataError, csv_text, read_records
from datamodules.videos import Video

AGAIN = "remove the run's folder to run it again"
THRESHOLD = 0.5  # score from which on a video is said to have a class, where it may have several


@dataclass(frozen=True)
class Predictions:
    """A run's predictions on its test videos.

    Args:
        videos: their names.
        classes: class names.
        target: (V, C) booleans.
        scores: (V, C) float32 mean class probabilities.
        predicted: what the file says was predicted, class names joined by ``|``.
        lines: where in the file each video stands, from 1.
    """

    videos: tuple[str, ...]
    classes: tuple[str, ...]
    target: np.ndarray
    scores: np.ndarray
    predicted: tuple[str, ...] = ()
    lines: tuple[int, ...] = ()


def decide(scores: np.ndarray, multi_label: bool) -> np.ndarray:
    """(V, C) scores -> predicted class ids (V,), or for multi-label (V, C) booleans, true from `THRESHOLD` on."""
    return scores >= THRESHOLD if multi_label else scores.argmax(axis=1)


def write_predictions(
    path: Path, videos: Sequence[Video], classes: Sequence[str], scores: np.ndarray, predicted: np.ndarray
) -> None:
    """Write predictions; several labels of a video are joined by ``|``, and none is the empty word.

    Args:
        path: of the file.
        videos: that were scored.
        classes: C names.
        scores: (V, C) float32 mean class probabilities, written so that they read back as the same float32.
        predicted: (V,) class ids, or (V, C) booleans for multi-label.
    """
    records: list[list[str]] = [["video", "target", "prediction", *classes]]
    for video, row, guess in zip(videos, scores, predicted, strict=True):
        target = "|".join(classes[label] for label in video.labels)
        chosen = np.flatnonzero(guess).tolist() if predicted.ndim == 2 else [int(guess)]
        prediction = "|".join(classes[label] for label in chosen)
        records.append([video.name, target, prediction, *(str(np.float32(score)) for score in row)])
    write_atomically(path, csv_text(records))


def read_predictions(path: Path, about: Mapping[str, Any] | None = None) -> Predictions:
    """Read predictions.

    Args:
        path: of the file.
        about: what ``run.json`` says; with it, what contradicts it or itself is refused: no video, one that stands there
            twice or lacks its class, a score that is not finite, other videos or classes.

    Raises:
        DataError: it is missing or malformed; names the line.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; {AGAIN}")
    sound = about is not None
    about = about or {}
    records = read_records(path)
    line, head = next(records, (1, []))
    names = tuple(head[3:])
    if head[:3] != ["video", "target", "prediction"] or not names or len(set(names)) < len(names):
        raise DataError(f"{path}, line {line}: expected video,target,prediction and a column a class; {AGAIN}")
    position = {name: number for number, name in enumerate(names)}
    one_label = sound and about.get("multi_label") is False and not about.get("hits")
    rows: dict[int, tuple[str, list[bool], np.ndarray, str]] = {}
    seen: dict[str, int] = {}
    for line, row in records:
        try:
            rows[line] = _prediction(row, position)
            video, hot, scores, _ = rows[line]
            if sound and not np.isfinite(scores).all():
                raise ValueError("a score is not finite")
            if sound and video in seen:
                raise ValueError(f"{video!r} stands in line {seen[video]} already")
            if one_label and sum(hot) != 1:
                raise ValueError(f"{video!r} has {sum(hot)} classes instead of one")
        except ValueError as error:
            raise DataError(f"{path}, line {line}: malformed ({error}); {AGAIN}") from None
        seen[video] = line
    if sound and not rows:
        raise DataError(f"{path}: holds no video; {AGAIN}")
    if about and len(rows) != about["test_videos"]:
        raise DataError(f"{path}: holds {len(rows)} videos, run.json says {about['test_videos']}; {AGAIN}")
    if list(names) != about.get("classes", list(names)):
        raise DataError(f"{path}, line 1: other classes than run.json's; {AGAIN}")
    videos, hots, scores, predicted = (tuple(column) for column in zip(*rows.values(), strict=True)) if rows else ((),) * 4
    shape = len(rows), len(names)
    target = np.asarray(hots, dtype=bool).reshape(shape)
    return Predictions(videos, names, target, np.asarray(scores, np.float32).reshape(shape), predicted, tuple(rows))


def _prediction(row: list[str], position: dict[str, int]) -> tuple[str, list[bool], np.ndarray, str]:
    """A record of ``predictions.csv``: the video, which classes it has, its scores, and what was predicted."""
    if len(row) != 3 + len(position):
        raise ValueError(f"{len(row)} values instead of {3 + len(position)}")
    target = [row[1]] if row[1] in position else row[1].split("|") if row[1] else []  # a name may hold the bar itself
    unknown = [name for name in target if name not in position]
    if unknown:
        raise ValueError(f"there is no class {unknown[0]!r}")
    with np.errstate(over="ignore"):  # infinite as float32
        scores = np.asarray([float(score) for score in row[3:]], dtype=np.float32)
    return row[0], [name in target for name in position], scores, row[2]
