"""Where a data module's frames lie, on which rank, and in which order their blocks come."""

import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from handmade import CPU, FRAMES, INPUTS, ROWS, batches, blocks_of, fill, lay_out, module, naive_blocks, stage, transferred

from datamodules import base
from datamodules.pool import frame_bytes
from datamodules.videos import DataError

TRAIN = [row[0] for row in ROWS if row[3] == "train"]
LONGEST = max(FRAMES.values())


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return lay_out(tmp_path_factory.mktemp("places") / "videos", ROWS)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("places") / "features", FRAMES).path


def rotating(root: Path, features: Path, frames: int = 2 * (LONGEST + 300), **settings):
    """A data module whose memory holds so many cubes, besides all means and maxima."""
    plain = module(root, features)
    lengths = [FRAMES[video.name] for video in plain.annotation.train]
    pooled = (sum(lengths) + max(lengths)) * frame_bytes(plain.store, INPUTS[1:])
    budget = frames * frame_bytes(plain.store, INPUTS[:1]) + pooled
    return module(root, features, **{"resident": "rotate", "ram_budget": budget, **settings})


def count_reads(data, monkeypatch) -> list[str]:
    """Names of the videos whose cubes are opened from now on."""
    reads: list[str] = []
    read = data.store.read
    monkeypatch.setattr(data.store, "read", lambda name: (reads.append(name), read(name))[1])
    return reads


def pool_of(data, which: str):
    return data._subset(which).pool


# places


@pytest.mark.parametrize("which", ["train", "val", "test"])
@pytest.mark.parametrize("resident", ["mmap", "gpu", "auto"])
def test_batches_are_the_same_wherever_the_features_lie(root, features, which, resident):
    reference = batches(module(root, features, resident="ram"), which)
    data = module(root, features, resident=resident)
    found = batches(data, which)
    assert len(reference) == len(found) > 1
    for ours, theirs in zip(reference, found, strict=True):
        assert ours.cube.dtype == theirs.cube.dtype == torch.float16 and ours.cube.shape[-2:] == (6, 4)
        assert all(torch.equal(getattr(ours, kind), getattr(theirs, kind)) for kind in INPUTS)
        rest = [[part for name, part in batch._asdict().items() if name not in INPUTS] for batch in (ours, theirs)]
        assert all(np.array_equal(a, b) for a, b in zip(*rest, strict=True))
    assert data.notes == [] and data.capacity is None


def test_auto_on_a_machine_with_room_is_main_memory(root, features):
    data = module(root, features, resident="auto")
    batches(data, "train")
    assert pool_of(data, "train").resident == "ram" and pool_of(data, "test").resident == "mmap"


def test_an_unknown_place_for_the_features_is_refused(root, features):
    with pytest.raises(ValueError, match="resident='disk' is none of auto, gpu, ram, mmap, rotate"):
        module(root, features, resident="disk")


@pytest.mark.parametrize("which", ["train", "val", "test"])
@pytest.mark.parametrize("inputs", [("mean",), ("mean", "max"), ("cube",), ("cube", "mean")], ids="+".join)
@pytest.mark.parametrize("resident", ["ram", "mmap"])
def test_only_what_the_network_needs_is_read_and_in_the_batch(root, features, which, inputs, resident, monkeypatch):
    whole = batches(module(root, features), which)
    data = module(root, features, resident=resident)
    data.inputs = inputs
    reads = count_reads(data, monkeypatch)
    if inputs == ("cube",):
        monkeypatch.setattr(data.store, "pooled", None)
    for found, reference in zip(batches(data, which), whole, strict=True):
        for kind in INPUTS:
            if kind in inputs:
                assert torch.equal(getattr(found, kind), getattr(reference, kind))
            else:
                assert getattr(found, kind) is None
    assert bool(reads) == ("cube" in inputs)


# stages


