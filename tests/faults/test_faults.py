"""Full disks, read-only folders, numbers that are not finite, killed workers, two at once: errors in words, nothing lost."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import STORE, children, start, untested_copy, words
from conftest import PATIENCE, REPOSITORY, script, unmeasured, wait_for

from datamodules.features import FeatureStore
from datamodules.videos import DataError
from lightning_modules.baselines import PooledLSTM
from lightning_modules.metrics import VideoScores
from lightning_modules.objective import Objective
from lightning_modules.recognizer import Recognizer
from reproduce.experiments.history import History
from reproduce.systems.preemption import WholeCheckpoints, read_checkpoint
from reproduce.systems.trainer import LossWatch, require_finite_scores, require_finite_weights

LABELS = ("predictions.csv", "history.csv")


class Disk:
    """A disk of its own, as small as one likes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def mount(self, *options: str) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(self.path)], check=True, capture_output=True
        )

    def change(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.path)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small disk, where mounting one is allowed."""
    small = Disk(tmp_path / "disk")
    try:
        small.mount("size=100k")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tmpfs cannot be mounted here ({error})")
    yield small
    subprocess.run(["umount", "-l", str(small.path)], check=True)


def refused(result: subprocess.CompletedProcess, says: str) -> None:
    assert result.returncode == 1 and says in result.stderr, result.stderr[-3000:]
    assert "Traceback" not in result.stderr and result.stderr.count("error:") == 1


def same_as(one: Path, two: Path) -> None:
    for name in LABELS:
        assert (one / name).read_bytes() == (two / name).read_bytes()


# Full disks


@pytest.mark.slow
def test_a_disk_that_fills_at_every_stage_of_a_run_loses_nothing(trained, clips, tmp_path, disk, count):
    """Checkpoints, history, predictions, pictures: room for a few files more after each refusal."""
    size, errors, epochs = 100, [], [0]
    (tmp_path / "features").symlink_to(trained / "features")
    arguments = words(clips, "row=soft_attention_1", f"paths.runs={disk.path}")
    while True:
        result = script("train.py", *arguments, cwd=tmp_path, check=False)
        if result.returncode == 0:
            break
        refused(result, "make room or set paths.runs")
        errors.append(result.stderr)
        assert not list(disk.path.rglob("*.part")) and not list(disk.path.rglob("metrics.json"))
        epochs.append(sum(int(read_checkpoint(checkpoint)["epoch"]) for checkpoint in disk.path.rglob("last.ckpt")))
        size *= 3
        assert size < 300_000
        disk.change(f"size={size}k")
    assert epochs == sorted(epochs), "a checkpoint was lost"
    same_as(next(disk.path.glob("clips/*")), trained / "run")
    count("full disks", len(errors))
    assert len(errors) >= 3


def small_files():
    """As where the disk fills within a video: no file may grow over 80 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000))


@pytest.mark.slow(measured=True)
@pytest.mark.counts("full disks")
def test_a_disk_that_fills_within_a_video_keeps_the_finished_ones(clips, tmp_path):
    limited = {"preexec_fn": small_files, "env": unmeasured()}
    result = script("prepare.py", *words(clips, "backbone.batch_size=4"), cwd=tmp_path, check=False, **limited)
    refused(result, "make room or set paths.features")
    store = FeatureStore(tmp_path / STORE)
    assert not store.missing(store.videos) and not list(tmp_path.rglob("*.part"))
    assert all(store.file(name).stat().st_size < 80_000 for name in store.videos)
    again = script("prepare.py", *words(clips), cwd=tmp_path)
    assert f"extracting features of {18 - len(store.videos)} videos" in again.stdout


@pytest.mark.counts("full disks")
def test_a_table_that_cannot_be_written_says_so_and_can_be_later(trained, clips, disk):
    table = words(clips, "datasets=[videofolder]", "rows=[soft_attention_1]", f"paths.results={disk.path}")
    table.remove("data.name=videofolder")
    (disk.path / "other").write_bytes(bytes(100 * 1024 - 4096))
    refused(script("table1.py", *table, cwd=trained, check=False), "make room or set paths.results")
    assert not [path for path in disk.path.iterdir() if path.name.endswith(".part") or path.stat().st_size == 0]
    (disk.path / "other").unlink()
    script("table1.py", *table, cwd=trained)
    with (disk.path / "table1.csv").open(newline="") as file:
        assert [row["origin"] for row in csv.DictReader(file)] == ["measured"]


# Checkpoints


