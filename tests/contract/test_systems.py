"""Systems of the catalogue: each kind is killed and resumed to a complete run, and all are taken by every command."""

import contextlib
import csv
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import start, words
from conftest import draw_clips, script, wait_for
from runfolders import annotation, write_run

from reproduce.common.catalogue import BASELINE, DEFAULT_ATTENTION, ROWS, SYSTEMS
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.predictions import read_predictions

MEMBERS = (BASELINE, DEFAULT_ATTENTION)  # of a fusion whose row names no others
ONE_EACH = {name: next(row for row, info in ROWS.items() if info.sets["model.name"] == name) for name in SYSTEMS}
KINDS = {(info.module, info.stores): name for name, info in sorted(SYSTEMS.items(), key=lambda item: len(item[1].settings))}
"""Of the systems of one module that read the same stores, the one with the most settings."""
QUICK = ["trainer.max_epochs=2", "spatial.iterations=20", "temporal.iterations=4", "temporal.batch_size=8", "flow.size=24"]


@pytest.fixture(scope="module")
def dozen(tmp_path_factory) -> Path:
    """A working folder beside a dozen drawn clips of two classes, whose features are there."""
    root = tmp_path_factory.mktemp("contract")
    draw_clips(root / "clips", classes=2)
    script("prepare.py", *words(root), cwd=root)
    return root


def run_words(dozen: Path, row: str, *more: str) -> list[str]:
    return words(dozen, f"row={row}", *QUICK, *more)


def folder_of(printed: str) -> RunFolder:
    return RunFolder(Path(printed.strip().splitlines()[-1]))


@pytest.mark.counts("SIGKILLs")
@pytest.mark.skipif(sys.platform == "win32", reason="there are no process groups on Windows")
@pytest.mark.parametrize("name", KINDS.values())
def test_a_killed_run_goes_on_to_a_complete_one(dozen, name):
    info, row, runs = SYSTEMS[name], ONE_EACH[name], f"paths.runs={dozen / 'killed'}"
    for member in ROWS[row].sets.get(info.members, MEMBERS) if info.members else ():
        script("train.py", *run_words(dozen, member, runs), cwd=dozen)
    begun = {".lock", "config.yaml"}

    def left_something() -> bool:
        folders = (dozen / "killed/clips").glob(f"{row}-*")
        return any(path.is_file() and path.name not in begun for folder in folders for path in folder.rglob("*"))

    process = start("train.py", *run_words(dozen, row, runs), cwd=dozen)
    wait_for(left_something, process, dozen / "output.txt")
    with contextlib.suppress(ProcessLookupError):  # it was faster
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run = folder_of(script("train.py", *run_words(dozen, row, runs), cwd=dozen).stdout)

    assert all((run.path / file).is_file() for file in ("config.yaml", "predictions.csv", "run.json", "metrics.json"))
    assert run.history.is_file() == run.validation.is_file() == ("protocol" in info.settings)
    found, about, metrics = run.predictions(), run.about(), run.metrics()
    assert len(found.videos) == about["test_videos"] > 0 and len(found.classes) == 2
    assert np.isfinite(found.scores).all() and found.scores.min() >= 0 and found.scores.max() <= 1
    hits = found.target[np.arange(len(found.videos)), found.scores.argmax(axis=1)]
    assert metrics["test/accuracy"] == pytest.approx(hits.mean())
    assert (about["system"], about["stores"], about["threshold"]) == (name, list(info.stores), 0.5)
    assert ("features" in about) == ("cubes" in info.stores) and ("stride" in about) == ("data.stride" in info.settings)
    assert run.attended.is_file() == any(key.startswith("test/attention") for key in metrics) == info.attends
    if run.validation.is_file():
        held = read_predictions(run.validation)
        assert held.classes == found.classes and not set(held.videos) & set(found.videos)
        hits = held.target[np.arange(len(held.videos)), held.scores.argmax(axis=1)]
        assert metrics["val/accuracy"] == pytest.approx(hits.mean())
    assert not list(run.path.rglob("*.part"))


@pytest.mark.slow(measured=True)
def test_tables_sweeps_report_and_verification_take_every_system(dozen):
    rows = list(ONE_EACH.values())
    grid = [word for word in run_words(dozen, "x") if not word.startswith(("data.name", "row"))]
    table = [*grid, "datasets=[videofolder]", "seeds=[1]"]
    script("table1.py", *table, f"rows=[{','.join(rows)}]", cwd=dozen)
    record = json.loads((dozen / "results/table1.json").read_text())
    text = (dozen / "results/table1.md").read_text()
    assert all(ROWS[row].label in text for row in rows) and record
    verified = script("verify.py", "results", cwd=dozen, check=False).stdout.splitlines()
    assert {line.split()[1] for line in verified if line.endswith(" verified") and "videofolder" in line} == set(rows)
    sweep = dozen / "every.yaml"
    listed = "".join(f"    - {row}\n" for row in rows)
    head = "program: reproduce/train.py\nname: every\nmethod: grid\nmetric:\n  name: test/accuracy\n  goal: maximize\n"
    command = "command:\n" + "".join(f"  - ${{{word}}}\n" for word in ("env", "interpreter", "program", "args_no_hyphens"))
    sweep.write_text(f"{head}parameters:\n  row:\n    values:\n{listed}{command}")
    script("sweep.py", str(sweep), *grid, "data.name=videofolder", cwd=dozen)
    swept = (dozen / "results/sweep_every.csv").read_text()
    assert all(row in swept for row in rows)
    script("report.py", cwd=dozen)
    page = next((dozen / "results").glob("report*.html")).read_text()
    assert all((ROWS[row].short or ROWS[row].label).replace("λ\u00a0", "λ\u00a0") in page for row in rows)


def test_table_2_takes_every_system(tmp_path):
    """Of runs that were made elsewhere."""
    split = annotation("hmdb51", ["climb", "dive", "run"], 4)
    base = ["column=hmdb51_1", "logging.wandb=disabled"]
    for row in ONE_EACH.values():
        write_run(tmp_path / "runs", split, [*base, f"row={row}"], 1.0)
    words_ = [f"source={tmp_path / 'runs'}", "columns=[hmdb51_1]", "seeds=[1]", f"rows=[{','.join(ONE_EACH.values())}]"]
    script("table2.py", *words_, cwd=tmp_path)
    with (tmp_path / "results/table2.csv").open(newline="") as file:
        assert {line["row"] for line in csv.DictReader(file) if line["origin"] == "measured"} == set(ONE_EACH.values())
