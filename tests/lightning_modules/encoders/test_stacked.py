"""Stacked Fisher vectors against sub-volumes cut out one by one, and from fit to file."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lightning_modules.encoders import stacked
from lightning_modules.encoders.fisher import Encoder, fit_encoder, improved
from lightning_modules.encoders.fitted import fingerprint
from lightning_modules.encoders.reduction import MarginOptions, fit_whitening
from lightning_modules.encoders.stacked import (
    StackedEncoder,
    StackedOptions,
    Trajectories,
    chosen_sub_volumes,
    fit_stacked,
    sub_volume_sums,
    sub_volume_vectors,
    sub_volumes,
)

SIZE = (80.0, 60.0)  # pixels, width and height
SMALL = StackedOptions(components=(3, 2), dimensions=(4, 3), most=60, samples=2000, fitted=2000)


def video(number, count=120, frames=40, classes=0):
    """Trajectories whose descriptors (n, 6) depend on where and when they are, and on the class."""
    random = np.random.default_rng(number)
    places = random.random((count, 3)) * [*SIZE, frames]
    drift = np.sin(places @ np.array([[0.05, 0.02, 0, 0, 0, 0], [0, 0.06, 0.03, 0, 0, 0], [0, 0, 0.1, 0.2, 0, 0]]))
    descriptors = drift + random.normal(size=(count, 6)) * ([1, 1, 1, 1, 1, 1] if classes == 0 else [0.3, 1, 2, 1, 0.5, 1])
    return Trajectories(places, descriptors.astype(np.float32), (*SIZE, frames))


@pytest.fixture(scope="module")
def train():
    return [video(number) for number in range(8)]


@pytest.fixture(scope="module")
def encoder(train):
    return fit_encoder(np.concatenate([one.descriptors for one in train]), 3, 4, seed=0, whiten=True)


@pytest.fixture(scope="module")
def fitted(train):
    return fit_stacked(train, SMALL, seed=0)


@pytest.mark.parametrize("frames", [1, 7, 15, 16, 30, 31, 100, 457])
def test_number_of_sub_volumes(frames):
    volumes = sub_volumes(frames)
    assert len(volumes) == 10 * (1 + math.ceil(frames / 15) + math.ceil(frames / 7.5))
    ends = [time.stop for _, _, time in volumes]
    assert ends == sorted(ends) and max(ends) == math.ceil(frames / 7.5)


def inside(one, volume):
    """Trajectories of a sub-volume, by pixels and frames."""
    unit = (one.extent[0] / 4, one.extent[1] / 4, 7.5)
    bounds = [(part.start * size, part.stop * size) for part, size in zip(volume, unit, strict=True)]
    return np.all([(low <= x) & (x < high) for x, (low, high) in zip(one.places.T, bounds, strict=True)], axis=0)


def test_sub_volumes_are_windows_of_whole_and_half_sides(train):
    spans = {
        tuple((part.start * size, part.stop * size) for part, size in zip(volume, (20, 15, 7.5), strict=True))
        for volume in sub_volumes(40)
    }
    sides = {(x, y) for x, y, _ in spans}
    halves = {((20 * i, 20 * i + 40), (15 * j, 15 * j + 30)) for i in range(3) for j in range(3)}
    assert sides == halves | {((0, 80), (0, 60))}
    times = {time for _, _, time in spans}
    longest = {(0, 45)} | {(15.0 * i, min(15.0 * i + 30, 45)) for i in range(3)}
    assert times == longest | {(7.5 * i, min(7.5 * i + 15, 45)) for i in range(6)}


def test_sums_equal_those_of_trajectories_cut_out(train, encoder):
    volumes = sub_volumes(40)
    for volume, sums in zip(volumes, sub_volume_sums(train[0], encoder, volumes), strict=True):
        expected = encoder.sums(train[0].descriptors[inside(train[0], volume)])
        assert sums == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("frames", [5, 14, 300])
def test_sums_of_short_and_long_videos(encoder, frames):
    one = video(3, frames=frames)
    volumes = sub_volumes(frames)[:: 1 if frames < 100 else 7]  # any choice of them, in order
    for volume, sums in zip(volumes, sub_volume_sums(one, encoder, volumes), strict=True):
        assert sums == pytest.approx(encoder.sums(one.descriptors[inside(one, volume)]), rel=1e-4, abs=1e-3)


def test_the_whole_video_as_one_sub_volume_is_its_fisher_vector(train, encoder):
    whole = [slice(0, 4), slice(0, 4), slice(0, 6)]
    (sums,) = sub_volume_sums(train[0], encoder, [tuple(whole)])
    expected = improved(encoder.gradients(encoder.sums(train[0].descriptors)))
    assert improved(encoder.gradients(sums)) == pytest.approx(expected, abs=1e-3)
    few = Trajectories(np.tile([1.0, 1.0, 1.0], (5, 1)), train[0].descriptors[:5], (*SIZE, 5))
    found = np.concatenate(list(sub_volume_vectors(few, encoder, SMALL, seed=0)))
    alone = improved(encoder.gradients(encoder.sums(few.descriptors)))
    assert found == pytest.approx(np.tile(alone, (6, 1)), abs=1e-4)  # 3 windows of time, 2 of space, with all five trajectories


def test_sub_volumes_with_few_trajectories_are_left_out(train):
    volumes = chosen_sub_volumes(train[0], 5, 10**6, seed=0)
    assert volumes == [volume for volume in sub_volumes(40) if inside(train[0], volume).sum() >= 5]
    assert 0 < len(volumes) < len(sub_volumes(40))
    assert chosen_sub_volumes(train[0], 121, 10**6, seed=0) == []


def test_more_than_the_most_are_chosen_by_the_seed(train):
    every = chosen_sub_volumes(train[0], 5, 10**6, seed=0)
    one, again, other = (chosen_sub_volumes(train[0], 5, 20, seed) for seed in (0, 0, 1))
    assert one == again != other and len(one) == 20
    rest = iter(every)
    assert all(volume in rest for volume in one)  # in their order, none twice


def test_trajectories_on_the_border_count(encoder):
    places = np.array([[0.0, 0, 0], [80, 60, 40], [81, -1, 99], [40, 30, 15]])
    cells = Trajectories(places, np.zeros((4, 6), np.float32), (*SIZE, 40)).cells()
    assert cells.tolist() == [[0, 0, 0], [3, 3, 5], [3, 0, 5], [2, 2, 2]]
    with pytest.raises(ValueError, match=r"places of shape \(4, 2\) for 4 descriptors"):
        Trajectories(places[:, :2], np.zeros((4, 6)), (*SIZE, 40))


def test_order_of_trajectories_changes_nothing(fitted, train):
    order = np.random.default_rng(0).permutation(120)
    one = train[1]
    shuffled = Trajectories(one.places[order], one.descriptors[order], one.extent)
    assert fitted.vector(shuffled) == pytest.approx(fitted.vector(one), abs=2e-3)


def test_order_of_sub_volumes_changes_nothing(fitted, train):
    codes = fitted.video_codes(train[1])
    shuffled = codes[np.random.default_rng(0).permutation(len(codes))]
    vector = improved(fitted.codes.gradients(fitted.codes.sums(shuffled)))
    assert vector == pytest.approx(fitted.vector(train[1]), abs=1e-3)


def test_a_videos_vector_has_length_one(fitted, train):
    vector = fitted.vector(train[2])
    assert vector.shape == (2 * 2 * 3,) and vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("count", [0, 4])
def test_a_video_without_sub_volumes_is_zeros(fitted, count):
    few = Trajectories(np.full((count, 3), 2.0), np.ones((count, 6), np.float32), (*SIZE, 12))
    assert fitted.video_codes(few).shape == (0, 3)
    assert fitted.vector(few).tolist() == [0] * 12


def test_codes_are_pcas_of_train_vectors(fitted, train):
    held = np.concatenate([part for one in train for part in sub_volume_vectors(one, fitted.local, SMALL, seed=0)])
    assert fitted.reduction.axes == pytest.approx(fit_whitening(held, 3).axes, rel=1e-4, abs=1e-3)
    codes = np.concatenate([fitted.video_codes(one) for one in train])
    assert np.cov(codes.T) == pytest.approx(np.eye(3), abs=0.02)


def test_vectors_come_in_parts_of_bounded_size(train, encoder, monkeypatch):
    whole = np.concatenate(list(sub_volume_vectors(train[0], encoder, SMALL, seed=0)))
    monkeypatch.setattr(stacked, "CHUNK", 7)
    parts = list(sub_volume_vectors(train[0], encoder, SMALL, seed=0))
    assert max(map(len, parts)) == 7 and np.array_equal(np.concatenate(parts), whole)


class Counted(list):
    """Videos, and how often they were gone through."""

    times = 0

    def __iter__(self):
        self.times += 1
        return super().__iter__()


def test_nothing_but_train_videos_is_fitted_to(train):
    """Fitted are the given videos alone: others, even extreme ones, never enter; and a share of each is enough."""
    given = Counted(train)
    before = fingerprint(fit_stacked(given, SMALL, seed=0).arrays())
    assert given.times == 3
    few = fit_stacked(train, replace(SMALL, samples=80, fitted=160), seed=0)  # 10 trajectories and 20 sub-volumes a video
    assert fingerprint(few.arrays()) != before == fingerprint(fit_stacked(train, SMALL, seed=0).arrays())
    assert few.options.most == 60
    with pytest.raises(TypeError, match="gone through three times"):
        fit_stacked(iter(train), SMALL, seed=0)


def test_max_margin_replaces_pca_where_targets_are_given(train, fitted):
    targets = np.eye(2, dtype=bool)[[0, 1] * 4]
    learned = fit_stacked(train, SMALL, seed=0, targets=targets, margin=MarginOptions(epochs=3))
    assert not np.allclose(learned.reduction.axes, fitted.reduction.axes, rtol=1e-3)
    assert np.array_equal(learned.local.means, fitted.local.means)
    unmoved = fit_stacked(train, SMALL, seed=0, targets=targets, margin=MarginOptions(epochs=0))
    assert unmoved.reduction.axes == pytest.approx(fitted.reduction.axes, rel=1e-5)
    default = fit_stacked(train, SMALL, seed=0, targets=targets)
    assert fingerprint(default.arrays()) != fingerprint(learned.arrays())


def test_videos_without_sub_volumes_are_passed_over_or_said(train):
    still = Trajectories(np.empty((0, 3)), np.empty((0, 6), np.float32), (*SIZE, 12))
    assert np.isfinite(fit_stacked([*train, still], SMALL, seed=0).reduction.axes).all()
    with pytest.raises(ValueError, match="0 vectors, of which PCA needs two or more"):
        fit_stacked(train, replace(SMALL, least_trajectories=1000), seed=0)


@pytest.mark.parametrize("with_targets", [False, True])
def test_vectors_tell_classes_apart(with_targets):
    classes = np.arange(24) % 2
    videos = [video(100 + number, classes=classes[number]) for number in range(24)]
    targets = np.eye(2, dtype=bool)[classes[:16]] if with_targets else None
    found = fit_stacked(videos[:16], SMALL, seed=0, targets=targets)
    vectors = np.stack([found.vector(one) for one in videos])
    means = [vectors[:16][classes[:16] == c].mean(axis=0) for c in (0, 1)]
    guesses = [int(np.argmax([vector @ mean for mean in means])) for vector in vectors[16:]]
    assert np.mean(guesses == classes[16:]) >= 7 / 8


def test_stacked_encoder_survives_a_file(fitted, train, tmp_path):
    np.savez(tmp_path / "stacked.npz", **fitted.arrays())
    with np.load(tmp_path / "stacked.npz", allow_pickle=False) as file:
        again = StackedEncoder.from_arrays(dict(file))
    assert (again.options, again.seed) == (SMALL, 0) and fingerprint(again.arrays()) == fingerprint(fitted.arrays())
    assert np.array_equal(again.vector(train[3]), fitted.vector(train[3]))
    assert fingerprint(replace(fitted, seed=1).arrays()) != fingerprint(fitted.arrays())
    assert isinstance(again.codes, Encoder)


def test_sizes_of_the_default():
    assert StackedOptions().components == (256, 256) and StackedOptions().dimensions == (200, 200)
