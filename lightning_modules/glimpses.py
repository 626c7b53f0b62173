"""Glimpses that are not the network's own: given by hand (paper Fig. 5), and learned for one video (paper Fig. 9).

Shapes: F frames, N blocks, T time steps, K locations, D feature channels, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.attention import LocationAttention, SoftAttentionLSTM
from lightning_modules.frames import Frames, run_dense, window_means, windows
from lightning_modules.metrics import block_scores

STEP = 0.01  # Adam's step, as a share of the range from which the weights were drawn; the paper does not say
LIMIT = 200  # steps; from one end of the range to the other and back
CHUNK = 64  # blocks whose gradient is computed at once; bounds the memory that a long video takes


@torch.no_grad()
def run_glimpse(
    network: SoftAttentionLSTM, frames: Frames, glimpse: Tensor, blocks: int, steps: int, skip: int = 1, stride: int = 1
) -> Tensor:
    """Run a network with a given l_t in place of Eq. 4's, else as ``run_dense`` does.

    Args:
        network: in evaluation mode.
        frames: with ``cube`` (F, K, D) and ``mean`` (F, D), as for ``run_dense``.
        glimpse: non-negative, summing to 1 over locations; (K,), or (F, K) for a glimpse of its own in each frame.
        blocks, steps, skip, stride: as for ``run_dense``.

    Returns:
        (N, T, C) logits.

    Source: paper Fig. 5.
    """
    assert frames.mean is not None
    X, dtype = frames.all_cubes(), network.head.hidden.weight.dtype
    x = torch.bmm(glimpse.to(X.device, dtype).expand(len(X), -1)[:, None], X.to(dtype))[:, 0]  # Eq. 5: (F, D)
    mean = window_means(frames.mean.to(dtype), blocks, steps, skip, stride)  # (N, D)
    hidden, _ = network.lstm(windows(x, blocks, steps, skip, stride), network.initial_state(mean))  # Eqs. 1-3, 6: (N, T, H)
    return network.head(hidden)  # (N, T, C)


@dataclass(frozen=True)
class Correction:
    """What optimising the location softmax alone did to the prediction of one video.

    Args:
        steps: of the optimiser until the first correct prediction; 0 where the random glimpse was enough; the limit
            where none was.
        corrected: whether the video is predicted correctly now.
        random_prediction: class id under the randomly initialised location softmax.
        prediction: class id at the end.
        random: (K, H) the randomly initialised weights W of Eq. 4.
        weight: (K, H) the weights at the end.
    """

    steps: int
    corrected: bool
    random_prediction: int
    prediction: int
    random: Tensor
    weight: Tensor


def correct(
    network: SoftAttentionLSTM,
    frames: Frames,
    target: int,
    blocks: int,
    steps: int,
    skip: int = 1,
    last_n: int = 30,
    generator: torch.Generator | None = None,
    limit: int = LIMIT,
) -> Correction:
    """Optimise the location softmax alone until the network recognises one video.

    W of Eq. 4 is drawn anew from U[min W, max W]; then it alone is optimised, by Adam, for the mean over all blocks of
    ``Σ_t CE_t`` with the true label, until the video's prediction (the mean over its blocks) is correct for the first
    time. Adam's step is ``STEP · (max W - min W)``. The network is left as it was.

    Args:
        network: with location attention, in evaluation mode.
        frames: of the whole video, with ``cube`` (F, K, D) and ``mean`` (F, D), as for ``run_dense``.
        target: the true class's id.
        blocks, steps, skip: as for ``run_dense``, at stride 1.
        last_n: steps whose probabilities are averaged into a block's prediction.
        generator: of the random weights.
        limit: steps after which to give up.

    Raises:
        ValueError: the network's attention has no location softmax weights, or is being trained.

    Source: paper Fig. 9, §4.4; protocol §9.
    """
    if not isinstance(network.attention, LocationAttention) or network.training:
        raise ValueError("correct needs a network with location attention (Eq. 4), in evaluation mode")
    linear = network.attention.locations
    before = linear.weight.detach().clone()
    low, high = float(before.min()), float(before.max())
    random = torch.rand(before.shape, generator=generator).to(before) * (high - low) + low
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    linear.weight.requires_grad_(True)
    optimizer = torch.optim.Adam([linear.weight], lr=STEP * (high - low))
    try:
        linear.weight.data.copy_(random)
        predicted: list[int] = []
        while True:
            optimizer.zero_grad()
            scores = _descend(network, frames, target, blocks, steps, skip, last_n)
            predicted.append(int(scores.argmax()))
            done = len(predicted) - 1
            if predicted[-1] == target or done == limit:
                return Correction(
                    done, predicted[-1] == target, predicted[0], predicted[-1], random, linear.weight.detach().clone()
                )
            optimizer.step()
    finally:
        linear.weight.grad = None
        linear.weight.data.copy_(before)
        for parameter in trained:
            parameter.requires_grad_(True)


def _descend(
    network: SoftAttentionLSTM, frames: Frames, target: int, blocks: int, steps: int, skip: int, last_n: int
) -> Tensor:
    """Accumulate the cost's gradient, chunk by chunk, and return the video's scores (C,)."""
    total = torch.zeros(0)
    for begin in range(0, blocks, CHUNK):
        count = min(CHUNK, blocks - begin)
        end = begin + count + (steps - 1) * skip
        part = Frames(*(None if one is None else one[begin:end] for one in frames))  # type: ignore[index]
        logits = run_dense(network, part, count, steps, skip).logits
        cost = F.cross_entropy(
            logits.flatten(0, 1), torch.full((count * steps,), target, device=logits.device), reduction="sum"
        )
        (cost / blocks).backward()
        scores = block_scores(logits.detach(), False, last_n).sum(dim=0)
        total = scores if not len(total) else total + scores
    return total / blocks
