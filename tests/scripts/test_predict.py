"""predict.py: what it says of a test video is what the test said, its files are complete and play, any video goes in."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from browser import Browser, executable
from conftest import PATIENCE, REPOSITORY, SHARED, wait_for
from drawn import draw, facts
from PIL import Image

from datamodules.decoding import VideoError, probe, read_frames, read_timed
from datamodules.features import FeatureStore
from datamodules.videos import DataError
from lightning_modules.baselines import PooledLSTM
from reproduce import predict
from reproduce.common.dataset import feature_folder
from reproduce.systems.loading import load_trained
from reproduce.systems.tracks import FileTrack, FileTracker, Tracker, load_backbone, track_video
from reproduce.visual import prediction_files, video_writer
from reproduce.visual.prediction_files import FILES, SUMMARY, Layout, predict_video, read_moments, read_summary
from reproduce.visual.video_writer import Painter, VideoFile, clock, encoder

LAYOUT = Layout(side=96, columns=4, top=2)
CLIPS = SHARED / "data/clips"


@pytest.fixture(scope="module")
def run(trained):
    """The finished run's network and its feature store."""
    loaded = load_trained(trained / "run")
    return loaded, FeatureStore(trained / feature_folder(loaded.settings))


@pytest.fixture(scope="module")
def viewer(run):
    return FileTracker(run[0], run[1].path, torch.device("cpu"))


@pytest.fixture(scope="module")
def predicted(run, clips, tmp_path_factory, trained):
    """A test video, predicted by the script; the video, its folder and what was printed."""
    name = run[0].folder.predictions().videos[0]
    output = tmp_path_factory.mktemp("predicted")
    printed = io.StringIO()
    words = [f"checkpoint={trained / 'run'}", f"video={clips / 'clips' / name}", f"output={output}", "top=2", "side=240"]
    with contextlib.redirect_stdout(printed):
        (folder,) = predict.main([*words, f"features={run[1].path}", "trainer.accelerator=cpu"])
    return name, folder, words, printed.getvalue()


def test_a_test_video_gets_the_test_s_scores_and_attention(run, predicted):
    loaded, store = run
    name, folder, _, _ = predicted
    tested = loaded.folder.predictions()
    summary = read_summary(folder)
    assert list(summary["scores"]) == list(tested.classes)
    # Not exact: an extraction's packets, here of other frames, may be multiplied in another order.
    np.testing.assert_allclose(list(summary["scores"].values()), tested.scores[tested.videos.index(name)], atol=1e-4)
    track = track_video(loaded.network, store, name, Tracker.of(loaded))
    moments = list(read_moments(folder / "frames.csv", len(tested.classes), loaded.grid))
    assert [moment.frame for moment in moments] == track.frames.tolist() == list(range(summary["frames"]))
    np.testing.assert_allclose([moment.attention for moment in moments], track.attention, atol=1e-4)
    np.testing.assert_allclose([moment.probabilities for moment in moments], track.probabilities, atol=1e-4)
    assert summary["frames"] == store.frames(name) and summary["looked_at"] == len(moments)