@pytest.mark.parametrize("resident", ["ram", "gpu"])
def test_training_on_all_goes_on_with_the_frames_of_the_stage_before(root, features, resident, monkeypatch):
    data = module(root, features, resident=resident)
    reads = count_reads(data, monkeypatch)
    held_out = {video.name for video in data.videos("val")}
    assert sorted(blocks_of(batches(data, "train"))) == sorted(naive_blocks([n for n in TRAIN if n not in held_out]))
    assert len(blocks_of(batches(data, "val"))) == data.block_counts("val").sum()
    pool = pool_of(data, "train")
    assert pool is pool_of(data, "val") and set(pool.names) == set(TRAIN)
    assert sorted(reads) == sorted(TRAIN), "each once"
    data.train_on_all = True
    assert sorted(blocks_of(batches(data, "train"))) == sorted(naive_blocks(TRAIN))
    assert pool_of(data, "train") is pool and len(reads) == len(TRAIN)
    assert batches(data, "val") == []
    data.train_on_all = False
    assert len(blocks_of(batches(data, "train"))) < len(naive_blocks(TRAIN)) and len(reads) == len(TRAIN)


def test_both_stages_rotate_through_the_same_memory(root, features):
    data = rotating(root, features)
    held_out = {video.name for video in data.videos("val")}
    assert sorted(blocks_of(batches(data, "train"))) == sorted(naive_blocks([n for n in TRAIN if n not in held_out]))
    pool = pool_of(data, "train")
    data.train_on_all = True
    assert sorted(blocks_of(batches(data, "train"))) == sorted(naive_blocks(TRAIN))
    assert pool_of(data, "train") is pool


# order


def order(data, **trainer) -> list[bytes]:
    return blocks_of(batches(data, "train", **trainer))


@pytest.mark.parametrize("make", [module, rotating])
def test_each_epoch_and_each_seed_has_its_own_order_and_the_same_blocks(root, features, make):
    data = make(root, features, seed=1)
    first = order(data, epoch=0)
    assert order(make(root, features, seed=1), epoch=0) == first
    for other in (order(data, epoch=1), order(make(root, features, seed=2), epoch=0)):
        assert other != first and sorted(other) == sorted(first)


@pytest.mark.parametrize("make", [module, rotating])
def test_the_first_batch_after_a_resume_is_of_the_new_epoch_before_lightning_has_counted_it(root, features, make):
    data = make(root, features)
    second = order(data, epoch=1)
    data.trainer = stage("train", epoch=0)
    loader = data.train_dataloader()
    data.trainer.global_step = len(loader)
    assert blocks_of([transferred(data, share) for share in loader]) == second


# rotation


@pytest.mark.parametrize("resident", ["rotate", "auto"])
def test_what_does_not_fit_rotates_and_every_block_comes_once_an_epoch(root, features, resident):
    frames = 2 * (LONGEST + 300)
    data = rotating(root, features, frames, resident=resident)
    expected = sorted(naive_blocks([video.name for video in data.videos("train")]))
    for epoch in (0, 1, 2):
        assert sorted(order(data, epoch=epoch)) == expected
    assert data.capacity == frames
    (note,) = data.notes
    assert f"shuffled within a pool of {frames} frames" in note and "rotate" in note
    assert blocks_of(batches(data, "val")) == naive_blocks([video.name for video in data.videos("val")])
    assert blocks_of(batches(data, "test")) == naive_blocks([video.name for video in data.videos("test")])


def test_an_epoch_of_rotation_reads_each_training_video_once_and_none_that_is_held_out(root, features):
    data = rotating(root, features)
    trained = sum(FRAMES[video.name] for video in data.videos("train"))
    for epoch in range(3):
        order(data, epoch=epoch)
        assert pool_of(data, "train")._rotation.frames_read == (epoch + 1) * trained


def test_means_and_maxima_come_with_the_cubes_that_rotate(root, features):
    for batch in batches(rotating(root, features), "train"):
        assert torch.allclose(batch.mean, batch.cube.float().mean(-2), atol=1e-6)
        assert torch.equal(batch.max, batch.cube.float().amax(-2))


