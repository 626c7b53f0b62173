"""Runs of systems without cubes, and of deterministic ones, in collections, tables and verification."""

from dataclasses import replace

import pytest
from runfolders import annotation, write_run

from reproduce import verify
from reproduce.common.catalogue import SYSTEMS
from reproduce.dashboard import AGAINST, differences
from reproduce.evaluation import load_runs
from reproduce.evaluation.collection import read, videos
from reproduce.evaluation.paper_tables import runs_of, table1
from reproduce.evaluation.writers import FORMATS, write_table
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import NO_SEED
from reproduce.experiments.scheduler import Point

UCF = annotation("ucf11", ["biking", "diving", "golf"], 8)
ROWS = ("avg_pool_lstm", "soft_attention_0", "late_fusion", "late_fusion_svm")


def points(root, *words: str, rows=ROWS) -> list[Point]:
    """Runs of some rows and two seeds; of the fusions without what only systems on cubes have."""
    found = []
    for row in rows:
        for seed in (1, 2):
            asked = ["data.name=ucf11", f"row={row}", f"seed={seed}", *words]
            folder = RunFolder(write_run(root, UCF, asked, 2.5, 3))
            if "fusion" in row:
                about = {key: value for key, value in folder.about().items() if key not in ("stride", "features", "map")}
                folder.write_about(about)
                folder.history.unlink(missing_ok=True)
            found.append(Point("ucf11", row, seed, asked, folder))
    return found


def test_a_fusion_is_a_row_beside_those_that_it_is_made_of(tmp_path):
    points(tmp_path)
    ((data,), problems) = read(tmp_path)
    assert problems == [] and list(data.rows) == list(ROWS) and [len(one.runs) for one in data.rows.values()] == [2] * 4
    assert all(data.cells[row].comparison for row in ROWS[1:])
    points(tmp_path, "model.num_layers=1")
    ((both,), _) = read(tmp_path)
    assert len(both.configurations) == 8, "a fusion of other runs is another configuration"
    for one in both.configurations:
        if "members" not in one.settings:
            alike = both.like(one)
            assert sorted(alike) == sorted(ROWS)
            layers = {member["model"]["num_layers"] for row in ROWS[2:] for member in alike[row].settings["members"][:1]}
            assert layers == {one.settings["model.num_layers"]}
    runs = load_runs(tmp_path)
    assert len(runs) == 16 and runs.loc[runs["row"] == "late_fusion", "data.stride"].isna().all()


def test_a_table_with_fusions_is_written_and_verified(tmp_path, capsys):
    write_table(table1(["ucf11"], ROWS, runs_of(points(tmp_path / "runs"))), tmp_path / "results")
    verify.main([str(tmp_path / "results")])
    assert "4 verified; notes" in capsys.readouterr().out


ONCE = ("avg_pool_lstm", "softmax_regression", "soft_attention_0")


@pytest.fixture
def deterministic(monkeypatch, tmp_path):
    """Two seeds of three rows, of which one is deterministic: its seeds are one run."""
    system = replace(SYSTEMS["softmax_regression"], deterministic=True)
    monkeypatch.setitem(SYSTEMS, "softmax_regression", system)
    found = points(tmp_path / "runs", rows=ONCE)
    for point in found:
        (point.folder.path / "wandb_id").write_text(f"{point.row}\n")
    assert len({point.folder for point in found}) == 5
    return tmp_path, found


def test_a_deterministic_row_is_one_run_and_says_so(deterministic, capsys):
    root, found = deterministic
    table = table1(["ucf11"], ONCE, runs_of(found))
    once, several, baseline = (table.cells[row, "ucf11"] for row in (ONCE[1], ONCE[2], ONCE[0]))
    assert len(once.values) == 1 and once.runs == ((NO_SEED, found[2].folder),)
    assert once.comparison and once.mean and baseline.mean
    assert 100 * once.comparison.difference == pytest.approx(once.mean - baseline.mean), "against the mean of both seeds"
    assert "±" not in once.ours() and "±" in several.ours()
    told = "Deterministic, the same under every seed, hence one run: Softmax regression (full CNN feature cube)."
    assert told in table.notes() and table.notes()[0].startswith("Ours: mean over 2 seeds, ± their standard deviation;")
    assert all(told in FORMATS[suffix](table) for suffix in ("md", "tex", "html"))
    write_table(table, root / "results")
    verify.main([str(root / "results")])
    assert "3 verified; notes" in capsys.readouterr().out
    alone = table1(["ucf11"], ONCE[1:2], runs_of(found))
    grouped = "(whole groups of them for UCF-11)."
    assert alone.notes()[0] == f"Ours: one run; in brackets the 95 % bootstrap interval over test videos {grouped}"


def test_a_deterministic_run_stands_against_all_seeds_of_the_baseline(deterministic):
    root, found = deterministic
    ((data,), _) = read(root / "runs")
    assert {row: len(one.runs) for row, one in data.rows.items()} == {ONCE[0]: 2, ONCE[1]: 1, ONCE[2]: 2}
    in_table = table1(["ucf11"], ONCE, runs_of(found)).cells
    assert {row: cell.comparison for row, cell in data.cells.items()} == {
        row: in_table[row, "ucf11"].comparison for row in ONCE
    }
    against = differences(root / "runs")["softmax_regression"][AGAINST]
    assert against == pytest.approx(data.rows["softmax_regression"].mean - data.rows["avg_pool_lstm"].mean, abs=1e-3)


def test_several_labels_are_decided_at_the_runs_threshold(tmp_path):
    data = annotation("hollywood2", ["Run", "Eat", "Kiss", "SitUp"], 6, True)
    folder = RunFolder(write_run(tmp_path, data, ["data.name=hollywood2", "row=avg_pool_lstm"], 2.0, 3))
    hits = {}
    for threshold in (0.0, None, 0.5, 1.0):
        about = {key: value for key, value in folder.about().items() if key != "threshold"}
        folder.write_about(about | ({} if threshold is None else {"threshold": threshold}))
        ((one,), _) = read(tmp_path)
        hits[threshold] = sum(video.hits for video in videos(one.configurations))
    assert hits[0.0] == len(data.test) > hits[0.5] == hits[None] > hits[1.0] == 0
