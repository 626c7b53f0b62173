"""The run folder: its name, what lies in it, and how it is read and written. The one place that knows its layout.

``<paths.runs>/<data set>/<model>-<hash>/`` with

    config.yaml        the settings
    history.csv        stage, epoch and the epoch's figures
    holdout/           best.ckpt, last.ckpt of the first stage
    retrain/           last.ckpt of the second stage, with protocol=retrain
    predictions.csv    video, target, prediction, a column a class
    attention/         <number>-<video>.png, filmstrips of where a soft attention network looks
    run.json           data, features, versions, notes, captions of the filmstrips
    wandb_id           of the W&B run
    metrics.json       the figures; written last, so that its presence means that the run is finished
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.features import FeatureSpec, write_atomically
from datamodules.videos import Annotation, DataError
from reproduce.inputs import split_of
from reproduce.settings import Settings

ATTENTION_ONLY = ("attention", "attention_layers")
NOT_IN_SOFTMAX = ("num_layers", "hidden_dim", "dropout", "input_dropout")
# What tables and reports read; of a run without a test, not all are there.
FILES = ("config.yaml", "history.csv", "predictions.csv", "run.json", "metrics.json")
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

    def filmstrip(self, name: str) -> Path:
        """A picture of where the network looks."""
        return self.path / "attention" / f"{name}.png"

    def files(self) -> list[Path]:
        """What tables and reports read, ``metrics.json`` last."""
        return [self.path / name for name in FILES if (self.path / name).is_file()]

    def metrics(self) -> dict[str, Any] | None:
        """The figures of a finished run, else None."""
        return self._json("metrics.json")

    def about(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        return self._json("run.json") or {}

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DataError(f"{path}: damaged ({error}); remove the run's folder to run it again") from error

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
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["video", "target", "prediction", *names])
        for video, row, guess in zip(annotation.test, scores, predicted, strict=True):
            target = "|".join(names[label] for label in video.labels)
            chosen = np.flatnonzero(guess) if annotation.multi_label else [guess]
            prediction = "|".join(names[label] for label in chosen)
            writer.writerow([video.name, target, prediction, *(str(np.float32(score)) for score in row)])
        write_atomically(self.path / "predictions.csv", text.getvalue())

    def predictions(self) -> Predictions:
        """Read ``predictions.csv``.

        Raises:
            DataError: it is missing or malformed; names the line.
        """
        path = self.path / "predictions.csv"
        if not path.is_file():
            raise DataError(f"{path} is missing; remove the run's folder to run it again")
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            names = tuple(next(reader)[3:])
            position = {name: number for number, name in enumerate(names)}
            videos, hot, scores = [], [], []
            for row in reader:
                try:
                    videos.append(row[0])
                    labels = [position[name] for name in row[1].split("|") if name]
                    hot.append([label in labels for label in range(len(names))])
                    scores.append([float(score) for score in row[3:]])
                    if len(row) != 3 + len(names):
                        raise ValueError(f"{len(row)} values instead of {3 + len(names)}")
                except (ValueError, IndexError, KeyError) as error:
                    raise DataError(f"{path}, line {reader.line_num}: malformed ({error})") from error
        return Predictions(tuple(videos), names, np.asarray(hot, dtype=bool), np.asarray(scores, dtype=np.float32))


@dataclass(frozen=True)
class Predictions:
    """A run's predictions on its test videos.

    Args:
        videos: their names.
        classes: class names.
        target: (V, C) booleans.
        scores: (V, C) float32 mean class probabilities.
    """

    videos: tuple[str, ...]
    classes: tuple[str, ...]
    target: np.ndarray
    scores: np.ndarray


def run_folder(settings: Settings, annotation: Annotation, spec: FeatureSpec) -> RunFolder:
    """The folder of a configuration, the same on all ranks and machines that see the same data."""
    text = json.dumps(identity(settings, annotation, spec), sort_keys=True)
    name = settings.row or settings.model.name
    if settings.model.name == "soft_attention" and not settings.row:
        name += f"_{settings.objective.attention_penalty:g}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return RunFolder(Path(settings.paths.runs).expanduser() / annotation.data / f"{name}-{digest}")
