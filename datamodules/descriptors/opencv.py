"""OpenCV, imported when it is first needed: it belongs to an extra."""

from __future__ import annotations

from types import ModuleType

from datamodules.reading import DataError

LEAST_VERSION = 5  # before it, remap samples at multiples of 1/32 px: one trajectory in eight of the authors' is not met


def opencv() -> ModuleType:
    """Import OpenCV.

    Raises:
        DataError: it is not installed, does not load, or is too old.
    """
    try:
        import cv2
    except ImportError as error:
        raise DataError(f"trajectories need OpenCV ({error}): pip install -e '.[systems]'") from error
    if int(cv2.__version__.split(".")[0]) < LEAST_VERSION:
        needs = f"trajectories need OpenCV {LEAST_VERSION}, for exact sampling, not {cv2.__version__}"
        raise DataError(f"{needs}: pip install -e '.[systems]'")
    return cv2
