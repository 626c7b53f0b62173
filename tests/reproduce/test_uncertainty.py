import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from reproduce.runs import Predictions
from reproduce.uncertainty import accuracy, interval, mean_average_precision


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


def predictions(hits: np.ndarray) -> Predictions:
    target = np.tile([True, False], (len(hits), 1))
    scores = np.stack([hits, 1 - hits], axis=1).astype(np.float32)
    return Predictions(tuple(map(str, range(len(hits)))), ("a", "b"), target, scores)


def test_the_interval_of_independent_videos_is_the_binomial_one():
    hits = (np.arange(400) < 300).astype(float)
    low, high = interval([predictions(hits)], False, list(range(400)))
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.008)
    assert high == pytest.approx(0.75 + half, abs=0.008)


def test_groups_that_agree_widen_the_interval():
    hits = (np.arange(400) < 300).astype(float)
    alone = interval([predictions(hits)], False, list(range(400)))
    grouped = interval([predictions(hits)], False, [number // 20 for number in range(400)])
    assert grouped[1] - grouped[0] > 3 * (alone[1] - alone[0])


def test_the_interval_does_not_change_from_call_to_call():
    hits = np.random.default_rng(0).integers(0, 2, 50).astype(float)
    assert interval([predictions(hits)], False, list(range(50))) == interval([predictions(hits)], False, list(range(50)))
