"""Blocks against naive loops written from protocol §4."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from datamodules.blocks import BLOCK_LENGTH, BlockIndex, Span, block_frames, deal, evaluation_spans, num_blocks, skip_of

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


def test_no_videos_have_no_blocks():
    assert len(BlockIndex(np.array([], dtype=np.int64))) == 0


# stretches


def some_span(index: BlockIndex, video: int, data) -> Span:
    count = int(index.counts[video])
    first = data.draw(st.integers(0, count - 1))
    return Span(video, first, data.draw(st.integers(1, min(count - first, 40))))


def read_and_needed(index: BlockIndex, span: Span) -> tuple[np.ndarray, np.ndarray]:
    """The frames of a stretch, and (N, T) those that the blocks name one by one."""
    before = int(index.counts[: span.video].sum())
    videos, frames = index.locate(before + span.first + np.arange(span.count))
    assert set(videos.tolist()) == {span.video}
    return index.stretch(span)[0], frames


@given(frame_counts, skips, strides, st.data())
@QUICK
def test_step_t_of_block_m_is_frame_m_strides_and_t_skips_of_a_stretch(frames, skip, stride, data):
    index = BlockIndex([40, frames, 200], skip, stride)
    span = some_span(index, 1, data)
    read, needed = read_and_needed(index, span)
    _, step, shift = index.stretch(span)
    assert step >= 1 and shift >= 1
    places = np.arange(span.count)[:, None] * shift + np.arange(T) * step
    assert read[places].tolist() == needed.tolist()
    assert places.max() == len(read) - 1


@given(st.one_of(st.integers(30, 70), st.integers(300, 400)), st.integers(1, 10), st.integers(1, 60), st.data())
@QUICK
def test_a_stretch_reads_a_frame_at_most_once_and_none_before_between_or_after_its_blocks(frames, skip, stride, data):
    assume(frames >= T * skip)
    index = BlockIndex([40, frames, 200], skip, stride)
    span = some_span(index, 1, data)
    read, needed = read_and_needed(index, span)
    assert (np.diff(read) > 0).all() and read[0] == needed.min() and read[-1] == needed.max() < frames
    assert not ((read - read[0]) % np.gcd(skip, stride)).any()
    without_gaps = stride % skip == 0 and stride <= T * skip or skip % stride == 0 and span.count * stride >= skip
    if without_gaps or span.count == 1:
        assert sorted(set(needed.ravel().tolist())) == read.tolist()


@pytest.mark.parametrize(
    ("skip", "stride", "count", "expected"),
    [
        (1, 1, 3, (np.arange(7, 39), 1, 1)),
        (5, 5, 4, (np.arange(35, 200, 5), 1, 1)),
        (5, 10, 3, (np.arange(70, 240, 5), 1, 2)),
        (6, 4, 3, (np.arange(28, 212, 2), 3, 2)),
        (5, 1, 3, (np.arange(7, 155), 5, 1)),
    ],
)
def test_a_stretch_leaves_out_the_frames_between_those_of_its_blocks(skip, stride, count, expected):
    frames, step, shift = BlockIndex([400], skip, stride).stretch(Span(0, 7, count))
    assert frames.tolist() == expected[0].tolist() and (step, shift) == expected[1:]


@pytest.mark.parametrize(("skip", "stride"), [(1, 1), (5, 1), (5, 3), (5, 7), (2, 30)])
def test_a_stretch_of_one_block_is_its_thirty_frames_alone(skip, stride):
    index = BlockIndex([400], skip, stride)
    read, needed = read_and_needed(index, Span(0, 4, 1))
    assert read.tolist() == needed[0].tolist() and len(read) == T and index.stretch(Span(0, 4, 1))[1] == 1


@pytest.mark.parametrize(("frames", "skip"), [(1, 1), (19, 1), (29, 1), (12, 5), (146, 5), (149, 5)])
def test_the_stretch_of_a_short_video_comes_with_its_repeated_frame(frames, skip):
    read, step, shift = BlockIndex([50, frames], skip, 3).stretch(Span(1, 0, 1))
    assert [read.tolist()] == naive_blocks(frames, skip, 3) and (step, shift) == (1, 1)


# evaluation


@given(st.lists(st.integers(1, 90), min_size=1, max_size=12), st.integers(1, 20), strides, st.randoms(use_true_random=False))
@QUICK
def test_evaluation_spans_give_every_block_of_their_videos_once_in_order_and_so_many_at_most(counts, blocks, stride, random):
    index = BlockIndex(counts, stride=stride)
    videos = sorted(random.sample(range(len(counts)), k=random.randint(0, len(counts))))
    spans = list(evaluation_spans(index, videos, blocks))
    seen = [(span.video, span.first + number) for span in spans for number in range(span.count)]
    assert seen == [(video, block) for video in videos for block in range(index.counts[video])]
    assert all(1 <= span.count <= blocks for span in spans)
    assert len(spans) == sum(-(-int(index.counts[video]) // blocks) for video in videos)


def test_evaluation_spans_go_video_by_video():
    index = BlockIndex(np.array([40, 5, 31]))
    assert list(evaluation_spans(index, [0, 1, 2], 4)) == [(0, 0, 4), (0, 4, 4), (0, 8, 3), (1, 0, 1), (2, 0, 2)]
    assert list(evaluation_spans(index, [2, 0], 512)) == [(2, 0, 2), (0, 0, 11)]
    assert list(evaluation_spans(index, [], 4)) == []


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
