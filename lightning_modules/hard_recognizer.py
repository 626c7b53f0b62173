"""The LightningModule of hard attention: it draws locations, adds REINFORCE's terms to Eq. 7, and tests in both ways."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.frames import Frames, Output, run_dense
from lightning_modules.hard_attention import HardAttentionLSTM, Reinforce
from lightning_modules.metrics import VideoMetric, block_scores, summarise
from lightning_modules.objective import Cost, step_costs
from lightning_modules.recognizer import Recognizer

COIN, TRAINING, TEST = range(3)  # what a random number is for


@dataclass(frozen=True)
class Drawing:
    """How hard attention is trained and tested.

    Args:
        sampling: p of semi-sampling: the share of updates whose locations are drawn; the others are soft attention's.
        weight: of REINFORCE's score term; 1 is unbiased.
        entropy: λ_H, in the first epoch and in the last; between them it changes evenly, as the learning rate does.
        lr: the learning rate, likewise.
        samples: M, tests with drawn locations beside the one that reads the likeliest.

    Source: Show, Attend and Tell's code has one coin for a whole mini-batch.
    """

    sampling: float = 1.0
    weight: float = 1.0
    entropy: tuple[float, float] = (1e-2, 1e-3)
    lr: tuple[float, float] = (2e-4, 5e-5)
    samples: int = 10


class HardRecognizer(Recognizer):
    """Trains and tests `HardAttentionLSTM`.

    What is drawn depends on (seed, step, block) while training, and on (seed, sample, video) in the test. So it is the same
    on any number of processes, and after a pause. Logged besides: ``test/sampled_accuracy`` or ``test/sampled_mAP``, the
    means over the M sampled tests.

    Args:
        *args: of `Recognizer`.
        drawing: how it is trained and tested.
        **options: of `Recognizer`.
    """

    def __init__(self, *args: Any, drawing: Drawing, **options: Any) -> None:
        super().__init__(*args, **options)
        self.drawing = drawing
        self.sampled = nn.ModuleList()

    def training_step(self, batch: Any, number: int) -> Tensor:
        """Eq. 7 and REINFORCE's terms, at the epoch's learning rate."""
        for group in cast(Any, self.optimizers()).param_groups:
            group["lr"] = self._annealed(self.drawing.lr)
        return super().training_step(batch, number)

    def training_frames(self, batch: Any) -> Frames:
        """With draws, or, by a coin that all processes throw alike, without."""
        frames, step = super().training_frames(batch), self.trainer.global_step
        if uniform(1, self.seed, COIN, step)[0] >= self.drawing.sampling:
            return frames
        assert frames.mean is not None
        steps = frames.mean.shape[1]
        draws = np.stack([uniform(steps, self.seed, TRAINING, step, int(block)) for block in batch.blocks])
        return frames._replace(draws=torch.from_numpy(draws).to(frames.mean.device))

    def cost(self, output: Output, batch: Any) -> Cost:
        """Eq. 7; what REINFORCE adds is differentiated, and not reported."""
        cost = super().cost(output, batch)
        if output.glimpses is None or output.attention is None:
            return cost
        costs = step_costs(output.logits, batch.target)
        entropy_weight = self._annealed(self.drawing.entropy)
        added = Reinforce(self.drawing.weight)(costs, output.attention, output.glimpses, entropy_weight)
        cast(HardAttentionLSTM, self.network).follow(costs)
        return cost._replace(
            loss=cost.loss + self.objective.over_blocks(added, batch.weight, batch.batch_size, self.trainer.world_size)
        )

    def _annealed(self, ends: tuple[float, float]) -> float:
        first, last = ends
        return first + (last - first) * self.current_epoch / max(1, int(self.trainer.max_epochs or 1) - 1)

    def on_test_epoch_start(self) -> None:
        """Begin with no scores."""
        super().on_test_epoch_start()
        assert self.videos is not None
        counts = self.videos.block_counts
        found = [VideoMetric(counts, self.num_classes).to(self.device) for _ in range(self.drawing.samples)]
        self.sampled = nn.ModuleList(found)

    def test_step(self, batch: Any, number: int) -> None:
        """Score some blocks by the likeliest locations, and by drawn ones."""
        super().test_step(batch, number)
        for sample, metric in enumerate(self.sampled):
            draws = uniform(len(batch.mean), self.seed, TEST, sample, batch.video, batch.first)
            frames = Frames(batch.cube, batch.mean, batch.max, torch.from_numpy(draws).to(batch.mean.device))
            output = run_dense(self._network, frames, batch.blocks, batch.steps, batch.skip, batch.stride)
            cast(VideoMetric, metric).update(block_scores(output.logits, self.multi_label, self.last_n), batch.video)

    def on_test_epoch_end(self) -> None:
        """Log ``test/…``."""
        super().on_test_epoch_end()
        target = torch.as_tensor(self.trainer.datamodule.targets("test"))  # type: ignore[attr-defined]
        tests = [summarise(cast(VideoMetric, metric).compute().mean.cpu(), target) for metric in self.sampled]
        self.sampled = nn.ModuleList()
        for name in ("mAP",) if self.multi_label else ("accuracy", "mAP"):
            if tests:
                self._log("test", f"sampled_{name}", statistics.fmean(test[name] for test in tests))


def uniform(count: int, seed: int, *purpose: int) -> np.ndarray:
    """Draw numbers (count,) float32 from [0, 1) that depend on the seed and the purpose alone."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose)).random(count, dtype=np.float32)
