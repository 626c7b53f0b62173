from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

from reproduce.evaluation.significance import (
    RESAMPLES,
    accuracy,
    bootstrap_p,
    compare,
    holm,
    interval,
    mcnemar,
    mean_average_precision,
    resample,
    same_videos,
)
from reproduce.experiments.predictions import Predictions


def random_scores(videos=60, classes=4, seed=0, ties=False):
    random = np.random.default_rng(seed)
    scores = random.random((videos, classes))
    return random.random((videos, classes)) < 0.3, np.round(scores, 1) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_map_is_that_of_the_repeated_videos(ties):
    target, scores = random_scores(ties=ties)
    weights = np.random.default_rng(1).integers(0, 3, size=(5, len(target)))
    for row, figure in zip(weights, mean_average_precision(target, scores, weights), strict=True):
        repeated = np.repeat(np.arange(len(target)), row)
        expected = np.mean([average_precision_score(target[repeated, c], scores[repeated, c]) for c in range(4)])
        assert figure == pytest.approx(expected, abs=1e-12)


def test_classes_without_a_positive_do_not_count():
    target, scores = random_scores()
    target[:, 2] = False
    ones = np.ones((1, len(target)))
    expected = np.mean([average_precision_score(target[:, c], scores[:, c]) for c in (0, 1, 3)])
    assert mean_average_precision(target, scores, ones)[0] == pytest.approx(expected)


def test_weighted_accuracy_by_hand():
    target = np.eye(3, dtype=bool)[[0, 1, 2, 0]]
    scores = np.eye(3)[[0, 1, 1, 2]]  # right, right, wrong, wrong
    assert accuracy(target, scores, np.array([[1, 1, 1, 1], [3, 0, 1, 0]])).tolist() == [0.5, 0.75]


def predictions(hits, names=None) -> Predictions:
    """Two classes, of which the first is true; right where ``hits``."""
    hits = np.asarray(hits, dtype=np.float32)
    names = names or [f"v{number}" for number in range(len(hits))]
    target = np.tile([True, False], (len(hits), 1))
    return Predictions(tuple(names), ("a", "b"), target, np.stack([hits, 1 - hits], axis=1))


def multi_label(skill: float, seed: int, videos=150) -> Predictions:
    """Twelve labels, the same for every seed; scores the better the more skill."""
    target = np.random.default_rng(99).random((videos, 12)) < 0.15
    scores = np.random.default_rng(seed).normal(size=target.shape) + skill * target
    return Predictions(tuple(f"v{n}" for n in range(videos)), tuple("abcdefghijkl"), target, scores.astype(np.float32))


def groups_of(size: int, videos: int) -> dict[str, str]:
    return {f"v{number}": f"g{number // size}" for number in range(videos)}


THREE_QUARTERS = np.arange(400) < 300


def test_the_interval_of_independent_videos_is_the_binomial_one():
    low, high = interval(resample([predictions(THREE_QUARTERS)], False, {}))
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.008)
    assert high == pytest.approx(0.75 + half, abs=0.008)


def test_groups_that_agree_widen_the_interval():
    alone = interval(resample([predictions(THREE_QUARTERS)], False, {}))
    grouped = interval(resample([predictions(THREE_QUARTERS)], False, groups_of(20, 400)))
    assert grouped[1] - grouped[0] > 3 * (alone[1] - alone[0])


def test_resampling_does_not_change_from_call_to_call():
    runs = [multi_label(1.0, seed) for seed in (1, 2)]
    assert np.array_equal(resample(runs, True, {}), resample(runs, True, {}))
    rows = {"ours": (runs, [multi_label(0.8, seed) for seed in (3, 4)])}
    assert compare(rows, True, {}) == compare(rows, True, {})


def test_the_figure_comes_first_and_is_the_mean_over_runs():
    runs = [multi_label(1.0, seed) for seed in (1, 2)]
    expected = np.mean([average_precision_score(run.target, run.scores, average="macro") for run in runs])
    figures = resample(runs, True, {})
    assert figures.shape == (1 + RESAMPLES,) and figures[0] == pytest.approx(expected)


def test_a_video_in_two_splits_is_drawn_once_for_both():
    """Two splits with the same videos are the same evidence twice: the interval is as wide as that of one."""
    one = predictions(THREE_QUARTERS)
    assert interval(resample([one, one], False, {})) == interval(resample([one], False, {}))
    other = predictions(THREE_QUARTERS, [f"w{number}" for number in range(400)])
    apart, together = (interval(resample([one, run], False, {})) for run in (other, one))
    assert apart[1] - apart[0] < 0.8 * (together[1] - together[0])


@pytest.mark.parametrize(("better", "worse", "same"), [(0, 0, 20), (1, 0, 3), (7, 2, 40), (25, 25, 9), (120, 90, 1300)])
def test_mcnemar_of_one_run_a_row_is_the_binomial_test_on_discordant_videos(better, worse, same):
    ours = predictions([1] * better + [0] * worse + [1] * same)
    baseline = predictions([0] * better + [1] * worse + [1] * same)
    expected = binomtest(better, better + worse, 0.5).pvalue if better + worse else 1.0
    assert mcnemar([ours], [baseline], {}) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand():
    """Five discordant videos, all in our favour: two of the 32 exchanges are as extreme."""
    ours, baseline = predictions([1, 1, 1, 1, 1, 0]), predictions([0, 0, 0, 0, 0, 0])
    assert mcnemar([ours], [baseline], {}) == pytest.approx(2 / 32)
    assert mcnemar([baseline], [ours], {}) == pytest.approx(2 / 32)