def test_means_alone_do_not_rotate(root, features):
    for resident in ("auto", "rotate"):
        data = module(root, features, resident=resident, ram_budget=1)
        data.inputs = ("mean",)
        assert sorted(blocks_of(batches(data, "train"), "mean")) == sorted(
            blocks_of(batches(module(root, features), "train"), "mean")
        )
        assert data.capacity is None and data.notes == []


def test_a_memory_too_small_to_rotate_names_the_setting_and_the_longest_video(root, features):
    data = rotating(root, features, 2 * LONGEST)
    with pytest.raises(DataError, match=rf"{2 * LONGEST} frames at a time .* video of {LONGEST} frames.*data\.ram_budget"):
        batches(data, "train")


@pytest.mark.parametrize("spare", [20, 60])
def test_the_smallest_memory_that_is_not_refused_does_rotate(root, features, spare):
    data = rotating(root, features, 2 * (LONGEST + spare))
    expected = sorted(naive_blocks([video.name for video in data.videos("train")]))
    assert sorted(order(data)) == expected


def test_all_ranks_do_as_the_first_decides(root, features):
    strategy = SimpleNamespace(root_device=CPU, broadcast=lambda _: ("rotate", 2 * (LONGEST + 300)))
    data = module(root, features, resident="auto")
    found = blocks_of(batches(data, "train", rank=1, world_size=2, strategy=strategy))
    assert data.capacity == 2 * (LONGEST + 300) and pool_of(data, "train").resident == "rotate"
    other = rotating(root, features)
    assert found == blocks_of(batches(other, "train", rank=1, world_size=2, strategy=strategy))


# GPUs


def on_a_gpu(data, free: int, monkeypatch):
    """The data module of a Trainer on a GPU with so many bytes free besides the reserve."""
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0), broadcast=lambda place: place)
    data.trainer = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1, global_step=0, num_devices=1)
    asked = []
    monkeypatch.setattr(base, "free_gpu_memory", lambda device, reserve: asked.append((device.index, reserve)) or free)
    return data, asked


def test_on_a_gpu_features_lie_there_if_they_fit_besides_the_reserve_and_rotate_else(root, features, monkeypatch):
    data, asked = on_a_gpu(module(root, features, resident="auto", gpu_reserve=123), 2**40, monkeypatch)
    assert pool_of(data, "train").resident == "gpu" and asked == [(0, 123)]
    frames = rotating(root, features).ram_budget
    data, _ = on_a_gpu(module(root, features, resident="auto"), frames, monkeypatch)
    assert pool_of(data, "train").resident == "rotate"
    data, _ = on_a_gpu(module(root, features, resident="auto", gpu_budget=frames), 2**40, monkeypatch)
    assert pool_of(data, "train").resident == "rotate"
    data, _ = on_a_gpu(module(root, features, resident="rotate"), 1, monkeypatch)
    with pytest.raises(DataError, match="set data.gpu_budget higher"):
        pool_of(data, "train")


@pytest.mark.parametrize("batch_size", [7, 16])
def test_on_a_gpu_all_shares_of_an_epoch_have_one_size_and_on_the_cpu_the_last_is_smaller(
    root, features, batch_size, monkeypatch
):
    plain = module(root, features, resident="ram", batch_size=batch_size)
    data, _ = on_a_gpu(module(root, features, resident="ram", batch_size=batch_size), 2**40, monkeypatch)
    sizes, padded = ([len(share.blocks) for share in one.train_dataloader()] for one in (plain, data))
    assert set(padded) == {batch_size} and sizes[:-1] == padded[:-1] and sizes[-1] < batch_size


# ranks


@pytest.mark.parametrize("make", [module, rotating])
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_each_global_batch_of_training(root, features, make, world_size):
    alone = batches(module(root, features, batch_size=7), "train")
    modules = [make(root, features, batch_size=7) for _ in range(world_size)]
    ranks = [batches(data, "train", rank=rank, world_size=world_size) for rank, data in enumerate(modules)]
    united = []
    for whole, *shares in zip(alone, *ranks, strict=True):
        united.append(sorted(blocks_of(shares)))
        assert {share.batch_size for share in shares} == {whole.batch_size} == {len(united[-1])}
        assert all(len(share.cube) == len(share.target) == len(share.weight) >= 1 for share in shares)
    if make is module:
        assert united == [sorted(blocks_of([whole])) for whole in alone]
    assert sorted(sum(united, [])) == sorted(blocks_of(alone))


