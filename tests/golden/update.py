"""The golden losses: four tiny trainings by the whole protocol, whose every epoch's figures are committed.

    python tests/golden/update.py                 # after a change that is meant to alter results: writes losses.csv
    python tests/golden/update.py /tmp/now.csv    # the same figures elsewhere, to compare by eye
    python tests/golden/update.py /tmp/now.csv model.fast=false    # the same under other settings

Features are computed from integers alone and no video is decoded, so that the figures depend on nothing but the suite,
torch and the CPU. Commit the new losses.csv together with the change, and say in its message why results altered.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parent / "losses.csv"
sys.path.insert(0, str(GOLDEN.parents[2]))  # the repository

RUNS = {
    "softmax_regression": ["row=softmax_regression"],
    "avg_pool_lstm": ["row=avg_pool_lstm"],
    "soft_attention": ["row=soft_attention_1"],
    "released": ["preset=released", "row=soft_attention_0", "model.attention_layers=1", "optim.lr=0.005"],
}
SHARED = ["data.name=videofolder", "data.folder=tiny", "backbone.weights=random", "logging.wandb=disabled", "data.batch_size=4"]
SHARED += ["model.hidden_dim=8", "trainer.max_epochs=6", "trainer.threads=1", "trainer.accelerator=cpu"]
SHARED += ["backbone.name=googlenet"]
LR = ["optim.lr=0.03"]  # of those that do not say: large enough for a curve in six epochs
COLUMNS = ["run", "stage", "epoch", "train/loss", "train/cross_entropy", "attention/penalty", "val/accuracy", "val/mAP"]
GRID, CHANNELS = (2, 3), 5
FRAMES = (31, 12, 34, 30, 33)  # in turn; 12 is padded


def integers(seed: int, count: int) -> np.ndarray:
    """Numbers from 0 to 255 that look random, by a linear congruence: the same under every version of NumPy."""
    state, found = seed * 2_654_435_761 % 2**32, np.empty(count, dtype=np.int64)
    for position in range(count):
        state = (state * 1_664_525 + 1_013_904_223) % 2**32
        found[position] = state >> 24
    return found


def lay_out(root: Path) -> None:
    """Videos that are names alone, and their features: a class's own channel is brighter in a cell that wanders."""
    from datamodules.features import FeatureSpec, FeatureStore

    names = [(f"class{label}/{number}.mp4", label, number) for label in range(3) for number in range(6)]
    rows = ["path,class,group,split"]
    store = FeatureStore(root / "features/tiny/googlenet-random")
    store.create(FeatureSpec("googlenet", "random:0", None, 224), GRID, CHANNELS, {"notes": []})
    for position, (name, label, number) in enumerate(names):
        path = root / "data/tiny" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        rows.append(f"{name},class{label},{name},{'test' if number > 4 else 'train'}")
        frames, cells = FRAMES[position % len(FRAMES)], GRID[0] * GRID[1]
        cube = (
            integers(position + 1, frames * cells * CHANNELS).reshape(frames, cells, CHANNELS) / 256
        )  # exact in half precision
        cube[np.arange(frames), (np.arange(frames) // 5 + number) % cells, label] += 0.75
        writer = store.writer(name)
        writer.append(cube.astype(np.float16))
        writer.close(fps=30.0, width=64, height=48, declared_frames=frames)
    store.merge()
    (root / "data/tiny/videos.csv").write_text("\n".join(rows) + "\n")


def made_on() -> str:
    """What the last bits may depend on: torch's version, the instructions it uses, the processor."""
    import torch

    from reproduce.experiments.provenance import cpu_name

    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {cpu_name()}"


def curves(root: Path, others: list[str]) -> list[dict[str, str]]:
    """Train and test all runs below a folder, under other settings; every epoch's figures as written to the last bit."""
    from reproduce.common.cli import resolve
    from reproduce.common.dataset import read_annotation
    from reproduce.common.settings import Settings
    from reproduce.experiments.identity import run_folder
    from reproduce.systems.base import run_system

    lay_out(root)
    paths = [f"paths.{name}={root / name}" for name in ("data", "features", "runs")]
    found = []
    for run, words in RUNS.items():
        lr = [] if any(word.startswith("optim.lr") for word in words) else LR
        settings = resolve(Settings, [*SHARED, *paths, *words, *lr, *others])
        annotation = read_annotation(settings)
        folder = run_folder(settings, annotation)
        metrics = run_system(settings, annotation, folder)
        with folder.history.open(newline="") as file:
            found += [{column: {"run": run, **row}.get(column, "") for column in COLUMNS} for row in csv.DictReader(file)]
        last = {"run": run, "stage": "test", "val/accuracy": metrics["test/accuracy"], "val/mAP": metrics["test/mAP"]}
        found.append({column: str(last.get(column, "")) for column in COLUMNS})
    return found


def read(path: Path) -> tuple[str, list[dict[str, str]]]:
    """What a file was made on, and its rows."""
    with path.open(newline="", encoding="utf-8") as file:
        head = file.readline().removeprefix("# ").strip()
        return head, list(csv.DictReader(file))


def main(path: Path, others: list[str]) -> None:
    """Write the figures of this checkout on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        rows = curves(Path(folder), others)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# {made_on()}\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"written: {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN, sys.argv[2:])