def test_csv_and_json_say_the_same(run, predicted):
    loaded, _ = run
    _, folder, _, _ = predicted
    with (folder / "frames.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    document = json.loads((folder / "frames.json").read_text())
    assert document["classes"] == list(loaded.classes) and document["grid"] == list(loaded.grid)
    assert len(document["frames"]) == len(rows)
    for row, record in zip(rows, document["frames"], strict=True):
        assert (int(row["frame"]), float(row["seconds"])) == (record["frame"], record["seconds"])
        assert [float(row[name]) for name in loaded.classes] == record["probabilities"]
        best = max(loaded.classes, key=lambda name: float(row[name]))
        assert row["top"].split("|") == record["top"] and record["top"][0] == best and len(record["top"]) == 2
        assert np.asarray(record["attention"]).shape == loaded.grid
        assert float(row["alpha_1_2"]) == record["attention"][1][2]
        assert sum(map(sum, record["attention"])) == pytest.approx(1, abs=1e-4)


def test_the_overlay_video_is_what_browsers_play(run, clips, predicted):
    name, folder, _, _ = predicted
    shown, source = facts(folder / "overlay.mp4"), list(read_timed(clips / "clips" / name))
    assert shown["kind"] == ("h264", "yuv420p") and len(shown["times"]) == len(source)
    np.testing.assert_allclose(shown["times"], [time for time, _ in source], atol=1e-4)
    assert shown["seconds"] == pytest.approx(len(source) / 30, abs=1e-3)
    height, width = source[0][1].shape[:2]
    assert shown["size"][1] >= 2 * 240 and shown["size"][0] > 240 * height / width and not any(n % 2 for n in shown["size"])
    content = (folder / "overlay.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")
    with Image.open(folder / "filmstrip.png") as strip:
        assert strip.width > 1000 and np.asarray(strip.convert("L")).std() > 10


def test_the_overlay_video_shows_each_frame_beside_its_own_attention(run, clips, predicted):
    loaded, _ = run
    name, folder, _, _ = predicted
    moments = list(read_moments(folder / "frames.csv", len(loaded.classes), loaded.grid))
    source, drawn = list(read_frames(clips / "clips" / name)), list(read_frames(folder / "overlay.mp4"))
    for number in (0, len(source) // 2, len(source) - 1):
        painter = Painter(*source[0].shape[:2], 240, loaded.classes, True, len(source) / 30)
        wide, high = painter.picture
        left = drawn[number][:high, painter.left : painter.left + wide].astype(float)
        right = drawn[number][:high, painter.left + wide + video_writer.GAP :][:, :wide].astype(float)
        fitted = painter.fitted(source[number])
        assert np.abs(left - fitted).mean() < 12  # what H.264 at half the colour resolution takes of textures
        grey = painter.overlaid(fitted, moments[number].attention).mean(axis=2)
        assert np.abs(right.mean(axis=2) - grey).mean() < 4


def test_what_is_printed(run, predicted):
    loaded, _ = run
    name, folder, _, printed = predicted
    summary = read_summary(folder)
    best = max(summary["scores"], key=summary["scores"].get)
    lines = printed.splitlines()
    (first,) = [line for line in lines if line.startswith("  1. ")]
    assert first.split()[1:3] == [best, f"{summary['scores'][best]:.3f}"] and not [line for line in lines if "  3. " in line]
    over_time = lines[lines.index("  over time, mean of each 1 s from:") + 1 :][: len(summary["over_time"])]
    for line, part in zip(over_time, summary["over_time"], strict=True):
        likeliest = max(part["scores"], key=part["scores"].get)
        assert line.split()[:3] == [clock(part["begin"]), likeliest, f"{part['scores'][likeliest]:.2f}"]
    assert summary["over_time"][-1]["end"] == summary["seconds"]
    assert lines[-2] == f"written: {folder.resolve()}"


def test_what_is_finished_is_not_made_again(run, predicted, clips, capsys):
    _, folder, words, _ = predicted
    words = [*words, f"features={run[1].path}", "trainer.accelerator=cpu"]
    times = {name: (folder / name).stat().st_mtime_ns for name in (*FILES, SUMMARY)}
    assert predict.main(words) == [folder]
    assert "finished before" in (said := capsys.readouterr().out) and "  1. " in said
    assert times == {name: (folder / name).stat().st_mtime_ns for name in times}
    (folder / "frames.json").unlink()
    predict.main(words)
    assert (folder / "frames.json").is_file() and (folder / SUMMARY).stat().st_mtime_ns > times[SUMMARY]
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
    assert sorted(path.name for path in folder.iterdir()) == sorted((*FILES, SUMMARY))


def test_results_of_another_video_are_not_replaced_and_overlays_are_no_videos(viewer, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        draw(tmp_path / name / "a.mp4")
    (tmp_path / "one/b.mp4").symlink_to("b.mp4")
    out = tmp_path / "out/a"
    summary = predict_video(viewer, tmp_path / "one/a.mp4", out, LAYOUT)
    with pytest.raises(DataError, match=r"holds the results of another video, .*one/a\.mp4; give another output=<folder>"):
        predict_video(viewer, tmp_path / "two/a.mp4", out, LAYOUT)
    assert read_summary(out) == summary
    predict_video(viewer, tmp_path / "two/a.mp4", out, LAYOUT, overwrite=True)
    assert read_summary(out) != summary
    assert predict.videos_in(tmp_path, tmp_path / "elsewhere") == [tmp_path / "one/a.mp4", tmp_path / "two/a.mp4"]
    with pytest.raises(DataError, match="no such file or folder"):
        predict.videos_in(tmp_path / "one/b.mp4", out)


@pytest.mark.skipif(executable() is None, reason="no Chromium here")
def test_a_browser_plays_it(predicted, tmp_path):
    _, folder, _, _ = predicted
    summary = read_summary(folder)
    page = tmp_path / "page.html"
    page.write_text(f'<video muted preload="auto" src="{(folder / "overlay.mp4").as_uri()}"></video>')
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(page.as_uri(), 1000, 700)
        ready = (
            "new Promise(done => {const v = document.querySelector('video'); v.onerror = () => done(v.error.message);"
            "const tell = () => done([v.duration, v.videoWidth, v.videoHeight]);"
            "v.readyState >= 2 ? tell() : v.onloadeddata = tell; setTimeout(() => done('nothing came'), 20000)})"
        )
        duration, width, height = browser.run(ready)
        assert duration == pytest.approx(summary["seconds"], abs=0.05)
        assert (height, width) == facts(folder / "overlay.mp4")["size"]
        seek = "new Promise(done => {const v = document.querySelector('video'); v.onended = () => done(v.currentTime);"
        ended = browser.run(seek + "v.currentTime = v.duration - 0.2; v.play(); setTimeout(() => done(-1), 20000)})")
        assert ended == pytest.approx(duration, abs=0.1)
    finally:
        browser.close()


# any video


def folder_of_all_kinds(root: Path) -> dict[str, int]:
    """Videos of many formats, by path -> frames; and three that are no videos."""
    kinds = {
        "a.mp4": {},
        "b.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
        "c.mpg": {"codec": "mpeg1video", "frames": 7},
        "d.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p10le", "shape": (49, 63)},  # 10 bit, odd sides
        "e.webm": {"codec": "libvpx"},
        "f.mov": {"codec": "qtrle", "pix_fmt": "argb", "shape": (31, 17)},  # alpha
        "g.ts": {"codec": "mpeg2video"},
        "h.gif": {"codec": "gif", "pix_fmt": "rgb8"},
        "sub/a.mp4": {"frames": 1},
        "sub/A.MP4": {"frames": 40},
    }
    (root / "sub/.hidden").mkdir(parents=True)
    for name, how in kinds.items():
        draw(root / name, **how)
    draw(root / "sub/.hidden/a.mp4")
    (root / "notes.txt").write_text("no video")
    (root / "broken.mp4").write_bytes((root / "a.mp4").read_bytes()[:300])
    (root / "sub/empty.avi").touch()
    return {name: how.get("frames", 5) for name, how in kinds.items()}


def test_a_folder_of_every_kind_and_bad_ones_do_not_stop_the_others(run, trained, tmp_path, capsys):
    frames = folder_of_all_kinds(tmp_path / "videos")
    output = tmp_path / "videos/seen"  # inside: what is written is not taken for a video
    words = [f"checkpoint={trained / 'run'}", f"video={tmp_path / 'videos'}", f"output={output}", "side=64"]
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            predict.main([*words, f"features={run[1].path}", "trainer.accelerator=cpu"])
        assert stop.value.code == 1
        said = capsys.readouterr()
        bad = [line for line in said.err.splitlines() if line.startswith("bad: ")]
        for name, line in zip(("broken.mp4", "sub/empty.avi"), bad, strict=True):
            assert str(tmp_path / "videos" / name) in line
        assert "error: 2 of 12 videos do not decode" in said.err
        found = {path.name: read_summary(path) for path in output.iterdir()}
        assert all(found.values()) and len(found) == len(frames)
        by_video = {Path(summary["video"]).relative_to(tmp_path / "videos").as_posix(): summary for summary in found.values()}
        assert {name: summary["frames"] for name, summary in by_video.items()} == frames
    assert said.out.count("finished before") == len(frames)
    for name, summary in found.items():
        shown = facts(output / name / "overlay.mp4")
        assert len(shown["times"]) == summary["frames"] and shown["kind"] == ("h264", "yuv420p")
        assert shown["seconds"] == pytest.approx(summary["seconds"], abs=0.002) and shown["seconds"] > 0


@pytest.mark.counts("strange videos")
def test_a_damaged_video_is_named_with_the_setting_that_keeps_what_decodes(run, trained, tmp_path, capsys):
    path = draw(tmp_path / "cut.avi", frames=40)
    data = path.read_bytes()
    path.write_bytes(data[: [found.start() for found in re.finditer(b"00dc", data)][30]])
    words = [
        f"checkpoint={trained / 'run'}",
        f"video={path}",
        f"output={tmp_path / 'out'}",
        "side=64",
        "trainer.accelerator=cpu",
    ]
    words.append(f"features={run[1].path}")
    with pytest.raises(SystemExit):
        predict.main(words)
    assert re.search(r"bad: .*cut\.avi: it ends after 1\.2 s of the 1\.6 s .*; damaged=keep keeps", capsys.readouterr().err)
    predict.main([*words, "damaged=keep"])
    assert "damaged: it ends after 1.2 s" in capsys.readouterr().out
    (folder,) = (tmp_path / "out").iterdir()
    summary = read_summary(folder)
    assert summary and summary["frames"] == 29 and summary["damage"].startswith("it ends after 1.2 s of the 1.6 s")
    with pytest.raises(SystemExit):
        predict.main(words)


def test_a_picture_is_a_video_of_one_frame(viewer, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    summary = predict_video(viewer, tmp_path / "a.png", tmp_path / "out", LAYOUT)
    assert summary["frames"] == 1 == len(facts(tmp_path / "out/overlay.mp4")["times"])


def test_frames_keep_their_times(viewer, tmp_path):
    pts = [0, 40, 90, 400, 1400, 1433]
    path = draw(tmp_path / "variable.mkv", frames=6, pts=pts)
    summary = predict_video(viewer, path, tmp_path / "out", LAYOUT)
    with (tmp_path / "out/frames.csv").open() as file:
        assert [float(row["seconds"]) for row in csv.DictReader(file)] == [at / 1000 for at in pts]
    np.testing.assert_allclose(facts(tmp_path / "out/overlay.mp4")["times"], np.asarray(pts) / 1000, atol=1e-4)
    assert [(part["begin"], part["end"]) for part in summary["over_time"]] == [(0, 1), (1, pytest.approx(1.7196))]


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not there")
def test_rotated_and_stretched_videos_are_shown_as_they_should_be(viewer, tmp_path):
    turned = predict_video(viewer, CLIPS / "video_90.mov", tmp_path / "turned", LAYOUT)
    assert turned["frames"] == len(list(read_frames(CLIPS / "video_90.mov")))
    image = next(read_frames(tmp_path / "turned/overlay.mp4"))
    painter = Painter(568, 320, LAYOUT.side, viewer.trained.classes, True, 1.0)
    assert painter.picture == (54, 96) and image.shape[:2] == (painter.height, painter.width)
    upright = painter.fitted(next(read_frames(CLIPS / "video_90.mov")))
    assert np.abs(image[:96, painter.left : painter.left + 54].astype(float) - upright).mean() < 12


def test_pixels_that_are_no_squares_are_stretched(tmp_path):
    path = draw(tmp_path / "wide.mp4", aspect=Fraction(2))
    info = probe(path)
    assert info.pixel_aspect == 2
    assert prediction_files._shown_size(np.zeros((48, 64, 3)), info) == (48, 128)
    assert prediction_files._shown_size(np.zeros((64, 48, 3)), info) == (128, 48)  # turned by a quarter
    assert prediction_files._shown_size(np.zeros((48, 64, 3)), replace(info, pixel_aspect=1e6)) == (48, 64)


# other networks


def test_a_baseline_shows_probabilities_alone(run, viewer, tmp_path):
    loaded, store = run
    settings = replace(loaded.settings, model=replace(loaded.settings.model, name="avg_pool_lstm"))
    torch.manual_seed(0)
    network = PooledLSTM(store.channels, len(loaded.classes), "mean", hidden_dim=8, num_layers=1)
    baseline = FileTracker(replace(loaded, network=network, settings=settings), store.path, torch.device("cpu"))
    name = loaded.folder.predictions().videos[1]
    path = loaded.settings.paths.data / Path("clips") / name
    summary = predict_video(baseline, path, tmp_path / "out", LAYOUT)
    track = track_video(network, store, name, Tracker.of(baseline.trained))
    np.testing.assert_allclose(list(summary["scores"].values()), track.scores, atol=1e-4)
    document = json.loads((tmp_path / "out/frames.json").read_text())
    assert document["grid"] is None and document["frames"][0]["attention"] is None
    assert "alpha" not in (tmp_path / "out/frames.csv").read_text().splitlines()[0]
    wide = Painter(*next(read_frames(path)).shape[:2], LAYOUT.side, loaded.classes, False, 1.0)
    assert facts(tmp_path / "out/overlay.mp4")["size"] == (wide.height, wide.width)
    assert wide.left == (wide.width - wide.picture[0]) // 2 > 0


def test_several_labels_and_fewer_frames_a_second(run, tmp_path, capsys):
    loaded, store = run
    settings = replace(loaded.settings, data=replace(loaded.settings.data, fps=6.0))
    several = FileTracker(replace(loaded, settings=settings, multi_label=True), store.path, torch.device("cpu"))
    path = draw(tmp_path / "a.mp4", frames=163)
    summary = predict_video(several, path, tmp_path / "out", LAYOUT)
    assert summary["multi_label"] and summary["frames"] == 163
    moments = list(read_moments(tmp_path / "out/frames.csv", 3, loaded.grid))
    assert [moment.frame for moment in moments] == list(range(0, 160, 5)) and summary["looked_at"] == 32
    assert np.abs(np.sum([moment.probabilities for moment in moments], axis=1) - 1).max() > 0.05  # sigmoids
    assert len(facts(tmp_path / "out/overlay.mp4")["times"]) == 163
    predict._print(summary, 2)
    assert "each class by itself" in capsys.readouterr().out


# bounded memory


def test_nothing_is_kept_of_a_frame(run, viewer, tmp_path, monkeypatch):
    path = draw(tmp_path / "long.avi", frames=700)
    viewing, held, told = FileTrack(viewer, path, lambda done: told.append(done)), [], []
    told = []
    for moment in viewing:
        held.append((len(viewing._times), len(viewing.tracker.held.mean)))
        assert moment.frame == len(held) - 1 and moment.seconds == pytest.approx(moment.frame / 25, abs=1e-6)
    assert told == [*range(64, 700, 64), 700] and viewing.frames == 700 and viewing.seconds == pytest.approx(28)
    assert np.max(held) < 128  # a chunk and what is left of a block


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 1, "say checkpoint=<path> and video=<path>"),
        (["checkpoint=x"], 1, "say video=<path>"),
        (["checkpoint=x", "video=nowhere.mp4"], 1, "video=nowhere.mp4: there is no such file or folder"),
        (["checkpoint=x", "video=.", "side=3000"], 1, "side=3000: must be from 64 to 1920"),
        (["checkpoint=x", "video=.", "top=0"], 1, "top=0: must be at least 1"),
        (["checkpoint=x", "video=.", "trainer.accelerator=tpu"], 2, "choose from auto, cpu, gpu"),
        (["checkpoint=x", "video=."], 1, "the folder holds no video and no numbered frames (.mp4, "),
        (["chekpoint=x"], 2, "did you mean checkpoint?"),
    ],
)
def test_what_is_asked_wrong_is_refused_at_once(words, status, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        predict.main(words)
    assert stop.value.code == status and said in capsys.readouterr().err


def test_a_run_or_a_backbone_that_is_not_there_is_named(run, clips, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    video = f"video={clips / 'clips'}"
    for words, said in (
        ([f"checkpoint={tmp_path}"], "no run folder with a checkpoint"),
        ([f"checkpoint={trained / 'run'}"], "backbone.pt is missing: it holds the random weights"),
        ([f"checkpoint={trained / 'run'}", f"features={run[1].path}", "output=taken/x"], "set output"),
    ):
        (tmp_path / "taken").write_text("a file")
        with pytest.raises(SystemExit) as stop:
            predict.main([*words, video, "trainer.accelerator=cpu"])
        assert stop.value.code == 1 and said in capsys.readouterr().err


def test_another_backbone_and_none_are_refused(run, tmp_path):
    loaded, store = run
    other = replace(loaded, about={**loaded.about, "weights_sha256": "0" * 64})
    with pytest.raises(DataError, match=r"backbone\.pt: other weights than those"):
        load_backbone(other, store.path)
    (tmp_path / "backbone.pt").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"backbone\.pt: not the weights of this backbone"):
        load_backbone(loaded, tmp_path)
    for weights, said in (("released", "never published"), (str(tmp_path / "no.pth"), "nor an existing file")):
        settings = replace(loaded.settings, backbone=replace(loaded.settings.backbone, weights=weights))
        with pytest.raises(DataError, match=said):
            load_backbone(replace(loaded, settings=settings), store.path)


def test_without_an_encoder_or_room_nothing_is_left_under_a_final_name(viewer, tmp_path, monkeypatch):
    path = draw(tmp_path / "a.mp4")
    predict_video(viewer, path, tmp_path / "out/a", LAYOUT)
    before = {name: (tmp_path / "out/a" / name).read_bytes() for name in (*FILES, SUMMARY)}

    def full(self, image, seconds):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(VideoFile, "append", full)
        with pytest.raises(DataError, match="No space left on device.*make room, or set output"):
            predict_video(viewer, path, tmp_path / "out/a", LAYOUT, overwrite=True)
        with pytest.raises(DataError, match="No space left"):
            predict_video(viewer, path, tmp_path / "out/b", LAYOUT)
    with monkeypatch.context() as patch:
        patch.setattr(video_writer, "ENCODERS", ("no_such_encoder", "h264_v4l2m2m"))
        encoder.cache_clear()
        with pytest.raises(DataError, match="no H.264 encoder that works here"):
            predict_video(viewer, path, tmp_path / "out/b", LAYOUT)
    encoder.cache_clear()
    assert encoder() in video_writer.ENCODERS
    (tmp_path / "out/.a.part").mkdir()  # as a process leaves it that was killed on the spot
    (tmp_path / "out/.a.part/overlay.mp4").write_bytes(b"half")
    predict_video(viewer, path, tmp_path / "out/a", LAYOUT, overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
    assert before == {name: (tmp_path / "out/a" / name).read_bytes() for name in before}


@pytest.mark.slow(measured=True)
def test_a_process_that_is_told_to_end_leaves_nothing(run, trained, tmp_path):
    video = draw(tmp_path / "long.avi", frames=4000)
    words = [f"checkpoint={trained / 'run'}", f"video={video}", f"features={run[1].path}", "output=out", "side=64"]
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "reproduce/predict.py"), *words], cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    wait_for((tmp_path / "out/.long.part/frames.csv").is_file, process)
    process.terminate()
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    assert list((tmp_path / "out").iterdir()) == []