def test_every_epoch_has_left_its_checkpoint(trained):
    """Whether or not it was the best one: what Lightning's own callback leaves out would be done again after a kill."""
    run = trained / "run"
    metrics, epochs = json.loads((run / "metrics.json").read_text()), History(run / "history.csv")
    assert read_checkpoint(run / "holdout/last.ckpt")["epoch"] == len(epochs.rows("holdout")) - 1 == 2
    assert read_checkpoint(run / "holdout/best.ckpt")["epoch"] == metrics["holdout/epoch"]
    assert (
        read_checkpoint(run / "retrain/last.ckpt")["epoch"] == len(epochs.rows("retrain")) - 1 == metrics["retrain/epochs"] - 1
    )
    remembered = read_checkpoint(run / "retrain/last.ckpt")["callbacks"]["EpochRecorder"]["seconds"]
    assert 0 < remembered <= metrics["seconds"]


@pytest.mark.counts("full disks")
def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, disk):
    """Lightning's own goes through the temporary folder, from where it is copied, not at once, if that is another disk."""
    path = disk.path / "holdout/last.ckpt"
    writer = WholeCheckpoints()
    writer.save_checkpoint({"epoch": 3, "state_dict": {"w": torch.ones(10)}}, path)
    with pytest.raises(OSError, match="No space"):
        writer.save_checkpoint({"epoch": 4, "state_dict": {"w": torch.ones(100_000)}}, path)
    assert read_checkpoint(path)["epoch"] == 3 and [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


# Read-only folders


@pytest.mark.counts("read-only disks")
def test_read_only_folders_are_named_and_what_is_finished_is_still_read(trained, clips, tmp_path, disk):
    disk.change("size=50m")
    shutil.copytree(trained / "features", disk.path / "features")
    shutil.copytree((trained / "run").resolve().parent, disk.path / "runs/clips")
    disk.change("ro")
    features, runs = f"paths.features={disk.path}/features/miniature", f"paths.runs={disk.path}/runs"
    read = script("train.py", *words(clips, "row=soft_attention_1", features, runs), cwd=tmp_path)
    assert "finished before" in read.stdout
    refused(script("train.py", *words(clips, "row=avg_pool_lstm", features, runs), cwd=tmp_path, check=False), "set paths.runs")
    elsewhere = words(clips, f"paths.features={disk.path}/others")
    refused(script("prepare.py", *elsewhere, cwd=tmp_path, check=False), "set paths.features")
    table = words(
        clips, "datasets=[videofolder]", "rows=[soft_attention_1]", features, runs, f"paths.results={disk.path}/results"
    )
    table.remove("data.name=videofolder")
    refused(script("table1.py", *table, cwd=tmp_path, check=False), "set paths.results")
    script("table1.py", *table[:-1], "paths.results=results", cwd=tmp_path)
    assert (tmp_path / "results/table1.md").is_file()


# A decoding process that is killed


@pytest.mark.counts("SIGKILLs")
def test_a_killed_decoding_process_is_named_and_the_same_command_goes_on(trained, clips, tmp_path):
    arguments = words(clips, "backbone.workers=1", "backbone.batch_size=2")
    journal = tmp_path / STORE / "journal-0.jsonl"
    process = start("prepare.py", *arguments, cwd=tmp_path)
    wait_for(lambda: journal.is_file() and journal.read_bytes().count(b"\n") >= 2, process, tmp_path / "output.txt")
    (worker,) = children(process, "prepare.py")
    os.kill(worker, signal.SIGKILL)
    assert process.wait(PATIENCE) == 1
    output = (tmp_path / "output.txt").read_text()
    assert "a decoding process died while it decoded" in output and ".avi (" in output
    assert "backbone.workers=0" in output and "Traceback" not in output and not list(tmp_path.rglob("*.part"))
    kept = len(FeatureStore(tmp_path / STORE).videos)
    assert 2 <= kept < 18
    again = script("prepare.py", *arguments, cwd=tmp_path)
    assert f"extracting features of {18 - kept} videos" in again.stdout
    assert not FeatureStore(tmp_path / STORE).missing(FeatureStore(trained / STORE).videos)


# Shared memory that is small


IN_SMALL_SHARED_MEMORY = """
mount -t tmpfs -o size=1m none /dev/shm && exec "$0" "$@"
"""
FILLED_LATER = """
import runpy, sys
from datamodules import frames
from reproduce.systems import cnn_features
cnn_features.free_shared_memory = lambda: None  # as if it had been free at the beginning
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def in_small_shared_memory(*command: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command where shared memory has 1 MiB, if that is allowed."""
    unshared = ["unshare", "-m", "bash", "-c", IN_SMALL_SHARED_MEMORY]
    try:
        subprocess.run([*unshared, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tmpfs cannot be mounted here ({error})")
    environment = {**unmeasured(), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([*unshared, *command], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, env=environment)


@pytest.mark.counts("full disks")
def test_where_shared_memory_is_small_fewer_processes_decode(trained, clips, tmp_path):
    arguments = words(clips, "backbone.workers=2", "backbone.batch_size=64")
    done = in_small_shared_memory(sys.executable, str(REPOSITORY / "reproduce/prepare.py"), *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "/dev/shm has 1 MiB free, and 2 decoding processes a device would fill 5 MiB" in done.stdout
    assert "decoding in the main process" in done.stdout and "--shm-size" in done.stdout
    assert not FeatureStore(tmp_path / STORE).missing(FeatureStore(trained / STORE).videos)


@pytest.mark.counts("full disks")
def test_where_shared_memory_fills_later_extraction_ends_in_words(clips, tmp_path):
    arguments = [str(REPOSITORY / "reproduce/prepare.py"), *words(clips, "backbone.workers=2", "backbone.batch_size=64")]
    refused(
        done := in_small_shared_memory(sys.executable, "-c", FILLED_LATER, *arguments, cwd=tmp_path), "shared memory ran out"
    )
    assert "--shm-size" in done.stderr and "backbone.workers=0" in done.stderr and ".avi" not in done.stderr
    assert not list(tmp_path.rglob("*.part"))


# Two at once


def test_two_extractions_at_once_share_the_work(clips, tmp_path):
    both = []
    for name in ("one", "two"):
        command = [sys.executable, str(REPOSITORY / "reproduce/prepare.py"), *words(clips, "backbone.batch_size=2")]
        both.append(subprocess.Popen(command, cwd=tmp_path, stdout=(tmp_path / name).open("w"), stderr=subprocess.STDOUT))
    assert [process.wait(PATIENCE) for process in both] == [0, 0]
    outputs = [(tmp_path / name).read_text() for name in ("one", "two")]
    assert sorted(output.count("extracting features of 18 videos:") > 0 for output in outputs) == [False, True]
    assert sum("another process extracts features to" in output for output in outputs) <= 1
    assert all("18 videos, 550 frames" in output for output in outputs)


def test_a_table_started_twice_at_once_is_made_once(trained, clips, tmp_path):
    shutil.copytree(trained / "features", tmp_path / "features")
    table = words(clips, "datasets=[videofolder]", "rows=[avg_pool_lstm]", "trainer.max_epochs=1")
    table.remove("data.name=videofolder")
    both = []
    for name in ("one", "two"):
        command = [sys.executable, str(REPOSITORY / "reproduce/table1.py"), *table]
        both.append(subprocess.Popen(command, cwd=tmp_path, stdout=(tmp_path / name).open("w"), stderr=subprocess.STDOUT))
    assert [process.wait(PATIENCE) for process in both] == [0, 0], (tmp_path / "one").read_text()
    (log,) = tmp_path.glob("runs/logs/*.txt")
    text = log.read_text()
    assert "\0" not in text and text.count("holdout epoch 1/1") == 1, "trained twice, or a log was cut"
    tables = [(tmp_path / name).read_text().partition("Table 1")[2] for name in ("one", "two")]
    assert tables[0] == tables[1] != ""


# Numbers that are not finite


def recognizer() -> Recognizer:
    network = PooledLSTM(4, 3, "mean", 2, 1, 0.0)
    return Recognizer(network, 3, False, Objective())


def test_the_first_loss_that_is_not_finite_is_named_with_its_step(count):
    watch = LossWatch()
    losses = [1.0, 2.0, float("nan"), float("inf"), 1.0]
    for step, loss in enumerate(losses, start=5):
        watch.see(torch.tensor(loss), step)
    count("values that are not finite", len(losses) - int(np.isfinite(losses).sum()))
    with pytest.raises(FloatingPointError, match=r"training loss of epoch 2 is nan at step 7 of retrain.*smaller optim\.lr"):
        watch.require_finite(2, "retrain")
    watch.begin(torch.device("cpu"))
    watch.see(torch.tensor(3.0), 9)
    assert watch.require_finite(3, "retrain") is None


@pytest.mark.counts("values that are not finite")
def test_an_epoch_with_one_loss_that_is_nan_has_no_mean():
    """By default the metric leaves such values out, and says nothing that ends a run."""
    means = recognizer().epoch_means
    for value in (1.0, float("nan"), 2.0):
        for mean in means.values():
            mean.update(torch.full((4,), value), torch.ones(4))
    assert all(mean.compute().isnan() for mean in means.values())


def test_weights_and_scores_that_are_not_finite_end_a_run(count):
    model = recognizer()
    require_finite_weights(model, 0, "holdout")
    name, weight = list(model.network.named_parameters())[1]
    with torch.no_grad():
        weight.view(-1)[0] = float("inf")
    with pytest.raises(FloatingPointError, match=f"after epoch 4 of holdout, the weights {name} are not finite"):
        require_finite_weights(model, 4, "holdout")
    scores = torch.full((5, 3), 1 / 3)
    model.scores = VideoScores(scores, torch.ones(5, 3, dtype=torch.int64))
    require_finite_scores(model, "test videos")
    scores[[1, 3], 2] = float("nan")
    with pytest.raises(FloatingPointError, match="of 2 of 5 test videos"):
        require_finite_scores(model, "test videos")
    count("values that are not finite", sum(int((~value.isfinite()).sum()) for value in (weight, scores)))


@pytest.mark.counts("values that are not finite")
@pytest.mark.parametrize("name", ["holdout/last.ckpt", "retrain/last.ckpt"])
def test_a_checkpoint_with_nan_is_neither_continued_nor_tested(trained, clips, tmp_path, name):
    """As an earlier version, or a faulty GPU, may have left it."""
    run = untested_copy(trained, tmp_path)
    state = torch.load(run / name, weights_only=True)
    next(iter(state["state_dict"].values())).view(-1)[0] = float("nan")
    torch.save(state, run / name)
    if name.startswith("holdout"):
        shutil.rmtree(run / "retrain")
    result = script("train.py", *words(clips, "row=soft_attention_1"), cwd=tmp_path, check=False)
    refused(result, "weights are not finite")
    assert str((run / name).resolve()) in result.stderr and not (run / "metrics.json").exists()
    if name.startswith("retrain"):  # does as it was told
        shutil.rmtree((run / name).parent)
        script("train.py", *words(clips, "row=soft_attention_1"), cwd=tmp_path)
        same_as(run, trained / "run")


@pytest.mark.counts("damaged checkpoints")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "damaged"),
        (b"PK\x03\x04" + bytes(100), "damaged"),
        (b"not a checkpoint", "damaged"),
        ("cut", "damaged"),
        ("other", "'state_dict'"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, says):
    path = tmp_path / "holdout/last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 0, "state_dict": {"w": torch.ones(1000)}}, path)
    if content == "cut":
        content = path.read_bytes()[:-300]
    if content == "other":
        torch.save({"weights": torch.ones(2)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value) and says in str(error.value) and f"remove {path.parent}" in str(error.value)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.mark.counts("files with code in them")
def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": 0, "state_dict": {"w": torch.ones(2)}, "more": Evil()}, "last.ckpt")
    with pytest.raises(DataError, match="not a checkpoint, or damaged"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "executed").exists()


# Seeds


@pytest.mark.slow(measured=True)
def test_a_configuration_gives_the_same_figures_again_and_another_seed_others(trained, clips, tmp_path):
    """Whatever the number of decoding processes: Python, NumPy, torch, workers and the order of blocks go by ``seed``."""
    for seed in (1, 2):
        more = ["row=soft_attention_1", f"seed={seed}", "backbone.workers=2", f"paths.runs=seed{seed}"]
        script("train.py", *words(clips, *more), cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": str(seed)})
    one, two = (next(tmp_path.glob(f"seed{seed}/clips/*")) for seed in (1, 2))
    same_as(one, trained / "run")
    figures = [json.loads((run / "metrics.json").read_text()) for run in (one, trained / "run")]
    assert figures[0].pop("seconds") > 0 and figures[1].pop("seconds") > 0 and figures[0] == figures[1]
    reference, store = FeatureStore(trained / STORE), FeatureStore(tmp_path / STORE)
    assert all(np.array_equal(store.read(name), reference.read(name)) for name in reference.videos)
    for name in LABELS:
        assert (one / name).read_bytes() != (two / name).read_bytes()
    assert [row.split(",")[:2] for row in (two / "predictions.csv").read_text().splitlines()] == [
        row.split(",")[:2] for row in (one / "predictions.csv").read_text().splitlines()
    ], "the seed decides neither the split nor the targets"
