"""Run folders written by hand, in the layout of ``experiments/folder.py``: quick, of any data set, row and setting."""

import json
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from datamodules.videos import Annotation, Video
from reproduce.common.catalogue import SYSTEMS
from reproduce.common.cli import resolve
from reproduce.common.dataset import feature_spec, split_of
from reproduce.common.settings import Settings, to_yaml
from reproduce.evaluation.significance import accuracy, mean_average_precision
from reproduce.experiments.history import History
from reproduce.experiments.identity import identity, run_folder
from reproduce.experiments.provenance import provenance


class Names(Annotation):
    """A data set of names alone: no file is behind it."""

    def fingerprint(self) -> str:
        return f"{zlib.crc32(repr((self.classes, self.test)).encode()):08x}"


def annotation(data: str, classes: list[str], per_class: int, multi_label: bool = False, miniature: bool = False) -> Annotation:
    """Test videos of every class, two to a group."""
    test = []
    for label, name in enumerate(classes):
        for number in range(per_class):
            labels = tuple(sorted((label, (label + 3) % len(classes)))) if multi_label and number % 4 == 0 else (label,)
            test.append(Video(f"{name}/clip_{number:02d}.avi", labels, f"{name} {number // 2}"))
    train = [Video(f"{name}/train_{number}.avi", (label,), name) for label, name in enumerate(classes) for number in range(3)]
    nowhere = Path("nowhere")
    return Names(data, "", nowhere, nowhere, tuple(classes), multi_label, tuple(train), tuple(test), (), miniature)


def write_run(root: Path, data: Annotation, words: list[str], skill: float, epochs: int = 12) -> Path:
    """One finished run whose scores are drawn: the higher the skill, the better.

    Of a system without stores, such as a fusion, there are no epochs, features or strides.
    """
    settings = resolve(Settings, [f"paths.runs={root}", *words])
    folder = run_folder(settings, data)
    random = np.random.default_rng(zlib.crc32(folder.path.name.encode()))
    hot = np.zeros((len(data.test), len(data.classes)), dtype=bool)
    for number, video in enumerate(data.test):
        hot[number, list(video.labels)] = True
    hardness = np.random.default_rng(7).normal(0, 1.3, len(data.test))  # the same videos are hard for every row
    logits = random.normal(0, 1, hot.shape) + hot * (skill + hardness[:, None])
    logits[:, 1] += 0.8 * hot[:, 0]  # the first class is taken for the second
    scores = 1 / (1 + np.exp(1 - logits)) if data.multi_label else np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = scores >= 0.5 if data.multi_label else scores.argmax(axis=1)
    folder.write_config(to_yaml(settings))
    folder.write_predictions(data, scores.astype(np.float32), predicted)
    stores = SYSTEMS[settings.model.name].stores
    if stores:
        write_history(folder.history, data.multi_label, skill, epochs, random)
    folder.write_about(about(settings, data))
    found = folder.predictions()
    once = np.ones((1, len(found.videos)))
    figures = {"test/mAP": float(mean_average_precision(found.target, found.scores, once)[0])}
    if not data.multi_label:
        figures["test/accuracy"] = float(accuracy(found.target, found.scores, once)[0])
    epoch = {"holdout/epoch": epochs - 3} if stores else {}
    folder.finish({**epoch, **figures, "seconds": round(float(random.uniform(2000, 9000)), 1)})
    return folder.path


def write_history(path: Path, multi_label: bool, skill: float, epochs: int, random: np.random.Generator) -> None:
    """Plausible curves."""
    history = History(path)
    goal = "val/mAP" if multi_label else "val/accuracy"
    for stage in ("holdout", "retrain"):
        for epoch in range(epochs if stage == "holdout" else epochs - 3):
            loss = 70 * np.exp(-epoch / (9 - skill)) + 12 + float(random.normal(0, 0.6))
            row = {"stage": stage, "epoch": epoch, "train/loss": loss}
            if stage == "holdout":
                row[goal] = min(0.98, 0.2 * skill * (1 - np.exp(-(epoch + 1) / 3)) + float(random.normal(0, 0.012)))
            history.add(row)


def about(settings: Settings, data: Annotation) -> dict:
    """``run.json`` as training writes it."""
    system = SYSTEMS[settings.model.name]
    features = {"features": asdict(feature_spec(settings)), "weights_sha256": "0" * 64, "stride": settings.data.stride}
    return {
        "data": data.data,
        "identity": json.loads(json.dumps(identity(settings, data))),
        "split": split_of(settings),
        "miniature": data.miniature,
        "multi_label": data.multi_label,
        "notes": ["torchvision's GoogLeNet is a batch-norm port, not the paper's Caffe network"],
        "train_videos": len(data.train),
        "test_videos": len(data.test),
        "groups": {video.name: video.group for video in data.test},
        "data_fingerprint": data.fingerprint(),
        **(features if system.stores else {}),
        "versions": {"python": "3.11.7", "torch": "2.9.0", "lightning": "2.6.1"},
        "processes": 1,
        "device": "NVIDIA H100 80GB HBM3",
        **provenance(),
        "system": settings.model.name,
        "stores": list(system.stores),
        "command": "python reproduce/train.py data.name=" + settings.data.name + " row=" + str(settings.row),
    }
