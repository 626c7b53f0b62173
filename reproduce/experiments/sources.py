"""Finished runs from elsewhere: of a W&B sweep or project, or below a folder that was copied here. Free of torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datamodules.videos import DataError
from reproduce.common.settings import Settings
from reproduce.experiments import tracking
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import configuration, run_folders


class Source:
    """Run folders by configuration; the data sets need not be here.

    Args:
        source: ``wandb:<entity>/<project>[/<sweep>]``, or a folder laid out as ``paths.runs``.
        cache: folder below which runs from W&B are kept.

    Raises:
        DataError: there is no such folder, project or sweep, or W&B does not answer.
    """

    def __init__(self, source: str, cache: Path) -> None:
        self.source = source
        if source.startswith(tracking.SOURCE):
            folders = tracking.download(source, cache)
        else:
            if not Path(source).expanduser().is_dir():
                raise DataError(f"source={source}: neither wandb:<entity>/<project>[/<sweep>] nor a folder of runs")
            folders = [folder for folder in run_folders(Path(source).expanduser()) if folder.metrics() is not None]
        self._folders: dict[str, list[RunFolder]] = {}
        for folder in folders:
            stored = {key: value for key, value in folder.about().get("identity", {}).items() if key != "videos"}
            self._folders.setdefault(_key(stored), []).append(folder)
        print(f"{source}: {len(folders)} finished runs", flush=True)

    def find(self, settings: Settings) -> RunFolder | None:
        """The run of a configuration, or None.

        Raises:
            DataError: there are several, on different videos.
        """
        found = self._folders.get(_key(configuration(settings)), [])
        if len(found) > 1:
            raise DataError(
                f"{self.source}: {len(found)} runs of one configuration were made on different videos: "
                f"{', '.join(folder.name for folder in found)}; name one sweep, or remove the runs that do not count"
            )
        return found[0] if found else None


def _key(found: dict[str, Any]) -> str:
    return json.dumps(found, sort_keys=True)
