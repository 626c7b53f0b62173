"""``sweep.py`` as a user runs it: a kill, a point that crashes, a fixed parameter, Bayes and hyperband."""

import csv
import os

import pytest
import yaml
from commands import kill_when
from conftest import REPOSITORY, TINY, script

from reproduce.experiments.history import History

COMMAND = ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]


def write(folder, **content):
    path = folder / "sweep.yaml"
    metric = {"name": "test/accuracy", "goal": "maximize"}
    sweep = {"program": "reproduce/train.py", "name": "small", "method": "grid", "metric": metric, "command": COMMAND}
    path.write_text(yaml.safe_dump({**sweep, **content}))
    return path


def rows_of(folder, name="small"):
    with (folder / f"results/sweep_{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def words_of(clips, *more, without=()):
    words = [word for word in TINY if word.partition("=")[0] not in without]
    return [*words, f"paths.data={clips}", "trainer.max_epochs=1", "row=avg_pool_lstm", *more]


@pytest.fixture
def here(trained, tmp_path):
    """A working folder with the clips' features."""
    (tmp_path / "features").symlink_to(trained / "features")
    return tmp_path


@pytest.mark.slow
def test_a_sweep_killed_goes_on_with_what_is_left_and_a_crash_stops_nothing(clips, here):
    path = write(here, parameters={"optim.lr": {"values": [0.01, 1e30, 0.02]}})
    words = words_of(clips, "workers=1", without=("optim.lr", "logging.wandb"))
    finished = []

    def one_is_finished() -> bool:
        finished[:] = here.glob("runs/clips/*/metrics.json")
        return bool(finished)

    kill_when(one_is_finished, "sweep.py", str(path), *words, cwd=here)
    assert len(finished) == 1
    written = finished[0].stat().st_mtime_ns
    bare = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | {"HOME": str(here)}
    result = script("sweep.py", str(path), *words, cwd=here, check=False, env=bare)  # no terminal, no key, no WANDB_MODE
    assert result.returncode == 1 and "1 of 3 runs are finished already" in result.stdout
    assert finished[0].stat().st_mtime_ns == written, "run twice"
    assert len(list(here.glob("runs/clips/*/metrics.json"))) == 2
    assert result.stderr.count("FAILED") == 1 and "optim.lr=1e+30" in result.stderr and "runs/logs/" in result.stderr
    assert "training loss of epoch 0 is" in result.stderr and "Traceback" not in result.stderr
    rows = rows_of(here)
    assert [row["state"] for row in rows] == ["finished", "failed", "finished"]
    assert [row["optim.lr"] for row in rows] == ["0.01", "1e+30", "0.02"]
    best = max((row for row in rows if row["score"]), key=lambda row: float(row["score"]))
    assert f"best of 2 on clips: test/accuracy {float(best['score']):.4f} at optim.lr={best['optim.lr']}" in result.stdout
    again = script("sweep.py", str(path), *words, "optim.lr=0.02", cwd=here)
    assert "1 of 1 runs are finished already" in again.stdout, "the command line fixes what the file varies"


def test_bayes_and_hyperband_run_here_and_are_not_repeated(clips, here):
    pytest.importorskip("optuna", reason="optuna, of the extra `sweep`, is not installed")
    content = yaml.safe_load((REPOSITORY / "sweeps/cross_validation.yaml").read_text())
    content["parameters"]["model.hidden_dim"] = {"values": [4, 8]}
    content["parameters"]["data.fold"]["value"] = "all/2"
    content["parameters"]["model.num_layers"]["max"] = 2
    content["early_terminate"] = {"type": "hyperband", "min_iter": 1, "eta": 4}
    path = write(here, **content)
    keys = {"model.hidden_dim", "model.num_layers", "optim.lr"}
    words = [*words_of(clips, "count=2", "workers=2", "trainer.max_epochs=2", without=keys)]
    words.remove("row=avg_pool_lstm")
    script("sweep.py", str(path), *words, cwd=here)
    rows = rows_of(here, "cross_validation")
    states = [row["state"] for row in rows]
    assert len(states) == 2 and "finished" in states and set(states) <= {"finished", "stopped early"}
    for row in rows:
        epochs = History(here / "runs" / row["run"] / "history.csv").epochs()
        assert (len(epochs) == 4) if row["state"] == "finished" else (1 <= len(epochs) <= 4)
        assert row["figure"] == "cv/score" and bool(row["score"]) == (row["state"] == "finished")
    again = script("sweep.py", str(path), *words, cwd=here)
    assert "finished: point" not in again.stdout and "stopped early: point" not in again.stdout
    assert rows_of(here, "cross_validation") == rows


@pytest.mark.parametrize(
    ("content", "words", "says"),
    [
        ({"parameters": {"optim.lr": {"values": [0.01, -1]}}}, [], "optim.lr=-1.0: must be at least 0"),
        ({"parameters": {"optim.rl": {"values": [0.01]}}}, [], "did you mean optim.lr"),
        ({"parameters": {"optim.lr": {"min": 0.1, "max": 0.2}}, "method": "random"}, [], "count=20"),
        ({"parameters": {"seed": {"values": [1]}}}, ["paths.data=/nowhere"], "/nowhere"),
        (None, [], "cannot be read as a sweep file"),
    ],
)
def test_what_cannot_run_is_refused_before_any_work(clips, here, content, words, says):
    path = write(here, **content) if content else here / "absent.yaml"
    result = script("sweep.py", str(path), *words_of(clips, *words, without=("optim.lr",)), cwd=here, check=False)
    assert result.returncode == 1 and says in result.stderr and "Traceback" not in result.stderr
    assert not (here / "runs").exists()


def test_without_a_file_it_says_how(tmp_path):
    result = script("sweep.py", cwd=tmp_path, check=False)
    assert result.returncode == 1 and "sweep.py sweeps/" in result.stderr
