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
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import WandbLogger

from datamodules.base import VideoDataModule
from datamodules.videos import Annotation, DataError
from lightning_modules.recognizer import Recognizer
from reproduce.common.locking import one_at_a_time
from reproduce.common.processes import cores
from reproduce.common.progress import Progress
from reproduce.common.settings import Settings, to_yaml
from reproduce.experiments import tracking
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.history import History
from reproduce.experiments.provenance import provenance
from reproduce.systems.checkpoints import WholeCheckpoints, read_checkpoint
from reproduce.systems.cnn_features import ensure_features, is_first_process, quiet_lightning, strategy
from reproduce.systems.finite import LossWatch, require_finite_scores, require_finite_weights
from reproduce.systems.outcome import about, write_test
from reproduce.systems.preemption import Preemption, environment_plugins, explained
from reproduce.systems.recurrent import build_data, build_recognizer, fold_of

BEST, LAST = "best.ckpt", "last.ckpt"
LOOK_EVERY = 50  # batches between two looks at whether the loss is finite; a look makes a GPU wait for the CPU
CV_SCORE = "cv/score"  # mean over folds of validation accuracy, or mAP for multi-label


class Clock:
    """Seconds that a run has taken, over all calls that worked on it; its checkpoints remember them."""

    def __init__(self) -> None:
        self.before, self.started = 0.0, time.perf_counter()

    def carry(self, seconds: float) -> None:
        """Count the seconds that a checkpoint of an earlier call remembers; each one counts those before it too."""
        self.before = max(self.before, seconds)

    def seconds(self) -> float:
        """Seconds so far."""
        return self.before + time.perf_counter() - self.started


