"""Checkpoints that are whole and on disk under their names, or not there at all."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import nn

from datamodules.features import FeatureStoreError
from datamodules.files import write_atomically
from datamodules.videos import DataError


class WholeCheckpoints(CheckpointIO):
    """Writes a checkpoint beside its place, and renames it when it is complete and on disk.

    Lightning's own goes through the system's temporary folder: where that is another disk, the move is a copy, and a
    process killed within it leaves half a checkpoint in place of the last good one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: there is no room, or no permission; the checkpoint that was there stays.
        """
        buffer = BytesIO()  # a full disk is an OSError when bytes are written, a RuntimeError when torch writes
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getbuffer())

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, always as weights and plain values alone. Raises as ``read_checkpoint``."""
        return read_checkpoint(Path(path), map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint that training can go on from; no code in it is run.

    Args:
        path: the file.
        map_location: where its tensors go.

    Raises:
        DataError: it is missing, damaged, no checkpoint of this suite, or its weights are not finite.
    """
    again = f"remove {path.parent.resolve()} to train this stage again"
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
        weights, _ = state["state_dict"], int(state["epoch"])
        bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    except (FileNotFoundError, PermissionError) as error:
        raise DataError(f"{path.resolve()}: cannot be read ({error})") from error
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path.resolve()}: not a checkpoint, or damaged ({reason}); {again}") from error
    if bad:
        raise DataError(f"{path.resolve()}: {len(bad)} of {len(weights)} weights are not finite, {bad[0]} for one; {again}")
    return state


def restore_backbone(backbone: nn.Module, path: Path, advice: str) -> None:
    """Give a backbone the weights that lie beside a feature store; no code in the file is run.

    Args:
        backbone: of the architecture that was stored.
        path: ``backbone.pt``.
        advice: what to do about a damaged file.

    Raises:
        FeatureStoreError: the file is damaged, or of another network.
    """
    try:
        backbone.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FeatureStoreError(f"{path}: not the weights of this backbone, or damaged ({reason}); {advice}") from error
