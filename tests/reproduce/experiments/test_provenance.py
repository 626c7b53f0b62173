import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version

import av
import numpy
import pytest
import torch
from conftest import REPOSITORY

from reproduce.experiments.provenance import commit_of, provenance, ram_gib, versions


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_and_changes_of_a_checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("1\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "runs.txt").write_text("a result, not code\n")
    assert commit_of(tmp_path) == (commit, False)
    commit_of.cache_clear()  # a process looks once, since the code it has loaded does not change under it
    (tmp_path / "a.py").write_text("2\n")
    assert commit_of(tmp_path) == (commit, True)


@pytest.mark.parametrize(
    ("name", "dirty"),
    [
        ("reproduce/mine.py", True),
        ("datamodules/deep/mine.py", True),
        ("lightning_modules/mine.py", True),
        ("reproduce/notes.txt", False),
        ("reproduce/runs/wandb/code/mine.py", False),
        ("runs/ucf11/mine.py", False),
        ("elsewhere/mine.py", False),
    ],
)
def test_modules_that_nobody_added_to_the_checkout_are_changes_and_results_are_none(tmp_path, name, dirty):
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("runs/\n")
    git(tmp_path, "add", ".gitignore")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("1\n")
    assert commit_of(tmp_path) == (git(tmp_path, "rev-parse", "HEAD"), dirty)


def test_a_copy_inside_somebody_elses_repository_has_no_commit(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "copy").mkdir()
    assert commit_of(tmp_path / "copy") == (None, None)


def test_a_run_knows_when_and_by_what_it_was_started(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/reproduce/train.py", "row=avg_pool_lstm", "preset=[released,miniature]"])
    found = provenance()
    assert found["command"] == "python reproduce/train.py row=avg_pool_lstm 'preset=[released,miniature]'"
    assert abs((datetime.fromisoformat(found["started"]) - datetime.now(timezone.utc)).total_seconds()) < 60
    assert found["cpu"] and found["cores"] >= 1 and found["platform"]
    assert found["ram_gib"] == ram_gib() and 0.2 < found["ram_gib"] < 100_000


def test_versions_are_those_that_are_loaded():
    found = versions()
    assert found["numpy"] == numpy.__version__ and found["av"] == av.__version__
    assert torch.__version__.startswith(found["torch"]) and found["lightning"] == version("lightning")
    assert found["libavcodec"] == ".".join(map(str, av.library_versions["libavcodec"]))
    assert {"python", "torchvision", "torchmetrics", "wandb", "libavformat", "libswscale"} <= set(found)


def test_versions_load_neither_torch_nor_wandb():
    code = "import sys; from reproduce.experiments.provenance import versions; "
    code += "versions(); print({'torch', 'wandb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "set()", done.stderr