def test_a_name_that_cannot_be_written_is_a_bad_video(viewer, tmp_path):
    path = tmp_path / "b\udcff.mp4"
    path.write_bytes(draw(tmp_path / "a.mp4").read_bytes())
    with pytest.raises(VideoError, match=r"b\\udcff\.mp4': the path is not UTF-8; rename the file"):
        predict_video(viewer, path, tmp_path / "out", LAYOUT)
    assert not (tmp_path / "out").exists()


def test_features_that_are_not_finite_are_a_bad_video(viewer, tmp_path, monkeypatch):
    path = draw(tmp_path / "a.mp4", frames=70)
    whole = FileTracker.features

    def broken(self, frames):
        found = whole(self, frames)
        if len(frames) < 64:
            found[3, 1, 0] = float("inf")
        return found

    monkeypatch.setattr(FileTracker, "features", broken)
    with pytest.raises(VideoError, match=r"a\.mp4: features of frame 67 are not finite"):
        list(FileTrack(viewer, path, lambda done: None))


@pytest.mark.counts("folders of frames")
def test_a_folder_of_frames_and_a_stream_are_predicted_like_the_video(run, trained, tmp_path, capsys):
    video = draw(tmp_path / "a.avi", frames=33, codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(video)) as container:
        for number, packet in enumerate(packet for packet in container.demux(video=0) if packet.size):
            (tmp_path / "frames").mkdir(exist_ok=True)
            (tmp_path / f"frames/img_{number + 1:05d}.jpg").write_bytes(bytes(packet))
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(video.read_bytes())).start()
    for name in ("a.avi", "frames", "pipe"):
        words = [f"checkpoint={trained / 'run'}", f"video={tmp_path / name}", f"output={tmp_path / f'out-{name}'}", "side=64"]
        predict.main([*words, f"features={run[1].path}", "trainer.accelerator=cpu"])
    expected, *others = (json.loads(path.read_text()) for path in sorted(tmp_path.glob(f"out-*/*/{SUMMARY}")))
    assert len(others) == 2
    for found in others:
        assert found["frames"] == 33 and found["scores"] == pytest.approx(expected["scores"], abs=1e-5)
    assert "33 pictures are one video" in capsys.readouterr().out
