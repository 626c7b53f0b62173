"""The attention overlay against scikit-image, and filmstrips."""

import numpy as np
import pytest
from skimage.filters import gaussian
from skimage.transform import pyramid_expand, resize

from reproduce.visual.overlay import GAP, expand, filmstrip, overlay

# A softmax over 49 cells, sharp in one corner and beside the middle.
MAP = np.exp(np.cos(np.arange(49) ** 2 / 5).reshape(7, 7) * 2)
MAP[0, 0], MAP[3, 4] = 20, 30
MAP /= MAP.sum()


def random_frame(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def recipe(frame, alpha, upscale):
    """The notebook's lines, with scikit-image, in real numbers."""
    light = pyramid_expand(alpha, upscale=upscale, sigma=20)
    return 0.8 * 255 * (light / light.max())[:, :, None] + 0.2 * frame


def test_the_overlay_is_the_notebooks_recipe():
    frame = random_frame(224, 224)
    drawn = overlay(frame, MAP)
    assert drawn.shape == (224, 224, 3) and drawn.dtype == np.uint8
    assert np.abs(drawn - recipe(frame, MAP, 32)).max() <= 0.5 + 1e-9  # of 255: what rounding takes
    np.testing.assert_allclose(expand(MAP, 224, 224), pyramid_expand(MAP, upscale=32, sigma=20), atol=1e-12)


@pytest.mark.parametrize(("grid", "upscale"), [((14, 14), 16), ((4, 6), 32), ((1, 3), 32), ((2, 1), 8), ((5, 5), 44.8)])
def test_other_grids_draw_the_same(grid, upscale):
    alpha = np.random.default_rng(1).dirichlet(np.ones(grid[0] * grid[1])).reshape(grid)
    frame = random_frame(*(round(upscale * cells) for cells in grid))
    assert np.abs(overlay(frame, alpha) - recipe(frame, alpha, upscale)).max() <= 0.5 + 1e-9


def test_frames_that_are_no_multiple_of_the_map_are_filled():
    expected = gaussian(resize(MAP, (120, 161), order=1, mode="reflect", anti_aliasing=False), sigma=9, mode="reflect")
    np.testing.assert_allclose(expand(MAP, 120, 161, sigma=9), expected, atol=1e-12)


def test_the_brightest_spot_is_white_and_the_minimum_is_not_subtracted():
    black = overlay(np.zeros((224, 224, 3), dtype=np.uint8), MAP)
    assert black.max() == 204 and black.min() > 0
    assert overlay(np.full((224, 224, 3), 255, dtype=np.uint8), MAP).max() == 255
    middle = overlay(np.zeros((224, 224, 3), dtype=np.uint8), np.eye(7)[3][:, None] * np.eye(7)[3])[:, :, 0]
    assert middle[112, 112] == 204 and middle[0, 0] == 0
    np.testing.assert_array_equal(middle, middle[::-1, ::-1])


def test_uniform_attention_greys_the_frame_evenly():
    frame = random_frame(96, 128)
    np.testing.assert_array_equal(overlay(frame, np.full((7, 7), 1 / 49)), np.rint(204 + 0.2 * frame))


def test_a_filmstrip_has_a_column_per_frame_with_the_original_above():
    frames = np.stack([random_frame(32, 48, seed) for seed in range(3)])
    maps = np.random.default_rng(2).random((3, 4, 6))
    strip = filmstrip(frames, maps)
    assert strip.shape == (64 + GAP, 3 * 48 + 2 * GAP, 3) and strip.dtype == np.uint8
    for column in range(3):
        across = slice(column * (48 + GAP), column * (48 + GAP) + 48)
        np.testing.assert_array_equal(strip[:32, across], frames[column])
        np.testing.assert_array_equal(strip[32 + GAP :, across], overlay(frames[column], maps[column]))
    assert (strip[32 : 32 + GAP] == 255).all() and (strip[:, 48 : 48 + GAP] == 255).all()
