"""What the benchmark measures: each case gives lines of its table, on one device."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.blocks import BLOCK_LENGTH
from datamodules.decoding import read_chunks
from datamodules.features import FeatureSpec, FeatureStore
from lightning_modules.backbone import calibrate, folded
from lightning_modules.baselines import PooledLSTM, SoftmaxRegression
from lightning_modules.frames import Frames, pool_frames, run_blocks, run_dense, window_means, windows
from lightning_modules.objective import Objective
from lightning_modules.recognizer import Recognizer
from reproduce.benchmarking import baselines
from reproduce.benchmarking.descriptor_cases import descriptors
from reproduce.benchmarking.lines import Line
from reproduce.benchmarking.settings import BenchmarkSettings
from reproduce.benchmarking.workloads import (
    CLASSES,
    Work,
    accelerator,
    attention_network,
    describe,
    encode_clip,
    exponent,
    features,
    fit,
    flops_of,
    gathered,
    in_bytes,
    matrix_rate,
    medians,
    peak_memory,
    quiet,
    random_data,
    step,
)
from reproduce.common.catalogue import PAPER_NETWORK
from reproduce.common.settings import with_values
from reproduce.systems.backbones import built, frame_side
from reproduce.systems.cnn_features import extract_into, half_precision, kept_cosine, packet_and_workers
from reproduce.systems.feature_writer import PRECISIONS

GPU_RATE = 20_000.0  # frames/s of extraction on a GPU at which nobody asks for more
GPU_SHARE = 0.6  # of the card's matrix rate


def startup(settings: BenchmarkSettings, folder: Path, device: torch.device) -> Iterator[Line]:
    """``--help`` and a refused key, of every script."""
    here = Path(__file__).resolve().parents[1]
    for word, what in (("--help", "--help"), ("no.such.key=1", "a refused key")):
        slowest: tuple[float, str] = (0.0, "")
        for script in SCRIPTS:
            took = []
            for _ in range(settings.repeats):
                begun = time.perf_counter()
                subprocess.run([sys.executable, str(here / script), word], capture_output=True, check=False)
                took.append(time.perf_counter() - begun)
            slowest = max(slowest, (float(np.median(took)), script))
        yield Line(
            f"{what}, the slowest of {len(SCRIPTS)} scripts",
            "",
            "cpu",
            "–",
            f"{slowest[0]:.2f} s ({slowest[1]})",
            slowest[0],
            limit="at most 1",
        )


def extraction(settings: BenchmarkSettings, folder: Path, device: torch.device) -> Iterator[Line]:
    """Frames a second from MPEG-4 files to the store, in turn with the plain way; and the network alone."""
    clips = folder / "clips"
    paths = [clips / f"clip{number}.avi" for number in range(settings.clips)]
    for number, path in enumerate(paths):
        if not path.is_file():
            encode_clip(path, settings.clip_frames, number)
    options = settings.backbone
    weights = "random" if options.weights in ("imagenet", "released") else options.weights
    backbone, side = built(with_values(settings, {"backbone.weights": weights})), frame_side(settings)
    chunk = torch.from_numpy(next(read_chunks(paths[0], side, 16))).permute(0, 3, 1, 2)
    if weights == "random":
        calibrate(backbone, chunk)
    backbone = backbone.to(device)
    with torch.no_grad():
        _, channels, rows, columns = backbone.map(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)).shape
    half = half_precision(device.type == "cuda")

    ran = dataclasses.replace(settings, trainer=dataclasses.replace(settings.trainer, accelerator=accelerator(device)))
    packet, _ = packet_and_workers(ran)
    ways = dict.fromkeys((("fp32", False), (half or "fp32", False), (half or "fp32", options.compile != "false")))
    names, some = [path.name for path in paths], paths[: settings.plain_clips]
    spec = FeatureSpec(options.name, "random:0", options.layer, side)
    plain: list[float] = []
    ours: dict[tuple[str, bool], list[float]] = {way: [] for way in ways}
    shares = dict.fromkeys(ways, "")
    next(baselines.extract(some, backbone, side))  # the first batch does not count
    for repeat in range(settings.repeats):
        begun = time.perf_counter()
        plain.append(sum(map(len, baselines.extract(some, backbone, side))) / (time.perf_counter() - begun))
        for precision, compiled in ways:
            store = FeatureStore(folder / f"store-{device.type}-{precision}-{compiled}-{repeat}")
            store.create(spec, (rows, columns), channels, {"notes": []})
            with quiet():
                stopwatch = extract_into(ran, store, backbone, names, paths, precision, compiled)
            counted = settings.clips * settings.clip_frames - compiled * packet  # what compiles is not measured
            ours[precision, compiled].append(counted / sum(stopwatch.seconds.values()))
            shares[precision, compiled] = stopwatch.summary()
    baseline = float(np.median(plain))
    for (precision, compiled), found in ours.items():
        kept = f", cosine with fp32 at least {kept_cosine(backbone, chunk, precision, device):.4f}" if precision == half else ""
        rate = float(np.median(found))
        yield Line(
            f"extraction, {options.name} in {precision}{', compiled' if compiled else ''}{kept}, {settings.clips} clips of "
            f"320x240 ({shares[precision, compiled]})",
            "a loop of decoding and fp32 batches of 32, one process",
            str(device),
            f"{baseline:.0f} frames/s",
            f"{rate:.0f} frames/s",
            rate / baseline,
            limit="at least 4" if options.name == PAPER_NETWORK and (precision, compiled) == list(ways)[-1] else "",
        )

    images = torch.randint(0, 256, (packet, 3, side, side), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)

    def run(network: Callable[[torch.Tensor], Any], name: str) -> Work:
        dtype = PRECISIONS[name]

        def work() -> Any:
            with torch.no_grad(), torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
                return network(images)

        return work

    fast = folded(backbone)
    works = {"fp32": run(backbone, "fp32"), "batch norm folded": run(fast, "fp32")}
    half = half or "bf16"
    works[half] = run(fast, half)
    if options.compile != "false":
        works |= {f"{name} compiled": run(torch.compile(fast), name) for name in ("fp32", half)}
    seconds = medians(works, device, settings.repeats)
    rates = {name: packet / taken for name, taken in seconds.items()}
    best = max(rates, key=lambda name: rates[name])
    words = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    line = Line(
        f"{options.name} alone, {packet} frames a batch, frames/s: {words}",
        "the same in fp32",
        str(device),
        f"{rates['fp32']:.0f} frames/s",
        f"{rates[best]:.0f} frames/s",
        rates[best] / rates["fp32"],
    )
    yield line
    if device.type == "cuda":
        share = rates[best] * flops_of(backbone, images[:1]) / matrix_rate(device)
        yield Line(
            f"{options.name} alone: {share:.0%} of the card's half-precision matrix rate",
            "60 % of it, or 20 000 frames/s",
            str(device),
            "–",
            f"{rates[best]:.0f} frames/s",
            max(share / GPU_SHARE, rates[best] / GPU_RATE),
            limit="at least 1",
        )


def testing(settings: BenchmarkSettings, folder: Path, device: torch.device) -> Iterator[Line]:
    """All stride-1 blocks of one video: as windows on its frames, against stacked blocks; and their inputs alone."""
    X = features(settings, settings.frames, device)
    frames = pool_frames(X, ("cube", "mean", "max"))  # the store has them so
    blocks = len(X) - BLOCK_LENGTH + 1
    network = attention_network(settings).to(device).eval()
    by_cell = baselines.CellByCell(
        settings.locations, settings.channels, CLASSES, settings.model.hidden_dim, settings.model.num_layers
    )
    by_cell = by_cell.to(device).eval()
    works: dict[str, Work] = {
        "plain": lambda: by_cell(baselines.stacked_blocks(X)),
        "stacked": lambda: network(baselines.stacked_blocks(X)),
        "dense": lambda: run_dense(network, frames, blocks, BLOCK_LENGTH),
    }
    with torch.no_grad():
        seconds = medians(works, device, settings.repeats)
        memory = {name: peak_memory(work, device) for name, work in works.items()}
    what = f"testing {settings.frames} frames ({blocks} blocks), {describe(settings)}"
    for name, against, limit in (
        ("plain", "stacked blocks, nn.LSTMCells in a loop", "at least 2"),
        ("stacked", "stacked blocks, this suite's network", ""),
    ):
        peaks = f"{in_bytes(memory['dense'])} against {in_bytes(memory[name])}"
        yield Line(
            what,
            against,
            str(device),
            f"{seconds[name]:.3f} s",
            f"{seconds['dense']:.3f} s",
            seconds[name] / seconds["dense"],
            peaks,
            limit,
        )
        there, here = memory[name], memory["dense"]
        if there and here:
            yield Line(
                "… its peak memory",
                against,
                str(device),
                in_bytes(memory[name]),
                in_bytes(memory["dense"]),
                there / here,
                limit="at least 5" if limit else "",
            )

    softmax = SoftmaxRegression(settings.locations, settings.channels, CLASSES).to(device).eval()
    paths: dict[str, dict[str, Work]] = {
        "softmax regression": {
            "plain": lambda: softmax.classes(baselines.stacked_blocks(X).float().flatten(2)),
            "ours": lambda: run_dense(softmax, Frames(X), blocks, BLOCK_LENGTH),
        },
        "average-pooled LSTM's inputs": {
            "plain": lambda: baselines.stacked_blocks(X).float().mean(dim=2).mean(dim=1),
            "ours": lambda: dense_inputs(X, "mean", blocks),
        },
        "max-pooled LSTM's inputs": {
            "plain": lambda: (
                baselines.stacked_blocks(X).float().amax(dim=2),
                baselines.stacked_blocks(X).float().mean(dim=(1, 2)),
            ),
            "ours": lambda: dense_inputs(X, "max", blocks),
        },
    }
    for what, pair in paths.items():
        with torch.no_grad():
            seconds = medians(pair, device, settings.repeats)
        yield Line(
            f"testing {settings.frames} frames, {what}",
            "stacked blocks",
            str(device),
            f"{1e3 * seconds['plain']:.1f} ms",
            f"{1e3 * seconds['ours']:.1f} ms",
            seconds["plain"] / seconds["ours"],
            limit="at least 10",
        )


def dense_inputs(X: torch.Tensor, pooling: str, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a pooled LSTM is given for all blocks of a video: x (N, T, D), a view, and x̄ (N, D)."""
    frames = pool_frames(X, ("mean", pooling))
    pooled = frames.mean if pooling == "mean" else frames.max
    assert pooled is not None and frames.mean is not None
    return windows(pooled, blocks, BLOCK_LENGTH), window_means(frames.mean, blocks, BLOCK_LENGTH)


