"""A written table read back: its CSV, its record of runs, and what its other formats show otherwise."""

import csv
import json
import re
from dataclasses import replace
from io import StringIO

import pytest

from datamodules.leaks import MARK as LEAKY
from datamodules.videos import DataError
from reproduce.evaluation.printed import NUMERIC, READERS, Line, compare_formats, read_csv, read_record
from reproduce.evaluation.results import MINIATURE_TITLE, Cell, Table
from reproduce.evaluation.significance import Comparison
from reproduce.evaluation.writers import CSV_HEAD, FORMATS

SUFFIXES = ("md", "tex", "html")
ODD = ['a|b & "c" <i>\\x</i> 50% $y_1^2$ ~z~', "two\nlines, λ = 1", "🎬 & 手 {x} # *y*", "&amp; | &lt;td&gt; <td>9.9</td>"]


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


# The other formats

WRITTEN = {
    "md": r"""## Table 1

| Model | UCF-11 (acc %): ours [95 % interval] | paper (difference) |
| --- | ---: | ---: |
| **RGB data only** |  |  |
| a \| b & c | 81.0 ± 1.4\* [78.0, 84.0] | 82.56 (−1.6) |
| **RGB data and optical flow** |  |  |
| d | – | 84.96 |

* A note | with 1.0 and 2.0 | bars.
""",
    "tex": r"""\toprule
Model & \multicolumn{2}{c}{UCF-11 (acc \%)} \\
\cmidrule(lr){2-3}
 & ours [95 \% interval] & paper (difference) \\
\midrule
\multicolumn{3}{l}{\emph{RGB data only}} \\
a | b \& c & 81.0 $\pm$ 1.4$^{*}$ [78.0, 84.0] & 82.56 ($-$1.6) \\
\midrule
\multicolumn{3}{l}{\emph{RGB data and optical flow}} \\
d & -- & 84.96 \\
\bottomrule
\end{tabular}
A note & with 1.0 \\
""",
    "html": """<table>
<thead>
<tr><th scope="col" rowspan="2">Model</th><th scope="colgroup" colspan="2">UCF-11 (acc %)</th></tr>
<tr><th scope="col">ours [95 % interval]</th><th scope="col">paper (difference)</th></tr>
</thead>
<tbody>
<tr><th scope="rowgroup" colspan="3">RGB data only</th></tr>
<tr><th scope="row">a | b &amp; c</th><td class="x"><div><span>81.0 ± 1.4*</span> <span>[78.0, 84.0]</span></div></td><td
 data-label="&lt;td&gt;"><div>82.56 <span>(−1.6)</span></div></td></tr>
<tr><th scope="rowgroup" colspan="3">RGB data and optical flow</th></tr>
<tr><th scope="row">d</th><td><div>–</div></td><td><div>84.96</div></td></tr>
</tbody>
</table>
""",
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_rows_of_numbers_are_found_in_every_format(suffix):
    first = "a | b \\& c" if suffix == "tex" else "a | b & c"
    assert READERS[suffix](WRITTEN[suffix]) == [
        [first, "81.0 ± 1.4* [78.0, 84.0]", "82.56 (−1.6)"],
        ["d", "–", "84.96"],
    ]


@pytest.mark.parametrize("text", ["", "no table\n", "| a |\n", "\\midrule", "<tr>"])
def test_a_text_without_a_table_has_no_rows(text):
    assert [READERS[suffix](text) for suffix in SUFFIXES] == [[], [], []]


def table(quoting: bool = False) -> Table:
    """Four rows of odd names on two data sets; the second differs significantly, the last has no number."""
    better = Comparison(0.045, (0.012, 0.081), "McNemar", 0.004, 0.012, 0.01)
    rows = ("avg_pool_lstm", "soft_attention_0", "soft_attention_1", "soft_attention_10")
    cells = {}
    for column in ("ucf11", "mine"):
        cells[rows[0], column] = Cell("acc", (80.0, 82.0), (78.0, 84.0), 82.56, ("note | & <b>",), data=ODD[0])
        cells[rows[1], column] = Cell("acc", (85.1, 85.9), (82.5, 88.5), None, comparison=better, data=ODD[0])
        cells[rows[2], column] = Cell("acc", (), None, 41.3)
        cells[rows[3], column] = Cell("acc", (), None, None)
    sections = {rows[3]: "Optical flow"} if quoting else {}
    sources = {row: f"{row} from 1 and 2.5" for row in rows} if quoting else {}
    labels: dict[str, str] = dict(zip(rows, ODD, strict=True))
    return Table("Table 2" if quoting else "Table 1", rows, ("ucf11", "mine"), cells, labels, sections, sources)


@pytest.fixture(params=[False, True], ids=["two columns a data set", "one column a data set"])
def written(request, tmp_path):
    """The files of a table without their suffix, its lines, and whether it quotes."""
    for suffix, write in FORMATS.items():
        (tmp_path / f"table.{suffix}").write_text(write(table(request.param)), encoding="utf-8")
    return tmp_path / "table", read_csv(tmp_path / "table.csv"), request.param


def change(stem, suffix: str, old: str, new: str) -> None:
    path = stem.with_suffix(f".{suffix}")
    text = path.read_text(encoding="utf-8")
    if suffix == "tex":
        old, new = (word.replace("−", "$-$").replace("±", "$\\pm$").replace("*", "$^{*}$") for word in (old, new))
    elif suffix == "html":
        text = re.sub("</?span>", "", text)
    elif suffix == "md":
        old, new = (word.replace("*", "\\*") for word in (old, new))
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_what_was_written_together_agrees(written):
    stem, lines, quoting = written
    assert compare_formats(stem, lines, quoting) == ({}, [])
    assert [line.values["significant"] for line in lines] == ["", "True", "", ""] * 2


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("row", "old", "new", "says"),
    [
        ("avg_pool_lstm", "[78.0, 84.0]", "[78.0, 84.1]", "has 81, 1.4142, 78, 84, 82.56, -1.56"),
        ("avg_pool_lstm", "81.0 ± 1.4", "81.0", "has 81, 1.4142, 78, 84, 82.56, -1.56"),
        ("avg_pool_lstm", "−1.6", "+1.6", "has 81, 1.4142, 78, 84, 82.56, -1.56"),
        ("soft_attention_0", "85.5 ± 0.6*", "85.5 ± 0.6", "by the CSV's line 3 the row differs significantly"),
        ("soft_attention_1", "41.3", "41.4", "the CSV's line 4 has 41.3"),
    ],
)
def test_what_a_format_shows_otherwise_is_named_with_the_line_of_the_csv(written, suffix, row, old, new, says):
    stem, lines, quoting = written
    change(stem, suffix, old, new)
    differs, whole = compare_formats(stem, lines, quoting)
    assert list(differs) == [("ucf11", row)] and whole == []
    (problem,) = differs["ucf11", row]
    assert problem.startswith(f"{stem.with_suffix(f'.{suffix}')}: shows '") and problem.endswith(says)
    assert new in problem


