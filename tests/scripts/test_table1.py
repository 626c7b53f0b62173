import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from conftest import PATIENCE, REPOSITORY, TINY, script, wait_for
from finished import finished_run

from datamodules.videos import DataError
from reproduce import table1 as script_of_table1
from reproduce.common.presets import PRESETS
from reproduce.common.settings import SettingsError
from reproduce.evaluation import notes, published
from reproduce.evaluation.results import Cell, Column, FinishedRun, Table, cells_of, signed
from reproduce.evaluation.significance import Comparison
from reproduce.evaluation.writers import FORMATS, _width, to_csv, to_html, to_latex, to_markdown, to_text, write_table
from reproduce.experiments.scheduler import sweep_values
from reproduce.table1 import _turns_of, _words_of

ROWS = ("avg_pool_lstm", "soft_attention_0")
SMALL_TABLE = REPOSITORY / "tests/support/small_table.py"


@pytest.fixture
def table():
    cells = {
        ("avg_pool_lstm", "ucf11"): Cell("acc", (80.0, 82.0), (78.0, 84.0), 82.56, ("UCF-11: split 50 % & more",)),
        ("soft_attention_0", "ucf11"): Cell(
            "acc", (85.0, 86.0), (82.5, 88.5), 84.96, attention={"mass": 1.5, "mass, uniform": 1.0}
        ),
        ("avg_pool_lstm", "mine"): Cell("mAP", (), None, None),
        ("soft_attention_0", "mine"): Cell("mAP", (40.0, 41.0), (38.0, 43.0), None),
    }
    return Table("Table 1", ROWS, ("ucf11", "mine"), cells)


def compared(table: Table, corrected: float, test: str = "McNemar") -> Table:
    """The same table with a comparison of the attention row."""
    one = Comparison(0.045, (0.012, 0.081), test, corrected / 5, corrected, 0.01)
    key = ("soft_attention_0", "ucf11")
    return replace(table, cells={**table.cells, key: replace(table.cells[key], comparison=one, grouped=True)})


def test_a_cell_computes_mean_spread_and_difference(table):
    cell = table.cells["avg_pool_lstm", "ucf11"]
    assert (cell.mean, cell.std, cell.ours()) == (81.0, pytest.approx(2**0.5), "81.0 ± 1.4")
    assert cell.difference == pytest.approx(-1.56)
    assert [signed(points) for points in (-0.04, 0.04, -1.56)] == ["+0.0", "+0.0", "−1.6"]


@pytest.mark.parametrize("write", [to_text, to_markdown, to_latex, to_html])
def test_every_format_shows_ours_the_papers_and_the_interval(table, write):
    text = re.sub("</?span>", "", write(table)).replace("$\\pm$", "±")
    for part in ("81.0 ± 1.4", "[78.0, 84.0]", "82.56", "84.96", "UCF-11", "mine"):
        assert part in text


def test_csv_has_a_line_for_every_cell(table):
    rows = list(csv.DictReader(StringIO(to_csv(compared(table, 0.02)))))
    assert [(row["data"], row["row"]) for row in rows] == [(c, r) for c in table.columns for r in ROWS]
    assert float(rows[0]["difference"]) == pytest.approx(-1.56) and rows[2]["mean"] == "" and rows[2]["seeds"] == "0"
    assert [row["origin"] for row in rows] == ["measured", "measured", "", "measured"]
    found = {key: rows[1][key] for key in ("from_baseline", "from_baseline_low", "test", "p", "p_corrected", "significant")}
    assert list(found.values()) == ["4.5000", "1.2000", "McNemar", "0.004", "0.02", "True"]
    assert rows[0]["p"] == rows[0]["significant"] == ""


@pytest.mark.parametrize("packages", ["booktabs", "booktabs,graphicx"])
def test_latex_escapes_and_compiles(table, packages, tmp_path):
    table = compared(table, 0.0002)
    text = to_latex(table)
    assert "50 \\% \\& more" in text and "85.5 $\\pm$ 0.7$^{*}$" in text
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex on this machine")
    document = f"\\documentclass{{article}}\\usepackage{{{packages}}}\\begin{{document}}{text}\\end{{document}}"
    (tmp_path / "t.tex").write_text(document)
    done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_miniature_data_are_named_in_the_title(table):
    cells = {**table.cells, ("avg_pool_lstm", "ucf11"): Cell("acc", (1.0,), (0.0, 2.0), 82.56, miniature=True)}
    for write in (to_text, to_markdown, to_latex, to_html):
        assert "MINIATURE" in write(Table("Table 1", ROWS, table.columns, cells))
        assert "MINIATURE" not in write(table)


