import gzip
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.decoding import read_frames
from datamodules.descriptors.farneback import REACH, WINDOW
from datamodules.descriptors.trajectories import (
    CHANNELS,
    POSITIONS,
    TrajectoryOptions,
    channels,
    sample,
    scale_sizes,
    trajectories,
)
from datamodules.reading import DataError

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "data" / "idt_reference"
WITHOUT = TrajectoryOptions(compensate=False)
COLUMN = {name: index for index, name in enumerate(POSITIONS)}


def texture(height, width, seed=0):
    """Draw blobs of several sizes, so that every scale has some."""
    noise = np.random.default_rng(seed).normal(size=(4, height, width))
    smooth = [cv2.GaussianBlur(layer, (0, 0), sigma) for layer, sigma in zip(noise, (1.5, 3, 6, 12), strict=True)]
    return np.clip(128 + sum(22 * layer / layer.std() for layer in smooth), 0, 255).astype(np.uint8)


def panning(count=24, height=160, width=240):
    scene = texture(height, width + 2 * count)
    return [scene[:, 2 * (count - t) :][:, :width] for t in range(count)]  # what is seen moves right by 2 px


def square_moving(count=20, height=120, width=160):
    scene, square = texture(height, width), texture(60, 60, seed=1)
    frames = []
    for t in range(count):
        frame = scene.copy()
        frame[30:90, 20 + 2 * t : 80 + 2 * t] = square
        frames.append(frame)
    return frames


def all_tracks(frames, options):
    found = list(trajectories(iter(frames), options))
    if not found:
        return np.zeros((0, 9), np.float32), np.zeros((0, 426), np.float32)
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


@pytest.fixture(scope="module")
def moving():
    return all_tracks(square_moving(), TrajectoryOptions())


def test_translation_of_the_whole_frame_leaves_no_track_once_the_camera_is_taken_out():
    frames = panning()
    positions, descriptors = all_tracks(frames, WITHOUT)
    assert len(positions) > 2000
    assert len(all_tracks(frames, TrajectoryOptions())[0]) <= 0.001 * len(positions)  # at the edges of the coarsest scale
    assert descriptors[:, CHANNELS["trajectory"]].reshape(-1, 2).mean(axis=0) == pytest.approx([1 / 15, 0], abs=5e-4)


@pytest.mark.parametrize("keypoints", ["sift", "orb"])
def test_tracks_lie_on_the_square_that_moves(keypoints):
    positions, _ = all_tracks(square_moving(), TrajectoryOptions(keypoints=keypoints))
    assert len(positions) > 100
    middle = positions[:, COLUMN["end"]] - 7.5
    across = np.abs(positions[:, COLUMN["x"]] - (50 + 2 * middle))
    down = np.abs(positions[:, COLUMN["y"]] - 60)
    beyond = (np.maximum(across, down) - 30) / positions[:, COLUMN["scale"]]
    assert np.mean(beyond <= 7) >= 0.95  # flow is averaged over ±5 px of its scale, and nearest pixels are taken
    assert beyond.max() < WINDOW + REACH
    fine = positions[:, COLUMN["scale"]] == 1
    assert np.median(positions[fine, COLUMN["length"]]) / 15 == pytest.approx(2, abs=0.03)


def test_positions_say_where_tracks_were(moving):
    positions, descriptors = moving
    assert positions.dtype == descriptors.dtype == np.float32
    assert positions.shape[1] == len(POSITIONS) == 9 and descriptors.shape[1] == 426
    assert np.isfinite(positions).all() and np.isfinite(descriptors).all()
    ends, scales = positions[:, COLUMN["end"]], positions[:, COLUMN["scale"]]
    assert set(ends) <= {15, 16, 17, 18, 19}
    assert set(np.round(2 * np.log2(scales))) <= {0, 1, 2, 3}
    assert positions[:, COLUMN["x_share"]] == pytest.approx(positions[:, COLUMN["x"]] / 160)
    assert positions[:, COLUMN["y_share"]] == pytest.approx(positions[:, COLUMN["y"]] / 120)
    deviation = positions[:, [COLUMN["sd_x"], COLUMN["sd_y"]]]
    assert (deviation.max(axis=1) >= 3**0.5).all() and (deviation <= 50).all()
    steady = positions[:, COLUMN["sd_x"]][(scales == 1) & (positions[:, COLUMN["sd_y"]] < 0.1)]
    assert np.median(steady) == pytest.approx(2 * np.std(np.arange(16)), abs=0.2)


