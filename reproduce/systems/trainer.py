"""The stages of a training: Lightning's Trainer, and what is kept of every epoch."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from datamodules.videos import DataError
from lightning_modules.pretraining import Pretraining
from lightning_modules.recognizer import Recognizer
from lightning_modules.streams import StreamRecognizer
from reproduce.common.progress import Progress
from reproduce.common.settings import Settings
from reproduce.experiments import tracking
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.history import History
from reproduce.systems.devices import accelerator, determinism
from reproduce.systems.preemption import Preemption, WholeCheckpoints, environment_plugins, read_checkpoint
from reproduce.systems.step_graphs import StepGraphs

BEST, LAST = "best.ckpt", "last.ckpt"
LOOK_EVERY = 50  # batches between two looks at whether the loss is finite; a look makes a GPU wait for the CPU
CV_SCORE = "cv/score"  # mean over folds of validation accuracy, or mAP for multi-label
ADVICE = "Nothing of this epoch was saved. Try a smaller optim.lr, or trainer.precision=32-true"
PRINTED = ("train/loss", "val/accuracy", "val/mAP", "val/explained", "attention/penalty", CV_SCORE)  # of an epoch
Fitted = Recognizer | Pretraining | StreamRecognizer
"""LightningModules that leave scores of an evaluation's videos, and figures."""
Score = Callable[[dict[str, float]], dict[str, float]]


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


@dataclass
class Training:
    """What all stages of a run share.

    Args:
        settings: of the run.
        folder: of the run.
        log: the W&B run, or None.
        history: of the run.
        clock: of the run.
    """

    settings: Settings
    folder: RunFolder
    log: tracking.Log
    history: History
    clock: Clock = field(default_factory=Clock)

    def fit_stage(
        self,
        stage: str,
        recognizer: Fitted,
        data: LightningDataModule,
        goal: str | None = None,
        target_cost: float | None = None,
        score: Score | None = None,
        keep: Callable[[Tensor], None] | None = None,
    ) -> None:
        """Fit one stage, or what is left of it after its last checkpoint.

        Args:
            stage: ``pretrain``, ``holdout``, ``retrain`` or ``fold-1`` ….
            recognizer: freshly initialised.
            data: of the stage.
            goal: validation figure whose best epoch is kept as ``best.ckpt``.
            target_cost: training cost (nats, Eq. 7) at which the stage ends, or None.
            score: further figures of an epoch, from those it has.
            keep: given the validation videos' scores (V, C) of every epoch that is the best so far, on the first process.

        Raises:
            DataError: the checkpoint or the history is damaged.
            FloatingPointError: the loss, the weights or the scores are not finite; nothing of that epoch is kept.
        """
        checkpoints = self.folder.stage(stage)
        last = checkpoints / LAST
        epochs = 0
        if last.is_file():
            state = read_checkpoint(last)
            if not {"epoch", "callbacks"} <= state.keys():
                raise DataError(f"{last}: no checkpoint to go on from; remove it, and this stage begins anew")
            epochs = int(state["epoch"]) + 1
            self.clock.carry(state["callbacks"].get(EpochRecorder.__name__, {}).get("seconds", 0.0))
        done = self.history.resume(stage, epochs)
        reached = target_cost is not None and any(row["train/loss"] <= target_cost for row in done)
        if reached or len(done) >= self.settings.trainer.max_epochs:
            return
        preemption = Preemption()
        recorder = EpochRecorder(self, stage, goal, target_cost, score, keep)
        trainer = make_trainer(
            self.settings,
            checkpoints,
            max_epochs=self.settings.trainer.max_epochs,
            callbacks=[preemption, recorder, StepGraphs(self.settings.trainer.cuda_graph)],
            logger=tracking.stage_logger(self.log, stage) or False,
            limit_val_batches=1.0 if goal else 0,
        )
        trainer.fit(recognizer, datamodule=data, ckpt_path=str(last) if epochs else None, weights_only=True)
        preemption.leave_if_told()


def make_trainer(settings: Settings, root: Path, **options: Any) -> Trainer:
    """Make a Trainer with what all stages and the test share.

    Args:
        settings: of the run.
        root: folder where it may leave things.
        options: of the stage.
    """
    quiet_lightning()
    return Trainer(
        default_root_dir=root,
        plugins=[WholeCheckpoints(), *environment_plugins()],
        accelerator=accelerator(settings.trainer.accelerator),
        devices=settings.trainer.devices,
        num_nodes=settings.trainer.num_nodes,
        strategy=strategy(settings),
        precision=settings.trainer.precision,  # type: ignore[arg-type]
        use_distributed_sampler=False,  # the data module deals blocks and videos to ranks itself
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        deterministic=determinism(settings),  # type: ignore[arg-type]
        **options,
    )


def strategy(settings: Settings) -> str:
    """Lightning's strategy: DDP where there is more than one process."""
    return "ddp" if settings.trainer.devices * settings.trainer.num_nodes > 1 else "auto"


