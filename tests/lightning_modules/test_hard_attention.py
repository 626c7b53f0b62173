"""Hard attention: REINFORCE's gradient and its variance held to all K^T paths, and what it equals in the limits."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lightning_modules import hard_attention
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM
from lightning_modules.frames import Frames, pool_frames, run_blocks
from lightning_modules.hard_attention import HardAttentionLSTM, Reinforce, drawn, to_go
from lightning_modules.measures import entropy
from lightning_modules.objective import attention_penalty, step_costs

torch.set_num_threads(1)

T, K, D, H, C = 3, 3, 4, 3, 2
PATHS = torch.tensor(list(itertools.product(range(K), repeat=T)))  # (27, T)
EXACT = 1e-12


def network_of(attention: str = "location", baseline: str = "state", locations: int = K) -> HardAttentionLSTM:
    """Without dropout, in double precision, with weights large enough to matter."""
    network = HardAttentionLSTM(locations, D, C, H, 2, attention, dropout=0.0, baseline=baseline, steps=T).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in trained(network):
        parameter.data.copy_(0.9 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    if baseline == "average":
        network.average.copy_(torch.tensor([2.0, 1.5, 0.7]))
    return network


def trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def attending(network: HardAttentionLSTM) -> list[nn.Parameter]:
    """All parameters but the baseline's own, which have another cost."""
    own = set(network.cost_to_go.parameters()) if network.baseline == "state" else set()
    return [parameter for parameter in trained(network) if parameter not in own]


