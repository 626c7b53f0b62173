"""figures.py: which run is taken and what is said of one that is missing; what is drawn, of videos of any shape."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from coloured_videos import is_blue, is_red, red_and_blue, rotate_header, write_video
from conftest import TINY, draw_clips, once, script
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg

from datamodules.videos import DataError
from reproduce import figures
from reproduce.common.cli import resolve
from reproduce.common.settings import SettingsError
from reproduce.systems.tracks import Track
from reproduce.visual import intervention_figures, paper_figures, tradeoff
from reproduce.visual.figure_runs import FigureSettings, Need, Request, Rule
from reproduce.visual.overlay import overlay, overlays
from reproduce.visual.pages import DPI, STYLE
from reproduce.visual.recordings import SIDE

SPECIAL = ("odd.avi", "one.mp4", "turned.mp4", "a b.avi", "a-b.avi")
CHOSEN = "videos=[one,turned,odd,class1/clip0]"
QUARTER_TURN = (0, 1, -1, 0)  # clockwise: the left edge goes to the top


def asked(*words: str) -> Request:
    """A command line on a finished tiny run."""
    return Request(
        resolve(FigureSettings, list(words)), tuple(word for word in words if word.partition("=")[0] not in figures.OWN_KEYS)
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A working folder in which the command has drawn figures of clips of any shape, and trained what they needed."""
    folder = tmp_path_factory.mktemp("figures") / "here"
    return Path(shutil.copytree(once(tmp_path_factory, "first-figures", draw), folder))


def draw(folder: Path) -> None:
    draw_clips(folder / "data/clips")
    clips = folder / "data/clips/class0"
    rng = np.random.default_rng(0)
    write_video(clips / "one.mp4", [red_and_blue()])
    rotate_header(write_video(clips / "turned.mp4", [red_and_blue()] * 40), QUARTER_TURN)
    write_video(clips / "odd.avi", rng.integers(0, 255, (12, 47, 81, 3), dtype=np.uint8))
    for name in ("a b.avi", "a-b.avi"):
        write_video(clips / name, rng.integers(0, 255, (12, 48, 64, 3), dtype=np.uint8))
    with (folder / "data/clips/videos.csv").open("a", encoding="utf-8") as file:
        file.writelines(f"class0/{name},class0,special\n" for name in SPECIAL)
    words = [*TINY, "paths.data=data", "figure=attention", CHOSEN, "columns=4"]
    (folder / "stdout").write_text(script("figures.py", *words, cwd=folder).stdout)


@pytest.fixture
def request_(drawn, monkeypatch) -> Request:
    monkeypatch.chdir(drawn)
    return asked(*TINY, "paths.data=data", "columns=4")


@pytest.fixture
def kept(monkeypatch) -> dict[str, tuple]:
    """The clips and notes of each figure, in place of its files, whatever is said of its runs."""
    found = {}
    monkeypatch.setattr(Request, "path", lambda request, figure, needs, several=False: request.folder / figure)

    def keep(strips, path, title, notes):
        found[path.name] = strips, notes
        return [path]

    monkeypatch.setattr(paper_figures, "save_strips", keep)
    return found


