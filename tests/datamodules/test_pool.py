"""The pool of frames: the same values wherever they lie, nothing read that is not asked for, nothing copied in vain."""

import os
import shutil
from itertools import combinations

import numpy as np
import pytest
import torch
from fake_cuda import GPU, Launches, fake_cuda
from handmade import CHANNELS, CPU, INPUTS, features_of, fill, inputs_of
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import pool as pool_module
from datamodules.blocks import BlockIndex, Span
from datamodules.features import FeatureStore, FeatureStoreError
from datamodules.pool import FramePool, frame_bytes, free_gpu_memory, free_memory, send

QUICK = settings(deadline=None, max_examples=40)
VIDEOS = {"a/one.avi": 1, "a/short.avi": 19, "b/block.avi": 30, "b/two.avi": 31, "c/long.avi": 170, "c/middle.avi": 42}
NAMES = list(VIDEOS)
PLACES = ("ram", "mmap", "gpu", "rotate")
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(INPUTS, size)]

some_inputs = st.sampled_from(SUBSETS)
places = pytest.mark.parametrize("resident", PLACES)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> FeatureStore:
    return fill(tmp_path_factory.mktemp("pool") / "store", VIDEOS)


@pytest.fixture
def own_store(tmp_path) -> FeatureStore:
    """One that a test may damage."""
    return fill(tmp_path / "store", VIDEOS)


def gather(pool: FramePool, videos: np.ndarray, frames: np.ndarray) -> dict[str, torch.Tensor]:
    """Blocks, gathered where they come by reference."""
    found = pool.gather(videos, frames, CPU, np.zeros(len(pool.names), dtype=np.int64))
    rows = found.pop("rows", None)
    return found if rows is None else {**found, "cube": found["cube"][rows]}


def expected_of(names: list[str], videos: np.ndarray, frames: np.ndarray, kind: str) -> np.ndarray:
    return np.stack([inputs_of(names[v], VIDEOS[names[v]])[kind][f] for v, f in zip(videos, frames, strict=True)])


def equal(kind: str, found: torch.Tensor, expected: np.ndarray) -> bool:
    """A mean's last digit is left to the order of its sum; all else is exact."""
    dtype = torch.float16 if kind == "cube" else torch.float32
    assert found.dtype == dtype and tuple(found.shape) == expected.shape and found.device == CPU
    return np.allclose(found.numpy(), expected, atol=1e-6) if kind == "mean" else np.array_equal(found.numpy(), expected)


# gather


@places
@given(some_inputs, st.sampled_from([1, 5]), st.randoms(use_true_random=False))
@QUICK
def test_gathered_blocks_are_the_frames_of_their_videos_wherever_these_lie(store, resident, inputs, skip, random):
    names = random.sample(NAMES, k=random.randint(1, len(NAMES)))
    index = BlockIndex([VIDEOS[name] for name in names], skip)
    videos, frames = index.locate(np.array(random.choices(range(len(index)), k=random.randint(1, 9))))
    found = gather(FramePool(store, names, inputs, resident), videos, frames)
    assert set(found) == set(inputs)
    for kind in inputs:
        assert equal(kind, found[kind], expected_of(names, videos, frames, kind))


@pytest.mark.parametrize("inputs", SUBSETS, ids="+".join)
def test_every_place_gives_the_same_bytes_again_and_again(store, inputs):
    index = BlockIndex(list(VIDEOS.values()))
    videos, frames = index.locate(np.random.default_rng(0).permutation(len(index))[:40])
    reference = gather(FramePool(store, NAMES, inputs, "ram"), videos, frames)
    for resident in PLACES:
        pool = FramePool(store, NAMES, inputs, resident)
        for _ in range(2):
            found = gather(pool, videos, frames)
            assert all(torch.equal(found[kind], reference[kind]) for kind in inputs) and len(found) == len(inputs)


@places
def test_pools_of_means_alone_need_no_turns(store, resident):
    pool = FramePool(store, NAMES, ("mean", "max"), resident)
    found = pool.gather(np.array([4]), np.arange(30)[None], CPU)
    assert equal("max", found["max"], expected_of(NAMES, np.array([4]), np.arange(30)[None], "max"))
    assert pool.resident == ("gpu" if resident == "gpu" else "ram")


# stretch


