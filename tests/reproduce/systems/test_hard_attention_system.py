"""Hard attention from a finished soft run: it starts from its weights, repeats, and says what it lacks."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY, script

from datamodules.blocks import BLOCK_LENGTH, Share
from datamodules.videos import DataError
from lightning_modules.hard_recognizer import TRAINING, uniform
from reproduce.common.cli import resolve
from reproduce.common.dataset import read_annotation
from reproduce.common.settings import Settings, SettingsError
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.history import History
from reproduce.experiments.identity import members, run_folder
from reproduce.systems.hard_attention import build
from reproduce.systems.preemption import read_checkpoint

HARD = ["row=hard_attention", "hard.start=soft_attention_1", "hard.epochs=2", "hard.samples=3"]


def words_of(clips, trained, *more: str) -> list[str]:
    places = [f"paths.data={clips}", f"paths.runs={trained / 'runs'}", f"paths.features={trained / 'features/miniature'}"]
    return [*TINY, *places, *more]


def settings_of(clips, trained, *more: str) -> Settings:
    return resolve(Settings, words_of(clips, trained, *HARD, *more))


@pytest.fixture(scope="module")
def hard(clips, trained) -> RunFolder:
    """A finished run that started from the one of `trained`."""
    printed = script("train.py", *words_of(clips, trained, *HARD), cwd=trained).stdout
    return RunFolder(trained / printed.strip().splitlines()[-1])


def begun(clips, trained, stage: str, *more: str):
    settings = settings_of(clips, trained, *more)
    system = build(settings, read_annotation(settings))
    return system, system.begin(stage)


def test_regions_make_another_run_and_single_locations_the_known_one(clips, trained):
    annotation = read_annotation(settings_of(clips, trained))
    plain, said, regions = (
        run_folder(settings_of(clips, trained, *more), annotation).name for more in ([], ["hard.region=1"], ["hard.region=3"])
    )
    assert plain == said != regions
    _, recognizer = begun(clips, trained, "retrain", "hard.region=3")
    assert recognizer.network.members.shape == (9, 9), "three by three regions of 8 by 8 locations"


@pytest.mark.parametrize(("stage", "file"), [("holdout", "best.ckpt"), ("retrain", "last.ckpt")])
def test_each_stage_starts_from_the_same_stage_of_the_soft_run(clips, trained, stage, file):
    system, recognizer = begun(clips, trained, stage)
    soft = read_checkpoint(trained / "run" / stage / file)["state_dict"]
    own = recognizer.network.state_dict()
    shared = {key: value for key, value in soft.items() if key.startswith("network.")}
    assert len(shared) > 10 and all(torch.equal(own[key.removeprefix("network.")], value) for key, value in shared.items())
    assert set(own) - {key.removeprefix("network.") for key in shared} == {"cost_to_go.weight", "cost_to_go.bias"}
    assert system.soft.path.resolve() == (trained / "run").resolve()


def test_the_run_says_what_it_reads_and_what_drawn_locations_do(hard, trained):
    metrics, about = hard.metrics(), hard.about()
    assert metrics is not None and {"test/sampled_accuracy", "test/sampled_mAP", "test/attention_entropy"} <= set(metrics)
    rows, columns, _ = about["map"]
    (note,) = [note for note in about["notes"] if "Hard attention, seed 1: " in note]
    assert (
        f"each step reads 1 of {rows * columns} locations, the likeliest: accuracy {100 * metrics['test/accuracy']:.1f} %"
        in note
    )
    assert f"mean of 3 tests is {100 * metrics['test/sampled_accuracy']:.1f} %" in note
    soft = RunFolder((trained / "run").resolve())
    assert about["members"] == [{"folder": soft.name, "predictions_sha256": soft.predictions_sha256()}]
    assert about["identity"]["members"] == [
        {key: value for key, value in json.loads((soft.path / "run.json").read_text())["identity"].items() if key != "videos"}
    ]
    history = History(hard.history)
    assert len(history.rows("holdout")) == 2 and 1 <= len(history.rows("retrain")) <= 2


def test_the_same_command_draws_the_same(hard, clips, trained, tmp_path):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / hard.name)
    more = ["logging.wandb=disabled", f"paths.runs={tmp_path / 'runs'}"]
    script(
        "train.py",
        *[word for word in words_of(clips, trained, *HARD) if not word.startswith("paths.runs=")],
        *more,
        cwd=trained,
    )
    again = RunFolder(tmp_path / "runs" / hard.name)
    assert again.history.read_text() == hard.history.read_text()
    assert again.predictions_sha256() == hard.predictions_sha256()
    found, expected = again.metrics(), hard.metrics()
    assert found is not None and expected is not None
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}


@pytest.mark.parametrize(("sampling", "drawn"), [(0.0, False), (1.0, True)])
def test_semi_sampling_at_its_ends_is_soft_and_hard_attention(clips, trained, sampling, drawn):
    frames = _frames_of_a_batch(clips, trained, f"hard.sampling={sampling}", step=0)[0]
    assert (frames.draws is not None) == drawn


def test_semi_sampling_throws_one_coin_a_batch(clips, trained):
    thrown = [_frames_of_a_batch(clips, trained, "hard.sampling=0.5", step=step)[0].draws is not None for step in range(30)]
    assert 8 <= sum(thrown) <= 22


def test_draws_depend_on_the_block_and_not_on_the_rank_that_holds_it(clips, trained):
    whole, blocks = _frames_of_a_batch(clips, trained, step=7)
    part, mine = _frames_of_a_batch(clips, trained, step=7, only=slice(2, 5))
    assert mine.tolist() == blocks[2:5].tolist() and torch.equal(part.draws, whole.draws[2:5])
    assert whole.draws.shape == (len(blocks), BLOCK_LENGTH) and whole.draws.min() >= 0 and whole.draws.max() < 1
    other, _ = _frames_of_a_batch(clips, trained, step=8)
    assert len({tuple(row) for row in torch.cat([whole.draws, other.draws]).tolist()}) == 2 * len(blocks)


class _At:
    """A Trainer as far as the step."""

    world_size = 1

    def __init__(self, step: int) -> None:
        self.global_step = step


def _frames_of_a_batch(clips, trained, *more: str, step: int, only: slice = slice(None)):
    system, recognizer = begun(clips, trained, "holdout", *more)
    recognizer._trainer = _At(step)  # type: ignore[assignment]
    system.data.inputs = recognizer.network.inputs
    blocks = np.asarray([0, 5, 3, 4, 1, 2])[only]
    batch = system.data._subset("train").batch(Share(blocks, np.ones(len(blocks)), 6), torch.device("cpu"))
    return recognizer.training_frames(batch), batch.blocks


def test_numbers_of_different_purposes_differ():
    keys = [(TRAINING, 1), (TRAINING, 1, 0), (TRAINING, 1, 0, 0), (0, 1), (1, 1)]
    assert len({uniform(1, seed, *key)[0] for seed in (0, 1) for key in dict.fromkeys(keys)}) == 2 * len(set(keys))
    assert uniform(3, 5, 1, 2).tolist() == uniform(3, 5, 1, 2).tolist()


# What it lacks


def test_without_the_soft_run_it_says_what_makes_it(clips, trained, tmp_path):
    said = script("train.py", *words_of(clips, trained, *HARD, f"paths.runs={tmp_path}"), cwd=trained, check=False)
    assert said.returncode == 1 and "starts from soft_attention_1, which has no finished run in" in said.stderr
    assert "train.py … row=soft_attention_1" in said.stderr


def test_weights_that_are_gone_are_named(clips, trained, tmp_path):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    settings = settings_of(clips, trained, f"paths.runs={tmp_path / 'runs'}")
    soft = run_folder(members(settings)[0], read_annotation(settings))
    shutil.rmtree(soft.stage("retrain"))
    shutil.rmtree(soft.stage("holdout"))
    with pytest.raises(
        DataError, match=r"best\.ckpt is missing: hard attention starts from it\. Remove that folder, and python"
    ):
        build(settings, read_annotation(settings))


def test_a_soft_row_of_another_attention_is_refused(clips, trained):
    settings = settings_of(clips, trained, "model.attention=content", "hard.start=content_attention_0")
    assert [member.model.attention for member in members(settings)] == ["content"]
    settings = settings_of(clips, trained, "hard.start=content_attention_0")
    with pytest.raises(SettingsError, match="hard.start=content_attention_0: has content attention, and this run"):
        build(settings, read_annotation(settings))


def test_all_folds_at_once_are_refused(clips, trained):
    with pytest.raises(SettingsError, match="data.fold=all/2: hard attention starts from a run's weights; take one fold"):
        settings = settings_of(clips, trained, "data.fold=all/2")
        build(settings, read_annotation(settings))


@pytest.mark.parametrize("word", ["hard.start=avg_pool_lstm", "hard.sampling=1.5", "hard.baseline=mean", "hard.epochs=0"])
def test_impossible_settings_are_refused(word):
    with pytest.raises(SettingsError, match=word.partition("=")[0].replace(".", r"\.")):
        resolve(Settings, ["row=hard_attention", word])
