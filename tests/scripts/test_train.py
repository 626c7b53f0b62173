"""``prepare.py`` and ``train.py`` as a user runs them: what they write, resuming, two processes, bad input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import kill_when, untested_copy, words
from conftest import PATIENCE, REPOSITORY, SHARED, draw_clips, script, unmeasured

from datamodules.features import FeatureStore


def test_a_run_folder_holds_what_it_should(trained):
    run = trained / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"test/accuracy", "test/accuracy_vote", "test/accuracy_top5", "test/mAP", "val/accuracy"} <= metrics.keys()
    assert metrics["retrain/cost"] <= metrics["holdout/cost"] or metrics["retrain/epochs"] == 3
    assert yaml.safe_load((run / "config.yaml").read_text())["objective"]["attention_penalty"] == 1.0
    assert (run / "holdout" / "best.ckpt").is_file() and (run / "retrain" / "last.ckpt").is_file()
    lines = (run / "predictions.csv").read_text().splitlines()
    assert lines[0] == "video,target,prediction,class0,class1,class2"
    hits = [line.split(",")[1] == line.split(",")[2] for line in lines[1:]]
    assert np.mean(hits) == pytest.approx(metrics["test/accuracy"])
    probabilities = np.array([[float(x) for x in line.split(",")[3:]] for line in lines[1:]])
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (trained / "stdout").read_text().strip().splitlines()[-1] == str(run.resolve())


def test_a_negative_control_trains_on_other_labels_of_train_and_says_so(trained, clips):
    result = script("train.py", *words(clips, "row=softmax_regression", "trainer.max_epochs=1", "data.permuted=1"), cwd=trained)
    run = Path(result.stdout.strip().splitlines()[-1])
    about, usual = (json.loads((folder / "run.json").read_text()) for folder in (run, trained / "run"))
    assert about["permuted"] == about["identity"]["data.permuted"] == 1 and "permuted" not in usual
    assert any("NEGATIVE CONTROL" in note for note in about["notes"])
    assert about["data_fingerprint"] != usual["data_fingerprint"]
    named = [[line.split(",")[:2] for line in (folder / "predictions.csv").open()] for folder in (run, trained / "run")]
    assert named[0] == named[1]  # test videos and their labels


def test_a_finished_run_is_found_and_reused(trained, clips):
    before = (trained / "run" / "metrics.json").stat().st_mtime_ns
    result = script("train.py", *words(clips, "row=soft_attention_1"), cwd=trained)
    assert "finished before" in result.stdout
    assert result.stdout.strip().splitlines()[-1] == str((trained / "run").resolve())
    assert (trained / "run" / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("row", ["softmax_regression", "avg_pool_lstm", "max_pool_lstm"])
def test_every_baseline_runs_end_to_end(trained, clips, row):
    result = script("train.py", *words(clips, f"row={row}", "trainer.max_epochs=1"), cwd=trained)
    metrics = json.loads((Path(result.stdout.strip().splitlines()[-1]) / "metrics.json").read_text())
    assert 0 <= metrics["test/accuracy"] <= 1 and "test/attention_in_box" not in metrics


@pytest.mark.parametrize(
    "more",
    [
        ["preset=[released,miniature]"],
        ["model.attention=content", "model.attention_layers=2", "data.fps=15", "data.stride=2"],
        ["trainer.precision=bf16-mixed", "data.resident=mmap", "objective.penalty_reduction=sum", "optim.name=sgd"],
    ],
)
def test_other_configurations_run_end_to_end(trained, clips, more):
    result = script("train.py", *words(clips, "trainer.max_epochs=1", "objective.attention_penalty=1", *more), cwd=trained)
    run = Path(result.stdout.strip().splitlines()[-1])
    assert np.isfinite(json.loads((run / "metrics.json").read_text())["test/accuracy"])
    released = any("released" in word for word in more)
    assert (run / "retrain").exists() != released, "the released preset stops after the first stage"


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_test_a_checkpoint_as_one_does(trained, clips, tmp_path, devices):
    run = untested_copy(trained, tmp_path)
    script("train.py", *words(clips, "row=soft_attention_1", f"trainer.devices={devices}"), cwd=tmp_path)
    assert (run / "predictions.csv").read_bytes() == (trained / "run" / "predictions.csv").read_bytes()
    one, several = (json.loads((folder / "metrics.json").read_text()) for folder in (trained / "run", run))
    assert {key: several[key] for key in one if key != "seconds"} == {key: one[key] for key in one if key != "seconds"}


def test_two_processes_that_torchrun_starts_do_so_too(trained, clips, tmp_path):
    """The way to several machines: one torchrun on each."""
    run = untested_copy(trained, tmp_path)
    command = [*TORCHRUN, str(REPOSITORY / "reproduce/train.py"), *words(clips, "row=soft_attention_1", "trainer.devices=2")]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE)
    assert (run / "predictions.csv").read_bytes() == (trained / "run" / "predictions.csv").read_bytes()


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.slow
def test_two_processes_that_torchrun_starts_prepare_the_store_of_one(clips, tmp_path):
    """Without trainer.devices=: each takes its share of the videos, and the first one alone speaks."""
    stores, said = [], ""
    for number, before in enumerate(([sys.executable], TORCHRUN)):
        features = tmp_path / str(number)
        command = [*before, str(REPOSITORY / "reproduce/prepare.py"), *words(clips, f"paths.features={features}")]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=PATIENCE)
        said = done.stdout
        (folder,) = features.glob("*/*")
        stores.append(FeatureStore(folder))
    names = sorted(stores[0].videos)
    assert len(names) == 18 and stores[0].fingerprint(names) == stores[1].fingerprint(names) is not None
    assert {journal.name for journal in stores[1].path.glob("*journal*")} == set() and said.count("18 videos, ") == 1
    assert said.count("train and 6 test videos") == 1


@pytest.mark.parametrize("word", ["download=true", "retry_bad=true", "delete=archives"])
def test_what_several_processes_would_do_several_times_is_refused_under_torchrun(word, clips, tmp_path):
    environment = {**os.environ, "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}
    result = script("prepare.py", *words(clips, word), cwd=tmp_path, check=False, env=environment)
    assert result.returncode != 0 and "torchrun shares extraction alone; run prepare.py by itself" in result.stderr


@pytest.mark.slow(measured=True)
def test_two_processes_extract_and_train_as_one_does(clips, tmp_path):
    """Without dropout the sums differ only in their order."""
    costs = {}
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        arguments = words(clips, "row=soft_attention_1", "model.dropout=0", f"trainer.devices={devices}", "optim.lr=0.001")
        run = Path(script("train.py", *arguments, cwd=folder).stdout.strip().splitlines()[-1])
        rows = (run / "history.csv").read_text().splitlines()
        column = rows[0].split(",").index("train/loss")
        costs[devices] = [float(row.split(",")[column]) for row in rows[1:]]
    assert costs[2] == pytest.approx(costs[1], rel=1e-4)
    stores = [FeatureStore(tmp_path / str(n) / "features/miniature/clips/mobilenet_v3_small-random") for n in (1, 2)]
    assert stores[0].videos == stores[1].videos and len(stores[0].videos) == 18
    for name in stores[0].videos:
        assert np.array_equal(stores[0].read(name), stores[1].read(name))  # whatever frames came with them


def test_a_run_killed_in_training_continues_to_the_same_figures(trained, clips, tmp_path):
    shutil.copytree(trained / "features", tmp_path / "features")
    run = tmp_path / (trained / "run").resolve().relative_to(trained.resolve())
    arguments = words(clips, "row=soft_attention_1")

    def trained_an_epoch() -> bool:
        return (run / "holdout" / "last.ckpt").is_file()

    kill_when(trained_an_epoch, "train.py", *arguments, cwd=tmp_path)
    assert not (run / "metrics.json").exists()
    kill_when(lambda: (run / "retrain" / "last.ckpt").is_file(), "train.py", *arguments, cwd=tmp_path)
    assert not (run / "metrics.json").exists()
    script("train.py", *arguments, cwd=tmp_path)
    assert (run / "predictions.csv").read_bytes() == (trained / "run" / "predictions.csv").read_bytes()
    assert (run / "history.csv").read_bytes() == (trained / "run" / "history.csv").read_bytes()


def test_an_extraction_killed_continues_to_the_same_features(trained, clips, tmp_path):
    store = tmp_path / "features/miniature/clips/mobilenet_v3_small-random"
    journal = store / "journal-0.jsonl"
    arguments = words(clips, "backbone.batch_size=2")  # slow enough to be caught
    kill_when(lambda: journal.is_file() and journal.read_text().count("\n") >= 4, "prepare.py", *arguments, cwd=tmp_path)
    assert 4 <= len(FeatureStore(store).videos) < 18
    done = {name: FeatureStore(store).file(name).stat().st_mtime_ns for name in FeatureStore(store).videos}
    script("prepare.py", *words(clips), cwd=tmp_path)
    finished = FeatureStore(store)
    assert len(finished.videos) == 18 and not list(store.rglob("journal*")) and not finished.missing(finished.videos)
    for name, written in done.items():
        assert finished.file(name).stat().st_mtime_ns == written, "extracted twice"
    reference = FeatureStore(trained / "features/miniature/clips/mobilenet_v3_small-random")
    assert finished.manifest["weights_sha256"] == reference.manifest["weights_sha256"]
    for name in reference.videos:
        one, two = (np.asarray(s.read(name), dtype=np.float32) for s in (finished, reference))
        assert np.abs(one - two).max() < 0.02 * np.abs(two).max()  # another number of frames a batch rounds otherwise


@pytest.fixture
def bad_clips(tmp_path):
    """Drawn clips, with a truncated file, an empty one and a text among them."""
    root = tmp_path / "bad"
    draw_clips(root / "clips", per_class=4)
    folder = root / "clips" / "class0"
    corrupted = SHARED / "data/clips/corrupted.mp4"
    if corrupted.is_file():
        shutil.copy(corrupted, folder / "corrupted.mp4")
    else:
        (folder / "corrupted.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(500))
    (folder / "empty.avi").touch()
    (folder / "text.avi").write_text("not a video\n")
    (root / "clips" / "videos.csv").unlink()
    return root


@pytest.mark.slow(measured=True)
def test_bad_videos_are_all_named_at_the_end_and_can_be_left_out(bad_clips, tmp_path):
    result = script("prepare.py", *words(bad_clips), cwd=tmp_path, check=False)
    assert result.returncode == 1
    for name in ("corrupted.mp4", "empty.avi", "text.avi"):
        assert f"bad: class0/{name}" in result.stderr
    assert "data.skip_bad=true" in result.stderr and "Traceback" not in result.stderr
    store = FeatureStore(tmp_path / "features/miniature/clips/mobilenet_v3_small-random")
    assert len(store.videos) == 12, "the good ones are extracted"
    refused = script("train.py", *words(bad_clips), cwd=tmp_path, check=False)
    assert refused.returncode == 1 and "3 videos do not decode" in refused.stderr
    table = ["datasets=[videofolder]", "rows=[avg_pool_lstm]", "data.skip_bad=true", "trainer.max_epochs=1"]
    plain = [word for word in words(bad_clips, *table) if not word.startswith("data.name")]
    script("table1.py", *plain, cwd=tmp_path)
    for suffix in ("md", "tex"):
        assert "3 videos left out" in (tmp_path / f"results/table1.{suffix}").read_text()


def test_a_store_of_another_backbone_is_refused(trained, clips):
    result = script("train.py", *words(clips, "backbone.layer=features.4"), cwd=trained, check=False)
    assert result.returncode == 1
    assert "layer is 'features.3', the configuration asks for 'features.4'" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
def test_a_read_only_folder_is_an_error_and_harms_nothing(clips, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "runs").write_text("a file where a folder should be")
    (folder / "features").write_text("a file where a folder should be")
    result = script("prepare.py", *words(clips, "paths.features=features"), cwd=folder, check=False)
    assert result.returncode == 1 and "cannot write features" in result.stderr and "Traceback" not in result.stderr
    assert (folder / "features").read_text() == "a file where a folder should be"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("backbone.name=googlenett", "no such classification network"),
        ("backbone.weights=/nowhere.pth", "no readable file"),
        ("data.split=4", "data.split=4"),
        ("paths.data=/nowhere", "does not exist"),
    ],
)
def test_what_cannot_be_is_an_error_of_a_few_lines(clips, tmp_path, word, says):
    result = script("train.py", *words(clips), word, cwd=tmp_path, check=False)
    assert result.returncode == 1 and says in result.stderr and "Traceback" not in result.stderr


def limit_file_size():
    """As on a full disk: no file may grow over 20 kB."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.parametrize("name", ["prepare.py", "train.py"])
