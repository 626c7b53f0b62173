"""Eq. 7: its terms, its gradient against finite differences of the NumPy transcription, its shares over ranks."""

import math

import numpy as np
import pytest
import reference
import torch
from torch import nn

from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM, SoftmaxRegression
from lightning_modules.objective import Objective, SquaredNorm, attention_penalty, classification_cost, squared_norm

torch.set_num_threads(1)

B, T, K, D, H, C = 3, 4, 6, 5, 4, 4
CLASSES = torch.tensor([2, 0, 3])
LABELS = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])

NETWORKS = {
    "location-1": lambda: SoftAttentionLSTM(K, D, C, H, 1),
    "location-3": lambda: SoftAttentionLSTM(K, D, C, H, 3),
    "location-5": lambda: SoftAttentionLSTM(K, D, C, H, 5),
    "content-0": lambda: SoftAttentionLSTM(K, D, C, H, 1, "content", 0),
    "content-1": lambda: SoftAttentionLSTM(K, D, C, H, 2, "content", 1),
    "content-2": lambda: SoftAttentionLSTM(K, D, C, H, 1, "content", 2),
    "location-3, readable": lambda: SoftAttentionLSTM(K, D, C, H, 3, fast=False),
    "content-2, readable": lambda: SoftAttentionLSTM(K, D, C, H, 1, "content", 2, fast=False),
    "mean": lambda: PooledLSTM(D, C, "mean", H, 2),
    "max": lambda: PooledLSTM(D, C, "max", H, 2),
    "regression": lambda: SoftmaxRegression(K, D, C),
}
OBJECTIVES = {
    "paper": Objective(attention_penalty=1.0, weight_decay=1e-2),
    "printed sum": Objective(attention_penalty=10.0, penalty_reduction="sum", weight_decay=1e-5),
    "released": Objective(attention_penalty=1.0, weight_decay=1e-2, batch_reduction="sum"),
    "no penalty": Objective(weight_decay=0.0),
}


def build(name: str, std: float | None = 0.5, seed: int = 0) -> nn.Module:
    """In double precision, without dropout; random weights, or the initial ones for ``std=None``."""
    torch.manual_seed(seed)
    network = NETWORKS[name]().double().eval()
    for parameter in network.parameters():
        if parameter.requires_grad and std is not None:
            parameter.data.normal_(std=std)
    return network


def frames(blocks: int = B, seed: int = 1) -> torch.Tensor:
    return torch.randn(blocks, T, K, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def apply(network: nn.Module, objective: Objective, X: torch.Tensor, target: torch.Tensor, **settings):
    output = network(X)
    return objective(output.logits, output.attention, target, network.parameters(), **settings)


def numpy_loss(name: str, objective: Objective, theta: dict[str, np.ndarray], X: np.ndarray, target: np.ndarray) -> float:
    if name == "regression":
        outputs = [(reference.softmax_regression((theta["classes.weight"], theta["classes.bias"]), x), None) for x in X]
    else:
        parameters = reference.paper_order(theta, name)
        outputs = [reference.forward(parameters, x)[:2] for x in X]
    return reference.loss(
        [logits for logits, _ in outputs],
        [attention for _, attention in outputs],
        target,
        theta.values(),
        objective.attention_penalty,
        objective.penalty_reduction,
        objective.weight_decay,
        objective.batch_reduction,
    )


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


# Equality with the transcription


@pytest.mark.parametrize("target", [CLASSES, LABELS], ids=["classes", "labels"])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("name", NETWORKS)
def test_loss_equals_the_numpy_transcription(name, objective, target):
    network, X = build(name), frames()
    theta = {key: parameter.detach().numpy() for key, parameter in trainable(network).items()}
    cost = apply(network, objective, X, target)
    assert float(cost.loss.detach()) == pytest.approx(numpy_loss(name, objective, theta, X.numpy(), target.numpy()), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "std", "objective", "target"),
    [(name, 0.5, "paper", CLASSES) for name in NETWORKS]
    + [
        ("location-3", 0.5, "printed sum", LABELS),
        ("content-2", 0.5, "released", CLASSES),
        ("location-3", 0.5, "released", LABELS),
        ("location-1", 0.5, "no penalty", CLASSES),
        ("location-3", None, "printed sum", CLASSES),  # as initialised: zero biases, where |θ| has no gradient
    ],
)
def test_gradient_equals_finite_differences_of_the_numpy_loss(name, std, objective, target):
    network, X, objective = build(name, std), frames(), OBJECTIVES[objective]
    apply(network, objective, X, target).loss.backward()
    theta = {key: parameter.detach().numpy().copy() for key, parameter in trainable(network).items()}
    random = np.random.default_rng(0)
    for key, parameter in trainable(network).items():
        scale = float(parameter.grad.abs().max())
        for place in random.choice(theta[key].size, size=min(4, theta[key].size), replace=False):
            values, ends, step = theta[key].reshape(-1), [], 1e-5
            original = values[place]
            for end in (step, -step):
                values[place] = original + end
                ends.append(numpy_loss(name, objective, theta, X.numpy(), target.numpy()))
            values[place] = original
            slope = (ends[0] - ends[1]) / (2 * step)
            # 1e-6 of the tensor's largest: the loss works in single precision, and a small entry is a sum of large terms
            assert float(parameter.grad.reshape(-1)[place]) == pytest.approx(slope, rel=1e-5, abs=1e-6 * scale + 1e-9), key


