"""A table is made again from predictions that are known by hand, and every value of its CSV that differs is named."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datamodules.videos import DataError
from reproduce.common.catalogue import RGB, SYSTEMS
from reproduce.evaluation import published
from reproduce.evaluation.paper_tables import BEYOND, runs_of, table2
from reproduce.evaluation.recompute import Check
from reproduce.evaluation.results import pool
from reproduce.evaluation.significance import interval, resample
from reproduce.evaluation.table_files import Line
from reproduce.evaluation.verification import COMPARED, _in_csv, _is_measured, _lists, _make_again
from reproduce.evaluation.writers import CSV_HEAD, write_table
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.predictions import Predictions

EIGHT = [1] * 8
NONE = [0] * 8
PAIRS = {f"v{number}": f"g{number // 2}" for number in range(8)}  # two videos to a group
NAMED = "which is none of the table's; make the table again"


def line(data: str = "hmdb51", row: str = "soft_attention_0", **values: str) -> Line:
    figure = "mAP" if data == "hollywood2" else "acc"
    start = {
        "table": "Table 1",
        "data": data,
        "row": row,
        "figure": figure,
        "seeds": "0",
        "miniature": "False",
        "permuted": "False",
    }
    return Line(4, dict.fromkeys(CSV_HEAD, "") | start | {"leaky": "False"} | values)


def check(hits, names: list[str] | None = None, multi_label: bool = False) -> Check:
    """A run of two classes, of which the first is true; right where ``hits``."""
    right = np.asarray(hits, dtype=np.float32)
    names = names or [f"v{number}" for number in range(len(right))]
    target = np.tile([True, False], (len(right), 1))
    found = Predictions(tuple(names), ("a", "b"), target, np.stack([right, 1 - right], axis=1))
    about = {"multi_label": multi_label, "miniature": False, "notes": [], "groups": PAIRS, "data": "hmdb51", "split": "1"}
    about |= {"train_videos": 9, "test_videos": len(right)}
    metrics = {"test/mAP": 1.0} if multi_label else {"test/accuracy": float(right.mean())}
    return Check(RunFolder(Path("runs/a")), about, found, metrics, attends=False)


def runs(*checks: Check) -> dict[tuple[int, int], Check]:
    """By seed, from 1, one run each."""
    return {(seed, seed): one for seed, one in enumerate(checks, start=1)}


def others(row: str, p: str, data: str = "hmdb51") -> Line:
    """A tested line whose runs are not there."""
    return line(data, row, **dict.fromkeys(("mean", *COMPARED), p))


# All right, against a baseline that is all wrong. Two of the 2^8 exchanges of eight videos are as extreme; the other row's p
# is larger, so Holm's correction doubles this one; of 2000 resamples none contradicts, hence 2 / 2001.
RIGHT = {
    "mean": "100.0000",
    "low": "100.0000",
    "high": "100.0000",
    "paper": "41.3100",
    "difference": "58.6900",
    "seeds": "1",
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
OTHERS = [others("soft_attention_1", "0.5"), others("soft_attention_10", "0.001", "ucf11"), line(row="avg_pool_lstm")]
TESTED = (*COMPARED, "test", "significant")


def both(values, own=None, baseline=None, data="hmdb51", beside=OTHERS, table=1) -> tuple[list[str], list[str]]:
    """Of a line with these values: what differs, and why its comparison is not made again."""
    asked = line(data, **values)
    own, baseline = (runs(check(EIGHT)) if own is None else own), (runs(check(NONE)) if baseline is None else baseline)
    row = asked.key[1]
    checks = {key: found for key, found in {(data, "avg_pool_lstm"): baseline, (data, row): own}.items() if found}
    made = _make_again(Path(f"table{table}"), [*beside, asked], checks)
    return [problem for _, _, problem in _in_csv([asked], made)], list(made.untested.values())


def again(values: Mapping[str, str], *arguments, **keywords) -> list[str]:
    return both(values, *arguments, **keywords)[0]


def without_test(values: Mapping[str, str]) -> dict[str, str]:
    return {**values, **dict.fromkeys(TESTED, "")}


# A measured line


def test_a_line_that_follows_from_its_runs_has_no_problem():
    assert both(RIGHT) == ([], [])


@pytest.mark.parametrize(
    ("column", "said", "expected"),
    [
        ("table", "Table 2", "Table 1"),
        ("mean", "99.9999", "100.0000"),
        ("mean", "100", "100.0000"),
        ("std", "0.0000", "nothing"),
        ("low", "99.9000", "100.0000"),
        ("high", "", "100.0000"),
        ("paper", "41.3000", "41.3100"),
        ("paper", "", "41.3100"),
        ("difference", "-58.6900", "58.6900"),
        ("seeds", "2", "1"),
        ("from_baseline", "99.9999", "100.0000"),
        ("from_baseline_low", "", "100.0000"),
        ("from_baseline_high", "12.0000", "100.0000"),
        ("p", "0.00781", "0.0078125"),
        ("p_corrected", "0.0078125", "0.015625"),
        ("p_bootstrap", "0.000999", "0.0009995"),
        ("figure", "mAP", "acc"),
        ("figure", "", "acc"),
        ("miniature", "True", "False"),
        ("permuted", "True", "False"),
        ("leaky", "", "False"),
        ("origin", "quoted", "measured"),
        ("source", "measured here", "nothing"),
        ("section", RGB, "nothing"),
        ("test", "bootstrap", "McNemar"),
        ("significant", "False", "True"),
    ],
)
def test_one_value_that_differs_is_named_with_what_was_expected(column, said, expected):
    assert again({**RIGHT, column: said}) == [f"{column} is {said or 'empty'}, {expected} expected"]


def test_every_column_that_differs_is_named():
    empty = again({**dict.fromkeys(RIGHT, ""), "mean": "1.0000"})
    assert sorted(problem.partition(" is ")[0] for problem in empty) == sorted(RIGHT)


@pytest.mark.parametrize(("mean", "problems"), [("33.3333", 0), ("33.3334", 1), ("33.3332", 1), ("33.33333", 1)])
def test_a_number_stands_there_as_it_is_written(mean, problems):
    own = runs(check([1, 0, 0]))
    found = again({**without_test(RIGHT), "mean": mean}, own, {})
    assert [problem for problem in found if problem.startswith("mean")] == [f"mean is {mean}, 33.3333 expected"] * problems


def test_a_mean_over_seeds_is_that_of_each_seeds_pooled_splits():
    """Seed 1 is right of 8 of 8, 4 of 8 and 0 of 4 on its three splits, seed 2 of 8 of 8: 60 and 100, hence 80 ± 40 / √2."""
    halves, last = check([1, 0] * 4, [f"w{n}" for n in range(8)]), check([0] * 4, [f"x{n}" for n in range(4)])
    own = {(1, 0): check(EIGHT), (1, 1): halves, (1, 2): last, (2, 3): check(EIGHT)}
    pooled = pool([one.found for (seed, _), one in own.items() if seed == 1 and one.found])
    assert pooled.scores.shape == (20, 2) and own[2, 3].found is not None
    low, high = interval(resample([pooled, own[2, 3].found], False, {}))
    values = without_test(RIGHT) | {"mean": "80.0000", "std": "28.2843", "difference": "38.6900", "seeds": "2"}
    assert again(values | {"low": f"{100 * low:.4f}", "high": f"{100 * high:.4f}"}, own, {}) == []


def test_where_the_paper_prints_nothing_there_is_no_difference():
    values = {**RIGHT, "paper": "", "difference": "", "p": "0.125", "p_corrected": "0.125", "significant": "False"}
    assert again(values, data="videofolder") == []
    assert again({**values, "difference": "0.0000"}, data="videofolder") == ["difference is 0.0000, nothing expected"]


@pytest.mark.parametrize("which", [0, 1])
def test_one_run_on_generated_or_leaky_data_marks_the_line(which):
    marks: dict[str, dict[str, object]] = {"miniature": {"miniature": True}, "leaky": {"notes": ["clips: LEAKY split, 3 of 8"]}}
    for column, facts in marks.items():
        own = runs(check(EIGHT), check(EIGHT))
        list(own.values())[which].about.update(facts)
        values = {**RIGHT, "std": "0.0000", "seeds": "2"}
        assert again(values, own) == [f"{column} is False, True expected"]
        assert again({**values, column: "True"}, own) == []


def test_a_recomputed_figure_stands_in_place_of_one_that_metrics_json_has_wrong(tmp_path):
    """`recompute` puts it there; here metrics.json was changed after it."""
    own = runs(check([1] * 4 + [0] * 4))
    own[1, 1].metrics["test/accuracy"] = 0.5
    assert "mean is 100.0000, 50.0000 expected" in again(RIGHT, own)


# Several labels


def test_average_precisions_are_tested_by_the_bootstrap():
    own, baseline = (runs(check(EIGHT, multi_label=True)) for _ in range(2))
    values = RIGHT | {"figure": "mAP", "paper": "43.9100", "difference": "56.0900", "test": "bootstrap", "p": "1"}
    values |= dict.fromkeys(("from_baseline", "from_baseline_low", "from_baseline_high"), "0.0000")
    values |= {"p_corrected": "1", "p_bootstrap": "1", "significant": "False"}
    assert again(values, own, baseline, "hollywood2", beside=[]) == []
    wrong = again(values | {"figure": "acc", "test": "McNemar", "p": "0.5"}, own, baseline, "hollywood2", beside=[])
    assert wrong == ["figure is acc, mAP expected", "test is McNemar, bootstrap expected", "p is 0.5, 1 expected"]


# The comparison with the average-pooled row


def test_videos_of_a_group_are_exchanged_together_where_clips_of_a_group_are_alike():
    """Four groups of two: two of the 2^4 exchanges are as extreme."""
    values = {**RIGHT, "paper": "84.9600", "difference": "15.0400", "p": "0.125", "p_corrected": "0.125"}
    assert again({**values, "significant": "False"}, data="ucf11", beside=[]) == []
    assert again({**RIGHT, "p_corrected": "0.0078125"}, beside=[]) == [], "not on HMDB-51"


@pytest.mark.parametrize(
    ("values", "corrected"),
    [([], "0.0078125"), (["0.5"], "0.015625"), (["0.001"], "0.0078125"), (["0.001", "0.5", "0.9"], "0.0234375")],
)
def test_a_p_value_is_corrected_for_the_other_rows_of_its_column(values, corrected):
    """Holm: the smallest of n is taken times n, the next times n - 1, and none falls below one before it."""
    rows = ("softmax_regression", "max_pool_lstm", "soft_attention_1")
    beside = [others(row, p) for row, p in zip(rows, values, strict=False)]
    elsewhere = [others(row, "0.0001", "ucf11") for row in rows]
    assert again({**RIGHT, "p_corrected": corrected}, beside=[*beside, *elsewhere]) == []


def test_a_correction_may_differ_by_the_rounding_of_a_row_whose_runs_are_not_there():
    beside = [others("soft_attention_1", "0.00390621")]  # times two is more than this row's own p
    assert again({**RIGHT, "p_corrected": "0.00781243"}, beside=beside) == []
    assert again({**RIGHT, "p_corrected": "0.0078135"}, beside=beside) == ["p_corrected is 0.0078135, 0.0078125 expected"]
    assert again({**RIGHT, "p_corrected": "0.00781251"}, beside=[]) == ["p_corrected is 0.00781251, 0.0078125 expected"]


def test_a_row_differs_significantly_by_its_corrected_p_value_alone():
    """Two of the 2^6 exchanges of six videos: 0.03125, doubled for the other row."""
    values = {**RIGHT, "p": "0.03125", "p_corrected": "0.0625", "significant": "False"}
    assert again(values, runs(check([1] * 6)), runs(check([0] * 6))) == []
    values = {**values, "p_corrected": "0.03125", "significant": "True"}
    assert again(values, runs(check([1] * 6)), runs(check([0] * 6)), beside=[]) == []


def test_a_row_may_be_worse_than_the_baseline():
    values = {**RIGHT, **dict.fromkeys(("mean", "low", "high"), "0.0000"), **dict.fromkeys(COMPARED[:3], "-100.0000")}
    values["difference"] = "-41.3100"
    assert again(values, runs(check(NONE)), runs(check(EIGHT))) == []


def test_a_row_that_equals_the_baseline_does_not_differ_from_it():
    values = {**RIGHT, **dict.fromkeys(COMPARED[:3], "0.0000"), **dict.fromkeys(COMPARED[3:], "1"), "significant": "False"}
    assert again(values, baseline=runs(check(EIGHT)), beside=[]) == []


def test_only_seeds_that_both_rows_have_are_compared():
    own = runs(check(EIGHT), check(NONE))
    low, high = interval(resample([one.found for one in own.values() if one.found], False, {}))
    values = {**RIGHT, "mean": "50.0000", "std": "70.7107", "difference": "8.6900", "seeds": "2"}
    values |= {"low": f"{100 * low:.4f}", "high": f"{100 * high:.4f}"}
    assert again(values, own) == [], "the second seed is not the baseline's"


@pytest.mark.parametrize(
    "baseline",
    [{}, {(2, 0): check(NONE)}, runs(check(NONE, [f"w{number}" for number in range(8)])), runs(check([0] * 7))],
    ids=["no run", "another seed", "other videos", "a video less"],
)
def test_where_rows_cannot_be_compared_nothing_may_be_said_of_a_difference(baseline):
    assert both(without_test(RIGHT), baseline=baseline) == ([], [])
    found = again(RIGHT, baseline=baseline)
    assert sorted(found) == sorted(f"{name} is {RIGHT[name]}, nothing expected" for name in TESTED)


def test_the_average_pooled_row_is_not_compared_with_itself():
    own = runs(check(EIGHT))
    values = {**without_test(RIGHT), "row": "avg_pool_lstm", "paper": "40.5200", "difference": "59.4800"}
    assert again(values, own, own) == []
    assert again({**values, "p": "1"}, own, own) == ["p is 1, nothing expected"]
    assert again({**values, "test": "McNemar"}, own, own) == ["test is McNemar, nothing expected"]


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (Check(RunFolder(Path("gone")), missing=["the run folder gone is missing"]), "the run folder gone is missing"),
        (Check(RunFolder(Path("bad")), differs=["bad, line 3: a score is not finite"]), "bad, line 3: a score is not finite"),
    ],
)
def test_a_baseline_that_cannot_be_read_leaves_the_difference_open_and_says_why(lost, reason):
    baseline = {(1, 0): check(NONE), (1, 1): lost}
    assert both({**RIGHT, "p": "0.9"}, baseline=baseline) == ([], [reason])
    assert both({**without_test(RIGHT), "from_baseline": "3"}, baseline=baseline)[1] == [reason], "without p as well"
    assert again({**RIGHT, "mean": "1.0000"}, baseline=baseline) == ["mean is 1.0000, 100.0000 expected"]
    assert both(without_test(RIGHT), baseline=baseline) == ([], []), "no difference is claimed"


def test_a_deterministic_row_is_compared_with_every_seed_of_the_baseline(monkeypatch):
    """One run, right of all eight; two seeds, right of none and of four: ahead by 75 points, twelve discordant pairs."""
    monkeypatch.setitem(SYSTEMS, "fusion", replace(SYSTEMS["fusion"], deterministic=True))
    baseline = runs(check(NONE), check([1] * 4 + [0] * 4))
    values = {**RIGHT, "row": "late_fusion", "section": BEYOND, "paper": "", "difference": "", "from_baseline": "75.0000"}
    values |= {"p_corrected": "0.0078125"}
    found = again(values, {(0, 0): check(EIGHT)}, baseline, beside=[])
    assert {problem.partition(" is ")[0] for problem in found} <= {"from_baseline_low", "from_baseline_high"}, found


# Lines of Table 2

MEASURED = {
    **RIGHT,
    "table": "Table 2",
    "section": RGB,
    "paper": "41.3000",
    "difference": "58.7000",
    "p_corrected": "0.0078125",
}
MEASURED["source"] = (
    "HMDB-51, mean of three splits measured here; Hollywood2 quoted from Sharma et al., arXiv:1511.04119 (2015)"
)


def test_in_the_second_table_a_measured_number_names_its_source():
    assert again(MEASURED, data="hmdb51_mean", table=2, beside=[]) == []
    found = again({**MEASURED, "source": "quoted from Sharma et al."}, data="hmdb51_mean", table=2, beside=[])
    assert found == [f"source is quoted from Sharma et al., {MEASURED['source']} expected"]


def test_in_the_second_table_videos_are_exchanged_one_by_one():
    source = (
        MEASURED["source"]
        .replace("mean of three splits", "split 1")
        .replace("; Holl", "; HMDB-51, mean of three splits and Holl")
    )
    values = {**MEASURED, "paper": "", "difference": "", "source": source}
    found = again(values, data="hmdb51_1", table=2, beside=[])
    assert [problem for problem in found if not problem.startswith("source")] == []


QUOTED = {"table": "Table 2", "paper": "59.4000", "origin": "quoted", "source": "quoted from Simonyan and Zisserman, NIPS 2014"}
QUOTED |= {"row": "two_stream", "section": "RGB data and optical flow"}


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, []),
        ({"paper": "73.7000"}, ["paper is 73.7000, 59.4000 expected"]),
        ({"origin": "measured"}, ["origin is measured, quoted expected"]),
        ({"origin": ""}, ["origin is empty, quoted expected"]),
        ({"paper": ""}, ["paper is empty, 59.4000 expected"]),
        ({"source": 'a "book"'}, ['source is a "book", quoted from Simonyan and Zisserman, NIPS 2014 expected']),
        ({"section": RGB}, [f"section is {RGB}, RGB data and optical flow expected"]),
    ],
)
def test_a_quoted_number_is_the_papers_and_names_its_publication(changes, problems):
    assert again({**QUOTED, **changes}, {}, {}, "hmdb51_mean", [], 2) == problems


def test_a_line_without_a_number_may_not_say_where_one_is_from():
    empty = {**QUOTED, "paper": "", "origin": ""}
    assert again(empty, {}, {}, "hmdb51_1", [], 2) == []
    assert again({**empty, "origin": "quoted"}, {}, {}, "hmdb51_1", [], 2) == ["origin is quoted, nothing expected"]
    assert again({**empty, "paper": "63.7000"}, {}, {}, "hmdb51_1", [], 2) == ["paper is 63.7000, nothing expected"]


@pytest.mark.parametrize("table", [1, 2])
def test_a_line_without_runs_may_not_claim_what_only_runs_give(table):
    numbers = dict.fromkeys(("std", "low", "high", "difference"), "0.1") | {"seeds": "3"} | dict.fromkeys(COMPARED, "0.1")
    claims = numbers | {"test": "McNemar", "significant": "False"}
    start, data = (QUOTED, "hmdb51_mean") if table == 2 else ({"paper": "41.3100"}, "hmdb51")
    expected = {f"{name} is {said}, {'0' if name == 'seeds' else 'nothing'} expected" for name, said in claims.items()}
    assert set(again({**start, **claims}, {}, {}, data, [], table)) == expected


@pytest.mark.parametrize("table", [1, 2])
@pytest.mark.parametrize("row", ["foo", "", "soft_attention_2", "<b>|\n🎬"])
def test_a_row_that_no_table_has_is_named(table, row):
    data = "hmdb51_mean" if table == 2 else "hmdb51"
    said = f"row is {row!r} on {data!r}, {NAMED}"
    for values in ({}, {"paper": "1.0000"}, RIGHT):
        for own in ({}, runs(check(EIGHT))):
            assert again({**values, "row": row}, own, {}, data, [], table) == [said]


@pytest.mark.parametrize(("data", "table"), [("clips", 1), ("hmdb51_1", 1), ("ucf11", 2), ("", 1)])
def test_a_column_that_no_table_has_is_named(data, table):
    assert again(RIGHT, data=data, table=table) == [f"row is 'soft_attention_0' on {data!r}, {NAMED}"]


def test_of_a_line_of_the_first_table_without_runs_the_papers_number_remains():
    def of(data: str, paper: str) -> list[str]:
        return again({"paper": paper}, {}, {}, data, [])

    assert of("ucf11", "84.9600") == []
    assert of("ucf11", "84.9500") == ["paper is 84.9500, 84.9600 expected"]
    assert of("videofolder", "84.9600") == ["paper is 84.9600, nothing expected"]


@pytest.mark.parametrize(("more", "folder"), [({}, "ucf11"), ({"data.truth": "ring"}, "ucf11-ring")])
def test_data_drawn_otherwise_are_compared_with_those_in_their_own_folder(tmp_path, more, folder):
    about = {"data": "ucf11", "identity": {"data.split": "paper_like", "data.skip_bad": False, **more}}
    with pytest.raises(DataError, match=f"{tmp_path / folder / 'UCF11_updated_mpg'}\n"):
        _lists(tmp_path)(about)


def test_quoted_rows_that_have_no_run_were_to_be_measured_if_the_table_says_so(tmp_path):
    """The name of one ends in another's."""
    write_table(table2(["objects_stacked_fv", "composite_lstm"], runs_of([])), tmp_path)
    quoted = [line.key for line in published.table2()]
    assert "stacked_fv" in quoted
    asked = [row for row in quoted if _is_measured(tmp_path / "table2", row, [], {})]
    assert asked == ["composite_lstm", "objects_stacked_fv"]
