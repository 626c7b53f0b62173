"""Slow features against signals of known slowness and sksfa; two layers against loops over blocks; the bag of words by hand."""

import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import sksfa

from lightning_modules.encoders import slow_features
from lightning_modules.encoders.fitted import fingerprint
from lightning_modules.encoders.slow_features import (
    BagOfWords,
    Projection,
    SlowFeatures,
    SlowOptions,
    TwoLayers,
    differences,
    draw_series,
    fit_bag_of_words,
    fit_two_layers,
    nearest,
    sample_rows,
    shares,
)

SPEEDS = (0.01, 0.11, 0.5)  # radians a step
SMALL = SlowOptions(cube=(3, 4, 4), block=(5, 6, 6), shifts=4, dimensions=(12, 5), places=30, words=7, samples=20)


def mixed(steps=6283, channels=6, noise=1e-4):
    """Sines (T, 3) of whole periods, and mixtures (T, n) of them with noise."""
    random = np.random.default_rng(3)
    sines = np.sin(np.outer(np.arange(steps), SPEEDS) + [0, 1, 2])
    return sines, sines @ random.normal(size=(3, channels)) + noise * random.normal(size=(steps, channels)) + 5


def fitted(series, dimensions):
    found = SlowFeatures()
    for one in series:
        found.accumulate(one, differences(one[None]))
    return found.fit(dimensions)


def moving(number=0, frames=14, size=(16, 18)):
    """A clip of smooth texture that moves to the right."""
    random = np.random.default_rng(number)
    wide = random.integers(0, 256, (size[0] // 2, size[1] + frames)).repeat(2, axis=0)
    wide = (wide + np.roll(wide, 1, axis=1)) // 2
    return np.stack([wide[:, t : t + size[1]] for t in range(frames)]).astype(np.uint8)


@pytest.fixture(scope="module")
def clips():
    return [moving(number) for number in range(6)]


@pytest.fixture(scope="module")
def layers(clips):
    return fit_two_layers(clips, SMALL, seed=0)


def test_mixed_sines_come_back_the_slowest_first():
    sines, x = mixed()
    found = fitted([x], 3)
    y = found.outputs(x)
    assert np.abs([np.corrcoef(y[:, j], sines[:, j])[0, 1] for j in range(3)]) == pytest.approx(np.ones(3), abs=5e-5)
    assert (np.diff(found.slowness) > 0).all()
    assert found.slowness == pytest.approx(np.square(np.diff(y, axis=0)).mean(axis=0), rel=1e-9)
    assert found.slowness == pytest.approx([2 - 2 * np.cos(speed) for speed in SPEEDS], rel=0.01)  # unit variance


def test_outputs_have_unit_covariance_and_no_mean():
    _, x = mixed(noise=0.3)
    y = fitted([x], 6).outputs(x)
    assert np.cov(y.T, bias=True) == pytest.approx(np.eye(6), abs=1e-9)
    assert y.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-9)


def test_agrees_with_sksfa():
    _, x = mixed(noise=0.3)
    ours, theirs = fitted([x], 6).outputs(x), sksfa.SFA(6).fit_transform(x)
    cosines = (ours * theirs).sum(axis=0) / np.linalg.norm(ours, axis=0) / np.linalg.norm(theirs, axis=0)
    assert np.abs(cosines) == pytest.approx(np.ones(6), abs=1e-5)


def test_an_invertible_map_of_the_inputs_changes_nothing():
    _, x = mixed(noise=0.3)
    mapped = x @ np.random.default_rng(1).normal(size=(6, 6)) - 40
    ours, other = fitted([x], 6).outputs(x), fitted([mapped], 6).outputs(mapped)
    assert np.abs(ours) == pytest.approx(np.abs(other), abs=1e-6)


def test_boundaries_of_series_are_not_crossed():
    constant = np.stack([np.full((4, 3), 1.0), np.full((4, 3), 9.0)])
    assert not differences(constant).any() and differences(constant).shape == (6, 3)
    apart = SlowFeatures()
    apart.accumulate(constant.reshape(-1, 3) + np.arange(8)[:, None] % 2, differences(constant))
    assert not apart.change.any()


def test_parts_of_any_size_give_the_same():
    _, x = mixed(noise=0.3)
    dx = differences(x[None])
    whole, parts = fitted([x], 4), SlowFeatures()
    for begin in range(0, len(x), 700):
        parts.accumulate(x[begin : begin + 700], dx[begin : begin + 700])
    assert parts.fit(4).slowness == pytest.approx(whole.slowness, rel=1e-9)
    single = fitted([x.astype(np.float32)], 4)
    assert single.slowness == pytest.approx(whole.slowness, rel=1e-4)


def test_what_cannot_be_fitted_is_said():
    with pytest.raises(ValueError, match="no series of two samples or more"):
        SlowFeatures().fit(1)
    _, x = mixed(noise=0)
    with pytest.raises(ValueError, match="vary in 3 directions only; 4 were asked for"):
        fitted([x], 4)
    found = SlowFeatures()
    found.accumulate(x, differences(x[None]))
    with pytest.raises(ValueError, match="samples of 5 numbers and differences of 5, after some of 6"):
        found.accumulate(x[:, :5], differences(x[None, :, :5]))
    found.accumulate(x[:0], x[:0])
    assert found.samples == len(x)


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"a cube of \(10, 16, 16\) frames, rows and columns does not fit"):
        SlowOptions(block=(9, 20, 20))
    with pytest.raises(ValueError, match="response='tanh' is none of abs, square, relu"):
        SlowOptions(response="tanh")


