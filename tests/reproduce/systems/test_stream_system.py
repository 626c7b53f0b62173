"""Streams as systems: what is trained and said, iterations of the second stage, folds, flow, refusals."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, once, script
from finished import tiny_hmdb51
from moving_clips import lay_out_moving

from datamodules.videos import DataError
from reproduce.common.catalogue import ROWS, SYSTEMS
from reproduce.common.cli import resolve
from reproduce.common.dataset import on_other_data, read_annotation
from reproduce.common.settings import Settings, SettingsError, get
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.history import History
from reproduce.experiments.identity import configuration, members, named, run_folder
from reproduce.systems import flow_store, streams
from reproduce.systems.base import run_system
from reproduce.systems.preemption import read_weights_of

QUICK = ["flow.size=24", "temporal.iterations=6", "spatial.iterations=60", "temporal.batch_size=8", "spatial.batch_size=16"]
ALEXNET = ["backbone.name=alexnet", "backbone.layer=features.2", "backbone.size=63"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return once(tmp_path_factory, "stream_clips", lambda folder: lay_out_moving(folder / "clips"))


def settings_of(root: Path, tmp_path: Path, *more: str) -> Settings:
    paths = [f"paths.data={root}", f"paths.features={root / 'features'}", f"paths.runs={tmp_path / 'runs'}"]
    return resolve(Settings, [*TINY, *QUICK, *ALEXNET, *paths, *more])


def run(root: Path, tmp_path: Path, *more: str):
    settings = settings_of(root, tmp_path, *more)
    annotation = read_annotation(settings)
    folder = run_folder(settings, annotation)
    return run_system(settings, annotation, folder), folder


def test_the_second_stage_takes_as_many_iterations_as_the_best_epoch_of_the_first(root, tmp_path):
    metrics, folder = run(root, tmp_path, "row=spatial_stream")
    history = History(folder.history)
    best = history.best("holdout", "val/accuracy")["epoch"]
    assert len(history.rows("holdout")) == 3 and len(history.rows("retrain")) == best + 1 == metrics["retrain/epochs"]
    assert folder.validation.is_file() and "test/centre_crop_accuracy" in metrics


def test_notes_say_the_network_its_input_and_what_was_trained(root, tmp_path):
    said = {}
    for row, layers in (("spatial_stream", "last"), ("spatial_stream", "all"), ("temporal_stream", "last")):
        _, folder = run(root, tmp_path, f"row={row}", "spatial.iterations=6", f"spatial.layers={layers}")
        said[row, layers] = " | ".join(folder.about()["notes"])
    assert "alexnet at 63 px, its last layer alone trained" in said["spatial_stream", "last"]
    assert "alexnet at 63 px, all layers trained" in said["spatial_stream", "all"]
    temporal = said["temporal_stream", "last"]
    assert "on 10 stacked flow fields, the first layer's averaged over RGB; without UCF-101" in temporal
    assert "instead of Brox" in temporal
    assert "RANDOM weights" in temporal


def test_a_run_from_scratch_depends_on_its_seed_and_says_so(root, tmp_path):
    settings = settings_of(root, tmp_path, "row=temporal_stream", "temporal.init=scratch", "temporal.stacking=trajectories")
    found = []
    for seed in (1, 2):
        settings.seed = seed
        system = streams.build(settings, read_annotation(settings))
        data = streams.StreamDataModule(read_annotation(settings), _flow(settings), 8, 2, seed, scored=3, length=10)
        network = system.recognizer(data).network
        found.append(network.backbone.body.get_submodule("features.0").weight.detach().clone())
        assert "all from random weights" in system.said[0] and "stacked along trajectories, all" in system.said[0]
        assert network.follow
    assert found[0].shape[1] == 20 and not np.allclose(found[0], found[1])


def _flow(settings: Settings):
    from reproduce.systems import flow_store

    return flow_store.ensure(settings, read_annotation(settings))


def test_the_temporal_stream_tells_motions_apart(root, tmp_path):
    """Two classes that differ in the direction of motion alone."""
    words = ["row=temporal_stream", "temporal.iterations=90", "temporal.lr=0.3", "temporal.dropout=0", "data.fold=1/2"]
    metrics, _ = run(root, tmp_path, *words)
    assert metrics["val/accuracy"] == 1.0


def test_a_second_data_set_is_a_second_task_of_the_temporal_stream(root, tmp_path):
    words = ["row=temporal_stream", "temporal.second=hmdb51", "temporal.length=2", f"paths.features={tmp_path / 'features'}"]
    tiny_hmdb51(tmp_path / "data/hmdb51")
    shutil.copytree(root / "clips", tmp_path / "data/clips")
    settings = settings_of(root, tmp_path, *words, f"paths.data={tmp_path / 'data'}")
    annotation = read_annotation(settings)
    lacks = r"temporal.second=hmdb51: .*flow-dis-24 lacks 153 of 153 .*data.name=hmdb51 row=temporal_stream makes them"
    with pytest.raises(DataError, match=lacks):
        streams.build(settings, annotation)
    other = on_other_data(settings, "hmdb51")
    flow_store.ensure(other, read_annotation(other))
    folder = run_folder(settings, annotation)
    run_system(settings, annotation, folder)
    about = folder.about()
    assert any(note.endswith("; HMDB-51 as a second task, all 153 videos, half of each batch") for note in about["notes"])
    assert list(about["second_fingerprints"]) == ["hmdb51"]
    weights = read_weights_of(folder.tested)
    assert weights["second.weight"].shape[0] == 51 and weights["last.weight"].shape[0] == 2
    plain, named_ = (configuration(settings_of(root, tmp_path, "row=temporal_stream", *more)) for more in ([], words[1:2]))
    assert named(named_) == {**named(plain), "temporal.second": "hmdb51"}


def test_folds_are_validated_on_in_turn(root, tmp_path):
    metrics, _ = run(root, tmp_path, "row=spatial_stream", "data.fold=all/2")
    assert {"cv/score", "fold-1/accuracy", "fold-2/accuracy"} <= metrics.keys()


def test_each_streams_identity_holds_its_own_settings_and_network(root, tmp_path):
    spatial, temporal = (configuration(settings_of(root, tmp_path, f"row={row}_stream")) for row in ("spatial", "temporal"))
    assert spatial["spatial"] and "temporal" not in spatial and spatial["views"]["crops"] == 10
    assert temporal["flow"] == {"method": "dis", "width": 32, "height": 24} and "spatial" not in temporal
    assert spatial["backbone"] == temporal["backbone"]


@pytest.mark.parametrize("row", ["two_stream", "two_stream_mean"])
def test_the_two_streams_are_the_members_of_their_fusion(root, tmp_path, row):
    settings = settings_of(root, tmp_path, f"row={row}")
    assert [member.row for member in members(settings)] == ROWS[row].sets["fusion.rows"]
    assert {kind for member in members(settings) for kind in SYSTEMS[member.model.name].stores} == {"views", "flow"}
    assert get(settings, "fusion.method") == ("svm" if row == "two_stream" else "mean")


@pytest.mark.counts("missing libraries")
def test_without_opencv_the_temporal_stream_names_the_extra(root, tmp_path, monkeypatch):
    settings = settings_of(root, tmp_path, "row=temporal_stream")
    monkeypatch.setattr("reproduce.common.catalogue.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="temporal_stream needs cv2: pip install -e"):
        streams.build(settings, read_annotation(settings))


@pytest.mark.slow
@pytest.mark.parametrize(("row", "apart"), [("spatial_stream", 1e-5), ("temporal_stream", 1e-2)])
def test_two_processes_train_a_stream_as_one_does(root, tmp_path, row, apart):
    """On the same draws, in steps so small that rounding does not grow; a rank draws its own crops of flow."""
    small = [f"{stream}.{word}" for stream in ("spatial", "temporal") for word in ("dropout=0", "lr=1e-5")]
    words = [*TINY, *QUICK, *ALEXNET, *small, f"row={row}", f"paths.data={root}", f"paths.features={root / 'features'}"]
    histories, scores = [], []
    for processes in (1, 2):
        more = [f"paths.runs={tmp_path / str(processes)}", f"trainer.devices={processes}", "trainer.accelerator=cpu"]
        printed = script("train.py", *words, *more, "protocol=holdout", cwd=tmp_path).stdout
        folder = RunFolder(Path(printed.splitlines()[-1]))
        histories.append(History(folder.history).rows("holdout"))
        scores.append(folder.predictions().scores)
    for one, two in zip(*histories, strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=apart)
        assert two["val/accuracy"] == pytest.approx(one["val/accuracy"])
    np.testing.assert_allclose(*scores, atol=1e-5)
