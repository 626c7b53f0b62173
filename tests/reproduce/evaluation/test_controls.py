"""Known truths and negative controls: what is found, what is not, and where nothing is said."""

import numpy as np
import pytest

from reproduce.common.catalogue import DATASETS, ROWS
from reproduce.evaluation.controls import _by_names, findings
from reproduce.evaluation.paper_tables import BEYOND, table1
from reproduce.evaluation.results import Column, FinishedRun
from reproduce.evaluation.significance import accuracy, mean_average_precision
from reproduce.evaluation.writers import FORMATS, to_text
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.predictions import Predictions

DATA = next(name for name, data in DATASETS.items() if data.truths)
CLASSES, VIDEOS = 8, 160
CONTENT, LOCATION, POOLED = "content_attention_0", "soft_attention_0", "avg_pool_lstm"
REGRESSION = "softmax_regression"
SELECTIVE = "top_k_content_attention", "hard_content_attention"


def run(share: float, tmp_path, miniature=True, seed=0, **about) -> FinishedRun:
    """A run that is right on a share of its videos, and elsewhere says any class but the right one."""
    random = np.random.default_rng(seed)
    label = np.arange(VIDEOS) % CLASSES
    said = np.where(random.permutation(VIDEOS) < share * VIDEOS, label, (label + random.integers(1, CLASSES, VIDEOS)) % CLASSES)
    videos = tuple(f"v{number}" for number in range(VIDEOS))
    classes = tuple("abcdefgh")
    found = Predictions(videos, classes, np.eye(CLASSES)[label].astype(bool), np.eye(CLASSES)[said])
    own = {"data": DATA, "split": "1", "miniature": miniature, "multi_label": False, "notes": [], "stride": 1}
    own |= {"train_videos": 9, "test_videos": VIDEOS, "groups": dict(zip(videos, videos, strict=True)), **about}
    metrics = {"test/accuracy": float((said == label).mean())}
    folder = RunFolder(tmp_path / f"{share}-{seed}")
    return FinishedRun(folder, own, metrics, found=found)


def rows(tmp_path, content=0.9, location=0.6, pooled=0.25, **about):
    shares = {CONTENT: content, LOCATION: location, POOLED: pooled}
    return {row: {1: [run(share, tmp_path, seed=n, **about)]} for n, (row, share) in enumerate(shares.items())}


def found_in(runs):
    return findings(DATA, Column("acc", {}, runs, grouped=True))


def test_a_truth_is_found_where_the_rows_differ_as_they_must(tmp_path):
    found = found_in(rows(tmp_path))
    assert len(found) == 3 and all(one.holds for one in found)
    said = {str(one) for one in found}
    assert f"known truth: {ROWS[CONTENT].label} above {ROWS[POOLED].label}; found: +65.0 points, corrected p < 0.001." in said


def test_attention_that_reads_less_is_held_to_its_truth_where_its_row_is_there(tmp_path):
    beside = {row: {1: [run(share, tmp_path, seed=7)]} for row, share in zip(SELECTIVE, (0.95, 0.27), strict=True)}
    found = {one.expected: one.holds for one in found_in(rows(tmp_path) | beside)}
    assert len(found) == len(DATASETS[DATA].truths["halo"])
    holds = [found[f"known truth: {ROWS[row].label} above {ROWS[POOLED].label}"] for row in SELECTIVE]
    assert holds == [True, False] and sum(found.values()) == 4


@pytest.mark.parametrize("shares", [{"content": 0.3}, {"content": 0.26, "location": 0.25}, {"content": 0.1}])
def test_a_truth_is_not_found_where_rows_are_alike_or_the_other_way_round(tmp_path, shares):
    found = found_in(rows(tmp_path, **shares))
    assert not all(one.holds for one in found) and any("NOT FOUND: " in str(one) for one in found)


