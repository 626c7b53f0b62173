"""Table 2: nine rows in three sections, each number measured here or quoted, and the grid that measures them."""

import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from conftest import SHARED, script
from finished import finished_run, tiny_hmdb51

from reproduce.common import catalogue
from reproduce.common.catalogue import ROWS, TABLE2_COLUMNS
from reproduce.common.cli import resolve
from reproduce.common.settings import Settings, SettingsError
from reproduce.evaluation import published
from reproduce.evaluation.paper_tables import runs_of, table2
from reproduce.evaluation.writers import to_csv, to_html, to_latex, to_markdown, to_text
from reproduce.experiments import scheduler
from reproduce.experiments.scheduler import Point
from reproduce.table2 import with_libraries

PROTOCOL = {
    "Spatial stream ConvNet": (40.5, None),
    "Soft attention model": (41.3, 43.9),
    "Composite LSTM Model": (44.0, None),
    "DL-SFA": (None, 48.1),
    "Two-stream ConvNet": (59.4, None),
    "VideoDarwin": (63.7, 73.7),
    "Multi-skIp Feature Stacking": (65.1, 68.0),
    "Traditional+Stacked Fisher Vectors": (66.8, None),
    "Objects+Traditional+Stacked Fisher Vectors": (71.3, 66.4),
}
SPLITS = ("hmdb51_1", "hmdb51_2", "hmdb51_3")


def points(root, hits: dict[str, int], rows=("soft_attention_0",), seeds=(1,)) -> list[Point]:
    """Finished runs on ten videos, by column the number that is right; the splits share their first video."""
    found = []
    for row in rows:
        for seed in seeds:
            for number, (column, right) in enumerate(hits.items()):
                data, _, split = column.partition("_")
                names = ["v0", *(f"v{number}{clip}" for clip in range(9))]
                path = root / f"{column}-{row}-{seed}"
                many = data == "hollywood2"
                folder = finished_run(path, [clip < right for clip in range(10)], data, names, None, split or "official", many)
                found.append(Point(column, row, seed, [], folder))
    return found


def test_published_csv_holds_the_papers_rows_sections_and_publications():
    rows = published.table2()
    assert {row.model: (row.printed.get("hmdb51"), row.printed.get("hollywood2")) for row in rows} == PROTOCOL
    sections = [[row.model for row in rows if row.section == section] for section in dict.fromkeys(row.section for row in rows)]
    assert [len(section) for section in sections] == [4, 4, 1]
    assert all(row.authors and row.title and row.venue and row.year in (2014, 2015) for row in rows)
    measured = {row.row: row.model for row in rows if row.row}
    networks, vectors = {"spatial_stream", "composite_lstm", "two_stream"}, {"dl_sfa", "video_darwin", "mifs", "stacked_fv"}
    assert set(measured) == {"soft_attention_0", *networks, *vectors, "objects_stacked_fv"}
    assert all(ROWS[row].label == model for row, model in measured.items() if row != "soft_attention_0")
    assert all(ROWS[row.row].system.sees == row.section for row in rows if row.row)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the paper's text is not beside this checkout")
def test_published_csv_says_what_the_papers_table_2_prints():
    text = (SHARED / "paper" / "paper.txt").read_text(encoding="utf-8")
    for row in published.table2():
        numbers = "\t".join(f"{row.printed[data]:.1f}" if data in row.printed else "-" for data in ("hmdb51", "hollywood2"))
        cited = "Our model" if row.row == "soft_attention_0" else f".*{row.year}"
        assert re.search(rf"^{re.escape(row.model)}\t\({cited}\)\t{re.escape(numbers)}$", text, re.M)
        assert row.title.lower().rstrip("?") in text.lower()


@pytest.mark.parametrize(
    ("authors", "venue", "short"),
    [
        ("K. Simonyan and A. Zisserman", "NIPS", "Simonyan and Zisserman, NIPS 2014"),
        ("M. Jain, J. C. van Gemert and C. G. M. Snoek", "CVPR", "Jain et al., CVPR 2014"),
        ("J. van Gemert", "arXiv:1", "van Gemert, arXiv:1 (2014)"),
    ],
)
def test_a_citation_is_short(authors, venue, short):
    assert replace(published.table2()[0], authors=authors, venue=venue, year=2014).citation == short


