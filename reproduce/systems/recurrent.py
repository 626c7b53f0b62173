"""The recurrent networks and softmax regression as a system: cubes of features, blocks, the protocol's two stages."""

from __future__ import annotations

import shutil
import statistics as python_statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import seed_everything

from datamodules.base import VideoDataModule
from datamodules.blocks import BLOCK_LENGTH
from datamodules.folds import Fold, parse_fold
from datamodules.videos import Annotation
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM, SoftmaxRegression
from lightning_modules.composite import LSTMClassifier
from lightning_modules.hard_attention import HardAttentionLSTM
from lightning_modules.measures import NAMES
from lightning_modules.multiresolution import MultiresolutionLSTM
from lightning_modules.objective import Objective
from lightning_modules.recognizer import Recognizer
from lightning_modules.selective import TopKAttentionLSTM
from reproduce.common.dataset import data_folder, feature_folder, part_of, reader_of, split_of
from reproduce.common.processes import is_first_process
from reproduce.common.settings import Settings, with_values
from reproduce.experiments import tracking
from reproduce.experiments.attention_files import write_attended
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.history import History
from reproduce.experiments.predictions import decide, write_predictions
from reproduce.experiments.provenance import versions
from reproduce.systems.base import Stores
from reproduce.systems.devices import about_devices, arithmetic_notes, set_up
from reproduce.systems.preemption import explained
from reproduce.systems.trainer import BEST, CV_SCORE, LAST, Fitted, Training, test

SMALLER = "data.batch_size or data.gpu_budget lower, or data.resident=ram"  # where a GPU's memory runs out


def build(settings: Settings, annotation: Annotation) -> RecurrentSystem:
    """Make the system of a run, not yet fitted."""
    set_up(settings)
    return RecurrentSystem(settings, build_data(settings))


