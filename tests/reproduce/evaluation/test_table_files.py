"""A written table read back: its CSV and its record of runs."""

import csv
import json
import re
from io import StringIO

import pytest

from datamodules.videos import DataError
from reproduce.evaluation.table_files import NUMERIC, Line, read_csv, read_record
from reproduce.evaluation.writers import CSV_HEAD


def line(number: int = 2, **values: str) -> Line:
    return Line(number, dict.fromkeys(CSV_HEAD, "") | values)


def records(*rows: dict[str, str], head=CSV_HEAD) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[row.get(name, "") for name in head] for row in rows])
    return text.getvalue()


# A line


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"mean": "84.9449", "low": "82.0551", "high": "87.3000", "paper": "84.96"}, "84.9 [82.1, 87.3]"),
        ({"mean": "84.9449", "paper": "84.96", "origin": "measured"}, "84.9"),
        ({"mean": "84.9449", "low": "82.0551"}, "84.9"),
        ({"mean": "0.0000", "low": "0.0000", "high": "0.0000"}, "0.0 [0.0, 0.0]"),
        ({"paper": "63.7000", "origin": "quoted"}, "63.7 quoted"),
        ({"paper": "63.7000"}, "–"),
        ({"origin": "quoted"}, "–"),
        ({}, "–"),
    ],
)
def test_a_line_shows_what_was_measured_or_else_quoted(values, text):
    assert line(**values).ours == text


def test_the_numbers_of_a_line_are_those_that_are_there_in_the_order_asked_for():
    found = line(data="ucf11", row="avg_pool_lstm", mean="81.5", paper="82.56", difference="-1.06")
    assert found.key == ("ucf11", "avg_pool_lstm")
    assert found.numbers("difference", "std", "mean", "low", "high") == [-1.06, 81.5]
    assert found.numbers("std") == [] == found.numbers()


# The CSV


def test_a_csv_reads_back_as_written_with_the_lines_of_the_file(tmp_path):
    first = {"table": "Table 2", "data": "ucf11", "row": "<b>|'a'\"", "mean": "1.5", "seeds": "2"}
    second = {"data": "🎬 ü", "row": "", "source": 'A, "B" & C; =1+1'}
    (tmp_path / "table2.csv").write_text(records(first, second), encoding="utf-8")
    assert read_csv(tmp_path / "table2.csv") == [line(2, **first), line(3, **second)]


def test_a_csv_of_columns_alone_has_no_line(tmp_path):
    (tmp_path / "table1.csv").write_text(records())
    assert read_csv(tmp_path / "table1.csv") == []


@pytest.mark.counts("damaged tables")
@pytest.mark.parametrize(
    "text",
    ["", "a,b\n1,2\n", records(head=CSV_HEAD[:-1]), records(head=[*CSV_HEAD, "more"]), records(head=CSV_HEAD[::-1])],
    ids=["empty", "another's", "a column less", "a column more", "another order"],
)
def test_a_csv_of_other_columns_is_refused_with_what_to_do(tmp_path, text):
    (tmp_path / "table1.csv").write_text(text)
    with pytest.raises(DataError) as error:
        read_csv(tmp_path / "table1.csv")
    said = f"{tmp_path / 'table1.csv'}, line 1: not the columns of a table of this version; make the table again"
    assert str(error.value) == said


@pytest.mark.counts("damaged tables")
@pytest.mark.parametrize(
    ("third", "says"),
    [
        ("a,b", f"expected {len(CSV_HEAD)} values, found 2"),
        ("," * len(CSV_HEAD), f"expected {len(CSV_HEAD)} values, found {len(CSV_HEAD) + 1}"),
        ("," * (len(CSV_HEAD) - 2), f"expected {len(CSV_HEAD)} values, found {len(CSV_HEAD) - 1}"),
        ('"' + "," * (len(CSV_HEAD) - 1), "not CSV (a quoted value is not closed)"),
    ],
    ids=["two values", "one too many", "one too few", "a quote that is not closed"],
)
def test_a_line_of_too_many_or_too_few_values_is_named(tmp_path, third, says):
    (tmp_path / "table1.csv").write_text(records({"mean": "1"}) + third + "\n")
    with pytest.raises(DataError) as error:
        read_csv(tmp_path / "table1.csv")
    assert str(error.value) == f"{tmp_path / 'table1.csv'}, line 3: {says}; make the table again"


NO_NUMBERS = ["84,9", "±1", "[82.1", "–", '84.96 "quoted"', "−1.5", "two", "nan", "inf", "-Infinity", "1e999"]


