"""A table of a part of a data set says so, and no number of the paper stands beside it."""

import csv
from dataclasses import replace
from io import StringIO

import pytest
from runfolders import annotation, write_run

from reproduce import verify
from reproduce.evaluation.collection import read
from reproduce.evaluation.paper_tables import runs_of, table1
from reproduce.evaluation.writers import to_csv, to_html, to_latex, to_markdown, to_text, write_table
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.scheduler import Point

ROWS = ["avg_pool_lstm", "soft_attention_1"]
PART = "groups 1-3, 2 classes"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two rows, each group of three left out in its turn."""
    root = tmp_path_factory.mktemp("parts")
    points = []
    for group in (1, 2, 3):
        whole = annotation("ucf11", ["biking", "diving"], 4)
        test = tuple(replace(v, name=f"{group}/{v.name}", group=f"{v.group} {group}") for v in whole.test)
        data = replace(whole, test=test, split=f"logo-{group} of {PART}", part=PART)
        for row in ROWS:
            words = ["data.name=ucf11", f"data.split=logo-{group}", "data.groups=1-3", f"row={row}"]
            folder = RunFolder(write_run(root / "runs", data, words, 2.0, 3))
            folder.write_about({**folder.about(), "part": PART, "split": data.split})
            points.append(Point("ucf11", row, 1, words, folder, turns=3))
    return root, points


def test_the_column_is_pooled_and_named_and_has_no_number_of_the_paper(made):
    table = table1(["ucf11"], ROWS, runs_of(made[1]))
    for write in (to_text, to_markdown, to_latex, to_html):
        text = write(table).replace("\\%", "%")
        assert f"UCF-11, {PART} (acc %" in text
        assert "82.56" not in text and "83.52" not in text  # what the paper has in these cells
        assert f"a PART of the data set, {PART}" in text and "pooled over 3 splits" in text
    for line in csv.DictReader(StringIO(to_csv(table))):
        assert line["paper"] == "" and line["seeds"] == "1"
    assert all(len(cell.runs) == 3 for cell in table.cells.values())


def test_a_cell_without_one_of_its_groups_is_empty(made):
    points = [point for point in made[1] if point.row == ROWS[0] or "logo-2" not in str(point.words)]
    table = table1(["ucf11"], ROWS, runs_of([*points, *_missing(made)]))
    assert table.cells[ROWS[0], "ucf11"].values and not table.cells[ROWS[1], "ucf11"].values


def _missing(made):
    return [replace(made[1][0], row=ROWS[1], folder=RunFolder(made[0] / "runs/ucf11/none"))]


def test_it_is_verified_like_any_other(made, capsys):
    root, points = made
    write_table(table1(["ucf11"], ROWS, runs_of(points)), root / "results")
    verify.main([str(root / "results")])
    said = capsys.readouterr().out
    assert sum(line.endswith(" verified") for line in said.splitlines()) >= 2
    text = (root / "results/table1.csv").read_text().splitlines()
    mean = next(csv.DictReader(text))["mean"]
    (root / "results/table1.csv").write_text("\n".join(text).replace(mean, "99.9", 1) + "\n")
    with pytest.raises(SystemExit):
        verify.main([str(root / "results")])
    assert "DIFFERS" in capsys.readouterr().out


def test_the_report_sets_no_number_of_the_paper_beside_a_part_either(made):
    (found,), _ = read(made[0] / "runs")
    assert set(found.cells) == set(ROWS)
    assert all(cell.paper is None and cell.data == f"UCF-11, {PART}" for cell in found.cells.values())