def test_without_runs_every_number_is_quoted():
    table = table2(["soft_attention_0"], runs_of([]))
    rows = list(csv.DictReader(StringIO(to_csv(table))))
    assert len(rows) == 27 and {row["origin"] for row in rows} == {"quoted", ""}
    assert sum(row["origin"] == "quoted" for row in rows) == 13
    assert all(row["source"].startswith("quoted from ") for row in rows)
    assert {row["origin"] for row in rows if row["data"] == "hmdb51_1"} == {""}
    assert "HMDB-51, split 1: no finished run here of Soft attention model." in table.notes()
    assert "nothing measured here, nothing quoted" in to_text(table)


@pytest.mark.parametrize("write", [to_text, to_markdown, to_latex, to_html])
def test_every_format_has_sections_sources_and_both_words(write, tmp_path):
    table = table2(["soft_attention_0"], runs_of(points(tmp_path, dict.fromkeys(SPLITS, 4))))
    text = re.sub("</?(span|div)>", "", write(table))
    order = [text.index(name) for name in dict.fromkeys(table.sections.values())]
    assert order == sorted(order) and len(order) == 3
    for model in PROTOCOL:
        assert model in text
    for part in ("measured", "quoted", "Sun et al., CVPR 2014", "DL-SFA: deeply-learned", "HMDB-51, mean of three splits"):
        assert part in text


def test_the_attention_row_turns_from_quoted_to_measured(tmp_path):
    """All splits give their mean; split 1 alone gives only its own column; the other data set stays quoted."""
    hits = dict(zip(SPLITS, (6, 3, 3), strict=True))
    table = table2(["soft_attention_0"], runs_of(points(tmp_path / "all", hits)))
    cells = {column: table.cells["soft_attention_0", column] for column in TABLE2_COLUMNS}
    assert [cell.origin for cell in cells.values()] == ["measured", "measured", "quoted"]
    assert cells["hmdb51_mean"].mean == pytest.approx(40) and cells["hmdb51_1"].mean == pytest.approx(60)
    assert cells["hmdb51_mean"].difference == pytest.approx(-1.3) and cells["hmdb51_1"].paper is None
    source = "HMDB-51, mean of three splits and HMDB-51, split 1 measured here; Hollywood2 quoted from Sharma et al., "
    assert table.sources["soft_attention_0"] == f"{source}arXiv:1511.04119 (2015)"
    assert "40.0 [16.7, 63.3] measured (paper 41.3, −1.3)" in re.sub(r"\[\d.*?\]", "[16.7, 63.3]", to_markdown(table))

    table = table2(["soft_attention_0"], runs_of(points(tmp_path / "one", {"hmdb51_1": 6, "hollywood2": 5})))
    cells = [table.cells["soft_attention_0", column] for column in TABLE2_COLUMNS]
    assert [cell.origin for cell in cells] == ["quoted", "measured", "measured"]
    assert [cell.figure for cell in cells] == ["acc", "acc", "mAP"]


def test_a_seed_counts_only_where_all_splits_are_finished(tmp_path):
    found = points(tmp_path, dict.fromkeys(SPLITS, 4), seeds=(1, 2))
    (found[-1].folder.path / "metrics.json").unlink()
    table = table2(["soft_attention_0"], runs_of(found))
    assert len(table.cells["soft_attention_0", "hmdb51_mean"].values) == 1
    assert len(table.cells["soft_attention_0", "hmdb51_1"].values) == 2


def test_other_rows_of_ours_join_the_first_section_and_are_the_baseline(tmp_path):
    rows = ["avg_pool_lstm", "soft_attention_0"]
    baseline = points(tmp_path / "a", dict.fromkeys(SPLITS, 1), rows[:1])
    ours = points(tmp_path / "b", dict.fromkeys(SPLITS, 9), rows[1:])
    table = table2(rows, runs_of(baseline + ours))
    assert len(table.rows) == 10 and table.rows.index("avg_pool_lstm") == 4
    assert table.sections["avg_pool_lstm"] == table.sections["dl_sfa"] and table.labels["avg_pool_lstm"] == "Avg pooled LSTM"
    one = table.cells["soft_attention_0", "hmdb51_mean"].comparison
    assert one.p == pytest.approx(2 / 2**24) and one.significant  # the shared video is right in both rows
    assert "90.0*" in to_text(table) and any("McNemar" in note for note in table.notes())
    alone = table2(rows[1:], runs_of(ours))
    assert any("No row was tested" in note for note in alone.notes())


