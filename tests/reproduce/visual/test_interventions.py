"""Glimpses as a user writes them, corrections, and Figs. 5 and 9 and each class's mistakes, on a run of three classes."""

import csv
import dataclasses

import numpy as np
import pytest
from conftest import TINY
from PIL import Image

from datamodules.videos import DataError
from reproduce import figures
from reproduce.common.cli import resolve
from reproduce.common.files import write_rows
from reproduce.common.settings import SettingsError
from reproduce.experiments.folder import RunFolder
from reproduce.systems.loading import load_trained
from reproduce.systems.recurrent import build_data
from reproduce.systems.tracks import Track, Tracker, track_video
from reproduce.visual import intervention_figures, interventions
from reproduce.visual.clips import RunClips, clips_of
from reproduce.visual.figure_runs import FigureSettings, Request
from reproduce.visual.intervention_figures import summary
from reproduce.visual.interventions import (
    Outcome,
    correct_one,
    dense,
    mistaken,
    parse_glimpse,
    read_outcomes,
    scores_of_cells,
    scores_with,
    track_difference,
)


def test_a_cell_a_box_and_a_map_are_glimpses(tmp_path):
    cell = parse_glimpse("3,4", (7, 7))
    assert cell[3, 4] == cell.sum() == 1
    box = parse_glimpse("0,0.5,0.5,1", (2, 4))
    np.testing.assert_allclose(box, [[0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    partly = parse_glimpse("0,0,0.375,1", (1, 4))
    np.testing.assert_allclose(partly, [[2 / 3, 1 / 3, 0, 0]], atol=1e-6)  # by the cells' covered share
    file = tmp_path / "map.csv"
    file.write_text("1,1,0\n0,0,2\n")
    np.testing.assert_allclose(parse_glimpse(str(file), (2, 3)), [[0.25, 0.25, 0], [0, 0, 0.5]])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("7,0", "rows 0 to 6"),
        ("0,-1", "columns 0 to 6"),
        ("0.5,0,0.2,1", "left < right"),
        ("0,0,1.5,1", "left < right"),
        ("0,nan,1,1", "left < right"),
        ("1,2,3", "a cell as row,column"),
        ("0.5,1", "a cell as row,column"),
        ("somewhere", "a cell as row,column"),
        ("absent.csv", "no readable CSV"),
    ],
)
def test_what_is_no_glimpse_is_refused(text, said):
    with pytest.raises(SettingsError, match=said):
        parse_glimpse(text, (7, 7))


@pytest.mark.parametrize("text", ["1,2\n3\n", "1,x\n3,4\n", "0,0\n0,0\n", "1,-1\n0,1\n", "nan,1\n1,1\n", "1,2,3\n4,5,6\n", ""])
def test_what_is_no_map_is_refused(tmp_path, text):
    file = tmp_path / "map.csv"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"map\.csv"):
        parse_glimpse(str(file), (2, 2))


def track(attention) -> Track:
    maps = np.asarray(attention, dtype=np.float32)
    return Track(np.arange(len(maps)), maps, np.zeros((len(maps), 2), np.float32), np.zeros(2, np.float32))


def test_how_far_two_tracks_are_apart():
    left, right = [[1, 0, 0, 0]], [[0, 0, 0, 1]]
    assert track_difference(track([left, left]), track([left, left])) == (0, 0)
    turned, moved = track_difference(track([left, left]), track([left, right]))
    assert turned == pytest.approx(0.5) and moved == pytest.approx(0.375)  # ¾ of the frame's width, in one of two frames
    half = [[0.5, 0, 0, 0.5]]
    assert track_difference(track([left]), track([half])) == pytest.approx((0.5, 0.375))


def outcome(**changes) -> Outcome:
    return dataclasses.replace(Outcome("v", "a", "b", "b", True, 4, 0.5, 0.1, "c", False, 9, 1, 9), **changes)


def test_the_summary_counts():
    said = " ".join(summary([outcome(), outcome(steps=0), outcome(steps=8), outcome(corrected=False, control_reached=True)]))
    assert "3 of 4 misclassified test videos become correct (75%)" in said and "1 of them by the random glimpse" in said
    assert (
        "median 6, 4 to 8" in said and "Control: optimised for a label that is neither true nor predicted, 1 of 4 (25%)" in said
    )
    assert summary([]) == ["No test video is misclassified."]


