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


@pytest.fixture
def joined(data, tmp_path) -> UnlabelledBlocks:
    """The same set, and a second one of four videos, two of which are its test."""
    rows = [(f"{name}/{side}.avi", name, side, side) for name in "ab" for side in ("train", "test")]
    frames = {name: 31 + 9 * number for number, (name, *_) in enumerate(rows)}
    made = []
    for root, features in ((data.annotation.root, data.store.path), (None, None)):
        root = root or lay_out(tmp_path / "videos", rows)
        features = features or fill(tmp_path / "features", frames).path
        one = UnlabelledBlocks(root, features, reader=videofolder, batch_size=16, resident="ram")
        one.inputs, one.length = ("mean",), LENGTH
        made.append(one)
    made[1].take_all()
    made[0].others = made[1:]
    return made[0]


def test_an_epoch_has_each_block_of_the_other_sets_once_and_every_batch_is_of_one_set(data, joined):
    (other,) = joined.others
    assert not other.videos("test") and len(other.videos("train")) == 4
    own = {v.numpy().tobytes() for batch in batches(data, "train") for v in batch.frames}
    sources, found = [], []
    for batch in batches(joined, "train"):
        blocks = [v.numpy().tobytes() for v in batch.frames]
        sources.append({block in own for block in blocks})
        found += blocks
    assert all(len(kinds) == 1 for kinds in sources) and sources != sorted(sources, key=str)
    assert len(found) == len(set(found)) == len(own) + int(other.block_counts("train").sum())
    held = {v.numpy().tobytes() for batch in batches(joined, "val") for v in batch.frames}
    assert held == {v.numpy().tobytes() for batch in batches(data, "val") for v in batch.frames} and not held & set(found)


def test_epochs_differ_and_are_counted_by_the_batches_of_all_sets(joined):
    def order(step: int) -> list[bytes]:
        joined.trainer = stage("train", 0, 1)
        joined.trainer.global_step = step
        loader = joined.train_dataloader()
        return [joined.transfer_batch_to_device(share, CPU, 0).frames.numpy().tobytes() for share in loader]

    first, steps = order(0), len(joined.train_dataloader())
    assert order(0) == first == order(steps - 1) and len(first) == steps
    assert order(steps) != first and sorted(b"".join(order(steps))) == sorted(b"".join(first))


def test_two_processes_share_the_batches_of_every_set(joined):
    whole = batches(joined, "train")
    shares = []
    for rank in range(2):
        for one in (joined, *joined.others):
            one._subsets.clear(), one._pools.clear()
        shares.append(batches(joined, "train", rank, 2))
    for number, batch in enumerate(whole):
        parts = [share[number].frames[share[number].weight > 0] for share in shares]
        assert sorted(v.numpy().tobytes() for v in torch.cat(parts)) == sorted(v.numpy().tobytes() for v in batch.frames)
