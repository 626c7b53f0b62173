"""Late fusion as a system: finished runs' scores of the test videos, averaged or weighed by a linear SVM.

Source: Simonyan & Zisserman, Two-stream convolutional networks for action recognition in videos, NIPS 2014, §5: the mean of
the streams' softmax scores, or a multi-class linear SVM (Crammer & Singer) on stacked L2-normalised softmax scores. They do
not say on which videos theirs is trained. Scores of videos that a member was fitted on are over-confident, so here it is
trained on those that the members' first stage held out of train. Free of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datamodules.videos import Annotation, DataError
from reproduce.common.settings import Settings, SettingsError
from reproduce.experiments import tracking
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import members, run_folder
from reproduce.experiments.predictions import Predictions, read_predictions
from reproduce.systems.base import Stores

MOST_STEPS = 100_000  # of the SVM's solver, which takes some hundreds
NOTHING = Predictions((), (), np.empty((0, 0), bool), np.empty((0, 0), np.float32))


def build(settings: Settings, annotation: Annotation) -> Fusion:
    """Make the fusion of a run's members.

    Raises:
        SettingsError: the run is of a fold, of which members have no test.
        DataError: a member is not finished, or lacks what is needed.
    """
    if settings.data.fold is not None:
        raise SettingsError(f"data.fold={settings.data.fold}: fusion takes the members' tests, and a fold has none")
    found = [read_member(member, annotation, settings.fusion.method == "svm") for member in members(settings)]
    return Fusion(settings.fusion.method, found)


@dataclass(frozen=True)
class Member:
    """A finished run that is fused with others.

    Args:
        row: of the tables.
        folder: of the run.
        test: its predictions.
        held: those of the videos that its first stage held out; None where they are not needed.
    """

    row: str
    folder: RunFolder
    test: Predictions = NOTHING
    held: Predictions | None = None

    @property
    def command(self) -> str:
        """What makes it."""
        return f"python reproduce/train.py … row={self.row}"

    @property
    def again(self) -> str:
        """What makes it anew."""
        return f"Remove that folder; with the other settings as they are, {self.command} makes it anew"


def read_member(settings: Settings, annotation: Annotation, with_held: bool) -> Member:
    """Read a finished run's scores.

    Args:
        settings: of the run.
        annotation: its data set.
        with_held: whether the held-out videos' scores are needed.

    Raises:
        DataError: it is not finished, damaged, or lacks what is needed; says which command helps.
    """
    member = Member(str(settings.row), run_folder(settings, annotation))
    if member.folder.metrics() is None:
        raise DataError(
            f"{member.row} is to be fused, and has no finished run in {member.folder.path.resolve()}. With the other settings "
            f"as they are, {member.command} makes it"
        )
    test = member.folder.predictions()
    if with_held and not member.folder.validation.is_file():
        raise DataError(
            f"{member.folder.validation.resolve()} is missing: fusion.method=svm is trained on the videos that a run held out "
            f"of train, and an earlier version did not keep their scores. {member.again}"
        )
    return replace(member, test=test, held=read_predictions(member.folder.validation) if with_held else None)


class Fusion:
    """The mean of the members' scores, or a linear SVM on all of them.

    Args:
        method: ``mean`` or ``svm``.
        members: two or more.
    """

    def __init__(self, method: str, members: Sequence[Member]) -> None:
        self.method, self.members = method, list(members)
        self.svm: LinearSVM | None = None

    def fit(self, videos: Annotation, stores: Stores, run: RunFolder, log: tracking.Log) -> dict[str, float]:
        """Check that the members are of the same videos, and fit the SVM on those that they held out.

        Raises:
            DataError: they are not, or the held-out videos are all of one class.
        """
        names = [video.name for video in videos.test]
        for member in self.members:
            if member.test.classes != videos.classes or list(member.test.videos) != names:
                what = "classes" if member.test.classes != videos.classes else "videos, or in another order,"
                where = f"{member.folder.path.resolve()}: was tested on other {what}"
                raise DataError(f"{where} than {videos.root.resolve()} has now. {member.again}")
        if self.method == "svm":
            held = [member.held for member in self.members if member.held is not None]
            first = held[0]
            for member, other in zip(self.members, held, strict=True):
                if (other.videos, other.classes) != (first.videos, videos.classes):
                    where = f"{member.folder.validation.resolve()}: holds other videos or classes"
                    raise DataError(f"{where} than the one of {self.members[0].row}. {member.again}")
            self.svm = LinearSVM(stacked([one.scores for one in held]), first.target, videos.several_labels)
        return {}

    def scores(self, videos: Annotation, stores: Stores) -> np.ndarray:
        """(V, C) from 0 to 1: the mean, or the logistic function of the SVM's decisions."""
        given = [member.test.scores for member in self.members]
        if self.svm is None:
            return np.asarray(np.mean(given, axis=0, dtype=np.float64), dtype=np.float32)
        with np.errstate(over="ignore"):  # of a class without a held-out video: exp(inf)
            return (1 / (1 + np.exp(-self.svm.decisions(stacked(given))))).astype(np.float32)

    def figures(self) -> dict[str, float]:
        """Nothing besides the scores' figures."""
        return {}

    def describe(self, run: RunFolder) -> dict[str, Any]:
        """Say which runs were fused, by the SHA-256 of their predictions, and repeat their notes."""
        fused = [
            {"row": member.row, "folder": member.folder.name, "predictions_sha256": member.folder.predictions_sha256()}
            for member in self.members
        ]
        notes = dict.fromkeys(note for member in self.members for note in member.folder.about().get("notes", []))
        return {"members": fused, "notes": list(notes)}