@places
@pytest.mark.parametrize("loaded", [False, True], ids=["from the files", "after a gather"])
@given(some_inputs, st.integers(1, 5), st.integers(1, 9), st.data())
@QUICK
def test_stretches_are_the_frames_of_their_video_wherever_these_lie(store, resident, loaded, inputs, skip, stride, data):
    pool = FramePool(store, NAMES, inputs, resident)
    if loaded:
        gather(pool, np.array([0]), np.zeros((1, 30), dtype=np.int64))
    index = BlockIndex(list(VIDEOS.values()), skip, stride)
    for video in range(len(NAMES)):
        first = data.draw(st.integers(0, int(index.counts[video]) - 1))
        count = data.draw(st.integers(1, int(index.counts[video]) - first))
        frames, *_ = index.stretch(Span(video, first, count))
        found = pool.stretch(video, frames, CPU)
        assert set(found) == set(inputs)
        for kind in inputs:
            assert equal(kind, found[kind], inputs_of(NAMES[video], VIDEOS[NAMES[video]])[kind][frames])


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(("skip", "stride"), [(1, 1), (5, 5), (5, 3), (2, 4)])
def test_a_stretch_of_a_pool_in_memory_is_a_view_on_it(store, kind, skip, stride):
    pool = FramePool(store, NAMES, (kind,), "ram")
    gather(pool, np.array([0]), np.zeros((1, 30), dtype=np.int64))
    index = BlockIndex(list(VIDEOS.values()), skip, stride)
    whole = pool.stretch(0, np.arange(1), CPU)[kind]
    frame = whole[0].numel() * whole.element_size()
    for first, count in ((0, 1), (2, 3), (0, int(index.counts[4]))):
        frames, *_ = index.stretch(Span(4, first, count))
        found = pool.stretch(4, frames, CPU)[kind]
        position = sum(list(VIDEOS.values())[:4]) + int(frames[0])
        assert found.data_ptr() == whole.data_ptr() + position * frame
        assert found.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
        assert len(found) == len(frames)


@places
@pytest.mark.parametrize("skip", [1, 5])
def test_the_stretch_of_a_short_video_repeats_its_last_frame(store, resident, skip):
    pool = FramePool(store, NAMES, INPUTS, resident)
    gather(pool, np.array([0]), np.zeros((1, 30), dtype=np.int64))
    for video, name in enumerate(NAMES[:2]):
        frames, *_ = BlockIndex(list(VIDEOS.values()), skip).stretch(Span(video, 0, 1))
        assert len(frames) == 30
        for kind, found in pool.stretch(video, frames, CPU).items():
            expected = inputs_of(name, VIDEOS[name])[kind][::skip]
            real = len(expected)
            assert equal(kind, found[:real], expected)
            assert (found[real:] == found[real - 1]).all()


def test_a_stretch_alone_does_not_load_the_pool(own_store):
    pool = FramePool(own_store, NAMES, INPUTS, "ram")
    for video, name in enumerate(NAMES):
        if video != 4:
            own_store.file(name).unlink()
            own_store.pooled_file(name).unlink()
    found = pool.stretch(4, np.arange(50, 90), CPU)
    assert np.array_equal(found["cube"], features_of(NAMES[4], 170)[50:90])


# what is read


@places
@pytest.mark.parametrize("inputs", SUBSETS, ids="+".join)
def test_files_of_what_is_not_asked_for_are_not_read(own_store, resident, inputs):
    if "cube" not in inputs:
        shutil.rmtree(own_store.path / "videos")
    if inputs == ("cube",):
        shutil.rmtree(own_store.path / "pooled")
    pool = FramePool(own_store, NAMES, inputs, resident)
    for found in (pool.stretch(3, np.arange(31), CPU), gather(pool, np.array([3]), np.arange(30)[None])):
        assert tuple(found) == inputs


@pytest.mark.parametrize("resident", ["ram", "gpu"])
def test_a_pool_in_memory_reads_each_file_once(own_store, resident):
    pool = FramePool(own_store, NAMES, INPUTS, resident)
    frames = np.arange(30)[None]
    first = gather(pool, np.array([4]), frames)
    shutil.rmtree(own_store.path / "videos")
    shutil.rmtree(own_store.path / "pooled")
    again = gather(pool, np.array([4]), frames)
    assert all(torch.equal(first[kind], again[kind]) for kind in INPUTS)
    assert np.array_equal(pool.stretch(5, np.arange(42), CPU)["cube"], features_of(NAMES[5], 42))


