"""Improved Fisher vectors: how a bag of local descriptors differs from a Gaussian mixture, as one vector.

Shapes: n descriptors of d0 numbers, d after PCA, K Gaussians with weights π, means μ and variances σ². Of projected
descriptors x_i with posteriors q_ik, the sums

    S⁰_k = Σ_i q_ik,   S¹_k = Σ_i q_ik x_i,   S²_k = Σ_i q_ik x_i²

are additive over frames, sub-volumes and videos. The gradients of the mean log-likelihood, in units of their deviation, are

    G_μ,k = (S¹_k - S⁰_k μ_k) / (n σ_k √π_k)
    G_σ,k = (S²_k - 2 μ_k S¹_k + S⁰_k (μ_k² - σ_k²)) / (n σ_k² √(2π_k))

Source: Perronnin, Sánchez & Mensink, Improving the Fisher kernel for large-scale image classification, ECCV 2010; PCA to
half and K = 256 after Wang & Schmid, Action recognition with improved trajectories, ICCV 2013.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from lightning_modules.encoders import require_scikit_learn

ROWS = 2048  # descriptors at a time: with K = 256 their posteriors take 2 MB
FLOOR = 1e-12  # of an eigenvalue over the largest one; below it lies rounding, which whitening must not blow up


@dataclass(frozen=True, eq=False)
class Encoder:
    """PCA and a Gaussian mixture of one kind of descriptor, which make Fisher vectors.

    Args:
        mean: (d0,) of the descriptors.
        axes: (d, d0) of PCA, divided by the deviation along them where it whitens.
        weights: π (K,).
        means: μ (K, d).
        variances: σ² (K, d).
    """

    mean: np.ndarray
    axes: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    def project(self, x: np.ndarray) -> np.ndarray:
        """Subtract the mean and go to PCA's axes: (n, d0) -> (n, d) float32.

        Raises:
            ValueError: the descriptors are not (n, d0).
        """
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise ValueError(f"descriptors of shape {x.shape} for an encoder of (n, {len(self.mean)})")
        return (x - self.mean.astype(np.float32)).astype(np.float32) @ self.axes.T.astype(np.float32)

    def posteriors(self, x: np.ndarray) -> np.ndarray:
        """Compute q_ik ∝ π_k N(x_i; μ_k, σ_k²), with Σ_k q_ik = 1: projected (n, d) -> (n, K) float32."""
        return self._posteriors(_powers(x))

    def _posteriors(self, powers: np.ndarray) -> np.ndarray:
        q = powers @ self._log_density  # (n, K)
        q -= q.max(axis=1, keepdims=True)
        np.exp(q, out=q)
        q /= q.sum(axis=1, keepdims=True)
        return q

    @cached_property
    def _log_density(self) -> np.ndarray:
        """(1 + 2d, K) float32: ln π_k N(x; μ_k, σ_k²), up to a constant, as coefficients of 1, x and x²."""
        constant = np.log(self.weights) - 0.5 * (np.log(self.variances) + self.means**2 / self.variances).sum(axis=1)
        return np.vstack([constant, (self.means / self.variances).T, -0.5 / self.variances.T]).astype(np.float32)

    def sums(self, x: np.ndarray) -> np.ndarray:
        """Add up descriptors, weighted by their posteriors.

        Matrices are multiplied in float32. It costs the gradients a relative error of 1e-5, or 1e-4 of many thousand
        descriptors. Where some repeat exactly, so that a Gaussian is far narrower than its distance from the mean, it is 3e-2.

        Args:
            x: descriptors (n, d0); n may be 0.

        Returns:
            (K, 1 + 2d) float64: S⁰, S¹, S², side by side.

        Raises:
            ValueError: the descriptors are not (n, d0), or not finite.
        """
        total = np.zeros((len(self.weights), 1 + 2 * len(self.axes)))
        for start in range(0, len(x), ROWS):
            powers = _powers(self.project(x[start : start + ROWS]))  # (n, 1 + 2d)
            total += self._posteriors(powers).T @ powers
        if not np.isfinite(total).all():
            raise ValueError(f"descriptors of shape {x.shape} hold NaN, infinity, or numbers too large to square")
        return total

    def gradients(self, sums: np.ndarray, n: float | None = None) -> np.ndarray:
        """Compute the Fisher vector of sums of descriptors.

        Args:
            sums: (K, 1 + 2d), of any number of bags added up.
            n: how many descriptors they are of; Σ_k S⁰_k, which it is unless posteriors were cut, if None.

        Returns:
            (2Kd,) float32: G_μ, then G_σ, each Gaussian by Gaussian; zeros of no descriptor.
        """
        zeroth, first, second = np.split(sums, [1, 1 + len(self.axes)], axis=1)  # (K, 1), (K, d), (K, d)
        n = zeroth.sum() if n is None else n
        if n == 0:
            return np.zeros(2 * self.means.size, dtype=np.float32)
        weights = self.weights[:, None]
        of_means = (first - zeroth * self.means) / (n * np.sqrt(self.variances * weights))
        spread = second - 2 * self.means * first + zeroth * (self.means**2 - self.variances)
        of_deviations = spread / (n * self.variances * np.sqrt(2 * weights))
        return np.concatenate([of_means, of_deviations], axis=None).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """Name the arrays that it is made of, to be kept."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Encoder:
        """Make an encoder of the arrays of one.

        Raises:
            ValueError: they are others, or do not fit together.
        """
        names = [field.name for field in fields(cls)]
        if sorted(arrays) != sorted(names):
            raise ValueError(f"an encoder has the arrays {', '.join(names)}; given are {', '.join(sorted(arrays)) or 'none'}")
        given = {name: np.asarray(arrays[name]) for name in names}
        inputs, components = given["mean"].size, given["weights"].size
        dimensions = given["means"].size // max(components, 1)
        expected = [(inputs,), (dimensions, inputs), (components,), (components, dimensions), (components, dimensions)]
        if [array.shape for array in given.values()] != expected:
            found = ", ".join(f"{name} {array.shape}" for name, array in given.items())
            raise ValueError(f"arrays that make no encoder together: {found}; expected are {expected}")
        return cls(**given)