def test_channels_partition_a_descriptor():
    widths = {name: part.stop - part.start for name, part in CHANNELS.items()}
    assert widths == {"trajectory": 30, "hog": 96, "hof": 108, "mbhx": 96, "mbhy": 96}
    assert channels(6)["trajectory"] == slice(0, 12) and channels(6)["mbhy"].stop == 12 + 396
    _, descriptors = all_tracks(square_moving(9), TrajectoryOptions(length=6, compensate=False))
    assert len(descriptors) and descriptors.shape[1] == 12 + 396


def test_trajectory_is_scaled_to_length_one_and_channels_to_mean_one(moving):
    _, descriptors = moving
    lengths = np.linalg.norm(descriptors[:, CHANNELS["trajectory"]].reshape(-1, 15, 2), axis=2).sum(axis=1)
    assert lengths == pytest.approx(1, abs=1e-5)
    for name in ("hog", "hof", "mbhx", "mbhy"):
        squares = (descriptors[:, CHANNELS[name]].reshape(len(descriptors), 3, -1) ** 2).sum(axis=2)
        assert (squares <= 1 + 1e-5).all() and (squares > 0.5).all(), "a mean of five vectors of length one"


def test_mirrored_frames_give_mirrored_tracks():
    options = TrajectoryOptions(scales=1, compensate=False)
    frames = square_moving(16)  # later trajectories start where cells are free, and x // 5 has no mirror image
    one, other = all_tracks(frames, options), all_tracks([frame[:, ::-1].copy() for frame in frames], options)
    assert len(other[0]) == pytest.approx(len(one[0]), rel=0.02)
    place = other[0][:, :3] * (1, -1, 1) + (0, 159, 0)
    distance = np.abs(one[0][:, None, :3] - place[None]).max(axis=2)
    assert np.mean(distance.min(axis=1) < 0.05) > 0.97
    partner = distance.argmin(axis=1)
    turned = {"hog": lambda b: (4 - b) % 8, "mbhx": lambda b: -b % 8, "mbhy": lambda b: (4 - b) % 8}
    for name, permutation in turned.items():
        mine = one[1][:, CHANNELS[name]].reshape(-1, 3, 2, 2, 8)
        theirs = other[1][partner][:, CHANNELS[name]].reshape(-1, 3, 2, 2, 8)[:, :, ::-1][..., permutation(np.arange(8))]
        cosine = (mine * theirs).sum(axis=(1, 2, 3, 4)) / np.linalg.norm(mine.reshape(len(mine), -1), axis=1)
        cosine /= np.linalg.norm(theirs.reshape(len(theirs), -1), axis=1)
        assert np.median(cosine) > 0.98, name  # windows of even side are not mirror images to the pixel


def test_frames_are_taken_one_by_one_and_tracks_repeat_to_the_bit(moving):
    frames, taken = square_moving(), []

    def one_by_one():
        for frame in frames:
            taken.append(len(taken))
            yield frame.copy()

    found = trajectories(one_by_one(), TrajectoryOptions())
    first = next(found)
    assert len(taken) == 16, "the first trajectories end at frame 15"
    rest = [first, *found]
    for mine, theirs in zip(zip(*rest, strict=True), moving, strict=True):
        assert np.array_equal(np.concatenate(mine), theirs)