def with_values(lines: list[Line], number: int, **values: str) -> list[Line]:
    return [*lines[:number], replace(lines[number], values=lines[number].values | values), *lines[number + 1 :]]


@pytest.mark.parametrize(
    ("number", "values", "says"),
    [(2, {"paper": "", "origin": ""}, "line 4 has nothing"), (3, {"paper": "7.5000"}, "line 5 has 7.5")],
    ids=["the CSV has none", "the CSV alone has one"],
)
def test_a_number_that_stands_in_one_of_the_two_alone_is_named(written, number, values, says):
    stem, lines, quoting = written
    differs, whole = compare_formats(stem, with_values(lines, number, **values), quoting)
    assert list(differs) == [lines[number].key] and whole == []
    assert [problem.endswith(says) for problem in differs[lines[number].key]] == [True] * 3


@pytest.mark.parametrize(("mean", "agrees"), [("85.5500", True), ("85.4500", True), ("85.5503", False), ("85.4497", False)])
def test_a_shown_number_may_differ_by_its_rounding_and_no_more(written, mean, agrees):
    stem, lines, quoting = written
    differs, whole = compare_formats(stem, with_values(lines, 1, mean=mean), quoting)
    assert whole == [] and {key: len(problems) for key, problems in differs.items()} == (
        {} if agrees else {("ucf11", "soft_attention_0"): 3}
    )


@pytest.mark.parametrize(("suffix", "kind"), [("md", "missing"), ("tex", "a folder"), ("html", "no text")])
def test_a_format_that_cannot_be_read_is_named_and_the_others_are_compared(written, suffix, kind):
    stem, lines, quoting = written
    path = stem.with_suffix(f".{suffix}")
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "no text":
        path.write_bytes(b"\xff")
    differs, whole = compare_formats(stem, with_values(lines, 0, mean="70.0000"), quoting)
    assert len(whole) == 1 and whole[0].startswith(f"{path}: not readable (")
    assert {key: len(problems) for key, problems in differs.items()} == {("ucf11", "avg_pool_lstm"): 2}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_format_that_lacks_a_row_is_named_and_not_compared_cell_by_cell(written, suffix):
    stem, lines, quoting = written
    path = stem.with_suffix(f".{suffix}")
    text = path.read_text(encoding="utf-8").splitlines(keepends=True)
    (number,) = (number for number, one in enumerate(text) if "[78.0, 84.0]" in one)
    path.write_text("".join([*text[:number], *text[number + 1 :]]), encoding="utf-8")
    assert compare_formats(stem, lines, quoting) == ({}, [f"{path}: has 3 rows, the CSV has 4 of 2 columns"])


def test_formats_that_lack_a_column_of_the_csv_are_named(written):
    stem, lines, quoting = written
    more = [replace(one, values=one.values | {"data": data}) for data in ("hmdb51", "hollywood2") for one in lines[:4]]
    said = "has 4 rows, the CSV has 4 of 4 columns"
    whole = [f"{stem.with_suffix(f'.{suffix}')}: {said}" for suffix in SUFFIXES]
    assert compare_formats(stem, [*lines, *more], quoting) == ({}, whole)


@pytest.mark.parametrize(("column", "words"), [("miniature", MINIATURE_TITLE), ("leaky", LEAKY)])
def test_what_the_csv_says_of_the_data_must_stand_in_every_format_and_nothing_else(written, column, words):
    stem, lines, quoting = written
    lacks = [f"{stem.with_suffix(f'.{suffix}')}: lacks the words {words!r}; {column} is True in the CSV" for suffix in SUFFIXES]
    assert compare_formats(stem, with_values(lines, 5, **{column: "True"}), quoting) == ({}, lacks)
    path = stem.with_suffix(".md")
    path.write_text(f"{path.read_text(encoding='utf-8')}* {words}\n", encoding="utf-8")
    has = [f"{path}: has the words {words!r}; {column} is False in the CSV"]
    assert compare_formats(stem, lines, quoting) == ({}, has)


def test_a_cell_that_the_csv_lacks_is_passed_over(written):
    stem, lines, quoting = written
    assert compare_formats(stem, [*lines[:5], *lines[6:]], quoting) == ({}, [])
