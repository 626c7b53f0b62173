"""The order of an epoch's blocks, their shares over ranks, and the turns of videos that do not fit into memory at once."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from datamodules.blocks import EVEN, BlockIndex, Share, rotation, training_order, training_shares

QUICK = settings(deadline=None, max_examples=80)

seeds = st.integers(0, 2**31)
epochs = st.integers(0, 14)
lengths = st.lists(st.integers(1, 80), min_size=1, max_size=12)


# order


@given(lengths, seeds, epochs)
@QUICK
def test_the_order_holds_every_block_once(counts, seed, epoch):
    index = BlockIndex(counts)
    assert sorted(training_order(index, seed, epoch).tolist()) == list(range(len(index)))


@given(seeds, epochs, st.booleans())
@QUICK
def test_the_order_depends_on_seed_and_epoch_alone(seed, epoch, rotates):
    index = BlockIndex([60, 40, 31, 70])
    turns = np.array([1, 0, 1, 2]) if rotates else None
    reference = training_order(index, seed, epoch, turns).tolist()
    np.random.seed(seed % 2**32)  # the global generator has no say
    assert training_order(index, seed, epoch, turns).tolist() == reference
    assert training_order(index, seed, epoch + 1, turns).tolist() != reference
    assert training_order(index, seed + 1, epoch, turns).tolist() != reference
    assert reference != sorted(reference)


@given(lengths, seeds, epochs, st.randoms(use_true_random=False))
@QUICK
def test_with_turns_the_order_goes_turn_by_turn_and_has_every_block_once(counts, seed, epoch, random):
    index = BlockIndex(counts)
    turns = np.array([random.randint(0, 3) for _ in counts])
    order = training_order(index, seed, epoch, turns)
    assert sorted(order.tolist()) == list(range(len(index)))
    of_blocks = turns[index.locate(order)[0]]
    assert (np.diff(of_blocks) >= 0).all()


def test_within_a_turn_blocks_of_all_its_videos_are_shuffled():
    index = BlockIndex([80, 80, 80, 80])
    turns = np.array([0, 1, 1, 0])
    order = training_order(index, 0, 0, turns)
    for turn in (0, 1):
        own = order[turns[index.locate(order)[0]] == turn]
        videos = index.locate(own)[0]
        assert own.tolist() != sorted(own.tolist())
        assert (np.diff(videos) != 0).mean() > 0.3, "blocks of two videos alternate as chance has it"


# shares


@st.composite
def ownership(draw) -> tuple[np.ndarray, np.ndarray, int]:
    """An order of blocks, the rank of each block, and the number of ranks; each has a block."""
    total = draw(st.integers(1, 120))
    world_size = draw(st.integers(1, min(total, 9)))
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    favoured = random.dirichlet(np.full(world_size, draw(st.sampled_from([0.1, 1.0, 100.0]))))
    owners = random.choice(world_size, total, p=favoured)
    owners[random.permutation(total)[:world_size]] = np.arange(world_size)
    order = random.permutation(total)
    if draw(st.booleans()):
        order = np.argsort(owners, kind="stable")  # rank after rank: most batches are of one rank alone
    return order, owners, world_size


def shares_of(order: np.ndarray, batch_size: int, owners: np.ndarray, world_size: int) -> list[list[Share]]:
    """For each rank the list of its shares."""
    return [list(training_shares(order, batch_size, owners, rank)) for rank in range(world_size)]


@given(ownership(), st.integers(1, 40))
@QUICK
def test_the_shares_of_any_ranks_unite_to_the_global_batches_and_each_rank_has_its_own_blocks(given_, batch_size):
    order, owners, world_size = given_
    ranks = shares_of(order, batch_size, owners, world_size)
    batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    assert {len(shares) for shares in ranks} == {len(batches)}
    for step, whole in enumerate(batches):
        shares = [ranks[rank][step] for rank in range(world_size)]
        counted = [block for share in shares for block in share.blocks[share.weights > 0].tolist()]
        assert sorted(counted) == sorted(whole.tolist())
        assert {share.batch_size for share in shares} == {len(whole)}
        for rank, share in enumerate(shares):
            assert len(share.blocks) == len(share.weights) >= 1 and share.weights.dtype == np.float32
            assert set(owners[share.blocks].tolist()) == {rank}
            assert set(share.weights.tolist()) in ({1.0}, {0.0})
            assert share.weights.any() or len(share.blocks) == 1


@given(ownership(), st.integers(1, 40))
@QUICK
def test_every_block_counts_exactly_once_an_epoch(given_, batch_size):
    order, owners, world_size = given_
    shares = [share for rank in shares_of(order, batch_size, owners, world_size) for share in rank]
    counted = np.concatenate([share.blocks[share.weights > 0] for share in shares])
    assert sorted(counted.tolist()) == list(range(len(order)))


@given(ownership(), st.integers(1, 40))
@QUICK
def test_one_rank_that_owns_everything_has_the_batches_as_they_are(given_, batch_size):
    order, owners, _ = given_
    shares = list(training_shares(order, batch_size, np.zeros_like(owners)))
    assert np.concatenate([share.blocks for share in shares]).tolist() == order.tolist()
    assert all(share.weights.all() and share.batch_size == len(share.blocks) <= batch_size for share in shares)
    assert len(shares) == -(-len(order) // batch_size)


def test_a_rank_that_a_batch_leaves_empty_gets_its_next_block_or_its_last_with_weight_zero():
    order = np.array([4, 0, 1, 5, 2, 3, 6, 7])
    owners = np.array([0, 0, 0, 1, 0, 0, 0, 0])
    shares = list(training_shares(order, 3, owners, rank=1))
    assert [share.blocks.tolist() for share in shares] == [[3], [3], [3]]
    assert [share.weights.tolist() for share in shares] == [[0.0], [1.0], [0.0]]
    assert [share.batch_size for share in shares] == [3, 3, 2]


def test_a_filler_is_no_block_of_an_earlier_turn_than_those_around_it():
    order = np.arange(8)
    owners = np.array([1, 0, 0, 0, 0, 0, 1, 0])
    shares = list(training_shares(order, 2, owners, rank=1))
    assert [share.blocks.tolist() for share in shares] == [[0], [6], [6], [6]]
    assert [share.weights.tolist() for share in shares] == [[1.0], [0.0], [0.0], [1.0]]


def test_turns_are_handed_through():
    turns = np.array([0, 1])
    for given_ in (None, turns):
        assert all(share.turns is given_ for share in training_shares(np.arange(5), 2, np.zeros(5, dtype=int), turns=given_))


def test_a_rank_without_a_video_is_refused():
    with pytest.raises(ValueError, match="rank 2 has no video: there are more processes than videos"):
        list(training_shares(np.arange(6), 4, np.array([0, 0, 1, 1, 0, 0]), rank=2))


# turns


def test_what_fits_twice_and_one_video_more_is_one_turn():
    frames = np.array([40, 50, 30])
    assert rotation(frames, np.zeros(3, dtype=int), 2 * (120 + 50), 0, 0).tolist() == [0, 0, 0]
    assert rotation(frames, np.zeros(3, dtype=int), 2 * (119 + 50), 0, 0).max() == 1


@st.composite
def fleets(draw) -> tuple[np.ndarray, np.ndarray, int]:
    """Frames and rank of each video, and a capacity that allows to rotate."""
    frames = np.array(draw(st.lists(st.integers(1, 200), min_size=1, max_size=40)))
    world_size = draw(st.integers(1, 4))
    owners = np.array(draw(st.lists(st.integers(0, world_size - 1), min_size=len(frames), max_size=len(frames))))
    room = draw(st.integers(1, int(frames.sum()) + 50))
    return frames, owners, 2 * (int(frames.max()) + room) + draw(st.integers(0, 1))


@given(fleets(), seeds, epochs)
@example((np.array([1]), np.array([0]), 4), 0, 0)
@example((np.array([5, 5, 5]), np.array([2, 2, 2]), 12), 0, 0)  # ranks 0 and 1 have none
@QUICK
def test_every_video_has_a_turn_and_two_turns_of_a_rank_fit_into_its_memory(fleet, seed, epoch):
    frames, owners, capacity = fleet
    turns = rotation(frames, owners, capacity, seed, epoch)
    assert turns.shape == frames.shape and turns.min() >= 0
    load = Counter()
    for rank, turn, count in zip(owners.tolist(), turns.tolist(), frames.tolist(), strict=True):
        load[rank, turn] += count
    assert max(load.values()) <= capacity // 2


@given(fleets(), seeds, epochs)
@QUICK
def test_turns_depend_on_seed_and_epoch_alone(fleet, seed, epoch):
    reference = rotation(*fleet, seed, epoch)
    np.random.seed(seed % 2**32)
    assert rotation(*fleet, seed, epoch).tolist() == reference.tolist()


def test_another_epoch_and_another_seed_have_other_turns():
    frames = np.random.default_rng(0).integers(1, 100, 40)
    owners = np.arange(40) % 2
    found = {tuple(rotation(frames, owners, 1000, seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(found) == 6


def test_turns_are_of_about_equal_size_on_every_rank():
    frames = np.random.default_rng(0).integers(1, 30, 400)
    owners = np.arange(400) % 3
    turns = rotation(frames, owners, 800, 0, 0)
    for rank in range(3):
        sizes = np.bincount(turns[owners == rank], weights=frames[owners == rank])
        assert len(sizes) == turns.max() + 1
        assert sizes.max() - sizes.min() < 2 * 30


@given(st.lists(st.integers(1, 200), min_size=1, max_size=20), st.integers(0, 400))
@QUICK
def test_too_small_a_memory_is_refused_with_the_longest_video(counts, capacity):
    assume(capacity // 2 <= max(counts))
    with pytest.raises(ValueError, match=f"{capacity} frames at a time cannot rotate, with a video of {max(counts)} frames"):
        rotation(np.array(counts), np.zeros(len(counts), dtype=int), capacity, 0, 0)


# even shares, as GPUs take them


@given(lengths, st.integers(1, 40), st.integers(1, 4), seeds)
@QUICK
def test_even_shares_have_one_size_and_count_the_same_blocks(counts, batch_size, world_size, seed):
    index = BlockIndex(counts)
    assume(len(counts) >= world_size)
    owners = np.repeat(np.arange(len(counts)) % world_size, index.counts)
    order = training_order(index, seed, 0)
    for rank in range(world_size):
        plain = list(training_shares(order, batch_size, owners, rank))
        even = list(training_shares(order, batch_size, owners, rank, even=True))
        (size,) = {len(share.blocks) for share in even}
        assert size == batch_size or (size % EVEN == 0 and size < max(len(share.blocks) for share in plain) + EVEN)
        for one, other in zip(plain, even, strict=True):
            assert other.blocks[other.weights > 0].tolist() == one.blocks[one.weights > 0].tolist()
            assert set(other.blocks.tolist()) == set(one.blocks.tolist()), "no other video is asked for"
            assert other.batch_size == one.batch_size and other.weights.dtype == np.float32
            assert len(other.weights) == size and other.weights.sum() == one.weights.sum()
