"""The attention model, as written and fast: equality with the NumPy transcription, causality, dropout, initialisation."""

import numpy as np
import pytest
import reference
import torch
from torch import nn

from lightning_modules import layers as layers_module
from lightning_modules.attention import InitialState, SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM
from lightning_modules.objective import attention_penalty
from lightning_modules.optim import build_optimizer

torch.set_num_threads(1)

B, T, K, D, H, C = 3, 4, 6, 7, 5, 4
ATTENTIONS = [("location", 0), ("content", 0), ("content", 1), ("content", 2), ("content", 3)]
BOTH_FORMS = pytest.mark.parametrize("fast", [True, False], ids=["fast", "readable"])


def randomise(network: nn.Module, std: float = 0.5, seed: int = 0) -> nn.Module:
    """Weights large enough that every term of the equations matters; frozen ones stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def soft(attention: str = "location", extra: int = 0, layers: int = 3, **settings) -> SoftAttentionLSTM:
    sizes = {"locations": K, "channels": D, "num_classes": C, "hidden_dim": H} | settings
    return SoftAttentionLSTM(**sizes, num_layers=layers, attention=attention, attention_layers=extra)


def ready(*arguments, **settings) -> SoftAttentionLSTM:
    """Random weights, double precision, no dropout."""
    return randomise(soft(*arguments, **settings).double()).eval()


def frames(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*(shape or (B, T, K, D)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: parameter.detach().double().numpy() for name, parameter in network.named_parameters()}


# Equality with the equations


@BOTH_FORMS
@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("attention", "extra"), ATTENTIONS)
def test_equals_the_numpy_transcription(attention, extra, layers, fast):
    network, X = ready(attention, extra, layers, fast=fast), frames()
    output = network(X)
    parameters = reference.paper_order(arrays(network))
    for b in range(B):
        expected = reference.forward(parameters, X[b].numpy())
        np.testing.assert_allclose(output.logits[b].detach(), expected.logits, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(output.attention[b].detach(), expected.attention, rtol=1e-10, atol=1e-12)


@BOTH_FORMS
@pytest.mark.parametrize("dropout", [0.3, 0.5])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("attention", "extra"), [("location", 0), ("content", 2)])
def test_equals_the_numpy_transcription_under_the_masks_that_were_drawn(attention, extra, layers, dropout, fast, monkeypatch):
    network, X, masks = ready(attention, extra, layers, dropout=dropout, fast=fast).train(), frames(), []
    draw = layers_module.dropout_mask
    monkeypatch.setattr(layers_module, "dropout_mask", lambda *arguments: masks.append(draw(*arguments)) or masks[-1])
    output = network(X)
    assert [tuple(mask.shape) for mask in masks] == [(T, B, D)] + (layers - 1) * [(T, B, H)] + 2 * [(B, T, H)]
    for b in range(B):
        inputs, head = [mask[:, b].numpy() for mask in masks[:-2]], tuple(mask[b].numpy() for mask in masks[-2:])
        expected = reference.forward(reference.paper_order(arrays(network)), X[b].numpy(), inputs, head)
        np.testing.assert_allclose(output.logits[b].detach(), expected.logits, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(output.attention[b].detach(), expected.attention, rtol=1e-10, atol=1e-12)


@BOTH_FORMS
@pytest.mark.parametrize(("attention", "extra"), [("location", 0), ("content", 2)])
@pytest.mark.parametrize(("locations", "channels", "hidden"), [(1, 3, 4), (4, 4, 4), (9, 2, 6), (49, 11, 3)])
def test_equals_the_transcription_at_other_sizes_in_single_precision(attention, extra, locations, channels, hidden, fast):
    network = soft(attention, extra, 2, locations=locations, channels=channels, hidden_dim=hidden, fast=fast)
    randomise(network).eval()
    X = frames(2, 5, locations, channels).float()
    output = network(X)
    for b in range(2):
        expected = reference.forward(reference.paper_order(arrays(network)), X[b].double().numpy())
        np.testing.assert_allclose(output.logits[b].detach(), expected.logits, atol=1e-5)
        np.testing.assert_allclose(output.attention[b].detach(), expected.attention, atol=1e-5)


def test_initial_states_are_one_tanh_of_the_mean_slice_for_each_layer():
    state, X = randomise(InitialState(D, H, 3).double()), frames()
    h, c = state(X.mean(dim=(1, 2)))
    assert h.shape == c.shape == (3, B, H)
    mean = X[1].numpy().sum(axis=(0, 1)) / (T * K)
    for layer in range(3):
        for values, affine in [(h, state.hidden[layer]), (c, state.cell[layer])]:
            expected = np.tanh(affine.weight.detach().numpy() @ mean + affine.bias.detach().numpy())
            np.testing.assert_allclose(values[layer, 1].detach(), expected, rtol=1e-12)


@BOTH_FORMS
@pytest.mark.parametrize(("attention", "extra"), ATTENTIONS)
def test_attention_is_a_distribution_over_locations(attention, extra, fast):
    output = ready(attention, extra, fast=fast)(10 * frames())
    assert output.attention.shape == (B, T, K)
    assert (output.attention >= 0).all()
    torch.testing.assert_close(output.attention.sum(dim=-1), torch.ones(B, T, dtype=torch.float64))
    assert output.attention.std() > 0.01  # and not simply uniform


@BOTH_FORMS
def test_location_attention_does_not_see_the_frame_but_content_attention_does(fast):
    X = frames()
    order = torch.randperm(K, generator=torch.Generator().manual_seed(0))
    for attention, follows in [("location", False), ("content", True)]:
        network = ready(attention, fast=fast)
        first = network(X).attention[:, 0]
        shuffled = network(X[:, :, order]).attention[:, 0]  # h_0 keeps its value: the mean slice does
        torch.testing.assert_close(shuffled, first[:, order] if follows else first)
        assert not torch.allclose(first, first[:, order])


# Causality


@BOTH_FORMS
@pytest.mark.parametrize(("attention", "extra"), [("location", 0), ("content", 0), ("content", 2)])
@pytest.mark.parametrize("layers", [1, 3])
def test_nothing_depends_on_later_frames_except_through_the_initial_state(attention, extra, layers, fast):
    network, X = ready(attention, extra, layers, fast=fast), frames(B, 6, K, D)
    swapped = X[:, [0, 1, 2, 5, 4, 3]]  # steps 4 and 6 trade places: the block's mean stays
    before, after = network(X), network(swapped)
    torch.testing.assert_close(after.logits[:, :3], before.logits[:, :3], rtol=0, atol=1e-12)
    seen = 4 if attention == "location" else 3  # l_4 needs h_3 alone; content attention also looks at X_4
    torch.testing.assert_close(after.attention[:, :seen], before.attention[:, :seen], rtol=0, atol=1e-12)
    assert (after.logits[:, 3] - before.logits[:, 3]).abs().min() > 1e-6
    assert (after.attention[:, seen] - before.attention[:, seen]).abs().max() > 1e-6


@BOTH_FORMS
def test_later_frames_reach_the_first_step_through_the_initial_state(fast):
    network, X = ready(fast=fast), frames()
    changed = X.clone()
    changed[:, -1] += 1
    assert (network(changed).attention[:, 0] - network(X).attention[:, 0]).abs().max() > 1e-6
    for states in (network.initial_state.hidden, network.initial_state.cell):
        for affine in states:
            nn.init.zeros_(affine.weight)
    torch.testing.assert_close(network(changed).logits[:, :-1], network(X).logits[:, :-1], rtol=0, atol=0)


@BOTH_FORMS
def test_blocks_of_a_batch_do_not_mix(fast):
    for attention, extra in ATTENTIONS:
        network, X = ready(attention, extra, fast=fast), frames()
        together = network(X)
        for b in range(B):
            alone = network(X[b : b + 1])
            torch.testing.assert_close(together.logits[b], alone.logits[0], rtol=0, atol=1e-12)
            torch.testing.assert_close(together.attention[b], alone.attention[0], rtol=0, atol=1e-12)


# Limits of the attention


@BOTH_FORMS
@pytest.mark.parametrize("layers", [1, 3])
def test_uniform_attention_is_average_pooling(layers, fast):
    network, X = ready(layers=layers, fast=fast), frames()
    pooled = PooledLSTM(D, C, "mean", H, layers).double().eval()
    shared = {name: value for name, value in network.state_dict().items() if not name.startswith("attention.")}
    pooled.load_state_dict(shared)
    assert not torch.allclose(network(X).logits, pooled(X).logits)
    nn.init.zeros_(network.attention.locations.weight)
    output = network(X)
    torch.testing.assert_close(output.attention, torch.full((B, T, K), 1 / K, dtype=torch.float64))
    torch.testing.assert_close(output.logits, pooled(X).logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("attention", "extra"), [("location", 0), ("content", 0)])
def test_a_huge_penalty_makes_the_attention_uniform_over_the_block(attention, extra):
    network = randomise(soft(attention, extra, 1, locations=4, dropout=0.0), std=2.0)
    X = frames(2, 8, 4, D).float()
    optimizer = build_optimizer(network.parameters(), "adam", lr=0.05)

    def distance() -> float:
        return float((network(X).attention.detach().mean(dim=1) - 1 / 4).abs().max())

    assert distance() > 0.1
    for _ in range(150):
        optimizer.zero_grad()
        output = network(X)
        data = nn.functional.cross_entropy(output.logits.flatten(0, 1), torch.arange(2).repeat_interleave(8))
        (data + 1e6 * attention_penalty(output.attention).mean()).backward()
        optimizer.step()
    assert distance() < 0.02


# Sizes


def trainable(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("attention", "extra", "layers", "hidden", "classes", "exact", "millions"),
    [
        ("location", 0, 3, 512, 11, 10_788_363, 10.79),
        ("location", 0, 3, 1024, 51, 32_627_763, 32.6),
        ("content", 0, 1, 512, 11, 6_040_588, 6.04),
        ("content", 2, 1, 1024, 51, 15_792_180, 15.79),
    ],
)
def test_parameter_counts_of_the_presets(attention, extra, layers, hidden, classes, exact, millions):
    with torch.device("meta"):
        network = SoftAttentionLSTM(49, 1024, classes, hidden, layers, attention, extra)
    assert trainable(network) == exact  # counted by hand from protocol §1
    assert exact / 1e6 == pytest.approx(millions, abs=0.05 if millions == 32.6 else 0.005)


def test_defaults_are_the_papers():
    with torch.device("meta"):
        network = SoftAttentionLSTM(49, 1024, 11)
    assert trainable(network) == 10_788_363
    assert network.dropout.p == network.head.dropout.p == 0.5
    assert network.fast


# Dropout


def live_columns(weight: torch.Tensor) -> float:
    """Share of a matrix's inputs that received gradient: those that were not dropped at every step."""
    return float((weight.grad != 0).any(dim=0).double().mean())