def training(settings: BenchmarkSettings, folder: Path, device: torch.device) -> Iterator[Line]:
    """One optimiser step: forward, Eq. 7, backward, Adam."""
    B = settings.data.batch_size
    X = features(settings, B * BLOCK_LENGTH, device).unflatten(0, (B, BLOCK_LENGTH))
    frames = pool_frames(X, ("cube", "mean"))  # the store has them so
    sizes = (settings.locations, settings.channels, CLASSES, settings.model.hidden_dim, settings.model.num_layers)
    by_cell = baselines.CellByCell(*sizes).to(device)
    attention = attention_network(settings).to(device)
    pooled = PooledLSTM(settings.channels, CLASSES, "mean", *sizes[3:]).to(device)
    works = {
        "cells": step(by_cell, lambda: by_cell(X), B, device),
        "attention": step(attention, lambda: run_blocks(attention, frames), B, device),
        "pooled": step(pooled, lambda: run_blocks(pooled, frames), B, device),
        "attention bf16": step(attention, lambda: run_blocks(attention, frames), B, device, bf16=True),
        "pooled bf16": step(pooled, lambda: run_blocks(pooled, frames), B, device, bf16=True),
    }
    seconds = medians(works, device, settings.repeats)
    memory = {name: in_bytes(peak_memory(works[name], device)) for name in ("attention", "cells")}
    words = {name: f"{1e3 * taken:.1f} ms" for name, taken in seconds.items()}
    what = f"training step, B={B}, {describe(settings)}"
    yield Line(
        f"{what}, fp32",
        "three nn.LSTMCells in a loop, under autograd",
        str(device),
        words["cells"],
        words["attention"],
        seconds["cells"] / seconds["attention"],
        f"{memory['attention']} against {memory['cells']}",
        "at least 1.1",
    )
    yield Line(
        f"{what}, fp32: its duration over the pooled one's",
        "average-pooled nn.LSTM",
        str(device),
        words["pooled"],
        words["attention"],
        seconds["attention"] / seconds["pooled"],
        limit="at most 1.6",
    )
    yield Line(
        f"{what}, bf16-mixed",
        "the same in fp32",
        str(device),
        words["attention"],
        words["attention bf16"],
        seconds["attention"] / seconds["attention bf16"],
        limit="at least 1.5",
    )
    if device.type == "cuda":
        yield Line(
            f"{what}, bf16-mixed: blocks/s over the pooled one's",
            "average-pooled nn.LSTM (cuDNN)",
            str(device),
            f"{B / seconds['pooled bf16']:.0f} blocks/s",
            f"{B / seconds['attention bf16']:.0f} blocks/s",
            seconds["pooled bf16"] / seconds["attention bf16"],
            limit="at least 0.5",
        )