def quiet_lightning() -> None:
    """Keep Lightning's notes on hardware and tips out of the progress output; warnings remain."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*not part of single contiguous chunk of memory.*",  # cuDNN copies a layer's weights together: µs a step
        ".*does not have many workers.*",  # index arithmetic needs none
        ".*Couldn't infer the batch indices.*",  # packets carry their own
        ".*LeafSpec.*",
        ".*`IterableDataset` has `__len__` defined.*",  # each rank's own length, which is right
        ".*overridden `transfer_batch_to_device` in `LightningModule`.*",  # where the time is measured
        ".*Checkpoint directory .* exists and is not empty.*",  # that is how a run resumes
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # figures of all ranks, equal on each
        ".*number of training batches .* is smaller than the logging interval.*",
    ):
        warnings.filterwarnings("ignore", message)


def test(settings: Settings, recognizer: Fitted, data: LightningDataModule, checkpoint: Path) -> None:
    """Test a checkpoint's weights; the recognizer has scores and figures then."""
    recognizer.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    preemption = Preemption()
    trainer = make_trainer(settings, checkpoint.parent, callbacks=[preemption], logger=False, enable_checkpointing=False)
    trainer.test(recognizer, datamodule=data, verbose=False)
    preemption.leave_if_told()
    require_finite_scores(recognizer, f"test videos, from {checkpoint}")


class EpochRecorder(Checkpoint):
    """Writes each epoch's figures and checkpoints, shows progress, and ends a stage at its target cost.

    First the history, then ``best.ckpt`` (weights alone) and what else is kept of the best epoch if none before was as good,
    then ``last.ckpt``: what a kill leaves of an epoch without its ``last.ckpt`` is written again, the same, when the epoch is
    repeated. Lightning's own ``ModelCheckpoint`` writes ``last.ckpt``, in some versions, only beside another checkpoint, and
    so not every epoch.

    Args:
        training: of the run.
        stage, goal, target_cost, score, keep: as ``Training.fit_stage`` has them.
    """

    def __init__(
        self,
        training: Training,
        stage: str,
        goal: str | None,
        target_cost: float | None,
        score: Score | None,
        keep: Callable[[Tensor], None] | None,
    ) -> None:
        super().__init__()
        self.stage, self.goal, self.target_cost, self.score, self.keep = stage, goal, target_cost, score, keep
        self.history, self.clock, self.checkpoints = training.history, training.clock, training.folder.stage(stage)
        self.max_epochs = training.settings.trainer.max_epochs
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
        batch_size = trainer.datamodule.batch_size  # type: ignore[attr-defined]
        rate = done * batch_size / max(1e-9, time.perf_counter() - self.progress.started)
        self.progress.update(done, total, f"epoch {trainer.current_epoch + 1}/{self.max_epochs}, {rate:.0f} a second")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch, if it left weights and scores to go on with.

        Raises:
            FloatingPointError: it did not.
        """
        assert isinstance(pl_module, Fitted)
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
            printed = ", ".join(f"{key} {value:.3f}" for key, value in figures.items() if key in PRINTED)
            print(f"{self.stage} epoch {trainer.current_epoch + 1}/{self.max_epochs}: {printed}", flush=True)
        if self.goal is not None and self.history.best(self.stage, self.goal)["epoch"] == trainer.current_epoch:
            trainer.save_checkpoint(self.checkpoints / BEST, weights_only=True)
            if self.keep is not None and trainer.is_global_zero:
                assert pl_module.scores is not None
                self.keep(pl_module.scores.mean)
        trainer.save_checkpoint(self.checkpoints / LAST)
        if self.target_cost is not None and figures["train/loss"] <= self.target_cost:
            trainer.should_stop = True


class LossWatch:
    """Remembers the first loss that is not finite, on the device, without making it wait."""

    def __init__(self) -> None:
        self.begin(torch.device("cpu"))

    def begin(self, device: torch.device) -> None:
        """Forget all."""
        self._step = torch.full((), -1, device=device)  # none so far
        self._value = torch.zeros((), device=device)

    def see(self, loss: Tensor, step: int) -> None:
        """Look at a step's loss.

        Args:
            loss: a scalar.
            step: its number, from 1.
        """
        first = ~loss.isfinite() & (self._step < 0)
        self._step = torch.where(first, step, self._step)
        self._value = torch.where(first, loss.detach().to(self._value.dtype), self._value)

    def require_finite(self, epoch: int, stage: str) -> None:
        """Wait for the device, and raise if a loss was not finite.

        Raises:
            FloatingPointError: names epoch, step and stage.
        """
        step = int(self._step)
        if step >= 0:
            value = float(self._value)
            raise FloatingPointError(f"the training loss of epoch {epoch} is {value} at step {step} of {stage}. {ADVICE}")


def require_finite_weights(recognizer: Fitted, epoch: int, stage: str) -> None:
    """Check what the last steps of an epoch left: their losses were computed before their updates.

    Raises:
        FloatingPointError: names epoch, stage and weight.
    """
    weights = dict(recognizer.network.named_parameters())
    finite = torch.stack([weight.detach().isfinite().all() for weight in weights.values()]).tolist()
    if not all(finite):
        name = list(weights)[finite.index(False)]
        raise FloatingPointError(f"after epoch {epoch} of {stage}, the weights {name} are not finite. {ADVICE}")


def require_finite_scores(recognizer: Fitted, what: str) -> None:
    """Check an evaluation's scores: the largest of several that are not finite is the first, and looks like a prediction.

    Args:
        recognizer: after an evaluation.
        what: which videos, for the message.

    Raises:
        FloatingPointError: says how many videos.
    """
    assert recognizer.scores is not None
    bad = int((~recognizer.scores.mean.isfinite().all(dim=1)).sum())
    if bad:
        raise FloatingPointError(
            f"the scores of {bad} of {len(recognizer.scores.mean)} {what}, are not finite. Try trainer.precision=32-true, or "
            "a smaller optim.lr"
        )
