"""Reduction of long vectors: PCA's codes against scikit-learn's, the max-margin objective against loops and differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from lightning_modules.encoders.reduction import MarginOptions, fit_max_margin, fit_whitening, hinge

CLASSES = 5
QUICK = MarginOptions(epochs=20)


def classified(count, seed, length=300, strength=0.35):
    """Unit vectors (N, D) with a weak mark of their class under 30 strong directions that say nothing, and the classes (N,)."""
    fixed = np.random.default_rng(0)
    marks, strong = fixed.normal(size=(CLASSES, length)), fixed.normal(size=(30, length))
    random = np.random.default_rng(seed)
    classes = random.integers(0, CLASSES, count)
    vectors = strength * marks[classes] + random.normal(size=(count, 30)) @ strong + random.normal(size=(count, length))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), classes


def one_hot(classes):
    return np.eye(CLASSES, dtype=bool)[classes]


@pytest.fixture(scope="module")
def held():
    return classified(600, seed=2)


@pytest.fixture(scope="module")
def train():
    return classified(1000, seed=1)


@pytest.fixture(scope="module")
def start(train):
    return fit_whitening(train[0], 12)


@pytest.mark.parametrize(("count", "length"), [(40, 90), (90, 40), (60, 60)])
def test_whitening_gives_pcas_codes(count, length):
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(count, length)) * np.geomspace(1, 0.1, length) + 3).astype(np.float32)
    codes = fit_whitening(vectors, 8).codes(vectors)
    expected = PCA(8, whiten=True, svd_solver="full").fit_transform(vectors.astype(np.float64))
    signs = np.sign((codes * expected).sum(axis=0))
    assert codes * signs == pytest.approx(expected, abs=2e-3)
    assert codes.dtype == np.float32 and np.cov(codes.T) == pytest.approx(np.eye(8), abs=1e-3)


def test_whitening_says_what_the_vectors_lack():
    flat = np.random.default_rng(0).normal(size=(30, 3)) @ np.random.default_rng(1).normal(size=(3, 50))
    with pytest.raises(ValueError, match="30 vectors vary in 3 directions only; 4 were asked for"):
        fit_whitening(flat.astype(np.float32), 4)
    for count in (0, 1):
        with pytest.raises(ValueError, match=f"{count} vectors, of which PCA needs two or more"):
            fit_whitening(flat[:count].astype(np.float32), 1)


def test_hinge_by_loops():
    random = np.random.default_rng(0)
    scores, targets = random.normal(size=(6, 4)), random.random((6, 4)) < 0.4
    expected = [
        sum(max(0, 1 + s[c] - s[y]) for y in range(4) for c in range(4) if of[y] and not of[c])
        for s, of in zip(scores, targets, strict=True)
    ]
    assert hinge(torch.from_numpy(scores), torch.from_numpy(targets)).numpy() == pytest.approx(expected)


def test_gradient_of_the_objective_against_differences():
    random = np.random.default_rng(0)
    f = torch.from_numpy(random.normal(size=(4, 10)))  # D = 10, d = 2, C = 3
    targets = torch.from_numpy(np.eye(3, dtype=bool)[[0, 2, 1, 1]])
    reduction = torch.from_numpy(random.normal(size=(2, 10))).requires_grad_()
    classifier = torch.from_numpy(random.normal(size=(3, 2))).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, w: hinge(f @ u.T @ w.T, targets).sum(), (reduction, classifier))
    loss = hinge(f @ reduction.T @ classifier.T, targets).sum()
    loss.backward()
    expected = np.zeros((2, 10))  # Σ (w_c - w_y) fᵀ of the pairs within the margin
    weights, scores = classifier.detach().numpy(), (f @ reduction.T @ classifier.T).detach().numpy()
    for i, y in enumerate([0, 2, 1, 1]):
        for c in {0, 1, 2} - {y}:
            expected += (1 + scores[i, c] - scores[i, y] > 0) * np.outer(weights[c] - weights[y], f[i])
    assert reduction.grad.numpy() == pytest.approx(expected)


def shares_of_right(reduction, classifier, vectors, classes):
    return float(((reduction.codes(vectors) @ classifier.T).argmax(axis=1) == classes).mean())


def nearest_mean(reduction, train, held):
    """Share of held-out vectors whose code is nearest to the mean code of their class."""
    codes, others = reduction.codes(train[0]), reduction.codes(held[0])
    means = np.stack([codes[train[1] == c].mean(axis=0) for c in range(CLASSES)])
    return float((((others[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) == held[1]).mean())


def test_max_margin_finds_what_pca_loses(train, held, start):
    reduction, classifier = fit_max_margin(train[0], one_hot(train[1]), start, QUICK, seed=0)
    assert shares_of_right(reduction, classifier, *held) > 0.9
    assert nearest_mean(start, train, held) < 0.5 and nearest_mean(reduction, train, held) > 0.9
    assert reduction.axes.shape == start.axes.shape and classifier.shape == (CLASSES, 12)


def test_max_margin_begins_at_its_start_and_follows_its_seed(train, start):
    targets = one_hot(train[1])
    unmoved, classifier = fit_max_margin(train[0], targets, start, replace(QUICK, epochs=0), seed=0)
    assert unmoved.axes == pytest.approx(start.axes) and not classifier.any()
    short = replace(QUICK, epochs=2)
    one, again, other = (fit_max_margin(train[0], targets, start, short, seed)[0].axes for seed in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_shuffled_labels_teach_nothing_of_other_videos(train, held, start):
    shuffled = np.random.default_rng(3).permutation(train[1])
    reduction, classifier = fit_max_margin(train[0], one_hot(shuffled), start, QUICK, seed=0)
    right = shares_of_right(reduction, classifier, *held)
    assert (
        abs(right - 1 / CLASSES) < 0.07
    )  # standard deviation of 600 guesses 0.016; chance associations with classes beside it


def test_several_labels_a_video(train, held, start):
    targets = one_hot(train[1]) | one_hot((train[1] + 1) % CLASSES)
    reduction, classifier = fit_max_margin(train[0], targets, start, QUICK, seed=0)
    best = (reduction.codes(held[0]) @ classifier.T).argsort(axis=1)[:, -2:]
    hits = [{y, (y + 1) % CLASSES} == set(two.tolist()) for y, two in zip(held[1].tolist(), best, strict=True)]
    assert np.mean(hits) > 0.8


def test_max_margin_says_what_is_wrong(train, start):
    with pytest.raises(ValueError, match="1000 vectors and targets of 999"):
        fit_max_margin(train[0], one_hot(train[1])[1:], start, QUICK, seed=0)
    with pytest.raises(ValueError, match="diverges at rate=1000"):
        fit_max_margin(train[0], one_hot(train[1]), start, replace(QUICK, rate=1000.0), seed=0)
