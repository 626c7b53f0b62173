"""A line of a table's CSV is made again from predictions that are known by hand, and every number that differs is named."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from reproduce.evaluation.printed import COMPARED, Line
from reproduce.evaluation.recompute import Check
from reproduce.evaluation.redo import HALF_STEP, Redone, printed, redo
from reproduce.evaluation.significance import interval, resample
from reproduce.evaluation.writers import CSV_HEAD
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.predictions import Predictions

EIGHT = [1] * 8
NONE = [0] * 8
PAIRS = {f"v{number}": f"g{number // 2}" for number in range(8)}  # two videos to a group


def line(data: str = "hmdb51", row: str = "soft_attention_0", **values: str) -> Line:
    return Line(4, dict.fromkeys(CSV_HEAD, "") | {"data": data, "row": row, "seeds": "0"} | values)


def check(hits, names: list[str] | None = None, multi_label: bool = False) -> Check:
    """A run of two classes, of which the first is true; right where ``hits``."""
    right = np.asarray(hits, dtype=np.float32)
    names = names or [f"v{number}" for number in range(len(right))]
    target = np.tile([True, False], (len(right), 1))
    found = Predictions(tuple(names), ("a", "b"), target, np.stack([right, 1 - right], axis=1))
    about = {"multi_label": multi_label, "miniature": False, "notes": [], "groups": PAIRS}
    return Check(RunFolder(Path("runs/a")), about, found, 1.0 if multi_label else float(right.mean()))


def runs(*checks: Check) -> dict[tuple[int, int], Check]:
    """By seed, from 1, one run each."""
    return {(seed, seed): one for seed, one in enumerate(checks, start=1)}


# All right, against a baseline that is all wrong. Two of the 2^8 exchanges of eight videos are as extreme; the other row's p
# is larger, so Holm's correction doubles this one; of 2000 resamples none contradicts, hence 2 / 2001.
RIGHT = {
    "figure": "acc",
    "mean": "100.0000",
    "low": "100.0000",
    "high": "100.0000",
    "paper": "41.3100",
    "difference": "58.6900",
    "seeds": "1",
    "miniature": "False",
    "leaky": "False",
    "origin": "measured",
    "from_baseline": "100.0000",
    "from_baseline_low": "100.0000",
    "from_baseline_high": "100.0000",
    "test": "McNemar",
    "p": "0.0078125",
    "p_corrected": "0.015625",
    "p_bootstrap": "0.0009995",
    "significant": "True",
}
OTHERS = [
    line(row="soft_attention_1", p="0.5"),
    line(data="ucf11", row="soft_attention_10", p="0.001"),
    line(row="avg_pool_lstm"),
]


def again(values: Mapping[str, str], own=None, baseline=None, data: str = "hmdb51", quoting: bool = False, others=OTHERS):
    """What comes of a line with these values."""
    asked = line(data, **values)
    own, baseline = (runs(check(EIGHT)) if own is None else own), (runs(check(NONE)) if baseline is None else baseline)
    return redo(asked, own, baseline, [*others, asked], quoting)


def without_test(values: Mapping[str, str]) -> dict[str, str]:
    return {**values, **dict.fromkeys((*COMPARED, "test", "significant"), "")}


# A measured line


def test_a_line_that_follows_from_its_runs_has_no_problem():
    assert again(RIGHT) == Redone([], [])


@pytest.mark.parametrize(
    ("column", "said", "expected"),
    [
        ("mean", "99.9999", "100"),
        ("mean", "", "100"),
        ("std", "0.0000", "nothing"),
        ("low", "99.9000", "100"),
        ("high", "", "100"),
        ("paper", "41.3000", "41.31"),
        ("paper", "", "41.31"),
        ("difference", "-58.6900", "58.69"),
        ("seeds", "2", "1"),
        ("from_baseline", "99.9999", "100"),
        ("from_baseline_low", "", "100"),
        ("from_baseline_high", "12.0000", "100"),
        ("p", "0.00781", "0.0078125"),
        ("p_corrected", "0.0078125", "0.015625"),
        ("p_bootstrap", "0.000999", "0.0009995"),
        ("figure", "mAP", "acc"),
        ("figure", "", "acc"),
        ("miniature", "True", "False"),
        ("leaky", "", "False"),
        ("origin", "quoted", "measured"),
        ("test", "bootstrap", "McNemar"),
        ("significant", "False", "True"),
    ],
)
def test_one_number_or_word_that_differs_is_named_with_what_was_expected(column, said, expected):
    assert again({**RIGHT, column: said}).problems == [f"{column} is {said or 'empty'}, {expected} expected"]


def test_every_column_that_differs_is_named():
    empty = again(dict.fromkeys(RIGHT, "")).problems
    assert sorted(problem.partition(" is ")[0] for problem in empty) == sorted(RIGHT)


@pytest.mark.parametrize(("mean", "problems"), [("33.3333", 0), ("33.3334", 1), ("33.3332", 1)])
def test_a_number_may_differ_by_its_rounding_to_four_digits(mean, problems):
    own = runs(check([1, 0, 0]))
    found = again({**without_test(RIGHT), "mean": mean}, own, {}).problems
    assert [problem for problem in found if problem.startswith("mean")] == [f"mean is {mean}, 33.3333 expected"] * problems


def test_a_mean_over_seeds_is_that_of_each_seeds_mean_over_splits():
    """Seed 1 has 100, 50 and 0 on its three splits, seed 2 has 100: means of 50 and 100, hence 75 ± 50 / √2."""
    own = {(1, 0): check(EIGHT), (1, 1): check([1, 0] * 4), (1, 2): check(NONE), (2, 3): check(EIGHT)}
    low, high = interval(resample([one.found for one in own.values() if one.found], False, {}))
    values = without_test(RIGHT) | {"mean": "75.0000", "std": "35.3553", "difference": "33.6900", "seeds": "2"}
    assert again(values | {"low": f"{100 * low:.4f}", "high": f"{100 * high:.4f}"}, own, {}).problems == []


def test_where_the_paper_prints_nothing_there_is_no_difference():
    values = {**RIGHT, "paper": "", "difference": "", "p_corrected": "0.0078125"}
    assert again(values, data="clips").problems == []
    assert again({**values, "difference": "0.0000"}, data="clips").problems == ["difference is 0.0000, nothing expected"]


@pytest.mark.parametrize("which", [0, 1])
def test_one_run_on_generated_or_leaky_data_marks_the_line(which):
    marks: dict[str, dict[str, object]] = {"miniature": {"miniature": True}, "leaky": {"notes": ["clips: LEAKY split, 3 of 8"]}}
    for column, facts in marks.items():
        own = runs(check(EIGHT), check(EIGHT))
        list(own.values())[which].about.update(facts)
        values = {**RIGHT, "std": "0.0000", "seeds": "2"}
        assert again(values, own).problems == [f"{column} is False, True expected"]
        assert again({**values, column: "True"}, own).problems == []


# Several labels


def test_average_precisions_are_tested_by_the_bootstrap():
    own, baseline = (runs(check(EIGHT, multi_label=True)) for _ in range(2))
    values = RIGHT | {"figure": "mAP", "paper": "43.9100", "difference": "56.0900", "test": "bootstrap", "p": "1"}
    values |= dict.fromkeys(("from_baseline", "from_baseline_low", "from_baseline_high"), "0.0000")
    values |= {"p_corrected": "1", "p_bootstrap": "1", "significant": "False"}
    assert again(values, own, baseline, "hollywood2", others=[]).problems == []
    wrong = again(values | {"figure": "acc", "test": "McNemar", "p": "0.5"}, own, baseline, "hollywood2", others=[])
    assert wrong.problems == ["figure is acc, mAP expected", "p is 0.5, 1 expected", "test is McNemar, bootstrap expected"]


def test_average_precisions_may_differ_by_what_single_precision_takes():
    own = runs(check(EIGHT, multi_label=True))
    values = without_test(RIGHT) | {"figure": "mAP", "paper": "43.9100"}
    wrong = ["mean is 99.99979, 100 expected", "difference is 56.08979, 56.09 expected"]
    for slip, problems in ((0.00019, []), (0.00021, wrong)):
        said = values | {"mean": f"{100 - slip:.5f}", "difference": f"{56.09 - slip:.5f}"}
        assert again(said, own, {}, "hollywood2").problems == problems


# The comparison with the average-pooled row


def test_videos_of_a_group_are_exchanged_together_where_clips_of_a_group_are_alike():
    """Four groups of two: two of the 2^4 exchanges are as extreme."""
    values = {
        **RIGHT,
        "paper": "84.9600",
        "difference": "15.0400",
        "p": "0.125",
        "p_corrected": "0.125",
        "significant": "False",
    }
    assert again(values, data="ucf11", others=[]).problems == []
    assert again({**RIGHT, "p_corrected": "0.0078125"}, others=[]).problems == [], "not on HMDB-51"


@pytest.mark.parametrize(
    ("others", "corrected"),
    [([], "0.0078125"), (["0.5"], "0.015625"), (["0.001"], "0.0078125"), (["0.001", "0.5", "0.9"], "0.0234375")],
)
def test_a_p_value_is_corrected_for_the_other_rows_of_its_column(others, corrected):
    """Holm: the smallest of n is taken times n, the next times n - 1, and none falls below one before it."""
    rows = [line(row=f"row{number}", p=p) for number, p in enumerate(others)]
    elsewhere = [line(data="ucf11", row=f"row{number}", p="0.0001") for number in range(5)]
    assert again({**RIGHT, "p_corrected": corrected}, others=[*rows, *elsewhere]).problems == []


def test_a_row_differs_significantly_by_its_corrected_p_value_alone():
    """Two of the 2^6 exchanges of six videos: 0.03125, doubled for the other row."""
    values = {**RIGHT, "p": "0.03125", "p_corrected": "0.0625", "significant": "False"}
    assert again(values, runs(check([1] * 6)), runs(check([0] * 6))).problems == []
    values = {**values, "p_corrected": "0.03125", "significant": "True"}
    assert again(values, runs(check([1] * 6)), runs(check([0] * 6)), others=[]).problems == []


def test_a_row_may_be_worse_than_the_baseline():
    values = {**RIGHT, **dict.fromkeys(("mean", "low", "high"), "0.0000"), **dict.fromkeys(COMPARED[:3], "-100.0000")}
    values["difference"] = "-41.3100"
    assert again(values, runs(check(NONE)), runs(check(EIGHT))).problems == []


def test_a_row_that_equals_the_baseline_does_not_differ_from_it():
    values = {**RIGHT, **dict.fromkeys(COMPARED[:3], "0.0000"), **dict.fromkeys(COMPARED[3:], "1"), "significant": "False"}
    assert again(values, baseline=runs(check(EIGHT)), others=[]).problems == []


def test_only_seeds_that_both_rows_have_are_compared():
    own = runs(check(EIGHT), check(NONE))
    low, high = interval(resample([one.found for one in own.values() if one.found], False, {}))
    values = {**RIGHT, "mean": "50.0000", "std": "70.7107", "difference": "8.6900", "seeds": "2"}
    values |= {"low": f"{100 * low:.4f}", "high": f"{100 * high:.4f}"}
    assert again(values, own).problems == [], "the second seed is not the baseline's"


@pytest.mark.parametrize(
    "baseline",
    [{}, {(2, 0): check(NONE)}, runs(check(NONE, [f"w{number}" for number in range(8)])), runs(check([0] * 7))],
    ids=["no run", "another seed", "other videos", "a video less"],
)
def test_where_rows_cannot_be_compared_nothing_may_be_said_of_a_difference(baseline):
    assert again(without_test(RIGHT), baseline=baseline) == Redone([], [])
    found = again(RIGHT, baseline=baseline).problems
    assert found == [f"{name} is {RIGHT[name]}, nothing expected" for name in (*COMPARED, "test", "significant")]


def test_the_average_pooled_row_is_not_compared_with_itself():
    own = runs(check(EIGHT))
    values = {**without_test(RIGHT), "row": "avg_pool_lstm", "paper": "40.5200", "difference": "59.4800"}
    assert again(values, own, own).problems == []
    assert again({**values, "p": "1"}, own, own).problems == ["p is 1, nothing expected"]
    assert again({**values, "test": "McNemar"}, own, own).problems == ["test is McNemar, nothing expected"]


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (Check(RunFolder(Path("gone")), missing=["the run folder gone is missing"]), "the run folder gone is missing"),
        (Check(RunFolder(Path("bad")), differs=["bad, line 3: a score is not finite"]), "bad, line 3: a score is not finite"),
    ],
)
def test_a_baseline_that_cannot_be_read_leaves_the_difference_open_and_says_why(lost, reason):
    baseline = {(1, 0): check(NONE), (1, 1): lost}
    found = again({**RIGHT, "p": "0.9"}, baseline=baseline)
    assert found == Redone([], [f"its difference from avg_pool_lstm: {reason}"])
    assert again({**without_test(RIGHT), "from_baseline": "3"}, baseline=baseline) == found, "without p as well"
    assert again({**RIGHT, "mean": "1"}, baseline=baseline).problems == ["mean is 1, 100 expected"]
    assert again(without_test(RIGHT), baseline=baseline) == Redone([], []), "no difference is claimed"


# Lines of Table 2


def test_in_the_second_table_a_measured_number_names_its_source():
    values = {**RIGHT, "paper": "41.3000", "difference": "58.7000", "source": "HMDB-51 measured here; Hollywood2 quoted"}
    assert again(values, data="hmdb51_mean", quoting=True).problems == ["p_corrected is 0.015625, 0.0078125 expected"]
    values = {**values, "p_corrected": "0.0078125", "source": "quoted from Sharma et al."}
    said = "source is 'quoted from Sharma et al.', though the number is measured here"
    assert again(values, data="hmdb51_mean", quoting=True).problems == [said]


def test_in_the_second_table_videos_are_exchanged_one_by_one():
    values = {**RIGHT, "paper": "", "difference": "", "source": "measured here"}
    assert again(values, data="ucf11", others=[], quoting=True).problems == ["p_corrected is 0.015625, 0.0078125 expected"]


@pytest.mark.parametrize(
    ("data", "row", "quoting", "number"),
    [
        ("ucf11", "softmax_regression", False, 82.37),
        ("hollywood2", "soft_attention_10", False, 42.92),
        ("clips", "soft_attention_0", False, None),
        ("hmdb51_mean", "soft_attention_0", False, None),
        ("hmdb51_mean", "soft_attention_0", True, 41.3),
        ("hollywood2", "soft_attention_0", True, 43.9),
        ("hmdb51_1", "soft_attention_0", True, None),
        ("hmdb51_mean", "DL-SFA", True, None),
        ("hollywood2", "DL-SFA", True, 48.1),
        ("hollywood2", "avg_pool_lstm", True, None),
        ("ucf11", "soft_attention_0", True, None),
        ("hollywood2", "<b>'DL|SFA'\n🎬", True, None),
    ],
)
def test_what_the_paper_prints_where_a_line_stands(data, row, quoting, number):
    assert printed(line(data, row), quoting) == number


DARWIN = {"paper": "63.7000", "origin": "quoted", "source": "quoted from Fernando et al., CVPR 2015"}


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, []),
        ({"paper": "73.7000"}, ["paper is 73.7000, 63.7 expected"]),
        ({"origin": "measured"}, ["origin is measured, quoted expected"]),
        ({"origin": ""}, ["origin is empty, quoted expected"]),
        ({"paper": ""}, ["paper is empty, 63.7 expected", "origin is quoted, nothing expected"]),
        (
            {"source": 'a "book"\n'},
            [r"""source is 'a "book"\n', the number is quoted from Fernando et al., CVPR 2015"""],
        ),
        ({"mean": "1.0000", "origin": "measured", "source": "measured here"}, []),
    ],
)
def test_a_quoted_number_is_the_papers_and_names_its_publication(changes, problems):
    assert Redone.quoted(line("hmdb51_mean", "VideoDarwin", **{**DARWIN, **changes}), True) == Redone(problems, [])


def test_a_line_without_a_number_may_not_say_where_one_is_from():
    assert Redone.quoted(line("hmdb51_1", "VideoDarwin"), True).problems == []
    assert Redone.quoted(line("hmdb51_1", "VideoDarwin", origin="quoted"), True).problems == [
        "origin is quoted, nothing expected"
    ]
    assert Redone.quoted(line("hmdb51_1", "VideoDarwin", **DARWIN), True).problems == ["paper is 63.7000, nothing expected"]


@pytest.mark.parametrize("quoting", [False, True])
def test_a_line_without_runs_may_not_claim_what_only_runs_give(quoting):
    numbers = dict.fromkeys(("std", "low", "high", "difference"), "0.1") | {"seeds": "3"} | dict.fromkeys(COMPARED, "0.1")
    claims = numbers | {"test": "McNemar", "significant": "False"}
    asked = line("hmdb51_mean", "VideoDarwin", **DARWIN, **claims) if quoting else line(paper="41.3100", **claims)
    expected = [f"{name} is {said}, {'0' if name == 'seeds' else 'nothing'} expected" for name, said in claims.items()]
    assert Redone.quoted(asked, quoting) == Redone(expected, [])


@pytest.mark.parametrize("quoting", [False, True])
@pytest.mark.parametrize("row", ["foo", "", "soft_attention_2", "<b>|\n🎬"])
def test_a_row_that_no_table_has_is_named(quoting, row):
    said = f"row is {row!r}, which is none of the table's; make the table again"
    assert Redone.quoted(line("ucf11", row), quoting).problems == [said]
    assert said in Redone.quoted(line("ucf11", row, paper="1.0000"), quoting).problems
    assert said in redo(line("ucf11", row, **RIGHT), runs(check(EIGHT)), {}, [], quoting).problems


def test_of_a_line_of_the_first_table_without_runs_the_papers_number_remains():
    assert Redone.quoted(line("ucf11", paper="84.9600"), False).problems == []
    assert Redone.quoted(line("ucf11", paper="84.9500"), False).problems == ["paper is 84.9500, 84.96 expected"]
    assert Redone.quoted(line("clips", paper="84.9600"), False).problems == ["paper is 84.9600, nothing expected"]


# One number


@pytest.mark.parametrize(
    ("text", "value", "problems"),
    [
        ("", None, []),
        ("1.5000", 1.5, []),
        ("1.5001", 1.50005, []),
        ("1.5001", 1.5, ["std is 1.5001, 1.5 expected"]),
        ("-0.0000", 0.0, []),
        ("inf", 1.0, ["std is inf, 1 expected"]),
        ("nan", 1.0, ["std is nan, 1 expected"]),
        ("1.0", float("nan"), ["std is 1.0, nan expected"]),
        ("", 0.0, ["std is empty, 0 expected"]),
        ("0.0000", None, ["std is 0.0000, nothing expected"]),
        ("1.5", 1234567.0, ["std is 1.5, 1.23457e+06 expected"]),
    ],
)
def test_a_number_is_compared_with_a_number_and_nothing_with_nothing(text, value, problems):
    redone = Redone()
    redone.compare(line(std=text), "std", value, HALF_STEP)
    assert redone.problems == problems and redone.missing == []
