"""The parts of predict.py that need no network: pictures with text, tables of frames, times, names of folders."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED

from datamodules.decoding import read_timed
from reproduce import predict
from reproduce.experiments.attention_files import Moment
from reproduce.visual import video_writer
from reproduce.visual.overlay import expand, overlay
from reproduce.visual.prediction_files import MOST_INTERVALS, FrameTable, Timeline, read_moments
from reproduce.visual.video_writer import Painter, clock


@pytest.mark.skipif(not (SHARED / "data/fights").is_dir(), reason="the real clips are not there")
def test_frames_that_all_claim_one_time_follow_each_other():
    times = [time for time, _ in read_timed(SHARED / "data/fights/fight/fi003.mp4", 16)]
    np.testing.assert_allclose(times, np.arange(60) / 25, atol=1e-6)


def test_a_timeline_has_few_intervals_however_long_the_film():
    timeline, expected = Timeline(), {}
    for second in range(0, 20_000, 7):
        chance = np.asarray([second % 3, 1.0])
        timeline.append(Moment(0, float(second), chance, None))
        expected.setdefault(second // 1024, []).append(chance)
    intervals = timeline.intervals()
    assert timeline.length == 1024 and len(intervals) == 20 <= MOST_INTERVALS
    for (begin, end, mean), (number, chances) in zip(intervals, sorted(expected.items()), strict=True):
        assert (begin, end) == (1024 * number, 1024 * (number + 1))
        np.testing.assert_allclose(mean, np.mean(chances, axis=0))


def test_tables_read_back_as_written(tmp_path):
    rng = np.random.default_rng(0)
    names = ["a, b", 'a "c"', "d|é", "frame"]
    moments = [Moment(5 * n, n / 3, *(rng.random(size).astype(np.float32) for size in (4, (2, 3)))) for n in range(9)]
    table = FrameTable(tmp_path / "frames", {"of": "é"}, names, (2, 3), 3)
    for moment in moments:
        table.append(moment)
    table.close()
    for found, moment in zip(read_moments(tmp_path / "frames.csv", 4, (2, 3)), moments, strict=True):
        assert found.frame == moment.frame and found.seconds == pytest.approx(moment.seconds, abs=1e-6)
        np.testing.assert_allclose(found.probabilities, moment.probabilities, rtol=1e-6)
        np.testing.assert_allclose(found.attention, moment.attention, rtol=1e-6)
    document = json.loads((tmp_path / "frames.json").read_text())
    assert document["of"] == "é" and document["frames"][8]["top"][0] == names[int(moments[8].probabilities.argmax())]


# pictures


def test_the_overlay_is_the_recipe_s_stretched_with_the_picture():
    rng = np.random.default_rng(0)
    alpha = rng.dirichlet(np.full(49, 0.2)).reshape(7, 7)
    square = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    painter = Painter(224, 224, 224, ["a"], True, 1.0)
    np.testing.assert_array_equal(painter.overlaid(square, alpha), overlay(square, alpha))
    wide = Painter(224, 448, 448, ["a"], True, 1.0)
    drawn = wide.overlaid(np.zeros((224, 448, 3), dtype=np.uint8), alpha)[:, :, 0].astype(float)
    light = expand(alpha, 224, 224)
    recipe = 204 * light / light.max()
    np.testing.assert_allclose(drawn[:, 0::2], recipe, atol=2.5)
    np.testing.assert_allclose(drawn[:, 1::2], recipe, atol=2.5)


@pytest.mark.parametrize("size", [(48, 64), (568, 320), (20, 2000), (1, 1)])
def test_text_and_bars_lie_below_and_are_not_cut(size):
    names = ["a_very_long_name_of_a_class_" * 5, "shörtΩ", "c", "d"]
    painter = Painter(*size, 240, names, True, 3725.04)
    assert painter.width >= 480 and painter.width % 2 == 0 == painter.height % 2
    chance = np.asarray([0.5, 0.25, 0.0, 0.004])
    moment = Moment(0, 0.0, chance, np.full((2, 3), 1 / 6))
    drawn = painter.paint(np.zeros((*size, 3), dtype=np.uint8), 86_399, 3724.96, moment)
    assert drawn.shape == (painter.height, painter.width, 3)
    below = drawn[painter.picture[1] :].astype(int)
    ink = np.abs(below - video_writer.BACKGROUND).max(axis=2) > 20
    assert not ink[:, :6].any() and not ink[:, -6:].any() and not ink[:4].any() and not ink[-4:].any()
    begin, end = round(0.46 * painter.width), painter.width - video_writer.PAD - video_writer.PERCENT
    assert not ink[: video_writer.PAD + 3 * video_writer.LINE, begin - 8 : begin].any()  # the long name is shortened
    for line, share in enumerate((0.5, 0.25, 0.004)):
        row = below[video_writer.PAD + video_writer.LINE * line + video_writer.LINE // 2]
        blue = (row == video_writer.BAR).all(axis=1).sum()
        assert blue == pytest.approx(share * (end - begin), abs=1.5)


def test_clocks():
    assert [clock(seconds) for seconds in (0, 7.26, 59.96, 3727.3)] == ["0:00.0", "0:07.3", "1:00.0", "1:02:07.3"]


# errors


def test_names_of_folders_are_safe_and_differ():
    root = Path("videos")
    videos = [root / name for name in ("a/b.mp4", "a-b.avi", "A-B.mov", "日本.mp4", "日.mp4")]
    assert predict.names_of(videos, root) == ["a-b", "a-b-2", "A-B-3", "video", "video-2"]
    assert predict.names_of([Path("x/clip 1.mp4")], Path("x/clip 1.mp4")) == ["clip-1"]
