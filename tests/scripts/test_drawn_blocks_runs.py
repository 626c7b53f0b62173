"""Runs on a dozen long clips of which a few random blocks alone have features."""

from pathlib import Path

import numpy as np
import pytest
from coloured_videos import stamp_of, stamped, write_video
from commands import kill_when
from conftest import TINY, script
from PIL import Image

from datamodules.drawn_blocks import Draw, draw_blocks
from datamodules.features import FeatureStore
from reproduce.experiments.attention_files import read_recordings
from reproduce.experiments.folder import RunFolder
from reproduce.visual.overlay import GAP

LENGTHS = {"train": (20, 30, 31, 90, 200, 300, 400, 500), "test": (250, 600, 25, 45)}
STORE = "features/miniature/sports1m/mobilenet_v3_small-random-blocks-3-6"
WORDS = [
    *(word for word in TINY if not word.startswith(("data.name", "data.folder"))),
    *("data.name=sports1m", "data.blocks_per_video=[3,6]", "trainer.max_epochs=1", "backbone.precision=fp32"),
]


def key(side: str, number: int) -> str:
    return f"{side}-{number}".ljust(11, "_")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Sports-1M's folder with a dozen clips of two sports; ``paths.data``."""
    folder = tmp_path_factory.mktemp("long")
    root = folder / "sports1m"
    (root / "videos").mkdir(parents=True)
    (root / "original").mkdir()
    (root / "labels.txt").write_text("".join(f"sport {label}\n" for label in range(487)))
    for side, lengths in LENGTHS.items():
        lines = []
        for number, length in enumerate(lengths):
            lines.append(f"https://www.youtube.com/watch?v={key(side, number)} {number % 2}\n")
            frames = (255 * (number % 2) ^ stamped(frame) for frame in range(length))
            write_video(root / "videos" / f"{key(side, number)}.mp4", frames)
        (root / "original" / f"{side}_partition.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def prepared(videos, tmp_path_factory) -> Path:
    """A folder with the store of one process."""
    folder = tmp_path_factory.mktemp("prepared")
    script("prepare.py", *WORDS, f"paths.data={videos}", cwd=folder)
    return folder


@pytest.mark.slow(measured=True)
def test_the_store_has_the_blocks_that_seed_and_ids_say_and_short_videos_whole(prepared):
    store = FeatureStore(prepared / STORE)
    assert store.drawn == "3 random blocks a train video, 6 a test video, seed 0"
    for side, lengths in LENGTHS.items():
        for number, length in enumerate(lengths):
            draw = Draw({"train": 3, "test": 6}[side], 0, key(side, number))
            blocks = draw_blocks(range(length), draw)
            name = f"{key(side, number)}.mp4"
            assert store.source_frames(name).tolist() == [frame for _, block in blocks for frame in block]
            assert store.videos[name]["declared_frames"] == length and store.damaged([name]) == {}
            # Where two blocks overlap, a frame has the same features in both.
            sources, cubes = store.source_frames(name), store.read(name)
            for frame in np.unique(sources):
                rows = cubes[sources == frame]
                assert (rows == rows[0]).all()


@pytest.mark.slow
def test_two_processes_and_an_extraction_that_was_killed_make_the_same_store(videos, prepared, tmp_path):
    expected = FeatureStore(prepared / STORE)
    both, killed = tmp_path / "both", tmp_path / "killed"
    both.mkdir()
    killed.mkdir()
    words = [*WORDS, f"paths.data={videos}"]
    script("prepare.py", *words, "trainer.devices=2", "trainer.accelerator=cpu", cwd=both)
    journal = killed / STORE / "journal-0.jsonl"
    kill_when(lambda: journal.read_bytes().count(b"\n") > 2, "prepare.py", *words, cwd=killed)
    assert 0 < len(FeatureStore(killed / STORE).videos) < 12
    script("prepare.py", *words, cwd=killed)
    for folder in (both, killed):
        store = FeatureStore(folder / STORE)
        assert {name: entry["starts"] for name, entry in store.videos.items()} == {
            name: entry["starts"] for name, entry in expected.videos.items()
        }
        assert store.fingerprint(store.videos) == expected.fingerprint(expected.videos)


@pytest.mark.slow(measured=True)
def test_networks_and_a_probe_run_on_drawn_blocks_and_say_so(videos, prepared):
    words = [*WORDS, f"paths.data={videos}"]
    run = RunFolder(Path(script("train.py", *words, "row=soft_attention_0", cwd=prepared).stdout.strip().splitlines()[-1]))
    about = run.about()
    assert about["features"]["blocks"] == "3 random blocks a train video, 6 a test video, seed 0" and "stride" not in about
    said = "features of 3 random blocks a train video, 6 a test video, seed 0; a video with fewer gives all"
    assert said in about["notes"] and len(run.predictions().videos) == 4
    # The filmstrip of the first video shows the frames that its first block came from.
    first, _ = sorted((run.path / "attention").glob("*.png"))
    with Image.open(first) as picture:
        strip = np.asarray(picture)
    columns = [strip[:224, left : left + 224] for left in range(0, strip.shape[1], 224 + GAP)]
    (start, _), *_ = draw_blocks(range(LENGTHS["test"][0]), Draw(6, 0, key("test", 0)))
    assert start > 0 and [stamp_of(column) for column in columns] == [start + step for step in range(0, 30, 5)]
    assert read_recordings(run) == []
    probe = RunFolder(Path(script("train.py", *words, "row=linear_probe", cwd=prepared).stdout.strip().splitlines()[-1]))
    assert said in probe.about()["notes"] and probe.about()["features"] == about["features"]
    other = script("train.py", *words, "row=soft_attention_0", "data.blocks_seed=1", cwd=prepared, check=False)
    assert other.returncode == 1 and "blocks is '3 random blocks a train video, 6 a test video, seed 0'" in other.stderr