def _powers(x: np.ndarray) -> np.ndarray:
    """1, x, x² side by side: (n, d) -> (n, 1 + 2d) float32."""
    return np.hstack([np.ones((len(x), 1), dtype=np.float32), x, x * x], dtype=np.float32)


def improved(vector: np.ndarray) -> np.ndarray:
    """Take sign(G) √|G|, then divide by its length along the last axis: any shape -> the same, float32; 0 stays 0."""
    root = np.sign(vector) * np.sqrt(np.abs(vector))
    return (root / np.maximum(np.linalg.norm(root, axis=-1, keepdims=True), np.finfo(np.float32).tiny)).astype(np.float32)


def fit_encoder(samples: np.ndarray, components: int, dimensions: int, seed: int, whiten: bool = False) -> Encoder:
    """Fit PCA and a Gaussian mixture of diagonal covariances.

    Both are fitted in float64: in float32 the variance of descriptors that repeat may come out negative.

    Args:
        samples: descriptors (N, d0) of train videos, equally many a video.
        components: K.
        dimensions: d.
        seed: of the mixture's start.
        whiten: whether each dimension of PCA gets variance 1; one along which samples do not vary stays 0.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: there are too few samples, more dimensions than the samples have, or a sample is not finite.
    """
    require_scikit_learn("an encoder of descriptors")
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    if samples.ndim != 2 or not 1 <= dimensions <= samples.shape[1]:
        raise ValueError(f"{dimensions} dimensions of samples of shape {samples.shape}: take from 1 to as many as they have")
    if len(samples) < max(components, dimensions):
        raise ValueError(
            f"{len(samples)} samples for {components} Gaussians in {dimensions} dimensions: give at least as many samples, "
            "or ask for fewer of both"
        )
    samples = samples.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # shares of a variance of 0, which nobody reads
        pca: Any = PCA(dimensions, svd_solver="full").fit(samples)
    axes = pca.components_  # (d, d0)
    if whiten:
        variances = pca.explained_variance_[:, None]
        varies = variances > FLOOR * max(variances.max(), np.finfo(np.float32).tiny)
        axes = np.where(varies, axes / np.sqrt(np.where(varies, variances, 1)), 0)
    # 1e-6 is the variance that a Gaussian of one sample keeps.
    mixture: Any = GaussianMixture(
        components, covariance_type="diag", reg_covar=1e-6, max_iter=100, init_params="k-means++", random_state=seed
    ).fit((samples - pca.mean_) @ axes.T)
    return Encoder(pca.mean_, axes, mixture.weights_, mixture.means_, mixture.covariances_)
