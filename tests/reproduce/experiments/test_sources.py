"""Finished runs from elsewhere are found by their configuration."""

import json
import shutil

import pytest
from conftest import TINY

from datamodules.videos import DataError
from reproduce.common.cli import resolve
from reproduce.common.settings import Settings
from reproduce.experiments.sources import Source

ROW = [*TINY, "paths.data=/nowhere", "row=soft_attention_1"]


@pytest.fixture
def runs(trained, tmp_path):
    """A folder of runs that holds the finished one."""
    run = (trained / "run").resolve()
    shutil.copytree(run, tmp_path / "runs" / "clips" / run.name, ignore=shutil.ignore_patterns("*.ckpt", ".lock"))
    return tmp_path / "runs"


def test_a_run_is_found_by_its_configuration_without_the_data(runs, tmp_path):
    source = Source(str(runs), tmp_path / "cache")
    found = source.find(resolve(Settings, ROW))
    assert found is not None and found.path.parent == runs / "clips"
    for word in ("seed=2", "optim.lr=0.02", "data.fps=15", "data.fold=all/2", "data.folder=others", "data.split=seed-1"):
        assert source.find(resolve(Settings, [*ROW, word])) is None, word


def test_unfinished_runs_are_none(runs, tmp_path):
    next(runs.glob("clips/*/metrics.json")).unlink()
    assert Source(str(runs), tmp_path / "cache").find(resolve(Settings, ROW)) is None


def test_two_runs_on_different_videos_are_not_mixed(runs, tmp_path):
    first = next(runs.glob("clips/*"))
    second = first.with_name("soft_attention_1-0123456789ab")
    shutil.copytree(first, second)
    about = json.loads((second / "run.json").read_text())
    about["identity"]["videos"] = "others"
    (second / "run.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="made on different videos: clips/.*; name one sweep"):
        Source(str(runs), tmp_path / "cache").find(resolve(Settings, ROW))
