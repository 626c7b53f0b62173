"""How long a column of Table 1 takes: some steps of each row on random features of the data set's true sizes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch

from datamodules.blocks import BLOCK_LENGTH, BlockIndex
from datamodules.pool import free_gpu_memory
from lightning_modules.backbone import folded
from lightning_modules.frames import Frames, Network, Rows, run_blocks, run_dense
from lightning_modules.metrics import block_scores
from reproduce.benchmarking.lines import Line
from reproduce.benchmarking.settings import SCALES, BenchmarkSettings, Scale
from reproduce.benchmarking.workloads import medians, step
from reproduce.common.catalogue import ROWS
from reproduce.common.settings import with_values
from reproduce.systems.backbones import built, frame_side
from reproduce.systems.cnn_features import PACKET, half_precision
from reproduce.systems.feature_writer import PRECISIONS
from reproduce.systems.recurrent import build_network

HELD_OUT = 0.15  # of train, in the protocol's first stage
HOST_BUDGET = 4.0  # GiB of main memory that stand for the data set where there is no GPU and no data.ram_budget


def lengths(scale: Scale, videos: int, seed: int) -> np.ndarray:
    """(V,) frame counts: log-normal with the data set's mean, within its bounds."""
    sigma = 0.6
    drawn = np.random.default_rng(seed).lognormal(math.log(scale.mean) - sigma**2 / 2, sigma, videos)
    return np.clip(drawn.round().astype(np.int64), scale.shortest, scale.longest)


def rehearse(settings: BenchmarkSettings, device: torch.device) -> Iterator[Line]:
    """A line for extraction, for each kind of row, and for the column."""
    assert settings.scale is not None
    scale, epochs = SCALES[settings.scale], settings.trainer.max_epochs
    train, test = BlockIndex(lengths(scale, scale.train, 0)), BlockIndex(lengths(scale, scale.test, 1))
    frames = int(train.num_frames.sum() + test.num_frames.sum())
    per_second = extraction_rate(settings, device)
    hours = [frames / per_second / 3600]
    yield _line(
        f"{settings.scale}: extraction of {frames} frames at {per_second:.0f} frames/s (network alone)", device, hours[0]
    )
    pool = _pool(settings, device, int(train.num_frames.sum()))
    batch = settings.data.batch_size
    for name, rows in (("softmax_regression", 1), ("avg_pool_lstm", 1), ("max_pool_lstm", 1), ("soft_attention_1", 3)):
        settings.model.name = ROWS[name].sets["model.name"]
        network = build_network(settings, (settings.locations, settings.channels), scale.classes).to(device)
        seconds = step_seconds(settings, network, pool, device)
        tested = test_seconds(settings, network, pool, test, device)
        steps = math.ceil((1 - HELD_OUT) * len(train) / batch) + math.ceil(len(train) / batch)
        evaluated = epochs * HELD_OUT * len(train) + len(test)
        needed = (epochs * steps * seconds + evaluated * tested) / 3600
        hours += [needed] * rows
        what = (
            f"{settings.scale}: {name}{' and the two other penalties, each' if rows > 1 else ''}: {len(train)} train blocks, "
            f"B={batch}, H={settings.model.hidden_dim}, 2 stages of {epochs} epochs at {1e3 * seconds:.1f} ms a step, "
            f"{1e6 * tested:.0f} µs a block tested"
        )
        yield _line(what, device, needed)
    yield _line(f"{settings.scale}: Table 1's column, six rows, one seed, one device", device, sum(hours))


def _line(what: str, device: torch.device, hours: float) -> Line:
    return Line(what, "", str(device), "–", f"{hours:.2f} h", None)


def extraction_rate(settings: BenchmarkSettings, device: torch.device) -> float:
    """Frames a second of the network alone, in the precision that extraction takes."""
    backbone = folded(built(with_values(settings, {"backbone.weights": "random"}))).to(device)
    dtype = PRECISIONS[half_precision(device.type == "cuda") or "fp32"]
    packet = PACKET[device.type == "cuda"]
    side = frame_side(settings)
    images = torch.randint(0, 256, (packet, 3, side, side), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)

    def work() -> None:
        with torch.no_grad(), torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            backbone(images)

    return packet / medians({"network": work}, device, settings.repeats)["network"]


def _pool(settings: BenchmarkSettings, device: torch.device, frames: int) -> Frames:
    """Random frames of train, all of them where they fit into the budget."""
    frame = settings.channels * (2 * settings.locations + 8)
    if device.type == "cuda":
        budget = min(settings.data.gpu_budget * 2**30, free_gpu_memory(device, int(settings.data.gpu_reserve * 2**30)))
    else:
        budget = (settings.data.ram_budget or HOST_BUDGET) * 2**30
    held = max(BLOCK_LENGTH * 4, min(frames, int(budget // frame)))
    print(f"{held} of {frames} train frames lie on {device}: {held * frame / 2**30:.1f} GiB", flush=True)
    cube = torch.empty(held, settings.locations, settings.channels, dtype=torch.float16, device=device)
    for part in cube.split(1024):
        part.copy_(torch.rand(part.shape, device=device))
    means, maxima = (torch.rand(held, settings.channels, device=device) for _ in range(2))
    return Frames(cube, means, maxima)


def step_seconds(settings: BenchmarkSettings, network: torch.nn.Module, pool: Frames, device: torch.device) -> float:
    """Median seconds of a training step, its gather from the pool included."""
    random = np.random.default_rng(0)
    batch, held = settings.data.batch_size, len(pool.mean)  # type: ignore[arg-type]
    length = getattr(network, "block_length", BLOCK_LENGTH)

    def forward():
        starts = random.integers(0, held - BLOCK_LENGTH, size=batch)
        rows = torch.from_numpy(starts[:, None] + np.arange(length)).to(device)
        found = {name: Rows(getattr(pool, name), rows) for name in network.inputs}  # type: ignore[union-attr]
        frames = {name: part if name == "cube" else part.gather() for name, part in found.items()}
        return run_blocks(network, Frames(**frames, draws=torch.rand(rows.shape, device=device)))  # type: ignore[arg-type]

    work = step(network, forward, batch, device, bf16=settings.trainer.precision == "bf16-mixed")
    return medians({"step": work}, device, settings.steps)["step"]


def test_seconds(
    settings: BenchmarkSettings, network: Network | torch.nn.Module, pool: Frames, test: BlockIndex, device: torch.device
) -> float:
    """Seconds of testing a block, over some videos of every length."""
    assert isinstance(network, torch.nn.Module)
    network.eval()
    steps = getattr(network, "block_length", BLOCK_LENGTH)
    chosen = np.argsort(test.num_frames)[np.linspace(0, len(test.num_frames) - 1, settings.steps).astype(int)]
    blocks, begun = 0, 0.0
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=settings.trainer.precision == "bf16-mixed"):
        for number, video in enumerate([chosen[-1], *chosen]):  # the first one does not count
            if number == 1:
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                begun = time.perf_counter()
            count = int(test.counts[video])
            stretch = {name: getattr(pool, name)[: count + steps - 1] for name in network.inputs}  # type: ignore[union-attr]
            count = min(count, len(next(iter(stretch.values()))) - steps + 1)
            output = run_dense(network, Frames(**stretch), count, steps)  # type: ignore[arg-type]
            scores = block_scores(output.logits, False, steps)
            float(scores.sum())  # waits for the device
            blocks += count if number else 0
    return (time.perf_counter() - begun) / max(1, blocks)