def stacked(scores: Sequence[np.ndarray]) -> np.ndarray:
    """(V, M·C): each member's scores (V, C) of a video, of length 1, beside one another."""
    lengths = [np.linalg.norm(one, axis=1, keepdims=True) for one in scores]
    return np.hstack([one / np.maximum(length, 1e-12) for one, length in zip(scores, lengths, strict=True)])


class LinearSVM:
    """A linear SVM with C = 1: Crammer and Singer's for one label a video, else one a class.

    Args:
        inputs: (V, D).
        target: (V, C) booleans.
        multi_label: whether a video may have any number of labels.

    Raises:
        SettingsError: scikit-learn is not installed.
        DataError: all videos are of one class.
    """

    def __init__(self, inputs: np.ndarray, target: np.ndarray, multi_label: bool) -> None:
        try:
            from sklearn.svm import LinearSVC
        except ImportError:
            raise SettingsError("fusion.method=svm needs scikit-learn: pip install -e '.[systems]'") from None
        self.classes = target.shape[1]
        options: dict[str, Any] = {"C": 1.0, "dual": True, "random_state": 0, "max_iter": MOST_STEPS}
        self.one_each: list[Any] = []
        if not multi_label:
            labels = target.argmax(axis=1)
            if len(set(labels.tolist())) < 2:
                raise DataError(
                    f"fusion.method=svm: the {len(labels)} videos held out of train are all of one class; take "
                    "fusion.method=mean"
                )
            self.joint = LinearSVC(multi_class="crammer_singer", **options).fit(inputs, labels)
            return
        self.joint = None
        for positive in target.T:  # a class that no video has, or all of them, is decided the same of every video
            known = positive.any() and not positive.all()
            self.one_each.append(LinearSVC(**options).fit(inputs, positive) if known else (1.0 if positive.any() else -1.0))

    def decisions(self, inputs: np.ndarray) -> np.ndarray:
        """(V, D) -> (V, C); -inf of a class that no video was of, where videos have one label."""
        if self.joint is None:
            columns = [
                np.full(len(inputs), one) if isinstance(one, float) else one.decision_function(inputs) for one in self.one_each
            ]
            return np.stack(columns, axis=1)
        found = self.joint.decision_function(inputs)
        if found.ndim == 1:  # of two classes, by how much the second one is ahead
            found = np.stack([-found / 2, found / 2], axis=1)
        every = np.full((len(inputs), self.classes), -np.inf)
        every[:, self.joint.classes_] = found
        return every
