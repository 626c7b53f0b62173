import math

import numpy as np
import pytest

from datamodules.descriptors.histograms import WIDTHS, describe

RNG = np.random.default_rng(0)
POINTS = np.array([[40, 30], [50, 28], [1, 2], [79, 59], [79, 0], [17, 44]])  # the latter ones' windows are moved inside
HOG, HOF, MBHX, MBHY = (slice(end - width, end) for end, width in zip(np.cumsum(WIDTHS), WIDTHS, strict=True))


def plain(image, flow, point):
    """One point's numbers, pixel by pixel from the definition."""
    height, width = image.shape
    left, top = min(max(point[0] - 16, 0), width - 32), min(max(point[1] - 16, 0), height - 32)

    def central(field, x, y):
        left_x, right_x = (x + 1 if x == 0 else x - 1), (x - 1 if x == width - 1 else x + 1)  # mirrored at the border
        above, below = (y + 1 if y == 0 else y - 1), (y - 1 if y == height - 1 else y + 1)
        return float(field[y, right_x]) - float(field[y, left_x]), float(field[below, x]) - float(field[above, x])

    fields = [
        (8, lambda x, y: central(image, x, y)),
        (9, lambda x, y: flow[y, x]),
        (8, lambda x, y: central(flow[..., 0], x, y)),
        (8, lambda x, y: central(flow[..., 1], x, y)),
    ]
    numbers = []
    for bins, vector in fields:
        cells = np.zeros((2, 2, bins))
        for y in range(32):
            for x in range(32):
                dx, dy = vector(left + x, top + y)
                length, place = math.hypot(dx, dy), math.atan2(dy, dx) * 8 / (2 * math.pi) % 8
                cell = cells[x // 16, y // 16]
                if bins == 9 and length <= 0.4:
                    cell[8] += 1
                else:
                    cell[int(place) % 8] += length * (1 - place % 1)
                    cell[(int(place) + 1) % 8] += length * (place % 1)
        numbers.append(np.sqrt((cells.ravel() + 0.05) / (cells + 0.05).sum()))
    return np.concatenate(numbers)


def test_numbers_are_those_of_the_definition_pixel_by_pixel():
    image = RNG.integers(0, 256, (60, 80)).astype(np.uint8)
    flow = RNG.normal(scale=0.6, size=(60, 80, 2)).astype(np.float32)
    found = describe(image, flow, POINTS)
    assert found.shape == (6, 132)
    for numbers, point in zip(found, POINTS, strict=True):
        assert numbers == pytest.approx(plain(image, flow, point), abs=2e-3)  # OpenCV's angles are right within 0.3°


def test_squares_of_each_channel_sum_to_one():
    found = describe(RNG.integers(0, 256, (60, 80)).astype(np.uint8), RNG.normal(size=(60, 80, 2)).astype(np.float32), POINTS)
    for channel in (HOG, HOF, MBHX, MBHY):
        assert (found[:, channel] ** 2).sum(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("low, high, orientation", [(10, 210, 0), (210, 10, 4)])
def test_vertical_edge_fills_one_orientation(low, high, orientation):
    image = np.full((60, 80), low, np.uint8)
    image[:, 40:] = high
    squares = describe(image, np.zeros((60, 80, 2), np.float32), np.array([[40, 30]]))[0, HOG].reshape(2, 2, 8) ** 2
    # 16 rows of a cell, each with one pixel next to the edge, whose difference is 200: left and right alike.
    total = 4 * 16 * 200 + 32 * 0.05
    expected = np.full((2, 2, 8), 0.05 / total)
    expected[..., orientation] = (16 * 200 + 0.05) / total
    assert squares == pytest.approx(expected, rel=1e-4)


def test_still_flow_fills_the_ninth_bin_alone():
    found = describe(np.zeros((60, 80), np.uint8), np.zeros((60, 80, 2), np.float32), POINTS)[:, HOF].reshape(-1, 4, 9)
    total = 4 * 256 + 36 * 0.05
    assert found[..., 8] == pytest.approx(math.sqrt((256 + 0.05) / total), rel=1e-6)
    assert found[..., :8] == pytest.approx(math.sqrt(0.05 / total), rel=1e-5)


def test_uniform_flow_has_no_motion_boundary():
    flow = np.full((60, 80, 2), 3, np.float32)
    found = describe(np.zeros((60, 80), np.uint8), flow, POINTS)
    assert found[:, MBHX] == pytest.approx(math.sqrt(1 / 32)) and found[:, MBHY] == pytest.approx(math.sqrt(1 / 32))
    assert (found[:, HOF].reshape(-1, 4, 9).argmax(axis=2) == 1).all()  # 45°


def test_frame_smaller_than_the_window_is_the_window():
    found = describe(
        RNG.integers(0, 256, (12, 20)).astype(np.uint8), np.zeros((12, 20, 2), np.float32), np.array([[3, 3], [19, 0]])
    )
    assert np.isfinite(found).all()
    assert np.array_equal(found[0, HOF], found[1, HOF])
