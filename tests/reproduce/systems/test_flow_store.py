"""Flow stores: as computed by hand, of short and broken videos too, with what they cost said before."""

import re
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import TINY
from moving_clips import lay_out_moving

from datamodules.decoding import read_frames
from datamodules.descriptors.flow import ZERO, flow_of, quantised, resized
from datamodules.videos import DataError
from reproduce.common.cli import resolve
from reproduce.common.dataset import read_annotation
from reproduce.common.settings import Settings
from reproduce.systems import flow_store

CLIP, STILL = "down/clip4.avi", "down/still.avi"


@pytest.fixture
def root(tmp_path) -> Path:
    lay_out_moving(tmp_path / "clips", per_class=2)
    return tmp_path


def made(root: Path, *more: str):
    words = [*TINY, "flow.size=24", "trajectories.workers=1", f"paths.data={root}", f"paths.features={root / 'features'}"]
    settings = resolve(Settings, [*words, *more])
    annotation = read_annotation(settings)
    return flow_store.ensure(settings, annotation), annotation


def write(path: Path, frames: list[np.ndarray]) -> None:
    with av.open(f"file:{path}", "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="bgr0")))
        container.mux(stream.encode(None))


def test_a_store_holds_each_pairs_field_and_its_cost_is_said_before(root, capsys):
    store, annotation = made(root)
    printed = capsys.readouterr().out
    assert re.search(r"finding optical flow in 7 videos: [0-9.]+ ms a row, 168 rows by estimate: .* GiB\n", printed)
    assert sorted(store.videos) == sorted(video.name for video in annotation.videos)
    name = annotation.test[0].name
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in read_frames(annotation.folder / name)]
    find = flow_of("dis")
    pairs = zip(gray, gray[1:], strict=False)
    assert np.array_equal(store.read(name), np.stack([quantised(resized(find(*pair), (32, 24))) for pair in pairs]))
    assert store.rows(name) == store.videos[name]["frames"] - 1 == 23
    assert (store.read(STILL) == ZERO).all() and (store.read(name) != ZERO).any()
    assert store.manifest["opencv"] == cv2.__version__ and any("DIS" in note and "Brox" in note for note in store.notes)
    assert flow_store.about(store, annotation)["flow"] == {"method": "dis", "width": 32, "height": 24}


def test_a_second_call_finds_everything_there(root, capsys):
    store, _ = made(root)
    capsys.readouterr()
    assert made(root)[0].videos == store.videos and not capsys.readouterr().out


def test_a_single_frame_has_one_field_without_motion(root):
    write(root / "clips" / CLIP.replace("4", "1"), [np.full((60, 80, 3), 90, np.uint8)])
    store, _ = made(root)
    assert (store.read("down/clip1.avi") == ZERO).all() and store.rows("down/clip1.avi") == 1


@pytest.mark.counts("bad videos")
def test_a_broken_video_is_bad(root):
    (root / "clips/down/clip0.avi").write_bytes(b"no video")
    store, _ = made(root)
    assert list(store.bad) == ["down/clip0.avi"] and len(store.videos) == 6


def test_methods_have_folders_of_their_own(root):
    found, other = made(root)[0], made(root, "flow.method=farneback")[0]
    assert found.path != other.path and any("Farnebäck" in note for note in other.notes)
    assert not np.array_equal(found.read("down/clip0.avi"), other.read("down/clip0.avi"))


@pytest.mark.skipif(hasattr(cv2, "optflow"), reason="the contributed modules are there")
def test_a_method_that_is_not_installed_is_refused_before_anything_is_written(root):
    with pytest.raises(DataError, match="flow.method=tvl1"):
        made(root, "flow.method=tvl1")
    assert not (root / "features").exists()
