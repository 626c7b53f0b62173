"""Blocks against naive loops written from protocol §4."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules.blocks import (
    BLOCK_LENGTH,
    BlockIndex,
    block_frames,
    deal,
    evaluation_shares,
    num_blocks,
    skip_of,
    training_shares,
)

T = 30
QUICK = settings(deadline=None, max_examples=80)


def naive_blocks(frames: int, skip: int, stride: int) -> list[list[int]]:
    """Protocol §4, one frame at a time."""
    if frames < T * skip:
        block = []
        position = 0
        while position < frames and len(block) < T:
            block.append(position)
            position += skip
        while len(block) < T:
            block.append(block[-1])
        return [block]
    blocks = []
    start = 0
    while start + T * skip <= frames:
        blocks.append([start + step * skip for step in range(T)])
        start += stride
    return blocks


frame_counts = st.one_of(st.integers(1, 70), st.integers(140, 170), st.integers(300, 320))
skips = st.sampled_from([1, 2, 3, 5, 10])
strides = st.sampled_from([1, 2, 7, 30, 31])


def test_a_block_has_thirty_steps():
    assert BLOCK_LENGTH == 30


@pytest.mark.parametrize(
    ("fps", "skip"), [(30, 1), (29.97, 1), (25, 1), (15.1, 1), (15, 2), (10, 3), (7, 4), (6, 5), (5, 6), (1, 30), (0.5, 60)]
)
def test_skip_is_thirty_over_fps_rounded_down(fps, skip):
    assert skip_of(fps) == skip == int(30 / fps)


@pytest.mark.parametrize("fps", [0, -6, 30.01, 60, float("nan"), float("inf"), float("-inf")])
def test_fps_outside_of_zero_to_thirty_is_refused(fps):
    with pytest.raises(ValueError, match="fps="):
        skip_of(fps)


@given(st.integers(1, 2000))
@example(1)
@example(29)
@example(30)
@example(31)
@example(1063)
@QUICK
def test_number_of_blocks_at_30_fps_is_f_minus_29_but_at_least_one(frames):
    assert num_blocks(frames) == max(1, frames - 29)


@given(frame_counts, skips)
@example(149, 5)
@example(150, 5)
@example(151, 5)
@QUICK
def test_number_of_blocks_at_other_rates_is_f_minus_30_skips_plus_1_but_at_least_one(frames, skip):
    assert num_blocks(frames, skip) == max(1, frames - 30 * skip + 1)


@pytest.mark.parametrize("frames", [0, -3])
def test_a_video_without_frames_has_no_blocks_to_count(frames):
    with pytest.raises(ValueError, match="no block"):
        num_blocks(frames)


@given(frame_counts, skips, strides)
@QUICK
def test_blocks_of_a_video_equal_the_naive_loop(frames, skip, stride):
    index = BlockIndex(np.array([frames]), skip, stride)
    expected = naive_blocks(frames, skip, stride)
    videos, found = index.locate(np.arange(len(index)))
    assert num_blocks(frames, skip, stride) == len(index) == len(expected)
    assert videos.tolist() == [0] * len(expected)
    assert found.tolist() == expected


@given(st.lists(frame_counts, min_size=1, max_size=6), skips, strides, st.randoms(use_true_random=False))
@QUICK
def test_blocks_of_several_videos_are_those_of_each_in_order_whatever_order_they_are_asked_in(counts, skip, stride, random):
    index = BlockIndex(np.array(counts), skip, stride)
    expected = [(video, block) for video, frames in enumerate(counts) for block in naive_blocks(frames, skip, stride)]
    asked = random.sample(range(len(expected)), k=min(len(expected), 40))
    videos, frames = index.locate(np.array(asked))
    assert len(index) == len(expected) == index.counts.sum()
    assert [(v, f) for v, f in zip(videos.tolist(), frames.tolist(), strict=True)] == [expected[b] for b in asked]


@given(frame_counts, skips, strides)
@QUICK
def test_frame_indices_lie_in_the_video_never_go_back_and_begin_at_multiples_of_the_stride(frames, skip, stride):
    index = BlockIndex(np.array([frames]), skip, stride)
    _, found = index.locate(np.arange(len(index)))
    assert found.shape == (len(index), T) and found.dtype == np.int64
    assert found.min() >= 0 and found.max() < frames
    assert set(np.unique(np.diff(found, axis=1))) <= {0, skip}
    assert found[:, 0].tolist() == [stride * k for k in range(len(index))]


def test_19_frames_give_19_and_eleven_copies_of_the_last():
    (block,) = block_frames(np.array([0]), np.array([19]))
    assert block.tolist() == [*range(19), *[18] * 11]


@pytest.mark.parametrize(("frames", "real"), [(1, 1), (5, 1), (6, 2), (12, 3), (145, 29), (146, 30), (149, 30)])
def test_a_video_shorter_than_30_skips_gives_one_block_of_every_skipth_frame_and_copies_of_the_last(frames, real):
    index = BlockIndex(np.array([frames]), skip=5)
    _, found = index.locate(np.arange(len(index)))
    assert found.tolist() == [[5 * step for step in range(real)] + [5 * (real - 1)] * (T - real)]


@given(st.lists(frame_counts, min_size=1, max_size=8), strides)
@QUICK
def test_the_blocks_of_all_videos_partition_all_blocks(counts, stride):
    index = BlockIndex(np.array(counts), stride=stride)
    parts = [index.of_video(video) for video in range(len(counts))]
    assert np.concatenate(parts).tolist() == list(range(len(index)))
    for video, part in enumerate(parts):
        assert set(index.locate(part)[0].tolist()) == {video}


def test_no_videos_have_no_blocks():
    assert len(BlockIndex(np.array([], dtype=np.int64))) == 0


def epoch(total, batch_size, seed, number, world_size):
    """For each rank the list of its shares."""
    return [list(training_shares(total, batch_size, seed, number, rank, world_size)) for rank in range(world_size)]


@given(st.integers(1, 120), st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 14), st.integers(1, 9))
@example(9, 8, 0, 0, 4)  # the last batch leaves three ranks without a block
@QUICK
def test_the_shares_of_any_number_of_ranks_unite_to_the_same_global_batches(total, batch_size, seed, number, world_size):
    alone = epoch(total, batch_size, seed, number, 1)[0]
    ranks = epoch(total, batch_size, seed, number, world_size)
    assert {len(shares) for shares in ranks} == {len(alone)} == {-(-total // batch_size)}
    for step, whole in enumerate(alone):
        shares = [ranks[rank][step] for rank in range(world_size)]
        counted = [block for share in shares for block in share.blocks[share.weights > 0].tolist()]
        assert sorted(counted) == sorted(whole.blocks.tolist())
        assert {share.batch_size for share in shares} == {len(whole.blocks)} == {whole.batch_size}
        assert all(len(share.blocks) == len(share.weights) >= 1 for share in shares)
        sizes = [int(share.weights.sum()) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 150), st.integers(1, 40), st.integers(0, 99), st.integers(0, 14), st.integers(1, 6))
@QUICK
def test_every_block_counts_exactly_once_an_epoch(total, batch_size, seed, number, world_size):
    shares = [share for rank in epoch(total, batch_size, seed, number, world_size) for share in rank]
    counted = np.concatenate([share.blocks[share.weights > 0] for share in shares])
    assert sorted(counted.tolist()) == list(range(total))


def test_a_rank_that_a_batch_leaves_empty_gets_a_block_of_weight_zero():
    shares = [rank[-1] for rank in epoch(9, 8, seed=3, number=0, world_size=3)]
    assert [share.weights.tolist() for share in shares] == [[1.0], [0.0], [0.0]]
    assert all(0 <= share.blocks[0] < 9 and share.batch_size == 1 for share in shares)


@given(st.integers(0, 1000), st.integers(0, 14), st.integers(1, 33), st.integers(1, 33))
@QUICK
def test_the_order_of_blocks_depends_on_seed_and_epoch_alone(seed, number, one_size, other_size):
    def order(batch_size, a_seed, an_epoch):
        return np.concatenate([s.blocks for s in training_shares(100, batch_size, a_seed, an_epoch)]).tolist()

    reference = order(one_size, seed, number)
    np.random.seed(seed)  # the global generator has no say
    assert order(other_size, seed, number) == reference
    assert order(one_size, seed, number + 1) != reference
    assert order(one_size, seed + 1, number) != reference
    assert reference != sorted(reference)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 20), st.integers(1, 5))
@QUICK
def test_evaluation_gives_every_block_once_in_batches_of_one_video_and_each_video_to_one_rank(counts, batch_size, world_size):
    index = BlockIndex(np.array(counts))
    rank_of, seen = {}, []
    for rank in range(world_size):
        for share in evaluation_shares(index, batch_size, rank, world_size):
            videos = set(index.locate(share.blocks)[0].tolist())
            assert len(videos) == 1
            assert rank_of.setdefault(videos.pop(), rank) == rank
            assert 1 <= len(share.blocks) <= batch_size
            assert share.weights.tolist() == [1.0] * len(share.blocks) and share.batch_size == len(share.blocks)
            seen += share.blocks.tolist()
    assert sorted(seen) == list(range(len(index)))


def test_evaluation_on_one_process_goes_through_the_blocks_in_order():
    index = BlockIndex(np.array([40, 5, 31]))
    shares = list(evaluation_shares(index, 4))
    assert np.concatenate([share.blocks for share in shares]).tolist() == list(range(11 + 1 + 2))
    assert [len(share.blocks) for share in shares] == [4, 4, 3, 1, 2]


def test_more_ranks_than_videos_leave_ranks_without_evaluation_blocks():
    index = BlockIndex(np.array([30, 30]))
    assert [len(list(evaluation_shares(index, 8, rank, 3))) for rank in range(3)] == [1, 1, 0]


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 8))
@QUICK
def test_deal_gives_every_item_once_and_loads_differ_by_no_more_than_one_item(work, ranks):
    hands = deal(np.array(work, dtype=np.int64), ranks)
    assert len(hands) == ranks
    assert sorted(item for hand in hands for item in hand) == list(range(len(work)))
    assert all(hand == sorted(hand) for hand in hands)
    loads = [sum(work[item] for item in hand) for hand in hands]
    assert max(loads) - min(loads) <= max(work, default=0)


def test_deal_gives_the_large_items_first():
    assert deal(np.array([1, 1, 1, 1, 4]), 2) == [[4], [0, 1, 2, 3]]


def test_deal_of_equal_items_is_the_same_every_time():
    assert deal(np.full(7, 5), 3) == deal(np.full(7, 5), 3) == [[0, 3, 6], [1, 4], [2, 5]]
