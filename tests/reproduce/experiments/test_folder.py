from pathlib import Path

import numpy as np
import pytest

from datamodules.videofolder import read
from datamodules.videos import DataError
from reproduce.common.cli import resolve
from reproduce.common.settings import Settings
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import run_folder


def folder_of(clips, *words):
    settings = resolve(Settings, ["data.name=videofolder", "data.folder=clips", *words])
    return run_folder(settings, read(clips / "clips")).path


def test_what_changes_the_result_changes_the_folder(clips):
    words = [
        "data.fold=1/2",
        "data.fold=all/2",
        "seed=2",
        "optim.lr=0.1",
        "model.hidden_dim=3",
        "data.fps=15",
        "protocol=holdout",
        "objective.attention_penalty=1",
    ]
    folders = {folder_of(clips)} | {folder_of(clips, word) for word in words}
    folders.add(folder_of(clips, "backbone.size=112"))
    assert len(folders) == len(words) + 2


def test_the_protocol_does_not_tell_folds_apart(clips):
    """There is no second stage."""
    assert folder_of(clips, "data.fold=1/2") == folder_of(clips, "data.fold=1/2", "protocol=holdout")


@pytest.mark.parametrize(
    "word", ["trainer.devices=2", "paths.features=/x", "logging.wandb=disabled", "data.resident=mmap", "trainer.threads=3"]
)
def test_what_does_not_change_the_result_keeps_the_folder(clips, word):
    assert folder_of(clips, word) == folder_of(clips)


def test_a_setting_that_a_model_lacks_keeps_its_folder(clips):
    assert folder_of(clips, "model.name=avg_pool_lstm", "objective.attention_penalty=10") == folder_of(
        clips, "model.name=avg_pool_lstm"
    )
    assert folder_of(clips, "row=softmax_regression", "model.num_layers=5") == folder_of(clips, "row=softmax_regression")


def test_other_labels_change_the_folder(clips, tmp_path):
    import shutil

    shutil.copytree(clips / "clips", tmp_path / "clips")
    listing = tmp_path / "clips" / "videos.csv"
    listing.write_text(listing.read_text().replace("clip0.avi,class0", "clip0.avi,class1"))
    assert folder_of(tmp_path).name != folder_of(clips).name


def test_predictions_read_back_to_the_last_bit(clips, tmp_path):
    annotation = read(clips / "clips")
    random = np.random.default_rng(0)
    scores = random.random((len(annotation.test), 3), dtype=np.float32) ** 9
    folder = RunFolder(tmp_path)
    folder.write_predictions(annotation, scores, scores.argmax(axis=1))
    back = folder.predictions()
    assert np.array_equal(back.scores, scores)
    assert back.videos == tuple(video.name for video in annotation.test)
    assert back.target.argmax(axis=1).tolist() == [video.labels[0] for video in annotation.test]
    header, first, *_ = (tmp_path / "predictions.csv").read_text().splitlines()
    assert header == "video,target,prediction,class0,class1,class2"
    assert first.split(",")[2] == annotation.classes[scores[0].argmax()]


@pytest.mark.counts("damaged run folders")
def test_a_damaged_prediction_names_its_line(tmp_path):
    (tmp_path / "predictions.csv").write_text("video,target,prediction,a,b\nv,a,a,0.5,0.5\nw,c,a,0.5,0.5\n")
    with pytest.raises(DataError, match="line 3"):
        RunFolder(tmp_path).predictions()


@pytest.mark.counts("damaged run folders")
def test_damaged_metrics_are_an_error_and_not_an_unfinished_run(tmp_path):
    (tmp_path / "metrics.json").write_text('{"test/accuracy": 0.')
    with pytest.raises(DataError, match="remove the run's folder"):
        RunFolder(Path(tmp_path)).metrics()
