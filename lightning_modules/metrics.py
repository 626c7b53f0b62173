"""Scores of blocks, then of videos, then accuracy and mAP, exact on one process and on several (protocol §5).

The states have a fixed shape, one row a video, and are summed over ranks. Each video's blocks must all have been seen
exactly once, which is checked before any number is computed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix, multilabel_average_precision


class BlockCountError(RuntimeError):
    """A video was scored on too few or too many blocks."""


def block_scores(logits: Tensor, multi_label: bool, last_n: int) -> Tensor:
    """Average the class probabilities of each block's last ``last_n`` steps.

    Args:
        logits: (B, T, C).
        multi_label: sigmoids instead of a softmax.
        last_n: steps that count; the paper takes all 30.

    Returns:
        (B, C) float32.
    """
    logits = logits[:, -last_n:].float()
    return (logits.sigmoid() if multi_label else logits.softmax(dim=-1)).mean(dim=1)


class BlockMean(Metric):
    """Weighted mean over the blocks of an epoch, Σ w_b x_b / Σ w_b, over all ranks; it is nan if one value is.

    torchmetrics' ``MeanMetric`` leaves out nan, overwrites it in the tensor given, or leaves out the weights; and asks the
    device at each step.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "weight"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: Tensor) -> None:
        """Add some blocks.

        Args:
            value: (B,).
            weight: (B,), 0 for blocks that only fill up a rank's share.
        """
        self.total += (value * weight).sum()
        self.weight += weight.sum()

    def compute(self) -> Tensor:
        """Return the mean, a scalar."""
        return self.total / self.weight


class VideoScores(NamedTuple):
    """Scores of all videos of a set, in the set's order.

    Args:
        mean: (V, C) float32, mean over each video's blocks.
        votes: (V, C) int64, how many of each video's blocks have their largest score at a class.
    """

    mean: Tensor
    votes: Tensor


class VideoMetric(Metric):
    """Collects block scores by video.

    Args:
        block_counts: (V,) blocks of each video.
        num_classes: C.
    """

    full_state_update = False
    score_sum: Tensor
    votes: Tensor
    seen: Tensor
    block_counts: Tensor

    def __init__(self, block_counts: Tensor, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("block_counts", torch.as_tensor(block_counts, dtype=torch.int64), persistent=False)
        videos = len(block_counts)
        self.add_state("score_sum", torch.zeros(videos, num_classes), dist_reduce_fx="sum")
        self.add_state("votes", torch.zeros(videos, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(videos, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, video: int) -> None:
        """Add blocks of a video. In single precision, as some devices have no other: a video comes in a few parts.

        Args:
            scores: (B, C) of each block.
            video: its number in the set.
        """
        classes = torch.arange(scores.shape[1], device=scores.device)
        self.score_sum[video] += scores.sum(dim=0)
        self.votes[video] += (scores.argmax(dim=1)[:, None] == classes).sum(dim=0)
        self.seen[video] += len(scores)

    def compute(self) -> VideoScores:
        """Average each video's blocks, over all ranks.

        Raises:
            BlockCountError: a video has not been seen on exactly its blocks.
        """
        wrong = torch.ne(self.seen, self.block_counts).nonzero().flatten().tolist()
        if wrong:
            first = wrong[0]
            raise BlockCountError(
                f"{len(wrong)} videos were scored on a wrong number of blocks; number {first} on {int(self.seen[first])} "
                f"instead of {int(self.block_counts[first])}"
            )
        return VideoScores((self.score_sum / self.seen[:, None]).float(), self.votes)


def summarise(scores: Tensor, target: Tensor, votes: Tensor | None = None) -> dict[str, float]:
    """Compute the figures of a set of videos, as fractions.

    ``accuracy`` (argmax of the scores), ``accuracy_vote`` (mode of the blocks' argmaxes, ties to the smallest class id),
    ``accuracy_top5`` and ``mAP`` (mean over classes of non-interpolated average precision; classes without a positive
    video do not count); only the last for multi-label. Of several labels of which one is enough, accuracy is hit@1.

    Args:
        scores: (V, C) float32.
        target: (V,) class ids; (V, C) whole zeros and ones for multi-label; (V, C) real, above 0 at labels of which one is
            enough.
        votes: (V, C) blocks by the class of their largest score; None for systems without blocks.
    """
    figures = {}
    hot = _hot(target, scores.shape[1])
    if target.ndim == 1 or target.is_floating_point():
        ranks = scores.topk(min(5, scores.shape[1]), dim=1).indices
        figures["accuracy"] = _fraction(_hits(scores, hot))
        if votes is not None:
            figures["accuracy_vote"] = _fraction(_hits(votes, hot))
        figures["accuracy_top5"] = _fraction(hot.gather(1, ranks).any(dim=1))
    precision = average_precision(scores, target)
    figures["mAP"] = float(precision[precision.isfinite()].double().mean())
    return figures


def average_precision(scores: Tensor, target: Tensor) -> Tensor:
    """Compute each class's non-interpolated average precision (C,); nan for a class without a positive video."""
    hot = _hot(target, scores.shape[1])
    precision = multilabel_average_precision(scores, hot.long(), num_labels=scores.shape[1], average="none")
    return torch.where(hot.sum(dim=0) > 0, precision, torch.nan)


def per_class(scores: Tensor, target: Tensor) -> Tensor:
    """Compute each class's recall (C,), or its average precision for multi-label; nan for a class without a video.

    Of several labels of which one is enough, it is the share of a class's videos whose largest score is at any of theirs.
    """
    if target.ndim == 2 and not target.is_floating_point():
        return average_precision(scores, target)
    hot = _hot(target, scores.shape[1]).double()
    return (hot * _hits(scores, hot > 0)[:, None]).sum(dim=0) / hot.sum(dim=0)


def confusion_matrix(scores: Tensor, target: Tensor) -> Tensor:
    """Count videos by true class (row) and predicted class (column): (C, C)."""
    return multiclass_confusion_matrix(scores.argmax(dim=1), target, num_classes=scores.shape[1])


def _hot(target: Tensor, classes: int) -> Tensor:
    """(V, C) booleans, true at a video's labels."""
    return (target if target.ndim == 2 else torch.nn.functional.one_hot(target, classes)) > 0


def _hits(scores: Tensor, hot: Tensor) -> Tensor:
    """(V,) whether a video's largest score is at a label of it."""
    return hot.gather(1, scores.argmax(dim=1, keepdim=True))[:, 0]


def _fraction(hits: Tensor) -> float:
    return float(hits.double().mean())
