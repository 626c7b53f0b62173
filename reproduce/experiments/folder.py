"""The run folder: its name, what lies in it, and how it is read and written. The one place that knows its layout.

``<paths.runs>/<data set>/<model>-<hash>/`` with

    config.yaml        the settings
    history.csv        stage, epoch and the epoch's figures
    holdout/           best.ckpt, last.ckpt of the first stage
    retrain/           last.ckpt of the second stage, with protocol=retrain
    predictions.csv    video, target, prediction, a column a class
    attention.csv      of networks with attention: what was measured of each test video's, see attended.py
    attention/         <number>-<video>.png, filmstrips of where a soft attention network looks; watched.npz and
                       <number>-<video>.webp, what any network saw and said of some test videos, see watched.py
    run.json           data, features, versions, notes, captions of the filmstrips
    wandb_id           of the W&B run
    metrics.json       the figures; written last, so that its presence means that the run is finished
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.features import FeatureSpec, write_atomically
from datamodules.reading import SHOWN, DataError, csv_text, read_json, read_records
from datamodules.videos import Annotation
from reproduce.common.dataset import split_of
from reproduce.common.settings import Settings

PENALTY = "objective.attention_penalty"
ATTENTION_ONLY = ("attention", "attention_layers")
NOT_IN_SOFTMAX = ("num_layers", "hidden_dim", "dropout", "input_dropout")
# What tables and reports read; of a run without a test, not all are there.
FILES = ("config.yaml", "history.csv", "predictions.csv", "attention.csv", "run.json", "metrics.json")
AGAIN = "remove the run's folder to run it again"
SCORES = ("test/accuracy", "test/mAP")
LARGEST = sys.float_info.max
# What tables read of run.json, and the type it has.
ABOUT = {
    "data": str,
    "split": str,
    "miniature": bool,
    "multi_label": bool,
    "notes": list,
    "stride": int,
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
    "processes": (lambda value: type(value) is int and value > 0, "a number of processes"),
    "classes": (_is_texts, "a list of names"),
    "map": (_is_map, "rows, columns and channels"),
    "started": (_is_moment, "a date and time"),
}
# The settings whose values ``identity`` lists without a name, in its order.
LISTED = {
    "data": ("data.name", "data.split", "data.fps", "data.stride", "data.batch_size", "data.skip_bad"),
    "training": ("protocol", "trainer.max_epochs", "trainer.precision"),
}


def identity(settings: Settings, annotation: Annotation, spec: FeatureSpec) -> dict[str, Any]:
    """Everything that a run's result depends on, and nothing else: the configuration and the videos."""
    return {**configuration(settings, annotation.data, spec), "videos": annotation.fingerprint()}


def configuration(settings: Settings, dataset: str, spec: FeatureSpec) -> dict[str, Any]:
    """What settings say of a run's result.

    Settings that a model does not have are left out, so that λ does not tell two average-pooled LSTMs apart; paths,
    devices, logging and where features lie while training are left out too.
    """
    model = asdict(settings.model)
    del model["fast"]  # it changes no result
    objective = asdict(settings.objective)
    if settings.model.name != "soft_attention":
        for key in ATTENTION_ONLY:
            del model[key]
        del objective["attention_penalty"], objective["penalty_reduction"]
    if settings.model.name == "softmax_regression":
        for key in NOT_IN_SOFTMAX:
            del model[key]
    data = settings.data
    fold = {} if data.fold is None else {"data.fold": data.fold}
    protocol = "holdout" if data.fold else settings.protocol  # of a fold there is no second stage
    return {
        "data": [dataset, split_of(settings), data.fps, data.stride, data.batch_size, data.skip_bad],
        "features": asdict(spec),
        "model": model,
        "objective": objective,
        "optim": asdict(settings.optim),
        "training": [protocol, settings.trainer.max_epochs, settings.trainer.precision],
        "seed": settings.seed,
        **fold,
    }


