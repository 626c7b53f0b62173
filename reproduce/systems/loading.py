"""A finished run's network, as it was tested, from its run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from datamodules.blocks import skip_of
from datamodules.videos import DataError
from reproduce.common.cli import validate
from reproduce.common.settings import Settings
from reproduce.experiments.folder import RunFolder
from reproduce.systems.preemption import read_weights_of
from reproduce.systems.recurrent import build_network

STAGES = ("holdout", "retrain")  # folders of a run that hold checkpoints


@dataclass(frozen=True)
class Trained:
    """A trained network and what is needed to use it.

    Args:
        network: with the checkpoint's weights, in evaluation mode, on the CPU.
        settings: of the run.
        folder: of the run.
        checkpoint: that the weights come from.
        classes: their names by id.
        multi_label: whether a video may have any number of labels.
        grid: rows and columns of the feature map.
        about: what the run says of itself.
    """

    network: nn.Module
    settings: Settings
    folder: RunFolder
    checkpoint: Path
    classes: tuple[str, ...]
    multi_label: bool
    grid: tuple[int, int]
    about: dict[str, Any]

    @property
    def skip(self) -> int:
        """Frames between two steps."""
        return skip_of(self.settings.data.fps)


def load_trained(path: Path) -> Trained:
    """Load a run's network.

    Args:
        path: the run folder, for the weights it was tested with, or a checkpoint in it.

    Raises:
        DataError: there is no such run, it is not finished, or its files are damaged or not what they say.
    """
    path = path.expanduser()
    given = path.is_file()
    folder = RunFolder(path.parent.parent if given and path.parent.name in STAGES else path)
    checkpoint = path if given else folder.tested
    for file in (folder.path / "config.yaml", checkpoint):
        if not file.is_file():
            raise DataError(
                f"{path}: no run folder with a checkpoint ({file} is missing). Give a run's folder "
                "<paths.runs>/<data set>/<model>-<hash>, as train.py prints it, or a .ckpt in its holdout/ or retrain/"
            )
    about = folder.about()
    if "map" not in about and folder.metrics() is not None:
        raise DataError(f"{folder.path}: is of {about.get('system')}, which is no network over blocks of feature cubes")
    if not {"classes", "map", "multi_label"} <= about.keys():
        raise DataError(f"{folder.path}: not a finished run; run it again with the train.py command that began it")
    settings = read_settings(folder.path / "config.yaml")
    rows, columns, channels = about["map"]
    shape, classes = (rows * columns, channels), len(about["classes"])
    network = build_network(settings, shape, classes, about.get("scales", ()), (rows, columns))
    weights = read_weights_of(checkpoint)
    try:
        network.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise DataError(
            f"{checkpoint}: not a checkpoint of the run that {folder.path}/config.yaml describes ({error})"
        ) from error
    return Trained(
        network.eval(),
        settings,
        folder,
        checkpoint,
        tuple(about["classes"]),
        bool(about["multi_label"]),
        (rows, columns),
        about,
    )


def read_settings(path: Path) -> Settings:
    """Read ``config.yaml``; keys that it lacks have their defaults.

    Raises:
        DataError: it is not a run's configuration.
    """
    try:
        values = OmegaConf.create(yaml.safe_load(path.read_text(encoding="utf-8")))
        settings: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Settings), values))
        validate(settings)
    except (OSError, TypeError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise DataError(f"{path}: not the configuration of a run ({error})") from error
    return settings
