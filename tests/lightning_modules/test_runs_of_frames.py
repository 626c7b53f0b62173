"""Frames: pooled forms, windows on a whole video, and testing densely without stacking any block."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from datamodules.blocks import BlockIndex, Span
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM, SoftmaxRegression
from lightning_modules.composite import LSTMClassifier
from lightning_modules.frames import (
    Rows,
    Stretch,
    pool_frames,
    run_blocks,
    run_dense,
    run_dense_together,
    window_means,
    windows,
)
from lightning_modules.hard_attention import HardAttentionLSTM
from lightning_modules.multiresolution import MultiresolutionLSTM
from lightning_modules.selective import TopKAttentionLSTM

torch.set_num_threads(1)

T, K, D, H, C = 6, 4, 5, 3, 4
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
NETWORKS = {
    "location": lambda: SoftAttentionLSTM(K, D, C, H, 3),
    "content": lambda: SoftAttentionLSTM(K, D, C, H, 2, "content", 1),
    "location, readable": lambda: SoftAttentionLSTM(K, D, C, H, 3, fast=False),
    "content, readable": lambda: SoftAttentionLSTM(K, D, C, H, 2, "content", 1, fast=False),
    "top-k, location": lambda: TopKAttentionLSTM(K, D, C, H, 3, top_k=2),
    "top-k, content": lambda: TopKAttentionLSTM(K, D, C, H, 2, "content", 1, top_k=2),
    "hard, location": lambda: HardAttentionLSTM(K, D, C, H, 3),
    "hard, content": lambda: HardAttentionLSTM(K, D, C, H, 2, "content", 1),
    "mean": lambda: PooledLSTM(D, C, "mean", H, 2),
    "max": lambda: PooledLSTM(D, C, "max", H, 2),
    "regression": lambda: SoftmaxRegression(K, D, C),
    "classifier": lambda: LSTMClassifier(D, C, H, 2),
    "scales": lambda: MultiresolutionLSTM([(1, 2, D), (2, 2, 2)], C, H, 2, width=3),
}


def network_of(kind: str, dtype=torch.float64) -> nn.Module:
    """No dropout, weights large enough to matter; frozen ones stay as they are."""
    generator, network = torch.Generator().manual_seed(0), NETWORKS[kind]().to(dtype).eval()
    for parameter in trainable(network):
        parameter.data.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def trainable(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def values(*shape: int, dtype=torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def stacked(frames: torch.Tensor, steps: int, skip: int = 1, stride: int = 1) -> torch.Tensor:
    """Every block of a video's frames (F, …) as protocol §4 numbers them, copied frame by frame: (B, T, …)."""
    if len(frames) < steps * skip:  # a short video's last frame is repeated
        own = list(range(0, len(frames), skip))
        return torch.stack([frames[own + [own[-1]] * (steps - len(own))]])
    starts = range(0, len(frames) - steps * skip + 1, stride)
    return torch.stack([torch.stack([frames[start + t * skip] for t in range(steps)]) for start in starts])


def span(blocks: int, steps: int, skip: int, stride: int) -> int:
    return (blocks - 1) * stride + (steps - 1) * skip + 1


def assert_equal_outputs(actual, expected, tolerance: float) -> None:
    """Two ``Output`` or ``Frames``."""
    for name, value in expected._asdict().items():
        if value is None:
            assert getattr(actual, name) is None
        else:
            torch.testing.assert_close(getattr(actual, name), value, rtol=tolerance, atol=tolerance)


BLOCKS = {"blocks": st.integers(1, 6), "steps": st.integers(1, 6), "skip": st.integers(1, 5), "stride": st.integers(1, 11)}


# Windows


@given(**BLOCKS, before=st.integers(0, 3), trailing=st.sampled_from([(), (2,), (2, 3)]))
def test_element_n_t_of_windows_is_frame_n_stride_plus_t_skip(blocks, steps, skip, stride, before, trailing):
    frames = values(before + span(blocks, steps, skip, stride), *trailing)[before:]
    result = windows(frames, blocks, steps, skip, stride)
    assert result.shape == (blocks, steps, *trailing)
    for n in range(blocks):
        for t in range(steps):
            assert torch.equal(result[n, t], frames[n * stride + t * skip])


