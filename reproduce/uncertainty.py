"""How sure a number is: mean and spread over seeds, bootstrap intervals over videos or their groups. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reproduce.runs import Predictions

RESAMPLES = 2000
CONFIDENCE = 0.95


def accuracy(target: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of videos whose largest score is at the target, under each weighting.

    Args:
        target: (V, C) booleans, one a row.
        scores: (V, C).
        weights: (R, V) how often each video counts.

    Returns:
        (R,).
    """
    hits = target[np.arange(len(target)), scores.argmax(axis=1)].astype(np.float64)
    return weights @ hits / weights.sum(axis=1)


def mean_average_precision(target: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over classes of non-interpolated average precision, under each weighting.

    ``AP = Σ_k (R_k - R_{k-1}) P_k`` over the distinct scores in falling order; classes without a positive video of
    positive weight do not count.

    Args:
        target: (V, C) booleans.
        scores: (V, C).
        weights: (R, V) how often each video counts.

    Returns:
        (R,).
    """
    total, counted = np.zeros(len(weights)), np.zeros(len(weights))
    for positive, score in zip(target.T, scores.T, strict=True):
        order = np.argsort(-score, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # last video of each distinct score
        w = weights[:, order].astype(np.float64)
        hits = np.cumsum(w * positive[order], axis=1)[:, ends]  # (R, thresholds)
        seen = np.cumsum(w, axis=1)[:, ends]
        positives = hits[:, -1]
        gained = np.diff(hits, axis=1, prepend=0)
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        area = (gained * precision).sum(axis=1)
        has = positives > 0
        total[has] += area[has] / positives[has]
        counted += has
    return np.divide(total, counted, out=np.full(len(weights), np.nan), where=counted > 0)


def measure(multi_label: bool):
    """The data set's figure: mAP for multi-label, accuracy otherwise."""
    return mean_average_precision if multi_label else accuracy


def interval(runs: Sequence[Predictions], multi_label: bool, groups: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds, resampling whole groups of videos.

    Percentiles of the resamples, less the resamples' bias (their mean minus the figure itself): average precision rises
    when positives are drawn twice, by several points where a class has few of them.

    Args:
        runs: predictions of the same videos under several seeds.
        multi_label: mAP instead of accuracy.
        groups: group of each video; the video itself where videos are independent.
        seed: of the resampling.

    Returns:
        Lower and upper end, as fractions.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    random = np.random.default_rng(seed)
    drawn = random.integers(len(names), size=(RESAMPLES, len(names)))
    times = np.zeros((RESAMPLES, len(names)), dtype=np.int64)
    np.add.at(times, (np.arange(RESAMPLES)[:, None], drawn), 1)
    weights = times[:, member]
    weights = np.concatenate([np.ones((1, len(member)), dtype=np.int64), weights])  # the figure itself comes first
    figures = np.mean([measure(multi_label)(run.target, run.scores, weights) for run in runs], axis=0)
    figure, resampled = figures[0], figures[1:]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail]) - (np.nanmean(resampled) - figure)
    return max(0.0, float(low)), min(1.0, float(high))
