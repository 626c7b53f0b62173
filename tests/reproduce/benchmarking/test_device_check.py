"""The check of a GPU against the CPU, on the CPU: it passes there, and each mistake on the device is a line that fails."""

import csv

import pytest
import torch
from conftest import script
from recorded_graph import RecordedGraph, plain_products
from torch import nn

from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM
from lightning_modules.selective import SelectiveAttentionLSTM
from reproduce import benchmark
from reproduce.benchmarking import device_check
from reproduce.benchmarking.settings import SMALL, BenchmarkSettings, in_small
from reproduce.common.catalogue import ROWS
from reproduce.common.cli import resolve

WORDS = ["device_check=true", "trainer.accelerator=cpu"]
BACKBONE = ["backbone.name=mobilenet_v3_small", "backbone.layer=features.3"]
DEVICE = torch.device("cpu", 0)  # not equal to torch.device("cpu"), where what is expected is computed
ATTENTION, POOLED = "soft_attention_0", "avg_pool_lstm"


@pytest.fixture
def two_networks(monkeypatch):
    monkeypatch.setattr(device_check, "ROWS", {name: ROWS[name] for name in (ATTENTION, POOLED)})


@pytest.fixture
def misplace(monkeypatch):
    """``misplace(kind, mistake)``: networks of a kind go to the checked device with a mistake."""

    def seed(kind, mistake):
        placed = nn.Module.to

        def to(module, *where, **how):
            moved = placed(module, *where, **how)
            if isinstance(module, kind) and where == (DEVICE,):
                with torch.no_grad():
                    mistake(moved)
            return moved

        monkeypatch.setattr(nn.Module, "to", to)

    return seed


def checked(*words):
    """Lines by what they are of, and those that failed."""
    words = [*WORDS, *BACKBONE, *words]
    settings = in_small(resolve(BenchmarkSettings, words), words)
    lines = {line.what: line for line in device_check.check_device(settings, DEVICE)}
    return lines, {what for what, line in lines.items() if line.reached is False}


def test_the_cpu_is_what_it_is_in_every_network(tmp_path):
    script("benchmark.py", *WORDS, cwd=tmp_path)
    with (tmp_path / "results/device_check.csv").open(newline="") as file:
        found = {row["what"]: row for row in csv.DictReader(file)}
    page = (tmp_path / "results/device_check.md").read_text()
    assert all(f"| {what} |" in page for what in found) and len(page.splitlines()) == 4 + len(found)
    assert {row["reached"] for row in found.values()} == {"yes", ""}
    names = device_check._networks(BenchmarkSettings())
    assert len(names) == 12 and {ATTENTION, POOLED, "content_attention_0", "hard_attention"} <= set(names)
    for name, settings in names.items():
        settings.locations, settings.channels, settings.model.hidden_dim = 9, 16, 8
        chooses = isinstance(device_check._built(settings), SelectiveAttentionLSTM)
        for label in device_check.ARITHMETICS:
            mine = {what.partition(": ")[2]: row for what, row in found.items() if what.startswith(f"{name}, {label}: ")}
            compared = {"dense test", "a step"} if label == "IEEE" or not chooses else set()
            assert set(mine) == compared | {"repeated, with dropout", "rate, B=4, videos of 34 frames"}
            off = [float(mine[what]["ratio"]) for what in compared]
            assert all(0 < error < 0.05 for error in off) if label == "bf16" else not any(off)
            rates = [float(part.split()[0]) for part in mine["rate, B=4, videos of 34 frames"]["ours"].split(", ")]
            assert len(rates) == 2 and min(rates) >= 0
    assert any("extraction" in what and "frames/s" in row["ours"] for what, row in found.items())


def test_wrong_weights_on_the_device_are_reported_and_the_script_fails(two_networks, misplace, tmp_path, monkeypatch, capsys):
    misplace(SoftAttentionLSTM, lambda network: network.attention.locations.weight.mul_(1.5))
    monkeypatch.setattr(device_check, "checked_device", lambda settings: DEVICE)
    with pytest.raises(SystemExit) as left:
        benchmark.main([*WORDS, *BACKBONE, f"paths.results={tmp_path}"])
    written = capsys.readouterr()
    assert left.value.code == 1 and "error: device_check=true: " in written.err and "lines failed:" in written.err
    assert f"{ATTENTION}, IEEE: a step" in written.err and "gradient of attention.locations.weight" in written.err
    assert POOLED not in written.err and POOLED in written.out
    assert "| NO |" in (tmp_path / "device_check.md").read_text() and (tmp_path / "device_check.csv").is_file()


def unlearned(network):
    network.initial_state.hidden[0].weight.requires_grad_(False)


def rounded(network):
    for parameter in network.parameters():
        parameter.copy_(parameter.bfloat16())


def broken(network):
    network.head.classes.bias[0] = float("nan")


