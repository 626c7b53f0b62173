"""Controls: what a column must show because its data were made so, and what it shows.

Positive: on generated data some rows are above others, see ``DataSetInfo.truths``. Negative: where the labels of train were
dealt anew among groups (``data.permuted``), every row is at chance. The first are found at the tests' level, corrected for all
of a column's statements; the second fails by chance once in a thousand tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np

from datamodules.videos import TRUTHS
from reproduce.common.catalogue import DATASETS, ROWS, kind_of
from reproduce.evaluation.notes import fixed, p_in_words, signed
from reproduce.evaluation.results import Column, of_common_seeds
from reproduce.evaluation.significance import compare, mean_average_precision, same_videos
from reproduce.experiments.predictions import Predictions

RENAMINGS = 100_000
ALARM = 0.001  # how often a negative control may fail by chance, all rows of a table together


@dataclass(frozen=True)
class Finding:
    """What is expected of a column, and what was found.

    Args:
        expected: in words.
        found: in words, with its numbers.
        holds: whether it is as expected.
    """

    expected: str
    found: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.expected}; {'found' if self.holds else 'NOT FOUND'}: {self.found}."


def findings(data: str, column: Column) -> tuple[Finding, ...]:
    """What the finished runs of a data set's column show of its controls; nothing for data as they are."""
    runs = column.runs
    everything = [run for seeds in runs.values() for run in chain(*seeds.values())]
    permuted = [run for run in everything if "permuted" in run.about]
    if permuted:
        return (_chance(column),) if len(permuted) == len(everything) else ()
    if not everything or not all(run.about["miniature"] for run in everything):
        return ()
    groups = {video: group for run in everything for video, group in run.about["groups"].items()} if column.grouped else {}
    pairs = {}
    drawn = {run.about.get("truth", TRUTHS[0]) for run in everything}
    for row, above in DATASETS[kind_of(data)].truths.get(drawn.pop(), ()) if len(drawn) == 1 else ():
        ours, theirs = of_common_seeds(column, runs.get(row, {}), runs.get(above, {}))
        if ours and same_videos(ours, theirs):
            pairs[f"known truth: {ROWS[row].label} above {ROWS[above].label}"] = ours, theirs
    return tuple(
        Finding(
            expected,
            f"{signed(100 * one.difference)} points, corrected p {p_in_words(one.corrected)}",
            one.significant and one.difference > 0,
        )
        for expected, one in compare(
            pairs, multi_label=any(run.about["multi_label"] for run in everything), groups=groups
        ).items()
    )


def _chance(column: Column) -> Finding:
    """Whether every row is where its own predictions would be, were their classes renamed at random.

    No class's name is better than another's where train's labels say nothing, so that all renamings are equally likely. They
    keep together what a network says of the videos of one class, which intervals over videos or groups take for independent.
    """
    measured = {
        row: [found for of_seed in seeds.values() for found in column.predictions(of_seed)]
        for row, seeds in column.runs.items()
        if seeds
    }
    multi_label = any(run.about["multi_label"] for seeds in column.runs.values() for run in chain(*seeds.values()))
    tail = ALARM / len(measured) / 2
    said, holds, expected = [], True, 0.0
    classes = next(len(of_row[0].classes) for of_row in measured.values())
    names = np.random.default_rng(0).random((RENAMINGS, classes), dtype=np.float32).argsort(axis=1)
    for row, of_row in measured.items():
        by_names = np.mean([_by_names(one, multi_label) for one in of_row], axis=0)
        renamed = by_names[np.arange(len(by_names)), names].sum(axis=1)
        found, expected = float(np.trace(by_names)), float(by_names.mean() * len(by_names))
        low, high = np.quantile(renamed, [tail, 1 - tail])
        holds = holds and bool(low - 1e-9 <= found <= high + 1e-9)
        said.append(f"{ROWS[row].label} {fixed(100 * found, 1)} [{fixed(100 * low, 1)}, {fixed(100 * high, 1)}]")
    level = f"in brackets where {100 * (1 - ALARM):g} % of all tables lie whose predicted classes are renamed at random"
    return Finding(
        f"negative control: every row at chance, {fixed(100 * expected, 1)} %", f"{', '.join(said)} ({level})", holds
    )


def _by_names(one: Predictions, multi_label: bool) -> np.ndarray:
    """(C, C) what each class adds to the figure where its scores are those of another."""
    classes = one.target.shape[1]
    if multi_label:
        some = [label for label in range(classes) if one.target[:, label].any()]
        found = np.zeros((classes, classes))
        weights = np.ones((1, len(one.target)))
        for label in some:
            for other in range(classes):
                figure = mean_average_precision(one.target[:, [label]], one.scores[:, [other]], weights)
                found[label, other] = figure[0] / len(some)
        return found
    return one.target.T.astype(np.float64) @ np.eye(classes)[one.scores.argmax(axis=1)] / len(one.target)
