"""Rotation: over whole epochs every frame comes into memory once, and blocks are those that direct reads give."""

from collections import Counter

import numpy as np
import pytest
import torch
from handmade import CPU, GRID, features_of
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.blocks import BlockIndex, Share, rotation, training_order, training_shares
from datamodules.rotation import Rotation

ROOMY = 400  # frames in memory, of which no test here has so many
QUICK = settings(deadline=None, max_examples=40)


class Videos:
    """Some videos and what has been read of them."""

    def __init__(self, counts) -> None:
        self.num_frames = np.asarray(counts, dtype=np.int64)
        self.reads: list[int] = []

    def cubes(self, video: int) -> np.ndarray:
        return features_of(f"video {video}", int(self.num_frames[video]))

    def read(self, video: int) -> np.ndarray:
        self.reads.append(video)
        return self.cubes(video)

    def blocks(self, videos: np.ndarray, frames: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.cubes(int(v))[f] for v, f in zip(videos, frames, strict=True)]))


def gather(rotating: Rotation, videos: np.ndarray, frames: np.ndarray, turns: np.ndarray) -> torch.Tensor:
    cubes, rows = rotating.locate(videos, frames, turns)
    return cubes[rows]


def epoch_of(index: BlockIndex, owners: np.ndarray, rank: int, batch_size: int, capacity: int, epoch: int) -> list[Share]:
    turns = rotation(index.num_frames, owners, capacity, 7, epoch)
    order = training_order(index, 7, epoch, turns)
    return list(training_shares(order, batch_size, np.repeat(owners, index.counts), rank, turns))


def turns_of(shares: list[Share], index: BlockIndex) -> list[set[int]]:
    """The turns that each share draws from."""
    return [set(share.turns[index.locate(share.blocks)[0]].tolist()) for share in shares]


def run(rotating: Rotation, videos: Videos, index: BlockIndex, shares: list[Share], own: np.ndarray, capacity: int) -> None:
    """An epoch on one rank, checked at each step."""
    turns = np.where(own, shares[0].turns, -1)
    before, places = rotating.frames_read, set()
    for share in shares:
        numbers, frames = index.locate(share.blocks)
        found = gather(rotating, numbers, frames, turns)
        assert found.dtype == torch.float16 and torch.equal(found, videos.blocks(numbers, frames))
        assert len(rotating._held) <= 2 and len(rotating._cubes) <= capacity
        places.add(rotating._cubes.data_ptr())
        reached = (turns >= 0) & (turns <= turns[numbers].max() + 1)
        assert rotating.frames_read - before <= videos.num_frames[reached].sum(), "one turn is read ahead, no more"
    assert rotating.frames_read - before == videos.num_frames[own].sum() and len(places) == 1


