"""Ten crops by their corners, mirrored pairs, stacked flow by the paper's equations."""

import numpy as np
import pytest
import torch

from datamodules.descriptors import flow
from lightning_modules.crops import (
    CENTRE,
    CROPS,
    PIXELS,
    corners,
    followed,
    jittered,
    mirrored,
    random_crops,
    stacked,
    ten_crops,
)


def images(count: int = 2, channels: int = 3, height: int = 9, width: int = 12) -> torch.Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(0))


def test_the_crops_are_four_corners_and_the_centre_then_their_mirror_images():
    given = images()
    crops = ten_crops(given, 5)
    assert crops.shape == (2, CROPS, 3, 5, 5)
    assert corners(9, 12, 5) == [(0, 0), (0, 7), (4, 0), (4, 7), (2, 3)]
    for number, (top, left) in enumerate(corners(9, 12, 5)):
        assert torch.equal(crops[:, number], given[:, :, top : top + 5, left : left + 5])
        assert torch.equal(crops[:, number + 5], crops[:, number].flip(-1))
    assert torch.equal(crops[:, CENTRE], given[:, :, 2:7, 3:8])


def test_the_crops_of_a_mirror_symmetric_image_pair_up():
    half = images(width=6)
    crops = ten_crops(torch.cat([half, half.flip(-1)], dim=-1), 6)
    for crop, partner in ((0, 6), (1, 5), (2, 8), (3, 7), (4, 9)):  # a left corner is the mirror image of the right one
        assert torch.equal(crops[:, crop], crops[:, partner])


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="crop of 10 x 10 .* 9 x 12"):
        ten_crops(images(), 10)


def test_random_crops_lie_anywhere_and_half_of_them_are_mirrored():
    place = torch.arange(9 * 12.0).view(1, 1, 9, 12).expand(4000, 1, 9, 12)
    torch.manual_seed(0)
    crops = random_crops(place, 5)
    is_mirrored = crops[:, 0, 0, 0] > crops[:, 0, 0, 1]
    assert abs(float(is_mirrored.float().mean()) - 0.5) < 0.04
    corner = torch.where(is_mirrored, crops[:, 0, 0, -1], crops[:, 0, 0, 0]).long()
    found = {(int(one) // 12, int(one) % 12) for one in corner}
    assert found == {(top, left) for top in range(5) for left in range(8)}


def test_mirrored_flow_changes_the_sign_of_x_alone():
    flow = images(channels=6)
    turned = mirrored(flow, flow=True)
    assert torch.equal(turned[:, ::2], -flow[:, ::2].flip(-1)) and torch.equal(turned[:, 1::2], flow[:, 1::2].flip(-1))
    assert torch.equal(mirrored(turned, flow=True), flow)
    assert torch.equal(ten_crops(flow, 5, flow=True)[:, 5:], mirrored(ten_crops(flow, 5)[:, :5], flow=True))


def test_channels_are_x_and_y_of_each_field_in_turn():
    """d^x of field t is t · p, d^y is −t · p, of a pattern p without mean."""
    pattern = np.tile([[-1, 1], [1, -1]], (2, 3))
    times = np.arange(1, 11)[:, None, None]
    fields = np.stack([times * pattern, -times * pattern], axis=1) + 128
    channels = stacked(torch.from_numpy(fields.astype(np.uint8))[None])[0]
    assert channels.shape == (20, 4, 6)
    for t in range(1, 11):
        assert np.allclose(channels[2 * t - 2], t * pattern) and np.allclose(channels[2 * t - 1], -t * pattern)


def test_each_fields_mean_vector_is_subtracted_whatever_the_camera_does():
    random = torch.Generator().manual_seed(0)
    fields = torch.randint(60, 180, (3, 10, 2, 8, 9), generator=random, dtype=torch.uint8)
    channels = stacked(fields)
    assert channels.mean(dim=(-2, -1)).abs().max() < 1e-4
    panned = fields + torch.randint(0, 40, (3, 10, 2, 1, 1), generator=random, dtype=torch.uint8)
    assert torch.allclose(stacked(panned), channels, atol=1e-4)


def test_colours_shift_along_natural_images_axes():
    torch.manual_seed(0)
    shifts = (jittered(torch.full((20_000, 3, 1, 1), 100.0)) - 100).flatten(1)
    deviations = torch.linalg.eigvalsh(shifts.T.cov()).sqrt() / 25.5
    assert torch.allclose(deviations, torch.tensor([0.0045, 0.0188, 0.2175]), rtol=0.05)


def test_along_trajectories_each_field_is_read_where_the_one_before_led():
    assert flow.LARGEST / flow.CODES == PIXELS
    fields = torch.full((2, 3, 2, 6, 70), 128, dtype=torch.uint8)
    fields[:, :, 0] = 128 + flow.CODES  # 20 pixels to the right
    fields[0, 2, 1, 3, 45] = 138
    found, plain = followed(fields), stacked(fields)
    assert torch.allclose(found[:, :2], plain[:, :2], atol=1e-3)
    for k in range(3):
        places = (torch.arange(70) + 20 * k).clamp_max(69)
        assert torch.allclose(found[:, 2 * k : 2 * k + 2], plain[:, 2 * k : 2 * k + 2, :, places], atol=1e-2)
    assert found[0, 5, 3, 5] == pytest.approx(10, abs=0.1), "what lies 40 pixels on comes to where the trajectory began"


def test_without_motion_trajectories_are_the_fields():
    fields = torch.full((1, 4, 2, 5, 7), 128, dtype=torch.uint8)
    assert torch.equal(followed(fields), stacked(fields))
    fields[:, 3] = torch.randint(0, 256, (2, 5, 7), dtype=torch.uint8)  # the last one leads nowhere
    assert torch.allclose(followed(fields), stacked(fields), atol=1e-3)
