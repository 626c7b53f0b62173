"""A system is added by one module and its entries, a data set by one reader and its entry: Table 1 is made with both."""

import shutil
import subprocess
import sys

import pytest
from conftest import PATIENCE, REPOSITORY, SMALL_BACKBONE, draw_clips, unmeasured

SYSTEM = '''"""Class priors: every video scores what its class's share of train is."""

import numpy as np


def build(settings, annotation):
    """Make one."""
    return Priors()


class Priors:
    """Says the same of every video."""

    def fit(self, videos, stores, run, log):
        """Count the classes of train."""
        counts = np.bincount([label for video in videos.train for label in video.labels], minlength=len(videos.classes))
        self.shares = counts / len(videos.train)
        return {}

    def scores(self, videos, stores):
        """The shares, once a video."""
        return np.tile(self.shares, (len(videos.test), 1))
'''
READER = '''"""A dozen drawn clips, class by folder; the last two of each class are test."""

from datamodules.parts import WHOLE
from datamodules.videos import Annotation, Video, check

DEFAULT_SPLIT = "only"
ARCHIVES, LEAST_FRAMES = (), 12


def is_split(name):
    """Whether there is a split of that name."""
    return name == "only"


def read(root, split="only", skip_bad=False, part=WHOLE):
    """Read it."""
    classes = tuple(sorted(path.name for path in root.iterdir() if path.is_dir()))
    sides = {"train": [], "test": []}
    for label, name in enumerate(classes):
        for number, path in enumerate(sorted((root / name).iterdir())):
            video = Video(f"{name}/{path.name}", (label,), f"{name} {number // 2}")
            sides["test" if number >= 4 else "train"].append(video)
    annotation = Annotation("dozen", split, root, root, classes, False, tuple(sides["train"]), tuple(sides["test"]))
    return check(annotation, "draw it again", skip_bad=skip_bad, part=part)
'''
ENTRIES = """
SYSTEMS["priors"] = SystemInfo("reproduce.systems.priors", RGB, ("model.name",), stores=(), deterministic=True)
ROWS["class_priors"] = RowInfo("Class priors", {"model.name": "priors"})
DATASETS["dozen"] = DataSetInfo("A dozen clips", "datamodules.dozen")
"""


@pytest.mark.slow(measured=True)
def test_table_1_is_made_with_a_system_and_a_data_set_that_were_added(tmp_path):
    copy = tmp_path / "copy"
    for package in ("reproduce", "datamodules", "lightning_modules", "sweeps"):
        shutil.copytree(REPOSITORY / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "reproduce/systems/priors.py").write_text(SYSTEM)
    (copy / "datamodules/dozen.py").write_text(READER)
    with (copy / "reproduce/common/catalogue.py").open("a") as catalogue:
        catalogue.write(ENTRIES)
    draw_clips(tmp_path / "data/dozen", classes=2)
    (tmp_path / "data/dozen/videos.csv").unlink()
    small = ["model.hidden_dim=8", "model.num_layers=1", "trainer.max_epochs=1", "data.batch_size=8", "logging.wandb=disabled"]
    command = [sys.executable, str(copy / "reproduce/table1.py"), "datasets=[dozen]", "rows=[class_priors,avg_pool_lstm]"]
    environment = {**unmeasured(), "PYTHONPATH": str(copy)}

    def made(*words: str) -> str:
        done = subprocess.run(
            [*words, *SMALL_BACKBONE, *small, "paths.data=data"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    made(*command, "seeds=[1,2]")
    text = (tmp_path / "results/table1.md").read_text()
    assert "A dozen clips" in text and "Class priors" in text and "50.0" in text
    assert len(list(tmp_path.glob("runs/dozen/class_priors-*/metrics.json"))) == 1, "a deterministic system has one run"