def gradient_through(network: nn.Module, steps: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    network.zero_grad()
    network(frames(1, steps, K, 64)).logits.sum().backward()


def wide(input_dropout: bool, attention: str = "location", fast: bool = True) -> SoftAttentionLSTM:
    sizes = {"channels": 64, "hidden_dim": 64, "num_classes": 3, "fast": fast}
    return randomise(soft(attention, 0, 3, input_dropout=input_dropout, dropout=0.5, **sizes).double(), std=0.1)


@BOTH_FORMS
@pytest.mark.parametrize("attention", ["location", "content"])
@pytest.mark.parametrize("input_dropout", [True, False])
def test_dropout_sites_in_training(input_dropout, attention, fast):
    network = wide(input_dropout, attention, fast).train()
    gradient_through(network, steps=1)
    for layer in range(3):
        share = live_columns(getattr(network.lstm, f"weight_ih_l{layer}"))
        assert 0.25 < share < 0.75 if input_dropout else share == 1
        assert live_columns(getattr(network.lstm, f"weight_hh_l{layer}")) == 1
    for linear in (network.head.hidden, network.head.classes):
        assert 0.25 < live_columns(linear.weight) < 0.75
    gradient_through(network, steps=2)
    state = network.attention.locations if attention == "location" else network.attention.state
    assert live_columns(state.weight) == 1


@BOTH_FORMS
def test_dropout_masks_are_fresh_at_every_step(fast):
    network = wide(input_dropout=True, fast=fast).train()
    gradient_through(network, steps=4)  # one mask for all steps would leave half of the inputs dead, not 1/16
    sites = [getattr(network.lstm, f"weight_ih_l{layer}") for layer in range(3)]
    for weight in [*sites, network.head.hidden.weight, network.head.classes.weight]:
        assert live_columns(weight) > 0.75


@BOTH_FORMS
def test_dropout_masks_differ_between_blocks_and_calls_and_follow_the_seed(fast):
    network = wide(input_dropout=True, fast=fast).train()
    X = frames(1, T, K, 64).expand(2, -1, -1, -1)
    torch.manual_seed(0)
    first, second = network(X), network(X)
    torch.manual_seed(0)
    again = network(X)
    assert torch.equal(first.logits, again.logits)
    assert (first.logits[0] - first.logits[1]).abs().min() > 1e-9
    assert (first.logits - second.logits).abs().min() > 1e-9


@BOTH_FORMS
@pytest.mark.parametrize("attention", ["location", "content"])
def test_first_attention_is_deterministic_in_training_and_later_ones_are_not(attention, fast):
    network, X = ready(attention, fast=fast).train(), frames()
    expected = network.eval()(X).attention
    network.train()
    torch.testing.assert_close(network(X).attention[:, 0], expected[:, 0], rtol=0, atol=1e-12)
    assert not torch.allclose(network(X).attention[:, 1], expected[:, 1])


@BOTH_FORMS
@pytest.mark.parametrize(("attention", "extra"), ATTENTIONS)
def test_dropping_everything_leaves_the_recurrent_paths_alone(attention, extra, fast):
    network, X = ready(attention, extra, dropout=1.0, fast=fast).train(), frames()
    hidden = []
    network.head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0].detach()))
    output = network(X)
    for b in range(B):
        nothing = [np.zeros((T, 1))] * network.lstm.num_layers
        expected = reference.forward(reference.paper_order(arrays(network)), X[b].numpy(), nothing)
        np.testing.assert_allclose(hidden[0][b], expected.hidden, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(output.attention[b].detach(), expected.attention, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(output.logits, network.head.classes.bias.expand(B, T, C))


@BOTH_FORMS
@pytest.mark.parametrize("attention", ["location", "content"])
def test_without_input_dropout_only_the_head_drops(attention, fast):
    network, X = ready(attention, input_dropout=False, fast=fast), frames()
    expected = network(X)
    network.train()
    output = network(X)
    assert torch.equal(output.attention, expected.attention)
    assert not torch.allclose(output.logits, expected.logits)


@BOTH_FORMS
def test_dropped_inputs_are_zero_and_kept_ones_doubled(fast):
    network = randomise(soft(layers=1, channels=64, dropout=0.5, fast=fast).double(), std=0.1)
    for affine in (*network.initial_state.hidden, *network.initial_state.cell):
        nn.init.zeros_(affine.weight)  # else X reaches h past the dropped inputs
    hidden = []
    network.head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    slopes = []
    for mode in (True, False):  # at X = 0 the gates do not depend on the mask, so slopes differ by the mask alone
        X = torch.zeros(1, 1, K, 64, dtype=torch.float64, requires_grad=True)
        torch.manual_seed(0)
        network.train(mode)(X)
        slopes.append(torch.autograd.grad(hidden[-1].sum(), X)[0])
    ratio = (slopes[0] / slopes[1]).round(decimals=9)
    assert set(ratio.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(ratio[0, 0, 0], ratio[0, 0, 1])  # a mask on x_t, not on X_t


@BOTH_FORMS
@pytest.mark.parametrize(("attention", "extra"), [("location", 0), ("content", 2)])
def test_no_dropout_in_evaluation(attention, extra, fast):
    X = frames()
    network = ready(attention, extra, dropout=0.5, fast=fast)
    undropped = ready(attention, extra, dropout=0.0, fast=fast).train()
    assert torch.equal(network(X).logits, network(X).logits)
    torch.testing.assert_close(network(X).logits, undropped(X).logits, rtol=0, atol=0)


# Initialisation


def assert_orthogonal(matrix: torch.Tensor) -> None:
    torch.testing.assert_close((matrix @ matrix.T).detach(), torch.eye(len(matrix)), rtol=0, atol=1e-5)


def assert_small_normal(matrix: torch.Tensor) -> None:
    matrix = matrix.detach()
    assert matrix.std() == pytest.approx(0.01, rel=0.1)
    assert abs(matrix.mean()) < 5 * 0.01 / matrix.numel() ** 0.5
    assert 0.6 < (matrix.abs() < 0.01).double().mean() < 0.75  # 68 % within one deviation


@pytest.mark.parametrize(("attention", "extra"), [("location", 0), ("content", 2)])
def test_initial_weights(attention, extra):
    torch.manual_seed(0)
    network = soft(attention, extra, 2, locations=48, channels=64, hidden_dim=48, num_classes=20)
    assert_small_normal(torch.cat([p.flatten() for n, p in network.attention.named_parameters() if "weight" in n]))
    for state in (*network.initial_state.hidden, *network.initial_state.cell):
        assert_small_normal(state.weight)
    for gate in range(4):
        rows = slice(48 * gate, 48 * (gate + 1))
        assert_small_normal(network.lstm.weight_ih_l0[rows])  # 48 x 64
        for square in (network.lstm.weight_hh_l0, network.lstm.weight_ih_l1, network.lstm.weight_hh_l1):
            assert_orthogonal(square[rows])
    assert not torch.allclose(network.lstm.weight_hh_l0[:48], network.lstm.weight_hh_l0[48:96], atol=0.1)
    assert_orthogonal(network.head.hidden.weight)
    assert_small_normal(network.head.classes.weight)
    biases = {name: p for name, p in network.named_parameters() if "bias" in name}
    assert len(biases) == 2 * 2 + 2 * 2 + 2 + (0 if attention == "location" else 4)
    assert all((bias == 0).all() for bias in biases.values())


@pytest.mark.parametrize(("attention", "extra"), [("location", 0), ("content", 1)])
def test_attention_weights_are_small_even_where_they_are_square(attention, extra):
    torch.manual_seed(0)
    network = soft(attention, extra, 1, locations=48, channels=48, hidden_dim=48)
    squares = [p for p in network.attention.parameters() if p.shape == (48, 48)]
    assert len(squares) == (1 if attention == "location" else 3)
    for square in squares:
        assert_small_normal(square)


def test_square_input_and_initial_state_matrices_are_orthogonal():
    torch.manual_seed(0)
    network = soft(layers=1, channels=16, hidden_dim=16)
    for gate in network.lstm.weight_ih_l0.chunk(4):
        assert_orthogonal(gate)
    assert_orthogonal(network.initial_state.hidden[0].weight)
    assert_orthogonal(network.initial_state.cell[0].weight)


def test_second_bias_of_torchs_lstm_stays_zero():
    network = soft()
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"lstm.bias_hh_l{layer}" for layer in range(3)}
    optimizer = build_optimizer(network.parameters(), "adam", lr=0.1)
    network(frames().float()).logits.square().sum().backward()
    optimizer.step()
    assert all((getattr(network.lstm, f"bias_hh_l{layer}") == 0).all() for layer in range(3))
    assert all((getattr(network.lstm, f"bias_ih_l{layer}") != 0).any() for layer in range(3))


# Input


@BOTH_FORMS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("attention", "extra"), [("location", 0), ("content", 1)])
def test_half_precision_features_equal_the_same_features_in_float(dtype, attention, extra, fast):
    network = randomise(soft(attention, extra, fast=fast)).eval()
    X = frames().to(dtype)
    half, full = network(X), network(X.float())
    assert half.logits.dtype == half.attention.dtype == torch.float32
    torch.testing.assert_close(half.logits, full.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(half.attention, full.attention, rtol=0, atol=1e-6)


@BOTH_FORMS
def test_mean_of_half_precision_features_does_not_overflow(fast):
    X = torch.full((1, 30, 49, D), 1000.0, dtype=torch.float16)  # the sum, 1.5e6, is beyond half precision
    network = randomise(soft(locations=49, fast=fast), std=1e-4).eval()
    assert network(X).logits.isfinite().all()
    torch.testing.assert_close(network(X).logits, network(X.float()).logits, rtol=0, atol=1e-6)


def test_unknown_attention_is_refused_by_name():
    with pytest.raises(ValueError, match="'locations' is neither 'location' nor 'content'"):
        soft("locations")
