"""The released code's Adam: its step against Adam's, and equality with a NumPy loop."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lightning_modules.optim import ReleasedAdam, build_optimizer

torch.set_num_threads(1)


def step_sizes(name: str, steps: int, gradient: float = 1.0) -> list[float]:
    """How far a parameter moves at every step under a constant gradient."""
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = build_optimizer([parameter], name, lr=2e-4)
    sizes = []
    for _ in range(steps):
        before = float(parameter.detach())
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        sizes.append(before - float(parameter.detach()))
    return sizes


@pytest.mark.parametrize("gradient", [1.0, -0.03])
def test_released_adam_steps_are_the_protocols_multiples_of_adams(gradient):
    released, adam = step_sizes("released_adam", 3000, gradient), step_sizes("adam", 3000, gradient)
    assert adam[-1] == pytest.approx(math.copysign(2e-4, gradient), rel=1e-5)
    for t, ratio, digits in [(1, 3.5, 0.05), (10, 6.5, 0.05), (100, 3.2, 0.05), (3000, 1.03, 0.005)]:
        assert released[t - 1] / adam[t - 1] == pytest.approx(ratio, abs=digits)


def trajectory(theta: np.ndarray, gradients: np.ndarray, lr: float, b1: float, b2: float, eps: float) -> np.ndarray:
    """The released update in its own terms: b1 = 0.1 and b2 = 0.001 weigh the new gradient and enter the correction."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    path = []
    for t, g in enumerate(gradients, start=1):
        lr_t = lr * np.sqrt(1 - b2**t) / (1 - b1**t)
        m = b1 * g + (1 - b1) * m
        v = b2 * g**2 + (1 - b2) * v
        theta = theta - lr_t * m / (np.sqrt(v) + eps)
        path.append(theta)
    return np.array(path)


@pytest.mark.parametrize(
    ("lr", "betas", "eps"), [(2e-4, (0.9, 0.999), 1e-8), (1e-2, (0.8, 0.95), 1e-3)], ids=["released", "other constants"]
)
def test_released_adam_equals_a_numpy_loop_on_random_gradients(lr, betas, eps):
    random = np.random.default_rng(0)
    shapes = [(3, 4), (5,)]
    thetas = [random.normal(size=shape) for shape in shapes]
    gradients = [random.normal(size=(200, *shape)) * 10.0 ** random.integers(-4, 2, size=shape) for shape in shapes]
    parameters = [nn.Parameter(torch.from_numpy(theta.copy())) for theta in thetas]
    optimizer = ReleasedAdam(parameters, lr=lr, betas=betas, eps=eps)
    path = []
    for t in range(200):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient[t])
        optimizer.step()
        path.append([parameter.detach().numpy().copy() for parameter in parameters])
    for number, theta in enumerate(thetas):
        expected = trajectory(theta, gradients[number], lr, 1 - betas[0], 1 - betas[1], eps)
        np.testing.assert_allclose([step[number] for step in path], expected, rtol=1e-9, atol=1e-12)


def test_default_constants_of_released_adam():
    (group,) = ReleasedAdam([nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["lr"], group["betas"], group["eps"]) == (2e-4, (0.9, 0.999), 1e-8)


def test_released_adam_resumes_from_its_state_with_equal_steps():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(6, 4, generator=generator)
    runs = {}
    for broken in (False, True):
        parameter = nn.Parameter(torch.ones(4))
        optimizer = ReleasedAdam([parameter])
        for t, gradient in enumerate(gradients):
            if broken and t == 3:
                state, parameter = optimizer.state_dict(), nn.Parameter(parameter.detach().clone())
                optimizer = ReleasedAdam([parameter])
                optimizer.load_state_dict(state)
            parameter.grad = gradient.clone()
            optimizer.step()
        runs[broken] = parameter.detach()
    assert torch.equal(runs[False], runs[True])
    assert (runs[True] != 1).all()


def test_released_adam_leaves_parameters_without_gradient_alone():
    with_gradient, without = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = ReleasedAdam([with_gradient, without])
    with_gradient.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(without, torch.ones(2))
    assert (with_gradient != 1).all()


def test_released_adam_evaluates_a_closure_with_gradients():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = ReleasedAdam([parameter])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2
    assert (parameter < 1).all()


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("released_adam", ReleasedAdam), ("sgd", torch.optim.SGD)]
)
def test_build_optimizer_takes_trainable_parameters_and_the_learning_rate(name, kind):
    free, frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = build_optimizer([free, frozen], name, lr=0.25)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(free)]
    assert group["lr"] == 0.25
    assert group.get("weight_decay", 0) == 0  # it is part of the loss


@pytest.mark.parametrize("name", ["adam", "released_adam"])
def test_build_optimizer_passes_on_betas_and_eps(name):
    (group,) = build_optimizer([nn.Parameter(torch.ones(2))], name, 1e-3, betas=(0.8, 0.9), eps=1e-4).param_groups
    assert (group["betas"], group["eps"]) == ((0.8, 0.9), 1e-4)


def test_sgd_has_no_momentum():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer([parameter], "sgd", lr=0.5)
    for _ in range(3):
        parameter.grad = torch.ones(1)
        optimizer.step()
    assert float(parameter.detach()) == -1.5


def test_unknown_optimiser_is_refused_by_name():
    with pytest.raises(ValueError, match="'rmsprop' is none of adam, released_adam, sgd"):
        build_optimizer([nn.Parameter(torch.ones(1))], "rmsprop", 1e-3)
