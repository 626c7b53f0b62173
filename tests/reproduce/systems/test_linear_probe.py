"""The linear probe against its definition, on features that are written by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest
from handmade import fill, inputs_of
from runfolders import annotation
from scipy.optimize import minimize

from reproduce.common.cli import resolve
from reproduce.common.settings import Settings, SettingsError
from reproduce.experiments.folder import RunFolder
from reproduce.systems.linear_probe import LinearProbe, build, mean_features

RUN = RunFolder(Path("nowhere"))
DATA = annotation("ucf11", ["biking", "diving", "walking"], 4)
WORDS = ["data.name=ucf11", "row=linear_probe"]


def lengths(data) -> dict[str, int]:
    return {video.name: 3 + number for number, video in enumerate(data.videos)}


def probed(data, path: Path) -> np.ndarray:
    stores, probe = {"cubes": fill(path, lengths(data))}, LinearProbe()
    assert probe.fit(data, stores, RUN, None) == {}
    return probe.scores(data, stores)


def test_a_videos_feature_is_the_mean_of_its_frames_and_locations(tmp_path):
    store, sizes = fill(tmp_path, lengths(DATA)), lengths(DATA)
    expected = [inputs_of(video.name, sizes[video.name])["cube"].astype(float).mean(axis=(0, 1)) for video in DATA.test]
    assert np.allclose(mean_features(store, DATA.test), expected, atol=1e-6)


def test_the_scores_minimise_the_regularised_cross_entropy(tmp_path):
    scores = probed(DATA, tmp_path)
    store = fill(tmp_path, {})
    train, test = (mean_features(store, videos) for videos in (DATA.train, DATA.test))
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    labels = np.array([video.labels[0] for video in DATA.train])
    shape = 3, train.shape[1]

    def logits(flat, x):
        return x @ flat[: shape[0] * shape[1]].reshape(shape).T + flat[-3:]

    def cost(flat):
        z = logits(flat, train)
        entropy = np.logaddexp.reduce(z, axis=1) - z[np.arange(len(z)), labels]
        return entropy.sum() + (flat[:-3] ** 2).sum() / 2

    best = minimize(cost, np.zeros(shape[0] * shape[1] + 3), tol=1e-12).x
    z = logits(best, test)
    assert np.allclose(scores, np.exp(z - np.logaddexp.reduce(z, axis=1)[:, None]), atol=2e-3)
    assert np.allclose(scores.sum(axis=1), 1)


def test_of_several_labels_each_class_is_by_itself_and_one_without_a_train_video_scores_zero(tmp_path):
    data = annotation("hollywood2", ["Run", "Eat", "Kiss", "SitUp"], 4, multi_label=True)
    train = tuple(video for video in data.train if 3 not in video.labels)
    scores = probed(type(data)(**{**vars(data), "train": train}), tmp_path)
    assert scores.shape == (len(data.test), 4) and (scores[:, 3] == 0).all()
    assert ((scores[:, :3] > 0) & (scores[:, :3] < 1)).all() and not np.allclose(scores.sum(axis=1), 1)


def test_of_labels_of_which_one_is_enough_each_class_is_by_itself_too(tmp_path):
    data = annotation("sports1m", ["Run", "Eat", "Kiss", "SitUp"], 4, multi_label=True)
    found = {
        hits: probed(type(data)(**{**vars(data), "multi_label": not hits, "hits": hits}), tmp_path / str(hits))
        for hits in (0, 1)
    }
    assert np.array_equal(found[0], found[1])


@pytest.mark.counts("bad settings")
def test_a_fold_has_no_use_for_it():
    with pytest.raises(SettingsError, match=r"data\.fold=1/5: a linear probe has nothing to choose"):
        build(resolve(Settings, [*WORDS, "data.fold=1/5"]), DATA)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SettingsError, match=r"needs scikit-learn .*pip install -e '\.\[systems\]'"):
        build(resolve(Settings, WORDS), DATA)