def by_loops(layers, clip):
    """Descriptors of a clip, block by block and cube by cube, each cube without its mean."""
    options = layers.options
    respond = {"abs": np.abs, "square": np.square, "relu": lambda y: np.maximum(y, 0)}[options.response]
    (length, height, width), (frames, rows, columns) = options.block, options.cube
    found = []
    for t in range(0, len(clip) - length + 1, length // 2):
        for y in range(0, clip.shape[1] - height + 1, height // 2):
            for x in range(0, clip.shape[2] - width + 1, width // 2):
                block = clip[t : t + length, y : y + height, x : x + width].astype(np.float64)
                responses = []
                for dt, dy, dx in np.ndindex(2, 2, 2):
                    a, b, c = dt * (length - frames), dy * (height - rows), dx * (width - columns)
                    cube = block[a : a + frames, b : b + rows, c : c + columns].ravel()
                    responses.append(respond(layers.first.weights @ (cube - cube.mean() - layers.first.mean)))
                first = np.max(responses, axis=0)
                second = respond(layers.second.weights @ (first - layers.second.mean))
                found.append(np.hstack([one / (one.sum() or 1) for one in (first, second)]))
    return np.array(found)


@pytest.mark.parametrize("response", slow_features.RESPONSES)
def test_dense_blocks_equal_loops(layers, clips, response):
    layers = replace(layers, options=replace(SMALL, response=response))
    parts = list(layers.blocks(iter(clips[0])))
    assert [len(part) for part in parts] == [4 * 5] * 5  # 16 x 18 pixels in steps of 3, 14 frames in steps of 2
    assert np.concatenate(parts).dtype == np.float32
    assert np.concatenate(parts) == pytest.approx(by_loops(layers, clips[0]), abs=2e-5)


def test_blocks_overlap_by_half_at_the_papers_sizes():
    random = np.random.default_rng(0)
    first = Projection(np.zeros(2560), random.normal(size=(3, 2560)), np.zeros(3))
    layers = TwoLayers(SlowOptions(), first, Projection(np.zeros(3), np.eye(3), np.zeros(3)))
    clip = random.integers(0, 256, (28, 60, 80)).astype(np.uint8)
    parts = list(layers.blocks(clip))
    assert [part.shape for part in parts] == [(5 * 7, 6)] * 3
    assert parts[1] == pytest.approx(next(layers.blocks(clip[7:21])))


def test_brightness_of_a_clip_changes_nothing(layers, clips):
    dark = [clip.astype(np.float32) - 100 for clip in clips[:2]]
    assert np.concatenate(list(layers.blocks(dark[1]))) == pytest.approx(
        np.concatenate(list(layers.blocks(clips[1]))), abs=2e-5
    )


def test_halves_of_a_descriptor_sum_to_one(layers, clips):
    found = np.concatenate(list(layers.blocks(clips[2])))
    assert found[:, :12].sum(axis=1) == pytest.approx(np.ones(len(found)), abs=1e-5)
    assert found[:, 12:].sum(axis=1) == pytest.approx(np.ones(len(found)), abs=1e-5)
    assert shares(np.zeros((2, 3))).tolist() == [[0, 0, 0]] * 2


def test_short_or_small_videos_have_no_block(layers, clips):
    assert list(layers.blocks([])) == [] and list(layers.blocks(clips[0][:4])) == []
    assert list(layers.blocks(clips[0][:, :5])) == []
    assert len(list(layers.blocks(clips[0][:5, :6, :6]))) == 1


def test_frames_of_two_sizes_are_refused(layers, clips):
    with pytest.raises(ValueError, match=r"frame 1 has shape \(16, 17\), the first \(16, 18\)"):
        list(layers.blocks([clips[0][0], clips[0][0, :, 1:]]))


def test_memory_does_not_grow_with_the_video(layers):
    given = []

    def endless():
        while True:
            given.append(weakref.ref(frame := moving(0)[0].copy()))
            yield frame
            del frame

    parts = layers.blocks(endless())
    next(parts)
    assert len(given) == 5  # a block's frames, and no more, were asked for
    for _ in range(50):
        next(parts)
    assert len(given) == 105 and sum(frame() is not None for frame in given) <= 1


def test_series_follow_a_place_over_time(clips):
    series = draw_series(clips[0], (3, 4, 4), SMALL, np.random.default_rng(0))
    assert series.shape == (30, 5, 3, 4, 4)
    assert (series[:, :-1, 1:] == series[:, 1:, :-1]).all()
    found = np.lib.stride_tricks.sliding_window_view(clips[0], (3, 4, 4)).reshape(-1, 48)
    assert {tuple(cube) for cube in series[:, 0].reshape(-1, 48)} <= {tuple(cube) for cube in found}
    assert draw_series(clips[0][:5], (3, 4, 4), SMALL, np.random.default_rng(0)).shape[1] == 3
    assert len(draw_series(clips[0][:3], (3, 4, 4), SMALL, np.random.default_rng(0))) == 0
    assert len(draw_series(clips[0][:, :3], (3, 4, 4), SMALL, np.random.default_rng(0))) == 0


def test_layers_are_fitted_from_the_seed_and_blind_to_short_clips(layers, clips):
    again = fit_two_layers([clips[0], *clips[1:]], SMALL, seed=0)
    assert np.array_equal(again.second.weights, layers.second.weights)
    padded = fit_two_layers([*clips, clips[0][:2]], SMALL, seed=0)
    assert np.array_equal(padded.second.weights, layers.second.weights)
    assert not np.array_equal(fit_two_layers(clips, SMALL, seed=1).first.weights, layers.first.weights)
    assert layers.first.weights.sum(axis=1) == pytest.approx(np.zeros(12), abs=1e-7)
    assert (np.diff(layers.first.slowness) > 0).all() and (np.diff(layers.second.slowness) > 0).all()


def test_second_layer_whitens_the_first_ones_responses(layers, clips):
    large = replace(SMALL, places=500)
    fresh = [draw_series(clip, SMALL.block, large, np.random.default_rng(9)) for clip in clips]
    largest = np.concatenate([slow_features.largest_response(layers.first, SMALL, one) for one in fresh])
    assert np.cov(layers.second.outputs(largest).T) == pytest.approx(np.eye(5), abs=0.5)


def test_clips_that_teach_nothing_are_refused(clips):
    with pytest.raises(TypeError, match="gone through more than once"):
        fit_two_layers(iter(clips), SMALL, seed=0)
    with pytest.raises(ValueError, match=r"no clip is larger than \(3, 4, 4\)"):
        fit_two_layers([clips[0][:3]], SMALL, seed=0)
    with pytest.raises(ValueError, match=r"no clip is larger than \(5, 6, 6\)"):
        fit_two_layers([clip[:5] for clip in clips], SMALL, seed=0)
    with pytest.raises(ValueError, match="vary in 0 directions only"):
        fit_two_layers([np.full_like(clips[0], 7)], SMALL, seed=0)


def test_nearest_centre_by_loops():
    random = np.random.default_rng(0)
    x, centres = random.random((40, 5)), random.random((6, 5))
    assert nearest(x, centres).tolist() == [int(np.argmin([((one - c) ** 2).sum() for c in centres])) for one in x]
    assert nearest(x[:0], centres).shape == (0,)


@pytest.fixture(scope="module")
def bag(clips):
    return fit_bag_of_words(clips, SMALL, seed=0)


def test_counts_of_a_video_are_the_sum_of_its_parts(bag, clips):
    counts = bag.counts(clips[0])
    assert counts.sum() == 5 * 20 and counts.shape == (7,)
    assert shares(counts).sum() == pytest.approx(1)
    halves = bag.counts(clips[0][:9]) + bag.counts(clips[0][6:])  # blocks at 0, 2, 4 and at 6, 8
    assert np.array_equal(halves, counts)
    assert bag.counts([]).tolist() == [0] * 7 and shares(bag.counts([])).tolist() == [0] * 7


def test_words_are_means_of_their_descriptors(bag, clips):
    x = np.concatenate([part for clip in clips for part in bag.layers.blocks(clip)])
    chosen = nearest(x, bag.centres)
    spread = np.square(x - bag.centres[chosen]).sum()
    assert spread < 0.8 * np.square(x - x.mean(axis=0)).sum()
    assert np.array_equal(fit_bag_of_words(clips, SMALL, seed=0).centres, bag.centres)


def test_bag_survives_a_file(bag, clips, tmp_path):
    np.savez(tmp_path / "bag.npz", **bag.arrays())
    with np.load(tmp_path / "bag.npz", allow_pickle=False) as file:
        again = BagOfWords.from_arrays(dict(file))
    assert again.layers.options == SMALL and fingerprint(again.arrays()) == fingerprint(bag.arrays())
    assert np.array_equal(again.counts(clips[3]), bag.counts(clips[3]))
    other = replace(bag, layers=replace(bag.layers, options=replace(SMALL, response="relu")))
    assert fingerprint(other.arrays()) != fingerprint(bag.arrays())
    assert fingerprint(replace(bag, centres=bag.centres + 1).arrays()) != fingerprint(bag.arrays())


def test_too_few_descriptors_are_said(clips):
    with pytest.raises(ValueError, match="600 descriptors of 6 clips for 700 words"):
        fit_bag_of_words(clips, replace(SMALL, words=700), seed=0)


def test_a_missing_scikit_learn_is_named(clips, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[systems\]'"):
        fit_bag_of_words(clips, SMALL, seed=0)


def test_sampled_rows_are_equally_likely():
    parts = [np.arange(0, 6)[:, None], np.arange(6, 8)[:, None], np.empty((0, 1), int), np.arange(8, 20)[:, None]]
    hits = np.zeros(20)
    for seed in range(400):
        rows = sample_rows(parts, 5, np.random.default_rng(seed))
        assert len(set(rows.ravel().tolist())) == 5
        hits[rows.ravel()] += 1
    assert np.abs(hits - 100).max() < 40  # of 400 draws of 5 in 20; standard deviation 9
    assert sample_rows(parts, 50, np.random.default_rng(0)).ravel().tolist() == list(range(20))


@pytest.mark.parametrize("seed", [0, 1])
def test_words_tell_movements_apart(seed):
    """Clips that move and clips that stand still have histograms that differ."""
    random = np.random.default_rng(seed)
    still = [np.repeat(random.integers(0, 256, (1, 16, 18)), 14, axis=0).astype(np.uint8) for _ in range(8)]
    moving_clips = [moving(20 + number) for number in range(8)]
    bag = fit_bag_of_words([*still[:5], *moving_clips[:5]], SMALL, seed)
    seen = [shares(bag.counts(clip)) for clip in [*still, *moving_clips]]
    models = [np.mean(seen[:5], axis=0), np.mean(seen[8:13], axis=0)]
    for histogram, truth in zip(seen[5:8] + seen[13:], [0, 0, 0, 1, 1, 1], strict=True):
        assert np.argmin([np.abs(histogram - model).sum() for model in models]) == truth
