"""Finished runs, what they predicted and their histories as tidy DataFrames, for notebooks.

from reproduce.evaluation import load_history, load_predictions, load_runs

runs = load_runs("runs")
runs.groupby(["data", "row"])["accuracy"].agg(["mean", "std", "size"])
load_predictions(runs[runs["data"] == "hmdb51"]).query("target != prediction")
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.videos import DataError
from reproduce.common.catalogue import row_of
from reproduce.evaluation.collection import read
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.history import History

Runs = str | Path | RunFolder | pd.DataFrame | Iterable[str | Path | RunFolder]
"""A run's folder, several, or a frame with a column ``folder`` as ``load_runs`` makes it."""


def load_runs(root: str | Path = "runs") -> pd.DataFrame:
    """Every finished run below a folder, a row each.

    Args:
        root: as in ``paths.runs``.

    Returns:
        ``data``, ``split``, ``row``, ``seed``, ``accuracy`` and ``mAP`` (fractions, nan where the run has none), ``seconds``,
        ``folder``, and each setting that a result depends on by its dotted key, nan where a system has no such setting.

    Raises:
        DataError: a file of a run is damaged.
    """
    sets, _ = read(Path(root).expanduser())
    first = ["data", "split", "row", "seed", "accuracy", "mAP", "seconds", "folder"]
    records = []
    for run in (run for data in sets for run in data.runs):
        figures = [run.metrics.get(key, np.nan) for key in ("test/accuracy", "test/mAP", "seconds")]
        path = run.folder.path
        start = [path.parent.name, run.about["split"], row_of(run.settings), run.settings["seed"], *figures, str(path)]
        records.append(dict(zip(first, start, strict=True)) | {key: run.settings[key] for key in run.settings if key != "seed"})
    return pd.DataFrame(records, columns=list(dict.fromkeys([*first, *(key for record in records for key in record)])))


def load_predictions(runs: Runs) -> pd.DataFrame:
    """What runs predicted, a row for each video and class.

    Args:
        runs: one or several.

    Returns:
        ``run`` (data set and folder), ``video``, ``target`` and ``prediction`` (several labels joined by ``|``), ``class``,
        ``score``.

    Raises:
        DataError: a run has no such file, or it is malformed; names the line.
    """
    frames = []
    for folder in _folders(runs):
        found = folder.predictions()
        classes = np.asarray(found.classes, dtype=object)
        target = ["|".join(classes[hot]) for hot in found.target]
        columns = {"video": found.videos, "target": target, "prediction": found.predicted}
        repeated = {name: np.repeat(np.asarray(values, dtype=object), len(classes)) for name, values in columns.items()}
        last = {"class": np.tile(classes, len(found.videos)), "score": found.scores.ravel()}
        frames.append(pd.DataFrame({"run": folder.name, **repeated, **last}))
    return pd.concat(frames, ignore_index=True)


def load_history(runs: Runs) -> pd.DataFrame:
    """The figures of every epoch, a row each: ``run``, ``stage``, ``epoch`` and what was measured.

    Args:
        runs: one or several.

    Raises:
        DataError: a file is damaged; names the line.
    """
    records = [{"run": one.name, **row} for one in _folders(runs) for row in History(one.history).epochs()]
    return pd.DataFrame(records, columns=None if records else ["run", "stage", "epoch"])


def _folders(runs: Runs) -> list[RunFolder]:
    if isinstance(runs, pd.DataFrame):
        runs = runs["folder"].tolist()
    several = [runs] if isinstance(runs, (str, Path, RunFolder)) else runs
    found = [one if isinstance(one, RunFolder) else RunFolder(Path(one).expanduser()) for one in several]
    if not found:
        raise DataError("no run is named; load_runs finds all below a folder")
    return found
