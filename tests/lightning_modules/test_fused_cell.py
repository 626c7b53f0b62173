"""The fused cell: where it is taken, that the recurrence around it is that of the plain one, in far fewer kernels."""

import pytest
import torch
from test_attention_fast import DTYPES, KINDS, B, D, K, T, assert_equals_the_readable_one, soft, values

from lightning_modules import attention_fast
from lightning_modules.frames import Frames, Rows, run_blocks, run_dense
from lightning_modules.fused_cell import fuses

torch.set_num_threads(1)


def cell(z, more, c, bias, more_bias):
    """torch's kernel ``lstm_cell_forward`` in plain operations."""
    i, f, g, o = (z + more + bias + more_bias).chunk(4, dim=1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    after = f * c + i * g
    return o * after.tanh(), after, torch.cat([i, f, g, o], dim=1)


def cell_backward(d_h, d_c, before, after, gates):
    """torch's kernel ``lstm_cell_backward`` in plain operations."""
    i, f, g, o = gates.chunk(4, dim=1)
    tanh_c = after.tanh()
    d_after = d_h * o * (1 - tanh_c**2) + d_c
    d_i, d_f, d_g = d_after * g * (1 - i) * i, d_after * before * (1 - f) * f, d_after * i * (1 - g * g)
    return torch.cat([d_i, d_f, d_g, d_h * tanh_c * (1 - o) * o], dim=1), d_after * f


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The recurrence as it runs on a GPU, with plain operations in the kernels' place."""
    monkeypatch.setattr(attention_fast, "fuses", lambda device: True)
    monkeypatch.setattr(attention_fast, "fused_cell", cell)
    monkeypatch.setattr(attention_fast, "fused_cell_backward", cell_backward)


def test_the_kernels_as_they_stand_here_are_each_others_derivatives():
    z, c, bias = values(B, 20, seed=1).requires_grad_(), values(B, 5, seed=2).requires_grad_(), values(20, seed=3)
    h, after, gates = cell(z, torch.zeros_like(z), c, bias, torch.zeros_like(bias))
    d_h, d_c = values(B, 5, seed=4), values(B, 5, seed=5)
    expected = torch.autograd.grad((h * d_h).sum() + (after * d_c).sum(), [z, c])
    for ours, theirs in zip(cell_backward(d_h, d_c, c, after, gates), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_with_fused_cells_outputs_and_gradients_are_the_readable_ones(attention, extra, depth, dropout, dtype, as_on_a_gpu):
    X = values(B, T, K, D, dtype=dtype).requires_grad_()
    assert_equals_the_readable_one(soft(attention, extra, depth, dtype, dropout=dropout), X)


@pytest.mark.parametrize("attention", ["location", "content"])
def test_without_gradients_and_by_reference_too(attention, as_on_a_gpu, monkeypatch):
    network = soft(attention, dtype=torch.float32).eval()
    frames = Frames(values(40, K, D).half(), values(40, D, seed=2).float())
    rows = torch.arange(T)[None] + torch.arange(6)[:, None]
    by_reference = frames._replace(cube=Rows(frames.cube, rows), mean=frames.mean[rows])
    stretch = Frames(frames.cube[: T + 5], frames.mean[: T + 5])
    runs = (lambda: run_blocks(network, by_reference), lambda: run_dense(network, stretch, 6, T))
    with torch.no_grad():
        fused = [run() for run in runs]
        monkeypatch.setattr(attention_fast, "fuses", lambda device: False)
        for ours, plain in zip(fused, [run() for run in runs], strict=True):
            torch.testing.assert_close(ours.logits, plain.logits, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(ours.attention, plain.attention, rtol=1e-5, atol=1e-6)


def test_half_precision_products_leave_states_in_single_precision(as_on_a_gpu, monkeypatch):
    network, X = soft(dtype=torch.float32), values(B, T, K, D).half()
    found = []
    for fused in (True, False):
        monkeypatch.setattr(attention_fast, "fuses", lambda device, fused=fused: fused)
        with torch.autocast("cpu", torch.bfloat16):
            output = network(X)
        loss = (output.logits.float() ** 2).sum() + (output.attention**2).sum()
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        found.append([output.attention, *torch.autograd.grad(loss, trained)])
    for ours, plain in zip(*found, strict=True):
        assert ours.dtype == plain.dtype == torch.float32
        assert (ours - plain).norm() <= 0.05 * plain.norm().clamp(min=1e-3)


def test_it_is_taken_on_gpus_that_have_it_alone(monkeypatch):
    assert not fuses("cpu") and not fuses("mps")
    fuses.cache_clear()  # what this machine's torch says of CUDA is not for other tests to know
    assert fuses("cuda") == torch.cuda.is_available()
    fuses.cache_clear()
