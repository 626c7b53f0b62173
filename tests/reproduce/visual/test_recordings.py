"""What a tested run draws and records of some test videos: which ones, their filmstrips, their recordings."""

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import videofolder
from datamodules.blocks import BlockIndex, Span
from datamodules.decoding import VideoError, read_frames
from datamodules.features import FeatureStore
from datamodules.videos import Video
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM
from lightning_modules.frames import pool_frames, run_blocks
from reproduce.common.cli import resolve
from reproduce.common.files import safe_name
from reproduce.common.settings import Settings
from reproduce.experiments.attention_files import LONGEST, SIDE, read_recordings, read_sheet
from reproduce.experiments.folder import RunFolder
from reproduce.systems.loading import load_trained
from reproduce.systems.recurrent import RecurrentSystem
from reproduce.systems.tracks import Tracker, track_video
from reproduce.visual import recordings
from reproduce.visual.overlay import GAP
from reproduce.visual.recordings import RECORDED, STRIPS, draw_filmstrips, first_block, first_videos, frames_at, record


def test_the_first_video_of_the_first_four_classes_is_drawn():
    names = {"b/2": (0,), "b/1": (0, 1), "a/9": (1,), "a/0": (4,), "e/0": (3,), "f/0": (5,)}
    videos = [Video(name, labels, name) for name, labels in names.items()]
    classes = ("walk", "run", "nobody's", "jump", "dive", "zoom")  # by name: dive, jump, nobody's, run, walk, zoom
    assert [videos[number].name for number in first_videos(videos, classes, STRIPS)] == ["a/0", "e/0", "a/9", "b/1"]
    assert first_videos(videos[:1], classes, STRIPS) == [0] and first_videos([], classes, STRIPS) == []


def test_a_tested_network_is_recorded_and_drawn_on_the_device_of_its_run(monkeypatch):
    """A Trainer leaves it on the CPU; a tensor without values stands for the GPU's."""
    system = object.__new__(RecurrentSystem)
    system.settings, system.data = resolve(Settings, ["row=soft_attention_1", "trainer.accelerator=gpu"]), None
    system.recognizer = SimpleNamespace(network=torch.nn.Linear(2, 2))
    places = []
    monkeypatch.setattr(recordings, "device_of", lambda asked: torch.device({"gpu": "meta"}[asked]))
    for name in ("record", "draw_filmstrips"):
        monkeypatch.setattr(recordings, name, lambda folder, network, *others: places.append(network.weight.device.type))
    recordings.draw(None, system, None)
    assert places == ["meta", "meta"]


@pytest.mark.parametrize(("length", "skip"), [(40, 1), (160, 5), (9, 1), (1, 1)])
def test_attention_is_that_of_the_first_tested_block(tmp_path, length, skip):
    torch.manual_seed(0)
    store = FeatureStore(tmp_path)
    store.manifest |= {"grid": [2, 3], "channels": 5}
    writer = store.writer("v")
    X = torch.randn(length, 6, 5).half()
    writer.append(X.numpy())
    writer.close()
    network = SoftAttentionLSTM(6, 5, 3, hidden_dim=8, num_layers=2)  # drops out, as after training
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    state = torch.get_rng_state()
    frames, maps = first_block(network, store, "v", skip)
    assert torch.equal(torch.get_rng_state(), state)
    tested, *_ = BlockIndex([length], skip).stretch(Span(0, 0, 1))
    np.testing.assert_array_equal(frames, tested)
    expected = run_blocks(network.eval(), pool_frames(X[frames][None], network.inputs)).attention
    np.testing.assert_allclose(maps.reshape(30, 6), expected[0].detach().numpy(), rtol=1e-5, atol=1e-7)
    assert maps.shape == (30, 2, 3) and maps.std() > 0.01


def test_frames_are_those_of_the_video_and_too_few_are_an_error(clips):
    path = clips / "clips/class0/clip0.avi"
    every = list(read_frames(path, 224))
    np.testing.assert_array_equal(frames_at(path, np.asarray([0, 7, 7])), np.stack([every[0], every[7], every[7]]))
    with pytest.raises(VideoError, match=rf"clip0.avi: has no frame {len(every)}"):
        frames_at(path, np.asarray([0, len(every)]))


