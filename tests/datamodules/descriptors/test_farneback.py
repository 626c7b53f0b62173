import cv2
import numpy as np
import pytest

from datamodules.descriptors import farneback
from datamodules.descriptors.trajectories import scale_sizes

SIZE = (160, 120)  # width, height


def texture(seed=0, height=200, width=240):
    noise = np.random.default_rng(seed).normal(size=(height, width))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.float32)


def moved_pair(dx, dy):
    first = texture()
    second = cv2.warpAffine(first, np.float32([[1, 0, dx], [0, 1, dy]]), first.shape[::-1], flags=cv2.INTER_CUBIC)
    return [np.clip(image[40:160, 40:200], 0, 255).astype(np.uint8) for image in (first, second)]


def flows(first, second, scales=4):
    sizes = scale_sizes(*SIZE, scales)
    return farneback.flows(farneback.expansions(first, sizes), farneback.expansions(second, sizes))


def test_a_quadratic_image_has_the_polynomial_that_it_is():
    y, x = np.mgrid[-20:21, -20:21].astype(np.float32)
    found = farneback.expand(3 + 2 * x - y + 0.5 * x**2 + 0.25 * y**2 - 0.75 * x * y)[:, 20, 20]
    assert found == pytest.approx([-1, 2, 0.25, 0.5, -0.75], abs=1e-3)


def test_flow_without_median_is_that_of_opencv(monkeypatch):
    first, second = moved_pair(2.5, -1.25)
    theirs = cv2.calcOpticalFlowFarneback(first, second, None, 2**-0.5, 4, 10, 2, 7, 1.5, cv2.OPTFLOW_FARNEBACK_GAUSSIAN)
    monkeypatch.setattr(cv2, "medianBlur", lambda flow, side: flow)
    difference = np.abs(flows(first, second)[0] - theirs)
    assert np.median(difference) < 1e-4
    assert difference.mean() < 0.02


def test_flow_finds_a_translation_at_every_scale():
    found = flows(*moved_pair(2.5, -1.25))
    assert [flow.shape for flow in found] == [(120, 160, 2), (85, 113, 2), (60, 80, 2), (42, 57, 2)]
    for scale, flow in enumerate(found):
        inner = flow[15:-15, 15:-15].reshape(-1, 2)
        assert np.median(inner, axis=0) == pytest.approx(np.array([2.5, -1.25]) / 2 ** (scale / 2), abs=0.06)


def test_flow_of_a_frame_to_itself_is_zero_where_no_window_reaches_the_last_row_and_column():
    first, _ = moved_pair(1, 1)  # that row and column have no neighbour to be sampled with, as in OpenCV
    for flow in flows(first, first, scales=2):
        assert np.abs(flow[:-20, :-20]).max() < 1e-3
        assert np.abs(flow).max() < 1


def test_flow_repeats_to_the_bit_and_leaves_its_input_as_it_is():
    sizes = scale_sizes(*SIZE, 4)
    one, other = (farneback.expansions(image, sizes) for image in moved_pair(3, 1))
    kept = [plane.copy() for plane in one + other]
    first, again = farneback.flows(one, other), farneback.flows(one, other)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(kept, one + other, strict=True))
