"""How sure a number is, and whether two rows differ: bootstrap intervals, exact McNemar, paired bootstrap. NumPy only.

What is drawn, or exchanged, is always a whole unit: a video, with everything that was predicted of it (under several
seeds, or on several of HMDB-51's splits, whose test sets share videos); or a whole group of videos where the clips of
a group are alike, as in UCF-11. So intervals and tests speak of other videos of the same kind; how much another
training run would change is the standard deviation over seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from reproduce.experiments.predictions import Predictions

RESAMPLES = 2000
CONFIDENCE = 0.95
LEVEL = 0.05  # of the tests, after correction


def accuracy(target: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of videos whose largest score is at the target, under each weighting.

    Args:
        target: (V, C) booleans, one a row.
        scores: (V, C).
        weights: (R, V) how often each video counts.

    Returns:
        (R,).
    """
    return weights @ right(target, scores).astype(np.float64) / weights.sum(axis=1)


def right(target: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Whether a video's largest score is at the target: (V,) booleans."""
    return target[np.arange(len(target)), scores.argmax(axis=1)]


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


def resample(runs: Sequence[Predictions], multi_label: bool, groups: Mapping[str, str], seed: int = 0) -> np.ndarray:
    """The mean of some runs' figures, as it is and under bootstrap weightings of whole units.

    Rows that were tested on the same videos get the same weightings, so that their differences are paired ones.

    Args:
        runs: predictions under several seeds, each on its own test videos where they come from several splits.
        multi_label: mAP instead of accuracy.
        groups: group of each video; a video that is not named stands for itself.
        seed: of the resampling.

    Returns:
        (1 + RESAMPLES,) fractions, the figure itself first.
    """
    units = _units(runs, groups)
    drawn = np.random.default_rng(seed).integers(len(units), size=(RESAMPLES, len(units)))
    drawn += np.arange(RESAMPLES)[:, None] * len(units)
    times = np.bincount(drawn.ravel(), minlength=RESAMPLES * len(units)).reshape(RESAMPLES, len(units))
    times = np.concatenate([np.ones((1, len(units)), dtype=times.dtype), times])
    figures = []
    for run in runs:
        weights = times[:, [units[groups.get(video, video)] for video in run.videos]]
        figures.append(measure(multi_label)(run.target, run.scores, weights))
    return np.mean(figures, axis=0)


def _units(runs: Sequence[Predictions], groups: Mapping[str, str]) -> dict[str, int]:
    """Number of each unit that is drawn or exchanged as a whole."""
    names = {groups.get(video, video) for run in runs for video in run.videos}
    return {name: number for number, name in enumerate(sorted(names))}


def interval(figures: np.ndarray, least: float = 0.0) -> tuple[float, float]:
    """95 % bootstrap interval of a figure, or of the difference of two.

    Percentiles of the resamples, less the resamples' bias (their mean minus the figure itself): average precision rises
    when positives are drawn twice, by several points where a class has few of them.

    Args:
        figures: (1 + R,), what `resample` returns, or a difference of two such.
        least: what the figure cannot fall below: 0, or -1 for a difference.

    Returns:
        Lower and upper end, as fractions.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(_unbiased(figures), [tail, 1 - tail])
    return max(least, float(low)), min(1.0, float(high))


def _unbiased(figures: np.ndarray) -> np.ndarray:
    return figures[1:] - (np.nanmean(figures[1:]) - figures[0])


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p value of a paired bootstrap: the level at which its bias-corrected interval begins to hold zero.

    Args:
        differences: (1 + R,), the difference of two figures under the same weightings.

    Returns:
        At least 2 / (R + 1): more is not known from R resamples.
    """
    resampled = _unbiased(differences)
    beyond = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    return min(1.0, 2 * (1 + beyond) / (len(resampled) + 1))


def mcnemar(ours: Sequence[Predictions], baseline: Sequence[Predictions], groups: Mapping[str, str]) -> float:
    """Exact two-sided McNemar test of two rows' accuracies; with several seeds, its generalisation.

    Under the null hypothesis the two rows' predictions of a unit could as well bear each other's names, so that the
    unit's difference ``D`` (how often ours is right of it minus how often the baseline is, over all seeds) is as
    likely ``-D``. The p value is the probability, over all ``2^n`` exchanges and without approximation, of a
    ``|Σ D|`` as large as the observed one. With one run a row and videos as units, ``D`` is 1, 0 or -1 and this is the
    binomial test on the discordant videos, which is McNemar's exact test. Seeds of one video are not independent of
    each other, and neither are the clips of one group; here they move together, and none is counted as a further
    observation.

    Args:
        ours: a run for each seed, and for each split.
        baseline: as many, on the same videos.
        groups: group of each video; a video that is not named stands for itself.
    """
    units = _units(ours, groups)
    difference = np.zeros(len(units), dtype=np.int64)
    for sign, runs in ((1, ours), (-1, baseline)):
        for run in runs:
            numbers = [units[groups.get(video, video)] for video in run.videos]
            np.add.at(difference, numbers, sign * right(run.target, run.scores).astype(np.int64))
    sizes = Counter(np.abs(difference[difference != 0]).tolist())
    total = sum(size * number for size, number in sizes.items())
    chances = np.ones(1)  # of the sum of those |D| that are given a minus
    for size, number in sizes.items():
        steps = np.zeros(size * number + 1)
        steps[::size] = [comb(number, k) / 2**number for k in range(number + 1)]
        chances = np.convolve(chances, steps)
    sums = np.abs(total - 2 * np.arange(total + 1))
    return min(1.0, float(chances[sums >= abs(difference.sum())].sum()))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's corrected p values of several tests, in their order."""
    corrected, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda place: values[place])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected


