"""The W&B report: what it is made of, what it refuses, and the real client as far as the stand-in server answers."""

import json
import os
import subprocess
import sys

import pytest
from conftest import KEY, script
from runfolders import annotation, write_run

from reproduce import dashboard
from reproduce.dashboard import AGAINST, DashboardSettings, build, differences
from reproduce.experiments import tracking


@pytest.fixture
def wr():
    pytest.importorskip("wandb_workspaces", reason="the extra `dashboard` is not installed")
    from wandb_workspaces.reports import v2

    return v2


@pytest.fixture
def runs(tmp_path):
    """Two rows, two seeds, of which one has no average-pooled run; every run but one has a W&B run."""
    data = annotation("ucf11", ["a", "b", "c"], 10)
    for row, seeds, skill in (("avg_pool_lstm", (1,), 1.0), ("soft_attention_0", (1, 2), 3.0)):
        for seed in seeds:
            path = write_run(tmp_path / "runs", data, ["data.name=ucf11", f"row={row}", f"seed={seed}"], skill, 3)
            (path / "wandb_id").write_text(f"{row}-{seed}\n")
    return tmp_path / "runs"


def environment(tmp_path, **more):
    """A client's environment without any login but the given one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") and key != "NETRC"}
    return {**kept, "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), **more}


def test_differences_are_those_of_the_same_seed(runs):
    scores = {path.parent.name[:-13]: json.loads(path.read_text()) for path in runs.glob("ucf11/*/metrics.json")}
    (ours,) = [
        json.loads((path.parent / "metrics.json").read_text())["test/accuracy"]
        for path in runs.glob("ucf11/soft_attention_0-*/wandb_id")
        if path.read_text().strip() == "soft_attention_0-1"
    ]
    found = differences(runs)
    assert set(found) == {"avg_pool_lstm-1", "soft_attention_0-1"}  # of seed 2 there is no average-pooled run
    assert found["avg_pool_lstm-1"] == {AGAINST: 0.0}
    expected = 100 * (ours - scores["avg_pool_lstm"]["test/accuracy"])
    assert found["soft_attention_0-1"][AGAINST] == pytest.approx(expected, abs=1e-3) and expected > 0


def test_the_report_groups_by_table_data_set_and_row(wr):
    report = build(wr, "team", DashboardSettings())
    headings = [block.text for block in report.blocks if isinstance(block, (wr.H1, wr.H2))]
    assert headings[:5] == ["Table 1", "UCF-11", "HMDB-51", "Hollywood2", "Table 2"]
    grids = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
    assert len(grids) == 7
    for grid, name in zip(grids, ("ucf11", "hmdb51", "hollywood2"), strict=False):
        (runs,) = grid.runsets
        assert name in runs.filters and runs.groupby == ["config.row"]
    assert [runs.groupby for runs in grids[3].runsets] == [["config.data.split", "config.row"]] * 2


def test_the_report_has_curves_classes_confusions_and_differences(wr):
    written = json.loads(build(wr, "team", DashboardSettings())._to_model().spec.model_dump_json(by_alias=True))
    grids = [block for block in written["blocks"] if block["type"] == "panel-grid"]
    text = json.dumps(grids[0])
    for key in ("train/loss", "val/accuracy", "retrain-train/loss", "test/per_class", "attention/filmstrips", AGAINST):
        assert f'"{key}"' in text, key
    for key in ("test/confusion_matrix",):
        assert f'"{key}"' in text, key
    assert "val/mAP" in json.dumps(grids[2]) and "confusion" not in json.dumps(grids[2])
    assert all(
        f'"{key}"' in json.dumps(grids[4]) for key in ("config:objective.value.attention_penalty", "summary:test/accuracy")
    )
    (filters,) = [grids[0]["metadata"]["runSets"][0]["filters"]["filters"]]
    assert [(one["key"]["name"], one["op"], one["value"]) for one in filters] == [
        ("tags", "IN", ["ucf11"]),
        ("state", "=", "finished"),
    ]


def test_panels_show_keys_that_runs_log(wr, trained):
    """What the panels ask for stands in history.csv, metrics.json or tracking.py, so that no panel stays empty."""
    from conftest import REPOSITORY

    run = trained / "run"
    known = (run / "history.csv").read_text() + (run / "metrics.json").read_text()
    known += (REPOSITORY / "reproduce/experiments/tracking.py").read_text() + (run / "config.yaml").read_text()
    for panel in dashboard._of_rows(wr, "ucf11"):
        keys = [*getattr(panel, "metrics", []), *getattr(panel, "y", []), *getattr(panel, "media_keys", [])]
        keys += [query["tableKey"] for query in getattr(panel, "query", {}).values() if isinstance(query, dict)]
        for key in keys:
            name = key.name if hasattr(key, "name") else key
            assert name == AGAINST or name.removeprefix("retrain-") in known, name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "there is no login for https://api.wandb.ai: wandb login makes one"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 does not answer within 5 s"),
    ],
    ids=["no login", "no network"],
)
def test_without_login_or_network_it_refuses_in_one_line(runs, tmp_path, more, message):
    result = script("dashboard.py", f"paths.runs={runs}", cwd=tmp_path, check=False, env=environment(tmp_path, **more))
    assert result.returncode == 1 and message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert KEY not in result.stdout + result.stderr


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(tracking, "is_reachable", lambda: True)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports", None)
    with pytest.raises(SystemExit) as stop:
        dashboard.main([f"paths.runs={tmp_path}"])
    assert stop.value.code == 1
    assert "pip install -e '.[dashboard]'" in capsys.readouterr().err


def test_the_real_client_enters_differences_and_a_refused_report_is_one_line(wr, server, runs, tmp_path):
    data, client = server
    start = "import wandb; wandb.init(project='visual-attention', id='soft_attention_0-1').finish()"
    subprocess.run([sys.executable, "-c", start], env={**client, "WANDB_SILENT": "true"}, cwd=tmp_path, check=True)
    result = script("dashboard.py", f"paths.runs={runs}", cwd=tmp_path, check=False, env=client)
    assert f"1 of 2 runs below {runs} have their difference in {AGAINST}" in result.stdout
    asked = [json.loads(line) for line in (data / "requests.jsonl").read_text().splitlines()]
    entered, *_ = [one for one in asked if one.get("op") == "UpsertBucket" and AGAINST in str(one.get("variables"))]
    assert json.loads(entered["variables"]["summaryMetrics"])[AGAINST] == differences(runs)["soft_attention_0-1"][AGAINST]
    assert [one["variables"]["entityName"] for one in asked if one.get("op") == "upsertView"] == ["stub"]
    assert result.returncode == 1, "the stand-in server knows no reports"
    assert result.stderr.startswith("error: http://127.0.0.1:") and len(result.stderr.strip().splitlines()) == 1
