"""What settings make of the paper's network: its files, its input, its store, its notes; other networks stay as they were."""

import shutil

import numpy as np
import pytest
import torch
from conftest import SHARED
from released_files import grids, write_set
from torch import nn

from datamodules import released
from datamodules.decoding import RESIZE_RULE, probe, read_chunks, read_frames
from datamodules.features import FeatureStoreError
from datamodules.manifest import FeatureSpec
from lightning_modules import bvlc_googlenet
from lightning_modules.backbone import build_backbone
from reproduce import prepare
from reproduce.acquisition import caffe_files
from reproduce.common import dataset
from reproduce.common.catalogue import PAPER_NETWORK
from reproduce.common.cli import resolve
from reproduce.common.dataset import feature_folder, feature_spec, read_annotation, resize_of
from reproduce.common.settings import Settings, SettingsError
from reproduce.systems.backbones import built, frame_side, notes_on, resize_rule
from reproduce.systems.cnn_features import ensure, kept_cosine

torch.set_num_threads(1)

PLAIN = nn.Identity()  # a network without batch norm
WEIGHTS, MEAN = SHARED / "weights/bvlc_googlenet_fp16.pth", SHARED / "weights/ilsvrc_2012_mean.npy"
CLIPS = SHARED / "data/ucf11_groups_1_to_3"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file() or not MEAN.is_file(), reason="BVLC's weights are not here")


def settings(*words: str, name: str = PAPER_NETWORK) -> Settings:
    return resolve(Settings, [f"backbone.name={name}", *words])


@pytest.fixture
def mean(tmp_path):
    """A mean image beside a file of weights."""
    np.save(tmp_path / dataset.MEAN_FILE, np.random.default_rng(0).uniform(90, 140, (3, 256, 256)).astype(np.float32))
    torch.save(bvlc_googlenet.BvlcGoogLeNet().state_dict(), tmp_path / "mine.pth")
    return tmp_path / dataset.MEAN_FILE


def test_names_and_sizes_are_those_of_the_network():
    assert bvlc_googlenet.NAME == PAPER_NETWORK and frame_side(settings()) == bvlc_googlenet.AUTHORS_SIDE


def test_other_networks_have_no_new_facts():
    spec = feature_spec(settings("backbone.weights=imagenet", name="googlenet"))
    assert spec.made_from == {"backbone": "googlenet", "weights": "imagenet", "layer": None, "size": 224}
    direct = settings("backbone.resize=direct", name="googlenet")
    assert feature_spec(direct) == spec and (resize_of(direct), frame_side(direct)) == ("direct", 224)
    assert resize_rule(direct) == RESIZE_RULE
    assert notes_on(direct, PLAIN) == [
        "Features: googlenet, trained on ImageNet",
        "torchvision's GoogLeNet is a batch-norm port, not the paper's Caffe network",
    ]


@pytest.mark.parametrize("word", ["backbone.resize=authors", "backbone.mean=channels", "backbone.mean=/x.npy"])
def test_what_belongs_to_the_papers_network_is_refused_with_others(word):
    with pytest.raises(SettingsError, match=f"{word}: goes with backbone.name=bvlc_googlenet, not with googlenet"):
        settings(word, name="googlenet")
    with pytest.raises(SettingsError, match=f"{word}: goes with backbone.name=bvlc_googlenet, not with imported features"):
        settings(word, "backbone.weights=released")


@pytest.mark.parametrize("words", [[], [f"backbone.name={PAPER_NETWORK}"], ["backbone.name=googlenet"]])
def test_imported_features_are_the_same_store_by_either_name(words):
    imported = resolve(Settings, ["backbone.weights=released", *words])
    assert feature_spec(imported) == released.SPEC and feature_folder(imported).name == "googlenet-released"
    assert feature_spec(resolve(Settings, ["backbone.weights=released", "backbone.name=vgg16"])) != released.SPEC


def test_imported_features_serve_runs_of_the_default_network(tmp_path):
    sides = {
        "train": {"run/a.avi": grids(3, 0), "walk/b.avi": grids(2, 1)},
        "test": {"run/c.avi": grids(4, 2), "walk/d.avi": grids(1, 3)},
    }
    rows = "path,class,split\n"
    for side, videos in sides.items():
        write_set(tmp_path, side, videos)
        for name in videos:
            (tmp_path / "data/clips" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "data/clips" / name).write_bytes(b"nobody decodes it")
            rows += f"{name},{name.partition('/')[0]},{side}\n"
    (tmp_path / "data/clips/videos.csv").write_text(rows)
    words = ["data.name=videofolder", "data.folder=clips", f"paths.data={tmp_path}/data", f"paths.features={tmp_path}/features"]
    prepare.main([*words, "backbone.weights=released", f"released={tmp_path}"])
    run = resolve(Settings, [*words, "backbone.weights=released"])
    store = ensure(run, read_annotation(run))
    for name, grid in (sides["train"] | sides["test"]).items():
        np.testing.assert_array_equal(store.read(name), grid.reshape(-1, 49, 1024))


def test_its_spec_says_how_frames_come_to_it(mean):
    official = feature_spec(settings())
    assert official.made_from == {
        **FeatureSpec("bvlc_googlenet", "imagenet", None, 224).made_from,
        "resize": "authors",
        "mean": f"image:{dataset.MEAN_SHA256}",
    }
    assert feature_spec(settings("backbone.weights=random")).mean == "channels"
    assert feature_spec(settings("backbone.mean=channels")).mean == "channels"
    beside = feature_spec(settings(f"backbone.weights={mean.parent / 'mine.pth'}"))
    assert beside.mean == feature_spec(settings(f"backbone.mean={mean}")).mean == f"image:{dataset.file_sha256(mean)}"
    assert feature_spec(settings("backbone.resize=direct")).resize == "direct"
    assert feature_folder(settings()).name == "bvlc_googlenet-imagenet"
    with pytest.raises(SettingsError, match=r"backbone.mean=/nowhere.npy: neither channels nor a readable file"):
        feature_spec(settings("backbone.mean=/nowhere.npy"))


