"""Devices of a run: CPU or GPU, the arithmetic of single precision there, and the words when their memory runs out."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from reproduce.common.processes import cores_of_process, is_first_process
from reproduce.common.settings import Settings, SettingsError, with_values


def accelerator(asked: str) -> str:
    """Choose ``gpu`` or ``cpu`` for ``trainer.accelerator``: ``auto`` takes CUDA's GPUs where torch finds some.

    Apple's GPUs are never taken by themselves, since nothing here was run on one.
    """
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "gpu"
    if torch.backends.mps.is_available():
        _say_apple()
    return "cpu"


@cache
def _say_apple() -> None:
    if is_first_process():
        print("computing on the CPU: nothing here was ever run on Apple's GPUs; trainer.accelerator=gpu tries them", flush=True)


def uses_gpu(settings: Settings) -> bool:
    """Whether a run uses CUDA's GPUs."""
    return torch.cuda.is_available() and accelerator(settings.trainer.accelerator) == "gpu"


def device_of(asked: str) -> torch.device:
    """Choose the device of work without a Trainer, such as figures, for ``trainer.accelerator``.

    Raises:
        SettingsError: a GPU is asked for, and torch finds none.
    """
    if accelerator(asked) == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SettingsError(f"trainer.accelerator={asked}: torch finds no GPU here")
    return torch.device("cuda")


def all_devices(settings: Settings) -> Settings:
    """The same settings for work that is dealt by videos: on all visible GPUs, or by the processes that torchrun started."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "0") or 0)
    if local:
        machines = int(os.environ["WORLD_SIZE"]) // local
        return with_values(settings, {"trainer.devices": local, "trainer.num_nodes": machines})
    return with_values(settings, {"trainer.devices": torch.cuda.device_count()}) if uses_gpu(settings) else settings


def determinism(settings: Settings) -> bool | str:
    """Choose Lightning's ``deterministic``: on GPUs an operation that has no deterministic form warns instead of failing."""
    return True if accelerator(settings.trainer.accelerator) == "cpu" else "warn"


def set_up(settings: Settings) -> None:
    """Set this process's CPU threads, its arithmetic, and that no time is spent on memory which is written later."""
    torch.set_num_threads(settings.trainer.threads or cores_of_process(settings.trainer.devices))
    set_arithmetic(settings)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] - every element that is read was written


def set_arithmetic(settings: Settings) -> None:
    """Set the arithmetic of single precision on GPUs, one for all products: torch's own is TF32 in cuDNN alone."""
    _set_tf32(products=settings.trainer.tf32, cudnn=settings.trainer.tf32)


@contextmanager
def ieee() -> Iterator[None]:
    """Within, single precision is IEEE's on GPUs too."""
    before = bool(torch.backends.cuda.matmul.allow_tf32), bool(torch.backends.cudnn.allow_tf32)
    _set_tf32(products=False, cudnn=False)
    try:
        yield
    finally:
        _set_tf32(*before)


def _set_tf32(products: bool, cudnn: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, cudnn


def arithmetic_notes(settings: Settings) -> list[str]:
    """Say for a table which arithmetic of single precision a run on GPUs had; nothing for a run on the CPU."""
    if not uses_gpu(settings):
        return []
    tf32 = "TF32, with 10 bits of mantissa," if settings.trainer.tf32 else "IEEE's, not TF32,"
    return [f"single precision on GPUs was {tf32} in matrix products, convolutions and LSTMs alike"]


def about_devices(settings: Settings) -> dict[str, Any]:
    """Describe for ``run.json`` what a run computed on: device, GPUs with memory in GiB, the CPU's instructions, arithmetic."""
    on_gpu = uses_gpu(settings)
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "processes": settings.trainer.devices * settings.trainer.num_nodes,
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "cpu",
        "gpus": [
            {"name": one.name, "memory_gib": round(one.total_memory / 2**30, 1), "cuda": torch.version.cuda} for one in gpus
        ],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "single_precision": "TF32" if on_gpu and settings.trainer.tf32 else "IEEE",
    }