def test_all_nine_rows_can_be_measured_and_the_table_still_compiles(tmp_path):
    table = table2(["soft_attention_0"], runs_of(points(tmp_path, {**dict.fromkeys(SPLITS, 4), "hollywood2": 5})))
    cells = {(row, column): table.cells["soft_attention_0", column] for row in table.rows for column in table.columns}
    full = replace(table, cells=cells, sources=dict.fromkeys(table.rows, "measured here"))
    block = to_text(full).split("\n\n")[1].splitlines()
    assert len(block) == 1 + 3 + 9 and sum("measured" in line for line in block) == 9
    assert len({len(line) for line in block if "measured" in line}) == 1
    assert to_html(full).count("<td data-label=") == 27 and to_html(full).count('scope="rowgroup"') == 3
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex on this machine")
    document = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}" + to_latex(full) + "\\end{document}"
    (tmp_path / "t.tex").write_text(document)
    done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Overfull" not in done.stdout, done.stdout[-2000:]


def test_a_column_sets_data_and_split_before_the_presets():
    settings = resolve(Settings, ["column=hmdb51_2"])
    assert (settings.data.name, settings.data.split, settings.model.hidden_dim) == ("hmdb51", "2", 1024)
    assert resolve(Settings, ["column=hollywood2", "preset=miniature"]).data.batch_size == 16
    assert resolve(Settings, ["column=ucf11", "data.split=random"]).data.split == "random"
    with pytest.raises(SettingsError, match="drop data.split=3 or the column"):
        resolve(Settings, ["column=hmdb51_2", "data.split=3"])
    with pytest.raises(SettingsError, match="did you mean hmdb51_"):
        resolve(Settings, ["column=hmdb51"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["columns=[ucf11]"], "columns: ucf11 is none of hmdb51_1"),
        (["rows=[twostream]"], "rows: twostream is none of"),
        (["seeds=[]"], "must each name something"),
        (["data.split=2"], "columns=[…] instead of data.split"),
        (["column=hmdb51_1"], "columns=[…] instead of column"),
        (["data.fold=1/5"], "data.fold"),
        (["paths.data=/nowhere"], "hmdb51: looked in /nowhere/hmdb51"),
    ],
)
def test_what_cannot_be_made_is_refused_with_what_to_write(words, says, tmp_path):
    result = script("table2.py", *words, cwd=tmp_path, check=False)
    assert result.returncode == 1 and says in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.count("looked in") == (2 if "/nowhere" in says else 0)  # once a data set, not once a split


@pytest.mark.slow
def test_the_command_measures_three_splits_and_runs_nothing_twice(tmp_path):
    tiny_hmdb51(tmp_path / "data/hmdb51")
    words = ["preset=miniature", "paths.data=data", "columns=[hmdb51_1,hmdb51_2,hmdb51_3]", "rows=[soft_attention_0]"]
    words += ["backbone.size=64", "backbone.layer=features.3", "trainer.max_epochs=1", "model.hidden_dim=8", "protocol=holdout"]
    first = script("table2.py", *words, cwd=tmp_path)
    assert "\x1b" not in first.stdout
    results = {path.suffix: path.read_text(encoding="utf-8") for path in (tmp_path / "results").iterdir()}
    assert set(results) == {".md", ".csv", ".tex", ".html", ".json"}
    rows = {(row["data"], row["row"]): row for row in csv.DictReader(StringIO(results[".csv"]))}
    assert rows["hmdb51_mean", "soft_attention_0"]["origin"] == rows["hmdb51_1", "soft_attention_0"]["origin"] == "measured"
    assert rows["hollywood2", "soft_attention_0"]["origin"] == rows["hmdb51_mean", "video_darwin"]["origin"] == "quoted"
    assert "MINIATURE" in results[".md"] and "**RGB data and optical flow**" in results[".md"]
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/hmdb51/*/metrics.json")}
    assert len(runs) == 3
    second = script("table2.py", *words, cwd=tmp_path)
    assert "3 of 3 runs are finished already" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/hmdb51/*/metrics.json")} == runs
    assert {path.suffix: path.read_text(encoding="utf-8") for path in (tmp_path / "results").iterdir()} == results


# without rows=[…]