def block(locations: int = K, seed: int = 1) -> torch.Tensor:
    return torch.randn(1, T, locations, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def along_paths(monkeypatch):
    """Draws name the locations themselves, so that a batch of blocks can go along all paths."""
    monkeypatch.setattr(hard_attention, "drawn", lambda _, draws: draws.long())


def on_all_paths(network: HardAttentionLSTM, X: torch.Tensor):
    """Costs (27, T), probability (27,) and output of one block on every path."""
    output = run_blocks(network, pool_frames(X.expand(len(PATHS), -1, -1, -1), network.inputs)._replace(draws=PATHS.double()))
    assert output.glimpses is not None
    costs = step_costs(output.logits, torch.ones(len(PATHS), dtype=torch.int64))
    return costs, output.glimpses.log_chosen.sum(dim=1).exp(), output


def flat(gradients) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def of_every_path(losses: torch.Tensor, parameters) -> torch.Tensor:
    """(27, P): each path's estimate of the gradient."""
    return torch.stack([flat(torch.autograd.grad(loss, parameters, retain_graph=True)) for loss in losses])


def estimates(network: HardAttentionLSTM, X: torch.Tensor, baseline=None, given=None):
    """Each path's estimate (27, P), the paths' probabilities, and the exact gradient of J."""
    costs, probability, output = on_all_paths(network, X)
    glimpses = output.glimpses if baseline is None else output.glimpses._replace(baseline=baseline)
    estimate = given or Reinforce()
    losses = costs.sum(dim=1) + estimate(costs, output.attention, glimpses)
    exact = torch.autograd.grad((probability * costs.sum(dim=1)).sum(), attending(network), retain_graph=True)
    return of_every_path(losses, attending(network)), probability.detach(), flat(exact)


def variance(found: torch.Tensor, probability: torch.Tensor) -> float:
    mean = probability @ found
    return float(probability @ ((found - mean) ** 2).sum(dim=1))


# The estimator, against enumeration


@pytest.mark.usefixtures("along_paths")
@pytest.mark.parametrize("attention", ["location", "content"])
@pytest.mark.parametrize("baseline", ["state", "average", "none"])
def test_reinforce_is_unbiased(attention, baseline):
    network = network_of(attention, baseline)
    found, probability, exact = estimates(network, block())
    assert float(probability.sum()) == pytest.approx(1, abs=EXACT) and probability.min() > 1e-6
    assert float(exact.norm()) > 0.1 and found.std(dim=0).max() > 0.01
    torch.testing.assert_close(probability @ found, exact, rtol=0, atol=EXACT)


@pytest.mark.usefixtures("along_paths")
def test_a_baseline_lowers_the_variance_and_the_total_cost_raises_it(monkeypatch):
    network, X = network_of(baseline="average"), block()
    costs, probability, _ = on_all_paths(network, X)
    expected = (probability[:, None] * to_go(costs)).sum(dim=0).detach()  # (T,), E[R_t]
    found = {}
    for name, baseline in {"none": torch.zeros(T), "expected": expected}.items():
        gradients, weights, exact = estimates(network, X, baseline.double().expand(len(PATHS), -1))
        torch.testing.assert_close(weights @ gradients, exact, rtol=0, atol=EXACT)
        found[name] = variance(gradients, weights)
    monkeypatch.setattr(hard_attention, "to_go", lambda one: one.sum(dim=-1, keepdim=True).expand_as(one))
    gradients, weights, exact = estimates(network, X, torch.zeros(len(PATHS), T).double())
    torch.testing.assert_close(weights @ gradients, exact, rtol=0, atol=EXACT)  # it is unbiased too
    found["total cost"] = variance(gradients, weights)
    assert found["expected"] < 0.5 * found["none"] and found["total cost"] > 1.2 * found["none"]


@pytest.mark.usefixtures("along_paths")
def test_a_baseline_that_saw_the_location_biases_the_gradient():
    network, X = network_of(), block()
    evidence = network.per_frame(pool_frames(X.expand(len(PATHS), -1, -1, -1), network.inputs))
    ones = torch.ones(len(PATHS), 1).double()
    reading = network.read_over_time(
        evidence, X.mean(dim=(1, 2)).expand(len(PATHS), -1), lambda t, _: (PATHS[:, t, None], ones)
    )
    for states, biased in ((reading.before, False), (reading.hidden, True)):
        gradients, weights, exact = estimates(network, X, network._baseline(states.detach()).detach())
        off = float((weights @ gradients - exact).abs().max())
        assert off > 1e-3 if biased else off < EXACT


@pytest.mark.usefixtures("along_paths")
def test_the_mean_cost_is_no_gradient_of_the_expected_cost():
    network, X = network_of(), block()
    gradients, weights, exact = estimates(network, X, given=Reinforce(weight=1 / T))
    assert float((weights @ gradients - exact).abs().max()) > 1e-3


@pytest.mark.usefixtures("along_paths")
def test_the_baseline_learns_the_cost_to_go_and_touches_nothing_else():
    network, X = network_of(), block()
    costs, _, output = on_all_paths(network, X)
    own = list(network.cost_to_go.parameters())
    loss = Reinforce()(costs, output.attention, output.glimpses).sum()
    found = flat(torch.autograd.grad(loss, own, retain_graph=True))
    squared = ((to_go(costs).detach() - output.glimpses.baseline) ** 2).sum()
    torch.testing.assert_close(found, flat(torch.autograd.grad(squared, own, retain_graph=True)), rtol=0, atol=1e-10)
    others = torch.autograd.grad(squared, attending(network), allow_unused=True)
    assert all(gradient is None for gradient in others)


@pytest.mark.usefixtures("along_paths")
@pytest.mark.parametrize("attention", ["location", "content"])
def test_the_gradients_of_penalty_and_entropy_equal_finite_differences(attention):
    network, X = network_of(attention), block()

    def cost() -> torch.Tensor:  # on fixed paths, where nothing but l_t depends on the parameters of attention
        _, _, output = on_all_paths(network, X)
        return (0.7 * attention_penalty(output.attention.double()) - 0.3 * entropy(output.attention).sum(dim=1)).sum()

    for parameter in [p for p in network.attention.parameters() if p.requires_grad and p.numel() > 1]:
        (gradient,) = torch.autograd.grad(cost(), parameter)
        where = np.unravel_index(int(gradient.abs().argmax()), parameter.shape)
        with torch.no_grad():
            ends = []
            for step in (1e-3, -1e-3):
                parameter[where] += step
                ends.append(float(cost()))
                parameter[where] -= step
        # the penalty is computed in single precision
        assert float(gradient[where]) == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-3) and abs(gradient[where]) > 1e-3


def test_the_entropy_bonus_is_the_entropy_of_every_step():
    l_t, costs = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]]).double(), torch.zeros(1, 2).double()
    nothing = hard_attention.Glimpses(torch.zeros(1, 2).double(), torch.zeros(1, 2).double())
    assert float(Reinforce()(costs, l_t, nothing, 0.1)) == pytest.approx(-0.1 * np.log(2))


# Draws