@pytest.fixture
def run(trained, clips, monkeypatch):
    monkeypatch.chdir(trained)  # the run's paths are relative to it
    loaded = load_trained(RunFolder(trained / "run").path)
    return loaded, build_data(loaded.settings)


def test_cells_are_looked_at_one_by_one(run):
    loaded, data = run
    name = data.annotation.test[0].name
    video = dense(loaded, data.store, name)
    cells = scores_of_cells(loaded, video)
    rows, columns = loaded.grid
    assert cells.shape == (rows, columns, len(loaded.classes))
    np.testing.assert_allclose(cells[1, 2], scores_with(loaded, video, parse_glimpse("1,2", loaded.grid)), atol=1e-6)
    assert cells.std(axis=(0, 1)).max() > 0


def test_a_correction_is_what_the_network_says_with_the_new_weights_and_repeats(run):
    loaded, data = run
    video = mistaken(loaded, data.annotation)[0]
    before = track_video(loaded.network, data.store, video.name, Tracker.of(loaded))
    one, tracks = correct_one(loaded, data.store, video, limit=20)
    again, _ = correct_one(loaded, data.store, video, limit=20)
    assert one == again
    assert one.target == loaded.classes[video.labels[0]] != one.prediction
    assert loaded.classes[int(tracks.optimised.scores.argmax())] == one.target if one.corrected else one.steps == 20
    assert loaded.classes[int(tracks.random.scores.argmax())] == one.random_prediction
    assert one.control not in (one.target, one.prediction)
    np.testing.assert_array_equal(tracks.learned.attention, before.attention)
    after = track_video(loaded.network, data.store, video.name, Tracker.of(loaded))
    np.testing.assert_array_equal(after.attention, before.attention)  # the network is as it was


