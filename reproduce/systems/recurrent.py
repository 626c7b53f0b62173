"""From settings to objects: a run's network, LightningModule and data module."""

from __future__ import annotations

import torch
from lightning.pytorch import seed_everything

from datamodules.base import (
    HMDB51DataModule,
    Hollywood2DataModule,
    UCF11DataModule,
    VideoDataModule,
    VideoFolderDataModule,
)
from datamodules.folds import Fold, parse_fold
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM, SoftmaxRegression
from lightning_modules.objective import Objective
from lightning_modules.recognizer import Recognizer
from reproduce.common.dataset import data_folder, feature_folder, split_of
from reproduce.common.settings import Settings

DATA_MODULES: dict[str, type[VideoDataModule]] = {
    "ucf11": UCF11DataModule,
    "hmdb51": HMDB51DataModule,
    "hollywood2": Hollywood2DataModule,
    "videofolder": VideoFolderDataModule,
}


def build_network(settings: Settings, map_shape: tuple[int, int], num_classes: int) -> torch.nn.Module:
    """The network of a run.

    Args:
        settings: of the run.
        map_shape: (K, D).
        num_classes: C.
    """
    (locations, channels), model = map_shape, settings.model
    if model.name == "softmax_regression":
        return SoftmaxRegression(locations, channels, num_classes)
    if model.name == "soft_attention":
        return SoftAttentionLSTM(
            locations,
            channels,
            num_classes,
            model.hidden_dim,
            model.num_layers,
            model.attention,
            model.attention_layers,
            model.dropout,
            model.input_dropout,
            model.fast,
        )
    pooling = {"avg_pool_lstm": "mean", "max_pool_lstm": "max"}[model.name]
    return PooledLSTM(channels, num_classes, pooling, model.hidden_dim, model.num_layers, model.dropout, model.input_dropout)


def build_recognizer(settings: Settings, data: VideoDataModule) -> Recognizer:
    """Network, objective and optimiser of a run, freshly initialised from its seed."""
    seed_everything(settings.seed, workers=True, verbose=False)
    classes = len(data.annotation.classes)
    objective, optim = settings.objective, settings.optim
    return Recognizer(
        build_network(settings, data.map_shape, classes),
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
    )


def build_data(settings: Settings) -> VideoDataModule:
    """The data module of a run; its first stage holds a part of train, or a fold of it, out."""
    data, fold = settings.data, fold_of(settings)
    return DATA_MODULES[data.name](
        data_folder(settings),
        feature_folder(settings),
        split_of(settings),
        data.fps,
        data.stride,
        data.batch_size,
        False,
        settings.seed,
        data.resident,
        int(data.gpu_budget * 2**30),
        None if data.ram_budget is None else int(data.ram_budget * 2**30),
        data.skip_bad,
        fold and (fold.number or 1, fold.folds),
    )


def fold_of(settings: Settings) -> Fold | None:
    """What ``data.fold`` says."""
    return None if settings.data.fold is None else parse_fold(settings.data.fold)
