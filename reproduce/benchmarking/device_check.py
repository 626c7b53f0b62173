"""The first thing to run on a GPU: whether it computes what the CPU does, repeats itself, and how fast it is.

Every network of the catalogue takes a training step and a dense test, on the GPU and on the CPU, from the same weights and
frames. The CPU computes in single precision. Relative errors are Euclidean: ``‖found - expected‖ / ‖expected‖``.
"""

from __future__ import annotations

import copy
import gc
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from datamodules.blocks import BLOCK_LENGTH, BlockIndex
from lightning_modules.backbone import calibrate, folded
from lightning_modules.frames import Frames, Network, Rows, pool_frames, run_blocks, run_dense
from lightning_modules.hard_attention import HardAttentionLSTM
from lightning_modules.layers import seed_masks
from lightning_modules.multiresolution import MultiresolutionLSTM, pack
from lightning_modules.objective import Cost, Objective
from lightning_modules.selective import SelectiveAttentionLSTM
from lightning_modules.step_graph import CudaGraph, Graph, StepGraph
from reproduce.benchmarking.lines import Line
from reproduce.benchmarking.scale import extraction_rate, step_seconds, test_seconds
from reproduce.benchmarking.settings import BenchmarkSettings
from reproduce.benchmarking.workloads import CLASSES, features, medians, step
from reproduce.common.catalogue import ROWS
from reproduce.common.settings import SettingsError, with_values
from reproduce.systems.backbones import built, frame_side
from reproduce.systems.devices import set_arithmetic
from reproduce.systems.recurrent import build_network

CPU = torch.device("cpu")
BLOCKS = 8  # compared of a step, and at most of a dense test
GAIN = 2.0  # on initial weights: as they are, attention's gradient is 5e-5 of all, and no tolerance would see it
LEAST_SHARE = 1e-3  # of all gradients' norm, that one's error is measured by at least: single precision keeps 1e-8 of it
FEATURES = {"IEEE": 1e-4, "TF32": 0.1}  # tolerances for the untrained backbone's features, which amplify rounding


REFERENCE = "the CPU in single precision"


class Arithmetic(NamedTuple):
    """How products are computed, and what that may cost.

    Args:
        tf32: whether single precision is TF32.
        precision: of ``trainer.precision``.
        tolerance: greatest relative error of the loss, of each gradient, and of a dense test's scores.
    """

    tf32: bool
    precision: str
    tolerance: float


# On the CPU, single precision is off by 1e-5 from double, and bf16 by 4e-2 from single. TF32 has 8 times finer steps than bf16.
ARITHMETICS = {
    "IEEE": Arithmetic(False, "32-true", 1e-4),
    "TF32": Arithmetic(True, "32-true", 2e-2),
    "bf16": Arithmetic(False, "bf16-mixed", 0.1),
}


def checked_device(settings: BenchmarkSettings) -> torch.device:
    """The first visible GPU, or the CPU where ``trainer.accelerator`` asks for it.

    Raises:
        SettingsError: there is no GPU, and the CPU was not asked for.
    """
    if settings.trainer.accelerator == "cpu":
        return CPU
    if not torch.cuda.is_available():
        raise SettingsError(
            "device_check=true: torch finds no GPU here; trainer.accelerator=cpu compares the CPU with itself, in small"
        )
    return torch.device("cuda", 0)


def check_device(settings: BenchmarkSettings, device: torch.device) -> Iterator[Line]:
    """Free memory; the backbone; then each network: compared, repeated, timed. What fails is a line with a missed limit."""
    with _as_in_runs(settings):
        if device.type == "cuda":
            free, total = (size / 2**30 for size in torch.cuda.mem_get_info(device))
            yield Line("free memory", "all of it", str(device), f"{total:.1f} GiB", f"{free:.1f} GiB", free / total)
        yield from _guarded("the backbone", _backbone(settings, device), device)
        for name, own in _networks(settings).items():
            yield from _guarded(name, _network(name, own, device), device)


