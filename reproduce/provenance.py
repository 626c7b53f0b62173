"""Where a run comes from: when it started, from which commit, by which command, on which machine. Free of torch."""

from __future__ import annotations

import shlex
import subprocess
import sys
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from reproduce.settings import cores

REPOSITORY = Path(__file__).resolve().parent.parent
GIT_SECONDS = 20.0  # a repository on a slow network disk must not hold a run up


def provenance() -> dict[str, Any]:
    """``started``, ``command``, ``commit``, ``dirty``, ``cpu`` and ``cores``, as run.json keeps them."""
    commit, dirty = commit_of(REPOSITORY)
    program = Path(sys.argv[0])
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", f"{program.parent.name}/{program.name}", *sys.argv[1:]]),
        "commit": commit,
        "dirty": dirty,
        "cpu": cpu_name(),
        "cores": cores(),
    }


@lru_cache
def commit_of(folder: Path) -> tuple[str | None, bool | None]:
    """Commit of a checkout, and whether tracked files differ from it; (None, None) where the code is in no checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


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
