"""Runs on networks of timm, from video to overlay: K is the number of patches, and attention is drawn on their grid."""

import json
from pathlib import Path

import pytest
from commands import words
from conftest import draw_clips, script
from PIL import Image

from datamodules.features import FeatureStore
from lightning_modules.backbone import BackboneError
from reproduce.common.cli import resolve
from reproduce.common.dataset import feature_folder, feature_spec
from reproduce.common.settings import Settings
from reproduce.experiments.attention_files import read_recordings
from reproduce.experiments.folder import RunFolder
from reproduce.systems.backbones import built, frame_side

pytest.importorskip("timm")

VIT = ["backbone.name=timm:vit_tiny_patch16_224", "backbone.layer=null"]


def settings(*more: str) -> Settings:
    return resolve(Settings, ["data.name=ucf11", *VIT, *more])


def test_the_size_is_the_networks_own_unless_another_is_given():
    assert frame_side(settings()) == 224 and frame_side(settings("backbone.size=96")) == 96
    assert frame_side(settings("backbone.name=timm:vit_small_patch14_reg4_dinov2.lvd142m")) == 518
    assert feature_spec(settings("backbone.weights=random")).made_from["size"] is None
    assert feature_folder(settings("backbone.weights=random")) == Path("features/ucf11/timm-vit_tiny_patch16_224-random")


@pytest.mark.slow(measured=True)
def test_a_vit_runs_from_videos_to_overlays_and_the_linear_probe_beside_it(tmp_path):
    draw_clips(tmp_path / "clips", classes=2)
    given = words(tmp_path, *VIT, "backbone.size=80", "backbone.precision=fp32", "trainer.max_epochs=1")
    run = RunFolder(Path(script("train.py", *given, "row=soft_attention_0", cwd=tmp_path).stdout.strip().splitlines()[-1]))
    about = run.about()
    assert about["map"] == [5, 5, 192] and about["features"]["backbone"] == "timm:vit_tiny_patch16_224"
    assert "Features: timm:vit_tiny_patch16_224, RANDOM weights, no batch norm to calibrate" in about["notes"]
    store = FeatureStore(tmp_path / "features/miniature/clips/timm-vit_tiny_patch16_224-random")
    assert (store.grid, store.channels) == ((5, 5), 192)
    strips = sorted((run.path / "attention").glob("*.png"))
    assert strips and all(Image.open(path).size[1] > 0 for path in strips)
    recording, *_ = read_recordings(run)
    assert recording.attention is not None and recording.attention.shape[1:] == (5, 5)
    probe = RunFolder(Path(script("train.py", *given, "row=linear_probe", cwd=tmp_path).stdout.strip().splitlines()[-1]))
    assert probe.about()["features"] == about["features"] and probe.metrics()["test/accuracy"] >= 0
    clip = next((tmp_path / "clips").rglob("*.avi"))
    script("predict.py", f"checkpoint={run.path}", f"video={clip}", "output=seen", cwd=tmp_path)
    (summary,) = (json.loads(path.read_text()) for path in (tmp_path / "seen").rglob("summary.json"))
    assert summary["grid"] == [5, 5]


@pytest.mark.slow(measured=True)
def test_a_cnn_of_timm_runs_too_and_its_classifier_is_not_asked_for(tmp_path):
    draw_clips(tmp_path / "clips", classes=2)
    given = words(tmp_path, "backbone.name=timm:resnet10t", "backbone.layer=null", "backbone.precision=fp32")
    run = script("train.py", *given, "trainer.max_epochs=1", "row=avg_pool_lstm", cwd=tmp_path).stdout.strip().splitlines()[-1]
    about = RunFolder(Path(run)).about()
    assert about["map"] == [2, 2, 512]
    assert "Features: timm:resnet10t, RANDOM weights, batch norm calibrated on frames of train" in about["notes"]
    refused = script("train.py", *given, "row=objects", cwd=tmp_path, check=False)
    assert refused.returncode == 1 and "object scores need the classifier of a network of torchvision" in refused.stderr


@pytest.mark.counts("bad settings")
@pytest.mark.parametrize(
    ("word", "said"),
    [("backbone.layer=blocks.3", "are cut behind their last block"), ("backbone.name=timm:vit_nano", "has no such network")],
)
def test_what_cannot_be_is_refused(word, said):
    with pytest.raises(BackboneError, match=said):
        built(settings("backbone.weights=random", "backbone.size=64", word))
