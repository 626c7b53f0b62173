"""Several maps as a store and a run on them: what lies in it, the gate's mean, and a track of a file by the same maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import words
from conftest import script

from datamodules.features import FeatureStore
from datamodules.manifest import FeatureStoreError
from lightning_modules.frames import Frames, run_dense
from lightning_modules.multiresolution import MultiresolutionLSTM, unpack
from reproduce.common.cli import resolve
from reproduce.common.dataset import feature_spec, open_store, read_annotation
from reproduce.common.settings import Settings, SettingsError, with_values
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import configuration, run_folder
from reproduce.systems.base import run_system
from reproduce.systems.loading import load_trained
from reproduce.systems.multiresolution import build
from reproduce.systems.tracks import Tracker, track_video

ROW = ["row=multiresolution_attention", "multiresolution.layers=[features.1]", "multiresolution.side=8", "trainer.max_epochs=2"]
SCALES = [[8, 8, 24], [8, 8, 16]]


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory) -> RunFolder:
    """A finished run on two maps; its working folder holds the plain features too."""
    root = tmp_path_factory.mktemp("maps")
    script("prepare.py", *words(clips), cwd=root)
    printed = script("train.py", *words(clips, *ROW, "objective.attention_penalty=0"), cwd=root).stdout
    return RunFolder(Path(printed.strip().splitlines()[-1]))


@pytest.fixture
def settings(clips, run, monkeypatch) -> Settings:
    monkeypatch.chdir(run.path.parents[2])
    return resolve(Settings, words(clips, *ROW))


def test_the_first_map_of_a_frame_is_its_plain_feature(settings):
    store, plain = open_store(settings, pyramid=True), open_store(settings)
    assert store.path != plain.path and store.path.name.endswith("-features.1")
    assert (store.scales, store.grid, store.locations, plain.locations) == (SCALES, (8, 8), 64 + -(-64 * 16 // 24), 64)
    for name in list(plain.videos)[:3]:
        first, fine = unpack(torch.from_numpy(store.read(name)[:].copy()), [(8, 8, 24), (8, 8, 16)])
        np.testing.assert_allclose(first, plain.read(name), rtol=2e-3, atol=2e-3)
        assert fine.shape[1:] == (64, 16) and bool(fine.any())


def test_the_notes_say_how_much_each_map_counted(run, settings):
    system = build(settings, read_annotation(settings))
    network = load_trained(run.path).network
    assert isinstance(network, MultiresolutionLSTM)
    shares, seen = [], []
    network.gate.register_forward_hook(lambda *call: seen.append(call[2].softmax(dim=1)))
    for video in system.data.annotation.test:
        X = torch.from_numpy(system.data.store.read(video.name)[:].copy())
        seen.clear()
        with torch.no_grad():
            run_dense(network, Frames(cube=X), len(X) - 29, 30)
        shares.append(torch.stack(seen, dim=1).mean(dim=1))
    means = torch.cat(shares).mean(dim=0)
    metrics, about = run.metrics(), run.about()
    assert metrics is not None
    assert [metrics["test/gate_1"], metrics["test/gate_2"]] == pytest.approx(means.tolist(), abs=1e-5)
    note = f"features.3 (8x8x24) {means[0]:.2f}, features.1 (8x8x16) {means[1]:.2f}"
    assert f"Multi-resolution attention: coarse to fine, the gate's mean over the test is {note}" in about["notes"]
    assert about["scales"] == SCALES and about["stores"] == ["pyramids"] and about["pyramids"]["finer"] == "features.1"


def test_a_track_is_what_the_test_saw(run, settings):
    loaded = load_trained(run.path)
    store = open_store(settings, pyramid=True)
    name = run.predictions().videos[0]
    track = track_video(loaded.network, store, name, Tracker.of(loaded))
    np.testing.assert_allclose(track.scores, run.predictions().scores[0], atol=1e-6)
    assert track.attention is not None and track.attention.shape[1:] == (8, 8)


def test_a_video_file_goes_through_the_same_maps(run, clips):
    video = clips / "clips" / run.predictions().videos[0]
    root = run.path.parents[2]
    script("predict.py", f"checkpoint={run.path}", f"video={video}", "output=seen", cwd=root)
    (written,) = (root / "seen").rglob("summary.json")
    found = json.loads(written.read_text())
    scores = run.predictions().scores[0]
    assert [found["scores"][name] for name in run.predictions().classes] == pytest.approx(scores.tolist(), abs=0.02)


def test_the_maps_and_their_width_make_another_run():
    def made(*more: str) -> dict:
        return configuration(resolve(Settings, ["row=multiresolution_attention", *more]))

    plain = made()
    assert plain["pyramids"]["finer"] == "inception_4e/output,inception_3b/output" and plain["pyramids"]["side"] == 14
    others = ["multiresolution.width=64", "multiresolution.side=7", "multiresolution.layers=[inception_4e/output]"]
    others += ["multiresolution.combine=concatenate", "multiresolution.nested=true"]
    assert all(made(other) != plain for other in others)
    attention = [configuration(resolve(Settings, ["row=soft_attention_0", other])) for other in others]
    assert all(one == configuration(resolve(Settings, ["row=soft_attention_0"])) for one in attention)


def test_maps_side_by_side_or_coarse_to_fine_are_noted_without_a_gate(settings, monkeypatch, tmp_path):
    chosen = {"multiresolution.combine": "concatenate", "multiresolution.nested": True, "trainer.max_epochs": 1}
    both = with_values(settings, {**chosen, "paths.runs": str(tmp_path)})
    annotation = read_annotation(both)
    folder = run_folder(both, annotation)
    metrics = run_system(both, annotation, folder)
    assert not any("gate" in name for name in metrics)
    said = "Multi-resolution attention: coarse to fine, side by side, features.3 (8x8x24), features.1 (8x8x16)"
    assert said in folder.about()["notes"]
    monkeypatch.setattr("reproduce.systems.multiresolution.goes_into_others", lambda scales: False)
    with pytest.raises(SettingsError, match="multiresolution.nested=true: of the maps, 8x8, 8x8, each must be a multiple"):
        build(both, annotation)


@pytest.mark.counts("bad settings")
def test_a_backbone_without_known_finer_layers_needs_their_names():
    chosen = resolve(Settings, ["row=multiresolution_attention", "backbone.name=resnet18"])
    with pytest.raises(SettingsError, match="finer layers of resnet18 are not known; name some of its nodes"):
        feature_spec(chosen, pyramid=True)


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize("scales", [7, [7], [[7, 7]], [[7, 7, 0]], [[7, 7, "x"]], {"a": 1}])
def test_a_manifest_whose_maps_are_no_sizes_is_refused(run, tmp_path, scales):
    source = next((run.path.parents[2] / "features").rglob("*-features.1"))
    manifest = json.loads((source / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "scales": scales}))
    with pytest.raises(FeatureStoreError, match="'scales' must be rows, columns and channels of each map"):
        FeatureStore(tmp_path)
