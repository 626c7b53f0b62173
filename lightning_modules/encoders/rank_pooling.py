"""Rank pooling: a video as the direction in which its running mean moves with time, forward and reversed.

Shapes: T frames x_t of D numbers. With v_t the non-linear, normalised running mean of a series,

    u = argmin ½‖u‖² + C Σ_t max(0, |uᵀv_t - t| - ε)²,   C = 1, ε = 0.1, without bias

lies in the span of the v_t: u = Σ_t b_t v_t, so that T numbers are sought however large D is.

Source: Fernando, Gavves, Oramas, Ghodrati & Tuytelaars, Modeling video evolution for action recognition, CVPR 2015.
"""

from __future__ import annotations

import numpy as np

COST = 1.0
MARGIN = 0.1
MOST_STEPS = 100  # of Newton's method, which takes about four
COLUMNS = 4096  # of a series at a time, whose products are added up in float64


def rank_pool(x: np.ndarray) -> np.ndarray:
    """Encode the order of a video's frames.

    The directions of the series and of its reverse are joined, (2D,), split into their positive and negative parts, and
    divided by their length.

    Args:
        x: one vector a frame (T, D), in order.

    Returns:
        (4D,) float32; zeros of no frame, or of zeros alone.

    Raises:
        ValueError: it is no matrix, or not finite.
    """
    if x.ndim != 2:
        raise ValueError(f"a series of shape {x.shape}; rank pooling takes one vector a frame, (T, D)")
    vector = split_root(np.concatenate([rank_direction(x), rank_direction(x[::-1])]))
    return (vector / max(float(np.linalg.norm(vector)), np.finfo(np.float32).tiny)).astype(np.float32)


def rank_direction(x: np.ndarray) -> np.ndarray:
    """Find u, along which the running means of a series (T, D) rise with time; (D,) float32.

    Raises:
        ValueError: the series is not finite.
    """
    v = running_means(x)
    gram = np.zeros((len(v), len(v)))
    for start in range(0, v.shape[1], COLUMNS):
        part = v[:, start : start + COLUMNS].astype(np.float64)
        gram += part @ part.T
    if not np.isfinite(gram).all():
        raise ValueError(f"a series of shape {x.shape} holds NaN or infinity")
    lengths = np.sqrt(gram.diagonal())
    scale = np.divide(1, lengths, out=np.zeros(len(v)), where=lengths > 0)
    return (scale * rank_coefficients(gram * np.outer(scale, scale))).astype(np.float32) @ v


def running_means(x: np.ndarray) -> np.ndarray:
    """Take signed roots of (1/t) Σ_{τ≤t} x_τ: (T, D) -> (T, D) float32, lengths as they come."""
    found, total = np.empty(x.shape, dtype=np.float32), np.zeros(x.shape[1])
    for step, row in enumerate(x):
        total += row
        found[step] = total / (step + 1)
        found[step] = signed_root(found[step])
    return found


def rank_coefficients(gram: np.ndarray) -> np.ndarray:
    """Solve rank pooling in the span of the series by Newton's method on the steps whose error exceeds ε.

    With r = Gb - y and A = {t: |r_t| > ε}, the next b is 0 outside A and solves (G_AA + I / 2C) b_A = y_A + ε sign(r_A).
    Its step is halved while the objective rises. The objective is convex and piecewise quadratic, so it ends exactly.

    Args:
        gram: G (T, T) of the v_t, of length 1, or 0.

    Returns:
        b (T,), with |b + 2C sign(r) max(0, |r| - ε)| ≤ 1e-10 T.

    Raises:
        ArithmeticError: it does not end, as of a matrix that is no Gram matrix.
    """
    targets = np.arange(1.0, len(gram) + 1)

    def state(b: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """The errors r, by how much each exceeds ε, and the objective."""
        product = gram @ b
        errors = product - targets
        excess = np.maximum(np.abs(errors) - MARGIN, 0)
        return errors, excess, 0.5 * float(b @ product) + COST * float(excess @ excess)

    b = np.zeros(len(gram))
    errors, excess, objective = state(b)
    for _ in range(MOST_STEPS):
        if np.all(np.abs(b + 2 * COST * np.sign(errors) * excess) <= 1e-10 * len(gram)):
            return b
        active = np.flatnonzero(excess)
        newton = np.zeros(len(gram))
        matrix = gram[np.ix_(active, active)] + np.eye(len(active)) / (2 * COST)
        newton[active] = np.linalg.solve(matrix, targets[active] + MARGIN * np.sign(errors[active]))
        step, before, given = 1.0, objective * (1 + 1e-12), b  # of equal objectives, one may round above the other
        while True:
            b = given + step * (newton - given)
            errors, excess, objective = state(b)
            if objective <= before or step < 1e-6:
                break
            step /= 2
    raise ArithmeticError(f"rank pooling of {len(gram)} frames did not end in {MOST_STEPS} steps: the matrix is no Gram matrix")


def signed_root(x: np.ndarray) -> np.ndarray:
    """Take sign(x) √|x|."""
    return np.copysign(np.sqrt(np.abs(x)), x)


def split_root(x: np.ndarray) -> np.ndarray:
    """Take √ of the positive and of the negative part, one after the other: (…, D) -> (…, 2D)."""
    return np.sqrt(np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis=-1))
