"""Which devices a run computes on, in which arithmetic, and with how many threads, as settings and a launcher say."""

import pytest
import torch

from reproduce.common.cli import resolve
from reproduce.common.processes import cores, cores_of_process
from reproduce.common.settings import Settings, SettingsError
from reproduce.systems import devices

TF32 = {"products": torch.backends.cuda.matmul, "cudnn": torch.backends.cudnn}


@pytest.fixture(autouse=True)
def as_before():
    threads, switches = torch.get_num_threads(), [place.allow_tf32 for place in TF32.values()]
    yield
    torch.set_num_threads(threads)
    for place, value in zip(TF32.values(), switches, strict=True):
        place.allow_tf32 = value


def with_gpu(monkeypatch, cuda: bool, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, False, "gpu"), (False, False, "cpu"), (False, True, "cpu")])
def test_auto_takes_cudas_gpus_or_the_cpu_and_says_that_apples_were_never_tried(cuda, mps, chosen, monkeypatch, capsys):
    with_gpu(monkeypatch, cuda, mps)
    devices._say_apple.cache_clear()
    assert [devices.accelerator("auto"), devices.accelerator("auto")] == [chosen] * 2
    assert capsys.readouterr().out.count("ever run on Apple's GPUs") == mps
    assert devices.accelerator("gpu") == "gpu" and devices.accelerator("cpu") == "cpu"


def test_work_without_a_trainer_is_on_the_gpu_where_there_is_one(monkeypatch):
    with_gpu(monkeypatch, True)
    assert [devices.device_of(asked).type for asked in ("auto", "gpu", "cpu")] == ["cuda", "cuda", "cpu"]
    with_gpu(monkeypatch, False, mps=True)
    assert [devices.device_of(asked).type for asked in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(SettingsError, match="trainer.accelerator=gpu: torch finds no GPU here"):
        devices.device_of("gpu")


def test_determinism_follows_the_accelerator_and_not_what_lies_in_the_machine(monkeypatch):
    with_gpu(monkeypatch, True)
    assert devices.determinism(resolve(Settings, ["trainer.accelerator=cpu"])) is True
    assert devices.determinism(resolve(Settings, [])) == "warn"
    assert not devices.uses_gpu(resolve(Settings, ["trainer.accelerator=cpu"]))


def test_extraction_takes_every_visible_gpu_or_what_torchrun_started(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with_gpu(monkeypatch, True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    settings = resolve(Settings, [])
    assert devices.all_devices(settings).trainer.devices == 3 and settings.trainer.devices == 1
    assert devices.all_devices(resolve(Settings, ["trainer.accelerator=cpu"])).trainer.devices == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("WORLD_SIZE", "8")
    spread = devices.all_devices(settings).trainer
    assert (spread.devices, spread.num_nodes) == (4, 2)


@pytest.mark.parametrize("tf32", [False, True])
def test_one_setting_decides_on_the_arithmetic_of_all_products(tf32):
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = not tf32, tf32
    devices.set_up(resolve(Settings, [f"trainer.tf32={str(tf32).lower()}", "trainer.threads=1"]))
    assert [place.allow_tf32 for place in TF32.values()] == [tf32] * 2 and torch.get_num_threads() == 1
    with devices.ieee():
        assert [place.allow_tf32 for place in TF32.values()] == [False] * 2
    assert [place.allow_tf32 for place in TF32.values()] == [tf32] * 2


def test_tables_and_runs_say_the_arithmetic_of_a_gpu_alone(monkeypatch):
    settings = resolve(Settings, ["trainer.tf32=true"])
    with_gpu(monkeypatch, False)
    assert devices.arithmetic_notes(settings) == [] and devices.about_devices(settings)["single_precision"] == "IEEE"
    with_gpu(monkeypatch, True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert "TF32" in devices.arithmetic_notes(settings)[0] and devices.about_devices(settings)["single_precision"] == "TF32"
    assert "IEEE's" in devices.arithmetic_notes(resolve(Settings, []))[0]
    assert devices.about_devices(settings)["device"] == "a card"


@pytest.mark.parametrize(
    ("given", "bound", "wanted"),
    [
        ({}, 16, 4),  # no launcher: four processes share the machine
        ({"SLURM_PROCID": "0", "SLURM_CPUS_PER_TASK": "8"}, 8, 8),  # bound to the task's own
        ({"SLURM_PROCID": "0", "SLURM_CPUS_PER_TASK": "8"}, 64, 8),  # not bound
        ({"SLURM_PROCID": "0", "SLURM_CPUS_ON_NODE": "64"}, 16, 16),
        ({"SLURM_PROCID": "0", "SLURM_CPUS_ON_NODE": "16"}, 16, 4),
        ({"SLURM_CPUS_ON_NODE": "64"}, 16, 4),  # sbatch without srun
        ({"SLURM_CPUS_PER_TASK": "8"}, 16, 4),
        ({"SLURM_PROCID": "0", "SLURM_CPUS_PER_TASK": "a few"}, 16, 4),
        ({}, 2, 1),
    ],
    ids=str,
)
def test_each_process_takes_its_own_cores(given, bound, wanted, on_slurm):
    on_slurm(bound, **given)
    assert cores_of_process(4) == wanted


def test_work_of_one_process_takes_the_cores_of_its_task(on_slurm):
    on_slurm(64, SLURM_PROCID="0", SLURM_CPUS_PER_TASK="6")
    assert cores() == cores_of_process(1) == 6
    on_slurm(4, SLURM_PROCID="0", SLURM_CPUS_PER_TASK="6")
    assert cores() == 4, "bound to fewer"
    on_slurm(64)
    assert cores() == 64