def test_what_is_missing_is_trained_and_drawn(drawn):
    said = (drawn / "stdout").read_text()
    assert said.count("finished: videofolder soft_attention_0") == 1 and "figure attention: results/figures/attention" in said
    path = drawn / asked(*TINY, CHOSEN).path("attention", [Need()])
    assert path.name.startswith("attention_clips_") and path.with_name(f"{path.name}.png").is_file()
    pdf = path.with_name(f"{path.name}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Type3" not in pdf  # text stays text


def test_nothing_is_trained_twice(drawn, monkeypatch, capsys):
    monkeypatch.chdir(drawn)
    before = {path: path.stat().st_mtime_ns for path in drawn.glob("runs/clips/*/metrics.json")}
    picture, _ = figures.main([*TINY, "paths.data=data", "figure=attention", "videos=[turned]", "paths.results=again"])
    assert {path: path.stat().st_mtime_ns for path in drawn.glob("runs/clips/*/metrics.json")} == before
    assert picture.parent == Path("again/figures") and picture.is_file() and "figure attention:" in capsys.readouterr().out


def like(run: Path, to: Path, seed: int, penalty: float = 0.0, **figures: float) -> dict[str, float]:
    """A copy of a run that says to be of another seed and λ, with other figures; returns these."""
    shutil.copytree(run, to)
    about = json.loads((to / "run.json").read_text())
    about["identity"]["seed"] = seed
    about["identity"]["objective"]["attention_penalty"] = penalty
    (to / "run.json").write_text(json.dumps(about))
    metrics = json.loads((to / "metrics.json").read_text())
    metrics |= {name.replace("__", "/"): value for name, value in figures.items()}
    (to / "metrics.json").write_text(json.dumps(metrics))
    return metrics


def test_lambda_is_shown_against_the_figures_of_every_run(drawn, tmp_path, monkeypatch):
    run = next((drawn / "runs/clips").glob("soft_attention_0-*"))
    expected = {}
    for number, (penalty, seed) in enumerate([(0.0, 1), (0.0, 2), (0.1, 1), (10.0, 1), (10.0, 2)]):
        folder = tmp_path / f"runs/clips/run-{number}"
        uneven = 1.5 - 0.1 * number
        expected[f"{penalty:g}", str(seed)] = like(run, folder, seed, penalty, test__attention_coverage_spread=uneven)
    pages = []
    monkeypatch.setattr(tradeoff, "save_pages", lambda made, path: pages.extend(made) or [path])
    request = asked(*TINY, f"paths.runs={tmp_path / 'runs'}", f"paths.results={tmp_path}")
    request.folder.mkdir()
    *_, table = tradeoff.tradeoff(request, figures.NEEDS["tradeoff"])
    with table.open(newline="") as file:
        rows = {(row["lambda"], row["seed"]): row for row in csv.DictReader(file)}
    assert set(rows) == set(expected) and "mass" not in next(iter(rows.values()))  # there are no boxes
    for key, row in rows.items():
        assert float(row["test_accuracy"]) == pytest.approx(100 * expected[key]["test/accuracy"], abs=1e-3)
        assert float(row["unevenness"]) == pytest.approx(expected[key]["test/attention_coverage_spread"])
    (page,) = pages
    panels = {axes.texts[0].get_text(): axes for axes in page.axes}
    assert list(panels) == ["Test accuracy", "Entropy of a glimpse", "Unevenness of coverage", "Gaze shift"]
    means = next(line for line in panels["Unevenness of coverage"].lines if line.get_marker() == "s")
    assert list(means.get_xdata()) == [0, 1, 2] and means.get_ydata() == pytest.approx([1.45, 1.3, 1.15])
    assert [tick.get_text() for tick in panels["Gaze shift"].get_xticklabels()] == ["0", "0.1", "10"]
    page.dpi = DPI
    with rc_context(STYLE):
        FigureCanvasAgg(page).draw()
        width, height = page.get_size_inches() * DPI
        for text in [*page.texts, *(text for axes in page.axes for text in [*axes.texts, *axes.get_xticklabels()])]:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height and text.get_fontsize() >= 7


def test_one_lambda_alone_is_no_trade(drawn):
    with pytest.raises(DataError, match=r"row=soft_attention_1(.|\n)*row=soft_attention_10"):
        tradeoff.tradeoff(asked(*TINY, f"paths.runs={drawn / 'runs'}"), figures.NEEDS["tradeoff"])


def test_one_clip_under_several_networks(request_, kept):
    paper_figures.penalty(request_, [Need()] * 3)
    paper_figures.fps(request_, [Need()] * 2)
    ((strip,), notes), (strips, _) = kept["penalty"], kept["fps"]
    assert [len(pictures) for _, pictures in strip.rows] == [4] * 4 and strip.good is None
    assert [label.split()[:3] for label, _ in strip.rows[1:]] == [["λ", "=", "0"]] * 3
    assert "✓" in strip.rows[1][0] and "classified correctly" in notes[1]
    assert len(strips) >= 2 and " · 30 fps · predicted: " in strips[0].caption
    assert strips[0].columns[-1] == "1.0 s"  # the first block's last step


def test_videos_of_any_shape_are_drawn_as_they_are_displayed(request_):
    one = paper_figures.best_run(request_, Need())
    assert one.trained.grid == (8, 8)  # K other than the paper's 49
    single = paper_figures.clip_strip(one, "class0/one.mp4", 4)
    assert [len(pictures) for _, pictures in single.rows] == [1, 1] and single.columns == ("0.0 s",)
    turned = paper_figures.clip_strip(one, "class0/turned.mp4", 4)
    frame = turned.rows[0][1][0]
    assert frame.shape == (SIDE, SIDE, 3) and len(turned.columns) == 4
    assert is_red(frame[: SIDE // 3]) and is_blue(frame[-SIDE // 3 :])
    odd = paper_figures.clip_strip(one, "class0/odd.avi", 40)
    assert len(odd.columns) == 12  # of 40 asked for, its frames
    assert odd.caption.startswith("class0/odd · true: class0 · predicted: class")


def test_overlays_show_what_the_network_attends_to(request_):
    one = paper_figures.best_run(request_, Need())
    name = one.clips[0].name
    track, strip = one.track(name), paper_figures.clip_strip(one, name, 4)
    (_, frames), (_, pictures) = strip.rows
    assert len(frames) == len(pictures) == 4
    np.testing.assert_array_equal(pictures[-1], overlay(frames[-1], track.attention[-1]))
    np.testing.assert_array_equal(pictures[0], overlay(frames[0], track.attention[0]))
    predictions = one.trained.folder.predictions()
    assert strip.caption.endswith(f"predicted: {predictions.predicted[0]} ({predictions.scores[0].max():.2f})")
    assert strip.good == one.clips[0].correct


def test_a_map_that_is_not_square_lies_where_it_should():
    maps = np.zeros((2, 3, 5))
    maps[0, 0, 4] = maps[1, 2, 0] = 1
    black = np.zeros((2, SIDE, SIDE, 3), dtype=np.uint8)
    for picture, (row, column) in zip(overlays(black, maps), ((0, 4), (2, 0)), strict=True):
        y, x = np.unravel_index(picture[..., 0].argmax(), (SIDE, SIDE))
        assert int(y * 3 / SIDE) == row and int(x * 5 / SIDE) == column  # the brightest pixel lies in the cell


def test_attention_on_the_actor_is_measured_against_uniform_attention(request_, monkeypatch):
    one = paper_figures.best_run(request_, Need())
    name = one.clips[0].name
    assert one.foreground(name) is None
    coverage = np.zeros((5, 64), dtype=np.float32)
    coverage[:, 10] = 1
    coverage[3] = np.nan  # a frame without a box
    monkeypatch.setattr(one.data, "cells", lambda video: (coverage, coverage), raising=False)
    maps = np.full((5, 8, 8), 0.5 / 63)
    maps[:, 1, 2] = 0.5  # cell 10
    maps[3] = 0
    one._tracks[name] = Track(np.arange(5), maps, np.ones((5, 3)) / 3, np.ones(3) / 3)
    assert one.foreground(name) == pytest.approx(0.5 * 64)
    one._tracks[name] = Track(np.arange(5), np.full((5, 8, 8), 1 / 64), np.ones((5, 3)) / 3, np.ones(3) / 3)
    assert one.foreground(name) == pytest.approx(1) and one.entropy(name) == pytest.approx(1)


def test_without_boxes_entropy_takes_the_place_of_attention_on_the_actor(request_):
    one = paper_figures.best_run(request_, Need())
    names, said = one.choose(Rule("any", "background"), 3)
    assert "greatest entropy" in said and "says not where the actor is" in said
    spread = sorted(one.clips, key=lambda clip: -one.entropy(clip.name))
    assert names[0] == spread[0].name and len({name.split("/")[0] for name in names}) == len(names)


def test_clips_of_each_kind_are_drawn_of_every_data_set(request_, kept):
    files = paper_figures.gallery(request_, [Need(), Need()])
    assert [path.name for path in files] == ["gallery_correct", "gallery_incorrect"]
    for name, good in (("gallery_correct", True), ("gallery_incorrect", False)):
        strips, notes = kept[name]
        assert strips and all(strip.good is good and strip.caption.startswith("clips · ") for strip in strips)
        assert any("white is where" in note for note in notes)


def test_of_a_row_s_seeds_the_best_on_validation_is_taken_never_the_best_on_test(drawn, tmp_path):
    run = next((drawn / "runs/clips").glob("soft_attention_0-*"))
    for seed, validation, test in ((1, 0.4, 0.9), (2, 0.8, 0.1), (3, 0.6, 0.5)):
        like(run, tmp_path / f"runs/clips/soft_attention_0-{seed}", seed, val__accuracy=validation, test__accuracy=test)
    words = [*TINY, f"paths.runs={tmp_path / 'runs'}"]
    assert asked(*words).best().path.name == "soft_attention_0-2"
    assert asked(*words, "seed=3").best().path.name == "soft_attention_0-3"
    shutil.rmtree(tmp_path / "runs/clips/soft_attention_0-2/holdout")
    shutil.rmtree(tmp_path / "runs/clips/soft_attention_0-2/retrain")
    assert asked(*words).best().path.name == "soft_attention_0-3"  # the other's weights are gone
    with pytest.raises(
        DataError, match=r"nearest.*hidden_dim=8 instead of 16(.|\n)*train\.py .*model\.hidden_dim=16 row=soft_attention_0"
    ):
        asked(*words, "model.hidden_dim=16").best()


def test_words_of_other_data_sets_do_not_go_to_a_need():
    request = asked("data.name=hmdb51", "data.split=2", "row=soft_attention_1", "figure=gallery", "seed=4")
    assert request.words_of(Need()) == ["data.name=hmdb51", "data.split=2", "row=soft_attention_1", "seed=4"]
    assert request.words_of(Need(data="ucf11")) == ["row=soft_attention_1", "seed=4", "data.name=ucf11"]
    assert request.words_of(Need(row="soft_attention_10", fps=6))[-2:] == ["row=soft_attention_10", "data.fps=6"]
    assert asked("data.name=ucf11").words_of(Need()) == ["data.name=ucf11", "row=soft_attention_0"]
    custom = asked("model.name=soft_attention", "objective.attention_penalty=0.1")
    assert custom.settings_of(Need()).objective.attention_penalty == 0.1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["figure=atention"], "did you mean attention"),
        (["columns=0", "figure=attention"], "must be at least 1"),
        (["figure=attention", "videos=[clip0x]"], "did you mean class"),
        (["figure=attention", "choose=[corect]"], "did you mean correct"),
        (["figure=attention", "paths.data=nowhere"], "nowhere"),
    ],
)
def test_errors_say_what_to_do(words, expected, drawn, monkeypatch, capsys):
    monkeypatch.chdir(drawn)
    with pytest.raises(SystemExit) as stopped:
        figures.main([*TINY, "paths.data=data", *words] if "paths.data=nowhere" not in words else [*TINY, *words])
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and said.startswith("error: ") and expected in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("figure", "words", "name"),
    [
        ("attention", "", "attention"),
        (
            "attention",
            "preset=miniature row=soft_attention_0 column=ucf11 data.split=paper_like columns=8 clips=9",
            "attention",
        ),
        ("attention", "row=soft_attention_10", "attention_soft_attention_10"),
        ("attention", "data.name=hmdb51 row=soft_attention_1 data.split=2", "attention_hmdb51_soft_attention_1_split_2"),
        ("attention", "preset=[released,miniature]", "attention_released"),
        ("attention", "model.attention=content", "attention_attention_content"),
        ("attention", "model.num_layers=5 seed=3", "attention_num_layers_5_seed_3"),
        ("attention", "choose=[correct,background] most=3", "attention_correct_background"),
        ("penalty", "row=soft_attention_10", "penalty"),  # it has rows of its own
        ("fps", "preset=miniature data.fps=6", "fps"),
        ("correction", "row=soft_attention_10 choose=first limit=20", "correction_limit_20"),
        ("mistakes", "videos=[a] choose=any glimpse=3,4 limit=1 data.name=hollywood2", "mistakes_hollywood2"),
        ("tradeoff", "preset=[released,miniature] videos=[a]", "tradeoff_released"),
        ("glimpse", "glimpse=3,4 videos=[v_shooting_05_01] preset=miniature", "glimpse_3_4_v_shooting_05_01"),
        ("gallery", "data.name=hmdb51 data.split=3", "gallery_split_3"),
        ("hmdb51_hollywood2", "preset=released", "hmdb51_hollywood2_released"),
    ],
)
def test_a_figure_s_name_says_what_is_not_as_usual(figure, words, name):
    several = figure in ("gallery", "hmdb51_hollywood2")
    request = asked(*words.split())
    assert request.path(figure, figures.NEEDS[figure], several) == Path("results/figures") / name