@pytest.mark.slow(measured=True)
def test_the_figures_of_a_run(trained, clips, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    words = [*TINY, f"paths.data={clips}", "row=soft_attention_1", "limit=20", "paths.results=drawn", "most=2"]
    files = figures.main([*words, "figure=[glimpse,correction,mistakes]"])
    said = capsys.readouterr().out
    folder = trained / "drawn/figures"
    for name in ("glimpse_clips", "correction_clips", "mistakes_clips"):
        (path,) = folder.glob(f"{name}_*-????????.png")
        picture = Image.open(path)
        assert picture.width > 900 and np.asarray(picture.convert("L")).std() > 10
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert "its own glimpse:" in said and "misclassified test videos become correct" in said

    table = next(path for path in files if path.name == "correction.csv")
    loaded = load_trained(trained / "run")
    own = loaded, build_data(loaded.settings).annotation
    outcomes = read_outcomes(trained / table, *own)
    assert len(outcomes) == 2 and {one.limit for one in outcomes} == {20}
    strips = {path.name: path.read_bytes() for path in (trained / table).parent.glob("limit_20/*.png")}
    assert len(strips) == 2  # one for each video
    (path,) = folder.glob("mistakes_clips_*.csv")
    assert path.with_suffix(".png").is_file()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    predictions = RunFolder(trained / "run").predictions()
    wrong = predictions.scores.argmax(axis=1) != predictions.target.argmax(axis=1)
    for row in rows:
        of_class = wrong & predictions.target[:, predictions.classes.index(row["class"])]
        assert float(row["score"]) == pytest.approx(predictions.scores[of_class].max(), abs=1e-6)
        assert row["class"] == row["true"] != row["predicted"]
    assert {row["class"] for row in rows} == {
        predictions.classes[label] for label in range(3) if (wrong & predictions.target[:, label]).any()
    }

    computed = []
    again = interventions.correct_one
    monkeypatch.setattr(interventions, "correct_one", lambda *words: computed.append(words) or again(*words))
    stamp = (trained / table).stat().st_mtime_ns
    figures.main([*words, "figure=correction"])
    assert not computed and (trained / table).stat().st_mtime_ns == stamp  # what is done is not done again
    words[words.index("limit=20")] = "limit=1"
    figures.main([*words, "figure=correction"])
    both = read_outcomes(trained / table, *own)
    assert len(computed) == 2 and both[:2] == outcomes, "outcomes of another limit stay"
    assert [one.limit for one in both] == [20, 20, 1, 1]
    again_drawn = {path.name: path.read_bytes() for path in (trained / table).parent.glob("limit_20/*.png")}
    assert again_drawn == strips and {path.name for path in (trained / table).parent.glob("limit_1/*.png")} == set(strips)


def test_the_clips_that_are_corrected_are_of_each_class_in_turn(trained, clips, monkeypatch):
    monkeypatch.chdir(trained)
    words = (*TINY, f"paths.data={clips}", "row=soft_attention_1")
    dealt = []

    def deal(loaded, annotation, store, names, *_):
        dealt.append(names)
        return iter(())

    monkeypatch.setattr(intervention_figures, "correct_all", deal)
    monkeypatch.setattr(intervention_figures, "mistaken", lambda loaded, annotation: list(annotation.test))
    wrong = [dataclasses.replace(clip, correct=False) for clip in clips_of(load_trained(trained / "run").folder.predictions())]
    monkeypatch.setattr(RunClips, "clips", wrong)
    for most in ("most=4", "most=null"):
        request = Request(resolve(FigureSettings, [*words, most]), words)
        with pytest.raises(DataError, match="nothing to correct"):
            intervention_figures.correction(request, figures.NEEDS["correction"])
    names = sorted(load_trained(trained / "run").folder.predictions().videos)
    kinds = sorted({name.split("/")[0] for name in names})
    by_kind = [[name for name in names if name.startswith(kind)] for kind in kinds]
    assert len(kinds) == 3 and dealt[0] == [*(own[0] for own in by_kind), by_kind[0][1]]
    assert len(dealt[1]) == min(len(names), intervention_figures.MINIATURE_CLIPS) and dealt[1][:4] == dealt[0]


@pytest.fixture
def written(run, tmp_path):
    """What is read of outcomes; two rows of a run's misclassified videos, and the header before them."""
    loaded, data = run
    path = tmp_path / "correction.csv"
    names = loaded.classes
    rows = [[field.name for field in dataclasses.fields(Outcome)]]
    for video in mistaken(loaded, data.annotation)[:2]:
        true = names[video.labels[0]]
        wrong = next(name for name in names if name != true)
        one = outcome(video=video.name, target=true, prediction=wrong, random_prediction=true, control=names[-1])
        rows.append([str(value) for value in dataclasses.astuple(one)])
    write_rows(path, rows)
    return path, lambda: read_outcomes(path, loaded, data.annotation)


def test_outcomes_are_read_as_written(written):
    path, read = written
    first, second = read()
    assert (first.corrected, first.steps, first.turned, first.control_reached, first.limit) == (True, 4, 0.5, False, 9)
    assert first.video != second.video
    path.unlink()
    assert read() == []


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("turned", "nan", "turned is 'nan'"),
        ("moved", "inf", "moved is 'inf'"),
        ("moved", "-0.5", "moved -0.5"),
        ("steps", "-4", "steps is '-4'"),
        ("steps", "10", "10 and 9 steps with limit 9"),
        ("limit", "0", "with limit 0"),
        ("limit", "1e2", "limit is '1e2'"),
        ("corrected", "yes", "corrected is 'yes'"),
        ("seed", "", "seed is ''"),
        ("video", "class0/another.avi", "no test video that .* got wrong"),
        ("target", "another", "no test video that .* got wrong"),
        ("prediction", "another", "there is no class 'another'"),
        ("control", "another", "there is no class 'another'"),
    ],
)
def test_a_damaged_outcome_is_refused_with_its_line(written, column, value, said):
    path, read = written
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[2][lines[0].index(column)] = value
    path.write_text("".join(f"{','.join(line)}\n" for line in lines))
    with pytest.raises(DataError, match=rf"correction\.csv, line 3: malformed \(.*{said}.*\); remove the file to begin anew"):
        read()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text.replace(b",seed", b"", 1), "line 1: expected the columns video,target,"),
        (lambda text: text[: text.rindex(b",")] + b"\n", "line 3: expected 13 values"),
        (lambda text: text + text.splitlines(keepends=True)[1], "line 4: malformed .*stands there twice"),
        (lambda text: text.replace(b"class", b"cl\xffss"), "line 2: not UTF-8"),
        (lambda text: text + b'"open', "line 4: not CSV"),
        (lambda text: text + b"\0", "line 4: holds a zero byte"),
        (lambda text: b"", "line 1: expected the columns"),
    ],
)
def test_a_damaged_file_of_outcomes_is_refused_with_its_line(written, damage, said):
    path, read = written
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"correction\.csv, {said}.*; remove the file to begin anew"):
        read()
