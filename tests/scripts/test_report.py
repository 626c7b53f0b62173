"""The HTML report: what is read from run folders, what is written, and how a real browser shows it."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, executable
from conftest import script
from runfolders import annotation, write_run

from datamodules.videos import DataError
from reproduce.evaluation import collection as collect
from reproduce.experiments.folder import RunFolder
from reproduce.report import main
from reproduce.webreport import charts
from reproduce.webreport.html import embedded, missing, table, tag

EVIL = "<script>alert(1)</script>"
CLOSING = "</script><img src=x onerror=alert(2)> & \"'"
CLASSES = [EVIL, CLOSING, "a_rather_long_class_name_that_does_not_fit", "swing"]
ROWS = {"softmax_regression": 1.0, "avg_pool_lstm": 1.2, "soft_attention_0": 4.0, "soft_attention_1": 3.0}
PARTS = ("results", "viewer", "curves", "classes", "confusions", "settings", "videos")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """UCF-11 with every part of a report, and one lonely multi-label run on Hollywood2."""
    root = tmp_path_factory.mktemp("report") / "runs"
    ucf = annotation("ucf11", CLASSES, 12, miniature=True)
    for row, skill in ROWS.items():
        for seed in (1, 2):
            write_run(root, ucf, ["data.name=ucf11", f"row={row}", f"seed={seed}"], skill, 5)
    write_run(root, ucf, ["data.name=ucf11", "row=soft_attention_0", "model.num_layers=1"], 2.0, 5)
    write_run(root, ucf, ["data.name=ucf11", "row=soft_attention_0", "data.fps=15"], 2.0, 5)
    write_run(root, annotation("hollywood2", ["Run", "Eat"], 8, True), ["data.name=hollywood2", "row=soft_attention_0"], 2, 5)
    shutil.copytree(next(root.glob("ucf11/avg_pool_lstm-*")), root / "ucf11/avg_pool_lstm-unfinished")
    (root / "ucf11/avg_pool_lstm-unfinished/metrics.json").unlink()
    return root


@pytest.fixture(scope="module")
def report(runs):
    return main([f"paths.runs={runs}", f"paths.results={runs.parent / 'results'}"])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if executable() is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    page = Browser(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def ucf(runs):
    return collect.read(runs)[0][0]


# What is read


def test_seeds_make_one_configuration_and_rows_come_in_the_papers_order(ucf):
    assert list(ucf.rows) == list(ROWS)
    assert all(len(one.runs) == 2 and [run.settings["seed"] for run in one.runs] == [1, 2] for one in ucf.rows.values())
    assert len(ucf.configurations) == len(ROWS) + 2 and len(ucf.unfinished) == 1 and ucf.unfinished[0][1] == 7


def test_a_configuration_that_differs_in_more_than_the_row_is_no_row(ucf):
    others = [one for one in ucf.configurations if one not in ucf.rows.values()]
    base = ucf.rows["soft_attention_0"]
    assert sorted(map(str, (collect.differences(one, base) for one in others))) == [
        "{'data.fps': 15.0}",
        "{'model.num_layers': 1}",
    ]


def test_effects_compare_what_differs_in_one_setting_alone(ucf):
    (penalties,) = collect.effects(ucf.configurations, collect.PENALTY)
    assert [one.settings[collect.PENALTY] for one in penalties] == [0.0, 1.0]
    (layers,) = collect.effects(ucf.configurations, collect.LAYERS)
    assert [one.settings[collect.LAYERS] for one in layers] == [1, 3]
    (rates,) = collect.effects(ucf.configurations, collect.FPS)
    assert [one.settings[collect.FPS] for one in rates] == [15.0, 30.0]


def test_runs_on_other_videos_are_never_put_together(tmp_path):
    for per_class in (4, 6):
        data = annotation("ucf11", ["a", "b"], per_class)
        for row in ("avg_pool_lstm", "soft_attention_0"):
            write_run(tmp_path, data, ["data.name=ucf11", f"row={row}"], 2, 3)
    (data,), _ = collect.read(tmp_path)
    assert len(data.configurations) == 4
    assert len({one.settings["videos"] for one in data.rows.values()}) == 1 and len(data.rows) == 2


def test_negative_controls_and_the_released_network_stand_apart_and_content_attention_beside_its_set_up(tmp_path):
    data = annotation("hmdb51", ["a", "b"], 4)
    rows = ["avg_pool_lstm", "soft_attention_0", "content_attention_0"]
    for more in (["data.permuted=1"], ["data.permuted=1", "data.split=2"], []):
        for row in rows:
            write_run(tmp_path, data, ["data.name=hmdb51", f"row={row}", *more], 2, 3)
    write_run(tmp_path, data, ["data.name=hmdb51", "row=soft_attention_0", "preset=released"], 2, 3)
    (found,), _ = collect.read(tmp_path)
    assert list(found.rows) == rows
    assert all("data.permuted" not in one.settings for one in found.rows.values())
    assert found.rows["soft_attention_0"].settings["model.attention"] == "location"
    control = next(one for one in found.configurations if one.settings.get("data.permuted") == 1)
    assert set(found.like(control)) == set(rows) and found.like(found.rows[rows[0]], "2") == {}


def test_class_figures_and_confusions_are_those_of_the_predictions(ucf):
    one = ucf.rows["avg_pool_lstm"]
    counts = one.confusion()
    assert counts.sum() == 2 * 48 and counts.sum(axis=1).tolist() == [24] * 4
    assert one.per_class() == pytest.approx(100 * counts.diagonal() / 24)
    assert one.mean == pytest.approx(100 * counts.trace() / counts.sum())


def test_average_precision_of_classes_averages_to_the_runs_map(runs):
    data = collect.read(runs)[0][1]
    (one,) = data.rows.values()
    assert np.mean(one.per_class()) == pytest.approx(one.mean)


def test_the_hardest_video_has_the_lowest_score_of_its_true_class(ucf):
    videos = collect.videos(ucf.rows.values())
    assert [video.score for video in videos] == sorted(video.score for video in videos) and len(videos) == 48
    hardest = videos[0]
    scores = []
    for one in ucf.rows.values():
        for run in one.runs:
            found = run.predictions
            row = found.videos.index(hardest.name)
            scores.append(found.scores[row, found.classes.index(hardest.target[0])])
    assert hardest.score == pytest.approx(np.mean(scores)) and hardest.runs == 8


def test_other_versions_and_untested_runs_are_named_and_left_out(tmp_path):
    data = annotation("ucf11", ["a", "b"], 4)
    words = ["data.name=ucf11", "row=avg_pool_lstm"]
    write_run(tmp_path, data, words, 2, 3)
    old = write_run(tmp_path, data, [*words, "seed=2"], 2, 3)
    about = RunFolder(old).about()
    del about["identity"]
    RunFolder(old).write_about(about)
    fold = write_run(tmp_path, data, [*words, "seed=3"], 2, 3)
    RunFolder(fold).finish({"val/accuracy": 0.5, "seconds": 3.0})
    (found,), problems = collect.read(tmp_path)
    assert len(found.runs) == 1
    assert [str(old) in line or str(fold) in line for line in problems] == [True, True]
    assert "earlier version" in "".join(problems) and "no test figures" in "".join(problems)


@pytest.mark.counts("damaged run folders")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"identity": []}, "identity is '[]', expected an object"),
        ({"versions": ["torch"]}, "versions is"),
        ({"processes": "two"}, "processes is 'two', expected a number of processes"),
        ({"started": "yesterday"}, "started is 'yesterday', expected a date and time"),
        ({"map": [7, 7]}, "map is '[7, 7]', expected rows, columns and channels"),
        ({"classes": [1, 2]}, "classes is '[1, 2]', expected a list of names"),
        ({"data_fingerprint": [1]}, "data_fingerprint is '[1]', expected a text or null"),
    ],
)
def test_a_run_json_that_is_damaged_is_named(tmp_path, change, says):
    path = write_run(tmp_path, annotation("ucf11", ["a", "b"], 4), ["data.name=ucf11", "row=avg_pool_lstm"], 2, 3)
    folder = RunFolder(path)
    (path / "run.json").write_text(json.dumps(folder.about() | change))
    with pytest.raises(DataError) as error:
        collect.read(tmp_path)
    assert f"{path / 'run.json'}: {says}" in str(error.value) and "remove the run's folder" in str(error.value)


def test_a_copy_of_a_run_is_no_further_seed_and_a_data_set_without_runs_is_named(tmp_path):
    path = write_run(tmp_path, annotation("ucf11", ["a", "b"], 4), ["data.name=ucf11", "row=avg_pool_lstm"], 2, 3)
    shutil.copytree(path, path.with_name("backup of it"))
    (found,), problems = collect.read(tmp_path)
    assert [run.folder.path for run in found.runs] == [path]
    assert problems == [f"{path.with_name('backup of it')}: the same configuration and seed as {path.name}; left out"]
    with pytest.raises(DataError, match="datasets: no run of hmbd51 below .*; there: ucf11"):
        collect.read(tmp_path, ["ucf11", "hmbd51"])


def test_predictions_that_were_cut_short_or_are_of_other_classes_are_refused(tmp_path):
    path = write_run(tmp_path, annotation("ucf11", ["a", "b"], 4), ["data.name=ucf11", "row=avg_pool_lstm"], 2, 3)
    lines = (path / "predictions.csv").read_text().splitlines(keepends=True)
    (path / "predictions.csv").write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match=rf"holds {len(lines) - 2} videos, run.json says {len(lines) - 1}"):
        RunFolder(path).predictions()
    assert len(RunFolder(path).predictions(sound=False).videos) == len(lines) - 2
    (path / "predictions.csv").write_text("".join(lines))
    (path / "run.json").write_text(json.dumps(RunFolder(path).about() | {"classes": ["a", "c"]}))
    with pytest.raises(DataError, match=r"line 1: other classes than run\.json's"):
        RunFolder(path).predictions()


# What is written


class Text(HTMLParser):
    """Elements by name, with what scripts hold."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.scripts, self.depth = [], [], []
        self.feed(html)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        self.depth.append(name)
        if name == "script":
            self.scripts.append("")

    def handle_endtag(self, name):
        while self.depth and self.depth.pop() != name:
            pass

    def handle_data(self, data):
        if self.depth and self.depth[-1] == "script":
            self.scripts[-1] += data


