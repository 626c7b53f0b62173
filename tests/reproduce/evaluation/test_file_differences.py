"""Files of a table that were changed by hand: each difference is found, in its line and its cell."""

import re
from dataclasses import replace

import pytest

from datamodules.leaks import MARK as LEAKY
from reproduce.evaluation.file_differences import differences
from reproduce.evaluation.notes import MINIATURE_TITLE
from reproduce.evaluation.results import Cell, Table
from reproduce.evaluation.significance import Comparison
from reproduce.evaluation.writers import FORMATS

SUFFIXES = ("md", "tex", "html")
ODD = ['a|b & "c" <i>\\x</i> 50% $y_1^2$ ~z~', "three, λ = 1", "🎬 & 手 {x} # *y*", "&amp; | &lt;td&gt; <td>9.9</td>"]
ROWS = ("avg_pool_lstm", "soft_attention_0", "soft_attention_1", "soft_attention_10")


def table(quoting: bool = False) -> Table:
    """Four rows of odd names on two data sets; the second differs significantly, the last has no number."""
    better = Comparison(0.045, (0.012, 0.081), "McNemar", 0.004, 0.012, 0.01)
    cells = {}
    for column in ("ucf11", "mine"):
        cells[ROWS[0], column] = Cell("acc", (80.0, 82.0), (78.0, 84.0), 82.56, ("note | & <b>",), data=ODD[0])
        cells[ROWS[1], column] = Cell("acc", (85.1, 85.9), (82.5, 88.5), None, comparison=better, data=ODD[0])
        cells[ROWS[2], column] = Cell("acc", (), None, 41.3)
        cells[ROWS[3], column] = Cell("acc", (), None, None)
    sections = {ROWS[3]: "Optical flow"} if quoting else {}
    sources = {row: f"{row} from 1 and 2.5" for row in ROWS} if quoting else {}
    labels: dict[str, str] = dict(zip(ROWS, ODD, strict=True))
    return Table("Table 2" if quoting else "Table 1", ROWS, ("ucf11", "mine"), cells, labels, sections, sources)


@pytest.fixture(params=[False, True], ids=["two columns a data set", "one column a data set"])
def written(request, tmp_path):
    """The files of a table without their suffix, and the table."""
    for suffix in SUFFIXES:
        (tmp_path / f"table.{suffix}").write_text(FORMATS[suffix](table(request.param)), encoding="utf-8")
    return tmp_path / "table", table(request.param)


def change(stem, suffix: str, old: str, new: str) -> int:
    """Change a file; returns the line."""
    path = stem.with_suffix(f".{suffix}")
    text = path.read_text(encoding="utf-8")
    if suffix == "tex":
        old, new = (word.replace("−", "$-$").replace("±", "$\\pm$").replace("*", "$^{*}$") for word in (old, new))
    elif suffix == "html":
        old = re.sub(r"^(\d\d\.\d ± \d\.\d\*?)", r"<span>\1</span>", old)
        new = re.sub(r"^(\d\d\.\d(?: ± \d\.\d)?)", r"<span>\1</span>", new) if "<" in old else new
    elif suffix == "md":
        old, new = (word.replace("*", "\\*") for word in (old, new))
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_written_is_as_it_should_be(written, suffix):
    stem, whole = written
    assert differences(stem.with_suffix(f".{suffix}"), whole) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("row", "old", "new"),
    [
        ("avg_pool_lstm", "[78.0, 84.0]", "[78.0, 84.1]"),
        ("avg_pool_lstm", "81.0 ± 1.4", "81.0"),
        ("avg_pool_lstm", "−1.6", "+1.6"),
        ("soft_attention_0", "85.5 ± 0.6*", "85.5 ± 0.6"),
        ("soft_attention_1", "41.3", "41.4"),
    ],
)
def test_what_a_cell_shows_otherwise_is_named_with_both_and_with_its_line(written, suffix, row, old, new):
    stem, whole = written
    path, line = stem.with_suffix(f".{suffix}"), change(stem, suffix, old, new)
    (one,) = differences(path, whole)
    assert (one.line, one.cell) == (line, ("ucf11", row))
    text = str(one).replace("$-$", "−").replace("$\\pm$", "±").replace("$^{*}$", "*")
    assert text.startswith(f"{path}, line {line}: shows '") and text.endswith(" expected") and old in text.split("', '")[1]
    assert new in text.split("', '")[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cells_of_the_second_column_and_two_of_a_row_are_told_apart(written, suffix):
    stem, whole = written
    path = stem.with_suffix(f".{suffix}")
    path.write_text(path.read_text(encoding="utf-8").replace("[78.0, 84.0]", "[7.0, 84.0]"), encoding="utf-8")
    assert [one.cell for one in differences(path, whole)] == [("ucf11", ROWS[0]), ("mine", ROWS[0])]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("paper", "row"), [(None, 2), (7.5, 3)], ids=["the file alone has one", "the file has none"])
