"""Kernels of video vectors, and support vector machines on them.

Shapes: V videos of which N are of train, D numbers a vector φ, C classes. A linear kernel is the Gram matrix G = φφᵀ (V, V);
vectors set side by side are Gram matrices added, so no video's channels need be held together.

Source: a linear SVM with C = 100, one class against the rest: Wang & Schmid, Action recognition with improved trajectories,
ICCV 2013.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lightning_modules.encoders import require_scikit_learn

COST = 100.0  # C of the SVM, fixed: no video is held out to choose it


def gram(read: Callable[[int, int], np.ndarray], videos: int, rows: int = 512) -> np.ndarray:
    """Compute the linear kernel of vectors that are read block by block; two blocks are held at a time.

    G = Σ_channels φφᵀ is the sum of this function over the channels.

    Args:
        read: gives the vectors (stop - start, D) from ``start`` up to ``stop``; it is asked for most blocks several times.
        videos: V.
        rows: vectors in a block.

    Returns:
        (V, V) float32, symmetric.
    """
    found = np.empty((videos, videos), dtype=np.float32)
    parts = [(start, min(start + rows, videos)) for start in range(0, videos, rows)]
    for number, (top, bottom) in enumerate(parts):
        ours = np.asarray(read(top, bottom), dtype=np.float32)
        found[top:bottom, top:bottom] = ours @ ours.T
        for left, right in parts[:number]:
            block = ours @ np.asarray(read(left, right), dtype=np.float32).T
            found[top:bottom, left:right], found[left:right, top:bottom] = block, block.T
    return found


def trace_normalised(kernel: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Scale a kernel so that a video of train has 1 with itself, on average: G · N / tr G over train.

    Args:
        kernel: (V, V).
        train: numbers of the train videos (N,), or booleans (V,).

    Raises:
        ValueError: the train videos' vectors are all zero.
    """
    mean = kernel.diagonal()[train].mean(dtype=np.float64)
    if not mean > 0:
        raise ValueError(
            f"a kernel of {len(kernel)} videos is {mean} on average over train's diagonal: no vector says anything"
        )
    return (kernel / mean).astype(np.float32)


def chi_square_kernel(histograms: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Compute exp(-χ²(x, y) / A), with χ² = Σ (x - y)² / (x + y) and A its mean over pairs of different train videos.

    Args:
        histograms: (V, B), not negative.
        train: numbers of the train videos (N,), or booleans (V,).

    Returns:
        (V, V) float32.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: a number is negative, or the train videos' histograms are all equal.
    """
    require_scikit_learn("a χ² kernel")
    from sklearn.metrics.pairwise import additive_chi2_kernel

    distances = -additive_chi2_kernel(histograms)
    of_train = distances[train][:, train]
    total, pairs = of_train.sum(), len(of_train) * (len(of_train) - 1)  # of a histogram to itself it is 0
    if not total > 0:
        raise ValueError(f"the histograms of all {len(of_train)} train videos are equal: they have no mean distance")
    return np.exp(-distances * (pairs / total)).astype(np.float32)


class KernelSVM:
    """Support vector machines on a kernel, one a class against all others, whether videos have one label or several.

    f_c(x) = Σ_i a_ic k(x, x_i) + b_c. A class that no video of train has is decided by -∞, one that all have by +∞.

    Args:
        balanced: whether an error on a video of train costs C · N / 2N_±, N_± being how many are on its side of a class.
    """

    def __init__(self, balanced: bool = False) -> None:
        self.balanced = balanced
        self.coefficients = np.empty((0, 0))  # a (N, C), 0 unless a support vector
        self.intercepts = np.empty(0)  # b (C,)

    def fit(self, kernel: np.ndarray, targets: np.ndarray) -> None:
        """Fit on train.

        Args:
            kernel: (N, N) of train.
            targets: (N, C) booleans.

        Raises:
            ImportError: scikit-learn is not installed.
            ValueError: the kernel is not (N, N), or not finite.
        """
        require_scikit_learn("a support vector machine")
        from sklearn.svm import SVC

        if kernel.shape != (len(targets), len(targets)):
            raise ValueError(f"a kernel of shape {kernel.shape} for targets of {len(targets)} videos")
        kernel = np.ascontiguousarray(kernel, dtype=np.float64)  # as libsvm takes it, once
        self.coefficients, self.intercepts = np.zeros(targets.shape), np.zeros(targets.shape[1])
        for number, positive in enumerate(targets.T.astype(bool)):
            if positive.all() or not positive.any():
                self.intercepts[number] = np.inf if positive.any() else -np.inf
                continue
            machine = SVC(kernel="precomputed", C=COST, class_weight="balanced" if self.balanced else None)
            machine.fit(kernel, positive)
            self.coefficients[machine.support_, number] = machine.dual_coef_[0]
            self.intercepts[number] = machine.intercept_[0]

    def decisions(self, kernel: np.ndarray) -> np.ndarray:
        """Compute f_c, positive where a video is of class c: kernel (M, N) of M videos with train -> (M, C) float64."""
        return kernel @ self.coefficients + self.intercepts