def test_the_file_asks_nobody_for_anything_and_escapes_every_name(report):
    html = report.read_text()
    parsed = Text(html)
    for name, attributes in parsed.elements:
        assert name not in ("img", "iframe", "object"), "a class name became an element"
        assert not {"src", "onerror", "onload", "onclick"} & set(attributes), attributes
        assert re.match(r"#|data:,", attributes.get("href", "#")), attributes
    assert len(parsed.scripts) == 3
    stored = json.loads(parsed.scripts[0])
    assert any(EVIL in chart.get("classes", ()) and CLOSING in chart["classes"] for chart in stored.values())
    assert "alert(1)" not in parsed.scripts[2] and "url(" not in html and "@import" not in html
    assert "default-src &#x27;none&#x27;" in html


def test_tables_carry_intervals_significance_and_the_papers_numbers(report):
    html = report.read_text()
    for part in ("Table 1", "Table 2", "84.96", "82.56", "95 % interval", "p &lt; 0.001", 'class="star"', "Holm", "quoted"):
        assert part in html, part
    assert "MINIATURE" in html and "Miniature data (UCF-11)." in html


def test_what_ran_is_said(report):
    html = report.read_text()
    for part in ("NVIDIA H100", "torch 2.9.0", "lightning 2.6.1", "python reproduce/train.py data.name=ucf11", "UTC"):
        assert part in html, part
    assert re.search(r"<code>[0-9a-f]{9}\+?</code>|<code>unknown\+?</code>", html)
    assert "avg_pool_lstm-unfinished" in html and "7 epochs done" in html


