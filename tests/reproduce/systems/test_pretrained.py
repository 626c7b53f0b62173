"""The composite LSTM as a system: what pre-training hands over, that it sees no test video, and goes on after a kill."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import kill_when, words
from conftest import script
from finished import tiny_hmdb51

from datamodules.videos import DataError
from lightning_modules.composite import FUTURE, OBSERVED, LSTMClassifier
from reproduce.common import dataset
from reproduce.common.catalogue import ROWS, SYSTEMS
from reproduce.common.cli import resolve
from reproduce.common.dataset import on_other_data, read_annotation
from reproduce.common.settings import Settings
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.history import History
from reproduce.experiments.identity import configuration, named
from reproduce.systems.preemption import read_checkpoint
from reproduce.systems.pretrained import STAGE, ClassifierSystem, build
from reproduce.systems.recurrent import build_recognizer
from reproduce.systems.trainer import Training

QUICK = ["trainer.max_epochs=2", "pretrain.max_epochs=2", "pretrain.lr=0.01"]
WEIGHTLESS = ["pretrain.reconstruction=0", "pretrain.prediction=0"]


@pytest.fixture(scope="module")
def composite(clips, tmp_path_factory) -> Path:
    """A working folder with a finished composite LSTM, ``run``."""
    root = tmp_path_factory.mktemp("composite")
    (root / "run").symlink_to(train(clips, root, "composite_lstm").path)
    return root


def train(clips: Path, root: Path, row: str, *more: str) -> RunFolder:
    printed = script("train.py", *words(clips, f"row={row}", *QUICK, *more), cwd=root).stdout
    return RunFolder(Path(printed.strip().splitlines()[-1]))


def system_of(clips: Path, root: Path, row: str, monkeypatch, *more: str) -> ClassifierSystem:
    monkeypatch.chdir(root)
    settings = resolve(Settings, words(clips, f"row={row}", *QUICK, *more))
    system = build(settings, read_annotation(settings))
    system.recognizer = build_recognizer(settings, system.data)
    return system


def classifier(system: ClassifierSystem) -> LSTMClassifier:
    assert isinstance(system.network, LSTMClassifier)
    return system.network


def encoder(folder: RunFolder, stage: str, checkpoint: str = "best.ckpt") -> dict[str, torch.Tensor]:
    state = read_checkpoint(folder.stage(stage) / checkpoint)["state_dict"]
    return {key: value for key, value in state.items() if key.startswith("network.encoder.")}


def test_a_run_pre_trains_once_and_both_stages_follow(composite):
    folder = RunFolder((composite / "run").resolve())
    history = History(folder.history)
    assert [row["stage"] for row in history.epochs()[:4]] == [STAGE] * 2 + ["holdout"] * 2
    assert len(history.rows("retrain")) >= 1 and all(row["val/explained"] < 1 for row in history.rows(STAGE))
    notes = " ".join(folder.about()["notes"])
    assert "24 pooled features of a frame for the 4096 of VGG-16's fc6; 2 layers of 8 units" in notes
    assert "pre-trained on train videos of the split alone" in notes and "blocks of 16 frames" in notes


def test_each_stage_begins_with_the_encoder_that_explained_most(clips, composite, monkeypatch):
    folder = RunFolder((composite / "run").resolve())
    best = encoder(folder, STAGE)
    system = system_of(clips, composite, "composite_lstm", monkeypatch)
    before = {key: value.clone() for key, value in classifier(system).encoder.state_dict().items()}
    for stage in ("holdout", "retrain"):
        system.recognizer = build_recognizer(system.settings, system.data)
        system.prepare(Training(system.settings, folder, None, History(folder.history)), stage)
        after = classifier(system).encoder.state_dict()
        assert all(torch.equal(after[key], best[f"network.encoder.{key}"]) for key in after)
        assert not torch.equal(after["weight_hh_l0"], before["weight_hh_l0"])
        assert float(classifier(system).scale) == pytest.approx(system.statistics.scale)


def test_statistics_are_of_train_alone(clips, composite, monkeypatch):
    system = system_of(clips, composite, "composite_lstm", monkeypatch)
    data, found = system.data, system.statistics
    v = np.concatenate([data.store.pooled(video.name)[:, 0] for video in data.annotation.train]).astype(float)
    assert found.scale == pytest.approx(np.sqrt((v**2).mean()))
    np.testing.assert_allclose(found.mean, v.mean(axis=0) / found.scale, rtol=1e-5)
    assert found.rectified == (v.min() >= 0)
    test = {video.name for video in data.annotation.test}
    read = data.store.pooled
    other = system_of(clips, composite, "composite_lstm", monkeypatch)
    monkeypatch.setattr(other.data.store, "pooled", lambda name: 1 / 0 if name in test else read(name))
    assert other.statistics.scale == found.scale


def test_without_weight_on_either_decoder_the_run_is_the_plain_classifiers(clips, tmp_path):
    plain = train(clips, tmp_path, "lstm_classifier")
    weightless = train(clips, tmp_path, "composite_lstm", *WEIGHTLESS)
    assert not (plain.path / STAGE).exists() and (weightless.path / STAGE).exists()
    np.testing.assert_array_equal(plain.predictions().scores, weightless.predictions().scores)
    shorter = list(csv.reader(plain.history.open()))[1:]
    assert [row[:2] for row in csv.reader(weightless.history.open())][3:] == [row[:2] for row in shorter]


def test_a_run_killed_while_it_pre_trains_goes_on_to_the_same_figures(clips, composite, tmp_path):
    whole = RunFolder((composite / "run").resolve())
    arguments = words(clips, "row=composite_lstm", *QUICK)
    shutil.copytree(composite / "features", tmp_path / "features")
    path = tmp_path / whole.path.relative_to(composite.resolve())
    kill_when((path / STAGE / "last.ckpt").is_file, "train.py", *arguments, cwd=tmp_path)
    assert not (path / "metrics.json").exists()
    again = RunFolder(Path(script("train.py", *arguments, cwd=tmp_path).stdout.strip().splitlines()[-1]))
    assert again.path == path
    assert again.history.read_text() == whole.history.read_text()
    np.testing.assert_array_equal(again.predictions().scores, whole.predictions().scores)


def test_further_data_are_learned_from_whole_and_refused_without_features_or_with_a_test_video(clips, tmp_path, monkeypatch):
    root, other = tmp_path / "data", tmp_path / "data/hmdb51"
    tiny_hmdb51(other)
    shutil.copytree(clips / "clips", root / "clips")
    lacks = r"pretrain.data=hmdb51: .* lacks 153 of 153 videos, .*prepare.py data.name=hmdb51 makes them"
    with pytest.raises(DataError, match=lacks):
        system_of(root, tmp_path, "composite_lstm", monkeypatch, "pretrain.data=[hmdb51]")
    script("prepare.py", *words(root, "data.name=hmdb51", "data.folder=null"), cwd=tmp_path)
    run = train(root, tmp_path, "composite_lstm", "pretrain.data=[hmdb51]")
    about, settings = run.about(), resolve(Settings, words(root, "row=composite_lstm", "pretrain.data=[hmdb51]"))
    assert any("the split, less those held out for selection, and all 153 of HMDB-51, for" in n for n in about["notes"])
    found = read_annotation(on_other_data(settings, "hmdb51"))
    everything = replace(found, train=found.videos, test=())
    assert about["pretrain_fingerprints"] == {"hmdb51": everything.fingerprint()}
    steps = read_checkpoint(run.stage(STAGE) / "last.ckpt")["global_step"]
    system = system_of(root, tmp_path, "composite_lstm", monkeypatch)
    system.data.length = OBSERVED + FUTURE
    own = -(-int(system.data.block_counts("train").sum()) // 8)
    assert steps == 2 * (own + -(-153 // 8)), "a short clip is one block"

    annotation = read_annotation(settings)
    (other / found.test[0].name).write_bytes(annotation.path(annotation.test[0]).read_bytes())
    monkeypatch.setattr(dataset, "usable", lambda annotation, *_: annotation)
    monkeypatch.setattr(dataset, "to_extract", lambda *_, **__: [])
    with pytest.raises(DataError, match=r"1 of its files have the content of a test video of clips, .*; leave hmdb51 out"):
        build(settings, annotation)


@pytest.mark.slow
def test_two_processes_pre_train_to_the_same_figures(clips, composite, tmp_path):
    whole = RunFolder((composite / "run").resolve())
    shutil.copytree(composite / "features", tmp_path / "features")
    both = train(clips, tmp_path, "composite_lstm", "trainer.devices=2", "trainer.accelerator=cpu")
    for one, two in zip(History(whole.history).rows(STAGE), History(both.history).rows(STAGE), strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-4)
        assert two["val/explained"] == pytest.approx(one["val/explained"], rel=1e-4)


@pytest.mark.slow
def test_each_fold_pre_trains_without_its_held_out_videos(clips, tmp_path):
    folder = train(clips, tmp_path, "composite_lstm", "data.fold=all/2")
    history = History(folder.history)
    assert [len(history.rows(f"fold-{n}/{STAGE}")) for n in (1, 2)] == [2, 2]
    assert history.rows(f"fold-1/{STAGE}")[0]["train/loss"] != history.rows(f"fold-2/{STAGE}")[0]["train/loss"]
    assert not list(folder.path.rglob("*.ckpt"))


def test_settings_of_pre_training_tell_composites_apart_and_not_classifiers():
    found = {
        row: [configuration(resolve(Settings, [f"row={row}", *more])) for more in ([], ["pretrain.lr=0.5"])]
        for row in ("composite_lstm", "lstm_classifier")
    }
    assert found["composite_lstm"][0] != found["composite_lstm"][1]
    assert found["lstm_classifier"][0] == found["lstm_classifier"][1]
    more, none = (
        configuration(resolve(Settings, ["row=composite_lstm", f"pretrain.data={some}"])) for some in ("hmdb51", "[]")
    )
    assert none == found["composite_lstm"][0] and named(more) == {**named(none), "pretrain.data": ["hmdb51"]}
    plain, composite = (SYSTEMS[ROWS[row].sets["model.name"]] for row in ("lstm_classifier", "composite_lstm"))
    assert set(composite.settings) - set(plain.settings) == {STAGE}