def test_manifest_and_notes_say_which_weights_and_mean(mean):
    words = f"backbone.weights={mean.parent / 'mine.pth'}"
    assert notes_on(settings(words), PLAIN) == [
        "Features: bvlc_googlenet, weights of the file mine.pth",
        "the paper's Caffe network; frames 256x256, then 224x224, minus the mean image",
    ]
    assert notes_on(settings("backbone.mean=channels", "backbone.resize=direct"), PLAIN) == [
        "Features: bvlc_googlenet, BVLC's weights, trained on ImageNet",
        "the paper's Caffe network; frames straight to 224x224, minus its means per channel, in place of the mean image",
    ]
    random = settings("backbone.weights=random")
    assert notes_on(random, PLAIN)[0].endswith("RANDOM weights, no batch norm to calibrate")
    assert notes_on(random, nn.BatchNorm2d(1))[0].endswith("RANDOM weights, batch norm calibrated on frames of train")
    assert resize_rule(settings(words)).startswith("whole frame squashed to 256 x 256, libswscale bilinear")
    assert resize_rule(settings(words)).endswith(
        f"; BGR minus {feature_spec(settings(words)).mean}; to size x size, bilinear, no crop"
    )
    assert resize_rule(settings("backbone.resize=direct", "backbone.mean=channels")) == f"{RESIZE_RULE}; BGR minus channels"


def test_settings_build_the_network_they_name(mean):
    given = built(settings(f"backbone.weights={mean.parent / 'mine.pth'}", "backbone.layer=inception_3a/output"))
    expected = build_backbone(PAPER_NETWORK, str(mean.parent / "mine.pth"), "inception_3a/output", mean=mean)
    assert given.sha256() == expected.sha256() and given.mean.shape == (1, 3, 256, 256)
    direct = built(settings("backbone.weights=random", "backbone.resize=direct", f"backbone.mean={mean}", "backbone.size=96"))
    assert direct.mean.shape == (1, 3, 96, 96)
    torchvisions = built(settings("backbone.weights=random", name="mobilenet_v2"))
    assert torchvisions.sha256() == build_backbone("mobilenet_v2", "random").sha256()


def test_imagenet_means_bvlcs_files_in_the_hubs_folder(mean, monkeypatch, tmp_path):
    asked = []

    def fetched(file, folder):
        asked.append((file.name, folder))
        return mean if file is caffe_files.MEAN else mean.parent / "mine.pth"

    monkeypatch.setattr(caffe_files, "fetched", fetched)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    backbone = built(settings())
    checkpoints = tmp_path / "hub/checkpoints"
    assert asked == [("ilsvrc_2012_mean.npy", checkpoints), ("bvlc_googlenet.caffemodel", checkpoints)]
    assert backbone.sha256() == build_backbone(PAPER_NETWORK, str(mean.parent / "mine.pth"), mean=mean).sha256()
    asked.clear()
    built(settings("backbone.mean=channels"))
    assert [name for name, _ in asked] == ["bvlc_googlenet.caffemodel"]


@needs_weights
@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not here")
def test_bfloat16_features_of_real_frames_are_those_in_fp32():
    frames = np.concatenate([next(read_chunks(path, 256))[::16] for path in sorted(CLIPS.glob("*/*/*_01_01.avi"))])
    backbone = build_backbone(PAPER_NETWORK, str(WEIGHTS), mean=MEAN)
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    assert round(kept_cosine(backbone, images, "bf16", torch.device("cpu")), 4) >= 0.9999


@needs_weights
@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not here")
def test_a_real_clip_goes_through_the_store(tmp_path):
    rows = []
    for name in ("biking", "tennis_swing"):
        for group, side in (("01", "train"), ("02", "test")):
            path = min(CLIPS.glob(f"{name}/*_{group}/*.avi"), key=lambda path: probe(path).declared_frames)
            (tmp_path / "data/clips" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "data/clips" / name)
            rows.append(f"{name}/{path.name},{name},{side}\n")
    (tmp_path / "data/clips/videos.csv").write_text("path,class,split\n" + "".join(rows))
    words = ["data.name=videofolder", "data.folder=clips", f"paths.data={tmp_path}/data", f"paths.features={tmp_path}/features"]
    words += [f"backbone.weights={WEIGHTS}", "backbone.workers=0", "trainer.accelerator=cpu"]
    run = settings(*words, "backbone.precision=fp32")
    annotation = read_annotation(run)
    video = min(annotation.train, key=lambda video: probe(annotation.path(video)).declared_frames)
    store = ensure(run, annotation, [video])
    assert store.path.name == "bvlc_googlenet_fp16" and (store.grid, store.channels) == ((7, 7), 1024)
    assert store.notes == notes_on(run, PLAIN) and store.manifest["layer"] == "inception_5b/output"
    assert store.manifest["resize"] == resize_rule(run) and store.manifest["spec"] == feature_spec(run).made_from
    frames = np.stack(list(read_frames(annotation.path(video), 256)))
    cubes = store.read(video.name)
    assert cubes.shape == (len(frames), 49, 1024)
    expected = built(run)(torch.from_numpy(frames[-2:]).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(cubes[-2:], expected, rtol=2e-3, atol=2e-2)
    for key, word in (("resize", "direct"), ("mean", "channels")):
        with pytest.raises(FeatureStoreError, match=f"{key} is .*, the configuration asks for '{word}'"):
            ensure(settings(*words, f"backbone.{key}={word}"), annotation)