def run(settings: Settings, annotation: Annotation, folder: RunFolder) -> dict[str, Any]:
    """Fit, test and write one run, from where an earlier call stopped; returns its metrics.

    Another process that works on the same run is waited for, and its result taken; so is that of another machine in the
    same W&B sweep.

    Raises:
        DataError: a checkpoint or the history is damaged, or another process of the run is gone.
        FloatingPointError: the loss, the weights or the scores are not finite.
    """
    quiet_lightning()
    torch.set_num_threads(settings.trainer.threads or max(1, cores() // settings.trainer.devices))
    processes = settings.trainer.devices * settings.trainer.num_nodes
    if not is_first_process():
        ensure_features(settings, annotation)
        with explained(processes):
            return _run(settings, folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    # Before the other processes of this run are started, which would wait for this one in vain.
    with one_at_a_time(folder.lock, f"works on {folder.path}"):
        for part in [*folder.path.glob("*.part"), *folder.path.glob("*/*.part")]:  # left by a killed process
            part.unlink()
        metrics = folder.metrics() or tracking.fetch(settings, folder)
        if metrics is None:
            ensure_features(settings, annotation)
            with explained(processes):
                return _run(settings, folder)
    tracking.report(settings, folder)
    return metrics


def _run(settings: Settings, folder: RunFolder) -> dict[str, Any]:
    clock = Clock()
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
        figures = _each_fold(settings, folder, data, history, goal, fold.folds, logger, clock)
    else:
        fit_stage(settings, folder, "holdout", recognizer, data, history, goal, None, logger, clock)
        best = history.best("holdout", goal)
        checkpoint = folder.stage("holdout") / BEST
        figures = {key: best[key] for key in best if key.startswith("val/")}
        figures |= {"holdout/epoch": best["epoch"], "holdout/cost": best["train/loss"]}
    if fold is None and settings.protocol == "retrain":
        data.train_on_all = True  # the frames stay where they are
        recognizer = build_recognizer(settings, data)
        second = tracking.stage_logger(logger, "retrain")
        fit_stage(settings, folder, "retrain", recognizer, data, history, None, best["train/loss"], second, clock)
        checkpoint = folder.stage("retrain") / LAST
        last = history.rows("retrain")[-1]
        figures |= {"retrain/epochs": last["epoch"] + 1, "retrain/cost": last["train/loss"]}
    if fold is None:
        figures |= test(settings, recognizer, data, checkpoint)

    figures["seconds"] = round(clock.seconds(), 1)
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
    clock: Clock,
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
            fit_stage(settings, folder, stage, recognizer, data, history, goal, None, curves, clock, score)
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


def make_trainer(settings: Settings, root: Path, **options: Any) -> Trainer:
    """A Trainer with what all stages share.

    Args:
        settings: of the run.
        root: folder where it may leave things.
        options: of the stage.
    """
    return Trainer(
        default_root_dir=root,
        plugins=[WholeCheckpoints(), *environment_plugins()],
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
    clock: Clock,
    score: Callable[[dict[str, float]], dict[str, float]] | None = None,
) -> None:
    """Fit one stage, or what is left of it after its last checkpoint.

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
        clock: of the run.
        score: further figures of an epoch, from those it has.

    Raises:
        DataError: the checkpoint or the history is damaged.
        FloatingPointError: the loss, the weights or the scores are not finite; nothing of that epoch is kept.
    """
    checkpoints = folder.stage(stage)
    last = checkpoints / LAST
    epochs = 0
    if last.is_file():
        state = read_checkpoint(last)
        if not {"epoch", "callbacks"} <= state.keys():
            raise DataError(f"{last}: no checkpoint to go on from; remove it, and this stage begins anew")
        epochs = int(state["epoch"]) + 1
        clock.carry(state["callbacks"].get(EpochRecorder.__name__, {}).get("seconds", 0.0))
    done = history.resume(stage, epochs)
    reached = target_cost is not None and any(row["train/loss"] <= target_cost for row in done)
    if reached or len(done) >= settings.trainer.max_epochs:
        return
    preemption = Preemption()
    recorder = EpochRecorder(stage, history, checkpoints, goal, target_cost, settings, clock, score)
    trainer = make_trainer(
        settings,
        checkpoints,
        max_epochs=settings.trainer.max_epochs,
        callbacks=[preemption, recorder],
        logger=logger or False,
        limit_val_batches=1.0 if goal else 0,
    )
    trainer.fit(recognizer, datamodule=data, ckpt_path=str(last) if epochs else None, weights_only=True)
    preemption.leave_if_told()


def test(settings: Settings, recognizer: Recognizer, data: VideoDataModule, checkpoint: Path) -> dict[str, float]:
    """Test a checkpoint's weights; returns the ``test/…`` figures."""
    recognizer.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    preemption = Preemption()
    trainer = make_trainer(settings, checkpoint.parent, callbacks=[preemption], logger=False, enable_checkpointing=False)
    trainer.test(recognizer, datamodule=data, verbose=False)
    preemption.leave_if_told()
    require_finite_scores(recognizer, f"test videos, from {checkpoint}")
    return dict(recognizer.figures)


class EpochRecorder(Checkpoint):
    """Writes each epoch's figures and checkpoints, shows progress, and ends a stage at its target cost.

    First the history, then ``best.ckpt`` (weights alone) if no epoch before was as good, then ``last.ckpt``: what a kill
    leaves of an epoch without its ``last.ckpt`` is written again, the same, when the epoch is repeated. Lightning's own
    ``ModelCheckpoint`` writes ``last.ckpt``, in some versions, only beside another checkpoint, and so not every epoch.

    Args:
        stage: ``holdout``, ``retrain`` or ``fold-1`` ….
        history: of the run.
        checkpoints: folder of the stage's.
        goal: validation figure whose best epoch is kept, or None.
        target_cost: training cost at which the stage ends, or None.
        settings: of the run.
        clock: of the run.
        score: further figures of an epoch, from those it has.
    """

    def __init__(
        self,
        stage: str,
        history: History,
        checkpoints: Path,
        goal: str | None,
        target_cost: float | None,
        settings: Settings,
        clock: Clock,
        score: Callable[[dict[str, float]], dict[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self.score, self.clock = score, clock
        self.stage, self.history, self.checkpoints = stage, history, checkpoints
        self.goal, self.target_cost, self.max_epochs = goal, target_cost, settings.trainer.max_epochs
        self.batch_size = settings.data.batch_size
        self.progress = Progress("", "")
        self.first_batch = 0
        self.loss = LossWatch()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        self.progress = Progress(self.stage, "", trainer.is_global_zero)
        self.first_batch = trainer.global_step
        self.loss.begin(pl_module.device)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seconds": self.clock.seconds()}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss, and show how far the stage is."""
        self.loss.see(outputs["loss"], trainer.global_step)
        if batch_idx % LOOK_EVERY == 0 or batch_idx + 1 >= trainer.num_training_batches:
            self.loss.require_finite(trainer.current_epoch, self.stage)
        per_epoch = max(1, int(trainer.num_training_batches))
        done = trainer.global_step - self.first_batch
        total = self.max_epochs * per_epoch - self.first_batch
        rate = done * self.batch_size / max(1e-9, time.perf_counter() - self.progress.started)
        self.progress.update(done, total, f"epoch {trainer.current_epoch + 1}/{self.max_epochs}, {rate:.0f} blocks/s")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch, if it left weights and scores to go on with.

        Raises:
            FloatingPointError: it did not.
        """
        assert isinstance(pl_module, Recognizer)
        require_finite_weights(pl_module, trainer.current_epoch, self.stage)
        if pl_module.scores is not None:
            require_finite_scores(pl_module, f"validation videos after epoch {trainer.current_epoch} of {self.stage}")
        figures = {
            key: float(value)
            for key, value in trainer.callback_metrics.items()
            if key != "train/step_loss" and math.isfinite(float(value))
        }
        if self.score is not None:
            figures |= self.score(figures)
        self.history.add({"stage": self.stage, "epoch": trainer.current_epoch, **figures}, trainer.is_global_zero)
        if trainer.is_global_zero:
            shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items() if key in _SHOWN)
            print(f"{self.stage} epoch {trainer.current_epoch + 1}/{self.max_epochs}: {shown}", flush=True)
        if self.goal is not None and self.history.best(self.stage, self.goal)["epoch"] == trainer.current_epoch:
            trainer.save_checkpoint(self.checkpoints / BEST, weights_only=True)
        trainer.save_checkpoint(self.checkpoints / LAST)
        if self.target_cost is not None and figures["train/loss"] <= self.target_cost:
            trainer.should_stop = True


_SHOWN = ("train/loss", "val/accuracy", "val/mAP", "attention/penalty", CV_SCORE)
