"""What a tested run records of some test videos for the report's viewer."""

import shutil
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from datamodules import videofolder
from datamodules.decoding import read_frames
from datamodules.features import FeatureStore
from datamodules.videos import DataError, Video
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.watched import (
    LONGEST,
    PICTURES,
    SIDE,
    Watched,
    kept,
    read_sheet,
    read_watched,
    write_sheet,
    write_watched,
)
from reproduce.systems.loading import load_trained
from reproduce.systems.tracks import Tracker, track_video
from reproduce.visual.recordings import WATCHED, choose, record

EVIL = "<script>alert(1)</script>"


def test_the_viewer_has_a_video_of_each_of_the_first_twelve_classes():
    classes = tuple(f"c{label:02d}" for label in range(15))
    videos = [Video(f"{name}/{number}", (label,), name) for number in (2, 1) for label, name in enumerate(classes)]
    chosen = [videos[number].name for number in choose(videos, classes, WATCHED)]
    assert chosen == [f"c{label:02d}/1" for label in range(12)]
    assert chosen[:4] == [videos[number].name for number in choose(videos, classes)]


@pytest.mark.parametrize(("length", "count", "last"), [(1, 1, 0), (35, 35, 34), (60, 60, 59), (61, 60, 60), (10**6, 60, 899)])
def test_kept_frames_are_evenly_spaced_and_bounded(length, count, last):
    frames = kept(length)
    assert len(frames) == count <= PICTURES and frames[0] == 0 and frames[-1] == last < LONGEST
    steps = np.diff(frames)
    assert len(steps) == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_a_finished_run_holds_what_its_network_saw_and_said(trained, clips):
    folder = RunFolder((trained / "run").resolve())
    found, scored, model = read_watched(folder), folder.predictions(), load_trained(folder.path)
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
    """As much of an annotation as is looked at."""

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
    found = read_watched(RunFolder(tmp_path))
    assert [(one.video, one.length, len(one.frames), one.rate) for one in found] == [
        ("a/1.avi", 1, 1, 24.0),
        ("b/40.avi", 40, 40, 24.0),
        ("c/1000.avi", 1000, 60, 24.0),
    ]
    for one in found:
        track = track_video(network, films.store, one.video, Tracker(network, True, skip))
        for number, frame in enumerate(one.frames[one.frames < LONGEST - 30 * skip]):
            at = frame // skip  # the last frame looked at by then
            np.testing.assert_allclose(one.attention[number], track.attention[at], atol=1e-3)
            np.testing.assert_allclose(one.probabilities[number], track.probabilities[at], atol=1e-3)
        assert one.attention.shape[1:] == (2, 3)
        bright = read_sheet(RunFolder(tmp_path), one).mean(axis=(1, 2, 3))
        assert np.abs(bright - one.frames * 255 / max(1, one.length - 1)).max() < 6


def test_a_baseline_records_probabilities_and_a_video_that_went_is_left_out(trained, clips, tmp_path, capsys):
    store = FeatureStore(trained / "features/miniature/clips/mobilenet_v3_small-random")
    shutil.copytree(clips / "clips", tmp_path / "clips")
    given = videofolder.read(tmp_path / "clips", "default")
    gone = given.test[choose(given.test, given.classes)[1]]
    given.path(gone).unlink()
    folder = RunFolder(tmp_path / "run")
    baseline = PooledLSTM(store.channels, 3, "mean", hidden_dim=8)
    record(folder, baseline, SimpleNamespace(annotation=given, store=store, skip=1))
    found = read_watched(folder)
    assert [one.sheet.split("-")[0] for one in found] == ["1", "3"]
    assert all(one.attention is None for one in found)
    np.testing.assert_allclose(found[0].probabilities.astype(float).sum(axis=1), 1, atol=2e-3)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith(f"{gone.name} is not recorded for the report's viewer: ")


@pytest.mark.parametrize("count", [1, 9, 10, 11, 60])
def test_sheets_and_recordings_are_read_as_written(tmp_path, count):
    folder = RunFolder(tmp_path)
    pictures = np.zeros((count, SIDE, SIDE, 3), dtype=np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None] * 4
    write_sheet(folder, "1-x", pictures)
    attention = np.random.default_rng(0).random((count, 2, 3)).astype(np.float16)
    blind = Watched("b", "2-b", 9, kept(count), None, np.ones((count, 4), np.float16))
    one = Watched(EVIL, "1-x", 900, kept(count), attention, np.ones((count, 4), np.float16), 24000 / 1001)
    write_watched(folder, [one, blind])
    first, second = read_watched(folder)
    assert (first.video, first.sheet, first.length) == (EVIL, "1-x", 900) and second.attention is None
    assert (first.rate, second.rate) == (24000 / 1001, None)  # as of an earlier version
    np.testing.assert_array_equal(first.attention, attention)
    means = read_sheet(folder, first).mean(axis=(1, 2, 3))
    assert np.abs(means - pictures[:, 0, 0, 0]).max() < 1.5  # 4 lie between two pictures


def test_no_recording_is_none_and_a_damaged_one_is_an_error_that_names_it(tmp_path, count):
    folder = RunFolder(tmp_path)
    assert read_watched(folder) == []
    one = Watched("v", "1-v", 2, kept(2), None, np.ones((3, 4), np.float16))
    write_watched(folder, [one])
    with pytest.raises(DataError, match=r"watched.npz: damaged \(v: not as many"):
        read_watched(folder)
    with pytest.raises(DataError, match="1-v.webp: no pictures of v"):
        read_sheet(folder, one)
    for rate in (0.0, -25.0, float("nan"), float("inf")):
        write_watched(folder, [Watched("v", "1-v", 2, kept(2), None, np.ones((2, 4), np.float16), rate)])
        with pytest.raises(DataError, match=r"watched.npz: damaged \(v: .* frames per second"):
            read_watched(folder)
    for content in (b"", b"PK\x03\x04 and no more", folder.watched.read_bytes()[:-40]):
        folder.watched.write_bytes(content)
        with pytest.raises(DataError, match="watched.npz: damaged"):
            read_watched(folder)
        count("damaged run folders", 1)
