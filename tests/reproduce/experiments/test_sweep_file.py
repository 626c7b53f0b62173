"""Sweep files: W&B's format, its expansion, and the traps in it."""

import importlib.util
import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, SHARED

from reproduce.common.cli import resolve
from reproduce.common.settings import Settings, SettingsError
from reproduce.experiments.sweep_file import (
    Hyperband,
    first_point,
    grid_points,
    quantile,
    random_points,
    read_sweep,
    words_of,
)

SWEEPS = sorted((REPOSITORY / "sweeps").glob("*.yaml"))
LOOPBACK = SHARED / "tools/wandb_loopback/server.py"
GRID = {
    "program": "reproduce/train.py",
    "method": "grid",
    "metric": {"name": "test/accuracy", "goal": "maximize"},
    "parameters": {"seed": {"values": [1, 2]}},
    "command": ["${env}", "${interpreter}", "${program}", "preset=miniature", "${args_no_hyphens}"],
}


def write(folder: Path, **changes) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**GRID, **changes}))
    return path


@pytest.fixture(scope="module")
def loopback():
    if not LOOPBACK.is_file():
        pytest.skip(f"{LOOPBACK} is absent")
    spec = importlib.util.spec_from_file_location("loopback", LOOPBACK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(point):
    return {name: entry["value"] for name, entry in point.items()}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_a_grid_is_expanded_as_the_server_does(path, loopback):
    content = yaml.safe_load(path.read_text())
    if content["method"] != "grid":
        pytest.skip("no grid")
    expected = [flat(point) for point in loopback.grid_points(content)]
    assert list(grid_points(read_sweep(path))) == expected and len(expected) > 1


def test_a_grid_of_whole_numbers_and_constants_too(tmp_path, loopback):
    parameters = {
        "model.num_layers": {"min": 2, "max": 4},
        "data.name": {"value": "hmdb51"},
        "objective.attention_penalty": {"values": [0, 0.1]},
    }
    sweep = read_sweep(write(tmp_path, parameters=parameters))
    expected = [flat(point) for point in loopback.grid_points({"parameters": parameters})]
    assert list(grid_points(sweep)) == expected and len(expected) == 6
    assert words_of(expected[0]) == ["data.name=hmdb51", "model.num_layers=2", "objective.attention_penalty=0"]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_every_point_of_every_sweep_is_a_configuration(path):
    sweep = read_sweep(path)
    points = grid_points(sweep) if sweep.method == "grid" else itertools.islice(random_points(sweep, 0), 50)
    settings = [resolve(Settings, [*sweep.words, *words_of(point)]) for point in points]
    assert len({repr(one) for one in settings}) == len(settings), "a point twice"


def test_random_points_are_seeded_and_follow_their_distributions(tmp_path):
    parameters = {
        "optim.lr": {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.01},
        "model.dropout": {"min": 0.0, "max": 0.5},
        "model.num_layers": {"min": 1, "max": 5},
        "model.hidden_dim": {"distribution": "q_uniform", "min": 32, "max": 128, "q": 32},
        "data.fps": {"values": [30, 6], "probabilities": [0.9, 0.1]},
    }
    sweep = read_sweep(write(tmp_path, method="random", parameters=parameters))
    points = list(itertools.islice(random_points(sweep, 3), 4000))
    assert points[:20] == list(itertools.islice(random_points(sweep, 3), 20))
    assert points[:20] != list(itertools.islice(random_points(sweep, 4), 20))
    rates = np.array([point["optim.lr"] for point in points])
    assert rates.min() >= 0.0001 and rates.max() <= 0.01 and np.median(rates) == pytest.approx(0.001, rel=0.1)
    assert np.mean([point["model.dropout"] for point in points]) == pytest.approx(0.25, abs=0.01)
    layers = Counter(point["model.num_layers"] for point in points)
    assert set(layers) == {1, 2, 3, 4, 5} and min(layers.values()) > 700
    assert {point["model.hidden_dim"] for point in points} == {32, 64, 96, 128}
    assert Counter(point["data.fps"] for point in points)[30] == pytest.approx(3600, abs=80)
    assert resolve(Settings, words_of({"model.hidden_dim": 32.0})).model.hidden_dim == 32


@pytest.mark.parametrize(
    ("spec", "middle"),
    [
        ({"distribution": "uniform", "min": -1, "max": 3}, 1),
        ({"distribution": "log_uniform", "min": 0, "max": 2}, math.e),
        ({"distribution": "inv_log_uniform", "min": 0, "max": 2}, 1 / math.e),
        ({"distribution": "log_uniform_values", "min": 1, "max": 100}, 10),
        ({"distribution": "inv_log_uniform_values", "min": 1, "max": 100}, 10),
        ({"distribution": "normal", "mu": 5, "sigma": 2}, 5),
        ({"distribution": "q_normal", "mu": 5.3, "sigma": 2, "q": 0.5}, 5.5),
        ({"distribution": "log_normal", "mu": 1, "sigma": 2}, math.e),
        ({"distribution": "int_uniform", "min": 1, "max": 3}, 2),
        ({"values": ["a", "b", "c"]}, "b"),
    ],
)
def test_the_median_of_every_distribution(spec, middle):
    value = quantile(spec, 0.5)
    assert value == middle if isinstance(middle, str) else value == pytest.approx(middle)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parameters": {"optim.lr": {"values": ["1e-3"]}}}, "1e-3 is a string to YAML; write 0.001"),
        ({"method": "random", "parameters": {"optim.lr": {"min": "1e-4", "max": 0.1}}}, "1e-4 is a string"),
        ({"parameters": {"optim": {"parameters": {"lr": {"value": 1}}}}}, "optim.<key>"),
        ({"parameters": {"seed": {"vals": [1]}}}, "vals is none of"),
        ({"parameters": {"seed": {"values": []}}}, "must be a list"),
        ({"parameters": {"seed": 3}}, "write value:"),
        ({"parameters": {}}, "has program, method"),
        ({"parameters": {"optim.lr": {"min": 0.1, "max": 1.0}}}, "a grid needs values"),
        ({"method": "random", "parameters": {"optim.lr": {"min": 0.1}}}, "give min and max"),
        ({"method": "bayes", "parameters": {"optim.lr": {"distribution": "beta", "a": 1}}}, "a is none of"),
        ({"method": "bayes", "parameters": {"optim.lr": {"distribution": "beta"}}}, "distribution beta"),
        ({"method": "annealing"}, "choose from grid, random, bayes"),
        ({"metric": {"name": "val/accuracy"}}, "minimize or maximize"),
        ({"program": "train.py"}, "runs reproduce/train.py"),
        ({"command": ["${program}", "${args}"]}, "args_no_hyphens"),
        ({"early_terminate": {"type": "median"}}, "must be hyperband"),
        ({"early_terminate": {"type": "hyperband"}}, "min_iter"),
        ({"prameters": {}}, "prameters: not known"),
        ({"run_cap": "5"}, "run_cap: '5' is no whole number"),
        ({"run_cap": -2}, "run_cap: -2 is no whole number"),
        *(
            ({"method": "random", "parameters": {"optim.lr": spec}}, says)
            for spec, says in (
                ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, "q must be above 0"),
                ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "min must be above 0"),
                ({"distribution": "log_uniform", "min": 0, "max": 1000}, "up to 700"),
                ({"distribution": "normal", "sigma": -1}, "sigma must be at least 0"),
                ({"distribution": "uniform", "min": 0, "max": float("inf")}, "must be finite"),
                ({"values": [1, 2], "probabilities": "x"}, "as many numbers as values"),
                ({"values": [1, 2], "probabilities": [0.5]}, "as many numbers as values"),
                ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "with the sum 1"),
            )
        ),
        ({"parameters": {"seed": {"distribution": "int_uniform", "min": 1.5, "max": 3}}}, "whole numbers"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, changes, says):
    path = write(tmp_path, **changes)
    with pytest.raises(SettingsError, match=says) as caught:
        read_sweep(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [")
    for name in ("absent.yaml", "bad.yaml"):
        with pytest.raises(SettingsError, match="cannot be read as a sweep file"):
            read_sweep(tmp_path / name)


def test_words_of_the_command_and_hyperband_are_read(tmp_path):
    sweep = read_sweep(write(tmp_path, early_terminate={"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3}, run_cap=4))
    assert sweep.words == ("preset=miniature",) and sweep.hyperband == Hyperband(3, 3) and sweep.run_cap == 4
    assert first_point(sweep) == {"seed": 1}
