"""W&B: how the mode is decided, and the real client against a stand-in server."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SHARED, TINY, script

from reproduce import tracking

LOOPBACK = SHARED / "tools/wandb_loopback/server.py"
KEY = "0123456789012345678901234567890123456789"


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


def test_a_login_and_a_server_that_answers_is_online(bare, monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        (bare / "netrc").write_text(f"machine 127.0.0.1\n  login user\n  password {KEY}\n")
        assert tracking.mode_of("auto") == "online"


def test_a_login_without_a_network_is_offline_in_a_few_seconds(bare, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    started = time.monotonic()
    assert tracking.mode_of("auto") == "offline"
    assert time.monotonic() - started < 20
    assert "logging offline" in capsys.readouterr().out


@pytest.fixture
def server(tmp_path):
    """A stand-in W&B server; yields its folder and the environment of a client."""
    if not LOOPBACK.is_file():
        pytest.skip(f"{LOOPBACK} is absent")
    data = tmp_path / "server"
    process = subprocess.Popen([sys.executable, str(LOOPBACK), "--data", str(data)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (data / "url").is_file() or not (data / "url").read_text().strip():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    yield data, {**environment, "WANDB_BASE_URL": (data / "url").read_text().strip(), "WANDB_API_KEY": KEY, "HOME": str(home)}
    process.terminate()
    process.wait()


def test_an_online_run_logs_config_curves_summary_and_tables(server, clips, trained):
    data, environment = server
    words = [word for word in TINY if not word.startswith("logging.")]
    words += [f"paths.data={clips}", "row=avg_pool_lstm", "seed=5", "logging.tags=[mine]"]
    result = script("train.py", *words, cwd=trained, env=environment)
    run = Path(result.stdout.strip().splitlines()[-1])
    state = json.loads((data / "state.json").read_text())
    text = json.dumps(state)
    metrics = json.loads((run / "metrics.json").read_text())
    identifier = (run / "wandb_id").read_text().strip()
    assert identifier in text
    logged = find_run(state, identifier)
    summary = logged["summary"] if isinstance(logged["summary"], dict) else json.loads(logged["summary"])
    assert summary["test/accuracy"] == pytest.approx(metrics["test/accuracy"])
    for part in ("train/loss", "val/accuracy", "retrain-train/loss", "test/per_class", "test/confusion_matrix", '"mine"'):
        assert part.strip('"') in text, part
    for path in run.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), f"the key stands in {path}"


def find_run(state, identifier):
    """The run of a name in the stand-in's state, wherever it keeps runs."""
    stack = [state]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if (item.get("name") == identifier or item.get("id") == identifier) and "summary" in item:
                return item
            for key, value in item.items():
                if key == identifier and isinstance(value, dict) and "summary" in value:
                    return value
                stack.append(value)
        elif isinstance(item, list):
            stack.extend(item)
    raise AssertionError(f"no run {identifier}")