@st.composite
def fleets(draw) -> tuple[np.ndarray, np.ndarray, int, int, int]:
    """Frames and rank of each video, the number of ranks, the size of batches, and frames that memory holds."""
    world_size = draw(st.integers(1, 3))
    counts = np.array(draw(st.lists(st.integers(1, 90), min_size=max(4, world_size), max_size=20)))
    owners = np.arange(len(counts)) % world_size
    if draw(st.booleans()):
        owners = np.sort(owners)
    room = draw(st.integers(max(1, int(counts.sum()) // 8), int(counts.sum())))
    return counts, owners, world_size, draw(st.integers(1, 24)), 2 * (int(counts.max()) + room)


@given(fleets(), st.sampled_from([1, 2]), st.sampled_from([1, 3]))
@QUICK
def test_over_whole_epochs_blocks_equal_direct_reads_and_every_frame_is_brought_once(fleet, skip, stride):
    counts, owners, world_size, batch_size, capacity = fleet
    index = BlockIndex(counts, skip, stride)
    for rank in range(world_size):
        videos, own = Videos(counts), owners == rank
        rotating = Rotation(videos.read, videos.num_frames, CPU, capacity)
        for epoch in range(3):
            shares = epoch_of(index, owners, rank, batch_size, capacity, epoch)
            videos.reads.clear()
            run(rotating, videos, index, shares, own, capacity)
            assert set(videos.reads) == set(np.flatnonzero(own).tolist())


def test_batches_that_span_two_turns_hold_the_blocks_of_both_in_order():
    videos = Videos([40, 45, 50, 55])
    rotating = Rotation(videos.read, videos.num_frames, CPU, ROOMY)
    numbers = np.array([2, 0, 3, 1, 0, 2])
    frames = np.arange(6)[:, None] + np.arange(30)
    turns = np.array([0, 1, 1, 0])
    assert torch.equal(gather(rotating, numbers, frames, turns), videos.blocks(numbers, frames))
    cubes, _ = rotating.locate(numbers, frames, turns)
    assert cubes is rotating._cubes, "nothing is copied"


def test_a_turn_is_not_overwritten_while_a_batch_holds_blocks_of_it():
    """Turn 2 takes the memory of turn 0, so it is read only when a batch needs that one no more."""
    videos, turns = Videos([40, 45, 50, 55]), np.arange(4)
    rotating = Rotation(videos.read, videos.num_frames, CPU, ROOMY)
    frames = np.arange(2)[:, None] + np.arange(30)
    for pair, read in (([0, 0], 2), ([0, 1], 2), ([1, 1], 3), ([1, 2], 3), ([2, 3], 4)):
        cubes, rows = rotating.locate(np.array(pair), frames, turns)
        for future in rotating._held.values():
            future.result()
        assert torch.equal(cubes[rows], videos.blocks(np.array(pair), frames)) and len(videos.reads) == read


def test_what_is_read_ahead_does_not_disturb_a_backward_pass():
    """It holds all of the memory, of which the reading thread changes the half that no block of the batch lies in."""
    videos, turns = Videos([40, 45, 50]), np.arange(3)
    rotating = Rotation(videos.read, videos.num_frames, CPU, ROOMY)
    rotating.locate(np.array([0]), np.arange(30)[None], turns)
    cubes, rows = rotating.locate(np.array([1]), np.arange(30)[None], turns)
    weight = torch.ones(cubes.shape[1:], dtype=torch.float16, requires_grad=True)
    loss = (cubes * weight).sum()
    rotating._bring(2, None)
    loss.backward()
    assert weight.grad is not None and rotating.frames_read >= 40 + 45 + 50


def test_epochs_of_many_turns_do_span_two_in_a_batch():
    """What the property above goes through is not empty."""
    counts = np.random.default_rng(0).integers(20, 60, 40)
    index, videos = BlockIndex(counts), Videos(counts)
    owners = np.zeros(40, dtype=np.int64)
    capacity = 2 * (59 + 300)
    rotating = Rotation(videos.read, videos.num_frames, CPU, capacity)
    spans = Counter()
    for epoch in range(2):
        shares = epoch_of(index, owners, 0, 16, capacity, epoch)
        spans.update(len(turns) for turns in turns_of(shares, index))
        run(rotating, videos, index, shares, owners == 0, capacity)
    assert spans[2] >= 6 and set(spans) == {1, 2}


@pytest.mark.parametrize("kind", ["short videos in small turns", "a turn in which the rank has no video"])
def test_a_batch_may_span_more_than_two_turns(kind):
    if kind.startswith("short"):
        counts, batch_size, capacity = np.full(12, 30), 8, 2 * (30 + 45)  # a block a video, two videos a turn
    else:
        counts, batch_size, capacity = np.array([90, 30, 31, 32]), 16, 2 * (90 + 40)
    videos, index = Videos(counts), BlockIndex(counts)
    owners = np.zeros(len(counts), dtype=np.int64)
    epochs = [epoch_of(index, owners, 0, batch_size, capacity, epoch) for epoch in range(4)]
    assert any(max(turns) - min(turns) > 1 for shares in epochs for turns in turns_of(shares, index))
    rotating = Rotation(videos.read, videos.num_frames, CPU, capacity)
    for shares in epochs:
        run(rotating, videos, index, shares, owners == 0, capacity)


def test_videos_without_a_turn_are_never_read():
    videos = Videos([40, 45, 50, 55, 60])
    rotating = Rotation(videos.read, videos.num_frames, CPU, ROOMY)
    turns = np.array([1, -1, 0, -1, 0])
    for number in (4, 2, 0):
        found = gather(rotating, np.array([number]), np.arange(30)[None], turns)
        assert torch.equal(found, videos.blocks(np.array([number]), np.arange(30)[None]))
    assert set(videos.reads) == {0, 2, 4} and rotating.frames_read == 40 + 50 + 60


def test_an_epoch_that_is_left_in_its_midst_does_no_harm_to_the_next():
    videos = Videos([40, 45, 50, 55])
    rotating = Rotation(videos.read, videos.num_frames, CPU, ROOMY)
    gather(rotating, np.array([0]), np.arange(30)[None], np.array([0, 1, 2, 3]))
    other = np.array([1, 2, 0, 0])
    for number in (3, 2, 0, 1):
        found = gather(rotating, np.array([number]), np.arange(30)[None] + number, other)
        assert torch.equal(found, videos.blocks(np.array([number]), np.arange(30)[None] + number))


def test_an_epoch_may_begin_in_its_midst():
    videos = Videos([40, 45, 50, 55])
    rotating = Rotation(videos.read, videos.num_frames, CPU, ROOMY)
    turns = np.arange(4)
    for number in (2, 3):
        found = gather(rotating, np.array([number]), np.arange(30)[None], turns)
        assert torch.equal(found, videos.blocks(np.array([number]), np.arange(30)[None]))
    assert rotating.frames_read == 50 + 55, "turns that are over are not read"


@pytest.mark.parametrize("damaged", [0, 1])
def test_an_error_while_reading_reaches_whoever_asks_for_the_turn(damaged):
    videos = Videos([40, 45])

    def read(video: int) -> np.ndarray:
        if video == damaged:
            raise OSError(f"video {video} is gone")
        return videos.read(video)

    rotating = Rotation(read, videos.num_frames, CPU, ROOMY)
    turns = np.array([0, 1])
    if damaged == 1:
        assert gather(rotating, np.array([0]), np.arange(30)[None], turns).shape == (1, 30, GRID[0] * GRID[1], 4)
    with pytest.raises(OSError, match=f"video {damaged} is gone"):
        gather(rotating, np.array([damaged]), np.arange(30)[None], turns)