def test_a_finished_run_holds_filmstrips_of_its_test_videos(trained):
    folder = RunFolder((trained / "run").resolve())
    captions, scored = folder.about()["filmstrips"], folder.predictions()
    assert len(captions) == 3 == len(list((folder.path / "attention").glob("*.png")))
    for number, (name, caption) in enumerate(captions.items(), start=1):
        video, said = caption.split(": ", 1)
        position = scored.videos.index(video)
        assert video == min(other for other in scored.videos if other.startswith(f"class{number - 1}/"))
        assert Path(name).as_posix() == f"attention/{number}-{safe_name(video)}.png"
        assert said == f"class{number - 1}; predicted: {scored.classes[scored.scores[position].argmax()]}"
        with Image.open(folder.path / name) as picture:
            strip = np.asarray(picture)
        assert strip.shape == (2 * 224 + GAP, 6 * 224 + 5 * GAP, 3)


def test_a_video_that_went_is_left_out_and_networks_without_attention_have_no_filmstrips(trained, clips, tmp_path, capsys):
    store = FeatureStore(trained / "features/miniature/clips/mobilenet_v3_small-random")
    shutil.copytree(clips / "clips", tmp_path / "clips")
    annotation = videofolder.read(tmp_path / "clips", "default")
    data = SimpleNamespace(annotation=annotation, store=store, skip=1)
    gone = annotation.test[first_videos(annotation.test, annotation.classes, STRIPS)[1]]
    annotation.path(gone).unlink()
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    predicted = torch.zeros(len(annotation.test), dtype=torch.int64)
    network = SoftAttentionLSTM(store.grid[0] * store.grid[1], store.channels, 3, hidden_dim=8)
    captions = draw_filmstrips(folder, network, data, predicted)
    assert [Path(name).name.split("-")[0] for name in captions] == ["1", "3"]
    assert all((folder.path / name).is_file() and text.endswith("predicted: class0") for name, text in captions.items())
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"attention on {gone.name} is not drawn" in said
    baseline = PooledLSTM(store.channels, 3, "mean", hidden_dim=8)
    assert draw_filmstrips(RunFolder(tmp_path / "other"), baseline, data, predicted) == {}

    data.annotation = replace(annotation, multi_label=True)
    several = torch.zeros(len(annotation.test), 3, dtype=torch.bool)
    several[:, 1:] = True
    assert {text.split("predicted: ")[1] for text in draw_filmstrips(folder, network, data, several).values()} == {
        "class1, class2"
    }
    said = draw_filmstrips(folder, network, data, torch.zeros_like(several)).values()
    assert {text.split("predicted: ")[1] for text in said} == {"none"}


# Recordings


def test_the_viewer_has_a_video_of_each_of_the_first_twelve_classes():
    classes = tuple(f"c{label:02d}" for label in range(15))
    videos = [Video(f"{name}/{number}", (label,), name) for number in (2, 1) for label, name in enumerate(classes)]
    chosen = [videos[number].name for number in first_videos(videos, classes, RECORDED)]
    assert chosen == [f"c{label:02d}/1" for label in range(12)]
    assert chosen[:4] == [videos[number].name for number in first_videos(videos, classes, STRIPS)]


def test_a_finished_run_holds_recordings_of_its_network_s_tracks(trained, clips):
    folder = RunFolder((trained / "run").resolve())
    found, scored, model = read_recordings(folder), folder.predictions(), load_trained(folder.path)
    assert [one.video.split("/")[0] for one in found] == ["class0", "class1", "class2"]
    store = FeatureStore(trained / "features/miniature/clips/mobilenet_v3_small-random")
    for one in found:
        assert one.video == min(name for name in scored.videos if name.startswith(one.video.split("/")[0]))
        track = track_video(model.network, store, one.video, Tracker.of(model))
        assert one.length == len(track.frames) == len(one.frames)
        np.testing.assert_allclose(one.attention, track.attention, atol=1e-3)
        np.testing.assert_allclose(one.probabilities, track.probabilities, atol=1e-3)
        np.testing.assert_allclose(track.scores, scored.scores[scored.videos.index(one.video)], atol=1e-5)
        frames = np.stack(list(read_frames(clips / "clips" / one.video, SIDE)))
        difference = read_sheet(folder, one).astype(float) - frames
        assert np.sqrt((difference**2).mean()) < 8 and abs(difference.mean()) < 2  # lossy, and in its place
    assert {path.suffix for path in (folder.path / "attention").iterdir()} == {".png", ".webp", ".npz"}


