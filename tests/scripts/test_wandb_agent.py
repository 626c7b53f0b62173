"""``wandb sweep`` and ``wandb agent``, the real client against a stand-in server, and a table made from W&B alone."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import KEY, PATIENCE, REPOSITORY, TINY, finished_runs, script

WORDS = [word for word in TINY if word.partition("=")[0] not in ("data.name", "logging.wandb")]
ROWS = ["softmax_regression", "avg_pool_lstm", "soft_attention_1"]
TABLE = [*WORDS, "logging.wandb=disabled", "datasets=[videofolder]", f"rows=[{','.join(ROWS)}]"]
FETCH = """
import sys
from pathlib import Path
from reproduce.experiments import tracking
from reproduce.experiments.folder import RunFolder
from reproduce.common.settings import Settings
from reproduce.common.cli import resolve
print("fetched", tracking.fetch(resolve(Settings, []), RunFolder(Path(sys.argv[1]))))
"""


def start_sweep(name, folder, environment, parameters, *words):
    """Give the server a sweep file with other parameters, and words for every run; returns its address for an agent."""
    sweep = yaml.safe_load((REPOSITORY / "sweeps" / name).read_text())
    sweep["parameters"] |= parameters
    after_program = sweep["command"].index("${program}") + 1
    sweep["command"][after_program:after_program] = words
    (folder / name).write_text(yaml.safe_dump(sweep))
    command = ["wandb", "sweep", "--project", "demo", name]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    found = re.search(r"wandb agent (\S+)", result.stdout + result.stderr)
    assert found, result.stdout + result.stderr
    return found[1]


def start_agent(sweep, count, folder, environment, log):
    with (folder / log).open("w") as file:
        command = ["wandb", "agent", sweep, "--count", str(count)]
        return subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


@pytest.fixture
def online(server, trained, tmp_path):
    """The server's folder, a client's environment, and a working folder with the clips' features."""
    data, environment = server
    here = tmp_path / "here"
    here.mkdir()
    (here / "reproduce").symlink_to(REPOSITORY / "reproduce")
    (here / "features").symlink_to(trained / "features")
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"  # the agent's interpreter is the first `python`
    return data, {**environment, "PATH": path}, here


@pytest.mark.slow(measured=True)
def test_an_agent_finishes_table_1_and_the_table_comes_back_from_the_server(online, trained, clips, tmp_path):
    data, environment, here = online
    run = (trained / "run").resolve()  # one of the three is finished already; other tests add more beside it
    finished = shutil.copytree(run, here / "runs" / "clips" / run.name) / "metrics.json"
    written = finished.stat().st_mtime_ns
    parameters = {"data.name": {"value": "videofolder"}, "row": {"values": ROWS}}
    sweep = start_sweep("table1.yaml", here, environment, parameters, *WORDS, f"paths.data={clips}")
    assert start_agent(sweep, 3, here, environment, "agent.txt").wait(timeout=PATIENCE) == 0
    log = (here / "agent.txt").read_text()
    runs = [run for run in finished_runs(data, 3).values() if run["sweep"] == sweep.rsplit("/")[-1]]
    assert len(runs) == 3 and log.count("finished before") == 1 and finished.stat().st_mtime_ns == written
    for run in runs:
        (folder,) = here.glob(f"runs/{run['config']['run_folder']['value']}")
        metrics = json.loads((folder / "metrics.json").read_text())
        assert run["summary"]["test/accuracy"] == pytest.approx(metrics["test/accuracy"])
        keys = {key for line in run["history"] for key in json.loads(line)}
        assert {"val/accuracy", "retrain-train/loss", "test/per_class", "test/confusion_matrix"} <= keys
    for path in [*here.rglob("*.*"), here / "agent.txt"]:
        assert path.is_symlink() or not path.is_file() or KEY.encode() not in path.read_bytes(), path

    script("table1.py", *TABLE, f"paths.data={clips}", "paths.results=from_folders", cwd=here)
    elsewhere = tmp_path / "elsewhere"  # without data, features and runs
    elsewhere.mkdir()
    more = ["paths.data=/nowhere", f"paths.results={here}/from_server", f"source=wandb:{sweep}"]
    script("table1.py", *TABLE, *more, cwd=elsewhere, env=environment)
    for name in ("table1.md", "table1.csv", "table1.tex", "table1.html"):
        assert (here / "from_server" / name).read_bytes() == (here / "from_folders" / name).read_bytes()

    mine = elsewhere / "runs" / "clips" / finished.parent.name  # an agent on another machine, with folders of its own
    entity, project, name = sweep.split("/")
    of_agent = {"WANDB_ENTITY": entity, "WANDB_PROJECT": project, "WANDB_SWEEP_ID": name}
    command = [sys.executable, "-c", FETCH, str(mine)]
    result = subprocess.run(
        command, cwd=elsewhere, env=environment | of_agent, capture_output=True, text=True, timeout=PATIENCE
    )
    assert "'test/accuracy'" in result.stdout and (mine / "predictions.csv").is_file(), result.stdout + result.stderr


@pytest.mark.slow
def test_two_agents_at_once_share_one_configuration_and_two_processes_one_run(online, clips):
    data, environment, here = online
    # λ tells average-pooled networks not apart: two points, one configuration.
    parameters = {"model.name": {"value": "avg_pool_lstm"}, "seed": {"value": 7}}
    parameters |= {"objective.attention_penalty": {"values": [0, 1]}}
    words = [*WORDS, "data.name=videofolder", f"paths.data={clips}", "trainer.max_epochs=1", "trainer.devices=2"]
    sweep = start_sweep("attention_penalty.yaml", here, environment, parameters, *words)
    agents = [start_agent(sweep, 1, here, environment, f"{number}.txt") for number in (1, 2)]
    assert [agent.wait(timeout=PATIENCE) for agent in agents] == [0, 0]
    logs = [(here / f"{number}.txt").read_text() for number in (1, 2)]
    assert sorted("holdout epoch 1/1" in log for log in logs) == [False, True], "trained twice"
    assert sum("another process works on" in log or "finished before" in log for log in logs) == 1
    assert len(list(here.glob("runs/clips/*/metrics.json"))) == 1
    everything = finished_runs(data, 2)
    assert len(everything) == 2, "a second process made a W&B run of its own"
    assert {run["sweep"] for run in everything.values()} == {sweep.rsplit("/")[-1]}
    assert len({run["summary"]["test/accuracy"] for run in everything.values()}) == 1


def test_a_table_is_refused_what_it_cannot_have(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for source, says in {
        "wandb:team": "wandb:<entity>/<project>",
        "wandb:team/project": "there is no login",
        "nowhere": "nor a folder of runs",
    }.items():
        result = script("table1.py", *TABLE, f"source={source}", cwd=tmp_path, check=False)
        assert result.returncode == 1 and says in result.stderr and result.stderr.count("\n") == 1