@pytest.mark.parametrize("groups", [{}, groups_of(3, 12)])
def test_with_seeds_and_groups_mcnemar_counts_every_exchange_of_whole_units(groups):
    random = np.random.default_rng(5)
    ours, baseline = random.random((3, 12)) < 0.7, random.random((3, 12)) < 0.4
    names = [groups.get(f"v{number}", f"v{number}") for number in range(12)]
    by_video = ours.sum(axis=0) - baseline.sum(axis=0, dtype=int)
    by_unit = np.array([sum(d for d, name in zip(by_video, names, strict=True) if name == unit) for unit in set(names)])
    sums = [abs(int(np.dot(signs, by_unit))) for signs in product((1, -1), repeat=len(by_unit))]
    expected = np.mean([value >= abs(by_unit.sum()) for value in sums])
    assert mcnemar([predictions(h) for h in ours], [predictions(h) for h in baseline], groups) == pytest.approx(expected)
    assert 0 < expected < 1


def test_more_seeds_of_the_same_predictions_are_no_more_evidence():
    ours, baseline = predictions([1] * 9 + [0] * 3), predictions([0] * 9 + [1] * 3)
    once = mcnemar([ours], [baseline], {})
    assert mcnemar([ours] * 4, [baseline] * 4, {}) == pytest.approx(once)
    assert mcnemar([ours], [baseline], groups_of(3, 12)) > once


def test_where_clips_of_a_group_are_alike_only_the_test_by_group_keeps_its_level():
    """Two rows that do not differ, 200 times: 60 groups of 6 clips whose difficulty for a row they share."""
    random = np.random.default_rng(0)
    groups = groups_of(6, 360)
    false_alarms = np.zeros(2)
    for _ in range(200):
        rows = [predictions((1.5 * random.normal(size=(60, 1)) + random.normal(size=(60, 6)) > -0.8).ravel()) for _ in range(2)]
        false_alarms += [mcnemar(rows[:1], rows[1:], unit) < 0.05 for unit in ({}, groups)]
    by_video, by_group = false_alarms / 200
    assert by_video > 0.15 and by_group < 0.08


@pytest.mark.parametrize("many", [False, True])
def test_identical_rows_do_not_differ(many):
    run = multi_label(1.0, 1) if many else predictions(THREE_QUARTERS)
    (found,) = compare({"ours": ([run], [run])}, many, {}).values()
    assert (found.difference, found.interval, found.p, found.corrected, found.bootstrap_p) == (0, (0, 0), 1, 1, 1)
    assert not found.significant


@pytest.mark.parametrize("many", [False, True])
def test_very_different_rows_differ(many):
    ours = multi_label(4.0, 1) if many else predictions(np.arange(400) < 300)
    baseline = multi_label(0.5, 2) if many else predictions(np.arange(400) < 100)
    (found,) = compare({"ours": ([ours], [baseline])}, many, {}).values()
    assert found.difference > 0.4 and found.interval[0] > 0.3 and found.significant
    assert found.bootstrap_p == pytest.approx(2 / (RESAMPLES + 1)) and found.p <= found.bootstrap_p
    assert found.test == ("bootstrap" if many else "McNemar")


def test_the_bootstrap_agrees_with_mcnemar_where_both_hold():
    random = np.random.default_rng(1)
    baseline = random.random(800) < 0.5
    ours = np.where(random.random(800) < 0.05, 1, baseline)  # discordant videos all in our favour, some of them
    ours = np.where(random.random(800) < 0.035, 0, ours)
    (found,) = compare({"ours": ([predictions(ours)], [predictions(baseline)])}, False, {}).values()
    assert 0.01 < found.p < 0.9 and found.bootstrap_p == pytest.approx(found.p, abs=0.1)


def test_the_p_value_and_the_interval_say_the_same():
    for shift in np.linspace(-0.3, 0.3, 13):
        figures = np.concatenate([[shift], np.random.default_rng(0).normal(shift, 0.1, RESAMPLES)])
        low, high = interval(figures, least=-1.0)
        assert (bootstrap_p(figures) < 0.05) == (low > 0 or high < 0)


def test_the_bias_of_the_resamples_is_taken_off_the_p_value():
    """Resamples that all lie as far above the figure as the figure lies above zero say nothing of zero."""
    figures = np.concatenate([[0.0], np.full(RESAMPLES, 0.3) + np.random.default_rng(0).normal(0, 0.01, RESAMPLES)])
    assert bootstrap_p(figures) > 0.9


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_rows_of_a_column_are_corrected_together():
    baseline = predictions([0] * 8)
    eight, six = predictions([1] * 8), predictions([1] * 6 + [0] * 2)
    found = compare({"a": ([eight], [baseline]), "b": ([six], [baseline])}, False, {})
    assert [found[row].p for row in "ab"] == pytest.approx([2 / 256, 2 / 64])
    assert [found[row].corrected for row in "ab"] == pytest.approx([4 / 256, 2 / 64])
    assert found["a"].difference == 1.0 and found["b"].difference == 0.75


def test_only_the_same_videos_with_the_same_labels_are_compared():
    ours = predictions([1, 0])
    assert same_videos([ours], [predictions([0, 0])])
    assert not same_videos([ours], [predictions([0, 0], ["v0", "other"])])
    assert not same_videos([ours], [])
    assert not same_videos([ours], [Predictions(ours.videos, ours.classes, ~ours.target, ours.scores)])