@pytest.mark.parametrize("keypoints", ["sift", "orb"])
@pytest.mark.parametrize(
    "frames",
    [[], panning(1), panning(15), [texture(60, 80)] * 20, [np.zeros((60, 80), np.uint8)] * 20],
    ids=["none", "one", "fifteen", "static", "black"],
)
def test_short_and_static_videos_have_no_track(frames, keypoints):
    assert list(trajectories(iter(frames), TrajectoryOptions(keypoints=keypoints))) == []


def test_frames_below_32_px_have_one_scale():
    assert scale_sizes(320, 240, 8) == [(320, 240), (226, 170), (160, 120), (113, 85), (80, 60), (57, 42)]
    assert scale_sizes(320, 240, 2) == [(320, 240), (226, 170)]
    assert len(scale_sizes(45, 46, 8)) == 1 and len(scale_sizes(46, 46, 8)) == 2
    assert scale_sizes(20, 8, 8) == [(20, 8)]
    positions, descriptors = all_tracks(panning(20, height=20, width=30), WITHOUT)
    assert len(positions) and np.isfinite(descriptors).all()
    assert set(positions[:, COLUMN["scale"]]) == {1}


@pytest.mark.counts("frames of another size")
def test_a_frame_of_another_size_is_refused():
    with pytest.raises(DataError, match=r"frame 3 is of \(60, 90\), the frames before of \(60, 80\) pixels"):
        list(trajectories(iter([texture(60, 80)] * 3 + [texture(60, 90)]), WITHOUT))


def test_frames_smaller_than_a_cell_have_no_trajectory():
    assert list(trajectories(iter([texture(4, 80)] * 20), WITHOUT)) == []


@pytest.mark.parametrize(
    "options, message", [({"length": 16}, "length 16"), ({"length": 0}, "length 0"), ({"scales": 0}, "scales 0")]
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        list(trajectories(iter([]), TrajectoryOptions(**options)))


def test_points_are_sampled_in_free_cells_with_texture():
    image = texture(43, 62)
    image[:, :20] = 100
    free = sample(image, np.zeros((0, 2), np.float32))
    assert set(free[:, 0] % 5) == set(free[:, 1] % 5) == {2}
    assert free[:, 0].min() >= 17 and free[:, 0].max() == 57 and free[:, 1].max() == 37
    there = np.array([[30.0, 10.0], [34.9, 14.9], [61.5, 42.5]], np.float32)  # twice in one cell; beyond the last cell
    assert {tuple(p) for p in free.tolist()} - {tuple(p) for p in sample(image, there).tolist()} == {(32, 12)}


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="../shared is absent")
def test_tracks_are_those_of_the_authors():
    frames = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in read_frames(REFERENCE / "person01_boxing_d1.avi"))
    positions, descriptors = all_tracks(frames, TrajectoryOptions())
    with gzip.open(REFERENCE / "person01_boxing_d1.gz", "rt") as file:
        theirs = np.loadtxt(file, dtype=np.float32)
    for scale, count in enumerate((1105, 562, 247, 87)):
        of_scale = np.count_nonzero(np.isclose(positions[:, COLUMN["scale"]], 2 ** (scale / 2)))
        assert of_scale == pytest.approx(count, rel=0.01)
    cosines = []
    for trajectory in theirs:
        same = np.flatnonzero((positions[:, 0] == trajectory[0]) & np.isclose(positions[:, COLUMN["scale"]], trajectory[6]))
        distance = np.linalg.norm(positions[same, 1:3] - trajectory[1:3], axis=1)
        if distance.min(initial=np.inf) < 1:
            mine, other = descriptors[same[distance.argmin()]], trajectory[10:]
            cosines.append([_cosine(mine[part], other[part]) for part in CHANNELS.values()])
    assert len(cosines) >= 1990  # of 2001
    assert (np.median(cosines, axis=0) >= 0.999).all()


def _cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)