@pytest.mark.parametrize("world_size", [2, 5])
@pytest.mark.parametrize("resident", ["ram", "mmap", "gpu"])
def test_each_rank_holds_its_own_videos_and_reads_no_other(root, features, world_size, resident, monkeypatch):
    for which, names in (("train", TRAIN), ("test", [row[0] for row in ROWS if row[3] == "test"])):
        held = []
        for rank in range(world_size):
            data = module(root, features, resident=resident)
            reads = count_reads(data, monkeypatch)
            batches(data, which, rank=rank, world_size=world_size)
            held.append(pool_of(data, which).names)
            assert reads and set(reads) <= set(held[-1])
        assert sorted(sum(held, [])) == sorted(names)
        loads = [sum(max(1, FRAMES[name] - 29) for name in part) for part in held]
        assert max(loads) - min(loads) <= LONGEST


@pytest.mark.parametrize("which", ["val", "test"])
@pytest.mark.parametrize("world_size", [2, 5])
def test_ranks_share_the_videos_of_an_evaluation_whole(root, features, which, world_size):
    seen, united = {}, []
    for rank in range(world_size):
        found = batches(module(root, features), which, rank=rank, world_size=world_size)
        united += blocks_of(found)
        for batch in found:
            seen[batch.video, rank] = seen.get((batch.video, rank), 0) + batch.blocks
    data = module(root, features)
    assert {video: count for (video, _), count in seen.items()} == dict(enumerate(data.block_counts(which).tolist()))
    assert len(seen) == len(data.videos(which))
    assert sorted(united) == sorted(naive_blocks([video.name for video in data.videos(which)]))


def test_a_rank_validates_on_the_frames_that_it_holds_for_training(root, features, monkeypatch):
    data = module(root, features)
    batches(data, "train", rank=1, world_size=2)
    reads = count_reads(data, monkeypatch)
    found = batches(data, "val", rank=1, world_size=2)
    assert found and not reads
    names = {data.videos("val")[batch.video].name for batch in found}
    assert names <= set(pool_of(data, "train").names)


def test_more_ranks_than_videos_are_refused(root, features):
    world_size = len(TRAIN) + 1
    idle = 0
    for rank in range(world_size):
        data = module(root, features)
        trained = {video.name for video in data.videos("train")}
        data.trainer = stage("train", rank, world_size)
        if trained & set(pool_of(data, "train").names):
            continue
        idle += 1
        with pytest.raises(DataError, match=rf"rank {rank} has no video: .*trainer\.devices"):
            list(data.train_dataloader())
    assert idle == 1 + len(module(root, features).videos("val"))


def test_counts_and_targets_are_those_of_the_whole_set_on_every_rank(root, features):
    for which in ("train", "val", "test"):
        alone = module(root, features)
        for rank in range(2):
            data = module(root, features)
            data.trainer = stage(which, rank, 2)
            assert np.array_equal(data.block_counts(which), alone.block_counts(which))
            assert np.array_equal(data.targets(which), alone.targets(which))


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="this system does not tell a process's memory")
@pytest.mark.parametrize("make", [module, rotating])
def test_memory_does_not_grow_with_epochs(root, features, make):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    data = make(root, features)
    for epoch in range(5):  # what is loaded once, is
        order(data, epoch=epoch)
    growth = []
    for start in (5, 25, 45):  # what leaks does so in each; the system takes and gives some in one
        before = resident()
        for epoch in range(start, start + 20):
            order(data, epoch=epoch)
        growth.append(resident() - before)
    assert min(growth) < 4 * 2**20  # twenty epochs of blocks would be some 30 MiB