class RecurrentSystem:
    """A network over blocks of a video's features, trained by gradient.

    The protocol holds 15 % of train out, keeps the epoch that is best on it, and notes its cost; then it trains anew on all of
    train until it reaches that cost. With ``data.fold`` there is no second stage and no test.

    Args:
        settings: of the run.
        data: of the run.
    """

    by_epochs = False
    """Whether the second stage takes as many epochs as the best one, instead of going down to its cost."""

    def __init__(self, settings: Settings, data: Any) -> None:
        self.settings, self.data = settings, data
        self.recognizer: Any = None
        self.checkpoint: Path | None = None  # whose weights are tested

    @property
    def network(self) -> torch.nn.Module:
        """The fitted network; the tested one after the test."""
        assert self.recognizer is not None, "fit first"
        return self.recognizer.network

    def fit(self, videos: Annotation, stores: Stores, run: RunFolder, log: tracking.Log) -> dict[str, float]:
        """Go through the protocol's stages, from the last whole epoch of an interrupted call.

        Raises:
            DataError: a checkpoint or the history is damaged, or another process of the run is gone.
            FloatingPointError: the loss, the weights or the scores are not finite; nothing of that epoch is kept.
        """
        with explained(self.settings, SMALLER):
            return self._fit(Training(self.settings, run, log, History(run.history)))

    def _fit(self, training: Training) -> dict[str, float]:
        settings, data, run = self.settings, self.data, training.folder
        goal = "val/mAP" if data.annotation.multi_label else "val/accuracy"
        self.recognizer = self.begin("holdout")
        fold = fold_of(settings)
        if fold is not None and fold.number is None:
            figures = self._fit_each_fold(training, goal, fold.folds)
            return figures | {"seconds": training.clock.before}

        def keep(scores: torch.Tensor) -> None:
            held, multi_label = data.videos("val"), data.annotation.multi_label
            predicted = decide(scores.numpy(), multi_label)
            write_predictions(run.validation, held, data.annotation.classes, scores.numpy(), predicted)

        self.prepare(training, "holdout")
        training.fit_stage("holdout", self.recognizer, data, goal, keep=keep)
        best = training.history.best("holdout", goal)
        self.checkpoint = run.stage("holdout") / BEST
        figures = {key: best[key] for key in best if key.startswith("val/")}
        figures |= {"holdout/epoch": best["epoch"], "holdout/cost": best["train/loss"]}
        if fold is None and settings.protocol == "retrain":
            data.train_on_all = True  # the frames stay where they are
            self.recognizer = self.begin("retrain")
            self.prepare(training, "retrain")
            if self.by_epochs:
                training = replace(training, settings=with_values(settings, {"trainer.max_epochs": best["epoch"] + 1}))
            target = None if self.by_epochs else best["train/loss"]
            training.fit_stage("retrain", self.recognizer, data, target_cost=target)
            self.checkpoint = run.stage("retrain") / LAST
            last = training.history.rows("retrain")[-1]
            figures |= {"retrain/epochs": last["epoch"] + 1, "retrain/cost": last["train/loss"]}
        return figures | {"seconds": training.clock.before}

    def begin(self, stage: str) -> Fitted:
        """What a stage trains, from its seed; ``stage`` is ``holdout``, ``retrain``, or ``fold-1`` …."""
        return build_recognizer(self.settings, self.data)

    def prepare(self, training: Training, stage: str) -> None:
        """Change a stage's freshly initialised network before it is fitted; most networks begin as they are."""

    def _fit_each_fold(self, training: Training, goal: str, folds: int) -> dict[str, Any]:
        """Validate on each fold in its turn; returns the means over folds, ``cv/…``, of each one's best epoch.

        ``cv/score``, the mean of the goal, is recorded at every epoch, over the folds so far: a sweep can end a poor run early.
        """
        history = training.history
        stages = [f"fold-{number}" for number in range(1, folds + 1)]
        for number, stage in enumerate(stages):

            def score(figures: dict[str, float], number: int = number, stage: str = stage) -> dict[str, float]:
                so_far = [history.best(earlier, goal)[goal] for earlier in stages[:number]]
                so_far.append(max([figures[goal], *(row[goal] for row in history.rows(stage))]))
                progress = {CV_SCORE: python_statistics.fmean(so_far)}
                tracking.log(training.log, {**progress, "cv/epoch": sum(len(history.rows(name)) for name in stages) + 1})
                return progress

            if len(history.rows(stage)) < self.settings.trainer.max_epochs:
                self.data.fold = (number + 1, folds)  # the frames stay where they are
                self.recognizer = self.begin(stage)
                self.prepare(training, stage)
                training.fit_stage(stage, self.recognizer, self.data, goal, score=score)
            if is_first_process():
                shutil.rmtree(training.folder.stage(stage), ignore_errors=True)  # a sweep's checkpoints would fill disks
        best = [history.best(stage, goal) for stage in stages]
        names = [key.removeprefix("val/") for key in best[0] if key.startswith("val/")]
        values = [epoch[goal] for epoch in best]
        return {
            CV_SCORE: python_statistics.fmean(values),
            "cv/std": python_statistics.stdev(values),
            **{f"cv/{name}": python_statistics.fmean(epoch[f"val/{name}"] for epoch in best) for name in names},
            **{f"{stage}/{goal.removeprefix('val/')}": value for stage, value in zip(stages, values, strict=True)},
        }

    def scores(self, videos: Annotation, stores: Stores) -> np.ndarray:
        """(V, C) float32 mean class probabilities over the blocks of each test video.

        Raises:
            FloatingPointError: they are not finite.
        """
        assert self.recognizer is not None and self.checkpoint is not None, "fit first"
        with explained(self.settings, SMALLER):
            test(self.settings, self.recognizer, self.data, self.checkpoint)
        assert self.recognizer.scores is not None
        return self.recognizer.scores.mean.numpy()

    def figures(self) -> dict[str, float]:
        """The blocks' votes, and what was measured of the attention."""
        assert self.recognizer is not None
        return {name: value for name, value in self.recognizer.figures.items() if name.startswith("test/")}

    def describe(self, run: RunFolder) -> dict[str, Any]:
        """Write ``attention.csv`` where attention was measured; returns the feature map, the blocks' stride, the devices."""
        assert self.recognizer is not None
        data, found = self.data, self.recognizer.attention
        if found is not None and bool(found.counts.any()):
            names = [video.name for video in data.annotation.test]
            write_attended(run.attended, names, NAMES, found.sums.tolist(), found.counts.tolist())
        return {
            "map": [*data.store.grid, data.store.channels],
            **({} if data.store.drawn else {"stride": self.settings.data.stride}),
            "notes": [*data.notes, *arithmetic_notes(self.settings)],
            "versions": versions() | {"torch": torch.__version__},  # with the build, such as +cpu
            **about_devices(self.settings),
        }


