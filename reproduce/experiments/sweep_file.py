"""Sweep files in W&B's format: read, checked, and expanded into points as W&B expands them. Free of torch and wandb.

    program: reproduce/train.py
    method: grid                          # or random, or bayes
    metric: {name: test/accuracy, goal: maximize}
    parameters:
      model.num_layers: {values: [1, 2, 3]}
    command: ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]

Words of ``command`` that are no ``${…}``, such as ``preset=miniature``, go to every run.
"""

from __future__ import annotations

import itertools
import math
import statistics as python_statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from reproduce.common.settings import SettingsError

PROGRAM = "reproduce/train.py"
METHODS = ("grid", "random", "bayes")
BOUNDED = ("uniform", "int_uniform", "log_uniform", "log_uniform_values", "inv_log_uniform", "inv_log_uniform_values")
UNBOUNDED = ("normal", "log_normal")
SWEEP_KEYS = {"program", "name", "description", "method", "metric", "parameters", "command", "run_cap", "early_terminate"}
SWEEP_KEYS |= {"entity", "project"}  # of the server; meaningless here
PARAMETER_KEYS = {"value", "values", "probabilities", "distribution", "min", "max", "mu", "sigma", "q"}
TAIL = 1e-9  # of a distribution without bounds: its quantiles 0 and 1 are infinite


