"""Dropout: masks of zeros with probability p, kept values scaled to the same mean, the identity outside of training."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from lightning_modules import layers as module
from lightning_modules.layers import Dropout, build_lstm, dropout_mask, run_layers, seed_masks

LIKE = torch.zeros(1)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_zeros_come_with_probability_p_and_the_mean_stays(p, seed):
    torch.manual_seed(seed)
    mask = dropout_mask((200, 500), p, LIKE)
    deviation = (p * (1 - p) / mask.numel()) ** 0.5
    assert abs(float((mask == 0).double().mean()) - p) < 4 * deviation
    assert abs(float(mask.double().mean()) - 1) < 4 * deviation / (1 - p)


def test_zeros_do_not_come_in_rows_columns_or_pairs():
    torch.manual_seed(0)
    zero = (dropout_mask((300, 400), 0.5, LIKE) == 0).double()
    for dim, number in [(0, 300), (1, 400)]:
        assert zero.mean(dim=dim).sub(0.5).abs().max() < 5 * 0.5 / number**0.5
    for shifted in (zero.roll(1, 0), zero.roll(1, 1)):
        assert float((zero == shifted).double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / zero.numel() ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", [0.25, 0.5, 0.75])
def test_kept_values_are_scaled_in_the_precision_asked_for(p, dtype):
    mask = dropout_mask((7, 50), p, LIKE.to(dtype))
    assert mask.dtype == dtype and mask.shape == (7, 50)
    assert set(mask.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p), dtype=dtype).item()}


@pytest.mark.parametrize(("p", "value"), [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_or_everything_is_dropped(p, value):
    assert (dropout_mask((100, 100), p, LIKE) == value).all()


def test_masks_follow_the_seed_and_differ_between_draws():
    torch.manual_seed(3)
    first, second = dropout_mask((20, 20), 0.5, LIKE), dropout_mask((20, 20), 0.5, LIKE)
    torch.manual_seed(3)
    assert torch.equal(dropout_mask((20, 20), 0.5, LIKE), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_dropout_multiplies_by_a_fresh_mask_forward_and_backward(shape):
    x = torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape).requires_grad_()
    torch.manual_seed(0)
    mask = dropout_mask(shape, 0.5, x)
    torch.manual_seed(0)
    result = Dropout(0.5)(x)
    assert torch.equal(result, x * mask)
    (slope,) = torch.autograd.grad(result.sum(), x)
    assert torch.equal(slope, mask)


def test_dropping_everything_gives_zeros_and_a_gradient_of_zero():
    x = torch.ones(4, requires_grad=True)
    result = Dropout(1.0)(x)
    (slope,) = torch.autograd.grad(result.sum(), x)
    assert (result == 0).all() and (slope == 0).all()


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (1.0, False), (0.0, True), (0.0, False)])
def test_dropout_is_the_identity_in_evaluation_and_at_p_0(p, training, monkeypatch):
    monkeypatch.setattr(module, "dropout_mask", None)  # nothing is drawn: the stream of random numbers does not move
    x = torch.randn(3, 4)
    assert Dropout(p).train(training)(x) is x


@pytest.mark.parametrize("dropout", [0.3, 0.5])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_stack_layer_by_layer_gives_torchs_numbers_and_gradients_to_the_bit(layers, dropout):
    lstm = build_lstm(7, 5, layers, dropout)
    states = [torch.randn(layers, 4, 5, requires_grad=True) for _ in range(2)]
    x = torch.randn(4, 6, 7, requires_grad=True)
    wanted = [x, *states, *(parameter for parameter in lstm.parameters() if parameter.requires_grad)]

    def found(run) -> list[torch.Tensor]:
        torch.manual_seed(3)
        h = run()
        slope = torch.arange(h.numel()).view_as(h)
        return [h, *torch.autograd.grad((h * slope).sum(), wanted), torch.rand(1)]  # as many numbers were drawn

    pairs = zip(found(lambda: run_layers(lstm, x, *states)), found(lambda: lstm(x, tuple(states))[0]), strict=True)
    assert all(torch.equal(ours, torchs) for ours, torchs in pairs)


def test_masks_are_seeded_on_their_own_device_alone(monkeypatch):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    seed_masks(torch.device("cpu"), 5)
    assert torch.equal(torch.rand(3), wanted)
    seeds = {}
    of_gpus = tuple(SimpleNamespace(manual_seed=partial(seeds.__setitem__, number)) for number in range(2))
    monkeypatch.setattr(torch.cuda, "default_generators", of_gpus)
    before = torch.get_rng_state()
    seed_masks(torch.device("cuda", 1), 7)
    assert seeds == {1: 7} and torch.equal(torch.get_rng_state(), before)


def test_lstm_of_one_layer_is_built_without_torchs_warning(recwarn):
    assert build_lstm(3, 4, 1, 0.5).num_layers == 1
    assert not recwarn.list