def test_a_location_is_drawn_as_often_as_its_share_says():
    l_t = torch.tensor([0.1, 0.0, 0.6, 0.3])
    draws = (torch.arange(1000) + 0.5) / 1000
    counts = torch.bincount(drawn(l_t.expand(1000, -1), draws), minlength=4)
    assert counts.tolist() == [100, 0, 600, 300]


def test_no_draw_reads_a_location_without_attention():
    l_t = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    for draw in (0.0, 0.5, 1 - 2**-24, 1 - 2**-53):
        assert drawn(l_t, torch.full((3,), draw, dtype=torch.float64))[:2].tolist() == [1, 0]


@pytest.mark.parametrize("attention", ["location", "content"])
def test_equal_draws_read_equal_locations_and_others_others(attention):
    network, X = network_of(attention), block().expand(64, -1, -1, -1)
    draws = [torch.rand(64, T, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    same, again, other = (run_blocks(network, pool_frames(X, network.inputs)._replace(draws=draw)) for draw in draws)
    assert torch.equal(same.logits, again.logits) and not torch.equal(same.logits, other.logits)


# What it equals


@pytest.mark.parametrize("attention", ["location", "content"])
def test_one_location_is_average_pooling(attention):
    network, X = network_of(attention, locations=1).eval(), block(1)
    pooled = PooledLSTM(D, C, "mean", H, 2, dropout=0.0).double()
    pooled.load_state_dict(network.state_dict(), strict=False)
    for frames in (Frames(X, X[:, :, 0]), Frames(X, X[:, :, 0], draws=torch.rand(1, T))):
        output = run_blocks(network, frames)
        torch.testing.assert_close(output.logits, pooled(X).logits, rtol=0, atol=EXACT)
        assert torch.equal(output.attention, torch.ones(1, T, 1).double())


@pytest.mark.parametrize("sampled", [False, True])
def test_a_one_hot_softmax_is_soft_attention(sampled):
    network, X = network_of().eval(), block()
    network.attention.locations.weight.data.mul_(1e6)
    soft = SoftAttentionLSTM(K, D, C, H, 2, dropout=0.0).double()
    soft.load_state_dict(network.state_dict(), strict=False)
    frames = pool_frames(X, network.inputs)._replace(draws=torch.rand(1, T) if sampled else None)
    output = run_blocks(network, frames)
    assert output.attention.max(dim=-1).values.min() == 1
    torch.testing.assert_close(output.logits, soft(X).logits, rtol=0, atol=EXACT)


@pytest.mark.parametrize("attention", ["location", "content"])
def test_without_draws_training_is_that_of_soft_attention_to_the_bit(attention):
    network, X = network_of(attention).train(), block().expand(5, -1, -1, -1)
    soft = SoftAttentionLSTM(K, D, C, H, 2, attention, dropout=0.0).double()
    soft.load_state_dict(network.state_dict(), strict=False)
    found, expected = network(X), soft(X)
    assert found.glimpses is None and torch.equal(found.logits, expected.logits)
    assert torch.equal(found.attention, expected.attention)


def test_testing_reads_the_likeliest_location():
    network, X = network_of().eval(), block()
    output = network(X)
    evidence = network.per_frame(pool_frames(X, network.inputs))
    s = output.attention.argmax(dim=-1)
    reading = network.read_over_time(evidence, X.mean(dim=(1, 2)), lambda t, _: (s[:, t, None], torch.ones(1, 1).double()))
    assert torch.equal(network.head(reading.hidden), output.logits) and output.glimpses is None


def test_the_average_moves_a_tenth_of_the_way():
    network = network_of(baseline="average")
    before = network.average.clone()
    network.follow(torch.tensor([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]]).double())
    torch.testing.assert_close(network.average, 0.9 * before + 0.1 * torch.tensor([6.0, 4.0, 2.0]).double())
    assert "average" in network.state_dict()


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="baseline='mean' is none of state, average, none"):
        HardAttentionLSTM(K, D, C, H, baseline="mean")


# Regions, softly within


GRID = (2, 3)


def of_regions(side: int, attention: str = "location") -> HardAttentionLSTM:
    network = HardAttentionLSTM(6, D, C, H, 2, attention, dropout=0.0, steps=T, region=side, grid=GRID).double()
    network.load_state_dict(network_of(attention, locations=6).state_dict())
    return network


