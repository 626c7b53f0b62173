"""Pooled LSTMs and softmax regression: equality with the NumPy transcription, causality, dropout, initialisation."""

import numpy as np
import pytest
import reference
import torch
from torch import nn

from lightning_modules.baselines import PooledLSTM, SoftmaxRegression

torch.set_num_threads(1)

B, T, K, D, H, C = 3, 4, 6, 7, 5, 4
POOLINGS = ["mean", "max"]


def filled(network: nn.Module, std: float = 0.5, seed: int = 0) -> nn.Module:
    """Double precision, weights large enough to matter, no dropout."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.double().parameters():
        if parameter.requires_grad:
            parameter.data.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network.eval()


def pooled(pooling: str, layers: int = 2, channels: int = D, **settings) -> nn.Module:
    return filled(PooledLSTM(channels, C, pooling, settings.pop("hidden_dim", H), layers, **settings))


def frames(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*(shape or (B, T, K, D)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: parameter.detach().double().numpy() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooled_lstm_equals_the_numpy_transcription(pooling, layers):
    network, X = pooled(pooling, layers), frames()
    output = network(X)
    assert output.attention is None
    for b in range(B):
        expected = reference.forward(reference.paper_order(arrays(network), pooling), X[b].numpy())
        np.testing.assert_allclose(output.logits[b].detach(), expected.logits, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("locations", "channels", "hidden"), [(1, 3, 4), (4, 4, 4), (49, 11, 3)])
def test_pooled_lstm_equals_the_transcription_at_other_sizes_in_single_precision(pooling, locations, channels, hidden):
    network = pooled(pooling, 2, channels, hidden_dim=hidden).float()
    X = frames(2, 5, locations, channels).float()
    logits = network(X).logits.detach()
    for b in range(2):
        expected = reference.forward(reference.paper_order(arrays(network), pooling), X[b].double().numpy())
        np.testing.assert_allclose(logits[b], expected.logits, atol=1e-5)


def test_max_pooling_starts_from_the_mean_and_reads_the_maximum():
    X = frames(1, 1, 2, D)
    network = pooled("max")
    spread = torch.stack([X[:, :, 0] - 1, X[:, :, 1] + 1], dim=2)  # same mean; in most channels another maximum
    assert not torch.allclose(network(spread).logits, network(X).logits)
    same = pooled("mean")
    torch.testing.assert_close(same(spread).logits, same(X).logits, rtol=0, atol=1e-12)
    for state in (*network.initial_state.hidden, *network.initial_state.cell):
        nn.init.zeros_(state.weight)  # without h_0 and c_0 only the maximum is left
    maximum = X.amax(dim=2, keepdim=True)
    torch.testing.assert_close(network(maximum).logits, network(X).logits, rtol=0, atol=1e-12)


def test_softmax_regression_equals_the_numpy_transcription():
    network, X = filled(SoftmaxRegression(K, D, C)), frames()
    output = network(X)
    assert output.attention is None
    parameters = arrays(network)
    affine = parameters["classes.weight"], parameters["classes.bias"]
    for b in range(B):
        np.testing.assert_allclose(output.logits[b].detach(), reference.softmax_regression(affine, X[b].numpy()), rtol=1e-10)


def test_softmax_regression_scores_each_frame_by_itself():
    network, X = filled(SoftmaxRegression(K, D, C)), frames()
    order = [2, 0, 3, 1]
    torch.testing.assert_close(network(X[:, order]).logits, network(X).logits[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooled_lstm_depends_on_later_frames_through_the_initial_state_only(pooling):
    network, X = pooled(pooling), frames(B, 6, K, D)
    swapped = X[:, [0, 1, 2, 5, 4, 3]]
    before, after = network(X).logits, network(swapped).logits
    torch.testing.assert_close(after[:, :3], before[:, :3], rtol=0, atol=1e-12)
    assert (after[:, 3:] - before[:, 3:]).abs().min() > 1e-9
    changed = X.clone()
    changed[:, -1] += 1
    assert (network(changed).logits[:, 0] - before[:, 0]).abs().max() > 1e-6


@pytest.mark.parametrize("pooling", POOLINGS)
def test_location_order_does_not_matter_to_pooling(pooling):
    network, X = pooled(pooling), frames()
    order = torch.randperm(K, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(X[:, :, order]).logits, network(X).logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [*POOLINGS, "regression"])
def test_half_precision_features_equal_the_same_features_in_float(kind, dtype):
    network = filled(SoftmaxRegression(K, D, C)) if kind == "regression" else pooled(kind)
    X = frames().to(dtype)
    half, full = network.float()(X).logits, network(X.float()).logits
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0, atol=1e-6)


# Dropout


def live_columns(weight: torch.Tensor) -> float:
    """Share of a matrix's inputs that received gradient."""
    return float((weight.grad != 0).any(dim=0).double().mean())


