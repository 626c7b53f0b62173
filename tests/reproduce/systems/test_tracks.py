"""A video is watched in pieces: nothing depends on how many frames come at a time, and its scores are those of the test."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from datamodules.blocks import BLOCK_LENGTH, BlockIndex, num_blocks
from datamodules.videos import DataError
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM, SoftmaxRegression
from lightning_modules.composite import LSTMClassifier
from lightning_modules.frames import pool_frames, run_blocks
from lightning_modules.metrics import block_scores
from reproduce.common.catalogue import PAPER_NETWORK
from reproduce.common.dataset import feature_spec
from reproduce.common.settings import with_values
from reproduce.experiments.folder import RunFolder
from reproduce.systems import tracks
from reproduce.systems.loading import load_trained, read_settings
from reproduce.systems.recurrent import build_data
from reproduce.systems.tracks import FileTrack, Tracker, track_video

LOCATIONS, CHANNELS, CLASSES = 6, 5, 4


def networks() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    return {
        "location": SoftAttentionLSTM(LOCATIONS, CHANNELS, CLASSES, 8, 2),
        "content": SoftAttentionLSTM(LOCATIONS, CHANNELS, CLASSES, 8, 1, "content"),
        "avg": PooledLSTM(CHANNELS, CLASSES, "mean", 8, 1),
        "softmax": SoftmaxRegression(LOCATIONS, CHANNELS, CLASSES),
        "shorter": LSTMClassifier(CHANNELS, CLASSES, 8, 2),
    }


def observe(watcher: Tracker, X: torch.Tensor, sizes: list[int]):
    seen = []
    for part in X.split(sizes):
        seen += watcher.feed(pool_frames(part, watcher.network.inputs))
    return seen + list(watcher.close())


def test_a_video_of_drawn_blocks_is_not_followed():
    network = networks()["location"].eval()
    with pytest.raises(DataError, match="a.mp4: has features of drawn blocks alone"):
        track_video(network, SimpleNamespace(drawn="4 random blocks a train video"), "a.mp4", Tracker(network, False))


@pytest.mark.parametrize("kind", ["location", "content", "avg", "softmax", "shorter"])
@pytest.mark.parametrize(
    ("frames", "skip", "stride"), [(1, 1, 1), (7, 1, 1), (30, 1, 1), (95, 1, 1), (95, 1, 4), (171, 5, 3), (40, 5, 1)]
)
def test_what_is_seen_is_what_the_blocks_see(kind, frames, skip, stride):
    network = networks()[kind].eval()
    X = torch.randn(frames, LOCATIONS, CHANNELS, generator=torch.Generator().manual_seed(1))
    watcher = Tracker(network, False, skip, 16, stride)
    seen = observe(watcher, X, [min(40, frames - begin) for begin in range(0, frames, 40)])

    length = getattr(network, "block_length", BLOCK_LENGTH)
    blocks = BlockIndex([frames], skip, 1, length)
    _, steps = blocks.locate(np.arange(len(blocks)))
    with torch.no_grad():
        output = run_blocks(network, pool_frames(X[torch.from_numpy(steps)], network.inputs))
    expected = block_scores(output.logits, False, 16)[::stride]
    assert len(expected) == num_blocks(frames, skip, stride, length)
    np.testing.assert_allclose(watcher.scores, expected.mean(dim=0), atol=1e-6)

    looked_at = np.concatenate([part.frames for part in seen])
    assert looked_at.tolist() == sorted(
        set(steps[::skip].ravel().tolist())
    )  # each frame of a block that begins at 0, skip, … once
    starts = [*range(0, len(blocks), skip * length), (len(blocks) - 1) // skip * skip]
    for number, frame in enumerate(looked_at):
        block = next(start for start in starts if frame in steps[start])
        step = steps[block].tolist().index(frame)
        probabilities = np.concatenate([part.probabilities for part in seen])[number]
        np.testing.assert_allclose(probabilities, output.logits[block, step].softmax(-1), atol=1e-6)
        if output.attention is not None:
            attention = np.concatenate([part.attention for part in seen])[number]
            np.testing.assert_allclose(attention, output.attention[block, step], atol=1e-6)


@pytest.mark.parametrize("kind", ["location", "avg"])
def test_pieces_of_any_size_give_the_same(kind):
    X = torch.randn(300, LOCATIONS, CHANNELS)
    whole, pieces = Tracker(networks()[kind], True), Tracker(networks()[kind], True)
    at_once, in_pieces = observe(whole, X, [300]), observe(pieces, X, [1, 29, 1, 200, 69])
    np.testing.assert_allclose(whole.scores, pieces.scores, atol=1e-6)
    for field in ("frames", "probabilities"):
        together = [np.concatenate([getattr(part, field) for part in seen]) for seen in (at_once, in_pieces)]
        np.testing.assert_allclose(*together, atol=1e-6)


def test_memory_does_not_grow_with_the_video():
    watcher = Tracker(networks()["location"], False)
    held = []
    for _ in range(40):
        list(watcher.feed(pool_frames(torch.randn(50, LOCATIONS, CHANNELS), watcher.network.inputs)))
        held.append(len(watcher.held.cube))
    assert max(held) == BLOCK_LENGTH - 1


def test_a_video_without_frames_is_refused():
    with pytest.raises(ValueError, match="without frames"):
        list(Tracker(networks()["avg"], False).close())


def test_a_run_s_network_scores_as_its_test_did(trained, monkeypatch):
    monkeypatch.chdir(trained)  # the run's paths are relative to it
    folder = RunFolder(trained / "run")
    for path in (folder.path, folder.tested):
        loaded = load_trained(path)
        data = build_data(loaded.settings)
        predictions = folder.predictions()
        assert loaded.classes == predictions.classes
        name = predictions.videos[0]
        track = track_video(loaded.network, data.store, name, Tracker.of(loaded))
        np.testing.assert_allclose(track.scores, predictions.scores[0], atol=1e-6)
        assert track.attention.shape == (len(track.frames), *data.store.grid)
        np.testing.assert_allclose(track.attention.sum(axis=(1, 2)), 1, atol=1e-5)
        assert data.store.manifest["spec"] == feature_spec(loaded.settings).made_from


@pytest.mark.parametrize(("backbone", "side"), [("resnet18", 64), (PAPER_NETWORK, 256)])
def test_frames_are_decoded_as_extraction_decodes_them(trained, monkeypatch, backbone, side):
    loaded = load_trained(trained / "run")
    asked = []
    monkeypatch.setattr(tracks, "probe", lambda path: None)
    monkeypatch.setattr(tracks, "read_timed", lambda path, size, threads, kept: iter(asked.append(size) or ()))
    settings = with_values(loaded.settings, {"backbone.name": backbone, "backbone.size": 64})
    source = SimpleNamespace(trained=replace(loaded, settings=settings))
    with pytest.raises(ValueError, match="without frames"):
        list(FileTrack(source, Path("clip.avi"), print))
    assert asked == [side]


def test_what_is_no_run_is_refused(tmp_path, trained):
    with pytest.raises(DataError, match="no run folder with a checkpoint"):
        load_trained(tmp_path)
    run = tmp_path / "run"
    (run / "holdout").mkdir(parents=True)
    for name in ("config.yaml", "run.json"):
        (run / name).write_bytes((trained / "run" / name).read_bytes())
    (run / "holdout/best.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(DataError, match=r"best\.ckpt: not a checkpoint"):
        load_trained(run)
    for wrong in ("model: 3\n", "modle: {}\n", "- 1\n", "seed: [1, 2\n", "data: {fps: fast}\n", "model: {name: transformer}\n"):
        (run / "config.yaml").write_text(wrong)
        with pytest.raises(DataError, match=r"config\.yaml: not the configuration of a run"):
            load_trained(run)


def test_settings_are_read_back_as_written(trained):
    path = trained / "run/config.yaml"
    settings = read_settings(path)
    assert settings.seed == 1 and settings.objective.attention_penalty == 1.0
    assert yaml.safe_load(path.read_text())["model"]["hidden_dim"] == settings.model.hidden_dim == 8
