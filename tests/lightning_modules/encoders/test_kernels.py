"""Kernels against plain products and loops; machines against scikit-learn's own, by vectors and by kernels."""

import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC

from lightning_modules.encoders.kernels import KernelSVM, chi_square_kernel, gram, trace_normalised

CLASSES = 4


def problem(videos: int = 60, dimensions: int = 12, skill: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (V, D) and the one label of each video as booleans (V, C)."""
    random = np.random.default_rng(seed)
    labels = np.arange(videos) % CLASSES
    centres = random.normal(size=(CLASSES, dimensions))
    return skill * centres[labels] + random.normal(size=(videos, dimensions)), np.eye(CLASSES, dtype=bool)[labels]


def decided(train: np.ndarray, targets: np.ndarray, test: np.ndarray, balanced: bool = False) -> np.ndarray:
    machine = KernelSVM(balanced)
    machine.fit(train @ train.T, targets)
    return machine.decisions(test @ train.T)


@given(st.integers(0, 13), st.integers(1, 15))
@budget(max_examples=40)
def test_a_gram_matrix_is_the_product_whatever_the_blocks(videos, rows):
    vectors = np.random.default_rng(videos).normal(size=(videos, 5))
    found = gram(lambda start, stop: vectors[start:stop], videos, rows)
    assert found.dtype == np.float32 and np.array_equal(found, found.T)
    assert found == pytest.approx(vectors @ vectors.T, abs=1e-5)


def test_vectors_side_by_side_are_gram_matrices_added():
    channels = [np.random.default_rng(seed).normal(size=(20, 30 + seed)) for seed in range(3)]
    joined = np.hstack(channels)
    added = sum(gram(lambda start, stop, part=part: part[start:stop], 20, rows=7) for part in channels)
    assert added == pytest.approx(gram(lambda start, stop: joined[start:stop], 20), abs=1e-4)


def test_two_blocks_of_vectors_are_held_at_a_time():
    def read(start: int, stop: int) -> np.ndarray:
        assert stop - start <= 10
        return np.ones((stop - start, 50_000), dtype=np.float32)

    tracemalloc.start()
    found = gram(read, videos=95, rows=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found == 50_000).all()
    assert peak < 2.2 * 10 * 50_000 * 4  # of 19 MB in all


def test_a_normalised_kernel_has_ones_on_average_on_the_diagonal_of_train():
    vectors, _ = problem()
    kernel = (7 * vectors @ vectors.T).astype(np.float32)
    train = np.arange(40)
    found = trace_normalised(kernel, train)
    assert found.dtype == np.float32 and np.trace(found[:40, :40]) == pytest.approx(40, rel=1e-5)
    assert found == pytest.approx(kernel * 40 / np.trace(kernel[:40, :40]), rel=1e-5)
    assert np.array_equal(found, trace_normalised(kernel, np.arange(60) < 40))


@pytest.mark.counts("bad kernels")
def test_a_kernel_of_zero_vectors_is_refused():
    kernel = np.diag([0.0, 0, 0, 5])
    with pytest.raises(ValueError, match=r"a kernel of 4 videos is 0\.0 on average over train's diagonal: no vector says"):
        trace_normalised(kernel, np.arange(3))


def test_a_chi_square_kernel_is_what_two_loops_give():
    random = np.random.default_rng(0)
    histograms = random.dirichlet(np.full(6, 0.3), size=9)
    histograms[:, 2] = 0  # a bin that is empty in all
    train = np.array([0, 2, 3, 5, 8])
    distances = np.zeros((9, 9))
    for i, x in enumerate(histograms):
        for j, y in enumerate(histograms):
            distances[i, j] = sum((a - b) ** 2 / (a + b) for a, b in zip(x, y, strict=True) if a + b > 0)
    mean = np.mean([distances[i, j] for i in train for j in train if i != j])
    found = chi_square_kernel(histograms, train)
    assert found.dtype == np.float32 and found == pytest.approx(np.exp(-distances / mean), abs=1e-6)
    assert np.array_equal(found, chi_square_kernel(histograms, np.isin(np.arange(9), train)))


@pytest.mark.counts("bad histograms")
@pytest.mark.parametrize(
    ("histograms", "said"),
    [
        (np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]), "histograms of all 2 train videos are equal"),
        (np.array([[0.5, -0.5], [0.5, 0.5], [1.0, 0.0]]), "negative"),
    ],
)
def test_bad_histograms_are_refused(histograms, said):
    with pytest.raises(ValueError, match=said):
        chi_square_kernel(histograms, np.arange(2))


def test_decisions_are_those_of_scikit_learn():
    train, targets = problem()
    test, _ = problem(seed=0, skill=0.5)
    labels = targets.argmax(axis=1)
    found = decided(train, targets, test)
    rest = OneVsRestClassifier(SVC(kernel="precomputed", C=100)).fit(train @ train.T, labels)
    assert found == pytest.approx(rest.decision_function(test @ train.T), abs=1e-9)
    assert found.argmax(axis=1).tolist() == rest.predict(test @ train.T).tolist()
    for number, positive in enumerate(targets.T):
        linear = SVC(kernel="linear", C=100).fit(train, positive)
        assert found[:, number] == pytest.approx(linear.decision_function(test), abs=1e-2)  # libsvm stops at 1e-3


def test_decisions_are_those_of_primal_weights():
    train, targets = problem()
    test, _ = problem(seed=1)
    machine = KernelSVM()
    machine.fit(train @ train.T, targets)
    weights = train.T @ machine.coefficients  # w_c = Σ_i a_ic φ_i
    assert machine.decisions(test @ train.T) == pytest.approx(test @ weights + machine.intercepts)
    assert (np.abs(machine.coefficients) <= 100 + 1e-9).all() and machine.coefficients.sum(axis=0) == pytest.approx(0, abs=1e-6)


def test_concatenated_vectors_and_added_kernels_give_one_machine():
    train, targets = problem()
    test, _ = problem(seed=2)
    added = KernelSVM()
    added.fit(train[:, :5] @ train[:, :5].T + train[:, 5:] @ train[:, 5:].T, targets)
    found = added.decisions(test[:, :5] @ train[:, :5].T + test[:, 5:] @ train[:, 5:].T)
    assert found == pytest.approx(decided(train, targets, test), abs=1e-6)


def test_a_separable_toy_has_its_margin():
    """Support vectors at 1 and 3 on the first axis: the border at 2, decisions of ±1 at both, w = 1."""
    train = np.array([[-5.0, 2], [1, 0], [3, 0], [9, -2]])
    targets = np.array([[True, False], [True, False], [False, True], [False, True]])
    found = decided(train, targets, np.array([[1.0, 0], [3, 0], [2, 7], [5, 0]]))
    assert found[:, 1] == pytest.approx([-1, 1, 0, 3], abs=1e-2)
    assert found[:, 0] == pytest.approx(-found[:, 1], abs=1e-6)


def test_several_labels_are_ranked_each_by_itself():
    train, test = problem(videos=200, seed=3)[0], problem(seed=4)[0]
    border = np.random.default_rng(5).normal(size=(12, 3))
    targets, truth = train @ border > 0.5, test @ border > 0.5
    found = decided(train, targets, test)
    for number in range(3):
        one = SVC(kernel="linear", C=100).fit(train, targets[:, number]).decision_function(test)
        precision = average_precision_score(truth[:, number], found[:, number])
        assert precision == pytest.approx(average_precision_score(truth[:, number], one), abs=0.01) and precision > 0.8


@pytest.mark.filterwarnings("error")
def test_a_class_of_no_train_video_is_never_decided_for_and_one_of_all_always():
    train, targets = problem()
    test, _ = problem(seed=1)
    none, every = np.zeros((60, 1), dtype=bool), np.ones((60, 1), dtype=bool)
    found = decided(train, np.hstack([none, targets, every]), test)
    assert np.isneginf(found[:, 0]).all() and np.isposinf(found[:, -1]).all()
    assert found[:, 1:-1] == pytest.approx(decided(train, targets, test))


def test_balanced_weights_are_those_of_repeated_videos():
    """N/2N_± with 10 of 40 videos positive: 2 and 2/3, so that a positive one counts as three negative ones."""
    train, _ = problem(videos=40, skill=0)
    positive = np.arange(40) < 10
    targets = np.stack([positive, ~positive], axis=1)
    weighted = SVC(kernel="linear", C=100, class_weight={True: 2, False: 2 / 3}).fit(train, positive)
    found = decided(train, targets, train, balanced=True)
    assert found[:, 0] == pytest.approx(weighted.decision_function(train), abs=2e-2)
    again = np.concatenate([np.arange(40), np.arange(10), np.arange(10)])
    repeated = SVC(kernel="linear", C=100 * 2 / 3).fit(train[again], positive[again])
    assert found[:, 0] == pytest.approx(repeated.decision_function(train), abs=2e-2)
    assert np.abs(found - decided(train, targets, train)).max() > 0.1


@pytest.mark.counts("bad kernels")
@pytest.mark.parametrize(
    ("kernel", "said"),
    [(np.eye(3), r"a kernel of shape \(3, 3\) for targets of 4 videos"), (np.full((4, 4), np.nan), "NaN")],
)
def test_bad_kernels_are_refused(kernel, said):
    with pytest.raises(ValueError, match=said):
        KernelSVM().fit(kernel, np.eye(4, dtype=bool))


@pytest.mark.parametrize(
    "work", [lambda: KernelSVM().fit(np.eye(2), np.eye(2)), lambda: chi_square_kernel(np.eye(2), np.arange(2))]
)
def test_without_scikit_learn_the_error_names_the_extra(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"needs scikit-learn .*pip install -e '\.\[systems\]'"):
        work()
