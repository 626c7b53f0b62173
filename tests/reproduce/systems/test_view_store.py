"""View stores: the crops' features of equally spaced frames, or the frames; made once, refused where made otherwise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from moving_clips import lay_out_moving

from datamodules.decoding import read_frames
from datamodules.streams import equal_steps
from datamodules.videos import DataError
from lightning_modules.crops import CENTRE
from reproduce.common.cli import resolve
from reproduce.common.dataset import STORES, read_annotation, view_side
from reproduce.common.settings import Settings, SettingsError
from reproduce.systems import view_store

CLIP = "down/clip0.avi"


@pytest.fixture
def root(tmp_path) -> Path:
    lay_out_moving(tmp_path / "clips", per_class=2)
    return tmp_path


def settings_of(root: Path, *more: str) -> Settings:
    return resolve(Settings, [*TINY, f"paths.data={root}", f"paths.features={root / 'features'}", *more])


def made(root: Path, *more: str):
    settings = settings_of(root, *more)
    return view_store.ensure(settings, read_annotation(settings))


def spaced(root: Path, side: int) -> torch.Tensor:
    frames = np.stack(list(read_frames(root / "clips" / CLIP, side)))
    return torch.from_numpy(frames[equal_steps(len(frames), 25)]).permute(0, 3, 1, 2)


def test_a_store_holds_the_networks_mean_map_of_ten_crops_of_25_frames(root, capsys):
    store = made(root)
    assert "features of ten crops of 7 videos" in capsys.readouterr().out
    settings = settings_of(root)
    assert view_side(settings) == 73 and store.rows(CLIP) == 25 and store.videos[CLIP]["frames"] == 24
    backbone = view_store.calibrated(settings, read_annotation(settings), store)
    assert store.manifest["weights_sha256"] == backbone.sha256()
    centre = backbone.map(spaced(root, 73)[:, :, 4:68, 4:68]).mean(dim=(-2, -1))
    assert np.abs(store.read(CLIP)[:, CENTRE] - centre.numpy()).max() < 1e-2
    assert any("ten crops of 64x64 of 25 frames a video, squashed to 73x73" in note for note in store.notes)
    assert view_store.about(store, read_annotation(settings))["views"]["crops"] == 10


def test_a_second_call_finds_everything_there(root, capsys, monkeypatch):
    store = made(root)
    capsys.readouterr()
    monkeypatch.setattr(view_store, "calibrated", None)
    assert made(root).videos == store.videos and not capsys.readouterr().out


def test_where_all_layers_are_trained_it_holds_the_frames(root):
    store = made(root, "spatial.layers=all")
    assert store.path != STORES["views"].folder(settings_of(root))
    assert np.array_equal(store.read(CLIP), spaced(root, 73).numpy())


@pytest.mark.counts("bad videos")
def test_a_broken_video_is_bad(root):
    (root / "clips" / CLIP).write_bytes(b"no video")
    store = made(root, "spatial.layers=all")
    assert list(store.bad) == [CLIP] and len(store.videos) == 6


@pytest.mark.counts("bad settings")
def test_other_views_and_unknown_networks_are_refused(root):
    made(root)
    with pytest.raises(DataError, match="layer is 'features.3', the configuration asks for 'features.2'"):
        made(root, "backbone.layer=features.2")
    with pytest.raises(SettingsError, match="no such classification network"):
        made(root, "backbone.name=lenet")


def test_the_papers_network_takes_crops_minus_its_channels_means(root):
    words = ["backbone.name=bvlc_googlenet", "backbone.layer=null", "backbone.size=64"]
    store = made(root, *words)
    assert store.manifest["made_from"] | {"resize": "direct", "mean": "channels"} == store.manifest["made_from"]
    assert store.read(CLIP).shape == (25, 10, 1024)