def test_a_full_disk_is_an_error_and_the_same_command_goes_on_later(clips, trained, tmp_path, name):
    if name == "train.py":
        shutil.copytree(trained / "features", tmp_path / "features")
    arguments = words(clips, "row=avg_pool_lstm", "trainer.max_epochs=1")
    result = script(name, *arguments, cwd=tmp_path, check=False, preexec_fn=limit_file_size, env=unmeasured())
    assert result.returncode == 1 and "cannot write" in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.npy.*part")) and not list(tmp_path.rglob("metrics.json"))
    script(name, *arguments, cwd=tmp_path)


@pytest.mark.skipif(not (SHARED / "data/fights").is_dir(), reason=f"{SHARED}/data/fights is absent")
def test_real_clips_with_real_weights_run_end_to_end(tmp_path):
    """Twelve clips of the fights, the real mobilenet_v2; small frames, one epoch."""
    import csv

    with (SHARED / "data/fights/videos.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = {}
    for row in rows:
        chosen.setdefault((row["class"], row["group"]), row)
    chosen = [row for label in ("fight", "noFight") for row in [r for r in chosen.values() if r["class"] == label][:6]]
    root = tmp_path / "data" / "some_fights"
    for row in chosen:
        (root / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        (root / row["path"]).symlink_to(SHARED / "data/fights" / row["path"])
    lines = ["path,class,group", *(f"{row['path']},{row['class']},{row['group']}" for row in chosen)]
    (root / "videos.csv").write_text("\n".join(lines) + "\n")
    weights = SHARED / "weights/mobilenet_v2_imagenet_fp16.pth"
    words_ = ["data.name=videofolder", "data.folder=some_fights", "backbone.name=mobilenet_v2", f"backbone.weights={weights}"]
    words_ += ["model.hidden_dim=16", "data.stride=10", "trainer.max_epochs=1", "backbone.size=96", "logging.wandb=disabled"]
    run = Path(script("train.py", *words_, "row=soft_attention_0", cwd=tmp_path).stdout.strip().splitlines()[-1])
    about = json.loads((run / "run.json").read_text())
    assert about["train_videos"] + about["test_videos"] == 12 and not about["miniature"]
    assert about["features"]["weights"].startswith("file:")
    store = FeatureStore(tmp_path / "features/some_fights/mobilenet_v2_imagenet_fp16")
    assert store.grid == (3, 3) and store.channels == 1280
    assert len((run / "predictions.csv").read_text().splitlines()) == 1 + about["test_videos"]
