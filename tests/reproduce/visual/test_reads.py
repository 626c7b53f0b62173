"""The figure of accuracy against reads: every point is a test of its own, and those trained so stand beside it."""

import csv

import pytest
from conftest import TINY, script

from datamodules.videos import DataError
from reproduce import figures
from reproduce.common.cli import resolve
from reproduce.common.settings import SettingsError
from reproduce.experiments.folder import RunFolder
from reproduce.visual import reads
from reproduce.visual.figure_runs import FigureSettings, Request


def words_of(clips, *more: str) -> list[str]:
    return [*TINY, f"paths.data={clips}", *more]


def asked(*words: str) -> Request:
    return Request(resolve(FigureSettings, list(words)), words)


@pytest.fixture(scope="module")
def drawn(clips, trained):
    """The folder in which it was drawn, of a soft run beside one of top-k and one of hard regions; and these two."""
    beside = [["row=top_k_attention", "model.top_k=2", "objective.attention_penalty=1"]]
    beside += [["row=hard_attention", "hard.start=soft_attention_1", "hard.epochs=1", "hard.samples=0"]]
    beside[1] += ["objective.attention_penalty=1", "hard.region=2"]
    printed = [script("train.py", *words_of(clips, *words), cwd=trained).stdout for words in beside]
    script("figures.py", *words_of(clips, "row=soft_attention_1", "figure=reads"), cwd=trained)
    return trained, [RunFolder(trained / text.strip().splitlines()[-1]) for text in printed]


def test_every_number_of_reads_is_tested_and_all_of_them_are_the_run_itself(drawn):
    folder, (top_k, hard) = drawn
    (table,) = (folder / "results/figures").glob("reads*.csv")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    run = RunFolder((folder / "run").resolve())
    about, metrics = run.about(), run.metrics()
    locations = about["map"][0] * about["map"][1]
    tested = {int(row["k"]): row for row in rows if row["kind"] == "tested"}
    assert list(tested) == [*(k for k in (1, 2, 4, 8, 16, 32, 64) if k < locations), locations]
    assert float(tested[locations]["test_accuracy"]) == pytest.approx(100 * metrics["test/accuracy"], abs=1e-3)
    assert float(tested[2]["share"]) == pytest.approx(2 / locations, abs=1e-4)
    beside = {row["kind"]: row for row in rows if row["kind"] != "tested"}
    assert set(beside) == {"Top-k attention", "Hard attention"}
    for kind, other, k in (("Top-k attention", top_k, 2), ("Hard attention", hard, 4)):
        assert (beside[kind]["run"], int(beside[kind]["k"])) == (other.path.name, k)
        assert float(beside[kind]["test_accuracy"]) == pytest.approx(100 * other.metrics()["test/accuracy"], abs=1e-3)
    assert any(f"each step reads a region of 2x2, softly, of {locations} locations" in note for note in hard.about()["notes"])
    assert all(table.with_suffix(suffix).is_file() for suffix in (".png", ".pdf"))


def test_one_more_location_than_there_are_changes_nothing(drawn, clips, monkeypatch):
    folder, _ = drawn
    monkeypatch.chdir(folder)
    request = asked(*words_of(clips, "row=soft_attention_1"))
    run = RunFolder((folder / "run").resolve())
    found = reads.tested_with(request.settings_of(reads.Need()), run, [10_000], "test/accuracy")
    assert found[10_000] == run.metrics()["test/accuracy"]


def test_hard_attention_has_no_curve_of_its_own(clips):
    for row in ("hard_attention", "top_k_attention"):
        with pytest.raises(SettingsError, match=f"row={row}: takes a row of soft attention, such as row=soft_attention_0"):
            reads.reads(asked(*words_of(clips, f"row={row}")), figures.NEEDS["reads"])


def test_without_a_run_it_says_what_makes_one(clips, tmp_path):
    with pytest.raises(DataError, match=r"make it with: python reproduce/train.py .*row=soft_attention_0"):
        reads.reads(asked(*words_of(clips, f"paths.runs={tmp_path}")), figures.NEEDS["reads"])


def test_powers_of_two_end_at_the_locations():
    assert reads.powers_of_two(49) == [1, 2, 4, 8, 16, 32] and reads.powers_of_two(4) == [1, 2, 4]


@pytest.mark.parametrize(("values", "expected"), [((100.0, 99.8), (90, 100)), ((2.0, 1.0), (0, None)), ((40.0, 90.0), None)])
def test_the_axis_ends_at_100_per_cent_and_spans_ten_points(values, expected):
    points = [reads.Point("tested", k, 1, value, "run") for k, value in zip((1, 4), values, strict=True)]
    (axes,) = reads._page(points, 4, "title", ["note"], "Test accuracy, %").axes
    low, high = axes.get_ylim()
    assert 0 <= low <= min(values) and max(values) <= high <= 100
    for found, wanted in zip((low, high), expected or (), strict=False):
        assert wanted is None or found == pytest.approx(wanted)
    assert not any(line.get_clip_on() for line in axes.lines)