@dataclass(frozen=True)
class Hyperband:
    """Early termination: at epochs ``min_iter · eta^k`` only the best ``1/eta`` of the runs go on.

    Args:
        min_iter: epoch of the first decision.
        eta: how many times fewer runs go on after each.
    """

    min_iter: int
    eta: int


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Args:
        path: the file.
        name: of the sweep.
        method: ``grid``, ``random`` or ``bayes``.
        metric: the figure that is compared.
        maximize: whether larger is better.
        parameters: by dotted key, W&B's description of the values.
        words: ``key=value`` words for every run.
        run_cap: points at most, or None.
        hyperband: early termination, or None.
    """

    path: Path
    name: str
    method: str
    metric: str
    maximize: bool
    parameters: dict[str, dict[str, Any]]
    words: tuple[str, ...] = ()
    run_cap: int | None = None
    hyperband: Hyperband | None = None

    def constants(self) -> dict[str, Any]:
        """Parameters with one value."""
        return {name: spec["value"] for name, spec in self.parameters.items() if "value" in spec}


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        SettingsError: it is missing, or is no sweep of train.py; the message says what is wrong with which key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise SettingsError(f"{path}: cannot be read as a sweep file ({reason})") from error
    try:
        return _sweep(path, content)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _sweep(path: Path, content: Any) -> Sweep:
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict) or not content["parameters"]:
        raise SettingsError("a sweep file has program, method, metric, parameters and command")
    unknown = sorted(str(key) for key in content if key not in SWEEP_KEYS)
    if unknown:
        raise SettingsError(f"{unknown[0]}: not known here; known are {', '.join(sorted(SWEEP_KEYS))}")
    if content.get("program") != PROGRAM:
        raise SettingsError(f"program: {content.get('program')}; a sweep here runs {PROGRAM}")
    method = content.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise SettingsError(f"method: {method}; choose from {', '.join(METHODS)}")
    metric = content.get("metric") or {}
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str) or not metric["name"]:
        raise SettingsError("metric: give its name, such as test/accuracy, and the goal, minimize or maximize")
    if metric.get("goal") not in ("minimize", "maximize"):
        raise SettingsError("metric: give its name, such as test/accuracy, and the goal, minimize or maximize")
    command = content.get("command") or []
    if not isinstance(command, list) or not {"${program}", "${args_no_hyphens}"} <= set(map(str, command)):
        raise SettingsError(
            "command: write [${env}, ${interpreter}, ${program}, ${args_no_hyphens}]; settings are key=value without dashes"
        )
    for name, spec in content["parameters"].items():
        _check_parameter(name, spec, method)
    return Sweep(
        path,
        str(content.get("name") or path.stem),
        method,
        metric["name"],
        metric["goal"] == "maximize",
        content["parameters"],
        tuple(str(word) for word in command if not str(word).startswith("${")),
        _run_cap(content.get("run_cap")),
        _hyperband(content.get("early_terminate")),
    )


def _check_parameter(name: str, spec: Any, method: str) -> None:
    if not isinstance(spec, dict):
        raise SettingsError(f"parameters: {name}: write value:, values:, or min: and max:")
    if "parameters" in spec:
        raise SettingsError(f"parameters: {name}: nested parameters do not reach the command line; write {name}.<key>")
    unknown = sorted(str(key) for key in spec if key not in PARAMETER_KEYS)
    if unknown:
        raise SettingsError(f"parameters: {name}: {unknown[0]} is none of {', '.join(sorted(PARAMETER_KEYS))}")
    if "values" in spec and (not isinstance(spec["values"], list) or not spec["values"]):
        raise SettingsError(f"parameters: {name}: values must be a list")
    for value in [*spec.get("values", ()), *(spec[key] for key in ("value", "min", "max", "mu", "sigma", "q") if key in spec)]:
        if isinstance(value, str) and _is_number(value):
            raise SettingsError(f"parameters: {name}: {value} is a string to YAML; write {float(value)!r} with a point")
    _check_probabilities(name, spec)
    if "value" in spec or "values" in spec:
        return
    for key in ("min", "max", "mu", "sigma", "q"):
        if key in spec and type(spec[key]) not in (int, float):
            raise SettingsError(f"parameters: {name}: {key} is {spec[key]!r}, not a number")
    distribution = distribution_of(spec)
    base = distribution.removeprefix("q_")
    if base not in BOUNDED + UNBOUNDED:
        known = ", ".join(BOUNDED + UNBOUNDED)
        raise SettingsError(
            f"parameters: {name}: distribution {distribution}; known are {known}, all but int_uniform with q_ too"
        )
    if base in BOUNDED and not ("min" in spec and "max" in spec and spec["min"] <= spec["max"]):
        raise SettingsError(f"parameters: {name}: give min and max, or values")
    _check_numbers(name, spec, base)
    if method == "grid" and distribution != "int_uniform":
        raise SettingsError(f"parameters: {name}: a grid needs values, or whole numbers as min and max")


def _run_cap(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise SettingsError(f"run_cap: {value!r} is no whole number from 1")
    return value


def _check_numbers(name: str, spec: dict[str, Any], base: str) -> None:
    """Refuse numbers that a distribution cannot have."""
    given = [spec[key] for key in ("min", "max", "mu", "sigma", "q") if key in spec]
    checks = {
        "q must be above 0": spec.get("q", 1) > 0,
        "sigma must be at least 0": spec.get("sigma", 1) >= 0,
        "min must be above 0": not base.endswith("log_uniform_values") or spec["min"] > 0,
        "min and max are exponents, up to 700": base not in ("log_uniform", "inv_log_uniform")
        or max(abs(spec["min"]), abs(spec["max"])) <= 700,
        "min and max must be whole numbers": base != "int_uniform" or {type(spec["min"]), type(spec["max"])} == {int},
        "its numbers must be finite": all(map(math.isfinite, given)),
    }
    for says, holds in checks.items():
        if not holds:
            raise SettingsError(f"parameters: {name}: {says}")


def _check_probabilities(name: str, spec: dict[str, Any]) -> None:
    shares = spec.get("probabilities")
    if shares is None:
        return
    numbers = isinstance(shares, list) and all(type(share) in (int, float) and share >= 0 for share in shares)
    if not numbers or len(shares) != len(spec.get("values", ())) or abs(sum(shares) - 1) > 1e-6:
        raise SettingsError(f"parameters: {name}: probabilities must be as many numbers as values, with the sum 1")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _hyperband(content: Any) -> Hyperband | None:
    if content is None:
        return None
    if not isinstance(content, dict) or content.get("type") != "hyperband":
        raise SettingsError("early_terminate: its type must be hyperband")
    for key, least in (("eta", 2), ("min_iter", 1), ("max_iter", 1), ("s", 0)):
        if key in content and (type(content[key]) is not int or not least <= content[key] < 10**6):
            raise SettingsError(f"early_terminate: {key} is {content[key]!r}, not a whole number from {least}")
    eta = content.get("eta", 3)
    if "min_iter" in content:
        return Hyperband(content["min_iter"], eta)
    if "max_iter" in content and "s" in content:
        return Hyperband(max(1, content["max_iter"] // eta ** min(content["s"], 20)), eta)
    raise SettingsError("early_terminate: give min_iter, or max_iter and s")


def distribution_of(spec: dict[str, Any]) -> str:
    """A parameter's distribution; W&B's default where it names none."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    whole = all(isinstance(spec.get(key), int) for key in ("min", "max"))
    return str(spec.get("distribution") or ("int_uniform" if whole else "uniform"))


