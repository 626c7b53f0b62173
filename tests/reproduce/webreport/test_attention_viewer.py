"""The report's attention viewer: what is made of recordings, and how a real browser shows it."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from browser import Browser, executable
from PIL import Image
from runfolders import annotation, write_run

from reproduce.evaluation import collection as collect
from reproduce.experiments.attention_files import (
    SIDE,
    Recording,
    read_sheet,
    recorded_frames,
    write_recordings,
    write_sheet,
)
from reproduce.experiments.folder import RunFolder
from reproduce.report import main
from reproduce.visual.overlay import overlay
from reproduce.visual.recordings import RECORDED, first_videos
from reproduce.webreport import attention_viewer as viewer

EVIL = "<script>alert(1)</script>"
CLASSES = [EVIL, "say_\"hé\"_🤸 & 'more'", "swing", "a_rather_long_class_name_that_does_not_fit"]
RATES = {0: 25.0, 1: 30000 / 1001, 2: 60.0, 3: None}  # frames per second; the last one's file does not say
LENGTHS = {0: 45, 1: 1, 2: 12, 3: 2000}  # frames of each class's first video
GRIDS = {"soft_attention_0": (7, 7), "soft_attention_1": (4, 6), "soft_attention_10": (14, 14)}
WORDS = ["data.name=ucf11"]
VIEWER = "#on-ucf11-viewer"


# What the report makes of it


def recording(path, data, grid, seed=0):
    """A drawn recording of a run folder: the first video of each class, of LENGTHS frames."""
    folder, random = RunFolder(path), np.random.default_rng(seed)
    found = []
    for number, chosen in enumerate(first_videos(data.test, data.classes, RECORDED), start=1):
        video = data.test[chosen]
        label = video.labels[0]
        length = LENGTHS.get(label, 20)
        frames = recorded_frames(length)
        ramp = np.linspace(0, 200, len(frames)).astype(np.uint8)
        pictures = np.empty((len(frames), SIDE, SIDE, 3), dtype=np.uint8)
        pictures[:] = ramp[:, None, None, None]
        pictures[:, 40:80, 20 + 5 * number : 90] = (200, 12 * len(data.data), 20)
        write_sheet(folder, f"{number}-v", pictures)
        attention = None
        if grid is not None:
            cells = random.dirichlet(np.full(grid[0] * grid[1], 0.08), len(frames))
            attention = cells.reshape(-1, *grid).astype(np.float16)
        probabilities = random.dirichlet(np.ones(len(data.classes)), len(frames)).astype(np.float16)
        found.append(Recording(video.name, f"{number}-v", length, frames, attention, probabilities, RATES.get(label)))
    write_recordings(folder, found)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """UCF-11 with three attention rows of different maps, two seeds, a baseline; Hollywood2 with several labels."""
    root = tmp_path_factory.mktemp("viewer") / "runs"
    ucf = annotation("ucf11", CLASSES, 4)
    for number, (row, grid) in enumerate({**GRIDS, "avg_pool_lstm": None}.items()):
        for seed in (1, 2) if row == "soft_attention_1" else (1,):
            path = write_run(root, ucf, [*WORDS, f"row={row}", f"seed={seed}"], 2.0, 4)
            recording(path, ucf, grid, 10 * number + seed)
    write_run(root, ucf, [*WORDS, "row=max_pool_lstm"], 2.0, 4)  # without a recording, as one from W&B
    path = write_run(root, ucf, [*WORDS, "preset=released", "row=soft_attention_0"], 2.0, 4)
    recording(path, ucf, (7, 7), 99)
    movies = annotation("hollywood2", ["Run", "Eat", "AnswerPhone", "SitUp"], 4, True)
    recording(write_run(root, movies, ["data.name=hollywood2", "row=soft_attention_0"], 2, 4), movies, (7, 7), 5)
    return root


@pytest.fixture(scope="module")
def report(runs):
    return main([f"paths.runs={runs}", f"paths.results={runs.parent / 'results'}"])


@pytest.fixture(scope="module")
def clip_data(report):
    text = re.search(r'<script type="application/json" id="clips">(.*?)</script>', report.read_text(), re.DOTALL).group(1)
    return json.loads(text)


@pytest.fixture(scope="module")
def ucf(runs):
    return collect.read(runs, ["ucf11"])[0][0]


def test_rows_come_first_then_content_attention_and_what_is_missing_is_said(ucf, report, clip_data):
    models, without, notes = viewer.models_of(ucf)
    assert [model.name.replace("\u00a0", " ") for model in models] == [
        "Avg pooled LSTM",
        "Soft attention, λ = 0",
        "Soft attention, λ = 1",
        "Soft attention, λ = 10",
        "Content attention, λ = 0",
    ]
    assert without == ["Max pooled LSTM"] and notes == []
    assert "Without a recording, and so not here: Max pooled LSTM." in report.read_text()
    assert clip_data["on-ucf11"]["shown"] == [1, 2, 3, 4]


def test_of_several_seeds_that_with_the_best_validation_figure_is_shown(ucf):
    configuration = ucf.rows["soft_attention_1"]
    for best in (0, 1):
        marked = tuple(
            replace(run, metrics={**run.metrics, "val/accuracy": 0.9 if number == best else 0.1})
            for number, run in enumerate(configuration.runs)
        )
        data = replace(ucf, configurations=(replace(configuration, runs=marked),))
        (model,), *_ = viewer.models_of(data)
        assert model.run.settings["seed"] == configuration.runs[best].settings["seed"]


def test_a_videos_pictures_stand_in_the_page_once(report, clip_data):
    html = report.read_text()
    videos = [video for data in clip_data.values() for video in data["videos"]]
    assert len(videos) == 8 and all(html.count(video["picture"]) == 1 for video in videos)
    names = [video["name"] for video in clip_data["on-ucf11"]["videos"]]
    assert names == [f"{name}/clip_00.avi" for name in sorted(CLASSES)]


def test_drawn_classes_are_the_true_ones_then_what_models_took_it_for(clip_data):
    for data in clip_data.values():
        for video in data["videos"]:
            assert video["drawn"][: len(video["true"])] == video["true"] and len(set(video["drawn"])) == len(video["drawn"])
            assert len(video["styles"]) == len(video["drawn"]) == 4 and len(set(video["styles"])) == 4
            for track in video["tracks"]:
                assert [len(line) for line in track["p"]] == [len(video["frames"])] * 4
                assert max(line[0] for line in track["p"]) == track["topP"][0]


def test_what_a_damaged_or_large_recording_does(runs, tmp_path, monkeypatch):
    shutil.copytree(runs / "ucf11", tmp_path / "ucf11")
    damaged = next(tmp_path.glob("ucf11/soft_attention_10-*/attention/watched.npz"))
    damaged.write_bytes(b"no zip")
    (data,), _ = collect.read(tmp_path)
    html = viewer.viewer(data, clips := {})
    assert f"{damaged}: damaged" in html and len(clips["on-ucf11"]["models"]) == 4
    monkeypatch.setattr(viewer, "BUDGET", 1)
    html = viewer.viewer(data, clips := {})
    assert len(clips["on-ucf11"]["videos"]) == 1 and "3 more recorded videos are left out" in html
    for recorded in tmp_path.glob("ucf11/*/attention"):
        shutil.rmtree(recorded)
    html = viewer.viewer(data, clips := {})
    assert clips == {} and "train.py" in html
    assert "No run has a recording: fusions make none, and runs fetched from W&amp;B" in html


def test_filmstrips_are_open_for_who_has_no_script(report, ucf):
    html = report.read_text()
    section = html[html.index('id="on-ucf11-viewer"') :]
    strips = section[section.index("<details open>") : section.index("</details>")]
    images = re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="([^"]*)" width="(\d+)" height="112">', strips)
    assert "<noscript>" in section and len(images) == 4 * 5  # frames and four models, of four videos
    assert images[1][1].startswith("Soft attention, λ\u00a0=\u00a00: ")
    models, *_ = viewer.models_of(ucf)
    one = models[1].recordings[next(iter(models[1].recordings))]
    with Image.open(io.BytesIO(base64.b64decode(images[1][0]))) as file:
        strip = np.asarray(file.convert("RGB"))
    assert strip.shape[:2] == (112, int(images[1][2]))
    frame = np.asarray(Image.fromarray(read_sheet(models[1].run.folder, one)[0]).resize((112, 112)))
    assert np.abs(strip[:, :112].astype(float) - overlay(frame, one.attention[0], 10.0)).mean() < 4


# What a browser shows


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if executable() is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    page = Browser(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


def show(browser, report, width=1440, height=900, **options):
    browser.open(report.as_uri(), width, height, **options)
    ready(browser, 0)


def wait(browser, condition):
    waiting = f"new Promise((done, fail) => {{ let n = 0; const look = () => {condition} ? done(true) : ++n > 1200 ? "
    assert browser.run(waiting + "done(false) : setTimeout(look, 25); look(); })"), condition


def ready(browser, number):
    wait(browser, f"document.querySelector('{VIEWER} .viewer').dataset.ready === '{number}'")


def put(browser, what, value, event="input"):
    """As a user who moves a control."""
    found = f"document.querySelector('{VIEWER} {what}')"
    browser.run(f"{found}.value = '{value}'; {found}.dispatchEvent(new Event('{event}'))")


def text(browser, what):
    return browser.run(f"document.querySelector('{VIEWER} {what}').innerText")


def value(browser, what="scrub"):
    return int(browser.run(f"document.querySelector('{VIEWER} .{what}').value"))


def pixels(browser, number):
    """(side, side, 4) of a canvas."""
    script = f"""(() => {{ const canvas = document.querySelectorAll('{VIEWER} canvas')[{number}];
        const found = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return btoa(Array.from(found, (byte) => String.fromCharCode(byte)).join('')); }})()"""
    return np.frombuffer(base64.b64decode(browser.run(script)), dtype=np.uint8).reshape(SIDE, SIDE, 4).astype(int)


@pytest.mark.parametrize("at", [0, 17])
def test_the_canvas_equals_the_overlay_on_maps_of_any_shape(report, browser, ucf, at):
    show(browser, report)
    number = sorted(CLASSES).index(EVIL)
    put(browser, ".video", number, "change")
    ready(browser, number)
    put(browser, ".scrub", at)
    models = [model for model in viewer.models_of(ucf)[0] if model.attends]
    for canvas, model in enumerate(models):
        one = model.recordings[f"{EVIL}/clip_00.avi"]
        picture = read_sheet(model.run.folder, one)[at]
        put(browser, ".opacity", 100)
        drawn = pixels(browser, canvas)
        expected = overlay(picture, one.attention[at], viewer.BLUR * SIDE).astype(int)
        assert np.abs(drawn[:, :, :3] - expected).max() <= 2, model.name
        assert expected.std() > 5  # the map is no constant
        put(browser, ".opacity", 0)
        assert np.abs(pixels(browser, canvas)[:, :, :3] - picture).max() <= 1
        put(browser, ".opacity", 50)
        assert np.abs(pixels(browser, canvas)[:, :, :3] - (picture + expected) / 2).max() <= 2
    maps = [model.recordings[f"{EVIL}/clip_00.avi"].attention for model in models]
    assert {one.shape[1:] for one in maps} == {(7, 7), (4, 6), (14, 14)}


def test_another_video_is_picked_and_its_numbers_are_those_recorded(report, browser, ucf):
    show(browser, report)
    number = sorted(CLASSES).index("swing")
    put(browser, ".video", number, "change")
    ready(browser, number)
    put(browser, ".scrub", 7)
    assert text(browser, ".where") == "frame 8 of 12, 0.12 s"  # at 60 frames a second
    model = viewer.models_of(ucf)[0][1]
    probabilities = model.recordings["swing/clip_00.avi"].probabilities[7].astype(float)
    cells = "row => [row.querySelector('th, td:nth-child(2)').innerText, row.querySelector('.n').innerText]"
    rows = browser.run(f"[...document.querySelector('{VIEWER} .values').rows].map({cells})")
    for name, share in rows[:-1]:
        label = CLASSES.index(name.removesuffix(" true"))
        assert float(share.removesuffix(" %")) == pytest.approx(100 * probabilities[label], abs=0.55)
    assert len(rows) == 5 and rows[0][0] == "swing true"
    assert rows[-1] == [CLASSES[probabilities.argmax()], max(rows, key=lambda row: float(row[1].removesuffix(" %")))[1]]
    scores = model.run.predictions
    guess = scores.classes[scores.scores[scores.videos.index("swing/clip_00.avi")].argmax()]
    assert text(browser, ".verdict") == (f"✓ recognised: {guess}" if guess == "swing" else f"✗ taken for {guess}")


def test_it_plays_pauses_and_loops(report, browser):
    show(browser, report)
    number = sorted(CLASSES).index(EVIL)
    put(browser, ".video", number, "change")
    ready(browser, number)
    browser.run(f"document.querySelector('{VIEWER} .play').click()")
    assert text(browser, ".play") == "Pause"
    wait(browser, f"Number(document.querySelector('{VIEWER} .scrub').value) > 3")
    browser.run(f"document.querySelector('{VIEWER} .play').click()")
    stopped = value(browser)
    browser.run("new Promise(done => setTimeout(done, 200))")
    assert text(browser, ".play") == "Play" and value(browser) == stopped
    put(browser, ".speed", 2, "change")
    put(browser, ".scrub", 40)
    browser.run(f"document.querySelector('{VIEWER} .play').click()")
    wait(browser, f"Number(document.querySelector('{VIEWER} .scrub').value) < 40")  # begins again
    assert text(browser, ".play") == "Pause"


def test_it_plays_at_the_film_s_own_rate(report, browser):
    clock = "performance.now = () => 0; window.requestAnimationFrame = (step) => (window.next = step)"
    for kind, after, passed in ((EVIL, 1000.5, 25.01), ("swing", 180, 10.8), (CLASSES[3], 1000.5, 30.01)):  # ms, frames
        show(browser, report)
        number = sorted(CLASSES).index(kind)
        put(browser, ".video", number, "change")
        ready(browser, number)
        put(browser, ".speed", 1, "change")
        browser.run(clock)
        browser.run(f"document.querySelector('{VIEWER} .play').click()")
        browser.run(f"window.next({after})")
        frames = recorded_frames(LENGTHS[CLASSES.index(kind)])
        assert value(browser) == np.searchsorted(frames, passed, side="right") - 1, kind


def test_who_wants_less_motion_sees_a_film_once_and_slowly(report, browser):
    show(browser, report, still=True)
    assert browser.run(f"document.querySelector('{VIEWER} .speed').value") == "0.1"
    assert text(browser, ".play") == "Play"
    number = sorted(CLASSES).index("swing")
    put(browser, ".video", number, "change")
    ready(browser, number)
    put(browser, ".speed", 2, "change")
    browser.run(f"document.querySelector('{VIEWER} .play').click()")
    wait(browser, f"document.querySelector('{VIEWER} .play').innerText === 'Play'")
    assert value(browser) == 11


def test_the_keys_do_all_of_it(report, browser):
    show(browser, report)
    number = sorted(CLASSES).index(EVIL)
    put(browser, ".video", number, "change")
    ready(browser, number)
    browser.run(f"document.querySelector('{VIEWER} .play').focus()")
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "scrub"
    outline = browser.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid" and browser.run("document.activeElement.getAttribute('aria-label')") == "Frame"
    for key, place in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 44), ("ArrowRight", 44), ("Home", 0)):
        browser.press(key)
        assert value(browser) == place, key
    said = browser.run("document.getElementById('live').textContent")
    assert re.match(r"Frame 1: Soft attention, λ\s=\s0 says .+ [\d.]+ %; Soft attention, λ\s=\s1 says ", said)
    assert browser.run("document.activeElement.getAttribute('aria-valuetext')") == "frame 1 of 45"
    browser.press(" ")
    assert text(browser, ".play") == "Pause"
    wait(browser, f"Number(document.querySelector('{VIEWER} .scrub').value) > 1")
    browser.press(" ")
    assert text(browser, ".play") == "Play"
    browser.run(f"document.querySelector('{VIEWER} .opacity').focus()")
    at = value(browser)
    browser.press("ArrowRight")
    assert value(browser, "opacity") == 65 and value(browser) == at
    assert text(browser, ".transport label output") == "65 %"


def test_models_are_put_side_by_side_and_taken_away(report, browser):
    show(browser, report)
    heads = f"[...document.querySelectorAll('{VIEWER} .sees b')].map(head => head.textContent).join('; ')"
    assert browser.run(heads).replace("\u00a0", " ") == (
        "Soft attention, λ = 0; Soft attention, λ = 1; Soft attention, λ = 10; Content attention, λ = 0"
    )
    tops = browser.run(
        f"new Set([...document.querySelectorAll('{VIEWER} canvas')].map(c => c.getBoundingClientRect().top)).size"
    )
    assert tops == 1
    for number in (0, 2, 3, 4):
        browser.run(f"document.querySelectorAll('{VIEWER} [type=checkbox]')[{number}].click()")
    assert browser.run(heads).replace("\u00a0", " ") == "Avg pooled LSTM; Soft attention, λ = 0"
    assert (
        "no attention" in text(browser, ".blind")
        and browser.run(f"document.querySelectorAll('{VIEWER} .plot svg').length") == 2
    )
    for number in (0, 1):
        browser.run(f"document.querySelectorAll('{VIEWER} [type=checkbox]')[{number}].click()")
    assert text(browser, ".seen-by") == "No model is chosen."
    put(browser, ".scrub", 0)
    browser.run(f"document.querySelectorAll('{VIEWER} [type=checkbox]')[1].click()")
    assert pixels(browser, 0).max() == 255


def test_a_hard_video_leads_to_the_viewer(report, browser):
    show(browser, report)
    links = "[...document.querySelectorAll('#on-ucf11-videos [data-video]')]"
    name = browser.run(f"{links}.at(-1).dataset.video")
    browser.run(f"{links}.at(-1).click()")
    number = sorted(CLASSES).index(name.rpartition("/")[0])
    ready(browser, number)
    assert browser.run(f"document.querySelector('{VIEWER} .video').selectedOptions[0].textContent").endswith(name)


@pytest.mark.parametrize(
    ("width", "height", "dark"), [(1440, 900, False), (390, 844, False), (1440, 900, True)], ids=["laptop", "phone", "dark"]
)
def test_it_fits_every_video_and_asks_for_nothing(report, browser, tmp_path, width, height, dark):
    show(browser, report, width, height, dark=dark)
    outside = f"""(() => {{ const box = document.querySelector('{VIEWER} .viewer').getBoundingClientRect();
        const inside = [...document.querySelectorAll('{VIEWER} .viewer *')].filter(one => !one.closest('svg, option, wbr'));
        const [left, right] = [box.left - 1, box.right + 1];
        const out = (one) => one.getBoundingClientRect().right > right || one.getBoundingClientRect().left < left;
        return inside.filter(out).map(one => `${{one.localName}}.${{one.className}}`).join(); }})()"""
    for number in range(len(CLASSES)):
        put(browser, ".video", number, "change")
        ready(browser, number)
        put(browser, ".scrub", 60)  # the last, wherever that is
        assert browser.run("document.documentElement.scrollWidth") <= width and browser.run(outside) == "", number
        label = CLASSES.index(sorted(CLASSES)[number])
        frames = len(recorded_frames(LENGTHS[label]))
        assert value(browser) == frames - 1
        long = "frame 900 of the first 900 of 2000, 29.97 s at 30 fps"
        ends = {45: "frame 45 of 45, 1.76 s", 1: "frame 1 of 1, 0.00 s", 2000: long, 12: "frame 12 of 12, 0.18 s"}
        assert text(browser, ".where") == ends[LENGTHS[label]]
        assert pixels(browser, 0)[:, :, :3].std() > 5
    browser.screenshot(tmp_path / "viewer.png")
    requested = [
        event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requested if not url.startswith("data:")] == [report.as_uri()]
    bad = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")
    assert [event for event in browser.events if event["method"] in bad] == []
    assert browser.run("document.querySelectorAll('main script').length") == 0
    assert EVIL in browser.run(f"document.querySelector('{VIEWER} .video').textContent")
