"""Clips by rule: the pool, the order, one a class in turn; and by the names that people write."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.videos import DataError
from reproduce.common.settings import SettingsError
from reproduce.experiments.predictions import Predictions
from reproduce.visual.clips import Clip, choose, clips_of, find_videos, short_names, unknown_video
from reproduce.visual.figure_runs import ORDERS, POOLS, Rule, parse_rule

CLIPS = [
    Clip("b/1", "b", True, 0.9),
    Clip("a/1", "a", True, 0.8),
    Clip("b/2", "b", True, 0.95),
    Clip("a/2", "a", False, 0.7),
    Clip("c/1", "c", False, 0.6),
]
FOCUS = {"b/1": 0.5, "a/1": 2.0, "b/2": 3.0, "a/2": 1.0, "c/1": None}


def chosen(pool: str, order: str, count: int = 9) -> list[str]:
    return choose(CLIPS, Rule(pool, order), count, lambda clip: FOCUS[clip.name])


def test_every_rule_by_hand():
    assert chosen("correct", "first") == ["a/1", "b/1", "b/2"]
    assert chosen("incorrect", "first") == ["a/2", "c/1"]
    assert chosen("correct", "confident") == ["b/2", "a/1", "b/1"]  # of each class one before a second one of any
    assert chosen("any", "confident", 3) == ["b/2", "a/1", "c/1"]
    assert chosen("any", "foreground") == ["b/2", "a/1", "a/2", "b/1"]  # c/1 has no value
    assert chosen("any", "background", 2) == ["b/1", "a/2"]
    assert chosen("correct", "focused") == ["b/1", "a/1", "b/2"]
    assert chosen("correct", "spread", 1) == ["b/2"]


def test_only_orders_by_attention_look_at_clips():
    def never(clip):
        raise AssertionError(clip)

    assert choose(CLIPS, Rule("any", "first"), 1, never) == ["a/1"]
    assert choose(CLIPS, Rule("any", "confident"), 1, never) == ["b/2"]


@given(st.permutations(CLIPS), st.sampled_from(list(POOLS)), st.sampled_from(list(ORDERS)), st.integers(1, 6))
def test_the_order_in_which_clips_are_listed_does_not_matter(listed, pool, order, count):
    found = choose(listed, Rule(pool, order), count, lambda clip: FOCUS[clip.name])
    assert found == chosen(pool, order, count) and len(set(found)) == len(found) <= count
    assert all(clip.correct == (pool == "correct") for clip in CLIPS if clip.name in found and pool != "any")


def test_rules_are_read_and_typing_errors_named():
    default = Rule("correct", "confident")
    assert parse_rule([], default) == default
    assert parse_rule(["background"], default) == Rule("correct", "background")
    assert parse_rule(["first", "incorrect"], default) == Rule("incorrect", "first")
    with pytest.raises(SettingsError, match="choose=forground: did you mean foreground"):
        parse_rule(["forground"], default)
    with pytest.raises(SettingsError, match="at most one of"):
        parse_rule(["first", "spread"], default)
    assert "classified incorrectly, the first by name" in str(Rule("incorrect", "first"))


def test_a_clip_is_correct_where_its_highest_class_is_one_of_its_own():
    target = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1], [0, 0, 0]], dtype=bool)
    scores = np.array([[0.4, 0.5, 0.1], [0.1, 0.2, 0.3], [0.9, 0.8, 0.8], [0.3, 0.2, 0.1]], dtype=np.float32)
    clips = clips_of(Predictions(("v", "w", "x", "y"), ("a", "b", "c"), target, scores))
    assert [(clip.kind, clip.correct) for clip in clips] == [("a", False), ("b", True), ("b", False), ("", False)]
    assert [clip.score for clip in clips] == pytest.approx([0.5, 0.3, 0.9, 0.3])


NAMES = ["run/v_run_01/v_run_01_01.mpg", "run/v_run_01/v_run_01_02.mpg", "jump/v_jump_01/v_jump_01_01.mpg"]


@pytest.mark.parametrize("word", ["v_run_01_02", "v_run_01_02.mpg", "v_run_01/v_run_01_02", NAMES[1], NAMES[1][:-4]])
def test_videos_are_found_by_any_part_of_their_path_from_the_end(word):
    assert find_videos([word], NAMES) == {word: NAMES[1]}


def test_videos_that_are_not_there_or_ambiguous():
    assert find_videos(["v_run_01_03", "run_01_02"], NAMES) == {"v_run_01_03": None, "run_01_02": None}
    assert "did you mean run/v_run_01/v_run_01_0" in str(unknown_video("v_rum_01_01", NAMES, "UCF-11"))
    assert "the first of them is jump/" in str(unknown_video("zzzzzz", NAMES, "UCF-11"))
    with pytest.raises(DataError, match=r"clip0 may be any of a/clip0\.avi, b/clip0\.avi; write more"):
        find_videos(["clip0"], ["a/clip0.avi", "b/clip0.avi"])


def test_names_are_as_short_as_they_can_be():
    assert list(short_names(NAMES).values()) == ["v_run_01_01", "v_run_01_02", "v_jump_01_01"]
    assert list(short_names(["a/clip0.avi", "b/clip0.avi"]).values()) == ["a/clip0", "b/clip0"]