def test_missing_parts_are_a_sentence_with_the_command_that_makes_them(report):
    html = report.read_text()
    assert "No runs on Hollywood2 differ only in the number of LSTM layers." in html
    for command in ("sweeps/layers.yaml", "sweeps/fps.yaml", "sweeps/attention_penalty.yaml", "reproduce/table1.py"):
        assert f"{command}</code>" in html, command
    assert "A confusion matrix needs one label a video" in html


def test_ids_are_unique_and_every_entry_of_the_contents_leads_somewhere(report):
    elements = Text(report.read_text()).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in elements:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        if "aria-controls" in attributes:
            assert attributes["aria-controls"] in ids


def test_a_report_of_no_runs_is_an_error_that_says_what_to_do(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([f"paths.runs={tmp_path}", f"paths.results={tmp_path / 'results'}"])
    assert stop.value.code == 1 and not (tmp_path / "results").exists()
    assert "no finished run below" in (said := capsys.readouterr().err) and "table1.py preset=miniature" in said


def test_runs_of_a_system_without_stores_and_epochs_are_shown_beside_the_others(tmp_path):
    ucf, hmdb = annotation("ucf11", ["biking", "diving", "golf"], 6), annotation("hmdb51", ["walk", "run"], 4)
    for row in ("avg_pool_lstm", "soft_attention_0", "late_fusion", "late_fusion_svm"):
        write_run(tmp_path / "runs", ucf, ["data.name=ucf11", f"row={row}"], 2.0, 3)
    fusion = RunFolder(write_run(tmp_path / "runs", hmdb, ["data.name=hmdb51", "row=late_fusion"], 2.0))
    assert fusion.about()["system"] == "fusion" and fusion.about()["stores"] == [] and not fusion.history.exists()
    assert not {"map", "features", "stride"} & set(fusion.about())
    html = main([f"paths.runs={tmp_path / 'runs'}", f"paths.results={tmp_path}"]).read_text()
    assert html.count("Late fusion, mean of scores") >= 6 and "late_fusion_svm" in html
    assert "Without a history.csv, and so without a curve: Late fusion, mean of scores, Late fusion, linear SVM." in html
    assert "The run folders hold no history.csv" in html and "No run has a recording: fusions make none" in html
    data = collect.read(tmp_path / "runs")[0][0]
    rows = list(data.rows)
    assert rows == ["avg_pool_lstm", "soft_attention_0", "late_fusion", "late_fusion_svm"]
    assert len({charts.style(row, rows) for row in rows}) == len(rows)


def test_rows_shown_together_differ_in_style_and_the_papers_keep_theirs():
    rows = [*ROWS, "late_fusion", "late_fusion_svm", "soft_attention_0.5", "soft_attention_2"]
    styles = [charts.style(row, rows) for row in rows]
    assert len(set(styles)) == len(rows) == len(charts.MARKERS) and styles[:4] == [0, 1, 3, 4]


def test_a_damaged_run_is_named(runs, tmp_path, capsys):
    shutil.copytree(runs, tmp_path / "runs")
    damaged = next((tmp_path / "runs/ucf11").glob("soft_attention_1-*/metrics.json"))
    damaged.write_text("{")
    with pytest.raises(SystemExit):
        main([f"paths.runs={tmp_path / 'runs'}", f"paths.results={tmp_path}"])
    assert str(damaged) in capsys.readouterr().err and not (tmp_path / "report.html").exists()


def test_elements_escape_text_and_attributes():
    assert tag("td", "a < b", Markup := tag("b", "&"), class_="x") == '<td class="x">a &lt; b<b>&amp;</b></td>'
    assert Markup == "<b>&amp;</b>" and tag("p", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;"></p>'
    assert "</script" not in embedded({"name": CLOSING}) and json.loads(embedded({"name": CLOSING})) == {"name": CLOSING}
    assert "&lt;td" in table(["<td"], [["<td>", "x"]], "c")
    assert "&lt;" in missing("<", "x")


def test_a_scale_holds_its_values():
    assert charts.scale([61.2, 84.96]) == (60, 85) and charts.scale([0, 100]) == (0, 100) and charts.scale([50, 50]) == (50, 55)


@pytest.mark.parametrize(("number", "text"), [(1.25, "+1.2"), (-0.04, "0.0"), (-3, "−3.0")])
def test_signs_are_written_where_there_is_a_difference(number, text):
    assert charts.signed(number) == text


# What a browser shows


@pytest.mark.parametrize(
    ("width", "height", "dark"), [(1440, 900, False), (390, 844, False), (390, 844, True)], ids=["laptop", "phone", "dark"]
)
def test_a_browser_shows_it_without_errors_requests_or_overflow(report, browser, tmp_path, width, height, dark):
    browser.open(report.as_uri(), width, height, dark)
    browser.screenshot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 50_000
    assert browser.run("document.documentElement.scrollWidth") <= width
    for name in ("table-1", "table-2", "runs", *(f"on-ucf11-{part}" for part in PARTS)):
        assert browser.run(f"document.getElementById('{name}').getBoundingClientRect().height") > 40, name
    drawn = (
        "[...document.querySelectorAll('[data-chart]')].filter(plot => plot.clientWidth && !plot.querySelector('svg')).length"
    )
    assert browser.run(drawn) == 0 and browser.run("document.querySelectorAll('.plot svg').length") >= 7
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 150) is dark
    requested = [
        event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert requested in ([report.as_uri()], [report.as_uri(), "data:,"])
    bad = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")
    assert [event for event in browser.events if event["method"] in bad] == []


def test_names_stay_text_in_the_browser(report, browser):
    browser.open(report.as_uri(), 1440, 900)
    text = browser.run("document.getElementById('on-ucf11-classes').textContent")
    assert EVIL in text and CLOSING in text
    assert browser.run("document.querySelectorAll('img, main script').length") == 0
    browser.run("document.querySelector('[role=tabpanel]:not([hidden]) .matrix .plot').focus()")
    browser.press("ArrowDown")
    assert EVIL in browser.run("document.getElementById('tip').textContent")


def test_charts_and_tabs_are_usable_with_the_keyboard(report, browser):
    browser.open(report.as_uri(), 1440, 900)
    browser.run("document.querySelector('#on-ucf11-curves .plot').focus()")
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    said = browser.run("document.getElementById('live').textContent")
    assert said.startswith("epoch 2: ") and "Avg pooled LSTM" in said
    assert browser.run("!document.getElementById('tip').hidden")
    browser.press("Escape")
    assert browser.run("document.getElementById('tip').hidden")

    chosen = "document.querySelector('#on-ucf11-classes [role=tab][aria-selected=true]')"
    before = browser.run(f"{chosen}.textContent")
    browser.run(f"{chosen}.focus()")
    browser.press("ArrowLeft")
    assert browser.run(f"{chosen}.textContent") != before
    assert browser.run(f"{chosen} === document.activeElement")
    assert browser.run("document.querySelectorAll('#on-ucf11-classes [role=tabpanel]:not([hidden])').length") == 1


def test_the_legend_hides_a_row_from_the_curves(report, browser):
    browser.open(report.as_uri(), 1440, 900)
    lines = "document.querySelectorAll('#on-ucf11-curves .plot .line').length"
    before = browser.run(lines)
    browser.run("document.querySelector('#on-ucf11-curves .legend button').click()")
    assert browser.run(lines) == before - 3  # one in each of the three charts
    assert browser.run("document.querySelector('#on-ucf11-curves .legend button').getAttribute('aria-pressed')") == "false"


def test_a_touch_shows_values_that_are_those_of_history_csv(report, browser, ucf):
    browser.open(report.as_uri(), 390, 844)
    browser.run("document.querySelector('#on-ucf11-curves .plot').scrollIntoView({block: 'center', behavior: 'instant'})")
    # the tip goes when the page scrolls, which the page hears of before it draws the next frame
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = browser.run("JSON.stringify(document.querySelector('#on-ucf11-curves .plot').getBoundingClientRect())")
    place = json.loads(box)
    point = {"x": place["right"] - 14, "y": place["y"] + place["height"] / 2}
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[point])
    text = browser.run("document.getElementById('tip').innerText")
    tip = json.loads(browser.run("JSON.stringify(document.getElementById('tip').getBoundingClientRect())"))
    assert tip["width"] > 150 and tip["left"] >= 0 and tip["right"] <= 390
    losses = [run.history.rows("holdout")[-1]["train/loss"] for run in ucf.rows["soft_attention_0"].runs]
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    shown = float(re.search(r"Soft attention, λ\s=\s0\s+([\d.]+) \[", text).group(1))
    assert "epoch 5" in text and shown == pytest.approx(np.mean(losses), rel=1e-3)


def test_a_run_of_train_py_makes_a_report(trained, tmp_path):
    (tmp_path / "runs/clips").mkdir(parents=True)
    run = Path(trained / "run").resolve()
    shutil.copytree(run, tmp_path / "runs/clips" / run.name)
    result = script("report.py", cwd=tmp_path)
    assert f"written: {tmp_path / 'results/report.html'}" in result.stdout
    html = (tmp_path / "results/report.html").read_text()
    assert "row=soft_attention_1" in html and "There is no row avg_pool_lstm" in html and "class2" in html
    about = json.loads((run / "run.json").read_text())
    assert {"started", "command", "commit", "dirty", "cpu", "cores", "processes", "identity"} <= set(about)
    assert about["command"].startswith("python reproduce/train.py preset=miniature")
