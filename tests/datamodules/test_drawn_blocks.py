"""Blocks drawn at random from a video: a function of seed and id, every set of starts as likely as any other."""

import itertools
from collections import Counter

import numpy as np
import pytest

from datamodules.drawn_blocks import Draw, draw_blocks


def starts(frames: int, count: int, seed: int = 0, video: str = "UDqivjS-lpI") -> list[int]:
    return [start for start, _ in draw_blocks(range(frames), Draw(count, seed, video))]


def chi_square(found: Counter, cells: int) -> float:
    """Σ (observed − expected)² / expected over so many equally likely cells."""
    expected = sum(found.values()) / cells
    return sum((number - expected) ** 2 for number in found.values()) / expected + (cells - len(found)) * expected


@pytest.mark.parametrize("frames", [30, 33, 200, 5000])
@pytest.mark.parametrize("count", [1, 4, 20])
def test_blocks_are_thirty_consecutive_frames_at_different_starts_in_order(frames, count):
    found = draw_blocks(range(frames), Draw(count, 0, "a"))
    assert len(found) == min(count, frames - 29)
    assert [list(block) for _, block in found] == [list(range(start, start + 30)) for start, _ in found]
    assert sorted({start for start, _ in found}) == [start for start, _ in found] and found[-1][0] <= frames - 30


@pytest.mark.parametrize("frames", [1, 29, 30, 31, 33])
def test_a_short_video_gives_all_that_it_has(frames):
    assert starts(frames, 4) == list(range(max(1, frames - 29)))
    (_, block), *_ = draw_blocks(range(frames), Draw(4, 0, "a"))
    assert list(block) == list(range(min(30, frames)))


def test_no_frame_is_no_block():
    assert draw_blocks([], Draw(4, 0, "a")) == []


def test_the_draw_depends_on_seed_and_id_and_on_nothing_else():
    before = starts(3000, 20)
    assert starts(100, 4, video="another") and starts(3000, 20) == before
    assert starts(3000, 20, seed=1) != before and starts(3000, 20, video="UDqivjS-lpJ") != before
    # Draws of fewer blocks are among those of more, and what follows changes only what it takes the place of.
    assert set(starts(3000, 4)) < set(before)
    assert [start for start in starts(4000, 20) if start <= 2970] == [start for start in before if start in starts(4000, 20)]


def test_all_sets_of_starts_are_equally_likely():
    """Ten pairs of five starts; the statistic of 9 degrees of freedom lies below 27.9 with probability 0.999."""
    pairs = Counter(tuple(starts(34, 2, seed)) for seed in range(4000))
    assert set(pairs) == set(itertools.combinations(range(5), 2)) and 1 < chi_square(pairs, 10) < 27.9


@pytest.mark.parametrize("by", ["seed", "id"])
def test_starts_are_uniform_over_the_video(by):
    """Of 400 starts, by tens; the statistic of 39 degrees of freedom lies from 15 to 73 with probability 0.998."""
    drawn = [starts(429, 4, number) if by == "seed" else starts(429, 4, video=f"{number:011}") for number in range(1500)]
    tens = Counter(start // 10 for some in drawn for start in some)
    assert 15 < chi_square(tens, 40) < 73


def test_memory_holds_the_blocks_drawn_so_far_and_one_more():
    living, most = set(), 0

    class Frame:
        def __init__(self, number: int) -> None:
            living.add(number)
            self.number = number

        def __del__(self) -> None:
            living.discard(self.number)

    def frames():
        nonlocal most
        for number in range(3000):
            yield Frame(number)
            most = max(most, len(living))

    found = draw_blocks(frames(), Draw(3, 0, "a"))
    assert np.diff([start for start, _ in found]).min() > 30 and most <= (3 + 1) * 30 + 1
