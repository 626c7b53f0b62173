"""Folds of train: whole groups, every class in each, as even as groups allow."""

from collections import Counter

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules import hmdb51
from datamodules.folds import Fold, deal_folds, parse_fold
from datamodules.videos import DataError, Video


def videos_of(sizes):
    """Videos of single-label classes, from the sizes of each class's groups."""
    return [
        Video(f"{label}/{group}/{number}", (label,), f"{label}-{group}")
        for label, groups in enumerate(sizes)
        for group, size in enumerate(groups)
        for number in range(size)
    ]


@given(
    st.integers(2, 5).flatmap(
        lambda folds: st.tuples(
            st.just(folds),
            st.lists(st.lists(st.integers(1, 9), min_size=folds, max_size=12), min_size=1, max_size=4),
        )
    )
)
@example((5, [[1, 1, 1, 1, 6], [1, 1, 1, 1, 6]]))
@settings(max_examples=60, deadline=None)
def test_groups_stay_whole_and_every_fold_has_every_class(case):
    folds, sizes = case
    videos = videos_of(sizes)
    fold_of = deal_folds(videos, folds, [str(label) for label in range(len(sizes))])
    assert fold_of.shape == (len(videos),) and set(fold_of) == set(range(folds))
    homes = {}
    for video, fold in zip(videos, fold_of, strict=True):
        assert homes.setdefault(video.group, fold) == fold
    for label in range(len(sizes)):
        assert {fold for video, fold in zip(videos, fold_of, strict=True) if video.labels == (label,)} == set(range(folds))


def test_equal_groups_are_dealt_evenly():
    videos = videos_of([[4] * 25] * 11)  # the shape of UCF-11
    fold_of = deal_folds(videos, 5, [str(label) for label in range(11)])
    assert set(Counter(fold_of).values()) == {11 * 5 * 4}
    assert set(Counter((video.labels, fold) for video, fold in zip(videos, fold_of, strict=True)).values()) == {5 * 4}


def test_the_folds_are_the_same_every_time_and_do_not_depend_on_the_order_of_videos():
    videos = videos_of([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]])
    fold_of = deal_folds(videos, 3, "ab")
    assert (deal_folds(videos, 3, "ab") == fold_of).all()
    assert (deal_folds(videos[::-1], 3, "ab") == fold_of[::-1]).all()
    equal = videos_of([[2] * 9])
    assert (deal_folds(equal, 3, "a", seed=1) != deal_folds(equal, 3, "a")).any()


@pytest.mark.skipif(not (SHARED / "data/hmdb51_splits").is_dir(), reason=f"{SHARED}/data/hmdb51_splits is absent")
@pytest.mark.parametrize("split", ["1", "2", "3"])
def test_hmdb51s_titles_go_into_five_folds(split):
    """Real titles span classes and differ in size: 70 clips of each class in train, 14 a fold if all were single."""
    videos = []
    for label, name in enumerate(hmdb51.CLASSES):
        for clip, side in hmdb51.read_split_file(SHARED / f"data/hmdb51_splits/{name}_test_split{split}.txt"):
            if side == "train":
                videos.append(Video(f"{name}/{clip}", (label,), hmdb51.source_title(clip, name)))
    fold_of = deal_folds(videos, 5, hmdb51.CLASSES)
    sizes = np.bincount(fold_of, minlength=5)
    assert sizes.sum() == 3570 and sizes.max() - sizes.min() <= 40, sizes
    counts = np.zeros((51, 5), dtype=int)
    for video, fold in zip(videos, fold_of, strict=True):
        counts[video.labels[0], fold] += 1
    assert counts.min() >= 5 and np.abs(counts - 14).mean() < 1.5, (counts.min(), np.abs(counts - 14).mean())


def test_several_labels_and_none_are_balanced_too():
    videos = [Video(str(n), (0, 1) if n % 3 else (), str(n)) for n in range(30)]
    fold_of = deal_folds(videos, 5, "ab")
    assert [sum(bool(v.labels) for v, f in zip(videos, fold_of, strict=True) if f == fold) for fold in range(5)] == [4] * 5


def test_too_few_groups_are_named():
    with pytest.raises(DataError, match="5 folds need 5 groups .* run 2; take at most 2 folds"):
        deal_folds(videos_of([[1] * 5, [3, 3]]), 5, ["jump", "run"])
    with pytest.raises(DataError, match="there is one only of run 1"):
        deal_folds(videos_of([[1] * 5, [3]]), 2, ["jump", "run"])


def test_what_a_fold_is_called():
    assert parse_fold("2/5") == Fold(2, 5) and parse_fold("all/3") == Fold(None, 3)
    for text, says in {"6/5": "from 1 to 5", "0/5": "from 1 to 5", "1/1": "2 folds or more", "5": "i/n", "a/b": "i/n"}.items():
        with pytest.raises(ValueError, match=says):
            parse_fold(text)
