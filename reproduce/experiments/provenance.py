"""Where a run comes from: when it started, from which commit, by which command, with what, on which machine. Free of torch."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reproduce.common.processes import cores

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = ("reproduce", "datamodules", "lightning_modules")
GIT_SECONDS = 20.0  # a repository on a slow network disk must not hold a run up
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "av", "wandb")
FFMPEG = ("libavcodec", "libavformat", "libswscale")  # what decodes, opens and scales a video


def provenance() -> dict[str, Any]:
    """Collect what run.json says of it: ``started``, ``command``, ``commit``, ``dirty`` and the machine."""
    commit, dirty = commit_of(REPOSITORY)
    program = Path(sys.argv[0])
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", f"{program.parent.name}/{program.name}", *sys.argv[1:]]),
        "commit": commit,
        "dirty": dirty,
        "cpu": cpu_name(),
        "cores": cores(),
        "ram_gib": ram_gib(),
        "platform": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Of Python, the packages that have a part in a result, and the FFmpeg libraries inside PyAV, the one that is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    for name in FFMPEG:
        numbers = _library_versions().get(name)
        if numbers:
            found[name] = ".".join(map(str, numbers))
    return found


def _library_versions() -> dict[str, tuple[int, ...]]:
    import av  # a tenth of a second, which `commit_of` alone need not wait for

    return av.library_versions


def ram_gib() -> float | None:
    """The machine's memory in GiB; None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


@lru_cache
def commit_of(folder: Path) -> tuple[str | None, bool | None]:
    """Commit of a checkout, and whether its code differs from it; (None, None) where the code is in no checkout.

    Every tracked file counts, and modules that nobody added: they are imported as well.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    added = _git(folder, "ls-files", "--others", "--exclude-standard", "--", *(f"{name}/*.py" for name in CODE))
    return commit, None if changes is None or added is None else bool(changes or added)


def _git(folder: Path, *words: str) -> str | None:
    if not (folder / ".git").exists():  # an installed copy inside somebody else's repository
        return None
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_name() -> str:
    """The processor's name, as Linux tells it; ``CPU`` elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
