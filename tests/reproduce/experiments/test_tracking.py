"""W&B: how the mode is decided, and the real client against a stand-in server."""

import http.server
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import KEY, PATIENCE, TINY, finished_runs, script

from reproduce.common.cli import resolve
from reproduce.common.settings import Settings
from reproduce.experiments import tracking
from reproduce.experiments.folder import ABOUT, RunFolder

HANGS = 60  # seconds: the client by itself would try for more than a minute and a half, and again at the end


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No login of any kind."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path


def test_auto_without_a_login_is_offline(bare):
    assert tracking.mode_of("auto") == "offline"


def test_online_without_a_login_gives_way_and_says_so(bare, capsys):
    assert tracking.mode_of("online") == "offline"
    assert "no login" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_what_is_asked_for_is_taken(bare, mode):
    assert tracking.mode_of(mode) == mode


class Answers(http.server.BaseHTTPRequestHandler):
    """A server that answers, and takes no key."""

    def do_GET(self):
        self.send_error(401)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing():
    """Address of a server that takes no key."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{answering.server_port}"
        answering.shutdown()


@pytest.fixture
def silent():
    """Address of a server that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_login_and_a_server_that_answers_is_online(bare, monkeypatch, refusing):
    monkeypatch.setenv("WANDB_BASE_URL", refusing)
    (bare / "netrc").write_text(f"machine 127.0.0.1\n  login user\n  password {KEY}\n")
    assert tracking.mode_of("auto") == "online"