def build_data(
    settings: Settings, kind: type[VideoDataModule] = VideoDataModule, features: Path | None = None
) -> VideoDataModule:
    """Make the data module of a run, of its own features unless others are given; its first stage holds a part of train out."""
    data, fold = settings.data, fold_of(settings)
    return kind(
        root=data_folder(settings),
        features=features or feature_folder(settings),
        split=split_of(settings),
        fps=data.fps,
        stride=data.stride,
        batch_size=data.batch_size,
        seed=settings.seed,
        resident=data.resident,
        gpu_budget=int(data.gpu_budget * 2**30),
        gpu_reserve=int(data.gpu_reserve * 2**30),
        ram_budget=None if data.ram_budget is None else int(data.ram_budget * 2**30),
        skip_bad=data.skip_bad,
        keep_damaged=data.keeps_damaged,
        fold=fold and (fold.number or 1, fold.folds),
        reader=reader_of(data.name, data.permuted),
        part=part_of(settings),
    )


def fold_of(settings: Settings) -> Fold | None:
    """What ``data.fold`` says."""
    return None if settings.data.fold is None else parse_fold(settings.data.fold)


def build_recognizer(
    settings: Settings, data: VideoDataModule, kind: type[Recognizer] = Recognizer, **options: Any
) -> Recognizer:
    """Network, objective and optimiser of a run, freshly initialised from its seed; ``options`` are the kind's own."""
    seed_everything(settings.seed, workers=True, verbose=False)
    classes = len(data.annotation.classes)
    objective, optim = settings.objective, settings.optim
    network = build_network(settings, data.map_shape, classes, data.store.scales, data.store.grid)
    data.inputs = network.inputs  # type: ignore[assignment]
    data.length = getattr(network, "block_length", BLOCK_LENGTH)
    data.together = kind is Recognizer  # another one may draw for a video by itself
    return kind(
        network,
        classes,
        data.annotation.multi_label,
        Objective(
            objective.attention_penalty,
            objective.penalty_reduction,
            objective.weight_decay,
            objective.batch_reduction,
        ),
        optim.name,
        optim.lr,
        (optim.beta1, optim.beta2),
        optim.eps,
        settings.model.last_n,
        settings.seed,
        **options,
    )


def build_network(
    settings: Settings,
    map_shape: tuple[int, int],
    num_classes: int,
    scales: Sequence[Sequence[int]] = (),
    grid: tuple[int, int] | None = None,
) -> torch.nn.Module:
    """The network of a run.

    Args:
        settings: of the run.
        map_shape: (K, D).
        num_classes: C.
        scales: rows, columns and channels of each packed map, where there are several.
        grid: rows and columns of the map, where regions are cut from it.
    """
    (locations, channels), model, hard = map_shape, settings.model, settings.hard
    regions = {"region": hard.region, "grid": grid}
    if model.name == "multiresolution_attention":
        return MultiresolutionLSTM(
            [(rows, columns, width) for rows, columns, width in scales],
            num_classes,
            model.hidden_dim,
            model.num_layers,
            model.dropout,
            model.input_dropout,
            settings.multiresolution.width,
            settings.multiresolution.combine == "concatenate",
            settings.multiresolution.nested,
        )
    if model.name in ("composite_lstm", "lstm_classifier"):
        return LSTMClassifier(channels, num_classes, model.hidden_dim, model.num_layers, model.dropout)
    if model.name == "softmax_regression":
        return SoftmaxRegression(locations, channels, num_classes)
    attending = {
        "soft_attention": (SoftAttentionLSTM, {"fast": model.fast}),
        "top_k_attention": (TopKAttentionLSTM, {"top_k": model.top_k}),
        "hard_attention": (HardAttentionLSTM, {"baseline": hard.baseline, "steps": BLOCK_LENGTH, **regions}),
    }
    if model.name in attending:
        network, options = attending[model.name]
        return network(
            locations,
            channels,
            num_classes,
            model.hidden_dim,
            model.num_layers,
            model.attention,
            model.attention_layers,
            model.dropout,
            model.input_dropout,
            **options,
        )
    pooling = {"avg_pool_lstm": "mean", "max_pool_lstm": "max"}[model.name]
    return PooledLSTM(channels, num_classes, pooling, model.hidden_dim, model.num_layers, model.dropout, model.input_dropout)
