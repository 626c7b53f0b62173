"""One HTML file about all finished runs: tables, where they look, curves, classes, confusions, settings, what ran.

    python reproduce/report.py
    python reproduce/report.py paths.runs=/scratch/runs datasets=[hmdb51]

Reads the run folders below paths.runs and writes results/report.html, which needs no network and no server: open it in
a browser, send it, or publish it. Trains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.files import write_atomically
from datamodules.videos import DataError
from reproduce.common.cli import command_line, fail
from reproduce.evaluation.collection import read
from reproduce.webreport.charts import markers
from reproduce.webreport.html import join, page, tag
from reproduce.webreport.overview import TITLE, header, table_1, table_2, what_ran
from reproduce.webreport.sections import data_set


@dataclass
class ReportPaths:
    """Where things lie; relative paths start at the working directory."""

    runs: str = "runs"
    """run folders, <data set>/<model>-<hash of the configuration>/"""
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
            raise DataError(
                f"no finished run below {root.resolve()}{_listed(problems)}\n"
                "Say where your runs lie with paths.runs=<folder>, or make some:\n"
                "    python reproduce/table1.py preset=miniature"
            )
        print(f"making a report of {sum(len(data.runs) for data in sets)} runs below {root.resolve()}", flush=True)
        store: dict[str, Any] = {}
        clips: dict[str, Any] = {}
        tables = [section for section in (table_1(sets), table_2(sets)) if section]
        sections = [*tables, *(data_set(data, store, clips) for data in sets), what_ran(sets)]
        footer = tag("footer", tag("p", "Written by ", tag("code", "python reproduce/report.py"), "."))
        top = join([markers(), header(sets, problems)])
        write_atomically(target, page(f"Report: {TITLE}", top, sections, footer, store, clips))
    except DataError as error:
        raise fail(error) from None
    except OSError as error:
        raise fail(DataError(f"cannot write {target.resolve()} ({error}); set paths.results")) from None
    print(f"written: {target.resolve()}")
    return target


def _listed(problems: list[str]) -> str:
    return "".join(f"\n    {problem}" for problem in problems)


if __name__ == "__main__":
    main()