def test_windows_share_the_frames_memory():
    frames = values(9, K, D)
    result = windows(frames, 3, 4, 2, 1)[:, :, 1:]
    assert result.untyped_storage().data_ptr() == frames.untyped_storage().data_ptr()
    frames[2, 1, 0] = 7.0
    assert (result[2, 0, 0, 0], result[0, 1, 0, 0]) == (7.0, 7.0)


def test_windows_of_frames_that_are_not_contiguous():
    frames = values(D, 9, 2 * K).permute(1, 2, 0)[:, ::2]
    assert torch.equal(windows(frames, 3, 4, 2, 1), windows(frames.contiguous(), 3, 4, 2, 1))


@given(**BLOCKS, off=st.sampled_from([-1, 1, 10]))
def test_windows_refuse_another_number_of_frames(blocks, steps, skip, stride, off):
    spanned = span(blocks, steps, skip, stride)
    with pytest.raises(ValueError, match=f"stride {stride} and skip {skip} span {spanned} frames, not {spanned + off}"):
        windows(torch.zeros(spanned + off, 2), blocks, steps, skip, stride)


@given(**BLOCKS, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_window_means_are_the_means_of_the_windows(blocks, steps, skip, stride, dtype):
    frames = values(span(blocks, steps, skip, stride), D, dtype=dtype)
    result = window_means(frames, blocks, steps, skip, stride)
    expected = windows(frames, blocks, steps, skip, stride).double().mean(dim=1)
    assert result.dtype == dtype and result.shape == (blocks, D)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol={torch.float32: 1e-6, torch.float64: 1e-12}[dtype])


@pytest.mark.parametrize("offset", [0.0, 100.0, -1e4])
@pytest.mark.parametrize(("skip", "stride"), [(1, 1), (1, 7), (5, 1), (3, 2)])
def test_window_means_of_a_long_video_do_not_drift(skip, stride, offset):
    blocks = (2000 - 29 * skip - 1) // stride + 1
    frames = (values(span(blocks, 30, skip, stride), D) + offset).float()
    assert len(frames) > 1990
    expected = windows(frames, blocks, 30, skip, stride).double().mean(dim=1)
    result = window_means(frames, blocks, 30, skip, stride)
    torch.testing.assert_close(result.double(), expected, rtol=3e-7, atol=1e-7)  # a few roundings


# Pooling


@pytest.mark.parametrize("inputs", [("cube",), ("mean",), ("mean", "max"), ("cube", "mean"), ("cube", "mean", "max"), ()])
def test_pooling_gives_what_is_asked_for_and_nothing_else(inputs):
    X = values(2, 3, K, D, dtype=torch.float32)
    pooled = pool_frames(X, inputs)
    assert {name for name, value in pooled._asdict().items() if value is not None} == set(inputs)
    assert pooled.cube is (X if "cube" in inputs else None)
    if "mean" in inputs:
        torch.testing.assert_close(pooled.mean, sum(X[..., i, :] for i in range(K)) / K, rtol=0, atol=1e-6)
    if "max" in inputs:
        assert np.array_equal(pooled.max, X.numpy().max(axis=-2))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_reads_the_inputs_it_names_and_no_others(kind):
    network, X = network_of(kind), values(2, T, K, D)
    known = {"mean": ("mean",), "classifier": ("mean",), "max": ("mean", "max"), "regression": ("cube",), "scales": ("cube",)}
    assert network.inputs == known.get(kind, ("cube", "mean"))
    others = {name: torch.full_like(X, torch.nan) for name in {"cube", "mean", "max"} - set(network.inputs)}
    named = pool_frames(X, network.inputs)
    for frames in (named, named._replace(**others)):
        assert_equal_outputs(run_blocks(network, frames), network(X), 0)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_pooled_in_single_precision(half):
    X = (300 * values(3, 49, D)).to(half)
    pooled = pool_frames(X, ("mean", "max"))
    assert pooled.mean.dtype == pooled.max.dtype == torch.float32
    torch.testing.assert_close(pooled.mean, X.double().mean(dim=1).float(), rtol=1e-5, atol=1e-4)
    assert torch.equal(pooled.max, X.float().amax(dim=1))


