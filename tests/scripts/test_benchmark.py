"""The benchmark, small: every case gives its lines, files and limits; its arithmetic is right."""

import csv
import pickle

import numpy as np
import pytest
import torch
from conftest import script

from datamodules.blocks import BLOCK_LENGTH, BlockIndex
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.encoders.fisher import fit_encoder
from lightning_modules.encoders.rank_pooling import rank_direction
from reproduce.benchmarking import baselines, cases, descriptor_cases
from reproduce.benchmarking.cases import CASES, SCRIPTS
from reproduce.benchmarking.lines import Line
from reproduce.benchmarking.scale import lengths
from reproduce.benchmarking.settings import ALL_CASES, SCALES, BenchmarkSettings, take_papers_sizes
from reproduce.benchmarking.workloads import exponent, medians, peak_memory

CPU = torch.device("cpu")
SMALL = [
    "repeats=1",
    "frames=40",
    "locations=6",
    "channels=16",
    "clips=2",
    "clip_frames=20",
    "epoch_batches=1",
    "steps=1",
    "processes=1",
    "rows=300",
    "encoder.components=4",
    "data.batch_size=4",
    "model.hidden_dim=8",
    "backbone.name=mobilenet_v3_small",
    "backbone.size=64",
    "backbone.layer=features.3",
    "backbone.compile=false",
    "trainer.accelerator=cpu",
]


@pytest.mark.slow(measured=True)
def test_every_case_gives_its_lines_and_both_files(tmp_path):
    result = script("benchmark.py", *SMALL, cwd=tmp_path)
    with (tmp_path / "results/benchmark.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    page = (tmp_path / "results/benchmark.md").read_text()
    words = ("--help", "refused key", "extraction", "testing 40 frames", "training step", "resident=rotate", "exponent")
    words += ("trajectories, SIFT", "mixture", "Fisher vector", "rank pooling", "Gram matrix")
    for word in words:
        assert any(word in row["what"] for row in rows), word
        assert word in page and word in result.stdout
    assert len(page.splitlines()) == 2 + 2 + len(rows)
    for row in rows:
        assert (row["ratio"] == "–") == ("mixture" in row["what"]) and "torch" in row["machine"]
        assert (row["limit"] == "") == (row["reached"] == "")


@pytest.mark.slow
def test_a_rehearsal_says_how_long_a_column_takes(tmp_path):
    words = [word for word in SMALL if not word.startswith("model.hidden_dim")]
    result = script("benchmark.py", *words, "scale=ucf11", "data.ram_budget=0.00005", cwd=tmp_path)
    with (tmp_path / "results/benchmark.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    hours = [float(row["ours"].removesuffix(" h")) for row in rows]
    assert len(hours) == 6 and "ucf11: Table 1's column" in rows[-1]["what"]
    assert hours[-1] == pytest.approx(sum(hours[:-1]) + 2 * hours[-2], abs=0.05)  # three rows of attention
    assert "B=4, H=512" in result.stdout


@pytest.mark.parametrize(("scale", "width"), [("ucf11", 512), ("hmdb51", 1024)])
def test_a_rehearsals_sizes_are_the_papers_where_the_command_line_says_nothing(scale, width):
    settings = BenchmarkSettings(scale=scale)
    take_papers_sizes(settings, ["data.batch_size=4"])
    assert (settings.data.batch_size, settings.model.hidden_dim) == (64, width)


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("cases=[sleeping]", "cases: sleeping is none of"),
        ("scale=ucf12", "choose from ucf11, hmdb51"),
        ("frames=30", "must be at least 31"),
        ("repeats=0", "must be at least 1"),
        ("backbone.weights=/nowhere.pth", "no such file"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, word, answer):
    result = script("benchmark.py", word, cwd=tmp_path, check=False)
    assert result.returncode != 0 and answer in result.stderr and not list(tmp_path.iterdir())


def test_all_cases_are_known_and_every_script_is_timed():
    assert tuple(CASES) == ALL_CASES
    assert {"train.py", "prepare.py", "table1.py"} <= set(SCRIPTS)
    assert BenchmarkSettings().data.batch_size == 64


def test_the_cell_by_cell_network_computes_what_the_fast_one_does():
    torch.manual_seed(0)
    fast, cells = SoftAttentionLSTM(4, 6, 3, 5, 2).eval(), baselines.CellByCell(4, 6, 3, 5, 2).eval()
    for parameter in fast.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape) / 2
    cells.attention.weight = fast.attention.locations.weight
    cells.initial_state, cells.head = fast.initial_state, fast.head
    for number, cell in enumerate(cells.cells):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(cell, kind, getattr(fast.lstm, f"{kind}_l{number}"))
    X = torch.randn(2, 7, 4, 6)
    for one, other in zip(fast(X), cells(X), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_plain_encoders_compute_what_ours_do():
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 8)).astype(np.float32)
    encoder = fit_encoder(x, components=3, dimensions=4, seed=0)
    np.testing.assert_allclose(descriptor_cases._plain_sums(encoder, x), encoder.sums(x), rtol=1e-4, atol=1e-3)
    series = random.random((20, 30)).astype(np.float32)
    ours, plain = rank_direction(series), descriptor_cases._plain_direction(series)
    assert ours @ plain / np.linalg.norm(ours) / np.linalg.norm(plain) > 0.9999


