import csv
import json
import shutil
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from conftest import TINY, script

from reproduce import paper
from reproduce.settings import SettingsError
from reproduce.table1 import _words_of
from reproduce.tables import Cell, Table, to_csv, to_latex, to_markdown, to_text

ROWS = ("avg_pool_lstm", "soft_attention_0")


@pytest.fixture
def table():
    cells = {
        ("avg_pool_lstm", "ucf11"): Cell("acc", (80.0, 82.0), (78.0, 84.0), 82.56, ("UCF-11: split 50 % & more",)),
        ("soft_attention_0", "ucf11"): Cell("acc", (85.0, 86.0), (82.5, 88.5), 84.96, focus=1.5),
        ("avg_pool_lstm", "mine"): Cell("mAP", (), None, None),
        ("soft_attention_0", "mine"): Cell("mAP", (40.0, 41.0), (38.0, 43.0), None),
    }
    return Table("Table 1", ROWS, ("ucf11", "mine"), cells)


def test_a_cell_computes_mean_spread_and_difference(table):
    cell = table.cells["avg_pool_lstm", "ucf11"]
    assert (cell.mean, cell.std, cell.ours()) == (81.0, pytest.approx(2**0.5), "81.0 ± 1.4")
    assert cell.difference == pytest.approx(-1.56)


@pytest.mark.parametrize("write", [to_text, to_markdown, to_latex])
def test_every_format_shows_ours_the_papers_and_the_interval(table, write):
    text = write(table).replace("$\\pm$", "±")
    for part in ("81.0 ± 1.4", "[78.0, 84.0]", "82.56", "84.96", "UCF-11", "mine"):
        assert part in text


def test_csv_has_a_line_for_every_cell(table):
    rows = list(csv.DictReader(StringIO(to_csv(table))))
    assert [(row["data"], row["row"]) for row in rows] == [(c, r) for c in table.columns for r in ROWS]
    assert float(rows[0]["difference"]) == pytest.approx(-1.56) and rows[2]["mean"] == "" and rows[2]["seeds"] == "0"


def test_latex_escapes_and_compiles(table, tmp_path):
    text = to_latex(table)
    assert "50 \\% \\& more" in text
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex on this machine")
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + text + "\\end{document}"
    (tmp_path / "t.tex").write_text(document)
    done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_miniature_data_are_named_in_the_title(table):
    cells = {**table.cells, ("avg_pool_lstm", "ucf11"): Cell("acc", (1.0,), (0.0, 2.0), 82.56, miniature=True)}
    for write in (to_text, to_markdown, to_latex):
        assert "MINIATURE" in write(Table("Table 1", ROWS, table.columns, cells))
        assert "MINIATURE" not in write(table)


def test_the_papers_numbers_are_the_protocols():
    assert paper.table1("ucf11", "soft_attention_0") == 84.96
    assert paper.table1("hmdb51", "avg_pool_lstm") == 40.52
    assert paper.table1("hollywood2", "soft_attention_10") == 42.92
    assert paper.table1("videofolder", "avg_pool_lstm") is None


TABLE = [word for word in TINY if not word.startswith("data.name")]
ARGUMENTS = [*TABLE, "datasets=[videofolder]", "rows=[softmax_regression,avg_pool_lstm]", "seeds=[1,2]"]


def test_a_table_killed_in_the_middle_equals_an_undisturbed_one(clips, trained, tmp_path):
    """The table process is killed after its first finished run; the same command ends it."""
    import os
    import signal
    import sys
    import time

    from conftest import REPOSITORY

    tables = {}
    for name in ("undisturbed", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copytree(trained / "features", folder / "features")
        command = [sys.executable, str(REPOSITORY / "reproduce/table1.py"), *ARGUMENTS, f"paths.data={clips}"]
        if name == "killed":
            process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True)
            deadline = time.monotonic() + 120
            while not list(folder.glob("runs/*/*/metrics.json")):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert not (folder / "results/table1.csv").exists()
            before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/metrics.json")}
            assert 0 < len(before) < 4
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        if name == "killed":
            assert f"{len(before)} of 4 runs are finished already" in result.stdout
            assert all(path.stat().st_mtime_ns == time_ for path, time_ in before.items())
        tables[name] = (folder / "results/table1.csv").read_text()
    assert tables["killed"] == tables["undisturbed"]


def test_a_run_that_fails_does_not_stop_the_others(clips, trained, tmp_path):
    shutil.copytree(trained / "features", tmp_path / "features")
    arguments = [*ARGUMENTS, f"paths.data={clips}", "seeds=[1]", "optim.lr=1e30", "optim.name=sgd"]
    result = script("table1.py", *arguments, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "FAILED: videofolder avg_pool_lstm seed 1, log" in result.stderr
    assert "not finite" in result.stderr or "is nan" in result.stderr or "is inf" in result.stderr
    assert (tmp_path / "results/table1.csv").exists()


def test_without_data_the_table_names_each_data_set_and_what_to_do(tmp_path):
    result = script("table1.py", cwd=tmp_path, check=False)
    assert result.returncode == 1
    for data in ("ucf11", "hmdb51", "hollywood2"):
        assert f"{data}: looked in {tmp_path / 'data' / data}" in result.stderr
    assert "preset=miniature" in result.stderr
    assert [path.name for path in Path(tmp_path).iterdir()] == ["results"] and not list((tmp_path / "results").iterdir())


def test_a_split_goes_to_the_data_sets_that_have_it():
    words = ["preset=miniature", "data.split=2"]
    assert _words_of("hmdb51", words, ["ucf11", "hmdb51"]) == [*words, "data.name=hmdb51"]
    assert _words_of("ucf11", words, ["ucf11", "hmdb51"]) == ["preset=miniature", "data.name=ucf11"]
    with pytest.raises(SettingsError, match="none of ucf11, hollywood2"):
        _words_of("ucf11", words, ["ucf11", "hollywood2"])


def test_the_miniature_table_of_one_data_set(tmp_path):
    """Drawn in the official layout, multi-label: one row of one column, as the README's command makes them."""
    words = ["preset=miniature", "datasets=[hollywood2]", "rows=[soft_attention_0]", "backbone.size=64"]
    words += ["backbone.layer=features.3", "trainer.max_epochs=1", "model.hidden_dim=8"]
    script("table1.py", *words, cwd=tmp_path)
    text = (tmp_path / "results/table1.md").read_text()
    assert "MINIATURE" in text and "Hollywood2 (mAP %)" in text and "43.91" in text
    (run,) = tmp_path.glob("runs/hollywood2/*")
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 < metrics["test/mAP"] < 1 and "test/accuracy" not in metrics
    assert metrics["test/box_area"] == pytest.approx(0.055, abs=0.01)
