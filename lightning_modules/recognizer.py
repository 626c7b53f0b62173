"""The LightningModule: a network, its objective, its optimiser, and metrics over whole videos."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_modules.frames import (
    Frames,
    Network,
    Output,
    Rows,
    Stretch,
    run_blocks,
    run_dense,
    run_dense_together,
    windows,
)
from lightning_modules.layers import seed_masks
from lightning_modules.measures import AttentionMeasures, VideoMeasures
from lightning_modules.metrics import BlockMean, VideoMetric, VideoScores, block_scores, summarise
from lightning_modules.objective import Cost, Objective
from lightning_modules.optim import build_optimizer
from lightning_modules.step_graph import StepGraph

FPS = 30  # nominal frame rate of all videos, by which protocol §4 counts


class VideoScorer(LightningModule, ABC):
    """Validates and tests by videos: the hooks that modules share whose data are a set's videos.

    A module says by ``_begin(which)`` what collects scores, by ``_score(batch)`` what a batch adds, and by
    ``_log_figures(which)`` what follows from them.

    Args:
        seed: of what a step draws.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.scores: VideoScores | None = None
        """Scores of the last evaluation's videos, over all ranks."""
        self.figures: dict[str, float] = {}
        """The last evaluation's figures, in double precision."""

    @property
    def step_seed(self) -> int:
        """Of (seed, step, rank) alone: Lightning skips the epoch's first hook when it resumes."""
        entropy = np.random.SeedSequence([self.seed, self.trainer.global_step, self.global_rank])
        return int(entropy.generate_state(1, np.uint64)[0] >> 1)

    def on_validation_epoch_start(self) -> None:
        """Begin with no scores."""
        self._begin("val")

    def on_test_epoch_start(self) -> None:
        """Begin with no scores."""
        self._begin("test")

    def validation_step(self, batch: Any, _: int) -> None:
        """Score a part of a video."""
        self._score(batch)

    def test_step(self, batch: Any, _: int) -> None:
        """Score a part of a video."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/…``."""
        self._log_figures("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/…``."""
        self._log_figures("test")

    @abstractmethod
    def _begin(self, which: str) -> None: ...

    @abstractmethod
    def _score(self, batch: Any) -> Any: ...

    @abstractmethod
    def _log_figures(self, which: str) -> None: ...

    def _log(self, which: str, name: str, value: float) -> None:
        self.figures[f"{which}/{name}"] = value
        self.log(f"{which}/{name}", value)


class Recognizer(VideoScorer):
    """Trains and tests any ``Network``: blocks X (B, T, K, D) -> logits (B, T, C) and attention (B, T, K) or None.

    It expects batches and a data module as ``datamodules.base`` gives them: ``Batch`` to train on, ``DenseBatch`` or a list
    of some to evaluate; the data module tells each set's ``block_counts`` and ``targets``.

    Logged: ``train/loss`` (Eq. 7, mean over the epoch's blocks), ``train/cross_entropy``, ``attention/penalty``;
    ``val/…`` and ``test/…`` as ``summarise`` names them; of networks with attention ``test/…`` as ``AttentionMeasures``
    names them, those on boxes where the data set has some.

    Args:
        network: the model.
        num_classes: C.
        multi_label: whether a video may have any number of labels.
        objective: the loss.
        optimizer: ``adam``, ``released_adam`` or ``sgd``.
        lr, betas, eps: of the optimiser.
        last_n: steps whose probabilities are averaged into a block's prediction.
        seed: a step's dropout masks depend on (seed, step, rank) alone, so that a resumed run repeats them.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        multi_label: bool,
        objective: Objective,
        optimizer: str = "adam",
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        last_n: int = 30,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.network = network
        self.num_classes, self.multi_label, self.last_n = num_classes, multi_label, last_n
        self.objective = objective
        self.optimizer_settings: dict[str, Any] = {"name": optimizer, "lr": lr, "betas": tuple(betas), "eps": eps}
        self.epoch_means = nn.ModuleDict({name: BlockMean() for name in ("loss", "cross_entropy", "penalty")})
        self.graph: StepGraph | None = None
        """Replays training steps while there is one."""
        self._replayed = False  # whether this step was, backward included
        self.measures: AttentionMeasures | None = None
        self.videos: VideoMetric | None = None
        self.attention: VideoMeasures | None = None
        """What the last test measured of each video's attention, over all ranks; all counts are 0 without attention."""

    def forward(self, X: Tensor) -> Any:
        """X (B, T, K, D) -> ``Output``."""
        return self.network(X)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser, constant learning rate."""
        return build_optimizer(self.network.parameters(), **self.optimizer_settings)

    # Training

    def training_step(self, batch: Any, _: int) -> Tensor:
        """Eq. 7 of this rank's share of a global batch."""
        seed = self.step_seed
        cost = None if self.graph is None else self.graph(batch, seed)
        self._replayed = cost is not None
        if cost is None:
            seed_masks(self.device, seed)  # masks depend on nothing that happened before
            cost = self.batch_cost(batch)
        parts = {"loss": cost.data + cost.decay, "cross_entropy": cost.cross_entropy, "penalty": cost.penalty}
        for name, value in parts.items():
            cast(BlockMean, self.epoch_means[name]).update(value.detach(), batch.weight)
        self.log("train/step_loss", cost.loss.detach())
        return cost.loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Differentiate the loss; a replayed step has done so."""
        if not self._replayed:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Forget the last step's gradients; a replayed step has written its own before this is called."""
        if not self._replayed:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def batch_cost(self, batch: Any) -> Cost:
        """Run the network on a batch, and compute Eq. 7."""
        return self.cost(run_blocks(self._network, self.training_frames(batch)), batch)

    def training_frames(self, batch: Any) -> Frames:
        """What the network is given of a batch."""
        return Frames(batch.cube if batch.rows is None else Rows(batch.cube, batch.rows), batch.mean, batch.max)

    def cost(self, output: Output, batch: Any) -> Cost:
        """Eq. 7."""
        return self.objective(
            output.logits,
            output.attention if output.scales is None else output.scales,
            batch.target,
            self.network.parameters(),
            batch.weight,
            batch.batch_size,
            self.trainer.world_size,
        )

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means over all blocks of all ranks.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        names = {"loss": "train/loss", "cross_entropy": "train/cross_entropy", "penalty": "attention/penalty"}
        for name, module in self.epoch_means.items():
            metric = cast(BlockMean, module)
            value = metric.compute()
            metric.reset()
            if name == "loss" and not value.isfinite():
                raise FloatingPointError(
                    f"the training loss of epoch {self.current_epoch} is {float(value)}; try a smaller optim.lr, or "
                    "trainer.precision=32-true"
                )
            self.log(names[name], value)

    # Validation and test

    def test_step(self, batch: Any, _: int) -> None:
        """Score some blocks, and measure where their attention lies."""
        assert self.measures is not None
        skip = self.trainer.datamodule.skip  # type: ignore[attr-defined] - not the batch's, which counts among its own frames
        for part, attention in self._score(batch):
            if attention is None:
                continue
            coverage, inside = (
                None if frames is None else windows(frames, part.blocks, part.steps, part.skip, part.stride)  # (N, T, K)
                for frames in (part.coverage, part.inside)
            )
            self.measures.update(part.video, attention, part.grid, FPS / skip, coverage, inside)

    def on_test_epoch_end(self) -> None:
        """Log ``test/…``."""
        super().on_test_epoch_end()
        assert self.measures is not None
        with warnings.catch_warnings():  # computed on every rank, whether or not it had a video, or there is attention
            warnings.filterwarnings("ignore", ".*was called before the ``update`` method.*")
            self.attention = self.measures.compute()
        self.measures = None
        for name, value in self.attention.means().items():
            self._log("test", name, value)

    @property
    def _network(self) -> Network:
        return cast(Network, self.network)

    def _begin(self, which: str) -> None:
        counts = self.trainer.datamodule.block_counts(which)  # type: ignore[attr-defined]
        self.videos = VideoMetric(torch.as_tensor(counts), self.num_classes).to(self.device)
        self.measures = AttentionMeasures(len(counts)).to(self.device)

    def _score(self, batch: Any) -> list[tuple[Any, Tensor | None]]:
        """Score blocks of a video, or of several in a list; returns each video's part of the batch, and its attention."""
        parts = batch if isinstance(batch, list) else [batch]
        stretches = [Stretch(Frames(part.cube, part.mean, part.max), part.blocks, part.skip, part.stride) for part in parts]
        if len(parts) > 1:
            outputs = run_dense_together(self._network, stretches, parts[0].steps)
        else:
            outputs = [run_dense(self._network, *stretches[0][:2], parts[0].steps, *stretches[0][2:])]
        assert self.videos is not None
        for part, output in zip(parts, outputs, strict=True):
            self.videos.update(block_scores(output.logits, self.multi_label, self.last_n), part.video)
        attended = [None if output.attention is None else output.attention.float() for output in outputs]
        return list(zip(parts, attended, strict=True))

    def _log_figures(self, which: str) -> None:
        assert self.videos is not None
        scores: VideoScores = self.videos.compute()
        self.scores = VideoScores(scores.mean.cpu(), scores.votes.cpu())
        self.videos = None
        target = torch.as_tensor(self.trainer.datamodule.targets(which))  # type: ignore[attr-defined]
        for name, value in summarise(self.scores.mean, target, self.scores.votes).items():
            self._log(which, name, value)
