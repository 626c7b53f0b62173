"""Timing two ways of doing the same work in one run: medians of alternating repetitions, and the peak of memory."""

from __future__ import annotations

import ctypes
import gc
import statistics as python_statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], Any]
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Line:
    """A line of the benchmark's table.

    Args:
        what: the work, with its sizes.
        against: the plain way it is compared with; empty where there is none.
        device: where it ran.
        baseline, ours: the two, in words with units.
        ratio: how many times better ours is, or what the limit speaks of.
        memory: peak memory of ours, and of the baseline, in words.
        limit: ``at least 4``, ``at most 1.6``, or empty.
    """

    what: str
    against: str
    device: str
    baseline: str
    ours: str
    ratio: float | None
    memory: str = ""
    limit: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the ratio is within the limit; None where there is none."""
        if not self.limit or self.ratio is None:
            return None
        bound = float(self.limit.split()[-1])
        return self.ratio >= bound if self.limit.startswith("at least") else self.ratio <= bound


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