# Terms


@pytest.mark.parametrize(
    ("reduction", "look", "expected", "digits"),
    [
        ("mean", "uniform", 0.150, 5e-4),
        ("mean", "fixed", 18.1, 0.05),
        ("mean", "four cells", 4.37, 5e-3),
        ("sum", "uniform", 7.37, 5e-3),
        ("sum", "fixed", 889, 1e-3),
    ],
)
def test_penalty_of_known_gazes(reduction, look, expected, digits):
    attention = torch.zeros(2, 30, 49)
    attention[:, :, {"uniform": slice(None), "fixed": slice(8, 9), "four cells": slice(8, 12)}[look]] = 1
    attention /= attention.sum(dim=-1, keepdim=True)
    value = attention_penalty(attention, reduction)
    assert value.shape == (2,)
    assert value.tolist() == pytest.approx([expected] * 2, abs=digits)


def test_penalty_reduction_defaults_to_the_mean():
    attention = torch.softmax(torch.randn(2, T, K, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert torch.equal(attention_penalty(attention), attention_penalty(attention, "mean"))
    torch.testing.assert_close(K * attention_penalty(attention), attention_penalty(attention, "sum"))


def test_penalty_is_zero_where_every_location_gets_one_look():
    assert attention_penalty(torch.eye(K)[None]).tolist() == [0]


def test_chance_cost_is_steps_times_log_classes():
    for classes, expected in [(11, 72), (51, 118)]:  # protocol §2
        cost = classification_cost(torch.zeros(2, 30, classes), torch.tensor([0, 5]))
        assert cost.tolist() == pytest.approx([30 * math.log(classes)] * 2)
        assert float(cost[0]) == pytest.approx(expected, abs=0.5)
    labels = classification_cost(torch.zeros(1, 30, 12), torch.zeros(1, 12, dtype=torch.int64))
    assert float(labels) == pytest.approx(30 * 12 * math.log(2))


def test_of_labels_of_which_one_is_enough_the_cost_is_their_mean_cross_entropy():
    logits = torch.randn(3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shares = torch.zeros(3, 7, dtype=torch.float64)
    sets = [(2,), (0, 6), (1, 3, 5)]
    for row, labels in enumerate(sets):
        shares[row, list(labels)] = 1 / len(labels)
    found = classification_cost(logits, shares)
    one_each = [[float(classification_cost(logits[[row]], torch.tensor([label]))) for label in sets[row]] for row in range(3)]
    assert found.tolist() == pytest.approx([sum(costs) / len(costs) for costs in one_each], abs=1e-5)
    assert float(classification_cost(torch.zeros(1, 30, 487), torch.full((1, 487), 1 / 487))) == pytest.approx(
        30 * math.log(487)
    )


def test_cost_is_finite_at_extreme_scores():
    logits = torch.tensor([[[1e4, -1e4]]])
    assert classification_cost(logits, torch.tensor([1])).tolist() == [2e4]
    assert classification_cost(logits, torch.tensor([[0, 1]])).tolist() == [2e4]


@pytest.mark.parametrize("target", [CLASSES, LABELS], ids=["classes", "labels"])
def test_half_precision_scores_are_summed_in_single_precision(target):
    logits = torch.randn(B, 30, C, generator=torch.Generator().manual_seed(0)).bfloat16()
    cost = classification_cost(logits, target)
    assert cost.dtype == torch.float32
    torch.testing.assert_close(cost, classification_cost(logits.float(), target), rtol=0, atol=0)
    attention = torch.softmax(logits, dim=-1)
    assert torch.equal(attention_penalty(attention), attention_penalty(attention.float()))


def test_squared_norm_counts_trainable_parameters_only():
    frozen = nn.Parameter(torch.full((3,), 7.0), requires_grad=False)
    parameters = [nn.Parameter(torch.tensor([1.0, 2.0])), frozen, nn.Parameter(torch.tensor([[3.0]]))]
    assert float(squared_norm(parameters).detach()) == pytest.approx(14)


def test_the_squared_norm_of_gpus_has_the_same_value_and_gradients():
    """They take twice θ as the gradient of all parameters at once; the CPU leaves it to automatic differentiation."""
    parameters = [nn.Parameter(torch.randn(*shape)) for shape in ((30, 20), (7,), (1, 1))] + [nn.Parameter(torch.zeros(3))]
    (ours, theirs) = (norm(*parameters) for norm in (SquaredNorm.apply, lambda *given: squared_norm(given)))
    assert torch.equal(ours, theirs)
    for one, other in zip(*(torch.autograd.grad(3 * norm, parameters) for norm in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_squared_norm_has_gradient_two_theta_also_at_zero():
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.tensor([1.0, -2.0]))]
    squared_norm(parameters).backward()
    assert parameters[0].grad.tolist() == [0, 0, 0]
    assert parameters[1].grad.tolist() == pytest.approx([2, -4])


@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
def test_cost_tells_its_terms_apart(batch_reduction):
    network, X = build("location-1"), frames()
    objective = Objective(10.0, "mean", 1e-2, batch_reduction)
    output = network(X)
    cost = apply(network, objective, X, CLASSES)
    torch.testing.assert_close(cost.cross_entropy, classification_cost(output.logits, CLASSES))
    torch.testing.assert_close(cost.penalty, attention_penalty(output.attention))
    torch.testing.assert_close(cost.data, cost.cross_entropy + 10 * cost.penalty)
    share = {"mean": 1, "sum": 1 / B}[batch_reduction]  # what the batch's decay adds to the mean over blocks
    decay = 1e-2 * sum(parameter.square().sum() for parameter in trainable(network).values())
    torch.testing.assert_close(cost.decay, share * decay)
    torch.testing.assert_close((cost.data.mean() + cost.decay).double(), share * cost.loss.double(), rtol=1e-6, atol=0)


def test_penalty_is_reported_without_attention_and_without_lambda():
    network, X = build("location-1"), frames()
    cost = apply(network, Objective(weight_decay=0.0), X, CLASSES)
    assert (cost.penalty > 0).all()
    assert float(cost.loss.detach()) == pytest.approx(float(cost.cross_entropy.detach().mean()))
    pooled = apply(build("mean"), Objective(10.0), X, CLASSES)
    assert pooled.penalty.tolist() == [0] * B
    torch.testing.assert_close(pooled.data, pooled.cross_entropy)


# Shares of a batch


@pytest.mark.parametrize("target", ["classes", "labels"])
@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
def test_uneven_shares_averaged_over_ranks_give_the_gradient_of_the_global_batch(batch_reduction, target):
    generator = torch.Generator().manual_seed(0)
    X = frames(5)
    targets = torch.randint(C, (5,), generator=generator)
    if target == "labels":
        targets = torch.randint(2, (5, C), generator=generator)
    objective = Objective(1.0, "mean", 1e-2, batch_reduction)
    network = build("location-3")

    def gradient(places: list[int], **settings) -> list[torch.Tensor]:
        network.zero_grad()
        apply(network, objective, X[places], targets[places], **settings).loss.backward()
        return [parameter.grad.clone() for parameter in trainable(network).values()]

    whole = gradient([0, 1, 2, 3, 4])
    ranks = [
        gradient([0, 2, 4], batch_size=5, world_size=2),
        gradient([1, 3, 3], batch_size=5, world_size=2, weights=torch.tensor([1.0, 1.0, 0.0])),  # the last one fills up
    ]
    assert not torch.allclose(ranks[0][0], ranks[1][0])
    for expected, first, second in zip(whole, *ranks, strict=True):
        torch.testing.assert_close((first + second) / 2, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
def test_a_rank_with_filler_alone_adds_only_its_share_of_the_decay(batch_reduction):
    network = build("location-1")
    objective = Objective(1.0, "mean", 1e-2, batch_reduction)
    cost = apply(network, objective, frames(1), CLASSES[:1], weights=torch.zeros(1), batch_size=4, world_size=2)
    cost.loss.backward()
    for parameter in trainable(network).values():
        torch.testing.assert_close(parameter.grad, 2e-2 * parameter.detach())


def test_weights_of_one_are_the_default():
    network, X = build("location-1"), frames()
    weighted = apply(network, OBJECTIVES["paper"], X, CLASSES, weights=torch.ones(B))
    assert torch.equal(weighted.loss, apply(network, OBJECTIVES["paper"], X, CLASSES).loss)


def test_defaults_are_the_papers():
    assert Objective() == Objective(0.0, "mean", 1e-5, "mean")