@places
def test_a_damaged_file_is_named_wherever_the_frames_are_to_lie(own_store, resident):
    path = own_store.file(NAMES[4])
    path.write_bytes(path.read_bytes()[:500])
    pool = FramePool(own_store, NAMES, INPUTS, resident)
    with pytest.raises(FeatureStoreError, match=r"c/long\.avi\.npy: not readable"):
        gather(pool, np.array([4]), np.arange(30)[None])


def test_a_pool_of_no_videos_of_its_store_has_no_frames(store):
    pool = FramePool(store, [], INPUTS, "ram")
    assert pool.names == [] and pool.num_frames.sum() == 0


# memory


@pytest.mark.parametrize("inputs", SUBSETS, ids="+".join)
def test_the_bytes_of_a_frame_are_those_of_what_is_gathered(store, inputs):
    found = gather(FramePool(store, NAMES, inputs, "ram"), np.array([4]), np.arange(1)[None])
    assert frame_bytes(store, inputs) == sum(part.numel() * part.element_size() for part in found.values())
    assert frame_bytes(store, ("mean",)) == 4 * CHANNELS


def test_free_memory_is_part_of_what_the_machine_has():
    assert 0 < free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# On a GPU


def test_a_pool_on_a_gpu_is_filled_video_by_video_and_never_whole_on_the_host(store, monkeypatch):
    """A tensor without values stands for the GPU's; the host holds the longest video once."""
    made, real = [], torch.empty
    monkeypatch.setattr(pool_module.torch, "empty", lambda *shape, **told: made.append((shape, told)) or real(*shape, **told))
    there = FramePool(store, NAMES, INPUTS, "gpu")._load("cube", torch.device("meta"))
    assert there.device.type == "meta" and len(there) == sum(VIDEOS.values())
    assert [shape[0] for shape, told in made if told["device"] == "cpu"] == [max(VIDEOS.values())]


def test_indices_and_targets_go_to_a_gpu_in_one_transfer_that_nothing_waits_for(store):
    index = BlockIndex(list(VIDEOS.values()))
    videos, frames = index.locate(np.arange(40))
    also = {"target": np.zeros(40, dtype=np.int64), "weight": np.ones(40, dtype=np.float32)}
    pool = FramePool(store, NAMES, INPUTS, "gpu")
    with fake_cuda():
        shapes = {"cube": (sum(VIDEOS.values()), 6, CHANNELS), "mean": (sum(VIDEOS.values()), CHANNELS)}
        pool._whole = {name: torch.empty(shapes.get(name, shapes["mean"]), device=GPU) for name in INPUTS}
        with Launches() as seen:
            found = pool.gather(videos, frames, GPU, also=also)
    assert (seen.transfers, seen.blocking) == (1, 0) and {one.device for one in found.values()} == {GPU}
    assert {name: tuple(one.shape) for name, one in found.items() if name not in INPUTS} == {
        "rows": (40, 30),
        "target": (40,),
        "weight": (40,),
    }
    assert found["rows"].dtype == torch.int64 and found["weight"].dtype == torch.float32


@given(st.integers(0, 7), st.integers(0, 7))
@QUICK
def test_what_shares_a_transfer_arrives_as_it_was(blocks, classes):
    arrays = {
        "weight": np.arange(blocks, dtype=np.float32) / 3,
        "rows": np.arange(30 * blocks).reshape(blocks, 30),
        "target": np.arange(blocks * classes, dtype=np.uint8).reshape(blocks, classes),
        "odd": np.arange(100)[:: classes + 1],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda tensor, *where, **how: tensor)  # arrived
        found = send(arrays, torch.device("meta"))
    for name, array in arrays.items():
        assert np.array_equal(found[name].numpy(), array) and found[name].numpy().dtype == array.dtype
    assert all(np.shares_memory(send(arrays, CPU)[name].numpy(), array) for name, array in arrays.items() if array.size)


def test_features_leave_a_reserve_of_a_gpus_free_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * 2**30, 80 * 2**30))
    assert free_gpu_memory(GPU, 8 * 2**30) == 12 * 2**30 and free_gpu_memory(GPU, 30 * 2**30) == 0