def test_a_number_that_stands_on_one_side_alone_is_named(written, suffix, paper, row):
    stem, whole = written
    key = (ROWS[row], "mine")
    other = replace(whole, cells={**whole.cells, key: replace(whole.cells[key], paper=paper)})
    (one,) = differences(stem.with_suffix(f".{suffix}"), other)
    assert one.cell == ("mine", ROWS[row]) and {one.said, one.expected} & {"–", "--"}


def test_noise_of_arithmetic_turns_no_digit(written):
    stem, whole = written
    key = ("soft_attention_0", "ucf11")
    for noise in (1e-12, -1e-12):
        halves = {"values": (6.25 + noise, 6.25 + noise), "interval": (0.25 + noise, 12.35 + noise), "paper": 28.125 + noise}
        for name in ("values", "interval", "paper"):
            exact = {"values": (6.25, 6.25), "interval": (0.25, 12.35), "paper": 28.125}[name]
            one, other = (
                replace(whole, cells={**whole.cells, key: replace(whole.cells[key], **{name: value})})
                for value in (halves[name], exact)
            )
            assert [write(one) for write in FORMATS.values()] == [write(other) for write in FORMATS.values()]


@pytest.mark.parametrize(("suffix", "kind"), [("md", "missing"), ("tex", "a folder"), ("html", "no text")])
def test_a_file_that_cannot_be_read_is_an_error(written, suffix, kind):
    stem, whole = written
    path = stem.with_suffix(f".{suffix}")
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "no text":
        path.write_bytes(b"\xff")
    with pytest.raises((OSError, ValueError)):
        differences(path, whole)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_row_that_is_missing_or_stands_twice_is_named_and_the_others_are_compared(written, suffix):
    stem, whole = written
    path = stem.with_suffix(f".{suffix}")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    (number,) = (number for number, one in enumerate(lines) if "[78.0, 84.0]" in one)
    following = lines[number + 1].replace("85.5", "85.7", 1)
    path.write_text("".join([*lines[:number], following, *lines[number + 2 :]]), encoding="utf-8")
    found = differences(path, whole)
    assert [one.cell for one in found if one.cell] == [("ucf11", "soft_attention_0")]
    assert [str(one).startswith(f"{path}: lacks the line '") for one in found if not one.cell] == [True]
    path.write_text("".join([*lines[: number + 1], lines[number], *lines[number + 1 :]]), encoding="utf-8")
    (one,) = differences(path, whole)
    assert re.match(rf"{re.escape(str(path))}, line \d+: '.*' should not stand there$", str(one))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_column_that_a_row_lacks_is_named(written, suffix):
    stem, whole = written
    more = replace(whole, columns=(*whole.columns, "more"))
    more.cells.update({(row, "more"): whole.cells[row, "mine"] for row in ROWS})
    found = differences(stem.with_suffix(f".{suffix}"), more)
    assert len([one for one in found if one.said and one.cell is None]) >= 4


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_said_of_the_data_must_stand_there_and_nothing_else(written, suffix):
    stem, whole = written
    path, key = stem.with_suffix(f".{suffix}"), ("soft_attention_0", "mine")
    for words, changed in ((MINIATURE_TITLE, {"miniature": True}), (LEAKY, {"notes": (f"mine: {LEAKY} split",)})):
        other = replace(whole, cells={**whole.cells, key: replace(whole.cells[key], **changed)})
        assert any(words in (one.expected or "") and words not in (one.said or "") for one in differences(path, other))
        path.write_text(FORMATS[suffix](other), encoding="utf-8")
        assert any(words in (one.said or "") and words not in (one.expected or "") for one in differences(path, whole))
        path.write_text(FORMATS[suffix](whole), encoding="utf-8")


def test_a_long_line_is_shown_where_it_differs(written):
    stem, whole = written
    line = change(stem, "md", "two-sided", "one-sided")
    (one,) = differences(stem.with_suffix(".md"), whole)
    assert one.cell is None and len(str(one)) < len(str(stem)) + 300
    assert re.search(rf"table.md, line {line} \('\* .*…'\): says .….*one-sided.*…., .….*two-sided.*…. expected$", str(one))


@pytest.mark.parametrize(
    ("said", "expected", "close"),
    [
        ("81.0 ± 1.4 [78.0, 84.0]", "81.0 ± 1.4 [78.0, 84.0]", True),
        ("81.0 ± 1.4 [78.0, 84.0]", "81.0 ± 1.5 [77.9, 84.0]", True),
        ("81.0 ± 1.4", "81.2 ± 1.4", False),
        ("81.0 ± 1.4", "81.0", False),
        ("81.0*", "81.0", False),
        ("81.0", "81.00", False),
        ("+1.0", "−1.0", False),
    ],
)
def test_a_number_may_have_been_rounded_to_a_neighbour_and_no_more(written, said, expected, close):
    stem, whole = written
    change(stem, "md", "[78.0, 84.0]", "[78.0, 84.1]")
    (one,) = differences(stem.with_suffix(".md"), whole)
    assert replace(one, said=said, expected=expected).close == close
