"""Rank pooling against liblinear, its conditions of optimality, and series whose order is known."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from sklearn.svm import LinearSVR

from lightning_modules.encoders.rank_pooling import (
    COLUMNS,
    rank_coefficients,
    rank_direction,
    rank_pool,
    running_means,
    signed_root,
    split_root,
)


def series(steps: int, dimensions: int, seed: int = 0) -> np.ndarray:
    """Noise about a drift, both signs."""
    random = np.random.default_rng(seed)
    drift = np.linspace(-1, 1, steps)[:, None] * random.normal(size=dimensions)
    return (drift + random.normal(size=(steps, dimensions))).astype(np.float32)


def plain_means(x: np.ndarray) -> np.ndarray:
    """v_t from the definition, of length 1, in float64."""
    means = np.stack([x[: step + 1].mean(axis=0, dtype=np.float64) for step in range(len(x))])
    roots = np.sign(means) * np.sqrt(np.abs(means))
    return roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1e-300)


def objective(u: np.ndarray, v: np.ndarray) -> float:
    excess = np.maximum(np.abs(v @ u - np.arange(1, len(v) + 1)) - 0.1, 0)
    return 0.5 * float(u @ u) + float(excess @ excess)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize(("steps", "dimensions"), [(2, 5), (12, 3), (40, 200), (95, 1024), (20, COLUMNS + 50)])
def test_it_is_no_worse_than_liblinear_and_goes_the_same_way(steps, dimensions):
    x = series(steps, dimensions)
    v, targets = plain_means(x), np.arange(1, steps + 1)
    u = rank_direction(x)
    liblinear = LinearSVR(
        loss="squared_epsilon_insensitive", C=1, epsilon=0.1, dual=False, fit_intercept=False, max_iter=10_000
    )
    theirs = liblinear.fit(v, targets).coef_
    assert u.shape == (dimensions,)
    assert objective(u.astype(np.float64), v) <= objective(theirs, v) * (1 + 1e-6)
    assert cosine(u, theirs) > 0.999


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 10**6), st.floats(0, 1))
@budget(max_examples=100)
def test_newton_ends_where_the_gradient_is_zero(steps, dimensions, seed, zeros):
    random = np.random.default_rng(seed)
    v = random.normal(size=(steps, dimensions))
    v *= (random.random((steps, 1)) >= zeros) / np.linalg.norm(v, axis=1, keepdims=True)
    b = rank_coefficients(v @ v.T)
    errors = v @ (v.T @ b) - np.arange(1, steps + 1)
    assert np.abs(b + 2 * np.sign(errors) * np.maximum(np.abs(errors) - 0.1, 0)).max() <= 1e-8
    u = v.T @ b
    for other in (np.zeros(dimensions), 0.99 * u, u + np.random.default_rng(seed).normal(size=dimensions)):
        assert objective(u, v) <= objective(other, v) * (1 + 1e-9) + 1e-9


def test_a_long_video_is_solved_too():
    v = plain_means(series(1500, 30))
    b = rank_coefficients(v @ v.T)
    errors = v @ (v.T @ b) - np.arange(1, 1501)
    assert np.abs(b + 2 * np.sign(errors) * np.maximum(np.abs(errors) - 0.1, 0)).max() <= 1e-8


@pytest.mark.counts("bad kernels")
def test_what_is_no_gram_matrix_is_refused():
    with pytest.raises(ArithmeticError, match="rank pooling of 4 frames did not end in 100 steps: the matrix is no Gram"):
        rank_coefficients(-3 * np.eye(4))


def test_running_means_are_rooted_with_their_sign():
    found = running_means(np.array([[4.0, -1], [-8, 1], [-5, -27]], dtype=np.float16))
    assert found.dtype == np.float32
    assert found == pytest.approx(np.array([[2, -1], [-np.sqrt(2), 0], [-np.sqrt(3), -3]]), rel=1e-6)


def test_the_order_of_a_ramp_is_found():
    x = np.outer(np.arange(30), [1, 0, 0]) + np.outer(np.arange(30)[::-1], [0, 1, 0]) + [0, 0, 2.0]
    u = rank_direction(x)
    assert (np.diff(plain_means(x) @ u) > 0).all() and u[0] > 0 > u[1]
    backward = rank_direction(x[::-1])
    assert (np.diff(plain_means(x[::-1]) @ backward) > 0).all() and backward[0] < 0 < backward[1]


def test_reversing_a_video_swaps_both_halves():
    x = series(25, 7)
    forward = np.concatenate([rank_direction(x), rank_direction(x[::-1])])
    positive, negative = np.split(rank_pool(x), 2)
    swapped_positive, swapped_negative = np.split(rank_pool(x[::-1]), 2)
    assert np.array_equal(np.roll(positive, 7), swapped_positive) and np.array_equal(np.roll(negative, 7), swapped_negative)
    assert cosine(positive**2 - negative**2, forward) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(rank_pool(x)) == pytest.approx(1, abs=1e-6)
    assert np.abs(rank_pool(x) - rank_pool(x[::-1])).max() > 0.1


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_a_constant_video_goes_along_itself(steps):
    x = np.tile(np.array([[3.0, -2, 0, 5]], dtype=np.float32), (steps, 1))
    u = rank_direction(x)
    assert cosine(u, signed_root(x[0])) == pytest.approx(1, abs=1e-6)
    if steps == 1:  # ½b² + (1 - 0.1 - b)² is least at 0.6
        assert u == pytest.approx(0.6 * signed_root(x[0]) / np.sqrt(10), abs=1e-6)
    found = rank_pool(x)
    assert found == pytest.approx(rank_pool(x[:1]), abs=1e-6)
    assert found[[0, 4]] == pytest.approx(found[0]) and found[0] > 0 and found[1] == 0 and found[9] > 0


@pytest.mark.parametrize("factor", [1e-12, 0.25, 3, 1e12])
def test_the_scale_of_the_features_does_not_matter(factor):
    x = series(30, 20)
    assert rank_pool(factor * x) == pytest.approx(rank_pool(x), abs=1e-4)


@pytest.mark.parametrize("steps", [0, 1, 10])
def test_no_frame_and_frames_of_zeros_are_a_zero_vector(steps):
    found = rank_pool(np.zeros((steps, 6), dtype=np.float32))
    assert found.shape == (24,) and found.dtype == np.float32 and not found.any()


def test_zeros_before_the_first_feature_leave_a_direction():
    x = np.concatenate([np.zeros((4, 5), dtype=np.float32), series(20, 5)])
    u = rank_direction(x)
    assert np.isfinite(u).all() and plain_means(x)[-1] @ u > plain_means(x)[4] @ u


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9), st.integers(0, 10**6))
def test_split_roots_have_the_real_kernel_of_complex_roots(values, seed):
    x = np.array(values)
    y = np.random.default_rng(seed).normal(size=len(x))
    expected = np.sum(np.sqrt(x.astype(complex)) * np.sqrt(y.astype(complex)).conj()).real
    assert split_root(x) @ split_root(y) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert split_root(np.abs(x))[: len(x)] == pytest.approx(signed_root(np.abs(x)))


def test_memory_is_twice_the_series():
    x = series(40, 30_000)
    tracemalloc.start()
    rank_direction(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.7 * x.nbytes  # beside the series: the running means, and columns of them


@pytest.mark.counts("bad series")
@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros(5), r"a series of shape \(5,\); rank pooling takes one vector a frame"),
        (np.array([[0.0, 1], [np.nan, 2]]), r"a series of shape \(2, 2\) holds NaN or infinity"),
        (np.array([[0.0, np.inf]]), "infinity"),
    ],
)
def test_bad_series_are_refused(x, said):
    with pytest.raises(ValueError, match=said):
        rank_pool(x)
