"""What a GPU is asked for by all networks, seen on fake CUDA tensors: devices, precisions, waits, numbers of kernels."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_cuda import GPU, Launches, backward, fake_cuda

from datamodules.batches import Batch
from datamodules.pool import send
from lightning_modules import recognizer as recognizer_module
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM, SoftmaxRegression
from lightning_modules.frames import Frames, Rows, Stretch, run_blocks, run_dense, run_dense_together
from lightning_modules.fused_cell import fuses
from lightning_modules.glimpses import run_glimpse
from lightning_modules.measures import AttentionMeasures
from lightning_modules.metrics import BlockMean, VideoMetric, block_scores
from lightning_modules.objective import Objective
from lightning_modules.recognizer import Recognizer

B, K, D, H, C, V = 4, 9, 16, 8, 3, 5  # launches depend on T and on the number of layers alone
T, FEW, MORE = 30, 2, 3  # launches are affine in T: what two short blocks take tells what the suite's take

NETWORKS = {
    "location": lambda: SoftAttentionLSTM(K, D, C, H, 3),
    "content": lambda: SoftAttentionLSTM(K, D, C, H, 1, "content", 2, input_dropout=False),
    "avg": lambda: PooledLSTM(D, C, "mean", H),
    "max": lambda: PooledLSTM(D, C, "max", H),
    "softmax": lambda: SoftmaxRegression(K, D, C),
}
PRECISIONS = [None, torch.bfloat16, torch.float16]
# Launches of a step and of a dense test, at most, in single and in half precision; those of avg and max without cuDNN.
STEP = {"location": (1520, 1780), "content": (1330, 1590), "avg": (1260, 1790), "max": (1260, 1790), "softmax": (48, 55)}
DENSE = {"location": (530, 680), "content": (370, 455), "avg": (310, 640), "max": (310, 640), "softmax": (8, 12)}
STEP_ENDS = 40  # launches of the epoch's means and of the optimiser, for all parameters at once


def in_a_block(count: Callable[[int], int]) -> int:
    """Launches for blocks of T steps, from a count for shorter ones."""
    fuses("cuda")  # tried once in a process, which must not count
    few, more = count(FEW), count(MORE)
    return few + (more - few) * (T - FEW) // (MORE - FEW)


def frames_of(steps: int, cube: torch.Tensor | Rows) -> Frames:
    return Frames(cube, torch.empty(B, steps, D), torch.empty(B, steps, D))


def stretch_of(frames: int) -> Frames:
    return Frames(torch.empty(frames, K, D, dtype=torch.half), torch.empty(frames, D), torch.empty(frames, D))


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_and_a_dense_test_stay_on_the_device(name, precision):
    """Each operation's tensors are on the device, products take one precision, nothing waits, and nothing is float64."""
    with fake_cuda():
        network = NETWORKS[name]()
        mixed = torch.autocast("cuda", precision or torch.bfloat16, enabled=precision is not None)

        def step(steps: int) -> int:
            network.train().zero_grad()
            rows = Rows(torch.empty(99, K, D, dtype=torch.half), torch.empty(B, steps, dtype=torch.int64))
            frames, target, weights = frames_of(steps, rows), torch.empty(B, dtype=torch.int64), torch.empty(B)
            with Launches() as seen:
                with mixed:
                    output = run_blocks(network, frames)
                cost = Objective(1.0)(output.logits, output.attention, target, network.parameters(), weights, B)
                backward(cost.loss)
            trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
            assert all(one.grad is not None and one.grad.device == GPU and one.grad.dtype == one.dtype for one in trained)
            assert seen.transfers == 0
            return seen.count

        def dense(steps: int) -> int:
            frames = stretch_of(steps + 9)
            with torch.no_grad(), mixed, Launches() as seen:
                run_dense(network.eval(), frames, 10, steps)
            assert seen.transfers == 0
            return seen.count

        assert in_a_block(step) <= STEP[name][precision is not None]
        assert in_a_block(dense) <= DENSE[name][precision is not None]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_training_step_sends_once_and_waits_for_nothing(name, monkeypatch):
    """From a batch's indices on the host to the optimiser's step: one transfer, which nothing waits for."""
    seeds = []
    monkeypatch.setattr(recognizer_module, "seed_masks", lambda device, seed: seeds.append((device, seed)))
    with fake_cuda():
        recognizer = Recognizer(NETWORKS[name](), C, False, Objective(1.0), "released_adam").train()
        recognizer._device, recognizer.log = GPU, lambda *figure: None
        recognizer._trainer = SimpleNamespace(global_step=7, world_size=1, global_rank=0)
        updates = recognizer.configure_optimizers()

        def step(steps: int) -> int:
            recognizer.zero_grad()
            pool, pooled = torch.empty(99, K, D, dtype=torch.half), torch.empty(B, steps, D)
            rows = {"rows": np.zeros((B, steps), dtype=np.int64), "target": np.zeros(B, dtype=np.int64)}
            with Launches() as seen:
                sent = send(rows | {"weight": np.ones(B, dtype=np.float32)}, GPU)
                batch = Batch(cube=pool, mean=pooled, max=pooled, batch_size=B, blocks=np.arange(B), **sent)
                backward(recognizer.training_step(batch, 0))
                updates.step()
            assert (seen.transfers, seen.blocking) == (1, 0)
            return seen.count

        step(FEW)  # the optimiser makes its state
        assert in_a_block(step) <= STEP[name][0] + STEP_ENDS
        with Launches() as again:
            updates.step()
    assert again.count <= 7, "the optimiser's kernels are for all parameters at once"
    assert [device for device, _ in seeds] == [GPU] * 3