@pytest.mark.counts("damaged tables")
@pytest.mark.parametrize(
    ("column", "word"), [(column, NO_NUMBERS[at % len(NO_NUMBERS)]) for at, column in enumerate(NUMERIC * 2)]
)
def test_a_number_that_is_none_is_named_with_its_line(tmp_path, column, word):
    (tmp_path / "table1.csv").write_text(records({column: "1"}, {column: word}, {column: "2"}), encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_csv(tmp_path / "table1.csv")
    where = f"{tmp_path / 'table1.csv'}, line 3"
    assert str(error.value) == f"{where}: {column} is {word!r}, which is no number; make the table again"


def test_the_line_is_named_at_which_a_row_begins(tmp_path):
    """After a blank line, after a row of several lines, and where the first row is wrong."""
    path = tmp_path / "table1.csv"
    head, *rows = records({"row": "two\nlines"}, {"row": "b"}).splitlines(keepends=True)
    path.write_text("".join([head, "\n", *rows]))
    assert [line.number for line in read_csv(path)] == [3, 5]
    path.write_text(records({"mean": "much"}))
    with pytest.raises(DataError, match="line 2: mean is 'much'"):
        read_csv(path)


@pytest.mark.counts("damaged tables")
@pytest.mark.parametrize(
    ("kind", "says"),
    [("missing", ": cannot be read (No such file"), ("a folder", ": cannot be read (Is a"), ("no text", ", line 2: not UTF-8")],
)
def test_what_cannot_be_read_is_named_with_what_to_do(tmp_path, kind, says):
    path = tmp_path / "table1.csv"
    if kind == "a folder":
        path.mkdir()
    elif kind == "no text":
        path.write_bytes(records({"row": "x"}).encode().replace(b"x", b"\xff"))
    with pytest.raises(DataError) as error:
        read_csv(path)
    assert str(error.value).startswith(f"{path}{says}") and str(error.value).endswith("; make the table again")


# The record of runs

RUN = {"folder": "../runs/ucf11/a", "seed": 1, "predictions_sha256": "ab", "videos": None, "features": "cd"}


def test_a_record_gives_the_runs_of_each_cell(tmp_path):
    cells = [
        {"data": "ucf11", "row": "a", "runs": [RUN, {**RUN, "seed": 2}]},
        {"data": "hmdb51", "row": "a", "runs": []},
        {"data": 'm "y"|\n🎬', "row": "<b>", "runs": [{**RUN, "folder": "ü\n<x>"}]},
    ]
    (tmp_path / "table1.json").write_text(json.dumps({"table": "Table 1", "cells": cells}, ensure_ascii=False), "utf-8")
    assert read_record(tmp_path / "table1.json") == {
        ("ucf11", "a"): [RUN, {**RUN, "seed": 2}],
        ("hmdb51", "a"): [],
        ('m "y"|\n🎬', "<b>"): [{**RUN, "folder": "ü\n<x>"}],
    }


def test_a_table_without_a_record_names_no_run(tmp_path):
    assert read_record(tmp_path / "table1.json") == {}


def of_run(run) -> str:
    return json.dumps({"cells": [{"data": "ucf11", "row": "a", "runs": [RUN, run]}]})


@pytest.mark.counts("damaged tables")
@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"cells": [',
        "[]",
        "null",
        "{}",
        '{"cells": null}',
        '{"cells": [3]}',
        '{"cells": [{"data": "ucf11", "row": "a"}]}',
        '{"cells": [{"data": ["ucf11"], "row": "a", "runs": []}]}',
        '{"cells": [{"data": "ucf11", "row": "a", "runs": null}]}',
        *(f'{{"cells": [{{"data": {data}, "row": {row}, "runs": []}}]}}' for data, row in (("1", '"a"'), ('"a"', "null"))),
        of_run("../runs/ucf11/a"),
        of_run({**RUN, "folder": 3}),
        of_run({**RUN, "seed": "one"}),
        *(of_run({**RUN, "seed": seed}) for seed in (None, "1", 1.5, True, float("inf"))),
        *(of_run({**RUN, "predictions_sha256": digest}) for digest in (None, 5, ["ab"])),
        *(of_run({**RUN, name: 5}) for name in ("videos", "features")),
        of_run({**RUN, "folder": "a\0b"}),
        '{"cells": ' + "[" * 200_000,
        '{"cells": [], "cells": []}',
        *(of_run({key: value for key, value in RUN.items() if key != left_out}) for left_out in RUN),
    ],
)
def test_a_damaged_record_is_named_with_what_to_do(tmp_path, text):
    (tmp_path / "table1.json").write_text(text)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'table1.json'}: damaged (") + r".+\); make the table again$"):
        read_record(tmp_path / "table1.json")


@pytest.mark.counts("damaged tables")
@pytest.mark.parametrize("kind", ["a folder", "no text"])
def test_a_record_that_cannot_be_read_is_no_missing_one(tmp_path, kind):
    path = tmp_path / "table1.json"
    if kind == "a folder":
        path.mkdir()
    else:
        path.write_bytes(b'{"cells": [], "a": "\xff"}')
    with pytest.raises(DataError, match="damaged"):
        read_record(path)
