"""Weights & Biases. The one module that imports wandb; nothing here waits for a prompt or a network."""

from __future__ import annotations

import netrc
import os
import secrets
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger

from reproduce.runs import RunFolder
from reproduce.settings import Settings

REACH_SECONDS = 5.0  # how long a server may take to accept a connection before a run goes on offline


def server() -> str:
    """Address of the W&B server."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def has_login() -> bool:
    """Whether an API key for the server lies in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(path)).authenticators(urlparse(server()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def is_reachable() -> bool:
    """Whether the server accepts a connection within a few seconds."""
    address = urlparse(server())
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=REACH_SECONDS):
            return True
    except OSError:
        return False


def mode_of(setting: str) -> str:
    """``online``, ``offline`` or ``disabled``, from ``logging.wandb`` and what is there; says so where it gives way."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled") and setting == "auto":
        return os.environ["WANDB_MODE"]
    if setting == "auto":
        setting = "online" if has_login() else "offline"
        if setting == "offline":
            return setting
    if setting == "online" and not has_login():
        print(f"W&B: no login for {server()} (wandb login makes one); logging offline", flush=True)
        return "offline"
    if setting == "online" and not is_reachable():
        print(f"W&B: {server()} does not answer within {REACH_SECONDS:.0f} s; logging offline", flush=True)
        return "offline"
    return setting


def start(settings: Settings, folder: RunFolder, config: dict[str, Any], tags: list[str]) -> WandbLogger | None:
    """A logger for a run, which continues the same W&B run when the run is resumed; None where W&B is disabled."""
    import wandb

    mode = mode_of(settings.logging.wandb)
    if mode == "disabled":
        return None
    if not folder.wandb_id.is_file():
        folder.wandb_id.write_text(secrets.token_hex(4) + "\n")
    identifier = folder.wandb_id.read_text().strip()
    group = settings.logging.group or f"{config['data']['name']}/{folder.path.name.rsplit('-', 1)[0]}"
    return WandbLogger(
        name=f"{folder.path.name} seed {settings.seed}",
        save_dir=str(folder.path),
        id=identifier,
        resume="allow" if mode == "online" else None,
        offline=mode == "offline",
        project=settings.logging.project,
        entity=settings.logging.entity,
        group=group,
        tags=tags + settings.logging.tags,
        config=config,
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=20),
    )


def retrain_logger(logger: WandbLogger | None) -> WandbLogger | None:
    """The same W&B run for the second stage, whose curves stand under ``retrain-``."""
    return logger and WandbLogger(experiment=logger.experiment, prefix="retrain")


def finish(
    logger: WandbLogger | None,
    metrics: dict[str, Any],
    classes: tuple[str, ...],
    per_class: list[float],
    confusion: list[list[int]] | None,
) -> None:
    """Log the selected checkpoint's figures, the per-class table and the confusion matrix, and end the W&B run.

    Args:
        logger: as ``start`` made it.
        metrics: figures by name, to the run's summary.
        classes: class names.
        per_class: recall or average precision of each class.
        confusion: counts, rows the true classes; None for multi-label.
    """
    import wandb

    if logger is None:
        return
    run = logger.experiment
    run.summary.update({key: value for key, value in metrics.items() if isinstance(value, int | float)})
    rows: list[Any] = [[name, value] for name, value in zip(classes, per_class, strict=True)]
    run.log({"test/per_class": wandb.Table(columns=["class", "score"], data=rows)})
    if confusion is not None:
        cells: list[Any] = [
            [actual, predicted, confusion[i][j]]
            for i, actual in enumerate(classes)
            for j, predicted in enumerate(classes)
            if confusion[i][j]
        ]
        table = wandb.Table(columns=["actual", "predicted", "videos"], data=cells)
        run.log({"test/confusion_matrix": table})
    run.finish()
