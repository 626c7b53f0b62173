"""Blocks without labels: the frames that the protocol names, of train alone, and which are a short video's last again."""

import numpy as np
import pytest
import torch
from handmade import CPU, FRAMES, ROWS, fill, inputs_of, lay_out, stage

from datamodules import videofolder
from datamodules.blocks import BlockIndex
from datamodules.unlabelled import UnlabelledBlocks

LENGTH = 29


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> UnlabelledBlocks:
    root = tmp_path_factory.mktemp("unlabelled")
    features = fill(root / "features", FRAMES).path
    made = UnlabelledBlocks(lay_out(root / "videos", ROWS), features, reader=videofolder, batch_size=16, resident="ram")
    made.inputs, made.length = ("mean",), LENGTH
    return made


def batches(data: UnlabelledBlocks, which: str, rank: int = 0, world_size: int = 1) -> list:
    data.trainer = stage(which, rank, world_size)
    return [data.transfer_batch_to_device(share, CPU, 0) for share in getattr(data, f"{which}_dataloader")()]


@pytest.mark.parametrize("which", ["train", "val"])
def test_blocks_are_those_of_the_sets_videos_and_say_which_frames_are_repeated(data, which):
    found = {}
    for batch in batches(data, which):
        assert batch.batch_size == len(batch.weight) == len(batch.frames) and (batch.weight == 1).all()
        found |= {v.numpy().tobytes(): own.tolist() for v, own in zip(batch.frames, batch.own, strict=True)}
    expected = {}
    for video in data.videos(which):
        index, mean = BlockIndex([FRAMES[video.name]], length=LENGTH), inputs_of(video.name, FRAMES[video.name])["mean"]
        for block in range(len(index)):
            frames = index.locate(np.asarray([block]))[1][0]
            expected[mean[frames].tobytes()] = [t < FRAMES[video.name] for t in range(LENGTH)]
    assert found == expected


def test_no_block_is_of_a_test_video(data):
    names = {video.name for which in ("train", "val") for video in data.videos(which)}
    assert names == {video.name for video in data.annotation.train}
    with pytest.raises(RuntimeError, match="of train alone"):
        data.test_dataloader()


def test_the_processes_share_the_same_batches(data, tmp_path):
    whole = batches(data, "train")
    shares = []
    for rank in range(2):
        part = UnlabelledBlocks(data.annotation.root, data.store.path, reader=videofolder, batch_size=16, resident="ram")
        part.inputs, part.length = ("mean",), LENGTH
        shares.append(batches(part, "train", rank, 2))
    for number, batch in enumerate(whole):
        parts = [share[number].frames[share[number].weight > 0] for share in shares]
        assert sorted(v.numpy().tobytes() for v in torch.cat(parts)) == sorted(v.numpy().tobytes() for v in batch.frames)
        assert all(share[number].batch_size == batch.batch_size for share in shares)