def test_a_login_without_a_network_is_offline_in_a_few_seconds(bare, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    assert tracking.mode_of("auto") == "offline"
    assert "logging offline" in capsys.readouterr().out


# What a run does with W&B, without its training: the seconds that this takes are what a user waits for W&B.
BEGIN_AND_END = """
import time
from pathlib import Path
from reproduce.common.cli import resolve
from reproduce.common.settings import Settings
from reproduce.experiments import tracking
from reproduce.experiments.folder import ABOUT, RunFolder
from reproduce.experiments.folder import ABOUT, RunFolder
from reproduce.common.settings import Settings
from reproduce.common.cli import resolve
folder = RunFolder(Path("runs/data/model-0123456789ab"))
folder.path.mkdir(parents=True)
started = time.monotonic()
run = tracking.start(resolve(Settings, []), folder)
tracking.log(run, {"train/loss": 1.0})
folder.write_about({key: kind() for key, kind in ABOUT.items()})
folder.finish({"test/accuracy": 0.5})
tracking.finish(run, folder)
print("mode", run.settings.mode, "seconds", time.monotonic() - started, flush=True)
"""


def begin_and_end(folder, in_terminal=False, **variables):
    """The output of a run's W&B part under some environment variables, and the seconds until its process had ended."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"HOME": str(folder), **variables}
    command = [sys.executable, "-c", BEGIN_AND_END]
    started = time.monotonic()
    if in_terminal:
        typescript = ["script", "-qec", shlex.join(command), "/dev/null"]
        result = subprocess.run(typescript, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    else:
        options = {"capture_output": True, "text": True, "timeout": PATIENCE, "stdin": subprocess.DEVNULL}
        result = subprocess.run(command, cwd=folder, env=environment, **options)
    seconds = time.monotonic() - started
    assert result.returncode == 0 and "mode offline" in result.stdout, result.stdout + result.stderr
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), f"the key stands in {path}"
    assert KEY not in result.stdout + result.stderr
    return result.stdout, float(result.stdout.split("seconds ")[1].split()[0]), seconds


@pytest.mark.skipif(not shutil.which("script"), reason="script(1), which makes a terminal, is not installed")
def test_with_a_terminal_and_no_key_nothing_asks(tmp_path):
    output, waited, _ = begin_and_end(tmp_path, in_terminal=True)
    assert waited < HANGS and "W&B" not in output and "wandb" not in output


def test_with_a_key_and_a_silent_server_it_goes_on_offline_and_says_so_once(tmp_path, silent):
    output, waited, seconds = begin_and_end(tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=silent)
    assert waited < HANGS and seconds < waited + HANGS
    assert output.count("\n") == 2 and f"W&B: {silent} does not answer within 5 s; logging offline" in output


def test_a_key_that_is_refused_is_no_reason_to_stop(tmp_path, refusing):
    output, waited, _ = begin_and_end(tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=refusing)
    assert waited < HANGS and output.count("\n") == 2 and "401" in output and "logging offline" in output


def test_an_online_run_logs_config_curves_summary_and_tables(server, clips, trained):
    data, environment = server
    words = [word for word in TINY if not word.startswith("logging.")]
    words += [f"paths.data={clips}", "row=soft_attention_1", "seed=5", "logging.tags=[mine]"]
    result = script("train.py", *words, cwd=trained, env=environment)
    run = Path(result.stdout.strip().splitlines()[-1])
    metrics = json.loads((run / "metrics.json").read_text())
    identifier = (run / "wandb_id").read_text().strip()
    (logged,) = finished_runs(data, 1).values()
    text, summary = json.dumps(logged), logged["summary"]
    assert identifier == logged["name"]
    tested = {key: value for key, value in metrics.items() if key.startswith("test/")}
    assert {key: summary[key] for key in tested} == pytest.approx(tested) and "test/attention_entropy" in tested
    for part in ("train/loss", "val/accuracy", "retrain-train/loss", "test/per_class", "test/confusion_matrix", '"mine"'):
        assert part.strip('"') in text, part
    captions = json.loads((run / "run.json").read_text())["filmstrips"]
    (images,) = (line["attention/filmstrips"] for line in map(json.loads, logged["history"]) if "attention/filmstrips" in line)
    assert images["captions"] == list(captions.values()) and len(captions) == 3
    sent = {path.read_bytes() for path in (data / "files").rglob("*.png")}
    assert sent == {(run / name).read_bytes() for name in captions}
    for path in run.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), f"the key stands in {path}"


# a tracker that fails


@pytest.mark.counts("homes that cannot be written")
@pytest.mark.parametrize("home", ["/proc/nonexistent", "a file"])
def test_a_run_is_tracked_below_its_own_folder_where_home_cannot_be_written(clips, trained, tmp_path, home):
    (tmp_path / "a file").touch()
    arguments = [word for word in TINY if not word.startswith("logging.")]
    arguments += [
        f"paths.data={clips}",
        f"paths.features={trained}/features/miniature",
        "row=avg_pool_lstm",
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "XDG_"))}
    result = script("train.py", *arguments, cwd=tmp_path, env={**environment, "HOME": str(tmp_path / home)})
    (run,) = tmp_path.glob("runs/clips/avg_pool_lstm-*")
    assert (run / "metrics.json").is_file() and "W&B" not in result.stdout and "Traceback" not in result.stderr
    (tables,) = run.glob("wandb/offline-run-*/files/media/table/test")
    assert sorted(path.name.rpartition("_")[0][:9] for path in tables.iterdir()) == ["confusion", "per_class"]
    assert (run / "wandb/data").is_dir() and (run / "wandb/cache").is_dir()


class Failing:
    """A W&B run of which one method raises, as the real one does on a full disk or without a home."""

    def __init__(self, method: str) -> None:
        self.id, self.summary = "0a1b2c3d", self
        self.method = method

    def __getattr__(self, name: str):
        def call(*words, **named):
            if name == self.method:
                raise PermissionError("Unable to write staging files to /nowhere/artifacts/staging.\nSet WANDB_DATA_DIR.")

        return call


@pytest.mark.counts("trackers that fail")
@pytest.mark.parametrize("method", ["init", "define_metric", "log", "log_metrics", "update", "save", "finish"])
def test_whatever_a_tracker_raises_is_one_warning(bare, tmp_path, monkeypatch, capsys, method):
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    def init(**options):
        if method == "init":
            raise OSError(30, "Read-only file system")
        return Failing(method)

    def refuse(self, *words, **named):
        raise ConnectionResetError("the service is gone")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(tracking, "_warned", [])
    if method == "log_metrics":
        monkeypatch.setattr(WandbLogger, "log_metrics", refuse)
    for name in tracking.FOLDERS:
        monkeypatch.setenv(name, str(tmp_path))
    folder = RunFolder(tmp_path / "runs/data/model-0123456789ab")
    folder.path.mkdir(parents=True)
    folder.write_about({key: kind() for key, kind in ABOUT.items()} | {"per_class": {"run": 0.5}})
    folder.finish({"test/accuracy": 0.5})
    run = tracking.start(resolve(Settings, []), folder)
    if run is not None and method == "log_metrics":
        logger = tracking.stage_logger(run, "holdout")
        assert logger is not None
        logger.log_metrics({"train/loss": 1.0}, step=1)
        logger.log_metrics({"train/loss": 0.5}, step=2)
    tracking.log(run, {"cv/score": 1.0})
    tracking.finish(run, folder)
    assert folder.metrics() == {"test/accuracy": 0.5}
    assert capsys.readouterr().out.count("W&B: ") == 1


def test_folders_that_the_user_names_are_the_client_s(bare, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_kept", {})
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("WANDB_CACHE_DIR", "to be removed")
    monkeypatch.delenv("WANDB_CACHE_DIR")
    for run in ("one", "two"):
        tracking._keep_below(tmp_path / run)
        assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "mine")
        assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / run / "wandb/cache")
