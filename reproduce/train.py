"""Train and test one configuration by the paper's protocol; write its run folder.

    python reproduce/train.py data.name=ucf11 row=soft_attention_1
    python reproduce/train.py preset=[released,miniature] data.name=hmdb51 data.split=2
    python reproduce/train.py data.name=videofolder data.folder=my_videos model.num_layers=1

A finished run is found and reused, an interrupted one goes on from its last whole epoch, to the same figures. SIGTERM ends
it after the batch at hand, with status 143. The last line printed is the path of the run folder.
"""

from __future__ import annotations

import sys

import numpy as np

from datamodules.videos import DataError
from reproduce.common.catalogue import SYSTEMS
from reproduce.common.cli import command_line, fail
from reproduce.common.dataset import read_annotation
from reproduce.common.processes import leaving_on_sigterm
from reproduce.common.settings import Settings, SettingsError
from reproduce.evaluation import notes
from reproduce.experiments import tracking
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import run_folder
from reproduce.systems.base import System, run_system


def main(argv: list[str] | None = None) -> RunFolder:
    """Run one configuration; returns its folder."""
    settings = command_line(Settings, __doc__ or "", argv)
    try:
        annotation = read_annotation(settings)
        folder = run_folder(settings, annotation)
        metrics = folder.metrics()
    except (DataError, SettingsError, OSError) as error:
        raise fail(error) from error
    if metrics is None:
        print("".join(f"{annotation.data}: {remark}\n" for remark in annotation.remarks), end="", flush=True)
        tracking.configure()
        try:
            with leaving_on_sigterm():
                metrics = run_system(settings, annotation, folder, draw if SYSTEMS[settings.model.name].stores else None)
        except (DataError, SettingsError, FloatingPointError) as error:
            raise fail(error) from error
        except OSError as error:
            what = f"cannot write the run to {folder.path.resolve()} ({error}); make room or set paths.runs, and run it again"
            raise fail(DataError(what)) from error
    else:
        print("finished before; remove the run folder to run it again")
        tracking.report(settings, folder)
    kinds = ("test/", "cv/") if settings.data.fold is None or "cv/score" in metrics else ("val/",)
    for name, value in metrics.items():
        if name.startswith(kinds):
            print(f"{name} {value:.4f}")
    attention = notes.sentence(metrics)
    if attention:
        print(attention)
    print(folder.path.resolve(), flush=True)
    return folder


def draw(folder: RunFolder, system: System, predicted: np.ndarray) -> dict[str, str]:
    """Leave filmstrips and recordings of a tested network in its folder, see ``visual.recordings.draw``."""
    from reproduce.visual import recordings

    return recordings.draw(folder, system, predicted)


if __name__ == "__main__":
    main()
    sys.exit(0)