@dataclass(frozen=True)
class Comparison:
    """A row against the baseline row, on the same videos.

    Args:
        difference: ours minus the baseline's, as a fraction.
        interval: 95 % interval of it, from the paired bootstrap.
        test: ``McNemar`` for accuracies, ``bootstrap`` for mAP: the test whose ``p`` decides.
        p: its p value.
        corrected: the same after Holm's correction over the column's rows.
        bootstrap_p: of the paired bootstrap, for accuracies too.
    """

    difference: float
    interval: tuple[float, float]
    test: str
    p: float
    corrected: float
    bootstrap_p: float

    @property
    def significant(self) -> bool:
        """Whether the two rows differ at the corrected level."""
        return self.corrected < LEVEL


def same_videos(ours: Sequence[Predictions], baseline: Sequence[Predictions]) -> bool:
    """Whether two rows have as many runs on the same videos with the same labels."""
    return len(ours) == len(baseline) and all(
        one.videos == other.videos and np.array_equal(one.target, other.target)
        for one, other in zip(ours, baseline, strict=True)
    )


def compare(
    rows: Mapping[str, tuple[Sequence[Predictions], Sequence[Predictions]]],
    multi_label: bool,
    groups: Mapping[str, str],
    further: Sequence[float] = (),
) -> dict[str, Comparison]:
    """A column's rows, each against the baseline row; the p values are corrected for their number.

    Args:
        rows: by row, its predictions and the baseline's, on the same videos in the same order.
        multi_label: mAP instead of accuracy.
        groups: group of each video; a video that is not named stands for itself.
        further: p values of the column's other tests, which are corrected for too.
    """
    found = {}
    for row, (ours, baseline) in rows.items():
        differences = resample(ours, multi_label, groups) - resample(baseline, multi_label, groups)
        by_bootstrap = bootstrap_p(differences)
        p = by_bootstrap if multi_label else mcnemar(ours, baseline, groups)
        found[row] = (float(differences[0]), interval(differences, least=-1.0), p, by_bootstrap)
    corrected = dict(zip(found, holm([*(p for *_, p, _ in found.values()), *further]), strict=False))
    test = "bootstrap" if multi_label else "McNemar"
    return {
        row: Comparison(difference, bounds, test, p, corrected[row], by_bootstrap)
        for row, (difference, bounds, p, by_bootstrap) in found.items()
    }
