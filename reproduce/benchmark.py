"""How fast the suite is: ratios of two ways of doing the same work, in one run, on the CPU and on every visible GPU.

    python reproduce/benchmark.py
    python reproduce/benchmark.py cases=[training,testing] data.batch_size=128 model.hidden_dim=1024
    python reproduce/benchmark.py scale=hmdb51

Prints a table and writes results/benchmark.{md,csv}. With scale=, it rehearses Table 1's column on random features of the
data set's true sizes and says how many hours the column takes on this machine. reproduce/benchmarks.md keeps results.
"""

from __future__ import annotations

import csv
import platform
import sys
import tempfile
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from reproduce.common.cli import command_line, fail, resolve
from reproduce.common.processes import cores
from reproduce.common.settings import DataSettings, Settings, SettingsError

if TYPE_CHECKING:
    from reproduce.benchmarking.measure import Line

ALL_CASES = ("startup", "extraction", "testing", "training", "epoch", "scaling")
SCALES = ("ucf11", "hmdb51")
COLUMNS = ("what", "against", "device", "baseline", "ours", "ratio", "peak memory", "limit", "reached")


@dataclass
class BenchmarkSettings(Settings):
    """Settings of benchmark.py: those of a run, as far as they speak of sizes, and these."""

    data: DataSettings = field(default_factory=lambda: DataSettings(batch_size=64))
    cases: list[str] = field(default_factory=lambda: list(ALL_CASES))
    """what to measure: startup, extraction, testing, training, epoch, scaling"""
    scale: Optional[str] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """rehearse a column of Table 1 at a data set's true size instead: ucf11 or hmdb51"""
    repeats: int = 5
    """repetitions, of which the median counts"""
    frames: int = 200
    """of a video"""
    locations: int = 49
    """K"""
    channels: int = 1024
    """D"""
    clips: int = 8
    """videos that features are extracted of"""
    clip_frames: int = 100
    """frames of each of them"""
    plain_clips: int = 1
    """of these, the videos that the plain way does, for it is slow"""
    epoch_batches: int = 4
    """batches of the epoch from the store"""
    processes: int = field(default_factory=lambda: min(2, cores()))
    """most processes on the CPU for the scaling over devices"""
    steps: int = 5
    """training steps and test videos that a rehearsal measures of each row"""


def main(argv: list[str] | None = None) -> list[Line]:
    """Measure; returns the table's lines."""
    settings = command_line(BenchmarkSettings, __doc__ or "", argv)
    words = sys.argv[1:] if argv is None else argv
    try:
        _check(settings)
        if settings.scale:
            _take_papers_sizes(settings, words)
    except SettingsError as error:
        raise fail(error) from None
    import torch

    from reproduce.benchmarking.cases import CASES
    from reproduce.benchmarking.scale import rehearse
    from reproduce.systems.trainer import quiet_lightning

    quiet_lightning()
    torch.set_num_threads(settings.trainer.threads or cores())
    devices = [torch.device("cpu")]
    if settings.trainer.accelerator != "cpu":
        devices += [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if settings.trainer.accelerator == "gpu":
        devices = devices[1:]
    print(machine(), flush=True)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for device in devices:
            if settings.scale:
                lines += _shown(rehearse(settings, device))
                continue
            for case in settings.cases:
                if case != "startup" or device == devices[0]:
                    lines += _shown(CASES[case](settings, Path(folder), device))
    results = Path(settings.paths.results).expanduser()
    from datamodules.features import write_atomically

    write_atomically(results / "benchmark.md", to_markdown(lines))
    write_atomically(results / "benchmark.csv", to_csv(lines))
    print(f"written: {results.resolve() / 'benchmark'}.md, .csv", flush=True)
    return lines


def _check(settings: BenchmarkSettings) -> None:
    for case in settings.cases:
        if case not in ALL_CASES:
            raise SettingsError(f"cases: {case} is none of {', '.join(ALL_CASES)}")
    if settings.scale not in (None, *SCALES):
        raise SettingsError(f"scale={settings.scale}: choose from {', '.join(SCALES)}")
    for key in ("repeats", "locations", "channels", "clips", "clip_frames", "plain_clips", "epoch_batches", "steps"):
        if getattr(settings, key) < 1:
            raise SettingsError(f"{key}={getattr(settings, key)}: must be at least 1")
    if settings.frames < 31:
        raise SettingsError(f"frames={settings.frames}: must be at least 31, for more than one block")


def _take_papers_sizes(settings: BenchmarkSettings, words: list[str]) -> None:
    """A rehearsal's batch and width are the paper's for that data set, unless the command line has others."""
    paper = resolve(Settings, [f"data.name={settings.scale}"])
    given = {word.partition("=")[0] for word in words}
    if "data.batch_size" not in given:
        settings.data.batch_size = paper.data.batch_size
    if "model.hidden_dim" not in given:
        settings.model.hidden_dim = paper.model.hidden_dim


def _shown(lines) -> list[Line]:
    """Lines, each printed as it comes."""
    found = []
    for line in lines:
        found.append(line)
        bound = f", {line.limit}: {'reached' if line.reached else 'MISSED'}" if line.limit else ""
        memory = f", memory {line.memory}" if line.memory else ""
        against = f" against {line.baseline} ({line.against})" if line.against else ""
        print(f"[{line.device}] {line.what}: {line.ours}{against}: {_number(line.ratio)}{bound}{memory}", flush=True)
    return found


def _number(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"


def _cells(line: Line) -> list[str]:
    reached = "" if line.reached is None else "yes" if line.reached else "NO"
    return [
        line.what,
        line.against,
        line.device,
        line.baseline,
        line.ours,
        _number(line.ratio),
        line.memory,
        line.limit,
        reached,
    ]


def machine() -> str:
    """The machine and the versions, in a line."""
    import torch

    model = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        names = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{cores()} cores of {model}; {', '.join(gpus) or 'no GPU'}; {versions}"


def to_markdown(lines: list[Line]) -> str:
    """The table for a page."""
    rows = [list(COLUMNS), ["---"] * len(COLUMNS), *(_cells(line) for line in lines)]
    return "\n".join([machine(), "", *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def to_csv(lines: list[Line]) -> str:
    """The table for a program."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, "machine"])
    writer.writerows([*_cells(line), machine()] for line in lines)
    return text.getvalue()


if __name__ == "__main__":
    main()
    sys.exit(0)