def test_mean_of_half_precision_does_not_overflow():
    X = torch.full((1, 49, D), 6e4, dtype=torch.float16)  # the sum, 2.9e6, is beyond half precision
    torch.testing.assert_close(pool_frames(X, ("mean",)).mean, torch.full((1, D), 6e4), rtol=1e-5, atol=0)
    assert_equal_outputs(pool_frames(X, ("mean", "max")), pool_frames(X.float(), ("mean", "max")), 0)


def test_double_precision_is_pooled_in_double_precision():
    X = values(3, K, D)
    pooled = pool_frames(X, ("mean", "max"))
    assert pooled.mean.dtype == pooled.max.dtype == torch.float64
    torch.testing.assert_close(pooled.mean, X.mean(dim=1), rtol=0, atol=1e-15)


# Whole videos


def dense(network: nn.Module, video: torch.Tensor, index: BlockIndex, first: int = 0, count: int | None = None):
    """Blocks ``first`` to ``first + count`` of the index's only video, from the frames that a data module would read."""
    count = len(index) - first if count is None else count
    chosen, skip, stride = index.stretch(Span(0, first, count))
    frames = pool_frames(video[torch.as_tensor(chosen)], network.inputs)
    return run_dense(network, frames, count, index.length, skip, stride)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("stride", [1, 3, 10])
@pytest.mark.parametrize("skip", [1, 2, 5])
@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_dense_testing_equals_stacked_blocks(kind, skip, stride, dtype):
    network, video = network_of(kind, dtype), values(T * skip + 25, K, D, dtype=dtype)
    X = stacked(video, T, skip, stride)
    index = BlockIndex([len(video)], skip, stride, T)
    assert len(X) == len(index) == 25 // stride + 1
    assert_equal_outputs(dense(network, video, index), network(X), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("skip", "length"), [(1, 1), (1, T - 1), (2, 1), (2, 2), (2, 2 * T - 1), (5, 11), (5, 5 * T - 1)])
