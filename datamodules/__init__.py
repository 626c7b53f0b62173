"""Videos, features, blocks, and a LightningDataModule for each data set.

The data modules are found here by name (``from datamodules import UCF11DataModule``) but imported on first use,
because the checks of what is on disk must not wait for torch.
"""

from __future__ import annotations

from typing import Any

DATA_MODULES = (
    "UCF11DataModule",
    "HMDB51DataModule",
    "Hollywood2DataModule",
    "UCF101DataModule",
    "Sports1MDataModule",
    "VideoFolderDataModule",
)


def __getattr__(name: str) -> Any:
    if name in DATA_MODULES:
        from datamodules import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
