"""The fast attention LSTM equals the readable one, forward and backward, in every use that is made of it."""

import itertools
import types

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_modules import attention_fast, layers
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.attention_fast import Layer, attend_over_time, product
from lightning_modules.objective import Objective, attention_penalty
from lightning_modules.optim import build_optimizer

torch.set_num_threads(1)

B, T, K, D, H, C = 3, 5, 6, 7, 4, 3
KINDS = [("location", 0), ("content", 0), ("content", 1), ("content", 2)]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
DTYPES = list(TOLERANCE)
WITHOUT_PACKING = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")  # torch's own, of every flags()


def soft(attention="location", extra=0, layers=2, dtype=torch.float64, **settings) -> SoftAttentionLSTM:
    """In training mode, weights large enough that every term of the equations matters; frozen ones stay as they are."""
    sizes = {"locations": K, "channels": D, "num_classes": C, "hidden_dim": H, "dropout": 0.0} | settings
    network = SoftAttentionLSTM(**sizes, num_layers=layers, attention=attention, attention_layers=extra).to(dtype)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def values(*shape: int, dtype=torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weighted(output, through: str) -> torch.Tensor:
    """A scalar to which every logit, every l_{t,i}, or both, contribute differently."""
    logits, attention = output.logits, output.attention
    parts = {"logits": (logits * values(*logits.shape, dtype=logits.dtype, seed=2)).sum()}
    parts["attention"] = (attention * values(*attention.shape, dtype=attention.dtype, seed=3)).sum()
    return parts["logits"] + parts["attention"] if through == "both" else parts[through]


def gradients(network: nn.Module, X: torch.Tensor, output, through: str = "both") -> dict[str, torch.Tensor]:
    """By name; zero where nothing flows."""
    inputs = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    inputs |= {"X": X} if X.requires_grad else {}
    found = torch.autograd.grad(weighted(output, through), list(inputs.values()), allow_unused=True)
    zipped = zip(inputs.items(), found, strict=True)
    return {name: torch.zeros_like(value) if grad is None else grad for (name, value), grad in zipped}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str) -> None:
    """Relative to the largest value, or to 1 where all are smaller."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, what
    distance = (actual - expected).abs().max() / expected.abs().max().clamp(min=1)
    assert distance <= tolerance, f"{what}: {float(distance)}"


def both_forms(network, X, seed: int = 0):
    """The fast output and the readable one, under the same dropout masks."""
    outputs = []
    for forward in (network, network.equations):
        torch.manual_seed(seed)
        outputs.append(forward(X))
    return outputs


def assert_equals_the_readable_one(network, X, through="both") -> None:
    fast, plain = both_forms(network, X)
    tolerance = TOLERANCE[plain.logits.dtype]
    assert_close(fast.logits, plain.logits, tolerance, "logits")
    assert_close(fast.attention, plain.attention, tolerance, "attention")
    actual, expected = (gradients(network, X, output, through) for output in (fast, plain))
    for name in expected:
        assert_close(actual[name], expected[name], tolerance, name)


@pytest.fixture
def drawn(monkeypatch) -> list[torch.Tensor]:
    """The dropout masks, in the order in which a network draws them."""
    masks, draw = [], layers.dropout_mask

    def recorded(shape, p, like):
        masks.append(draw(shape, p, like))
        return masks[-1]

    monkeypatch.setattr(layers, "dropout_mask", recorded)
    return masks


def supply(monkeypatch, masks: list[torch.Tensor]) -> None:
    """Hand out these masks, in turn, again and again."""
    given = itertools.cycle(masks)
    monkeypatch.setattr(layers, "dropout_mask", lambda shape, p, like: next(given))


# Equality with the readable formulation


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_outputs_and_gradients_equal_the_readable_ones_under_the_same_seed(attention, extra, depth, dropout, dtype):
    X = values(B, T, K, D, dtype=dtype).requires_grad_()
    assert_equals_the_readable_one(soft(attention, extra, depth, dtype, dropout=dropout), X)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_outputs_and_gradients_equal_the_readable_ones_under_given_masks(attention, extra, depth, dtype, monkeypatch):
    masks = [2 * (values(T, B, D if layer == 0 else H, seed=layer + 4) > 0).to(dtype) for layer in range(depth)]
    head = [2 * (values(B, T, H, seed=seed) > 0).to(dtype) for seed in (8, 9)]
    supply(monkeypatch, [*masks, *head])
    X = values(B, T, K, D, dtype=dtype).requires_grad_()
    assert_equals_the_readable_one(soft(attention, extra, depth, dtype, dropout=0.5), X)


@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_both_forms_draw_the_same_masks_for_the_papers_sites(attention, extra, drawn):
    network, X = soft(attention, extra, 3, dropout=0.3), values(B, T, K, D)
    fast, plain = both_forms(network, X)
    assert [tuple(mask.shape) for mask in drawn] == 2 * [(T, B, D), (T, B, H), (T, B, H), (B, T, H), (B, T, H)]
    assert all(torch.equal(*pair) for pair in zip(drawn[:5], drawn[5:], strict=True))
    assert_close(fast.logits, plain.logits, 1e-10, "logits")
    assert_close(fast.attention, plain.attention, 1e-10, "attention")
    assert not torch.allclose(fast.logits, network.eval()(X).logits)


@pytest.mark.parametrize(("attention", "extra"), KINDS)
@pytest.mark.parametrize(
    "sizes",
    [
        {"blocks": 1},
        {"steps": 1},
        {"blocks": 1, "steps": 1},
        {"steps": 2},
        {"hidden": 11},
        {"hidden": 7},
        {"locations": 1},
        {"channels": 1, "hidden": 1},
    ],
    ids=str,
)
def test_equal_at_other_sizes(attention, extra, sizes):
    b, t, k, d, h = ({"blocks": B, "steps": T, "locations": K, "channels": D, "hidden": H} | sizes).values()
    network = soft(attention, extra, locations=k, channels=d, hidden_dim=h)
    assert_equals_the_readable_one(network, values(b, t, k, d).requires_grad_())


@pytest.mark.parametrize("through", ["logits", "attention"])
@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_equal_where_the_gradient_comes_through_one_output_alone(attention, extra, through):
    network, X = soft(attention, extra, 3), values(B, T, K, D).requires_grad_()
    assert_equals_the_readable_one(network, X, through=through)
    assert gradients(network, X, network(X), through)["lstm.weight_ih_l2"].abs().max() > 1e-6


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_equal_on_features_in_half_precision(attention, extra, half):
    network, X = soft(attention, extra, dtype=torch.float32), values(B, T, K, D, dtype=half)
    assert_equals_the_readable_one(network, X)
    X.requires_grad_()
    fast, plain = (gradients(network, X, output)["X"] for output in both_forms(network, X))
    assert fast.dtype == half  # rounded in two parts and their sum here, once there
    torch.testing.assert_close(fast, plain, rtol=4 * torch.finfo(half).eps, atol=4 * torch.finfo(half).eps)


@pytest.mark.parametrize(("attention", "extra"), KINDS)
@pytest.mark.parametrize("layout", ["transposed", "channels first", "overlapping", "expanded", "sliced"])
def test_equal_on_features_of_any_strides(attention, extra, layout):
    X = {
        "transposed": lambda: values(T, B, K, D).transpose(0, 1),
        "channels first": lambda: values(B, D, K, T).permute(0, 3, 2, 1),
        "overlapping": lambda: values(B + T, K, D)[1:].as_strided((B, T, K, D), (K * D, K * D, D, 1), K * D),
        "expanded": lambda: values(1, T, K, D).expand(B, -1, -1, -1),
        "sliced": lambda: values(B, 2 * T, K, 3 * D)[:, 1::2, :, D : 2 * D],
    }[layout]()
    assert not X.is_contiguous()
    network = soft(attention, extra)
    assert_equals_the_readable_one(network, X)
    assert_equals_the_readable_one(network, X.detach().requires_grad_())
    assert torch.equal(network(X).logits, network(X.contiguous()).logits)


def test_gradients_of_overlapping_features_add_up_in_the_memory_they_share():
    network, found = soft("content", 1), []
    for forward in (network, network.equations):
        video = values(B + T - 1, K, D).requires_grad_()
        weighted(forward(video.as_strided((B, T, K, D), (K * D, K * D, D, 1))), "both").backward()
        found.append(video.grad)
    assert_close(*found, 1e-10, "frames")


@pytest.mark.parametrize("kind", ["location", "content"])
def test_gradients_equal_finite_differences(kind):
    b, t, k, d, h = 2, 3, 3, 4, 3
    X, h_0, c_0 = values(b, t, k, d), values(2, b, h, seed=2), values(2, b, h, seed=3)
    weights = [values(4 * h, d + h, seed=4), values(4 * h, 2 * h, seed=5)]
    biases = [values(4 * h, seed=6), values(4 * h, seed=7)]
    masks = [2.0 * (values(t, b, d) > 0), None]
    look = [values(k, h)] if kind == "location" else [values(b, t, k, d, seed=8), values(d, h, seed=9), values(d, seed=10)]

    def outputs(X, h_0, c_0, w_0, w_1, b_0, b_1, *look):
        layers = [Layer(w_0, b_0, masks[0]), Layer(w_1, b_1, masks[1])]
        how = {"location": look[0]} if kind == "location" else {"content": look}
        return attend_over_time(X, h_0, c_0, layers, **how)

    arguments = [value.requires_grad_() for value in (X, h_0, c_0, *weights, *biases, *look)]
    assert torch.autograd.gradcheck(outputs, arguments)


# What is kept, and for how long


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_results_without_gradients_equal_those_with(attention, extra, dropout, without):
    network, X = soft(attention, extra, 3, dropout=dropout), values(B, T, K, D)
    torch.manual_seed(0)
    expected = network(X)
    torch.manual_seed(0)
    with without():
        output = network(X)
    assert output.logits.grad_fn is None and output.attention.grad_fn is None
    assert expected.logits.grad_fn is not None and expected.attention.grad_fn is not None
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.attention, expected.attention)


@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_nothing_is_saved_where_no_gradient_is_needed(attention, extra):
    network, X = soft(attention, extra), values(B, T, K, D)
    saved = []
    with saved_tensors_hooks(lambda tensor: saved.append(tensor.shape), lambda packed: packed):
        with torch.no_grad():
            network(X)
        assert not saved
        network.requires_grad_(False)(X)
        assert not saved
        network.requires_grad_(True)(X)
    assert (T, B, D + H) in saved and (T, B, 4 * H) in saved and (T + 1, B, H) in saved


class Made(TorchDispatchMode):
    """Shapes of all tensors that come out of any operation."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(value.shape) for value in tree_leaves(result) if isinstance(value, torch.Tensor)}
        return result


