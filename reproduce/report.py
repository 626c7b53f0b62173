"""One HTML file about all finished runs: tables, attention, curves, classes, confusions, settings, what ran.

    python reproduce/report.py
    python reproduce/report.py paths.runs=/scratch/runs datasets=[hmdb51]

Reads the run folders below paths.runs and writes results/report.html, which needs no network and no server: open it in
a browser, send it, or publish it. Trains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from datamodules.files import write_atomically
from datamodules.videos import DataError
from reproduce.common.cli import command_line, fail
from reproduce.evaluation.collection import read
from reproduce.webreport.overview import report_page


@dataclass
class ReportPaths:
    """Where things lie; relative paths start at the working directory."""

    runs: str = "runs"
    """run folders, <data set>/<row or model>-<hash of the configuration>/"""
    results: str = "results"
    """receives report.html"""


@dataclass
class ReportSettings:
    """Settings of report.py."""

    datasets: list[str] = field(default_factory=list)
    """folders of paths.runs to show, such as ucf11; all if empty"""
    paths: ReportPaths = field(default_factory=ReportPaths)


def main(argv: list[str] | None = None) -> Path:
    """Write the report; returns its path."""
    settings = command_line(ReportSettings, __doc__ or "", argv)
    root = Path(settings.paths.runs).expanduser()
    target = Path(settings.paths.results).expanduser() / "report.html"
    try:
        sets, problems = read(root, settings.datasets)
        if not sets:
            listed = "".join(f"\n    {problem}" for problem in problems)
            raise DataError(
                f"no finished run below {root.resolve()}{listed}\n"
                "Say where your runs lie with paths.runs=<folder>, or make some:\n"
                "    python reproduce/table1.py preset=miniature"
            )
        print(f"making a report of {sum(len(data.runs) for data in sets)} runs below {root.resolve()}", flush=True)
        write_atomically(target, report_page(sets, problems))
    except DataError as error:
        raise fail(error) from None
    except OSError as error:
        raise fail(DataError(f"cannot write {target.resolve()} ({error}); set paths.results")) from None
    print(f"written: {target.resolve()}")
    return target


if __name__ == "__main__":
    main()
