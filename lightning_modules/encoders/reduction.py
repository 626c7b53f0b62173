"""Linear reduction of long vectors: whitening by PCA, or learned with a linear classifier by a max-margin objective.

Shapes: N vectors f of D numbers, codes U (f - mean) of d numbers, C classes.

Source: Simonyan, Vedaldi & Zisserman, Deep Fisher networks for large-scale image classification, NIPS 2013: bilinear
multi-class hinge loss. Stochastic gradient descent, its steps and λ are chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NOISE = 1e-6  # share of the largest variance below which float32's rounding hides the others
DIVERGED = 10  # times the first loss


@dataclass(frozen=True, eq=False)
class Reduction:
    """Codes U (f - mean) of vectors f.

    Args:
        mean: (D,) float32.
        axes: U (d, D) float32.
    """

    mean: np.ndarray
    axes: np.ndarray

    def codes(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, d) float32."""
        return (vectors - self.mean) @ self.axes.T

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, by name."""
        return {"mean": self.mean, "axes": self.axes}


def fit_whitening(vectors: np.ndarray, dimensions: int) -> Reduction:
    """Fit PCA whose codes have variance 1, by the smaller one of covariance (D, D) and Gram matrix (N, N).

    Args:
        vectors: (N, D) float32.
        dimensions: d.

    Raises:
        ValueError: the vectors vary in fewer directions, or are fewer than two.
    """
    count, length = vectors.shape
    if count < 2:
        raise ValueError(f"{count} vectors, of which PCA needs two or more: give more videos, or some with more trajectories")
    mean = vectors.mean(axis=0, dtype=np.float64)
    if length <= count:
        square = (vectors.T @ vectors).astype(np.float64) - count * np.outer(mean, mean)
    else:
        products = (vectors @ vectors.T).astype(np.float64)
        means = products.mean(axis=0)
        square = products - means - means[:, None] + means.mean()
    powers, directions = np.linalg.eigh(square)  # ascending: (N - 1) times the variances, in both forms
    found = int((powers > NOISE * powers[-1]).sum())
    if found < dimensions:
        raise ValueError(
            f"{count} vectors vary in {found} directions only; {dimensions} were asked for: take fewer, or more videos"
        )
    powers, directions = powers[: -dimensions - 1 : -1], directions[:, : -dimensions - 1 : -1].T  # the largest first
    scales = np.sqrt(count - 1) / np.sqrt(powers)
    if length > count:  # from combinations of the vectors to their own axes
        directions = directions.astype(np.float32) @ vectors - np.outer(directions.sum(axis=1), mean)
        scales = scales / np.sqrt(powers)
    axes = directions * scales[:, None]
    return Reduction(mean.astype(np.float32), axes.astype(np.float32))


@dataclass(frozen=True)
class MarginOptions:
    """Stochastic gradient descent of the max-margin objective.

    Args:
        decay: λ.
        rate: of the steps, at the beginning; falls linearly to zero.
        momentum: of the steps.
        batch: vectors a step.
        epochs: passes over all vectors.
    """

    decay: float = 1e-4
    rate: float = 0.5
    momentum: float = 0.9
    batch: int = 128
    epochs: int = 10


def hinge(scores: Tensor, targets: Tensor) -> Tensor:
    """Σ_y Σ_c max(0, 1 + s_c - s_y) of each vector, over its classes y and all others c.

    Args:
        scores: s (B, C).
        targets: (B, C) booleans.

    Returns:
        (B,).
    """
    margins = 1 + scores[:, None, :] - scores[:, :, None]  # (B, y, c)
    pairs = targets[:, :, None] & ~targets[:, None, :]
    return (margins.clamp(min=0) * pairs).sum(dim=(1, 2))


def fit_max_margin(
    vectors: np.ndarray, targets: np.ndarray, start: Reduction, options: MarginOptions, seed: int
) -> tuple[Reduction, np.ndarray]:
    """Minimise the mean of Σ_{c≠y} max(0, 1 + (w_c - w_y)ᵀ U f) / (C - 1) plus λ(‖U‖² + ‖W‖²)/2 over U and W.

    Vectors are scaled so that the rows of the first U have length 1 in the mean: one rate and one λ then suit U and W, and
    with the division any number of classes. W begins at zero, where the first term is 1 for one class a video.

    Args:
        vectors: f (N, D) float32.
        targets: (N, C) booleans: the classes of each vector's video.
        start: whose codes U f are the first ones.
        options: of the descent.
        seed: of the order of the vectors.

    Returns:
        The reduction, and W (C, d) float32.

    Raises:
        ValueError: vectors and targets are of unequal number, or the descent diverges.
    """
    if len(vectors) != len(targets):
        raise ValueError(f"{len(vectors)} vectors and targets of {len(targets)}")
    scale = float(np.sqrt(np.square(start.axes).sum(axis=1).mean()))
    reduction = torch.from_numpy(start.axes / scale).requires_grad_()  # U (d, D)
    classifier = torch.zeros(targets.shape[1], len(start.axes), requires_grad=True)  # W (C, d)
    steps = torch.optim.SGD([reduction, classifier], options.rate, options.momentum, weight_decay=options.decay)
    random = np.random.default_rng(seed)
    batches = -(-len(vectors) // options.batch)
    schedule = torch.optim.lr_scheduler.LinearLR(steps, 1.0, 0.0, total_iters=options.epochs * batches)
    for _ in range(options.epochs):
        losses = []
        for rows in np.array_split(random.permutation(len(vectors)), batches):
            f = torch.from_numpy((vectors[rows] - start.mean) * np.float32(scale))
            loss = hinge(f @ reduction.T @ classifier.T, torch.from_numpy(targets[rows])).mean() / max(targets.shape[1] - 1, 1)
            steps.zero_grad()
            loss.backward()
            steps.step()
            schedule.step()
            losses.append(float(loss.detach()))
        if not np.mean(losses) < DIVERGED * targets.sum(axis=1).max():
            raise ValueError(
                f"max-margin reduction diverges at rate={options.rate}, to a loss of {np.mean(losses):.3g}: lower it"
            )
    axes = reduction.detach().numpy() * np.float32(scale)
    return Reduction(start.mean, axes), classifier.detach().numpy()
