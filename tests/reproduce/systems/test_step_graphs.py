"""Which stages replay their training step, and what those that do not say."""

from types import SimpleNamespace

import pytest
import torch
from fake_cuda import GPU

from lightning_modules.baselines import PooledLSTM
from lightning_modules.objective import Objective
from lightning_modules.recognizer import Recognizer
from lightning_modules.step_graph import EAGER
from reproduce.common.cli import resolve
from reproduce.common.settings import Settings
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.history import History
from reproduce.systems import trainer as trainer_module
from reproduce.systems.step_graphs import StepGraphs


class Counting(Recognizer):
    """One whose steps do more than a graph repeats."""


def started(device=GPU, asked="auto", kind=Recognizer, **of_trainer):
    """A module after a stage has begun on a device, and the callback."""
    module = kind(PooledLSTM(4, 3, "mean", 8), 3, False, Objective())
    module._device = device
    trainer = SimpleNamespace(**{"world_size": 1, "precision": "32-true", "is_global_zero": True, **of_trainer})
    callback = StepGraphs(asked)
    callback.on_train_start(trainer, module)  # type: ignore[arg-type]
    return module, callback, trainer


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_on_one_gpu_a_stage_replays_its_step_and_frees_the_graph_behind_it(precision, capsys):
    module, callback, trainer = started(precision=precision)
    assert module.graph is not None and module.graph.device == GPU and capsys.readouterr().out == ""
    assert module.graph.cost == module.batch_cost
    weight = module.network.head.hidden.weight
    weight.grad = torch.ones_like(weight)
    callback.on_train_end(trainer, module)
    assert module.graph is None and weight.grad is None


@pytest.mark.parametrize("options", [{"device": torch.device("cpu")}, {"asked": "off"}], ids=str)
def test_elsewhere_it_is_off_without_a_word(options, capsys):
    module, callback, trainer = started(**options)
    callback.on_train_end(trainer, module)
    assert module.graph is None and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"world_size": 2}, "several processes sum their gradients within the backward pass"),
        ({"precision": "16-mixed"}, "trainer.precision=16-mixed scales the loss by what earlier gradients were"),
        ({"kind": Counting}, "Counting has steps that differ from each other"),
    ],
)
def test_what_a_graph_cannot_repeat_is_said_once_by_the_first_process(options, why, capsys):
    assert started(**options)[0].graph is None
    assert capsys.readouterr().out == f"{EAGER}: {why}\n"
    assert started(**options, is_global_zero=False)[0].graph is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("asked", ["auto", "off"])
def test_the_setting_reaches_every_stage(asked, tmp_path, monkeypatch):
    given = {}

    def make_trainer(settings, root, **options):
        given.update(options)
        return SimpleNamespace(fit=lambda *_, **__: None)

    monkeypatch.setattr(trainer_module, "make_trainer", make_trainer)
    settings, folder = resolve(Settings, [f"trainer.cuda_graph={asked}"]), RunFolder(tmp_path)
    training = trainer_module.Training(settings, folder, None, History(folder.history))
    training.fit_stage("holdout", None, None)  # type: ignore[arg-type]
    assert [one.asked for one in given["callbacks"] if isinstance(one, StepGraphs)] == [asked]
