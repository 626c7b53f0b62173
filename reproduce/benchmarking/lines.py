"""The benchmark's table: its lines with their limits, printed, as Markdown and as CSV."""

from __future__ import annotations

import csv
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from reproduce.common.processes import cores
from reproduce.experiments.provenance import cpu_name

COLUMNS = ("what", "against", "device", "baseline", "ours", "ratio", "peak memory", "limit", "reached")


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

    def __str__(self) -> str:
        bound = f", {self.limit}: {'reached' if self.reached else 'MISSED'}" if self.limit else ""
        memory = f", memory {self.memory}" if self.memory else ""
        against = f" against {self.baseline} ({self.against})" if self.against else ""
        return f"[{self.device}] {self.what}: {self.ours}{against}: {_number(self.ratio)}{bound}{memory}"


def to_markdown(lines: Sequence[Line]) -> str:
    """The table for a page."""
    rows = [list(COLUMNS), ["---"] * len(COLUMNS), *(_cells(line) for line in lines)]
    return "\n".join([machine(), "", *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def to_csv(lines: Sequence[Line]) -> str:
    """The table for a program."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, "machine"])
    writer.writerows([*_cells(line), machine()] for line in lines)
    return text.getvalue()


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


def _number(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    return f"{ratio:.1e}" if 0 < ratio < 0.005 else f"{ratio:.2f}"


def machine() -> str:
    """The machine and the versions, in a line."""
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{cores()} cores of {cpu_name()}; {', '.join(gpus) or 'no GPU'}; {versions}"
