"""Average precision, accuracy and top-k, computed again from predictions."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from reproduce.evaluation import recompute
from reproduce.experiments.predictions import Predictions


def test_average_precision_is_scikit_learns_with_equal_scores_too():
    random = np.random.default_rng(3)
    for digits in (1, 2, 7):
        positive, scores = random.random(200) < 0.15, np.round(random.random(200), digits)
        assert recompute.average_precision(positive, scores) == pytest.approx(average_precision_score(positive, scores))
    assert np.isnan(recompute.average_precision(np.zeros(3, bool), np.ones(3)))


def test_accuracy_takes_the_first_of_equal_scores_and_top_5_knows_its_bounds():
    scores = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], dtype=np.float32)
    target = np.array([[True, False, False], [False, True, False]])
    found = Predictions(("a", "b"), ("x", "y", "z"), target, scores)
    assert recompute.accuracy(found) == 0.5
    assert recompute.top(found, 1) == (0.0, 1.0) and recompute.top(found, 2) == (1.0, 1.0)