def grid_points(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Every combination of values, in W&B's order: the parameter whose name comes last in the alphabet varies fastest."""
    names = sorted(sweep.parameters)
    yield from (
        dict(zip(names, values, strict=True)) for values in itertools.product(*(choices(sweep.parameters[n]) for n in names))
    )


def choices(spec: dict[str, Any]) -> list[Any]:
    """The values of a parameter of a grid."""
    if "value" in spec:
        return [spec["value"]]
    return list(spec["values"]) if "values" in spec else list(range(spec["min"], spec["max"] + 1))


def random_points(sweep: Sweep, seed: int) -> Iterator[dict[str, Any]]:
    """Points drawn from W&B's distributions, without end; the same ones for the same seed."""
    random = np.random.default_rng(seed)
    while True:
        yield {name: quantile(sweep.parameters[name], float(random.random())) for name in sorted(sweep.parameters)}


def quantile(spec: dict[str, Any], share: float) -> Any:
    """The value below which a share of a parameter's distribution lies.

    Args:
        spec: W&B's description of the parameter.
        share: in [0, 1).
    """
    distribution = distribution_of(spec)
    if distribution == "constant":
        return spec["value"]
    if distribution == "categorical":
        values = spec["values"]
        upper = np.cumsum(spec.get("probabilities") or [1 / len(values)] * len(values))
        return values[min(int(np.searchsorted(upper, share, side="right")), len(values) - 1)]
    low, high = spec.get("min", 0), spec.get("max", 1)
    base = distribution.removeprefix("q_")
    if base == "int_uniform":
        return min(high, low + math.floor(share * (high - low + 1)))
    if base in UNBOUNDED:
        value = python_statistics.NormalDist(spec.get("mu", 0), spec.get("sigma", 1)).inv_cdf(min(max(share, TAIL), 1 - TAIL))
        value = math.exp(value) if base == "log_normal" else value
    elif base == "uniform":
        value = low + share * (high - low)
    elif base == "log_uniform":
        value = math.exp(low + share * (high - low))
    elif base == "inv_log_uniform":
        value = math.exp(-(high - share * (high - low)))
    else:  # log_uniform_values, and its inverse, which is the same distribution
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    step = spec.get("q", 1)
    return round(value / step) * step if distribution.startswith("q_") else value


def words_of(point: dict[str, Any]) -> list[str]:
    """A point as W&B's ``${args_no_hyphens}`` writes it."""
    return [f"{name}={value}" for name, value in point.items()]


def first_point(sweep: Sweep, seed: int = 0) -> dict[str, Any]:
    """The point that a run here begins with; for ``bayes``, one drawn at random."""
    return next(grid_points(sweep) if sweep.method == "grid" else random_points(sweep, seed))
