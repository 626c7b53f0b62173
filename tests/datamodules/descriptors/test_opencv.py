import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from datamodules.descriptors.opencv import opencv
from datamodules.reading import DataError


@pytest.mark.parametrize(
    "module, message",
    [
        (None, r"need OpenCV \(.*pip install"),
        (SimpleNamespace(__version__="4.14.0"), "need OpenCV 5, .*not 4.14.0: pip install"),
    ],
    ids=["missing", "old"],
)
def test_missing_and_old_opencv_are_refused(module, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", module)
    with pytest.raises(DataError, match=message):
        opencv()


def test_remap_samples_between_all_places():
    image = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    x, y = np.full((1, 1), 7.013, np.float32), np.full((1, 1), 9.777, np.float32)
    rows = image[9:11, 7] * (1 - 0.013) + image[9:11, 8] * 0.013
    assert cv2.remap(image, x, y, cv2.INTER_LINEAR) == pytest.approx(rows[0] * (1 - 0.777) + rows[1] * 0.777, abs=1e-5)
