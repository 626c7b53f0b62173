"""The pool of frames: the same values wherever they lie, nothing read that is not asked for, nothing copied in vain."""

import os
import shutil
from itertools import combinations

import numpy as np
import pytest
import torch
from handmade import CHANNELS, CPU, INPUTS, features_of, fill, inputs_of
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.blocks import BlockIndex, Span
from datamodules.features import FeatureStore, FeatureStoreError
from datamodules.pool import FramePool, frame_bytes, free_memory

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
