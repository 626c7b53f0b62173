"""The miniature table, killed at 20 seeded points and started again each time, equals the undisturbed one."""

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY

from datamodules.features import FeatureStore

SEED = 2015
KILLS = {"drawing": 6, "extraction": 6, "training": 4, "test": 2, "table": 2}  # by phase; 20 in all
OWN = ("preset", "data.name", "data.folder", "data.batch_size")
WORDS = [word for word in TINY if word.partition("=")[0] not in OWN]
WORDS += ["preset=miniature", "datasets=[hollywood2]", "rows=[avg_pool_lstm,soft_attention_1]"]
WORDS += ["data.batch_size=32", "workers=2"]
TABLES = ("table1.md", "table1.csv", "table1.tex", "table1.html", "table1.json")
DELAYS = {"drawing": 0.02, "extraction": 0.1, "training": 0.3, "test": 0.1, "table": 0.0}  # seconds, at most, after a point
MOST_SECONDS = 300


class Table:
    """The small table in a folder of its own, and how far it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def start(self) -> subprocess.Popen:
        """Start it in a process group of its own."""
        command = [sys.executable, str(REPOSITORY / "tests/support/small_table.py"), *WORDS]
        log = (self.folder / "stdout.txt").open("ab")
        return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)

    def runs(self) -> list[Path]:
        """Run folders, the same order in every folder."""
        return sorted(self.folder.glob("runs/hollywood2/*"))

    def done(self, phase: str, since: float) -> float:
        """How much of a phase is on disk, from 0; whole numbers but where a file is being written."""
        here = self.folder
        if phase == "drawing":
            return sum(
                not path.name.startswith(".") for path in here.glob("data/miniature/hollywood2/Hollywood2/AVIClips/*.avi")
            )
        if phase == "extraction":
            return sum(len(path.read_bytes().splitlines()) for path in here.glob("features/**/journal-*")) + sum(
                path.read_text().count('"pooled_bytes"') for path in here.glob("features/**/manifest.json")
            )
        if phase == "training":
            epochs = sum(max(0, len(path.read_bytes().splitlines()) - 1) for path in here.glob("runs/hollywood2/*/history.csv"))
            return epochs + 0.5 * len(list(here.glob("runs/hollywood2/*/*/*.part")))
        if phase == "test":
            written = ("predictions.csv", "run.json", "metrics.json")
            pictures = len(list(here.glob("runs/hollywood2/*/attention/*.png")))
            return pictures + sum((run / name).exists() for run in self.runs() for name in written)
        return sum((here / "results" / name).stat().st_mtime > since for name in TABLES if (here / "results" / name).exists())

    def results(self) -> dict[str, bytes]:
        """What must be equal: tables, predictions, histories, pictures, figures without the seconds they took."""
        kept = {name: (self.folder / "results" / name).read_bytes() for name in TABLES}
        for run in self.runs():
            for path in [run / "predictions.csv", run / "history.csv", *sorted(run.glob("attention/*.png"))]:
                kept[f"{run.name}/{path.name}"] = path.read_bytes()
            metrics = json.loads((run / "metrics.json").read_text())
            assert metrics.pop("seconds") > 0
            kept[f"{run.name}/metrics"] = json.dumps(metrics, sort_keys=True).encode()
        return kept


def seeded_points(whole: Table) -> list[tuple[str, float, float]]:
    """(phase, amount that must be done, seconds after that) of every kill, in the order of the work."""
    draw = random.Random(SEED)
    points = []
    for phase, number in KILLS.items():
        amount = whole.done(phase, 0.0)
        targets = sorted(draw.uniform(0, 0.9 * amount) for _ in range(number))
        points += [(phase, target, draw.uniform(0, DELAYS[phase])) for target in targets]
    return points


def kill_at(table: Table, phase: str, target: float, delay: float) -> bool:
    """Start the table, and kill its whole process group at a point; returns whether it was still at work."""
    since, before = time.time(), table.done(phase, time.time())
    process = table.start()
    deadline = time.monotonic() + MOST_SECONDS
    while table.done(phase, since) <= max(target, before) and process.poll() is None:
        assert time.monotonic() < deadline, f"no progress in {phase}: {(table.folder / 'stdout.txt').read_text()[-3000:]}"
        time.sleep(0.001)
    time.sleep(delay)
    alive = process.poll() is None
    with contextlib.suppress(ProcessLookupError):  # it was faster
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


@pytest.mark.slow
def test_a_table_killed_at_20_points_equals_the_undisturbed_one(tmp_path, count):
    whole, table = Table(tmp_path / "whole"), Table(tmp_path / "killed")
    assert whole.start().wait(2 * MOST_SECONDS) == 0, (whole.folder / "stdout.txt").read_text()[-3000:]
    hits, finished = Counter(), {}
    for phase, target, delay in seeded_points(whole):
        hits[phase] += kill_at(table, phase, target, delay)
        for path in table.folder.glob("runs/hollywood2/*/metrics.json"):  # written last, whole, and never again
            assert finished.setdefault(path, path.read_bytes()) == path.read_bytes()
    for store in table.folder.glob("features/**/manifest.json"):
        FeatureStore(store.parent)
    assert table.start().wait(2 * MOST_SECONDS) == 0, (table.folder / "stdout.txt").read_text()[-3000:]
    assert table.results() == whole.results()
    with (table.folder / "results/table1.csv").open(newline="") as file:
        assert all(float(row["mean"]) > 0 for row in csv.DictReader(file))
    assert not list(table.folder.glob("runs/hollywood2/**/*.part")) and not list(table.folder.glob("features/**/*.part"))
    text = (table.folder / "stdout.txt").read_text() + "".join(
        path.read_text() for path in table.folder.glob("runs/logs/*.txt")
    )
    assert "Traceback" not in text and "error:" not in text, text[-3000:]
    words = ", ".join(f"{hits[phase]} of {number} in {phase}" for phase, number in KILLS.items())
    count("SIGKILLs", sum(hits.values()))
    assert sum(hits.values()) >= 18 and all(hits.values()), words
