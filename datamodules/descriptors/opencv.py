"""OpenCV, imported when it is first needed: it belongs to an extra."""

from __future__ import annotations

from types import ModuleType

from datamodules.reading import DataError


def opencv() -> ModuleType:
    """Import OpenCV.

    Raises:
        DataError: it is not installed, or does not load.
    """
    try:
        import cv2
    except ImportError as error:
        raise DataError(f"trajectories need OpenCV ({error}): pip install -e '.[systems]'") from error
    return cv2