@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_buffers_of_all_steps_are_made_for_the_backward_pass_only(attention, extra):
    network, X = soft(attention, extra, hidden_dim=9), values(B, T, K, D)
    buffers = {(T, B, D + 9), (T, B, 2 * 9), (T, B, 4 * 9), (T + 1, B, 9)}
    with Made() as training:
        network(X)
    with torch.no_grad(), Made() as testing:
        network(X)
    assert buffers <= training.shapes
    assert not buffers & testing.shapes


def test_a_second_backward_raises_the_usual_error_unless_the_graph_is_retained():
    network, X = soft(), values(B, T, K, D)
    loss = weighted(network(X), "both")
    weight = network.lstm.weight_hh_l0
    first, second = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_a_gradient_of_a_gradient_is_refused():
    network, X = soft(), values(B, T, K, D)
    loss = network(X).attention.square().sum()
    (slope,) = torch.autograd.grad(loss, network.lstm.weight_hh_l0, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_two_runs_are_equal_to_the_last_bit(attention, extra, dtype):
    network, X, runs = soft(attention, extra, 3, torch.float32, dropout=0.5), values(B, T, K, D).half(), []
    for _ in range(2):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = network(X)
        runs.append([output.logits, output.attention, *gradients(network, X, output).values()])
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


# Frozen weights


@pytest.mark.parametrize(("attention", "extra"), KINDS)
@pytest.mark.parametrize("free", ["attention.", "initial_state.", "lstm.weight_hh", "lstm.bias_ih_l0", "head.", "X"])
def test_equal_where_only_some_weights_are_trained(attention, extra, free):
    network, X = soft(attention, extra), values(B, T, K, D).requires_grad_(free == "X")
    everything = gradients(network, X, network(X))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(free))
    assert_equals_the_readable_one(network, X)
    for name, value in gradients(network, X, network(X)).items():
        torch.testing.assert_close(value, everything[name], rtol=0, atol=1e-12)


