"""The run folder: its name, what lies in it, and how it is read and written. The one place that knows its layout.

``<paths.runs>/<data set>/<model>-<hash>/`` with

    config.yaml        the settings
    history.csv        stage, epoch and the epoch's figures
    pretrain/          best.ckpt, last.ckpt of what comes before the first stage, where something does
    holdout/           best.ckpt, last.ckpt of the first stage
    retrain/           last.ckpt of the second stage, with protocol=retrain
    predictions.csv    video, target, prediction, a column a class; of the test videos
    validation.csv     the same of the videos that the first stage held out of train, by its best checkpoint
    attention.csv      of networks with attention: what was measured of each test video's, see attention_files.py
    attention/         <number>-<video>.png, filmstrips of networks with attention; watched.npz and <number>-<video>.webp,
                       recordings of some test videos, of any network, see attention_files.py
    run.json           data, features, versions, notes, captions of the filmstrips
    wandb_id           of the W&B run
    metrics.json       the figures; written last, so that its presence means that the run is finished
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import write_atomically
from datamodules.reading import SHOWN, DataError, read_json
from datamodules.videos import Annotation
from reproduce.experiments.predictions import AGAIN, Predictions, read_predictions, write_predictions

PREDICTIONS, VALIDATION = "predictions.csv", "validation.csv"
# What tables and reports read; of a run without a test, not all are there.
FILES = ("config.yaml", "history.csv", PREDICTIONS, VALIDATION, "attention.csv", "run.json", "metrics.json")
SCORES = ("test/accuracy", "test/mAP")
LARGEST = sys.float_info.max
# What tables read of run.json, and the type it has.
ABOUT = {
    "data": str,
    "split": str,
    "miniature": bool,
    "multi_label": bool,
    "notes": list,
    "train_videos": int,
    "test_videos": int,
    "groups": dict,
}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_map(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(one) is int and one > 0 for one in value)


def _is_moment(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


# What else others read of run.json where it is there: whether it is such, and what it should be.
MORE_ABOUT: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{key: (lambda value: isinstance(value, dict), "an object") for key in ("identity", "versions", "features_made_by")},
    **{
        key: (lambda value: value is None or isinstance(value, str), "a text or null")
        for key in ("data_fingerprint", "feature_fingerprint")
    },
    "stride": (lambda value: type(value) is int and value > 0, "a number of frames"),
    "system": (lambda value: isinstance(value, str), "a system's name"),  # before there were several, the operating system's
    "stores": (_is_texts, "a list of names"),
    "threshold": (lambda value: type(value) in (int, float) and 0 <= value <= 1, "a number from 0 to 1"),
    "processes": (lambda value: type(value) is int and value > 0, "a number of processes"),
    "classes": (_is_texts, "a list of names"),
    "map": (_is_map, "rows, columns and channels"),
    "permuted": (lambda value: type(value) is int and value >= 0, "a seed"),
    "truth": (lambda value: isinstance(value, str), "a name"),
    "started": (_is_moment, "a date and time"),
}


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run.

    Args:
        path: the folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """``<data set>/<model>-<hash>``, the same on every machine."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.path / ".lock"

    @property
    def history(self) -> Path:
        """Figures by epoch."""
        return self.path / "history.csv"

    @property
    def wandb_id(self) -> Path:
        """Holds the W&B run's id."""
        return self.path / "wandb_id"

    def stage(self, name: str) -> Path:
        """Folder of a stage's checkpoints."""
        return self.path / name

    @property
    def tested(self) -> Path:
        """The checkpoint whose weights a finished run was tested with."""
        second = self.stage("retrain") / "last.ckpt"
        return second if second.is_file() else self.stage("holdout") / "best.ckpt"

    def filmstrip(self, name: str) -> Path:
        """A filmstrip of the network's attention."""
        return self.path / "attention" / f"{name}.png"

    @property
    def recordings(self) -> Path:
        """Recordings of some test videos."""
        return self.path / "attention" / "watched.npz"

    @property
    def validation(self) -> Path:
        """Scores of the videos that the first stage held out of train."""
        return self.path / VALIDATION

    @property
    def attended(self) -> Path:
        """What was measured of each test video's attention."""
        return self.path / "attention.csv"

    def sheet(self, name: str) -> Path:
        """The pictures of a recording, as tiles of one."""
        return self.path / "attention" / f"{name}.webp"

    def files(self) -> list[Path]:
        """What tables and reports read, ``metrics.json`` last."""
        return [self.path / name for name in FILES if (self.path / name).is_file()]

    def metrics(self) -> dict[str, Any] | None:
        """The figures of a finished run, else None.

        Raises:
            DataError: the file is damaged, or a figure is no finite number; names it.
        """
        found = self._json("metrics.json")
        for key, value in (found or {}).items():
            sound = type(value) in (int, float) and abs(value) <= (1 if key in SCORES else LARGEST)
            if not sound or (key in SCORES and value < 0):
                raise DataError(f"{self.path / 'metrics.json'}: {key} is {value!r}; {AGAIN}")
        return found

    def about(self) -> dict[str, Any]:
        """What ``run.json`` says.

        Raises:
            DataError: the file is damaged, or something that tables need is missing of a finished run, or of another type.
        """
        path, found = self.path / "run.json", self._json("run.json") or {}
        finished = (self.path / "metrics.json").is_file()
        for key, kind in ABOUT.items():
            if key not in found and finished:
                raise DataError(f"{path}: {f'lacks {key!r}' if found else 'missing or empty'}; {AGAIN}")
            if key in found and type(found[key]) is not kind:
                raise DataError(f"{path}: {key} is {str(found[key])[:SHOWN]!r}, which is no {kind.__name__}; {AGAIN}")
        texts = [*found.get("notes", []), *found.get("groups", {}).values()]
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}: notes and groups must be texts; {AGAIN}")
        for key, (is_such, words) in MORE_ABOUT.items():
            if key in found and not is_such(found[key]):
                raise DataError(f"{path}: {key} is {str(found[key])[:SHOWN]!r}, expected {words}; {AGAIN}")
        return found

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        return read_json(path, AGAIN) if path.exists() else None

    def write_config(self, text: str) -> None:
        """Write ``config.yaml``."""
        write_atomically(self.path / "config.yaml", text)

    def write_about(self, about: dict[str, Any]) -> None:
        """Write ``run.json``."""
        write_atomically(self.path / "run.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write ``metrics.json``, which makes the run a finished one."""
        write_atomically(self.path / "metrics.json", json.dumps(metrics, indent=1) + "\n")

    def predictions_sha256(self) -> str:
        """Of the bytes of ``predictions.csv``."""
        return hashlib.sha256((self.path / PREDICTIONS).read_bytes()).hexdigest()

    def write_predictions(self, annotation: Annotation, scores: np.ndarray, predicted: np.ndarray) -> None:
        """Write ``predictions.csv`` of a data set's test videos, see `write_predictions`."""
        write_predictions(self.path / PREDICTIONS, annotation.test, annotation.classes, scores, predicted)

    def predictions(self, sound: bool = True) -> Predictions:
        """Read ``predictions.csv``, see `read_predictions`.

        Args:
            sound: refuse what contradicts itself or ``run.json``.

        Raises:
            DataError: it is missing or malformed; names the line.
        """
        return read_predictions(self.path / PREDICTIONS, self.about() if sound else None)