def named(found: dict[str, Any]) -> dict[str, Any]:
    """What ``identity`` returned, by dotted keys as on the command line."""
    flat: dict[str, Any] = {}
    for part, values in found.items():
        if part in LISTED:
            flat |= dict(zip(LISTED[part], values, strict=True))
        elif isinstance(values, dict):
            flat |= {f"{part}.{key}": value for key, value in values.items()}
        else:
            flat[part] = values
    return flat


def row_of(settings: Mapping[str, Any]) -> str:
    """The row of Table 1 that a run's settings, as ``named`` returns them, make, such as ``soft_attention_1``."""
    name = settings["model.name"]
    return f"{name}_{settings[PENALTY]:g}" if PENALTY in settings else name


def run_folders(root: Path) -> list[RunFolder]:
    """Every run folder below ``paths.runs``, finished or not, in the order of their names."""
    return [RunFolder(path.parent) for path in sorted(root.glob("*/*/config.yaml"))]


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
        """A picture of where the network looks."""
        return self.path / "attention" / f"{name}.png"

    @property
    def watched(self) -> Path:
        """What the network saw and said of some test videos."""
        return self.path / "attention" / "watched.npz"

    @property
    def attended(self) -> Path:
        """What was measured of each test video's attention."""
        return self.path / "attention.csv"

    def sheet(self, name: str) -> Path:
        """Frames of a test video that was watched, as tiles of one picture."""
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

    def write_predictions(self, annotation: Annotation, scores: np.ndarray, predicted: np.ndarray) -> None:
        """Write ``predictions.csv``; several labels of a video are joined by ``|``, and none is the empty word.

        Args:
            annotation: whose test videos were scored.
            scores: (V, C) float32 mean class probabilities, written so that they read back as the same float32.
            predicted: (V,) class ids, or (V, C) booleans for multi-label.
        """
        names = annotation.classes
        records: list[list[str]] = [["video", "target", "prediction", *names]]
        for video, row, guess in zip(annotation.test, scores, predicted, strict=True):
            target = "|".join(names[label] for label in video.labels)
            chosen = np.flatnonzero(guess) if annotation.multi_label else [guess]
            prediction = "|".join(names[label] for label in chosen)
            records.append([video.name, target, prediction, *(str(np.float32(score)) for score in row)])
        write_atomically(self.path / "predictions.csv", csv_text(records))

    def predictions_sha256(self) -> str:
        """Of the bytes of ``predictions.csv``."""
        return hashlib.sha256((self.path / "predictions.csv").read_bytes()).hexdigest()

    def predictions(self, sound: bool = True) -> Predictions:
        """Read ``predictions.csv``.

        Args:
            sound: refuse what contradicts itself: no video, one that stands there twice or lacks its class, a score that is
                not finite.

        Raises:
            DataError: it is missing or malformed; names the line.
        """
        path = self.path / "predictions.csv"
        if not path.is_file():
            raise DataError(f"{path} is missing; {AGAIN}")
        records = read_records(path)
        line, head = next(records, (1, []))
        names = tuple(head[3:])
        if head[:3] != ["video", "target", "prediction"] or not names or len(set(names)) < len(names):
            raise DataError(f"{path}, line {line}: expected video,target,prediction and a column a class; {AGAIN}")
        position = {name: number for number, name in enumerate(names)}
        one_label = sound and self.about().get("multi_label") is False
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
        about = self.about() if sound else {}
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


def run_folder(settings: Settings, annotation: Annotation, spec: FeatureSpec) -> RunFolder:
    """The folder of a configuration, the same on all ranks and machines that see the same data."""
    text = json.dumps(identity(settings, annotation, spec), sort_keys=True)
    name = settings.row or settings.model.name
    if settings.model.name == "soft_attention" and not settings.row:
        name += f"_{settings.objective.attention_penalty:g}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return RunFolder(Path(settings.paths.runs).expanduser() / annotation.data / f"{name}-{digest}")