class Elements(HTMLParser):
    """Checks that elements are closed in their order; keeps tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_html_is_one_whole_page_without_outside_parts(table):
    key = ("avg_pool_lstm", "ucf11")
    evil = replace(table.cells[key], notes=('a <script>alert(1)</script> & "more"',), data="<b>'x'</b>")
    text = to_html(compared(replace(table, cells={**table.cells, key: evil}), 0.001))
    page = Elements(text)
    assert {tag for tag, _ in page.tags} == {
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "table", "thead", "tbody", "tr", "th", "td", "div"),
        *("span", "ul", "li"),
    }
    assert not [attrs for _, attrs in page.tags if {"src", "href"} & set(attrs)] and "url(" not in text
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert "@media (max-width" in text and 'a <script>alert(1)</script> & "more".' in page.words
    cells = [attrs for tag, attrs in page.tags if tag == "td"]
    assert len(cells) == 8 and all(attrs["data-label"] for attrs in cells)
    assert [attrs.get("class") for attrs in cells].count("significant") == 1


@pytest.mark.parametrize("width", [360, 1200])
def test_html_fits_a_phone_and_a_laptop(table, width, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("no chromium on this machine")
    page = escape(to_html(compared(table, 0.001)))
    asked = "document.title = this.contentDocument.documentElement.scrollWidth"  # a window of the browser is never as narrow
    (tmp_path / "t.html").write_text(f'<iframe width="{width}" srcdoc="{page}" onload="{asked}"></iframe>')
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, (tmp_path / "t.html").as_uri()], capture_output=True, text=True, timeout=PATIENCE)
    found = re.search(r"<title>(\d+)</title>", done.stdout)
    assert found and int(found[1]) <= width


def test_terminal_columns_are_aligned_whatever_stands_in_them(table):
    key = ("soft_attention_0", "ucf11")
    cells = {**table.cells, key: replace(table.cells[key], values=(100.0, 0.0), data="動画 (視覚)")}
    cells["avg_pool_lstm", "ucf11"] = replace(cells["avg_pool_lstm", "ucf11"], data="動画 (視覚)")
    wide = compared(replace(table, cells=cells), 0.001)
    block = to_text(wide).split("\n\n")[1].splitlines()
    assert len(block) == 3 and len({_width(line) for line in block}) == 1
    assert "81.0 ± 1.4 " in block[1] and "50.0 ± 70.7*" in block[2]
    ends = [_width(line[: line.index(word)]) for line, word in zip(block[1:], ("]  82.56", "]  84.96"), strict=True)]
    assert ends[0] == ends[1]


def test_escape_codes_go_to_terminals_alone(table, tmp_path, monkeypatch, capsys):
    class Terminal(StringIO):
        def isatty(self):
            return True

    write_table(compared(table, 0.001), tmp_path)
    assert "\x1b" not in capsys.readouterr().out
    for variable, value in (("NO_COLOR", ""), ("COLUMNS", "60")):
        monkeypatch.setenv(variable, value)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    write_table(compared(table, 0.001), tmp_path)
    shown = screen.getvalue()
    assert "\x1b[1m" in shown and "\x1b[32m" in shown
    plain = re.sub(r"\x1b\[\d+m", "", shown)
    assert plain.split()[:-6] == to_text(compared(table, 0.001)).split()  # the last words name the files
    assert max(len(line) for line in plain.splitlines() if line[:2] in ("- ", "  ")) <= 60
    monkeypatch.setenv("NO_COLOR", "1")
    write_table(compared(table, 0.001), tmp_path)
    assert "\x1b" not in screen.getvalue()[len(shown) :]


def test_all_formats_are_written(table, tmp_path):
    write_table(table, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"table1.{suffix}" for suffix in ("md", "csv", "tex", "html", "json")}
    for suffix, write in FORMATS.items():
        assert (tmp_path / f"table1.{suffix}").read_text(encoding="utf-8") == write(table)


def test_a_significant_difference_is_marked_and_explained(table):
    said = "\n".join(compared(table, 0.0002).notes())
    for part in (
        "* differs significantly",
        "McNemar's exact test (whole groups of videos for ucf11)",
        "5 % level",
        "Holm's correction",
    ):
        assert part in said
    assert "soft attention model, λ = 0 +4.5 [+1.2, +8.1], corrected p < 0.001" in said.lower()
    assert "no difference" not in said
    assert compared(table, 0.0002).cells["soft_attention_0", "ucf11"].ours() == "85.5 ± 0.7*"
    assert "85.5 ± 0.7\\*" in to_markdown(compared(table, 0.0002))


def test_the_absence_of_significant_differences_is_said_in_words(table):
    said = "\n".join(compared(table, 0.061, "bootstrap").notes())
    assert "ucf11: no difference from the average-pooled LSTM is significant (smallest corrected p = 0.061)." in said
    assert "paired bootstrap of 2000 resamples" in said and "McNemar" not in said
    assert compared(table, 0.061).cells["soft_attention_0", "ucf11"].ours() == "85.5 ± 0.7"


def test_without_the_baseline_a_note_says_that_nothing_was_tested(table):
    alone = replace(
        table, rows=("soft_attention_0",), cells={key: cell for key, cell in table.cells.items() if key[0] == ROWS[1]}
    )
    assert any("No row was tested against the average-pooled LSTM" in note for note in alone.notes())
    baseline = replace(table, rows=ROWS[:1], cells={key: cell for key, cell in table.cells.items() if key[0] == ROWS[0]})
    assert not any("average-pooled" in note for note in baseline.notes())


def column(runs, multi_label=False, grouped=False):
    read = {
        row: {seed: [as_read(folder) for folder in of_seed] for seed, of_seed in seeds.items()} for row, seeds in runs.items()
    }
    return Column("mAP" if multi_label else "acc", {"soft_attention_0": 50.0}, read, grouped=grouped)


def as_read(folder):
    return FinishedRun(folder, folder.about(), folder.metrics())


def test_cells_come_from_run_folders_and_are_compared_with_the_baseline(tmp_path):
    """Ours is right of ten videos, the baseline of two of them: eight discordant videos, p = 2 / 2^8."""
    ours = finished_run(tmp_path / "ours", [1] * 10)
    runs = {"avg_pool_lstm": {1: [finished_run(tmp_path / "base", [1] * 2 + [0] * 8)]}, "soft_attention_0": {1: [ours]}}
    cells = cells_of(column({**runs, "max_pool_lstm": {}}))
    one = cells["soft_attention_0"].comparison
    assert (one.p, one.corrected, one.difference) == (pytest.approx(2 / 256), one.p, pytest.approx(0.8)) and one.significant
    assert cells["soft_attention_0"].values == (100.0,) and cells["soft_attention_0"].paper == 50.0
    assert cells["avg_pool_lstm"].comparison is None and cells["max_pool_lstm"].values == ()
    assert cells["soft_attention_0"].data == "HMDB-51"


def test_clips_of_a_group_are_exchanged_together(tmp_path):
    groups = {f"v{number}": f"g{number // 5}" for number in range(10)}
    ours = finished_run(tmp_path / "ours", [1] * 10, "ucf11", groups=groups)
    base = finished_run(tmp_path / "base", [1] * 2 + [0] * 8, "ucf11", groups=groups)
    cells = cells_of(column({"avg_pool_lstm": {1: [base]}, "soft_attention_0": {1: [ours]}}, grouped=True))
    assert cells["soft_attention_0"].comparison.p == pytest.approx(2 / 4)


def test_map_is_compared_by_the_bootstrap(tmp_path):
    ours = finished_run(tmp_path / "ours", [1] * 80, "hollywood2", multi_label=True)
    base = finished_run(tmp_path / "base", [1, 0, 0, 1] * 20, "hollywood2", multi_label=True)
    one = cells_of(column({"avg_pool_lstm": {1: [base]}, "soft_attention_0": {1: [ours]}}, True))["soft_attention_0"].comparison
    assert one.test == "bootstrap" and one.p == one.bootstrap_p and one.significant and one.difference > 0.1


def test_of_labels_of_which_one_is_enough_hit_at_1_is_the_figure_and_hit_at_5_a_note(tmp_path):
    run = finished_run(tmp_path / "ours", [1, 0, 1, 1], "sports1m")
    (run.path / "predictions.csv").write_text((run.path / "predictions.csv").read_text().replace("v0,a,", "v0,a|b,"))
    about, metrics = {**run.about(), "hits": True}, {"test/accuracy": 0.75, "test/accuracy_top5": 1.0}
    run.write_about(about)
    cell = cells_of(Column("hit@1", {}, {"avg_pool_lstm": {1: [FinishedRun(run, about, metrics)]}}))["avg_pool_lstm"]
    assert (cell.figure, cell.values) == ("hit@1", (75.0,))
    assert "Sports-1M, hit@5: Avg pooled LSTM 100.0 %" in cell.notes
    run.write_about({key: value for key, value in about.items() if key != "hits"})
    with pytest.raises(DataError, match="has 2 classes instead of one"):
        run.predictions()


def test_splits_are_averaged_for_each_seed(tmp_path):
    """Two seeds on two splits that share a video: two values, each the mean of its splits."""
    runs = {1: [], 2: []}
    for seed, split, right in [(1, 0, 8), (1, 1, 6), (2, 0, 4), (2, 1, 2)]:
        names = [f"v{9 * split + number}" for number in range(10)]
        runs[seed].append(finished_run(tmp_path / f"{seed}{split}", [number < right for number in range(10)], names=names))
    cell = cells_of(column({"soft_attention_0": runs}))["soft_attention_0"]
    assert cell.values == (pytest.approx(70.0), pytest.approx(30.0)) and cell.mean == pytest.approx(50.0)
    assert cell.interval[0] < 50 < cell.interval[1]


def test_splits_that_share_no_video_are_pooled(tmp_path):
    """Each group of three left out in its turn: a video counts once, however many its split tests."""
    runs, sizes = {"avg_pool_lstm": {1: []}, "soft_attention_0": {1: [], 2: []}}, (2, 6, 12)
    for row, seed, right in (
        ("avg_pool_lstm", 1, (0, 0, 3)),
        ("soft_attention_0", 1, (2, 6, 0)),
        ("soft_attention_0", 2, (1, 3, 6)),
    ):
        for split, (size, hits) in enumerate(zip(sizes, right, strict=True), start=1):
            names = [f"g{split}v{number}" for number in range(size)]
            hit = [number < hits for number in range(size)]
            folder = finished_run(tmp_path / f"{row}{seed}{split}", hit, "ucf11", names, split=f"logo-{split} of groups 1-3")
            runs[row][seed].append(folder)
    cells = cells_of(replace(column(runs), pooled=True))
    assert cells["avg_pool_lstm"].values == (pytest.approx(100 * 3 / 20),)
    assert cells["soft_attention_0"].values == (pytest.approx(100 * 8 / 20), pytest.approx(100 * 10 / 20))
    one = cells["soft_attention_0"].comparison  # of seed 1: right of 8 videos where the other is of none, and wrong of 3
    assert one.difference == pytest.approx(5 / 20) and one.p == pytest.approx(2 * (1 + 11 + 55 + 165) / 2**11)
    assert "UCF-11: 20 test videos, pooled over 3 splits: logo-1, logo-2, logo-3 of groups 1-3" in cells["avg_pool_lstm"].notes
    twice = {"soft_attention_0": {1: [runs["soft_attention_0"][1][0]] * 2}}
    with pytest.raises(DataError, match="share videos"):
        cells_of(replace(column(twice), pooled=True))


def test_what_cannot_be_compared_is_said(tmp_path):
    base = {1: [finished_run(tmp_path / "base", [1, 0])]}
    other = {1: [finished_run(tmp_path / "other", [1, 0], names=["v0", "v7"])]}
    late = {2: [finished_run(tmp_path / "late", [1, 1])]}
    cells = cells_of(column({"avg_pool_lstm": base, "soft_attention_0": other, "soft_attention_1": late}))
    assert cells["soft_attention_0"].comparison is None and cells["soft_attention_1"].comparison is None
    table = Table("Table 1", tuple(cells), ("hmdb51",), {(row, "hmdb51"): cell for row, cell in cells.items()})
    assert notes.of_tests(table) == [
        "HMDB-51: no test of Soft attention model, λ = 0: its videos are not those of the average-pooled LSTM.",
        "HMDB-51: no test of Soft attention model, λ = 1: the average-pooled LSTM has no finished run of the same seed.",
    ]


def test_the_papers_numbers_are_the_protocols():
    assert published.table1("ucf11", "soft_attention_0") == 84.96
    assert published.table1("hmdb51", "avg_pool_lstm") == 40.52
    assert published.table1("hollywood2", "soft_attention_10") == 42.92
    assert published.table1("videofolder", "avg_pool_lstm") is None


TABLE = [word for word in TINY if not word.startswith("data.name")]
ARGUMENTS = [*TABLE, "datasets=[videofolder]", "rows=[softmax_regression,avg_pool_lstm]", "seeds=[1,2]"]


@pytest.mark.slow
def test_a_table_killed_in_the_middle_equals_an_undisturbed_one(clips, trained, tmp_path):
    """The table process is killed after its first finished run; the same command ends it."""
    import os
    import signal
    import sys

    tables = {}
    for name in ("undisturbed", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copytree(trained / "features", folder / "features")
        command = [sys.executable, str(REPOSITORY / "reproduce/table1.py"), *ARGUMENTS, f"paths.data={clips}"]
        command += ["seeds=[1]", "workers=1"]
        if name == "killed":
            process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True)
            wait_for(lambda folder=folder: list(folder.glob("runs/*/*/metrics.json")), process)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert not (folder / "results/table1.csv").exists()
            before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/metrics.json")}
            assert len(before) == 1, "of two runs, one after the other"
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        if name == "killed":
            assert "1 of 2 runs are finished already" in result.stdout
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


def test_each_group_in_its_turn_is_a_run_of_its_own():
    turns = _turns_of("ucf11", ["preset=miniature", "data.split=logo", "data.groups=2,4"], ["ucf11"])
    assert turns == [["preset=miniature", "data.groups=2,4", "data.name=ucf11", f"data.split=logo-{n}"] for n in (2, 4)]
    assert len(_turns_of("ucf11", ["data.split=logo"], ["ucf11"])) == 25
    assert _turns_of("ucf11", ["data.split=logo-3"], ["ucf11"]) == [["data.split=logo-3", "data.name=ucf11"]]


@pytest.mark.parametrize(
    "more, rows",
    [
        ([], sweep_values("table1")["row"]),
        (["preset=miniature"], list(PRESETS["miniature"].rows)),
        (["rows=[avg_pool_lstm]"], ["avg_pool_lstm"]),
    ],
)
def test_a_preset_may_have_rows_of_its_own(more, rows, monkeypatch):
    asked = []

    def stop(settings, columns, rows, *others):
        asked.extend(rows)
        raise SystemExit(0)

    monkeypatch.setattr(script_of_table1, "finish_grid", stop)
    with pytest.raises(SystemExit):
        script_of_table1.main(more)
    assert asked == rows


@pytest.mark.slow(measured=True)
def test_the_miniature_table_of_one_data_set(tmp_path):
    """Drawn in the official layout, multi-label: one row of one column, as the README's command makes them, of fewer clips."""
    words = ["preset=miniature", "datasets=[hollywood2]", "rows=[soft_attention_0]", "backbone.size=64"]
    words += ["backbone.layer=features.3", "trainer.max_epochs=1", "model.hidden_dim=8"]
    subprocess.run([sys.executable, SMALL_TABLE, *words], cwd=tmp_path, check=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)
    text = (tmp_path / "results/table1.md").read_text()
    assert "MINIATURE" in text and "Hollywood2 (mAP %)" in text and "43.91" in text
    (run,) = tmp_path.glob("runs/hollywood2/*")
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 < metrics["test/mAP"] < 1 and "test/accuracy" not in metrics
    assert metrics["test/box_area"] == pytest.approx(0.055, abs=0.01)
