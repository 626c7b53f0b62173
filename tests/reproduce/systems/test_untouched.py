"""The test set is touched once, after selection: other test labels change no checkpoint, and nothing reads it before."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY, script

from datamodules.base import VideoDataModule
from datamodules.features import FeatureStore
from reproduce.common.cli import resolve
from reproduce.common.dataset import read_annotation
from reproduce.common.settings import Settings
from reproduce.experiments.identity import run_folder
from reproduce.systems import recurrent
from reproduce.systems.base import run_system
from reproduce.systems.trainer import Training
from tests.golden.update import SHARED as GOLDEN_WORDS
from tests.golden.update import lay_out


def with_sides(folder: Path, turn: int) -> None:
    """Write the split out, the last group of each class in test, and turn the test videos' labels by some classes."""
    path = folder / "videos.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = sorted({row["class"] for row in rows})
    for row in rows:
        row["split"] = "test" if row["group"].endswith("-2") else "train"
        if row["split"] == "test":
            row["class"] = classes[(classes.index(row["class"]) + turn) % len(classes)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def tensors(found, place: str = "") -> dict[str, torch.Tensor | float]:
    """Every tensor and number of a checkpoint by its place, except times and paths of files."""
    if isinstance(found, dict):
        found = {str(key): value for key, value in found.items()}
    elif isinstance(found, (list, tuple)):
        found = {str(number): value for number, value in enumerate(found)}
    if isinstance(found, dict):
        parts = [tensors(value, f"{place}/{key}") for key, value in found.items() if not {"seconds", "best_k_models"} & {key}]
        return {key: value for part in parts for key, value in part.items()}
    return {place: found} if isinstance(found, (torch.Tensor, int, float)) else {}


def train(root: Path, features: Path, name: str, turn: int, clips: Path) -> Path:
    """A run of train.py on a copy of the clips, with labels of test turned."""
    shutil.copytree(clips / "clips", root / name / "clips")
    with_sides(root / name / "clips", turn)
    paths = [f"paths.data={root / name}", f"paths.features={features}", f"paths.runs={root / name / 'runs'}"]
    result = script("train.py", *TINY, *paths, "row=soft_attention_1", cwd=root)
    return Path(result.stdout.strip().splitlines()[-1])


def test_other_test_labels_change_no_checkpoint(clips, trained, tmp_path):
    features = trained / "features/miniature"  # extracted without a look at labels
    one, other = (train(tmp_path, features, name, turn, clips) for name, turn in (("as-they-are", 0), ("turned", 1)))
    metrics, others = (json.loads((folder / "metrics.json").read_text()) for folder in (one, other))
    kinds = ("test/", "seconds")
    chosen, same = ({key: value for key, value in found.items() if not key.startswith(kinds)} for found in (metrics, others))
    assert chosen == same and {"holdout/epoch", "holdout/cost", "retrain/epochs"} <= set(chosen)
    assert (one / "history.csv").read_text() == (other / "history.csv").read_text()
    names = ("holdout/best.ckpt", "holdout/last.ckpt", "retrain/last.ckpt")
    for name in names:
        found, compared = (tensors(torch.load(folder / name, map_location="cpu", weights_only=True)) for folder in (one, other))
        assert found.keys() == compared.keys() and sum(isinstance(value, torch.Tensor) for value in found.values()) > 20
        for place, value in found.items():
            same = torch.equal(value, compared[place]) if isinstance(value, torch.Tensor) else value == compared[place]
            assert same, f"{name}{place}"
    predictions = [list(csv.DictReader((folder / "predictions.csv").open())) for folder in (one, other)]
    for first, second in zip(*predictions, strict=True):
        assert first["target"] != second["target"]  # the labels were really others
        assert {**first, "target": ""} == {**second, "target": ""}  # and the scores were not


@pytest.mark.parametrize("protocol", ["retrain", "holdout"])
def test_nothing_reads_the_test_set_before_the_checkpoint_is_chosen(tmp_path, monkeypatch, protocol):
    lay_out(tmp_path)
    paths = [f"paths.{name}={tmp_path / name}" for name in ("data", "features", "runs")]
    words = [*GOLDEN_WORDS, *paths, "row=avg_pool_lstm", f"protocol={protocol}", "trainer.max_epochs=2"]
    settings = resolve(Settings, words)
    annotation = read_annotation(settings)
    held_back = {video.name for video in annotation.test}
    events: list[str] = []

    def note(owner, name, what) -> None:
        """Note an event before a method does its work."""
        original = getattr(owner, name)

        def noting(*words, **more):
            event = what(*words)
            if event:
                events.append(event)
            return original(*words, **more)

        monkeypatch.setattr(owner, name, noting)

    note(FeatureStore, "read", lambda store, name: "features of test" if name in held_back else "")
    note(FeatureStore, "pooled", lambda store, name: "features of test" if name in held_back else "")
    note(VideoDataModule, "targets", lambda data, which: "labels of test" if which == "test" else "")
    note(VideoDataModule, "test_dataloader", lambda data: "pass over test")
    note(Training, "fit_stage", lambda training, stage, *_: f"fit {stage}")
    note(recurrent, "test", lambda *words: "test")
    metrics = run_system(settings, annotation, run_folder(settings, annotation))
    stages = ["fit holdout", "fit retrain"] if protocol == "retrain" else ["fit holdout"]
    assert events[: len(stages) + 1] == [*stages, "test"]
    assert events.count("pass over test") == 1 and events.count("labels of test") >= 1
    assert events.count("features of test") == len(held_back) == 3  # each video's, once
    assert 0 <= metrics["test/accuracy"] <= 1
