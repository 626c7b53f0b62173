"""Late fusion of members whose scores are drawn or written by hand, and of runs that are missing or others."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from runfolders import annotation as names_of
from runfolders import write_run

from datamodules.videos import Annotation, DataError
from reproduce.common.cli import resolve
from reproduce.common.settings import Settings, SettingsError
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.predictions import Predictions, decide
from reproduce.systems.fusion import Fusion, LinearSVM, Member, build, stacked

CLASSES = ("climb", "dive", "run")
DATA = names_of("hmdb51", list(CLASSES), 8)
RUN = RunFolder(Path("nowhere"))
WORDS = ["column=hmdb51_1", "model.name=fusion", "fusion.method=svm"]


def one_hot(data: Annotation) -> np.ndarray:
    hot = np.zeros((len(data.test), len(data.classes)), dtype=bool)
    for row, video in enumerate(data.test):
        hot[row, list(video.labels)] = True
    return hot


def drawn(seed: int, target: np.ndarray, skill: float = 1.5) -> np.ndarray:
    """Softmax scores that say a little of the target."""
    logits = np.random.default_rng(seed).normal(size=target.shape) + skill * target
    return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)


def member(scores: np.ndarray, held: np.ndarray, data: Annotation = DATA) -> Member:
    """Its held-out videos bear other names, and are of the same classes in the same order."""
    names, target = tuple(video.name for video in data.test), one_hot(data)
    of_held = Predictions(tuple(f"held/{name}" for name in names), data.classes, target, held)
    return Member("some_row", RUN, Predictions(names, data.classes, target, scores), of_held)


def fused(method: str, members: list[Member], data: Annotation = DATA) -> np.ndarray:
    fusion = Fusion(method, members)
    assert fusion.fit(data, {}, RUN, None) == {}
    return fusion.scores(data, {})


def hits(scores: np.ndarray, data: Annotation = DATA) -> float:
    return float((scores.argmax(axis=1) == one_hot(data).argmax(axis=1)).mean())


@pytest.mark.parametrize("number", [2, 3])
def test_the_mean_of_identical_streams_is_each_of_them(number):
    scores = drawn(0, one_hot(DATA))
    assert np.array_equal(fused("mean", [member(scores, scores)] * number), scores)


def test_the_mean_is_of_the_members_scores():
    one, two = drawn(0, one_hot(DATA)), drawn(1, one_hot(DATA))
    found = fused("mean", [member(one, one), member(two, two)])
    np.testing.assert_allclose(found, (one + two) / 2, rtol=1e-6)
    assert found.dtype == np.float32


def test_the_svm_is_as_good_as_each_of_two_confident_streams_that_know_different_classes():
    """The first is right of the first class alone and takes all else for the last; the second knows the others."""
    target = one_hot(DATA)
    first, second = target.copy(), target.copy()
    first[target[:, 1]] = first[target[:, 2]] = [False, False, True]
    second[target[:, 0]] = [False, True, False]
    streams = [member(one.astype(np.float32), one.astype(np.float32)) for one in (first, second)]
    each = [hits(one.astype(np.float32)) for one in (first, second)]
    assert max(each) < 1 and hits(fused("svm", streams)) == 1 >= max(each)


@pytest.mark.parametrize("method", ["mean", "svm"])
def test_classes_in_another_order_give_their_scores_in_that_order(method):
    order = [2, 0, 1]
    place = {old: new for new, old in enumerate(order)}
    test = tuple(type(video)(video.name, (place[video.labels[0]],), video.group) for video in DATA.test)
    turned = type(DATA)("hmdb51", "", DATA.root, DATA.folder, tuple(CLASSES[c] for c in order), False, DATA.train, test)
    streams = [(drawn(seed, one_hot(DATA)), drawn(seed + 10, one_hot(DATA))) for seed in (0, 1)]
    before = fused(method, [member(*stream) for stream in streams])
    after = fused(method, [member(*(one[:, order] for one in stream), turned) for stream in streams], turned)
    np.testing.assert_allclose(after, before[:, order], atol=1e-3)
    assert [order[c] for c in after.argmax(axis=1)] == before.argmax(axis=1).tolist()


@pytest.mark.parametrize("classes", [2, 3])
def test_the_svm_scores_have_the_order_of_its_decisions(classes):
    data = names_of("hmdb51", list(CLASSES[:classes]), 8)
    streams = [member(drawn(seed, one_hot(data)), drawn(seed + 10, one_hot(data)), data) for seed in (0, 1)]
    found = fused("svm", streams, data)
    inputs = stacked([one.held.scores for one in streams])
    svm = LinearSVM(inputs, one_hot(data), False)
    decisions = svm.decisions(stacked([one.test.scores for one in streams]))
    assert found.shape == decisions.shape and found.min() >= 0 and found.max() <= 1
    assert np.array_equal(found.argmax(axis=1), decisions.argmax(axis=1))
    assert np.array_equal(found.argmax(axis=1), svm.joint.predict(stacked([one.test.scores for one in streams])))
    for column in range(classes):  # average precision too
        assert np.array_equal(np.argsort(found[:, column], kind="stable"), np.argsort(decisions[:, column], kind="stable"))


def test_of_several_labels_one_svm_a_class_decides_at_one_half():
    data = names_of("hollywood2", list(CLASSES), 8, multi_label=True)
    streams = [member(drawn(seed, one_hot(data)), drawn(seed + 10, one_hot(data)), data) for seed in (0, 1)]
    found = fused("svm", streams, data)
    svm = LinearSVM(stacked([one.held.scores for one in streams]), one_hot(data), True)
    decisions = svm.decisions(stacked([one.test.scores for one in streams]))
    assert np.array_equal(decide(found, True), decisions >= 0)
    target = one_hot(data)
    target[:, 0], target[:, 1] = False, True  # nobody and everybody
    constant = LinearSVM(stacked([one.held.scores for one in streams]), target, True)
    assert constant.decisions(np.ones((4, 6)))[:, :2].tolist() == [[-1.0, 1.0]] * 4


def test_a_class_of_which_no_video_was_held_out_scores_nothing():
    target = one_hot(DATA)
    seen = ~target[:, 1]
    svm = LinearSVM(stacked([drawn(0, target)])[seen], target[seen], False)
    assert (svm.decisions(stacked([drawn(1, target)]))[:, 1] == -np.inf).all()
    with pytest.raises(DataError, match="8 videos held out of train are all of one class"):
        LinearSVM(stacked([drawn(0, target)])[target[:, 0]], target[target[:, 0]], False)


# runs on disk


def settings_of(root: Path, *more: str) -> Settings:
    return resolve(Settings, [f"paths.runs={root}", *WORDS, *more])


@pytest.fixture
def runs(tmp_path):
    """Finished runs of both members, with scores of videos that they held out; returns them by row."""
    found = {}
    for row in ("avg_pool_lstm", "soft_attention_0"):
        folder = RunFolder(write_run(tmp_path, DATA, ["column=hmdb51_1", f"row={row}"], 1.5, epochs=4))
        shutil.copy(folder.path / "predictions.csv", folder.validation)
        found[row] = folder
    return found


def test_members_are_named_by_their_predictions_and_their_notes_are_repeated(tmp_path, runs):
    fusion = build(settings_of(tmp_path), DATA)
    fusion.fit(DATA, {}, RUN, None)
    scores = [folder.predictions().scores for folder in runs.values()]
    assert fusion.scores(DATA, {}).shape == scores[0].shape
    found = fusion.describe(RUN)
    assert found["members"] == [
        {"row": row, "folder": folder.name, "predictions_sha256": folder.predictions_sha256()} for row, folder in runs.items()
    ]
    assert found["notes"] == ["torchvision's GoogLeNet is a batch-norm port, not the paper's Caffe network"]
    mean = build(settings_of(tmp_path, "fusion.method=mean"), DATA)
    mean.fit(DATA, {}, RUN, None)
    np.testing.assert_allclose(mean.scores(DATA, {}), np.mean(scores, axis=0), rtol=1e-6)


@pytest.mark.counts("damaged run folders")
def test_a_member_that_is_not_finished_is_named_with_the_command_that_makes_it(tmp_path, runs):
    (runs["soft_attention_0"].path / "metrics.json").unlink()
    with pytest.raises(DataError) as error:
        build(settings_of(tmp_path), DATA)
    assert str(runs["soft_attention_0"].path) in str(error.value)
    assert "python reproduce/train.py … row=soft_attention_0 makes it" in str(error.value)


@pytest.mark.counts("damaged run folders")
def test_a_member_of_an_earlier_version_is_asked_for_anew_by_the_svm_alone(tmp_path, runs):
    runs["avg_pool_lstm"].validation.unlink()
    with pytest.raises(DataError, match="validation.csv is missing: .*Remove that folder; .*row=avg_pool_lstm makes it anew"):
        build(settings_of(tmp_path), DATA)
    assert build(settings_of(tmp_path, "fusion.method=mean"), DATA).members


@pytest.mark.counts("damaged run folders")
def test_members_on_other_videos_or_classes_are_refused(tmp_path, runs):
    fusion = build(settings_of(tmp_path), DATA)
    fewer = type(DATA)("hmdb51", "", DATA.root, DATA.folder, DATA.classes, False, DATA.train, DATA.test[::-1])
    with pytest.raises(DataError, match=r"was tested on other videos, or in another order, than .* makes it anew"):
        fusion.fit(fewer, {}, RUN, None)
    others = type(DATA)("hmdb51", "", DATA.root, DATA.folder, DATA.classes[::-1], False, DATA.train, DATA.test)
    with pytest.raises(DataError, match="was tested on other classes than"):
        fusion.fit(others, {}, RUN, None)
    lines = runs["avg_pool_lstm"].validation.read_text().splitlines(keepends=True)
    runs["avg_pool_lstm"].validation.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="holds other videos or classes than the one of avg_pool_lstm"):
        build(settings_of(tmp_path), DATA).fit(DATA, {}, RUN, None)


@pytest.mark.counts("bad settings")
@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("fusion.rows=[avg_pool_lstm]", "name two rows or more"),
        ("fusion.rows=[avg_pool_lstm,late_fusion]", "name two rows or more"),
        ("fusion.rows=[avg_pool_lstm,nobody]", "name two rows or more"),
        ("fusion.method=median", "choose from mean, svm"),
        ("data.fold=1/5", "a fold has none"),
    ],
)
def test_what_cannot_be_fused_is_refused(tmp_path, runs, word, says):
    with pytest.raises(SettingsError, match=says):
        build(settings_of(tmp_path, word), DATA)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(SettingsError, match=r"pip install -e '\.\[systems\]'"):
        LinearSVM(np.eye(3), np.eye(3, dtype=bool), False)