@contextmanager
def _as_in_runs(settings: BenchmarkSettings) -> Iterator[None]:
    """Within, operations are deterministic as in a run; behind it, that and the arithmetic are as before."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as Lightning sets it for deterministic runs
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    gc.freeze()  # else each timed repetition goes through all modules' objects before it
    try:
        yield
    finally:
        gc.unfreeze()
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        set_arithmetic(settings)


def _guarded(what: str, lines: Iterator[Line], device: torch.device) -> Iterator[Line]:
    """Lines up to an error of torch, which is the last one: other networks may do all the same."""
    try:
        yield from lines
    except RuntimeError as error:
        words = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        if isinstance(error, torch.cuda.OutOfMemoryError):
            words += "; set data.batch_size lower"
        yield Line(f"{what}: breaks off", "an error", str(device), "none", words, 1.0, limit="at most 0")


def _networks(settings: BenchmarkSettings) -> dict[str, BenchmarkSettings]:
    """Settings of one row of each network that is trained on blocks: rows that differ in their loss alone share one."""
    found: dict[str, str] = {}
    for name, row in ROWS.items():
        if "data.batch_size" in row.system.settings:
            found.setdefault(str([item for item in row.sets.items() if item[0].startswith("model.")]), name)
    return {name: with_values(settings, ROWS[name].sets) for name in found.values()}  # type: ignore[misc]


def _set(settings: BenchmarkSettings, arithmetic: Arithmetic) -> BenchmarkSettings:
    """Compute so from now on; returns the settings that say so."""
    changed = with_values(settings, {"trainer.tf32": arithmetic.tf32, "trainer.precision": arithmetic.precision})
    set_arithmetic(changed)
    return changed  # type: ignore[return-value]


def _backbone(settings: BenchmarkSettings, device: torch.device) -> Iterator[Line]:
    """The features of four random frames, and how many frames a second the network takes."""
    backbone, side = built(with_values(settings, {"backbone.weights": "random"})), frame_side(settings)
    images = torch.randint(0, 256, (4, 3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    calibrate(backbone, images)
    network = folded(backbone)
    with torch.no_grad():
        expected = network(images)
        moved = copy.deepcopy(network).to(device)
        for name, tolerance in FEATURES.items():
            _set(settings, ARITHMETICS[name])
            error = float((moved(images.to(device)).cpu() - expected).norm() / expected.norm())
            what = f"{settings.backbone.name}, {name}: features of 4 frames"
            limit = f"at most {tolerance:g}"
            yield Line(what, REFERENCE, str(device), f"norm {expected.norm():.2f}", f"{error:.1e} off", error, limit=limit)
    rate = extraction_rate(settings, device)
    yield Line(f"{settings.backbone.name}: extraction, network alone", "", str(device), "–", f"{rate:.0f} frames/s", None)


def _network(name: str, settings: BenchmarkSettings, device: torch.device) -> Iterator[Line]:
    """One network: against the CPU, against itself, and by the clock."""
    plain, dropping = (_built(with_values(settings, more)) for more in ({"model.dropout": 0.0}, {}))
    frames = _frames(plain, (6 * features(settings, settings.frames, CPU).float() - 3).relu().half())  # half of them zero
    expected, had = _outcome(plain, frames, CPU, ARITHMETICS["IEEE"]), dict(ARITHMETICS)
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        del had["bf16"]
    for label, arithmetic in had.items():
        _set(settings, arithmetic)
        if label == "IEEE" or not isinstance(plain, SelectiveAttentionLSTM):
            # elsewhere, another rounding makes a network choose other locations, and nothing is to compare
            found, what = _outcome(plain, frames, device, arithmetic), f"{name}, {label}"
            yield from _compared(what=what, found=found, expected=expected, tolerance=arithmetic.tolerance, device=device)
        first, second = (_outcome(dropping, frames, device, arithmetic) for _ in range(2))
        other = [key for key in first if not torch.equal(first[key], second[key])]
        words = f"{len(other)} of {len(first)} tensors differ: {other[0]} …" if other else f"all {len(first)} tensors equal"
        what, against = f"{name}, {label}: repeated, with dropout", "itself, bit for bit"
        yield Line(what, against, str(device), "–", words, float(len(other)), limit="at most 0")

    held = _frames(dropping, features(settings, 10 * settings.frames, device))
    videos = BlockIndex([settings.frames] * settings.steps)
    for label, arithmetic in had.items():
        chosen, network = _set(settings, arithmetic), copy.deepcopy(dropping).to(device)
        trained = settings.data.batch_size / step_seconds(chosen, network, held, device)
        tested = 1 / test_seconds(chosen, network, held, videos, device)
        words = f"{trained:.0f} blocks/s trained on, {tested:.0f} blocks/s tested"
        sizes = f"B={settings.data.batch_size}, videos of {settings.frames} frames"
        yield Line(f"{name}, {label}: rate, {sizes}", "", str(device), "–", words, None)
        if device.type == "cuda" and not isinstance(network, HardAttentionLSTM):  # which draws on the host
            yield _replayed(f"{name}, {label}", chosen, network, held, device)


def _replayed(
    what: str,
    settings: BenchmarkSettings,
    network: nn.Module,
    held: Frames,
    device: torch.device,
    graph: Callable[[torch.device], Graph] = CudaGraph,
) -> Line:
    """A step of forward, loss and backward, replayed as a CUDA graph and eager; a graph that is of no use misses the limit."""
    B, T, said = settings.data.batch_size, getattr(network, "block_length", BLOCK_LENGTH), list[str]()
    starts = torch.randint(0, len(held.mean) - T + 1, (B, 1), generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    rows = (starts + torch.arange(T)).to(device)
    _, mean, largest, *_ = held
    assert mean is not None and largest is not None
    batch = Batch(
        cube=cast(Tensor, held.cube),
        rows=rows,
        mean=mean[rows],
        max=largest[rows],
        target=torch.zeros(B, dtype=torch.int64, device=device),
        weight=torch.ones(B, device=device),
        batch_size=B,
        blocks=rows[:, 0].cpu().numpy(),
    )

    def cost(batch: Batch) -> Cost:
        found = run_blocks(cast(Network, network), Frames(Rows(cast(Tensor, batch.cube), rows), batch.mean, batch.max))
        attention = found.attention if found.scales is None else found.scales
        return Objective(1.0)(found.logits, attention, batch.target, network.parameters(), batch.weight, B)

    def eager() -> None:
        network.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.trainer.precision == "bf16-mixed"):
            loss = cost(batch).loss
        loss.backward()

    step = StepGraph(cost, network.train().parameters(), device, graph, said.append)

    def replayed() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.trainer.precision == "bf16-mixed"):
            step(batch, 0)

    replayed()  # the first batch of its kind is left to an eager step; the second one is captured
    seconds = medians({"eager": eager, "replayed": replayed}, device, settings.steps)
    rates = {key: f"{B / taken:.0f} blocks/s" for key, taken in seconds.items()}
    ratio = 0.0 if said else seconds["eager"] / seconds["replayed"]
    words = said[0] if said else rates["replayed"]
    return Line(f"{what}: step as a CUDA graph", "eager", str(device), rates["eager"], words, ratio, limit="at least 1")


def _built(settings: Any) -> nn.Module:
    """A row's network of weights from seed 0, ``GAIN`` times as large as they begin; of two maps where it takes several."""
    torch.manual_seed(0)
    K, D = settings.locations, settings.channels
    network = build_network(settings, (K, D), CLASSES, [(1, K, D), (1, K, D // 2)])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(GAIN)
    return network


def _frames(network: nn.Module, X: Tensor) -> Frames:
    """Frames (F, …) from cubes X (F, K, D), with the second map where the network takes several, and draws from seed 0."""
    if isinstance(network, MultiresolutionLSTM):
        X = pack([X, X[..., : X.shape[-1] // 2]])
    draws = torch.rand(len(X), generator=torch.Generator().manual_seed(0))
    return pool_frames(X, ("cube", "mean", "max"))._replace(draws=draws.to(X.device))


DENSE, LOSS, GRADIENT = "dense test", "loss", "gradient of "


def _outcome(network: nn.Module, frames: Frames, device: torch.device, arithmetic: Arithmetic) -> dict[str, Tensor]:
    """A dense test's scores, then a step's loss, gradients, and parameters behind it: by name, on the CPU."""
    network, T = copy.deepcopy(network).to(device), getattr(network, "block_length", BLOCK_LENGTH)
    cube, *others = (cast(Tensor, part).to(device) for part in frames)
    count = min(BLOCKS, len(cube) - T + 1)
    starts = torch.randint(0, len(cube) - T + 1, (BLOCKS, 1), generator=torch.Generator().manual_seed(0))
    rows = (starts + torch.arange(T)).to(device)
    batch = Frames(Rows(cube, rows), *(part[rows] for part in others))
    seed_masks(device, 0)
    bf16 = arithmetic.precision == "bf16-mixed"
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        stretch = Frames(*(part[: count + T - 1] for part in (cube, *others)))
        found = {DENSE: run_dense(cast(Network, network.eval()), stretch, count, T).logits}
    found[LOSS] = step(network, lambda: run_blocks(cast(Network, network), batch), BLOCKS, device, bf16=bf16)()
    for key, one in network.named_parameters():
        found[GRADIENT + key] = torch.zeros_like(one) if one.grad is None else one.grad
        found[f"{key} behind a step"] = one.detach()
    return {key: value.float().cpu() for key, value in found.items()}


def _compared(
    what: str, found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, device: torch.device
) -> Iterator[Line]:
    """Relative errors of scores, loss and gradients; a small gradient's relative to ``LEAST_SHARE`` of all gradients."""
    gradients = [key for key in expected if key.startswith(GRADIENT)]
    least = LEAST_SHARE * float(torch.stack([expected[key].norm() for key in gradients]).norm())
    size = {key: float(expected[key].norm()) for key in (DENSE, LOSS, *gradients)}
    size |= {key: max(size[key], least) for key in gradients}
    errors = {key: float((found[key] - expected[key]).norm()) / size[key] for key in size}
    limit, tested = f"at most {tolerance:g}", errors.pop(DENSE)
    words = f"norm {found[DENSE].norm():.4f}, {tested:.1e} off"
    yield Line(f"{what}: dense test", REFERENCE, str(device), f"norm {expected[DENSE].norm():.4f}", words, tested, limit=limit)
    worst = max(errors, key=lambda key: (math.isnan(errors[key]), errors[key]))
    words = f"loss {found[LOSS]:.4f}, {worst} {errors[worst]:.1e} off"
    yield Line(f"{what}: a step", REFERENCE, str(device), f"loss {expected[LOSS]:.4f}", words, errors[worst], limit=limit)
