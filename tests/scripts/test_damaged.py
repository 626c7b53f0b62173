"""Damaged videos from end to end: refused, then kept by the same store, and said in the table; one header that lies."""

import shutil
from pathlib import Path

import pytest
from conftest import SHARED, TINY, draw_clips, script

from datamodules.features import FeatureStore

STRANGERS = SHARED / "data/strangers"
STORE = "features/miniature/clips/mobilenet_v3_small-random"


@pytest.mark.slow(measured=True)
@pytest.mark.skipif(not STRANGERS.is_dir(), reason=f"the strangers' files are not there: {STRANGERS}")
@pytest.mark.counts("strange videos")
def test_damaged_videos_are_refused_then_kept_and_every_table_says_so(tmp_path):
    root = tmp_path / "data"
    draw_clips(root / "clips", per_class=4, classes=2)
    (root / "clips/videos.csv").unlink()
    for name in ("cuttail.avi", "hugecount.avi", "thumbfirst.mp4"):
        shutil.copy(STRANGERS / name, root / "clips/class0" / name)
    words = [*TINY, f"paths.data={root}"]
    refused = script("prepare.py", *words, cwd=tmp_path, check=False)
    assert refused.returncode == 1 and "bad: class0/cuttail.avi" in refused.stderr and "data.damaged=keep" in refused.stderr
    frames = FeatureStore(tmp_path / STORE).frames
    assert (frames("class0/hugecount.avi"), frames("class0/thumbfirst.mp4")) == (120, 120)
    stopped = script("train.py", *words, "row=avg_pool_lstm", cwd=tmp_path, check=False)
    assert stopped.returncode == 1 and "1 videos do not decode or are damaged: 'class0/cuttail.avi'" in stopped.stderr
    plain = [word for word in words if not word.startswith("data.name")]
    table = ["datasets=[videofolder]", "rows=[avg_pool_lstm]", "trainer.max_epochs=1"]
    made = script("table1.py", *plain, *table, "data.damaged=keep", cwd=tmp_path)
    assert Path(tmp_path / "results/table1.md").read_text().count("clips: 1 videos damaged (") == 1, made.stdout
    assert FeatureStore(tmp_path / STORE).frames("class0/cuttail.avi") == 71
    kept = script("prepare.py", *words, "data.damaged=keep", cwd=tmp_path)
    assert "damaged: class0/cuttail.avi: " in kept.stderr and "what decodes is kept" in kept.stderr
    again = script("prepare.py", *words, cwd=tmp_path, check=False)
    assert again.returncode == 1 and "bad: class0/cuttail.avi" in again.stderr