def test_a_map_is_cut_into_squares_and_what_is_left_at_its_edges():
    assert hard_attention.regions_of((3, 5), 2).tolist() == [
        *([0, 1, 5, 6], [2, 3, 7, 8], [4, 9, -1, -1]),
        *([10, 11, -1, -1], [12, 13, -1, -1], [14, -1, -1, -1]),
    ]
    assert hard_attention.regions_of((2, 2), 1).tolist() == [[0], [1], [2], [3]]
    with pytest.raises(ValueError, match="region=2: needs grid="):
        HardAttentionLSTM(K, D, C, H, region=2)


@pytest.mark.parametrize("attention", ["location", "content"])
@pytest.mark.parametrize("sampled", [False, True])
def test_a_region_of_one_cell_is_one_location_to_the_bit(attention, sampled):
    """Against the equations of a single location: its row, and log l of it."""
    network, X = of_regions(1, attention).eval(), block(6)
    draws = torch.rand(1, T, generator=torch.Generator().manual_seed(3)).double()
    frames = pool_frames(X, network.inputs)._replace(draws=draws if sampled else None)
    output = run_blocks(network, frames)
    l_t = output.attention
    places = [drawn(l_t[:, t], draws[:, t]) if sampled else l_t[:, t].argmax(dim=-1) for t in range(T)]
    reading = network.read_over_time(
        network.per_frame(frames._replace(draws=None)),
        frames.mean.mean(dim=1),
        lambda t, _: (places[t][:, None], torch.ones(1, 1).double()),
    )
    assert torch.equal(network.head(reading.hidden), output.logits)
    if sampled:
        assert torch.equal(output.glimpses.log_chosen, l_t.gather(-1, torch.stack(places, dim=1)[..., None])[..., 0].log())


@pytest.mark.parametrize("attention", ["location", "content"])
@pytest.mark.parametrize("side", [3, 9])
def test_a_region_of_the_whole_map_is_soft_attention_and_its_draw_tells_nothing(attention, side):
    network, X = of_regions(side, attention), block(6)
    soft = SoftAttentionLSTM(6, D, C, H, 2, attention, dropout=0.0).double()
    soft.load_state_dict(network.state_dict(), strict=False)
    output = run_blocks(network, pool_frames(X, network.inputs)._replace(draws=torch.rand(1, T)))
    expected = soft(X)
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=EXACT)
    torch.testing.assert_close(output.glimpses.log_chosen, torch.zeros(1, T).double(), rtol=0, atol=EXACT)
    costs = step_costs(output.logits, torch.ones(1, dtype=torch.int64))
    loss = (costs.sum(dim=1) + Reinforce()(costs, output.attention, output.glimpses)).sum()
    found = torch.autograd.grad(loss, list(soft_parameters(network)))
    wanted = step_costs(expected.logits, torch.ones(1, dtype=torch.int64)).sum()
    for one, other in zip(found, torch.autograd.grad(wanted, list(soft_parameters(soft))), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def soft_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Those that a cost reaches: the bias of content attention's scores moves all locations alike."""
    without = ("cost_to_go", "attention.score.bias")
    return [one for name, one in network.named_parameters() if one.requires_grad and not name.startswith(without)]


@pytest.mark.usefixtures("along_paths")
@pytest.mark.parametrize("attention", ["location", "content"])
def test_reinforce_over_regions_is_unbiased_and_the_children_of_all_parents_sum_to_one(attention):
    network, X = of_regions(2, attention), block(6)  # two regions, of four cells and of two
    paths = torch.tensor(list(itertools.product(range(2), repeat=T)))
    frames = pool_frames(X.expand(len(paths), -1, -1, -1), network.inputs)._replace(draws=paths.double())
    output = run_blocks(network, frames)
    costs = step_costs(output.logits, torch.ones(len(paths), dtype=torch.int64))
    probability = output.glimpses.log_chosen.sum(dim=1).exp()
    assert float(probability.detach().sum()) == pytest.approx(1, abs=EXACT)
    torch.testing.assert_close(network.of_regions(output.attention).sum(dim=-1), torch.ones(len(paths), T).double())
    losses = costs.sum(dim=1) + Reinforce()(costs, output.attention, output.glimpses)
    exact = torch.autograd.grad((probability * costs.sum(dim=1)).sum(), attending(network), retain_graph=True)
    found = of_every_path(losses, attending(network))
    torch.testing.assert_close(probability.detach() @ found, flat(exact), rtol=0, atol=EXACT)