@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_dense_testing_equals_the_stacked_block_of_a_short_video(kind, skip, length, dtype):
    network, video = network_of(kind, dtype), values(length, K, D, dtype=dtype)
    X = stacked(video, T, skip)
    assert X.shape == (1, T, K, D) and torch.equal(X[0, -1], video[(length - 1) // skip * skip])
    for stride in (1, 10):
        index = BlockIndex([length], skip, stride, T)
        assert_equal_outputs(dense(network, video, index), network(X), TOLERANCE[dtype])


@pytest.mark.parametrize(("skip", "stride"), [(1, 1), (5, 1), (5, 10), (2, 3)])
@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_a_video_in_pieces_equals_the_whole(kind, skip, stride):
    network, video = network_of(kind), values(30 * skip + 40, K, D)
    index = BlockIndex([len(video)], skip, stride)  # 30 steps
    X = stacked(video, 30, skip, stride)
    for first in range(0, len(index), 4):
        count = min(4, len(index) - first)
        expected = network(X[first : first + count])
        assert_equal_outputs(dense(network, video, index, first, count), expected, 1e-10)


@pytest.mark.parametrize(("skip", "stride"), [(1, 1), (2, 1), (1, 3), (5, 10)])
@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_videos_in_one_pass_equal_one_by_one(kind, skip, stride):
    """Some of one block, one shorter than a block, and one from its midst; each block sees its own video alone."""
    network, stretches, expected = network_of(kind), [], []
    for number, (frames, first) in enumerate([(T * skip + 7, 0), (2, 0), (T * skip, 0), (T * skip + 23, 1), (T * skip + 9, 0)]):
        index = BlockIndex([frames], skip, stride, T)
        first = min(first, len(index) - 1)
        chosen, *steps = index.stretch(Span(0, first, len(index) - first))
        own = pool_frames((number + 1) * values(frames, K, D)[torch.as_tensor(chosen)], network.inputs)
        stretches.append(Stretch(own, len(index) - first, *steps))
        expected.append(run_dense(network, own, len(index) - first, T, *steps))
    for found, alone in zip(run_dense_together(network, stretches, T), expected, strict=True):
        assert_equal_outputs(found, alone._replace(scales=None), 1e-10)


@pytest.mark.parametrize("kind", NETWORKS)
def test_half_precision_videos_are_tested_in_single_precision(kind):
    network, video = network_of(kind, torch.float32), values(T + 3, K, D).half()
    result = dense(network, video, BlockIndex([T + 3], length=T))
    assert result.logits.dtype == torch.float32
    assert_equal_outputs(result, network(stacked(video, T)), 1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_of_dense_blocks_equal_those_of_stacked_ones(kind):
    network, video = network_of(kind), values(T + 5, K, D)
    weights, found = values(6, T, C, seed=2), []
    for output in (dense(network, video, BlockIndex([T + 5], length=T)), network(stacked(video, T))):
        found.append(torch.autograd.grad((output.logits * weights).sum(), trainable(network), allow_unused=True))
    assert any(value is not None for value in found[0])
    for fast, plain in zip(*found, strict=True):
        assert (fast is None) == (plain is None)
        if plain is not None:
            torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "maps"), [("content", ["attention.content", "attention.extra.0"]), ("regression", ["classes"])]
)
@pytest.mark.parametrize(("skip", "stride"), [(1, 1), (2, 1), (1, 3)])
def test_what_depends_on_a_frame_alone_is_computed_once_for_each(kind, maps, skip, stride):
    network, rows = network_of(kind), {}
    for name in maps:
        hook = lambda _, inputs, __, name=name: rows.setdefault(name, []).append(inputs[0].shape[:-1].numel())  # noqa: E731
        network.get_submodule(name).register_forward_hook(hook)
    blocks, video = 7, values(span(7, T, skip, stride), K, D)
    run_dense(network, pool_frames(video, network.inputs), blocks, T, skip, stride)
    per_frame = K if kind == "content" else 1
    assert rows == {name: [per_frame * len(video)] for name in maps}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_video_of_the_wrong_length_is_refused(kind):
    network, video = network_of(kind), values(T + 5, K, D)
    with pytest.raises(ValueError, match="5 blocks at stride 1 and skip 1 span 10 frames, not 11"):
        run_dense(network, pool_frames(video, network.inputs), 5, T)


@pytest.mark.parametrize("kind", NETWORKS)
def test_cubes_by_reference_give_what_gathered_cubes_give(kind):
    network = network_of(kind, torch.float32)
    pool = values(50, K, D, dtype=torch.float16, seed=5)
    rows = torch.randint(0, 50, (3, T), generator=torch.Generator().manual_seed(6))
    gathered = pool_frames(pool[rows], network.inputs)
    referred = gathered._replace(cube=None if gathered.cube is None else Rows(pool, rows))
    outputs = [run_blocks(network, frames) for frames in (referred, gathered)]
    assert_equal_outputs(*outputs, tolerance=0.0)
    slopes = [torch.autograd.grad(output.logits.sum(), trainable(network), allow_unused=True) for output in outputs]
    for one, other in zip(*slopes, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("kind", ["location", "content"])
def test_fast_and_readable_agree_on_whole_videos_and_on_cubes_by_reference(kind, dtype):
    fast, readable = (network_of(name, dtype) for name in (kind, f"{kind}, readable"))
    pool, rows = values(2 * T + 9, K, D, dtype=dtype), torch.randint(0, T, (3, T), generator=torch.Generator().manual_seed(6))
    index = BlockIndex([len(pool)], 2, 3, T)
    referred = pool_frames(pool[rows], fast.inputs)._replace(cube=Rows(pool, rows))
    for outputs in [[dense(network, pool, index) for network in (fast, readable)]] + [
        [run_blocks(network, referred) for network in (fast, readable)]
    ]:
        assert_equal_outputs(*outputs, TOLERANCE[dtype])
        slopes = [
            torch.autograd.grad(output.logits.sum(), list(network.lstm.parameters())[:2])
            for output, network in zip(outputs, (fast, readable), strict=True)
        ]
        for one, other in zip(*slopes, strict=True):
            torch.testing.assert_close(one, other, rtol=TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])