def epoch(settings: BenchmarkSettings, folder: Path, device: torch.device) -> Iterator[Line]:
    """Lightning's training epoch, fed from the store, against the same steps on batches that lie in memory."""
    for resident in ("ram", "mmap", "rotate") if device.type == "cpu" else ("gpu", "ram", "rotate"):
        data = random_data(settings, folder, resident)
        recognizer = Recognizer(attention_network(settings), CLASSES, False, Objective(), lr=1e-5)
        data.inputs = ("cube", "mean")
        repeats, limit = settings.repeats, settings.epoch_batches
        if resident == "rotate":  # only a whole epoch tells: each frame comes into memory once
            repeats, limit = min(2, repeats), len(data.train_dataloader())
        fit(data, recognizer, device, 1, limit)  # reads the store, and lays the frames where they are to lie
        data.trainer = None  # type: ignore[assignment]
        place = torch.device("cpu") if device.type == "cpu" else device
        shares = [share for _, share in zip(range(limit), data.train_dataloader(), strict=False)]
        batches = [gathered(data.transfer_batch_to_device(share, place, 0)) for share in shares]
        held = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
        taken: dict[str, list[float]] = {"store": [], "memory": []}
        for _ in range(repeats):
            taken["memory"].append(fit(held, recognizer, device, 1, limit))
            taken["store"].append(fit(data, recognizer, device, 1, limit))
        seconds = {name: float(np.median(values)) for name, values in taken.items()}
        what = f"an epoch of {limit} batches of {settings.data.batch_size} blocks from the store, resident={resident}"
        yield Line(
            what,
            "the same batches, in memory",
            str(device),
            f"{seconds['memory']:.2f} s",
            f"{seconds['store']:.2f} s",
            seconds["memory"] / seconds["store"],
            limit="at least 0.9" if resident in ("ram", "gpu") else "",
        )