def test_what_is_long_or_unsafe_in_a_figure_s_name_is_told_apart_by_a_hash():
    said = [
        "videos=[a-b]",
        "videos=[a,b]",
        "videos=[日]",
        "videos=[本]",
        "objective.attention_penalty=0.1",
        "glimpse=0.1,0,1,1",
    ]
    many = ["model.num_layers=2", "model.hidden_dim=8", "data.batch_size=7", "optim.lr=0.1", "trainer.max_epochs=4"]
    requests = [asked(word) for word in said] + [asked(*many), asked(*many, "seed=2")]
    names = [request.path("glimpse", [Need()]).name for request in requests]
    assert len({name.lower() for name in names}) == len(names)
    assert names[0] == "glimpse_a-b"
    assert all(re.fullmatch(r"glimpse_([A-Za-z0-9_-]{1,48}-)?[0-9a-f]{8}", name) for name in names[1:]), names
    assert names == [request.path("glimpse", [Need()]).name for request in requests]


def test_the_tables_of_a_figure_are_told_apart_as_its_pictures_are(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(drawn)
    common = [*TINY, "paths.data=data", f"paths.results={tmp_path}"]
    for words in (common, [*common, "seed=1"]):
        for draw in (paper_figures.mistakes, intervention_figures.glimpse):
            draw(asked(*words, "columns=1", "clips=1"), [Need()])
    for figure in ("mistakes", "glimpse"):
        stems = [asked(*words).path(figure, [Need()]).name for words in (common, [*common, "seed=1"])]
        assert len(set(stems)) == 2 and all((tmp_path / f"figures/{stem}.png").is_file() for stem in stems)
        tables = [
            sorted((tmp_path / "figures").glob(f"{stem}.csv" if figure == "mistakes" else f"{stem}/*.csv")) for stem in stems
        ]
        assert tables[0] and len(tables[0]) == len(tables[1])


def test_without_the_miniature_preset_nothing_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        figures.main(["figure=[attention,tradeoff]", "data.name=hmdb51"])
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and "python reproduce/train.py data.name=hmdb51 row=soft_attention_0" in said
    assert "row=soft_attention_10" in said and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("row", ["avg_pool_lstm", "late_fusion"])
def test_a_row_without_attention_is_refused_before_anything_is_trained(row, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for figure in ("attention", "glimpse", "mistakes", "all"):
        with pytest.raises(SystemExit) as stopped:
            figures.main(["preset=miniature", f"figure={figure}", f"row={row}"])
        said = capsys.readouterr().err
        name = "attention" if figure == "all" else figure
        assert stopped.value.code == 1
        assert said == f"error: figure={name}: row={row} has no attention to draw; row=soft_attention_0 has\n"
    assert not list(tmp_path.iterdir())
    asked(f"row={row}").check("penalty", figures.NEEDS["penalty"])  # it has rows of its own
    with pytest.raises(SettingsError, match="model.name=max_pool_lstm has no attention to draw"):
        asked("model.name=max_pool_lstm").check("attention", [Need()])


def test_a_run_on_other_videos_is_not_drawn(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(drawn)
    shutil.copytree(drawn / "data", tmp_path / "data")
    path = tmp_path / "data/clips/videos.csv"
    path.write_text(path.read_text().replace("class0/one.mp4,class0", "class0/one.mp4,class1"))
    request = asked(*TINY, f"paths.data={tmp_path / 'data'}")
    with pytest.raises(DataError, match=r"was made on other videos than lie in .*paths\.data"):
        paper_figures.best_run(request, Need())


def test_videos_of_names_alike_have_files_of_their_own(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(drawn)
    request = asked(
        *TINY, "paths.data=data", f"paths.results={tmp_path}", "limit=2", "videos=[class0/a b,class0/a-b]", "columns=2"
    )
    videos = paper_figures.best_run(request, Need()).annotation.videos
    two = [video for video in videos if "a b" in video.name or "a-b" in video.name]
    monkeypatch.setattr(intervention_figures, "mistaken", lambda trained, annotation: two)
    intervention_figures.correction(request, [Need()])
    strips = sorted(request.folder.glob("correction/**/*.png"), key=lambda path: path.stem)
    assert [path.stem for path in strips] == ["class0-a-b", "class0-a-b-2"]
    assert strips[0].read_bytes() != strips[1].read_bytes()
    *_, first, second = intervention_figures.glimpse(request, [Need()])
    assert [path.name for path in (first, second)] == ["class0-a-b.csv", "class0-a-b-2.csv"]
    assert first.read_bytes() != second.read_bytes()
    one = asked(*request.words, "videos=[class0/a-b]", "columns=2")
    *_, alone = intervention_figures.glimpse(one, [Need()])
    assert alone.name == "class0-a-b-2.csv" and alone.read_bytes() == second.read_bytes(), "the name depends on no selection"
