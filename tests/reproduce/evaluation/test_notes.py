"""What is said of attention under a table and at the end of a run, from figures as runs leave them."""

import json

import pytest

from reproduce.evaluation import notes
from reproduce.evaluation.results import Cell, Table

FIGURES = {
    "test/accuracy": 0.46,
    "test/attention_entropy": 3.0,
    "test/attention_entropy_share": 0.7745,
    "test/attention_coverage_spread": 1.3618,
    "test/attention_shift": 1.2637,
    "test/attention_in_box": 0.2,
    "test/box_area": 0.05,
    "test/pointing_game": 0.3927,
    "test/pointing_chance": 0.0534,
}
WITHOUT_BOXES = {name: value for name, value in FIGURES.items() if "box" not in name and "pointing" not in name}


def test_a_run_is_told_in_one_line_beside_uniform_attention():
    assert notes.sentence(FIGURES) == (
        "attention (in brackets uniform attention): mass 4.00 (1.00), pointing 39 % (5 %), entropy 0.77 (1.00), "
        "unevenness 1.36 (0.00), shift 1.26 (0.00)"
    )
    assert notes.sentence(WITHOUT_BOXES).endswith("attention): entropy 0.77 (1.00), unevenness 1.36 (0.00), shift 1.26 (0.00)")
    assert notes.sentence({"test/accuracy": 0.5}) == ""


def test_means_are_over_the_runs_that_measured():
    other = {**FIGURES, "test/attention_in_box": 0.1, "test/pointing_game": 0.0, "test/pointing_chance": 0.0}
    found = notes.means([FIGURES, other, WITHOUT_BOXES])
    assert found["mass"] == pytest.approx((4 + 2) / 2), "quotients first, then their mean"
    assert found["pointing"] == pytest.approx(0.3927 / 2)
    assert found["pointing" + notes.UNIFORM] == pytest.approx(0.0534 / 2), "a chance of 0 counts too"
    assert found["entropy"] == pytest.approx(0.7745) and found["shift" + notes.UNIFORM] == 0
    assert notes.means([]) == notes.means([{"test/accuracy": 1.0}]) == {}


def test_a_column_is_told_row_by_row_with_a_dash_where_nothing_was_measured():
    rows = {"λ = 0": notes.means([FIGURES]), "λ = 1": notes.means([WITHOUT_BOXES])}
    assert notes.of_attention("UCF-11", rows) == (
        "UCF-11, attention (mass / pointing / entropy / unevenness / shift): λ = 0: 4.00 / 39 % / 0.77 / 1.36 / 1.26; "
        "λ = 1: – / – / 0.77 / 1.36 / 1.26; uniform attention: 1.00 / 5 % / 1.00 / 0.00 / 0.00."
    )
    assert "(entropy / unevenness / shift)" in notes.of_attention("UCF-11", {"λ = 1": rows["λ = 1"]})


def test_the_legend_explains_what_was_measured_and_nothing_else():
    whole, part = (notes.legend([notes.means([figures])]) for figures in (FIGURES, WITHOUT_BOXES))
    assert all(f"{measure.name}: {measure.meaning}" in whole for measure in notes.MEASURES)
    assert "box" not in part and "entropy: " in part


def cell(**figures: float) -> Cell:
    return Cell("acc", (50.0,), (40.0, 60.0), 80.0, attention=notes.means([figures] if figures else []))


def test_a_table_has_a_line_a_column_with_attention_and_one_legend():
    rows, columns = ("avg_pool_lstm", "soft_attention_0", "soft_attention_10"), ("ucf11", "hmdb51", "hollywood2")
    cells = {(row, column): cell() for row in rows for column in columns}
    cells["soft_attention_0", "ucf11"] = cells["soft_attention_10", "ucf11"] = cell(**FIGURES)
    cells["soft_attention_10", "hmdb51"] = cell(**WITHOUT_BOXES)
    told = [
        note for note in Table("Table 1", rows, columns, cells).notes() if "attention" in note.lower() and "entropy" in note
    ]
    legend, ucf11, hmdb51 = told
    assert legend.startswith("Attention, means over test steps: mass: ")
    assert ucf11.startswith("ucf11, attention (mass / ") and "; λ = 10: 4.00 / 39 %" in ucf11 and "average" not in ucf11.lower()
    assert hmdb51.startswith("hmdb51, attention (entropy / ") and "λ = 0:" not in hmdb51


def test_a_trained_run_leaves_its_measures_and_says_them(trained):
    metrics = json.loads((trained / "run/metrics.json").read_text())
    assert 0 < metrics["test/attention_entropy_share"] <= 1 and metrics["test/attention_coverage_spread"] > 0
    assert metrics["test/attention_penalty"] > 0 and metrics["test/attention_shift"] >= 0
    assert "test/pointing_game" not in metrics, "a videofolder without boxes"
    assert notes.sentence(metrics) in (trained / "stdout").read_text().splitlines()