def film(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(24))
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for number in range(frames):
            image = np.full((24, 32, 3), number * 255 // max(1, frames - 1), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Films of 1, 40 and 1000 frames that grow brighter, and a store of random features of them."""
    root = tmp_path_factory.mktemp("films")
    store = FeatureStore(root / "store")
    store.manifest |= {"grid": [2, 3], "channels": 5}
    names = {"a/1.avi": 1, "b/40.avi": 40, "c/1000.avi": 1000}
    for name, frames in names.items():
        film(root / name, frames)
        writer = store.writer(name)
        writer.append(torch.randn(frames, 6, 5, generator=torch.Generator().manual_seed(frames)).half().numpy())
        writer.close()
    videos = tuple(Video(name, (label,), name) for label, name in enumerate(names))
    return SimpleNamespace(root=root, store=store, videos=videos)


class Films(SimpleNamespace):
    """As much of an annotation as is recorded."""

    def path(self, video):
        return self.root / video.name


@pytest.mark.parametrize("skip", [1, 5])
def test_films_of_any_length_are_recorded_at_any_rate(films, tmp_path, skip):
    torch.manual_seed(1)
    network = SoftAttentionLSTM(6, 5, 3, hidden_dim=8, num_layers=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    several = Films(root=films.root, test=films.videos, classes=("a", "b", "c"), multi_label=True)
    state = torch.get_rng_state()
    record(RunFolder(tmp_path), network, SimpleNamespace(annotation=several, store=films.store, skip=skip))
    assert torch.equal(torch.get_rng_state(), state)
    found = read_recordings(RunFolder(tmp_path))
    assert [(one.video, one.length, len(one.frames), one.rate) for one in found] == [
        ("a/1.avi", 1, 1, 24.0),
        ("b/40.avi", 40, 40, 24.0),
        ("c/1000.avi", 1000, 60, 24.0),
    ]
    for one in found:
        track = track_video(network, films.store, one.video, Tracker(network, True, skip))
        for number, frame in enumerate(one.frames[one.frames < LONGEST - 30 * skip]):
            at = frame // skip  # the last step by then
            np.testing.assert_allclose(one.attention[number], track.attention[at], atol=1e-3)
            np.testing.assert_allclose(one.probabilities[number], track.probabilities[at], atol=1e-3)
        assert one.attention.shape[1:] == (2, 3)
        bright = read_sheet(RunFolder(tmp_path), one).mean(axis=(1, 2, 3))
        assert np.abs(bright - one.frames * 255 / max(1, one.length - 1)).max() < 6


def test_a_baseline_records_probabilities_and_a_video_that_went_is_left_out(trained, clips, tmp_path, capsys):
    store = FeatureStore(trained / "features/miniature/clips/mobilenet_v3_small-random")
    shutil.copytree(clips / "clips", tmp_path / "clips")
    given = videofolder.read(tmp_path / "clips", "default")
    gone = given.test[first_videos(given.test, given.classes, STRIPS)[1]]
    given.path(gone).unlink()
    folder = RunFolder(tmp_path / "run")
    baseline = PooledLSTM(store.channels, 3, "mean", hidden_dim=8)
    record(folder, baseline, SimpleNamespace(annotation=given, store=store, skip=1))
    found = read_recordings(folder)
    assert [one.sheet.split("-")[0] for one in found] == ["1", "3"]
    assert all(one.attention is None for one in found)
    np.testing.assert_allclose(found[0].probabilities.astype(float).sum(axis=1), 1, atol=2e-3)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith(f"{gone.name} is not recorded for the report's viewer: ")