def test_stacked_blocks_are_all_blocks_of_stride_one():
    frames = torch.arange(33.0)[:, None]
    blocks = baselines.stacked_blocks(frames)
    index = BlockIndex([33])
    _, expected = index.locate(np.arange(len(index)))
    assert blocks.shape == (4, BLOCK_LENGTH, 1) and np.array_equal(blocks[..., 0].numpy(), expected)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_the_power_law(power):
    sizes = [3.0, 6.0, 12.0]
    assert exponent(sizes, [0.7 * size**power for size in sizes]) == pytest.approx(power)


def test_medians_leave_the_first_time_out_and_alternate():
    order: list[str] = []
    found = medians({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, repeats=2)
    assert order == ["a", "b"] * 3 and set(found) == {"a", "b"}


def test_peak_memory_sees_what_is_freed_again():
    def work() -> None:
        torch.ones(2**24)  # 64 MiB, gone at once

    peak = peak_memory(work, CPU)
    if peak is None:
        pytest.skip("this system does not tell its peak memory")
    assert 60 * 2**20 < peak < 90 * 2**20


@pytest.mark.parametrize(
    ("limit", "ratio", "reached"),
    [("at least 2", 2.0, True), ("at least 2", 1.9, False), ("at most 1.6", 1.5, True), ("at most 1.6", 1.7, False)],
)
def test_a_limit_is_reached_or_not(limit, ratio, reached):
    assert Line("", "", "cpu", "", "", ratio, limit=limit).reached is reached
    assert Line("", "", "cpu", "", "", ratio).reached is None


@pytest.mark.parametrize(("processes", "efficiencies"), [(1, []), (2, [1.0, 0.8]), (4, [1.0, 0.8, 0.5])])
def test_scaling_over_processes_is_their_rate_over_that_of_as_many_alone(processes, efficiencies, tmp_path, monkeypatch):
    """4 seconds by one process, 2.5 by two, 2 by four, for two global batches of 8."""
    seen = []

    def fit(data, recognizer, device, devices, batches, epochs=1):
        pickle.dumps((data, recognizer))  # as they go to the other processes
        seen.append((devices, data.batch_size, torch.get_num_threads()))
        return {1: 4.0, 2: 2.5, 4: 2.0}[devices]

    monkeypatch.setattr(cases, "fit", fit)
    settings = BenchmarkSettings(repeats=1, frames=31, locations=2, channels=4, epoch_batches=2, processes=processes)
    settings.data.batch_size, settings.model.hidden_dim = 8, 4
    lines = [line for line in cases.scaling(settings, tmp_path, CPU) if "efficiency" in line.what]
    assert [line.ratio for line in lines] == efficiencies
    if lines:
        assert (lines[1].baseline, lines[1].ours) == ("8 blocks/s", "6 blocks/s")
        assert seen[-len(lines) :] == [(number, 8, 1) for number in (1, 2, 4)][: len(lines)]


def test_drawn_lengths_have_the_data_sets_mean_and_bounds():
    for scale in SCALES.values():
        drawn = lengths(scale, 4000, 0)
        assert drawn.min() >= scale.shortest and drawn.max() <= scale.longest
        assert drawn.mean() == pytest.approx(scale.mean, rel=0.05)
