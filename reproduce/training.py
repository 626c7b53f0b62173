"""One run: the protocol's two stages, the test, and what is written of them."""

from __future__ import annotations

import math
import shutil
import statistics as python_statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from datamodules.base import (
    VideoDataModule,
)
from datamodules.videos import Annotation
from lightning_modules.recognizer import Recognizer
from reproduce import tracking
from reproduce.building import build_data, build_recognizer, fold_of
from reproduce.extraction import ensure_features, is_first_process, quiet_lightning, strategy
from reproduce.history import History
from reproduce.outcome import about, write_test
from reproduce.progress import Progress
from reproduce.provenance import provenance
from reproduce.runs import RunFolder
from reproduce.settings import Settings, cores, to_yaml

CV_SCORE = "cv/score"  # mean over folds of validation accuracy, or mAP for multi-label


def run(settings: Settings, annotation: Annotation, folder: RunFolder) -> dict[str, Any]:
    """Fit, test and write one run, from where an earlier call stopped; returns its metrics.

    Another process that works on the same run is waited for, and its result taken; so is that of another machine in the
    same W&B sweep.
    """
    quiet_lightning()
    torch.set_num_threads(settings.trainer.threads or max(1, cores() // settings.trainer.devices))
    if not is_first_process():
        ensure_features(settings, annotation)
        return _run(settings, folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process works on {folder.path}; waiting for it", flush=True)
        lock.acquire()
    with lock:  # before the other processes of this run are started, which would wait for this one in vain
        metrics = folder.metrics() or tracking.fetch(settings, folder)
        if metrics is None:
            ensure_features(settings, annotation)
            return _run(settings, folder)
    tracking.report(settings, folder)
    return metrics


def _run(settings: Settings, folder: RunFolder) -> dict[str, Any]:
    started = time.perf_counter()
    origin = provenance()
    data = build_data(settings)
    if is_first_process():
        folder.write_config(to_yaml(settings))
    logger = None
    if is_first_process():
        logger = tracking.start(settings, folder)
    history = History(folder.history)
    goal = "val/mAP" if data.annotation.multi_label else "val/accuracy"

    recognizer = build_recognizer(settings, data)
    data.inputs = recognizer.network.inputs  # type: ignore[assignment]
    fold = fold_of(settings)
    if fold is not None and fold.number is None:
        figures = _each_fold(settings, folder, data, history, goal, fold.folds, logger)
    else:
        fit_stage(settings, folder, "holdout", recognizer, data, history, goal, None, logger)
        best = history.best("holdout", goal)
        checkpoint = folder.stage("holdout") / "best.ckpt"
        figures = {key: best[key] for key in best if key.startswith("val/")}
        figures |= {"holdout/epoch": best["epoch"], "holdout/cost": best["train/loss"]}
    if fold is None and settings.protocol == "retrain":
        data.train_on_all = True  # the frames stay where they are
        recognizer = build_recognizer(settings, data)
        second = tracking.stage_logger(logger, "retrain")
        fit_stage(settings, folder, "retrain", recognizer, data, history, None, best["train/loss"], second)
        checkpoint = folder.stage("retrain") / "last.ckpt"
        last = history.rows("retrain")[-1]
        figures |= {"retrain/epochs": last["epoch"] + 1, "retrain/cost": last["train/loss"]}
    if fold is None:
        figures |= test(settings, recognizer, data, checkpoint)

    figures["seconds"] = round(time.perf_counter() - started, 1)
    if is_first_process():
        tested = {} if fold else write_test(folder, recognizer, data)
        folder.write_about(about(settings, data) | tested | origin)
        folder.finish(figures)
        tracking.finish(logger, folder)
    return figures


def _each_fold(
    settings: Settings,
    folder: RunFolder,
    data: VideoDataModule,
    history: History,
    goal: str,
    folds: int,
    logger: WandbLogger | None,
) -> dict[str, Any]:
    """Validate on each fold in its turn; returns the means over folds, ``cv/…``, of each one's best epoch.

    ``cv/score``, the mean of the goal, is recorded at every epoch, over the folds so far: a sweep can end a poor run early.
    """
    stages = [f"fold-{number}" for number in range(1, folds + 1)]
    for number, stage in enumerate(stages):

        def score(figures: dict[str, float], number: int = number, stage: str = stage) -> dict[str, float]:
            so_far = [history.best(earlier, goal)[goal] for earlier in stages[:number]]
            so_far.append(max([figures[goal], *(row[goal] for row in history.rows(stage))]))
            progress = {CV_SCORE: python_statistics.fmean(so_far)}
            tracking.log(logger, {**progress, "cv/epoch": sum(len(history.rows(name)) for name in stages) + 1})
            return progress

        if len(history.rows(stage)) < settings.trainer.max_epochs:
            data.fold = (number + 1, folds)  # the frames stay where they are
            recognizer = build_recognizer(settings, data)
            curves = tracking.stage_logger(logger, stage)
            fit_stage(settings, folder, stage, recognizer, data, history, goal, None, curves, score)
        if is_first_process():
            shutil.rmtree(folder.stage(stage), ignore_errors=True)  # the checkpoints of a sweep's runs would fill disks
    best = [history.best(stage, goal) for stage in stages]
    names = [key.removeprefix("val/") for key in best[0] if key.startswith("val/")]
    values = [epoch[goal] for epoch in best]
    return {
        CV_SCORE: python_statistics.fmean(values),
        "cv/std": python_statistics.stdev(values),
        **{f"cv/{name}": python_statistics.fmean(epoch[f"val/{name}"] for epoch in best) for name in names},
        **{f"{stage}/{goal.removeprefix('val/')}": value for stage, value in zip(stages, values, strict=True)},
    }


def make_trainer(settings: Settings, **options: Any) -> Trainer:
    """A Trainer with what all stages share."""
    return Trainer(
        accelerator=settings.trainer.accelerator,
        devices=settings.trainer.devices,
        num_nodes=settings.trainer.num_nodes,
        strategy=strategy(settings),
        precision=settings.trainer.precision,  # type: ignore[arg-type]
        use_distributed_sampler=False,  # the data module deals blocks and videos to ranks itself
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        deterministic=not torch.cuda.is_available(),
        **options,
    )


def fit_stage(
    settings: Settings,
    folder: RunFolder,
    stage: str,
    recognizer: Recognizer,
    data: VideoDataModule,
    history: History,
    goal: str | None,
    target_cost: float | None,
    logger: WandbLogger | None,
    score: Callable[[dict[str, float]], dict[str, float]] | None = None,
) -> None:
    """Fit one stage, or what is left of it.

    Args:
        settings: of the run.
        folder: of the run.
        stage: ``holdout``, ``retrain`` or ``fold-1`` ….
        recognizer: freshly initialised.
        data: of the stage.
        history: of the run.
        goal: validation figure whose best epoch is kept as ``best.ckpt``.
        target_cost: training cost (nats, Eq. 7) at which the stage ends, or None.
        logger: of the stage.
        score: further figures of an epoch, from those it has.
    """
    checkpoints = folder.stage(stage)
    last = checkpoints / "last.ckpt"
    done = history.resume(stage, _epochs_in(last))
    reached = target_cost is not None and any(row["train/loss"] <= target_cost for row in done)
    if reached or len(done) >= settings.trainer.max_epochs:
        return
    callbacks: list[Any] = [EpochRecorder(stage, history, settings.trainer.max_epochs, target_cost, settings, score)]
    keep = {"monitor": goal, "mode": "max", "filename": "best", "save_top_k": 1} if goal else {"save_top_k": 0}
    callbacks.append(
        ModelCheckpoint(
            dirpath=checkpoints,
            save_last=True,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
            **keep,  # type: ignore[arg-type]
        )
    )
    trainer = make_trainer(
        settings,
        max_epochs=settings.trainer.max_epochs,
        callbacks=callbacks,
        logger=logger or False,
        limit_val_batches=1.0 if goal else 0,
    )
    trainer.fit(recognizer, datamodule=data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)


def _epochs_in(checkpoint: Path) -> int:
    """Epochs that a checkpoint has behind it; 0 where there is none."""
    if not checkpoint.is_file():
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"]) + 1


def test(settings: Settings, recognizer: Recognizer, data: VideoDataModule, checkpoint: Path) -> dict[str, float]:
    """Test a checkpoint's weights; returns the ``test/…`` figures."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    recognizer.load_state_dict(state)
    trainer = make_trainer(settings, logger=False, enable_checkpointing=False)
    trainer.test(recognizer, datamodule=data, verbose=False)
    return dict(recognizer.figures)


class EpochRecorder(Checkpoint):
    """Writes each epoch's figures to the history, shows progress, and ends a stage at its target cost.

    A ``Checkpoint`` only because Lightning calls those after the module has logged the epoch.

    Args:
        stage: ``holdout``, ``retrain`` or ``fold-1`` ….
        history: of the run.
        max_epochs: of the stage.
        target_cost: training cost at which the stage ends, or None.
        settings: of the run.
        score: further figures of an epoch, from those it has.
    """

    def __init__(
        self,
        stage: str,
        history: History,
        max_epochs: int,
        target_cost: float | None,
        settings: Settings,
        score: Callable[[dict[str, float]], dict[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self.score = score
        self.stage, self.history, self.max_epochs, self.target_cost = stage, history, max_epochs, target_cost
        self.batch_size = settings.data.batch_size
        self.progress = Progress("", "")
        self.first_batch = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        self.progress = Progress(self.stage, "", trainer.is_global_zero)
        self.first_batch = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Show how far the stage is."""
        per_epoch = max(1, int(trainer.num_training_batches))
        done = trainer.global_step - self.first_batch
        total = self.max_epochs * per_epoch - self.first_batch
        rate = done * self.batch_size / max(1e-9, time.perf_counter() - self.progress.started)
        self.progress.update(done, total, f"epoch {trainer.current_epoch + 1}/{self.max_epochs}, {rate:.0f} blocks/s")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch."""
        figures = {
            key: float(value)
            for key, value in trainer.callback_metrics.items()
            if key != "train/step_loss" and math.isfinite(float(value))
        }
        if self.score is not None:
            figures |= self.score(figures)
        if trainer.is_global_zero:
            self.history.add({"stage": self.stage, "epoch": trainer.current_epoch, **figures})
            shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items() if key in _SHOWN)
            print(f"{self.stage} epoch {trainer.current_epoch + 1}/{self.max_epochs}: {shown}", flush=True)
        else:
            self.history._rows.append({"stage": self.stage, "epoch": trainer.current_epoch, **figures})
        if self.target_cost is not None and figures["train/loss"] <= self.target_cost:
            trainer.should_stop = True


_SHOWN = ("train/loss", "val/accuracy", "val/mAP", "attention/penalty", CV_SCORE)