@pytest.fixture(scope="module")
def cubes_alone(tmp_path_factory) -> Path:
    """A tiny HMDB-51 whose features are there, and whose videos were deleted since."""
    root = tmp_path_factory.mktemp("cubes")
    tiny_hmdb51(root / "data/hmdb51")
    script("prepare.py", *QUICK, "data.name=hmdb51", cwd=root)
    names = [path.relative_to(root / "data/hmdb51") for path in sorted(root.glob("data/hmdb51/*/*.avi"))]
    sizes = {name.as_posix(): {"bytes": (root / "data/hmdb51" / name).stat().st_size, "sha256": "0" * 64} for name in names}
    (root / "data/hmdb51/removed.json").write_text(json.dumps({"videos": sizes}))
    for name in names:
        (root / "data/hmdb51" / name).unlink()
    return root


QUICK = ["preset=miniature", "paths.data=data", "backbone.size=64", "backbone.layer=features.3", "trainer.max_epochs=1"]
QUICK += ["model.hidden_dim=8", "protocol=holdout", "logging.wandb=disabled", "encoder.samples=500", "encoder.components=2"]


@pytest.mark.slow
def test_rows_whose_stores_cannot_be_made_are_left_out_and_named(cubes_alone):
    grid = ["columns=[hmdb51_1]", *QUICK]
    made = script("table2.py", *grid, cwd=cubes_alone)
    for row, kind in {"idt_fv": "trajectories", "dl_sfa": "gray", "mifs": "trajectories and skipped_trajectories"}.items():
        assert f"hmdb51_1 {row} is not measured: could not make {kind}; the reasons stand above" in made.stdout
    assert "were deleted by delete=videos" in made.stderr
    with (cubes_alone / "results/table2.csv").open(newline="") as file:
        measured = {line["row"] for line in csv.DictReader(file) if line["origin"] == "measured"}
    assert measured == {"soft_attention_0", "lstm_classifier", "composite_lstm", "rank_pooling", "column_fv"}
    refused = script("table2.py", *grid, "rows=[soft_attention_0,idt_fv]", cwd=cubes_alone, check=False)
    assert refused.returncode == 1 and "could not prepare hmdb51_1" in refused.stderr and "Traceback" not in refused.stderr


def test_only_the_columns_are_left_out_whose_stores_cannot_be_made(cubes_alone, monkeypatch, capsys):
    """Of one that is made from others' runs, what these read counts."""
    monkeypatch.chdir(cubes_alone)
    monkeypatch.setattr(scheduler, "_prepare", lambda column, kind, words: int((column, kind) == ("hmdb51_1", "gray")))
    monkeypatch.setattr(scheduler.Scheduler, "require_usable", lambda *_: None)
    monkeypatch.setattr(scheduler.Scheduler, "run", lambda *_: [])
    settings = resolve(Settings, QUICK)
    columns = {column: [[*QUICK, f"column={column}"]] for column in ("hmdb51_1", "hmdb51_2")}
    rows = ["soft_attention_0", "dl_sfa", "late_fusion"]
    columns = {column: [[*words, "fusion.rows=[dl_sfa,rank_pooling]"] for words in turns] for column, turns in columns.items()}
    points, _ = scheduler.finish_grid(settings, columns, rows, [1], None, "table2.py", leave_out=True)
    found = [(point.column, point.row) for point in points]
    assert found == [("hmdb51_1", "soft_attention_0"), *(("hmdb51_2", row) for row in rows)]
    said = capsys.readouterr().out
    assert [f"hmdb51_1 {row} is not measured: could not make gray;" in said for row in rows] == [False, True, True]
    assert "hmdb51_2" not in said
    with pytest.raises(SystemExit):
        scheduler.finish_grid(settings, columns, rows, [1], None, "table2.py")
    assert "could not prepare hmdb51_1; the reasons stand above" in capsys.readouterr().err


@pytest.mark.counts("missing libraries")
def test_rows_whose_libraries_are_missing_are_left_out_and_named(monkeypatch, capsys):
    monkeypatch.setattr(catalogue, "find_spec", lambda name: None if name == "cv2" else True)
    rows = ["soft_attention_0", "rank_pooling", "idt_fv", "dl_sfa"]
    assert with_libraries(rows) == ["soft_attention_0", "rank_pooling"]
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{row} is not measured: it needs cv2: pip install -e '.[systems]'" for row in ("idt_fv", "dl_sfa")]
    monkeypatch.setattr(catalogue, "find_spec", lambda name: None)
    assert with_libraries(rows) == ["soft_attention_0"]