# Packed weights and half precision


@WITHOUT_PACKING
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, 128])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_packed_and_unpacked_agree(dtype, rows, transposed):
    weight, x = values(24, 40).to(dtype), values(rows, 40, seed=2).to(dtype)
    weight = weight.t().contiguous().t() if transposed else weight
    expected = x.double() @ weight.double().T
    packed, once = product(weight, 30)(x), product(weight, 1)(x)
    with torch.backends.mkldnn.flags(enabled=False):
        unpacked = product(weight, 30)(x)
    for result in (packed, once, unpacked):
        assert result.dtype == dtype
        assert_close(result.double(), expected, {torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype], "product")


def test_a_packed_product_takes_no_gradient_and_keeps_its_weight():
    weight = values(4, 5, dtype=torch.float32).requires_grad_()
    before = weight.detach().clone()
    with torch.no_grad():
        result = product(weight, 3)(values(2, 5, dtype=torch.float32))
    assert not result.requires_grad and torch.equal(weight, before)


@WITHOUT_PACKING
@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_equal_without_packed_weights(attention, extra):
    with torch.backends.mkldnn.flags(enabled=False):
        assert_equals_the_readable_one(soft(attention, extra, dtype=torch.float32), values(B, T, K, D, dtype=torch.float32))


def another_signature(x, packed):
    raise AssertionError("never reached: the caller gives more arguments")


