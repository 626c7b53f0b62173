"""Optical flow: known translations are found, codes are exact at zero, and turning back costs half a step."""

import sys

import cv2
import numpy as np
import pytest

from datamodules.descriptors.flow import CODES, LARGEST, METHODS, ZERO, flow_of, quantised, resized
from datamodules.reading import DataError

INNER = (slice(20, -20), slice(20, -20))


def texture(height: int = 200, width: int = 240) -> np.ndarray:
    smooth = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(height, width)), (0, 0), 2)
    return np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.float32)


def pair(dx: float, dy: float) -> tuple[np.ndarray, np.ndarray]:
    first = texture()
    second = cv2.warpAffine(first, np.float32([[1, 0, dx], [0, 1, dy]]), first.shape[::-1], flags=cv2.INTER_CUBIC)
    one, other = (np.clip(image[40:160, 40:200], 0, 255).astype(np.uint8) for image in (first, second))
    return one, other


def read_back(codes: np.ndarray) -> np.ndarray:
    return (codes.astype(np.float32) - ZERO) * LARGEST / CODES


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_a_translation_is_found_within_a_tenth_of_a_pixel(method):
    flow = flow_of(method)(*pair(2.5, -1.25))
    assert flow.shape == (120, 160, 2) and flow.dtype == np.float32
    assert np.median(np.linalg.norm(flow - [2.5, -1.25], axis=2)[INNER]) < 0.1


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_equal_frames_have_no_flow_and_calls_do_not_depend_on_each_other(method):
    find, (first, second) = flow_of(method), pair(3, 1)
    assert (quantised(find(first, first))[(slice(None), *INNER)] == ZERO).all()
    assert np.array_equal(find(first, second), flow_of(method)(first, second))


def test_the_flow_of_mirrored_frames_is_mirrored_and_its_x_negated():
    find, (first, second) = flow_of("dis"), pair(2.5, -1.25)
    mirrored = find(*(np.ascontiguousarray(image[:, ::-1]) for image in (first, second)))
    error = np.linalg.norm(mirrored[:, ::-1] * [-1, 1] - find(first, second), axis=2)
    assert np.median(error[INNER]) <= 0.3


def test_zero_is_code_128_and_turning_back_costs_at_most_half_a_step():
    assert (quantised(np.zeros((3, 4, 2), np.float32)) == 128).all()
    flow = np.random.default_rng(0).uniform(-20, 20, (9, 11, 2)).astype(np.float32)
    codes = quantised(flow)
    assert codes.shape == (2, 9, 11) and codes.dtype == np.uint8
    assert np.abs(read_back(codes) - flow.transpose(2, 0, 1)).max() <= 0.08
    assert np.array_equal(quantised(-flow).astype(int) - 128, 128 - codes.astype(int))


def test_displacements_beyond_the_largest_are_cut():
    codes = quantised(np.float32([[[100, -100], [20, -20]]]))
    assert codes.tolist() == [[[255, 255]], [[1, 1]]]


def test_a_resized_field_shrinks_with_its_frame():
    flow = np.full((120, 160, 2), (8.0, 6.0), np.float32)
    assert np.allclose(resized(flow, (40, 60)), (2, 3)) and resized(flow, (40, 60)).shape == (60, 40, 2)


@pytest.mark.parametrize("shape", [(3, 40), (12, 12), (1, 1)])
def test_frames_smaller_than_a_patch_have_a_field(shape):
    image = np.zeros(shape, np.uint8)
    assert flow_of("dis")(image, image).shape == (*shape, 2)


@pytest.mark.counts("missing libraries")
def test_what_cannot_be_made_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=f"flow.method=brox: choose from {', '.join(METHODS)}"):
        flow_of("brox")
    if not hasattr(cv2, "optflow"):
        with pytest.raises(DataError, match="flow.method=tvl1 needs .*contrib.*pip install .*flow.method=dis"):
            flow_of("tvl1")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DataError, match="pip install -e"):
        flow_of("dis")