@pytest.mark.parametrize(
    ("mistake", "failed"),
    [
        (unlearned, {f"{label}: a step" for label in ("IEEE", "TF32", "bf16")}),
        (rounded, {"IEEE: a step", "IEEE: dense test"}),
        (
            broken,
            {f"{at}: {what}" for at in device_check.ARITHMETICS for what in ("a step", "dense test", "repeated, with dropout")},
        ),
    ],
)
def test_mistakes_on_the_device_are_told_apart(two_networks, misplace, mistake, failed):
    misplace(PooledLSTM, mistake)
    lines, found = checked()
    if mistake is rounded:  # to bf16's 7 bits, which may be more than TF32's tolerance or less
        found = {what for what in found if "TF32" not in what}
    assert found == {f"{POOLED}, {one}" for one in failed}
    if mistake is unlearned:
        assert "gradient of initial_state.hidden.0.weight 1.0e+00 off" in lines[f"{POOLED}, IEEE: a step"].ours


def test_what_does_not_repeat_itself_is_reported(two_networks, monkeypatch):
    monkeypatch.setattr(device_check, "seed_masks", lambda device, seed: None)
    lines, found = checked()
    assert found == {f"{name}, {at}: repeated, with dropout" for name in (ATTENTION, POOLED) for at in device_check.ARITHMETICS}
    assert "tensors differ: loss" in lines[f"{ATTENTION}, IEEE: repeated, with dropout"].ours


def test_an_error_on_the_device_ends_one_network_alone(two_networks, misplace):
    def fails(network):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")

    misplace(SoftAttentionLSTM, fails)
    lines, found = checked()
    assert found == {f"{ATTENTION}: breaks off"}
    assert lines[f"{ATTENTION}: breaks off"].ours == (
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB; set data.batch_size lower"
    )
    assert f"{POOLED}, bf16: a step" in lines


def test_the_arithmetic_is_set_for_each_and_as_before_in_the_end(two_networks, monkeypatch):
    seen, outcome = set(), device_check._outcome

    def watched(network, frames, device, arithmetic):
        deterministic = torch.are_deterministic_algorithms_enabled()
        seen.add((device == DEVICE, arithmetic, torch.backends.cuda.matmul.allow_tf32, deterministic))
        return outcome(network, frames, device, arithmetic)

    monkeypatch.setattr(device_check, "_outcome", watched)
    before = torch.are_deterministic_algorithms_enabled()
    checked()
    assert {(arithmetic, tf32, sure) for there, arithmetic, tf32, sure in seen if there} == {
        (arithmetic, arithmetic.tf32, True) for arithmetic in device_check.ARITHMETICS.values()
    }
    assert torch.are_deterministic_algorithms_enabled() == before and not torch.backends.cuda.matmul.allow_tf32


def test_the_first_gpu_is_taken_and_its_free_memory_said_before_anything_lies_on_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * 2**30, 40 * 2**30))
    device = device_check.checked_device(BenchmarkSettings())
    line = next(device_check.check_device(BenchmarkSettings(), device))
    assert device == torch.device("cuda", 0) and device_check.checked_device(resolve(BenchmarkSettings, WORDS)).type == "cpu"
    assert (line.what, line.ours, line.baseline, line.ratio) == ("free memory", "30.0 GiB", "40.0 GiB", 0.75)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("accelerator", ["auto", "gpu"])
def test_without_a_gpu_it_is_refused(tmp_path, accelerator):
    result = script("benchmark.py", "device_check=true", f"trainer.accelerator={accelerator}", cwd=tmp_path, check=False)
    assert result.returncode == 1 and not list(tmp_path.iterdir())
    assert result.stderr == (
        "error: device_check=true: torch finds no GPU here; trainer.accelerator=cpu compares the CPU with itself, in small\n"
    )


def test_a_rehearsal_is_another_thing(tmp_path):
    result = script("benchmark.py", *WORDS, "scale=ucf11", cwd=tmp_path, check=False)
    assert result.returncode == 1 and "run device_check=true by itself" in result.stderr


def test_the_command_line_has_the_last_word_on_sizes():
    settings = in_small(BenchmarkSettings(channels=32), ["channels=32", "trainer.accelerator=cpu"])
    assert settings.channels == 32 and settings.data.batch_size == SMALL["data.batch_size"]


class Refused(RecordedGraph):
    """A graph that nothing can be captured by."""

    def capture(self, work):
        raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("name", "label", "graph"),
    [
        (ATTENTION, "IEEE", RecordedGraph),
        (POOLED, "bf16", RecordedGraph),
        ("multiresolution_attention", "bf16", RecordedGraph),
        (ATTENTION, "bf16", Refused),
    ],
)
def test_a_step_is_measured_as_a_graph_and_a_graph_of_no_use_fails(name, label, graph):
    settings = in_small(resolve(BenchmarkSettings, WORDS), WORDS)
    settings = device_check._networks(settings)[name]
    arithmetic, cpu = device_check.ARITHMETICS[label], torch.device("cpu")
    network = device_check._built(settings)
    held = device_check._frames(network, device_check.features(settings, settings.frames, cpu))
    chosen = device_check._set(settings, arithmetic)
    with plain_products():
        line = device_check._replayed(f"{name}, {label}", chosen, network, held, cpu, graph)
    assert line.what == f"{name}, {label}: step as a CUDA graph" and line.baseline.endswith("blocks/s")
    if graph is RecordedGraph:
        assert line.ours.endswith("blocks/s") and line.ratio > 0
    else:
        assert line.reached is False and "not permitted when stream is capturing" in line.ours
