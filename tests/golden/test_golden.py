"""The committed losses of four tiny trainings: a change that should not alter results reproduces them exactly.

Exactly where torch's version, its instruction set and the processor are those of ``losses.csv``; elsewhere, where sums may
come in another order, losses and penalties to a relative 3e-5 (AVX512 and torch's default kernels differ by 4e-6 at most),
and as many epochs. A change that is meant to alter results updates the file on purpose:

    python tests/golden/update.py
"""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE, REPOSITORY
from update import COLUMNS, GOLDEN, RUNS, made_on, read

RELATIVE = 3e-5
SMOOTH = ("train/loss", "train/cross_entropy", "attention/penalty")  # figures that a last bit does not make jump


def differences(found: list[dict], golden: list[dict], exact: bool) -> list[str]:
    """Every figure that is not as committed, in words."""
    said = []
    places = [(row["run"], row["stage"], row["epoch"]) for row in golden]
    if [(row["run"], row["stage"], row["epoch"]) for row in found] != places:
        return [f"{len(found)} epochs instead of {len(golden)}, or others"]
    for row, wanted in zip(found, golden, strict=True):
        for name in COLUMNS[3:] if exact else SMOOTH:
            same = row[name] == wanted[name]
            if not same and not exact and row[name] and wanted[name]:
                same = float(row[name]) == pytest.approx(float(wanted[name]), rel=RELATIVE)
            if not same:
                where = " ".join(row[key] for key in ("run", "stage", "epoch"))
                said.append(f"{where}: {name} is {row[name]}, committed is {wanted[name]}")
    return said


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    """This checkout's figures."""
    return figures(tmp_path_factory.mktemp("golden") / "now.csv")


def figures(path: Path, *settings: str) -> tuple[str, list[dict]]:
    """Figures made by a process of its own: the trainings seed and thread as they like."""
    command = [sys.executable, str(REPOSITORY / "tests/golden/update.py"), str(path), *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return read(path)


def test_the_losses_are_those_that_are_committed(now):
    here, found = now
    there, golden = read(GOLDEN)
    said = differences(found, golden, exact=here == there)
    advice = "if results are meant to alter: python tests/golden/update.py, and commit tests/golden/losses.csv"
    assert not said, f"committed on {there}, here is {here}\n" + "\n".join([*said[:20], advice])


def test_eqs_1_to_6_as_written_give_the_committed_losses_but_for_rounding(tmp_path):
    said = differences(figures(tmp_path / "readable.csv", "model.fast=false")[1], read(GOLDEN)[1], exact=False)
    assert not said, "\n".join(said[:20])


def test_the_golden_runs_learn_and_go_through_both_stages(now):
    _, golden = read(GOLDEN)
    for run in RUNS:
        rows = [row for row in golden if row["run"] == run]
        stages = list(dict.fromkeys(row["stage"] for row in rows))
        assert stages == (["holdout", "test"] if run == "released" else ["holdout", "retrain", "test"])
        losses = [float(row["train/loss"]) for row in rows if row["stage"] == "holdout"]
        assert losses[-1] < 0.995 * losses[0]
    attention = [
        float(row["attention/penalty"]) for row in golden if row["run"] in ("soft_attention", "released") and row["epoch"]
    ]
    assert max(attention) > 16.01 and min(attention) == pytest.approx(16, abs=0.01)  # (1 - 30/6)² while attention is uniform
    assert now[0] == made_on()


@pytest.mark.parametrize(
    ("factor", "exact", "seen"), [(1 + 1e-7, True, True), (1 + 1e-6, False, False), (1 + 1e-4, False, True)]
)
def test_the_comparison_sees_what_it_should(factor, exact, seen):
    _, golden = read(GOLDEN)
    changed = [dict(row) for row in golden]
    changed[3]["train/loss"] = repr(float(changed[3]["train/loss"]) * factor)
    said = differences(changed, golden, exact)
    assert bool(said) == seen and all("softmax_regression holdout 3: train/loss" in line for line in said)
    assert differences(golden[:-1], golden, exact)