def test_of_data_drawn_otherwise_another_truth_is_stated_and_of_both_together_none(tmp_path):
    ring = {row: {1: [run(share, tmp_path, seed=9, truth="ring")]} for row, share in ((REGRESSION, 0.6), (POOLED, 0.25))}
    (one,) = found_in(ring)
    assert one.holds and one.expected == f"known truth: {ROWS[REGRESSION].label} above {ROWS[POOLED].label}"
    assert found_in({**rows(tmp_path), **ring}) == ()


def test_nothing_is_said_of_real_data_or_of_rows_that_are_not_there(tmp_path):
    assert found_in(rows(tmp_path, miniature=False)) == ()
    some = rows(tmp_path)
    del some[CONTENT]
    assert [one.expected for one in found_in(some)] == [f"known truth: {ROWS[LOCATION].label} above {ROWS[POOLED].label}"]
    assert findings("hmdb51", Column("acc", {}, rows(tmp_path))) == () and found_in({CONTENT: {}}) == ()


def test_a_negative_control_is_found_at_chance_and_not_where_a_row_has_learned(tmp_path):
    (one,) = found_in(rows(tmp_path, 0.15, 0.125, 0.1, permuted=1))
    assert one.holds and "every row at chance, 12.5 %; found: " in str(one) and "Avg pooled LSTM 10.0 [" in str(one)
    (other,) = found_in(rows(tmp_path, 0.15, 0.125, 0.5, permuted=1))
    assert not other.holds and "NOT FOUND" in str(other)


def test_a_network_that_says_one_class_of_each_class_is_no_proof_against_chance(tmp_path):
    """Two of eight classes hit and all their videos with them: likely by chance, though 40 of 160 videos would not be."""
    one = run(0.2, tmp_path, permuted=1)
    label = np.arange(VIDEOS) % CLASSES
    whole = Predictions(
        one.predictions.videos,
        one.predictions.classes,
        one.predictions.target,
        np.eye(CLASSES)[[0, 1, 3, 4, 5, 6, 7, 2]][label],
    )
    (found,) = found_in({POOLED: {1: [FinishedRun(one.folder, one.about, one.metrics, found=whole)]}})
    assert found.holds and "Avg pooled LSTM 25.0" in found.found


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_parts_of_the_classes_add_up_to_the_figure_under_any_names(multi_label):
    random = np.random.default_rng(0)
    target = random.random((40, 4)) < 0.4 if multi_label else np.eye(4)[random.integers(0, 4, 40)].astype(bool)
    scores = random.random((40, 4))
    parts = _by_names(Predictions(tuple(map(str, range(40))), tuple("abcd"), target, scores), multi_label)
    measure = mean_average_precision if multi_label else accuracy
    for names in (np.arange(4), np.array([2, 0, 3, 1])):
        figure = measure(target, scores[:, names], np.ones((1, 40)))[0]
        assert parts[np.arange(4), names].sum() == pytest.approx(figure)


def test_a_tables_every_format_says_that_it_is_a_control_and_names_no_paper(tmp_path):
    runs = rows(tmp_path, permuted=1)
    table = table1([DATA], list(runs), lambda data, row: runs[row])
    for write in FORMATS.values():
        text = write(table)
        assert "84.96" not in text and "82.56" not in text
        assert "permuted" in text if write is FORMATS["csv"] else "NEGATIVE CONTROL" in text
    assert "The differences from the paper" not in to_text(table)
    assert "NEGATIVE" not in to_text(table1([DATA], list(runs), lambda data, row: rows(tmp_path)[row]))


def test_rows_beyond_the_paper_stand_below_the_papers_in_a_part_of_their_own(tmp_path):
    runs = rows(tmp_path)
    table = table1([DATA], [LOCATION, CONTENT, POOLED], lambda data, row: runs[row])
    assert table.parts() == [("", [LOCATION, POOLED]), (BEYOND, [CONTENT])]
    assert all(BEYOND in write(table) for write in FORMATS.values())
    assert table1([DATA], [LOCATION, POOLED], lambda data, row: runs[row]).sections == {}
    assert "\n  Content attention, λ = 0" in to_text(table) and "\nSoft attention model, λ = 0" in to_text(table)