@pytest.mark.parametrize("input_dropout", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_dropout_sites_in_training(pooling, input_dropout):
    network = pooled(pooling, 3, 64, hidden_dim=64, input_dropout=input_dropout)
    network.train()
    for steps in (1, 4):  # masks are fresh at each step: over 4 steps, 1/16 of the inputs stays dropped and not 1/2
        low, high = {1: (0.25, 0.75), 4: (0.75, 1.01)}[steps]
        torch.manual_seed(0)
        network.zero_grad()
        network(frames(1, steps, K, 64)).logits.sum().backward()
        for layer in range(3):
            share = live_columns(getattr(network.lstm, f"weight_ih_l{layer}"))
            assert low < share < high if input_dropout else share == 1
            assert live_columns(getattr(network.lstm, f"weight_hh_l{layer}")) == 1
        for linear in (network.head.hidden, network.head.classes):
            assert low < live_columns(linear.weight) < high


@pytest.mark.parametrize("pooling", POOLINGS)
def test_dropping_everything_leaves_the_recurrent_paths_alone(pooling):
    network, X = pooled(pooling, 3, dropout=1.0).train(), frames()
    hidden = []
    network.head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0].detach()))
    logits = network(X).logits
    for b in range(B):
        nothing = [np.zeros((T, 1))] * network.lstm.num_layers
        expected = reference.forward(reference.paper_order(arrays(network), pooling), X[b].numpy(), nothing)
        np.testing.assert_allclose(hidden[0][b], expected.hidden, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(logits, network.head.classes.bias.expand(B, T, C))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_no_dropout_in_evaluation(pooling):
    X = frames()
    torch.testing.assert_close(
        pooled(pooling, dropout=0.5)(X).logits, pooled(pooling, dropout=0.0).train()(X).logits, rtol=0, atol=0
    )


def test_softmax_regression_has_no_dropout():
    network, X = filled(SoftmaxRegression(K, D, C)), frames()
    assert torch.equal(network.train()(X).logits, network.eval()(X).logits)


# Parameters


def test_parameters_are_the_attention_models_without_its_attention():
    with torch.device("meta"):
        network = PooledLSTM(1024, 11, "mean")
        regression = SoftmaxRegression(49, 1024, 11)
    count = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert count == 10_788_363 - 49 * 512  # the attention model of the paper preset, less W of Eq. 4
    assert sum(parameter.numel() for parameter in regression.parameters()) == 50_176 * 11 + 11


def test_initial_weights_of_softmax_regression():
    torch.manual_seed(0)
    classes = SoftmaxRegression(49, 20, 11).classes
    assert classes.weight.detach().std() == pytest.approx(0.01, rel=0.05)
    assert (classes.bias == 0).all()


def test_second_bias_of_torchs_lstm_is_frozen_at_zero():
    network = PooledLSTM(D, C, "max", H, 2)
    frozen = {name: parameter for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert set(frozen) == {"lstm.bias_hh_l0", "lstm.bias_hh_l1"}
    assert all((parameter == 0).all() for parameter in frozen.values())


def test_unknown_pooling_is_refused_by_name():
    with pytest.raises(ValueError, match="'average' is neither 'mean' nor 'max'"):
        PooledLSTM(D, C, "average")
