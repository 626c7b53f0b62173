"""The house rules: layout, walls between packages, names, speed of help and refusal; sweeps such as table1.yaml run."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE, REPOSITORY, TINY, once

from reproduce.common.catalogue import ROWS
from reproduce.common.cli import resolve
from reproduce.common.fields import entries
from reproduce.common.settings import Settings
from reproduce.experiments.scheduler import sweep_values
from reproduce.experiments.sweep_file import first_point, read_sweep, words_of
from reproduce.table2 import TableSettings as Table2Settings

SCRIPTS = [
    "prepare.py",
    "train.py",
    "table1.py",
    "table2.py",
    "sweep.py",
    "report.py",
    "dashboard.py",
    "benchmark.py",
    "verify.py",
    "predict.py",
]


def test_no_script_or_folder_beside_them_bears_an_installed_modules_name():
    for path in (REPOSITORY / "reproduce").iterdir():
        if path.suffix not in ("", ".py"):
            continue
        if path.stem in ("__init__", "__pycache__"):
            continue
        found = importlib.util.find_spec(path.stem)
        if found is not None and found.loader is None:  # a folder without modules, such as runs/, where results lie
            places = list(found.submodule_search_locations or [])
        else:
            places = [found.origin or ""] if found else []
        assert all(REPOSITORY in Path(place).parents for place in places), path


def test_sweeps_is_no_package():
    assert not list((REPOSITORY / "sweeps").glob("*.py"))


def test_the_top_level_holds_nothing_else():
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True).stdout.split("\n")
    top = {name.split("/")[0] for name in listed if name and not name.startswith(".")}
    assert top <= {"pyproject.toml", "README.md", "LICENSE", "lightning_modules", "datamodules", "sweeps", "reproduce", "tests"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_and_refusal_come_without_torch(name, tmp_path):
    for word in ("--help", "no.such_key=1"):
        code = (
            "import runpy, sys; sys.argv = ['x', {!r}]\n"
            "try: runpy.run_path({!r}, run_name='__main__')\n"
            "except SystemExit as stop: print('status', stop.code)\n"
            "print('heavy', sorted({{'torch', 'lightning', 'pandas', 'wandb'}} & set(sys.modules)))"
        ).format(word, str(REPOSITORY / "reproduce" / name))
        result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert "heavy []" in result.stdout
        assert f"status {0 if word == '--help' else 2}" in result.stdout


SWEEPS = sorted((REPOSITORY / "sweeps").glob("*.yaml"))
# What cannot be had in a test: the data sets, ImageNet's weights, five groups of each class, large networks.
INSTEAD = {"data.name": "videofolder", "backbone.weights": "random", "data.fold": "all/2", "model.hidden_dim": 8}
INSTEAD |= {"multiresolution.layers": "features.1"}
RUN_EACH = """
import json, sys
from reproduce import train
for name, words in json.loads(sys.argv[1]).items():
    try:
        (folder := train.main(words)) and print("RAN", name, json.dumps(folder.metrics()), flush=True)
    except SystemExit:
        print("FAILED", name, flush=True)
"""


@pytest.fixture(scope="module")
def first_points(clips, trained, tmp_path_factory):
    """By sweep file, the figures of its first point's run; all in one process, because most of a run's time is imports."""
    found = once(tmp_path_factory, "first-points", lambda folder: run_first_points(folder, clips, trained))
    return json.loads((found / "metrics.json").read_text()), (found / "errors").read_text()


def run_first_points(folder, clips, trained) -> None:
    commands = {}
    for path in SWEEPS:
        sweep = read_sweep(path)
        point = first_point(sweep)
        point.pop("column", None)  # a data set and split
        if "backbone.name" in point:
            point["backbone.layer"] = "null"
        point |= {name: value for name, value in INSTEAD.items() if name in point}
        commands[path.name] = [*TINY, f"paths.data={clips}", "trainer.max_epochs=1", *sweep.words, *words_of(point)]
    command = [sys.executable, "-c", RUN_EACH, json.dumps(commands)]
    result = subprocess.run(command, cwd=trained, capture_output=True, text=True, timeout=PATIENCE)
    ran = [line.split(" ", 2)[1:] for line in result.stdout.splitlines() if line.startswith("RAN ")]
    (folder / "metrics.json").write_text(json.dumps({name: json.loads(metrics) for name, metrics in ran}))
    (folder / "errors").write_text(result.stderr)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_every_sweep_names_keys_that_exist_and_its_first_point_runs(path, first_points):
    sweep = read_sweep(path)
    assert set(sweep.parameters) <= {entry.key for entry in entries(Settings)}
    ran, errors = first_points
    assert path.name in ran, errors
    assert 0 <= ran[path.name][sweep.metric] <= 1


def test_the_tables_and_their_sweeps_have_one_grid():
    grid = sweep_values("table1")
    assert grid["row"][0] == "softmax_regression" and len(grid["row"]) == 9 and len(grid["data.name"]) == 3
    columns = ["hmdb51_1", "hmdb51_2", "hmdb51_3", "hollywood2"]
    grid = sweep_values("table2")
    assert grid["column"] == columns and grid["row"][0] == "soft_attention_0" and grid["seed"] == [1]
    described = {row for row, info in ROWS.items() if info.system.representations}
    networks = {"soft_attention_0", "lstm_classifier", "composite_lstm"}
    networks |= {"spatial_stream", "temporal_stream", "two_stream", "two_stream_mean"}
    assert set(grid["row"]) == {*networks, *described} - {"objects"}  # of which a random network sees none
    assert resolve(Table2Settings, []).columns == columns