OPERATORS = {
    "absent": {"_reorder_linear_weight": None, "_linear_pointwise": None, "_is_mkldnn_bf16_supported": None},
    "one of them absent": {"_linear_pointwise": None},
    "with another signature": {"_linear_pointwise": another_signature},
}


@pytest.fixture(params=OPERATORS)
def other_torch(request, monkeypatch) -> None:
    """A torch whose private operators are not those that ``attention_fast`` knows."""
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    own = {name: getattr(torch.ops.mkldnn, name) for name in names} | OPERATORS[request.param]
    present = {name: operator for name, operator in own.items() if operator is not None}
    monkeypatch.setattr(torch.ops, "mkldnn", types.SimpleNamespace(**present))
    attention_fast.packs.cache_clear()
    yield
    attention_fast.packs.cache_clear()


@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_results_without_torchs_private_operators_are_the_same(attention, extra, other_torch, monkeypatch):
    network, X = soft(attention, extra, 3, torch.float32, dropout=0.5), values(B, T, K, D, dtype=torch.float32)
    assert not attention_fast.packs(torch.float32) and not attention_fast.packs(torch.bfloat16)
    assert_equals_the_readable_one(network, X)
    torch.manual_seed(0)
    plain = network(X)
    monkeypatch.undo()
    attention_fast.packs.cache_clear()
    torch.manual_seed(0)
    packed = network(X)
    for one, other in zip(plain[:2], packed[:2], strict=True):
        assert_close(one, other, 1e-6, "output")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_precisions_without_a_layout_of_their_own_are_multiplied_plainly(dtype):
    assert not attention_fast.packs(dtype)
    weight, x = values(4, 5).to(dtype), values(3, 5, seed=2).to(dtype)
    assert torch.equal(product(weight, 30)(x), nn.functional.linear(x, weight))


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "readable"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_bfloat16_autocast_is_close_to_single_precision(attention, extra, dropout, fast):
    network = soft(attention, extra, 3, torch.float32, channels=24, hidden_dim=16, dropout=dropout, fast=fast)
    for parameter in network.parameters():
        parameter.data.mul_(0.5)
    X = values(4, 12, K, 24).half()
    results = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            output = network(X)
        results.append((output, gradients(network, X, output)))  # as Lightning does, outside of autocast
    (full, expected), (half, actual) = results
    assert half.attention.dtype == torch.float32
    for value, single in zip(half[:2], full[:2], strict=True):
        assert (value.float() - single).norm() < 0.03 * single.norm()
    for name, value in actual.items():
        assert value.dtype == torch.float32 and value.isfinite().all(), name
        if expected[name].abs().max() > 1e-6:  # the readable form's gradient of attention.score.bias is rounding error
            assert torch.cosine_similarity(value.flatten(), expected[name].flatten(), dim=0) > 0.99, name


# Training


def cost(network: nn.Module, X: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Eq. 7."""
    output = network(X)
    return Objective(1.0, weight_decay=1e-4)(output.logits, output.attention, target, network.parameters()).loss


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_a_few_steps_of_adam_lower_the_loss(attention, extra, autocast):
    torch.manual_seed(0)
    network = soft(attention, extra, 2, torch.float32, dropout=0.1)
    X, target = values(6, T, K, D).half(), torch.arange(6) % C
    optimizer, losses = build_optimizer(network.parameters(), "adam", lr=0.05), []
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = cost(network, X, target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_every_trainable_parameter_gets_a_gradient_from_the_loss(attention, extra, layers):
    network, X, target = soft(attention, extra, layers, dropout=0.5), values(B, T, K, D), torch.arange(B)
    cost(network, X, target).backward()  # else DistributedDataParallel waits for it in vain
    trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trainable.items() if parameter.grad is None] == []
    assert [name for name, parameter in trainable.items() if not (parameter.grad != 0).any()] == []


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("attention", "extra"), KINDS)
def test_steps_of_training_equal_steps_of_the_readable_network(attention, extra, dropout):
    networks = [soft(attention, extra, 3, dropout=dropout, fast=fast) for fast in (True, False)]
    X, target = values(B, T, K, D), torch.arange(B)
    for network in networks:
        optimizer = build_optimizer(network.parameters(), "sgd", lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            torch.manual_seed(step)
            output = network(X)
            logits = nn.functional.cross_entropy(output.logits.flatten(0, 1), target.repeat_interleave(T))
            (logits + attention_penalty(output.attention).mean()).backward()
            optimizer.step()
    for (name, fast), plain in zip(networks[0].named_parameters(), networks[1].parameters(), strict=True):
        if name != "attention.score.bias":  # the softmax does not see it: no gradient here, rounding error there
            torch.testing.assert_close(fast, plain, rtol=0, atol=1e-6)  # the penalty is in single precision
