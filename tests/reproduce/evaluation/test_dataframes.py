"""Runs, predictions and histories as tidy frames, and that nothing imports pandas that does not ask for one."""

import subprocess
import sys

import pytest
from conftest import PATIENCE, REPOSITORY
from runfolders import annotation, write_run

from datamodules.videos import DataError
from reproduce.evaluation import load_history, load_predictions, load_runs
from reproduce.experiments.folder import RunFolder

UCF = annotation("ucf11", ["biking", "diving", "golf"], 4)
HOLLYWOOD = annotation("hollywood2", ["Run", "Eat", "Kiss", "SitUp"], 4, True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("frames")
    for data, row, seed in ((UCF, "avg_pool_lstm", 1), (UCF, "avg_pool_lstm", 2), (HOLLYWOOD, "soft_attention_1", 1)):
        write_run(root, data, [f"data.name={data.data}", f"row={row}", f"seed={seed}"], 2.0, 3)
    return root


def test_runs_have_a_row_each_with_their_figures_and_settings(root):
    runs = load_runs(root)
    assert list(runs.columns[:8]) == ["data", "split", "row", "seed", "accuracy", "mAP", "seconds", "folder"]
    assert runs[["data", "row", "seed"]].values.tolist() == [
        ["ucf11", "avg_pool_lstm", 1],
        ["ucf11", "avg_pool_lstm", 2],
        ["hollywood2", "soft_attention_1", 1],
    ]
    for _, run in runs.iterrows():
        metrics = RunFolder(root / run["data"] / run["folder"].rpartition("/")[2]).metrics() or {}
        assert run["mAP"] == metrics["test/mAP"] and run["seconds"] == metrics["seconds"]
        assert run["accuracy"] == metrics["test/accuracy"] if run["data"] == "ucf11" else run["accuracy"] != run["accuracy"]
    assert runs["model.num_layers"].tolist() == [3, 3, 3]
    penalty = runs["objective.attention_penalty"]
    assert penalty.isna().tolist() == [True, True, False] and penalty.iloc[2] == 1.0
    assert runs.groupby(["data", "row"])["mAP"].size().tolist() == [1, 2]


def test_predictions_have_a_row_a_video_and_class(root):
    runs = load_runs(root)
    found = load_predictions(runs[runs["data"] == "ucf11"])
    assert list(found.columns) == ["run", "video", "target", "prediction", "class", "score"] and len(found) == 2 * 12 * 3
    of_video = found.drop_duplicates(["run", "video"])
    accuracy = (of_video["target"] == of_video["prediction"]).groupby(of_video["run"]).mean()
    assert sorted(accuracy) == pytest.approx(sorted(runs["accuracy"].dropna()))
    best = found.loc[found.groupby(["run", "video"])["score"].idxmax()]
    assert (best["class"] == best["prediction"]).all()
    (several,) = runs.loc[runs["data"] == "hollywood2", "folder"]
    one = load_predictions(several)
    assert set(one["run"]) == {"/".join(several.split("/")[-2:])} and one["target"].str.contains("|", regex=False).any()


def test_histories_have_a_row_an_epoch(root):
    found = load_history(load_runs(root))
    assert found.groupby("run").size().tolist() == [3, 3, 3]
    assert {"run", "stage", "epoch", "train/loss"} <= set(found.columns)
    assert found["val/mAP"].notna().sum() == 3 and found["val/accuracy"].notna().sum() == 6


def test_what_is_not_there_is_an_error(root, tmp_path):
    assert load_runs(tmp_path).empty and "accuracy" in load_runs(tmp_path).columns
    with pytest.raises(DataError, match="no run is named"):
        load_predictions([])
    with pytest.raises(DataError, match="missing"):
        load_predictions(tmp_path)
    with pytest.raises(ImportError):
        from reproduce.evaluation import load_nothing  # noqa: F401


def test_no_script_waits_for_pandas_unless_it_needs_it():
    scripts = ("table1", "table2", "verify", "report", "dashboard", "train")
    code = f"import sys\nfor name in {scripts}: __import__('reproduce.' + name)\nprint('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.strip() == "False", done.stderr
