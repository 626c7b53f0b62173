"""``data.fold`` as a user runs it: the test set is not read, a killed run goes on, the score is the folds' mean."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import kill_when
from conftest import PATIENCE, TINY, script

from datamodules.features import FeatureStore
from reproduce.experiments.history import History

ROW = "row=avg_pool_lstm"
RUN_BOTH = """
import sys
from reproduce import train
for fold in ("all/2", "2/2"):
    train.main([*sys.argv[1:], f"data.fold={fold}"])
"""


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """A working folder in which the features of the test videos are not numbers."""
    folder = tmp_path_factory.mktemp("folds")
    shutil.copytree(trained / "features", folder / "features")
    store = FeatureStore(folder / "features/miniature/clips/mobilenet_v3_small-random")
    lines = (trained / "run" / "predictions.csv").read_text().splitlines()[1:]
    for path in [file(line.split(",")[0]) for line in lines for file in (store.file, store.pooled_file)]:
        features = np.load(path, mmap_mode="r+")
        features[...] = np.nan
        features.flush()
    return folder


@pytest.fixture(scope="module")
def runs(clips, folder):
    """The run folders of all folds, killed in the second fold on the way, and of the second fold alone."""
    words = [*TINY, "data.batch_size=1", f"paths.data={clips}", ROW]  # epochs of a second, to be killed within
    begun = []

    def in_second_fold() -> bool:
        begun[:] = folder.glob("runs/clips/*/fold-2/last.ckpt")
        return bool(begun)

    kill_when(in_second_fold, "train.py", *words, "data.fold=all/2", cwd=folder)
    run = begun[0].parent.parent
    assert not (run / "metrics.json").exists()
    first = History(run / "history.csv").rows("fold-1")
    result = subprocess.run(
        [sys.executable, "-c", RUN_BOTH, *words], cwd=folder, capture_output=True, text=True, timeout=PATIENCE
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "fold-1 epoch" not in result.stdout, "trained again"
    assert History(run / "history.csv").rows("fold-1") == first
    paths = [Path(line) for line in result.stdout.splitlines() if line.startswith("/")]
    assert "cv/score" in result.stdout and "test/" not in result.stdout
    assert paths[0] == run.resolve() and paths[1] != paths[0]
    return paths


@pytest.fixture(scope="module")
def every(runs):
    return runs[0]


def test_the_score_is_the_mean_of_each_folds_best_epoch(every):
    metrics = json.loads((every / "metrics.json").read_text())
    history = History(every / "history.csv")
    best = [history.best(f"fold-{number}", "val/accuracy") for number in (1, 2)]
    assert metrics["cv/score"] == metrics["cv/accuracy"] == pytest.approx(np.mean([row["val/accuracy"] for row in best]))
    assert metrics["cv/mAP"] == pytest.approx(np.mean([row["val/mAP"] for row in best]))
    assert metrics["cv/std"] == pytest.approx(np.std([row["val/accuracy"] for row in best], ddof=1))
    assert [metrics[f"fold-{number}/accuracy"] for number in (1, 2)] == [row["val/accuracy"] for row in best]
    progress = [row["cv/score"] for row in history.epochs()]
    assert len(progress) == 6 and progress[-1] == metrics["cv/score"]
    assert progress[2] == best[0]["val/accuracy"], "after the first fold, its best epoch"


def test_nothing_is_tested_and_no_checkpoints_remain(every):
    assert not any(name.startswith("test/") for name in json.loads((every / "metrics.json").read_text()))
    assert not (every / "predictions.csv").exists() and not list(every.rglob("*.ckpt"))


def test_one_fold_is_that_fold_of_all(runs):
    every, run = runs
    alone, among_all = History(run / "history.csv").rows("holdout"), History(every / "history.csv").rows("fold-2")
    assert len(alone) == 3
    for one, other in zip(alone, among_all, strict=True):
        assert {**one, "stage": ""} == {key: value for key, value in {**other, "stage": ""}.items() if key != "cv/score"}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["val/accuracy"] == json.loads((every / "metrics.json").read_text())["fold-2/accuracy"]
    assert not any(name.startswith(("test/", "retrain/")) for name in metrics)


@pytest.mark.parametrize(
    ("fold", "status", "says"),
    [
        ("3/2", 2, "numbered from 1 to 2"),
        ("x/2", 2, "write i/n"),
        ("1/3", 1, "class0 2, class1 2, class2 2; take at most 2 folds"),
    ],
)
def test_impossible_folds_are_refused_in_a_line(clips, tmp_path, fold, status, says):
    result = script("train.py", *TINY, f"paths.data={clips}", f"data.fold={fold}", cwd=tmp_path, check=False)
    assert result.returncode == status and says in result.stderr and result.stderr.count("\n") == 1
