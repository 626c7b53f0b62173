"""Run a sweep file here, without a server: one run on each GPU, or some at a time on the CPU.

    python reproduce/sweep.py sweeps/table1.yaml workers=4
    python reproduce/sweep.py sweeps/layers.yaml data.name=hmdb51 preset=miniature
    python reproduce/sweep.py sweeps/cross_validation.yaml count=50 paths.data=/data

The file is W&B's: grid and random give the points that W&B gives; bayes and early_terminate go through Optuna
(pip install -e '.[sweep]'), which proposes other points than W&B's Gaussian process would (see experiments/search.py). Every
key=value goes to all runs; one that the file varies is fixed by it. Finished runs are reused, so that the same command goes
on after a kill. Writes results/sweep_<name>.csv and prints the best point.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Optional

from datamodules.videos import DataError
from reproduce.common.cli import command_line, fail, resolve
from reproduce.common.fields import ranged
from reproduce.common.settings import Settings, SettingsError
from reproduce.experiments.scheduler import exit_if_failed
from reproduce.experiments.sweep_runner import SweepRun, Trial, read


@dataclass
class SweepSettings(Settings):
    """Settings of sweep.py: those of a run, and how to go through the file."""

    sweep: Optional[str] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """the sweep file; a word without = stands for it"""
    workers: Optional[int] = ranged(None, 1)  # noqa: UP045
    """runs at a time; null for one on each trainer.devices GPUs, or one a core, up to 8, where there is no GPU"""
    count: Optional[int] = ranged(None, 1)  # noqa: UP045
    """points in all, for random and bayes; null for the file's run_cap"""
    draw_seed: int = 0
    """of the points that random and bayes draw"""


OWN_KEYS = ("sweep", "workers", "count", "draw_seed")


def main(argv: list[str] | None = None) -> list[Trial]:
    """Run a sweep; returns its trials."""
    argv = sys.argv[1:] if argv is None else argv
    argv = [word if "=" in word or word.startswith("-") or word == "help" else f"sweep={word}" for word in argv]
    settings = command_line(SweepSettings, __doc__ or "", argv)
    words = [word for word in argv if word.partition("=")[0] not in OWN_KEYS]
    try:
        sweep = read(settings.sweep, words)
        settings = resolve(SweepSettings, [*sweep.words, *argv])
        run = SweepRun(sweep, settings, words, settings.workers, settings.count, settings.draw_seed)
        failures = run.run()
        run.say_best()
        print(run.write().resolve(), flush=True)
    except (DataError, SettingsError, OSError) as error:
        raise fail(error) from None
    exit_if_failed(failures)
    return run.trials


if __name__ == "__main__":
    main()
