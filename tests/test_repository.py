"""The house rules: layout, walls between packages, names, speed of help and refusal; sweeps such as table1.yaml run."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, TINY, script

from reproduce.settings import Settings, entries
from reproduce.table1 import grid

SCRIPTS = ["prepare.py", "train.py", "table1.py"]
PACKAGES = ("lightning_modules", "datamodules", "reproduce")


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_libraries_do_not_import_each_other(package):
    forbidden = {"lightning_modules": {"datamodules", "reproduce"}, "datamodules": {"lightning_modules", "reproduce"}}
    for path in (REPOSITORY / package).glob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & forbidden.get(package, set()), path


def test_only_one_module_imports_wandb():
    using = [
        path.name
        for package in PACKAGES
        for path in (REPOSITORY / package).glob("*.py")
        if any(name.split(".")[0] == "wandb" for name in imports(path))
    ]
    assert using == ["tracking.py"]


def test_no_script_bears_an_installed_modules_name():
    for path in (REPOSITORY / "reproduce").glob("*.py"):
        if path.stem == "__init__":
            continue
        found = importlib.util.find_spec(path.stem)
        assert found is None or REPOSITORY in Path(found.origin or "").parents, path


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


@pytest.mark.parametrize("path", sorted((REPOSITORY / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_every_sweep_names_keys_that_exist_and_its_first_point_runs(path, clips, trained):
    sweep = yaml.safe_load(path.read_text())
    known = {entry.key for entry in entries(Settings)}
    assert set(sweep["parameters"]) <= known
    assert (REPOSITORY / sweep["program"]).is_file()
    point = {name: entry["values"][0] for name, entry in sweep["parameters"].items()}
    point |= {"data.name": "videofolder"}  # the first data set is not in place; the first row and seed are run
    words = [f"{name}={value}" for name, value in point.items()]
    result = script("train.py", *TINY, f"paths.data={clips}", "trainer.max_epochs=1", *words, cwd=trained)
    assert "test/accuracy" in result.stdout


def test_table_1_and_its_sweep_have_one_grid():
    assert grid()["row"][0] == "softmax_regression" and len(grid()["row"]) == 6 and len(grid()["data.name"]) == 3
