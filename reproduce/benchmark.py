"""How fast the suite is: ratios of two ways of doing the same work, in one run, on the CPU and on every visible GPU.

    python reproduce/benchmark.py
    python reproduce/benchmark.py cases=[training,testing] data.batch_size=128 model.hidden_dim=1024
    python reproduce/benchmark.py scale=hmdb51

Prints a table and writes results/benchmark.{md,csv}. With scale=, it rehearses Table 1's column on random features of the
data set's true sizes and says how many hours the column takes on this machine. reproduce/benchmarking/README.md keeps results.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.files import write_atomically
from reproduce.benchmarking.settings import BenchmarkSettings, check, take_papers_sizes
from reproduce.common.cli import command_line, fail
from reproduce.common.processes import cores
from reproduce.common.settings import SettingsError

if TYPE_CHECKING:
    from reproduce.benchmarking.lines import Line


def main(argv: list[str] | None = None) -> list[Line]:
    """Measure; returns the table's lines."""
    settings = command_line(BenchmarkSettings, __doc__ or "", argv)
    words = sys.argv[1:] if argv is None else argv
    try:
        check(settings)
        if settings.scale:
            take_papers_sizes(settings, words)
    except SettingsError as error:
        raise fail(error) from None
    import torch

    from reproduce.benchmarking.cases import CASES
    from reproduce.benchmarking.lines import machine, to_csv, to_markdown
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
            cases = [case for case in settings.cases if case != "startup" or device == devices[0]]
            measured = [CASES[case](settings, Path(folder), device) for case in cases]
            for line in rehearse(settings, device) if settings.scale else (line for case in measured for line in case):
                print(line, flush=True)
                lines.append(line)
    results = Path(settings.paths.results).expanduser()
    write_atomically(results / "benchmark.md", to_markdown(lines))
    write_atomically(results / "benchmark.csv", to_csv(lines))
    print(f"written: {results.resolve() / 'benchmark'}.md, .csv", flush=True)
    return lines


if __name__ == "__main__":
    main()
    sys.exit(0)