@pytest.mark.parametrize("name", NETWORKS)
def test_the_data_alone_move_every_parameter(name):
    """The decay's gradient reaches them all, whatever the network does."""
    with fake_cuda():
        network = NETWORKS[name]().train()
        backward(run_blocks(network, frames_of(FEW, torch.empty(B, FEW, K, D))).logits.sum())
    idle = {key for key, one in network.named_parameters() if one.requires_grad and one.grad is None}
    assert idle == ({"attention.score.bias"} if name == "content" else set()), "a softmax does not see what moves all scores"


def test_one_video_learns_other_attention_on_the_device():
    """As figure 9 does: the gradient of a dense pass to the location softmax alone."""
    with fake_cuda():
        network = NETWORKS["location"]().eval().requires_grad_(False)
        weight = network.attention.locations.weight.requires_grad_(True)
        stretch = stretch_of(FEW + 9)
        with Launches() as seen:
            backward(run_dense(network, stretch, 10, FEW).logits.sum())
            glimpsed = run_glimpse(network, stretch, torch.empty(K), 10, FEW)
        assert weight.grad is not None and weight.grad.device == GPU and glimpsed.device == GPU and seen.transfers == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_short_videos_together_take_the_kernels_of_one(name):
    """But those that lay them one behind the other, one for each input of each video."""
    with fake_cuda(), torch.no_grad():
        network, counts = NETWORKS[name]().eval(), []
        fuses("cuda")
        for videos in (1, 4):
            stretches = [Stretch(stretch_of(FEW + 9), 10) for _ in range(videos)]
            with Launches() as seen:
                assert len(run_dense_together(network, stretches, FEW)) == videos
            assert seen.transfers == 0
            counts.append(seen.count)
    assert counts[1] == counts[0] + 3 * 3


def test_metrics_and_measures_ask_the_device_nothing():
    """No shape depends on values, and nothing is copied: neither in training nor while videos are tested."""
    with fake_cuda(), torch.no_grad():
        mean, videos, measures = BlockMean(), VideoMetric(torch.empty(V, dtype=torch.int64), C), AttentionMeasures(V)
        attention, boxes = torch.empty(B, T, K), torch.empty(B, T, K)
        with Launches() as seen:
            mean.update(torch.empty(B), torch.empty(B))
            videos.update(block_scores(torch.empty(B, T, C), False, T), 3)
            measures.update(3, attention, (3, 3), 30.0, boxes, boxes)
        assert seen.transfers == 0 and {one.device for one in (mean.total, videos.votes, measures.sums)} == {GPU}
