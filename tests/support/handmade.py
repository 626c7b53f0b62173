"""Feature stores written by hand, whose every value is known, and what the protocol says of their frames."""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from datamodules.base import VideoDataModule, VideoFolderDataModule
from datamodules.batches import Batch, DenseBatch
from datamodules.blocks import num_blocks
from datamodules.features import FeatureSpec, FeatureStore

SPEC = FeatureSpec("googlenet", "random:0", None, 224)
GRID, CHANNELS = (2, 3), 4
CPU = torch.device("cpu")
INPUTS = ("cube", "mean", "max")


@functools.cache
def features_of(name: str, frames: int) -> np.ndarray:
    """(F, K, D) float16; no two frames of any videos are alike."""
    seed = list(name.encode())
    return np.random.default_rng(seed).normal(size=(frames, GRID[0] * GRID[1], CHANNELS)).astype(np.float16)


def inputs_of(name: str, frames: int) -> dict[str, np.ndarray]:
    """What a network may ask of each frame, by its definition."""
    cube = features_of(name, frames)
    single = cube.astype(np.float32)
    return {"cube": cube, "mean": single.mean(axis=1), "max": single.max(axis=1)}


def put(path: Path, content: str | bytes) -> Path:
    """A file with that content, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def fill(path: Path, lengths: dict[str, int]) -> FeatureStore:
    """A finished store of some videos, name -> frames."""
    store = FeatureStore(path)
    store.create(SPEC, GRID, CHANNELS, {"notes": []})
    for name, frames in lengths.items():
        writer = store.writer(name)
        writer.append(features_of(name, frames))
        writer.close(fps=30.0, width=64, height=48, declared_frames=frames)
    store.merge()
    return store


# a videofolder and what a data module gives of it


LENGTHS = (1, 19, 30, 31, 34, 42, 153)
ROWS = [
    (f"{name}/{side}{n}.mp4", name, f"{side} source {n // 2}", side)
    for name in ("jump", "run", "walk")
    for side, number in (("train", 12), ("test", 4))
    for n in range(number)
]
"""Three classes of twelve train and four test videos; a source gives two videos of each class."""
FRAMES = {row[0]: LENGTHS[n % len(LENGTHS)] for n, row in enumerate(ROWS)}


def lay_out(root: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """Placeholders and a list; the data module never decodes."""
    for path, *_ in rows:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    with (root / "videos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "class", "group", "split"), *rows])
    return root


def stage(which: str, rank: int = 0, world_size: int = 1, epoch: int = 0, **more) -> SimpleNamespace:
    """What the data module asks a Trainer."""
    return SimpleNamespace(
        training=which == "train",
        testing=which == "test",
        global_rank=rank,
        world_size=world_size,
        current_epoch=epoch,
        global_step=0,
        **more,
    )


def batches(data: VideoDataModule, which: str, **trainer) -> list:
    """All batches of an epoch of a set on one rank."""
    data.trainer = stage(which, **trainer)
    loader = getattr(data, f"{which}_dataloader")()
    data.trainer.global_step = data.trainer.current_epoch * len(loader)
    return [transferred(data, share) for share in loader]


def transferred(data: VideoDataModule, share):
    """A batch on the CPU, its cubes gathered where they come by reference."""
    batch = data.transfer_batch_to_device(share, CPU, 0)
    if isinstance(batch, Batch) and batch.rows is not None:
        return batch._replace(cube=batch.cube[batch.rows], rows=None)
    return batch


def module(root: Path, features: Path, **settings) -> VideoFolderDataModule:
    return VideoFolderDataModule(root, features, **{"batch_size": 16, "resident": "ram", **settings})


def dense_blocks(batch: DenseBatch, frames: torch.Tensor) -> torch.Tensor:
    """(n, …) frames of a dense batch -> (N, T, …), by what it says of itself."""
    return frames[torch.arange(batch.blocks)[:, None] * batch.stride + torch.arange(batch.steps) * batch.skip]


def blocks_of(found: list, kind: str = "cube") -> list[bytes]:
    """One input of every block of some batches, in their order; not those of weight 0."""
    parts = []
    for batch in found:
        blocks = getattr(batch, kind)
        blocks = dense_blocks(batch, blocks) if isinstance(batch, DenseBatch) else blocks[batch.weight > 0]
        parts += [block.tobytes() for block in blocks.numpy()]
    return parts


def naive_block(name: str, start: int, skip: int, kind: str = "cube") -> np.ndarray:
    """(T, …) by protocol §4, the last frame repeated."""
    frames = inputs_of(name, FRAMES[name])[kind]
    picked = list(range(start, FRAMES[name], skip))[:30]
    return frames[picked + [picked[-1]] * (30 - len(picked))]


def naive_blocks(names: list[str], skip: int = 1, stride: int = 1, kind: str = "cube") -> list[bytes]:
    """Every block of some videos, in order."""
    return [
        naive_block(name, number * stride, skip, kind).tobytes()
        for name in names
        for number in range(num_blocks(FRAMES[name], skip, stride))
    ]
