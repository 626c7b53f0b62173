"""How fast the suite is: ratios of two ways of doing the same work, in one run, on the CPU and on every visible GPU.

    python reproduce/benchmark.py device_check=true
    python reproduce/benchmark.py
    python reproduce/benchmark.py cases=[training,testing] data.batch_size=128 model.hidden_dim=1024
    python reproduce/benchmark.py scale=hmdb51

Prints a table and writes results/benchmark.{md,csv}. With scale=, it rehearses Table 1's column on random features of the
data set's true sizes and says how many hours the column takes on this machine. reproduce/benchmarking/README.md keeps results.
With device_check=true, it compares the first GPU with the CPU, and measures it: results/device_check.{md,csv}.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.files import write_atomically
from reproduce.benchmarking.settings import BenchmarkSettings, check, in_small, take_papers_sizes
from reproduce.common.cli import command_line, fail
from reproduce.common.processes import cores
from reproduce.common.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reproduce.benchmarking.lines import Line


def main(argv: list[str] | None = None) -> list[Line]:
    """Measure; returns the table's lines. Where a comparison of devices fails, it exits with 1."""
    settings = command_line(BenchmarkSettings, __doc__ or "", argv)
    words = sys.argv[1:] if argv is None else argv
    try:
        check(settings)
        if settings.scale:
            take_papers_sizes(settings, words)
        if settings.device_check and settings.trainer.accelerator == "cpu":
            settings = in_small(settings, words)
    except SettingsError as error:
        raise fail(error) from None
    import torch

    from reproduce.benchmarking.device_check import check_device, checked_device
    from reproduce.benchmarking.lines import machine, to_csv, to_markdown
    from reproduce.systems.trainer import quiet_lightning

    quiet_lightning()
    torch.set_num_threads(settings.trainer.threads or cores())
    try:
        measured = check_device(settings, checked_device(settings)) if settings.device_check else _measured(settings)
    except SettingsError as error:
        raise fail(error) from None
    print(machine(), flush=True)
    lines: list[Line] = []
    for line in measured:
        print(line, flush=True)
        lines.append(line)
    results, name = Path(settings.paths.results).expanduser(), "device_check" if settings.device_check else "benchmark"
    write_atomically(results / f"{name}.md", to_markdown(lines))
    write_atomically(results / f"{name}.csv", to_csv(lines))
    print(f"written: {results.resolve() / name}.md, .csv", flush=True)
    failed = [f"\n  {line}" for line in lines if settings.device_check and line.reached is False]
    if failed:
        raise fail(RuntimeError(f"device_check=true: {len(failed)} of {len(lines)} lines failed:{''.join(failed)}"))
    return lines


def _measured(settings: BenchmarkSettings) -> Iterator[Line]:
    """The lines of all cases, or of a rehearsal, on each device."""
    import torch

    from reproduce.benchmarking.cases import CASES
    from reproduce.benchmarking.scale import rehearse

    devices = [torch.device("cpu")]
    if settings.trainer.accelerator != "cpu":
        devices += [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if settings.trainer.accelerator == "gpu":
        devices = devices[1:]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for device in devices:
            if settings.scale:
                yield from rehearse(settings, device)
                continue
            for case in settings.cases:
                if case != "startup" or device == devices[0]:
                    yield from CASES[case](settings, Path(folder), device)


if __name__ == "__main__":
    main()
    sys.exit(0)
