"""What the benchmark's cases work on, and how that is timed.

Networks, random features, clips, training steps and Lightning's epochs; medians of alternating repetitions, and the peak of
memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import statistics as python_statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from datamodules.base import VideoFolderDataModule
from datamodules.batches import Batch
from datamodules.blocks import BLOCK_LENGTH
from datamodules.features import FeatureSpec, FeatureStore
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.frames import Rows
from lightning_modules.objective import Objective
from lightning_modules.optim import build_optimizer
from lightning_modules.recognizer import Recognizer
from reproduce.benchmarking.settings import BenchmarkSettings

CLASSES = 11
FRAME_RATE = 30
Work = Callable[[], Any]
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def medians(works: dict[str, Work], device: torch.device, repeats: int) -> dict[str, float]:
    """Median seconds of each, run in turn ``repeats`` times after one time that does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            gc.collect()
            _wait(device)
            begun = time.perf_counter()
            work()
            _wait(device)
            if repeat:
                times[name].append(time.perf_counter() - begun)
    return {name: python_statistics.median(taken) for name, taken in times.items()}


def peak_memory(work: Work, device: torch.device) -> int | None:
    """Bytes of memory that some work needs at its peak, beyond what was there before; None where nobody tells."""
    gc.collect()
    if device.type == "cuda":
        _wait(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later must not count as there before
        CLEAR.write_text("5")  # Linux: forget the peak so far
        before = _status("VmRSS")
        work()
        return _status("VmHWM") - before
    except (OSError, AttributeError, StopIteration):
        return None


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_bytes(number: int | None) -> str:
    """``123 MiB``."""
    return "–" if number is None else f"{number / 2**20:.0f} MiB"


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """Slope of log time over log size by least squares: 1 where time grows linearly."""
    x, y = torch.tensor(sizes).double().log(), torch.tensor(seconds).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def step(network: torch.nn.Module, forward: Work, B: int, device: torch.device, bf16: bool = False) -> Work:
    """One training step of a network on a batch that ``forward`` knows; it returns the loss."""
    optimizer = build_optimizer(network.parameters(), "adam", 2e-4, (0.9, 0.999), 1e-8)
    target = torch.randint(0, CLASSES, (B,), generator=torch.Generator().manual_seed(0)).to(device)
    objective = Objective(attention_penalty=1.0)

    def work() -> torch.Tensor:
        network.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = forward()
        cost = objective(output.logits, output.attention, target, network.parameters())
        optimizer.zero_grad()
        cost.loss.backward()
        optimizer.step()
        return cost.loss.detach()

    return work


def gathered(batch: Batch) -> Batch:
    """A batch that holds its own cubes."""
    if batch.rows is None or batch.cube is None:
        return batch
    return batch._replace(cube=Rows(batch.cube, batch.rows).gather(), rows=None)


def describe(settings: BenchmarkSettings) -> str:
    """The sizes in words."""
    model = settings.model
    return f"{model.num_layers} layers, H={model.hidden_dim}, D={settings.channels}, K={settings.locations}"


def attention_network(settings: BenchmarkSettings) -> SoftAttentionLSTM:
    """The soft attention model at the benchmark's sizes."""
    model = settings.model
    return SoftAttentionLSTM(settings.locations, settings.channels, CLASSES, model.hidden_dim, model.num_layers)


def features(settings: BenchmarkSettings, frames: int, device: torch.device) -> torch.Tensor:
    """Random cubes (F, K, D) float16."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (frames, settings.locations, settings.channels)
    return torch.rand(shape, generator=generator, device=device).half()


def random_data(settings: BenchmarkSettings, folder: Path, resident: str) -> VideoFolderDataModule:
    """A data module on a store of random features: enough videos for the benchmark's epochs, placeholders for their files."""
    needed = 4 * settings.epoch_batches * settings.data.batch_size
    each = settings.frames - BLOCK_LENGTH + 1
    count = max(8, -(-needed * 2 // each))  # 15 % of train are held out, and some are test videos
    root, features_path = folder / f"videos-{count}", folder / f"features-{count}"
    names = [f"{'ab'[number % 2]}/video{number}.mp4" for number in range(count)]
    store = FeatureStore(features_path)
    if not store.exists():
        grid = (1, settings.locations)
        store.create(FeatureSpec("random", "random:0", None, 224), grid, settings.channels, {"notes": []})
        for number, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"no video")
            writer = store.writer(name)
            shape = (settings.frames, settings.locations, settings.channels)
            writer.append(np.random.default_rng(number).random(shape, dtype=np.float32))
            writer.close(fps=30.0, width=320, height=240, declared_frames=settings.frames)
        store.merge()
    budget = None
    if resident == "rotate":
        frame = settings.channels * (settings.locations * 2 + 4)
        budget = frame * settings.frames * max(5, count // 3)
    return VideoFolderDataModule(
        root,
        features_path,
        batch_size=settings.data.batch_size,
        resident=resident,
        ram_budget=budget,
        gpu_budget=budget or 2**50,
    )


class _Clock(Callback):
    """Seconds of the training batches of the last epoch, on the first process; kept in a file, for it may be another one."""

    def __init__(self, path: Path) -> None:
        self.path, self.begun = path, 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        self.begun = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the seconds."""
        if trainer.is_global_zero:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            self.path.write_text(str(time.perf_counter() - self.begun))


def fit(data: Any, recognizer: Recognizer, device: torch.device, devices: int, batches: int, epochs: int = 1) -> float:
    """Epochs of some batches by Lightning; returns the last one's seconds, start and end of the Trainer left out."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        clock = Path(folder) / "seconds"
        trainer = Trainer(
            accelerator=accelerator(device),
            devices=devices if devices > 1 or device.type == "cpu" else [device.index or 0],
            strategy="ddp_spawn" if devices > 1 else "auto",
            max_epochs=epochs,
            limit_train_batches=batches,
            limit_val_batches=0,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[_Clock(clock)],
        )
        if isinstance(data, DataLoader):
            trainer.fit(recognizer, train_dataloaders=data)
        else:
            trainer.fit(recognizer, datamodule=data)
        return float(clock.read_text())


def accelerator(device: torch.device) -> str:
    """Lightning's word for a device."""
    return "gpu" if device.type == "cuda" else "cpu"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress of what is measured."""
    with contextlib.redirect_stdout(StringIO()):
        yield


def encode_clip(path: Path, frames: int, seed: int) -> None:
    """An MPEG-4 clip of 320x240 pixels: a textured picture that drifts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 800_000
        for t in range(frames):
            image = np.kron(np.roll(picture, (t // 2, t // 3), (0, 1)), np.ones((8, 8, 1), dtype=np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def flops_of(network: torch.nn.Module, frame: torch.Tensor) -> float:
    """Operations of one frame, two for a multiplication with its addition."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(frame)
    return float(counter.get_total_flops())


def matrix_rate(device: torch.device, size: int = 8192) -> float:
    """Operations a second of a large half-precision matrix product on a GPU."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.float16) for _ in range(2))
    return 2 * size**3 / medians({"product": lambda: a @ b}, device, 10)["product"]