def scaling(settings: BenchmarkSettings, folder: Path, device: torch.device) -> Iterator[Line]:
    """Exponents of time over frames tested and blocks trained on; efficiency of several processes."""
    network = attention_network(settings).to(device).eval()
    sizes = [settings.frames * factor for factor in (1, 2, 4)]
    frames = {size: pool_frames(features(settings, size, device), ("cube", "mean")) for size in sizes}
    works: dict[str, Work] = {
        str(size): lambda size=size: run_dense(network, frames[size], size - BLOCK_LENGTH + 1, BLOCK_LENGTH) for size in sizes
    }
    with torch.no_grad():
        seconds = medians(works, device, settings.repeats)
    blocks = [float(size - BLOCK_LENGTH + 1) for size in sizes]
    slope = exponent(blocks, list(seconds.values()))
    words = ", ".join(f"{count:.0f}: {taken:.2f} s" for count, taken in zip(blocks, seconds.values(), strict=True))
    yield Line("testing: time over blocks of a video, exponent", "1, linear", str(device), words, f"{slope:.2f}", slope)

    data = random_data(settings, folder, "ram" if device.type == "cpu" else "gpu")
    recognizer = Recognizer(attention_network(settings), CLASSES, False, Objective(), lr=1e-5)
    data.inputs = ("cube", "mean")
    fit(data, recognizer, device, 1, 1)
    counts = [settings.epoch_batches * factor for factor in (1, 2, 4)]
    took = [fit(data, recognizer, device, 1, count) for count in counts]
    slope = exponent([float(count) for count in counts], took)
    words = ", ".join(f"{count * settings.data.batch_size}: {taken:.2f} s" for count, taken in zip(counts, took, strict=True))
    yield Line("training: time over blocks, exponent", "1, linear", str(device), words, f"{slope:.2f}", slope)

    available = torch.cuda.device_count() if device.type == "cuda" else settings.processes
    if available > 1 and device.index in (None, 0):
        yield from _over_processes(settings, folder, device, [number for number in (1, 2, 4) if number <= available])


def _over_processes(settings: BenchmarkSettings, folder: Path, device: torch.device, numbers: list[int]) -> Iterator[Line]:
    """The same global batches by some numbers of processes, of one thread each: blocks a second, and the efficiency."""
    threads, rates = torch.get_num_threads(), dict[int, float]()
    torch.set_num_threads(1)
    for number in numbers:  # everything anew, for the processes get copies; in the second epoch the frames lie in place
        data = random_data(settings, folder, "ram" if device.type == "cpu" else "gpu")
        data.inputs = ("cube", "mean")
        recognizer = Recognizer(attention_network(settings), CLASSES, False, Objective(), lr=1e-5)
        seconds = fit(data, recognizer, device, number, settings.epoch_batches, epochs=2)
        rates[number] = settings.epoch_batches * settings.data.batch_size / seconds
    torch.set_num_threads(threads)
    for number, rate in rates.items():
        yield Line(
            f"training, global batches of {settings.data.batch_size} blocks over {number} processes of one thread, "
            f"{describe(settings)}: efficiency",
            f"{number} times one process",
            str(device),
            f"{number * rates[1]:.0f} blocks/s",
            f"{rate:.0f} blocks/s",
            rate / (number * rates[1]),
        )


CASES: dict[str, Callable[[BenchmarkSettings, Path, torch.device], Iterator[Line]]] = {
    "startup": startup,
    "extraction": extraction,
    "testing": testing,
    "training": training,
    "epoch": epoch,
    "scaling": scaling,
    "descriptors": descriptors,
}
SCRIPTS = sorted(
    path.name for path in Path(__file__).resolve().parents[1].glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
)
