"""A run whose test set is not apart from its training set is marked in every form of every table, and in the report."""

import csv
import re
from dataclasses import replace
from io import StringIO

import pytest
from runfolders import annotation, write_run

from datamodules.leaks import MARK
from reproduce import report, verify
from reproduce.evaluation.paper_tables import runs_of, table1, table2
from reproduce.evaluation.writers import to_csv, to_html, to_latex, to_markdown, to_text, write_table
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.scheduler import Point

NOTE = f"UCF-11: {MARK} split=random, clips of one scene and actor are on both sides"
WRITERS = [to_text, to_markdown, to_latex, to_html]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two rows on UCF-11's random split, and on Hollywood2, which does not leak."""
    root = tmp_path_factory.mktemp("leaky")
    points = []
    sets = [annotation("ucf11", ["biking", "diving"], 6), annotation("hollywood2", ["Run", "Eat"], 6, True)]
    for data in sets:
        for row in ("avg_pool_lstm", "soft_attention_1"):
            split = ["data.split=random"] if data.data == "ucf11" else []
            words = [f"data.name={data.data}", *split, f"row={row}"]
            folder = RunFolder(write_run(root / "runs", data, words, 2.0, 3))
            if split:
                folder.write_about({**folder.about(), "notes": [NOTE, *folder.about()["notes"]]})
            points.append(Point(data.data, row, 1, words, folder))
    return root, points


@pytest.fixture(scope="module")
def table(runs):
    return table1(["ucf11", "hollywood2"], ["avg_pool_lstm", "soft_attention_1"], runs_of(runs[1]))


@pytest.mark.parametrize("write", WRITERS)
def test_table_1_names_the_leak_in_the_columns_head_and_in_a_note(table, write):
    text = re.sub("</?(span|div)[^>]*>", "", write(table))
    assert "UCF-11, LEAKY split (acc " in text.replace("\\%", "%")
    assert NOTE in text and "Hollywood2 (mAP" in text and "Hollywood2, LEAKY" not in text


def test_the_csv_marks_each_line_that_leaks(table):
    lines = list(csv.DictReader(StringIO(to_csv(table))))
    assert {(line["data"], line["leaky"]) for line in lines} == {("ucf11", "True"), ("hollywood2", "False")}


@pytest.mark.parametrize("write", WRITERS)
def test_table_2_would_name_it_too(table, write):
    whole = table2(["soft_attention_0"], runs_of([]))
    cells = {**whole.cells, ("soft_attention_0", "hmdb51_1"): replace(table.cells["soft_attention_1", "ucf11"], data="HMDB-51")}
    leaky = replace(whole, cells=cells)
    assert MARK not in write(whole)
    assert f"HMDB-51, {MARK} split" in write(leaky) and NOTE in re.sub("</?(span|div)[^>]*>", "", write(leaky))
    lines = list(csv.DictReader(StringIO(to_csv(leaky))))
    assert [(line["data"], line["row"]) for line in lines if line["leaky"] == "True"] == [("hmdb51_1", "soft_attention_0")]


def test_the_report_names_it_in_its_table(runs):
    root, _ = runs
    path = report.main([f"paths.runs={root / 'runs'}", f"paths.results={root / 'report'}"])
    text = path.read_text(encoding="utf-8")
    assert re.search(r"UCF-11<small>LEAKY split, acc", text) and NOTE in text
    assert not re.search(r"Hollywood2<small>LEAKY", text)


def test_verify_finds_a_table_that_hides_its_leak(runs, table, tmp_path, capsys):
    write_table(table, tmp_path)
    assert len(verify.main([str(tmp_path)])["table1"]) == 4
    for suffix in ("md", "tex", "html"):
        path = tmp_path / f"table1.{suffix}"
        path.write_text(path.read_text(encoding="utf-8").replace("LEAKY", "random"), encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        verify.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert stop.value.code == 1
    for suffix in ("md", "tex", "html"):
        assert re.search(rf"table1.{suffix}, line \d+.*UCF-11, random split.*UCF-11, LEAKY split.*expected", out)
