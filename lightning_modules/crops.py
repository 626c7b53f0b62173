"""Crops of frames and of stacked optical flow, as the streams of Simonyan & Zisserman (2014) see them.

Shapes: N images, C channels, (h, w) their size, s a crop's side, L stacked fields.

Source: Two-stream convolutional networks for action recognition in videos, NIPS 2014.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CROPS = 10
CENTRE = 4  # of the ten, the one that stands in the middle and is not mirrored
PIXELS = 20 / 127  # of the stored size, that a code of flow stands for, see datamodules/descriptors/flow.py
JITTER = 0.1  # σ of a training image's colour shift along each principal axis
# Of ImageNet's pixels in [0, 1]: deviation along each principal axis of RGB, and the axes as columns (Krizhevsky et al. 2012).
AXES_DEVIATION = (0.2175, 0.0188, 0.0045)
AXES = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def corners(height: int, width: int, side: int) -> list[tuple[int, int]]:
    """List (top, left) of five crops: the four corners, then the centre.

    Raises:
        ValueError: the crop is larger than the image.
    """
    if side > min(height, width):
        raise ValueError(f"a crop of {side} x {side} pixels does not lie in {height} x {width}")
    bottom, right = height - side, width - side
    return [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]


def mirrored(images: Tensor, flow: bool = False) -> Tensor:
    """Mirror images (…, C, h, w) left to right; of flow, d^x, the even channels, changes its sign."""
    images = images.flip(-1)
    if flow:
        sign = torch.ones(images.shape[-3], 1, 1, device=images.device)
        sign[::2] = -1
        images = images * sign
    return images


def ten_crops(images: Tensor, side: int, flow: bool = False) -> Tensor:
    """Cut out four corners and the centre, and the mirror image of each: (N, C, h, w) -> (N, 10, C, s, s)."""
    places = corners(images.shape[-2], images.shape[-1], side)
    five = torch.stack([images[..., top : top + side, left : left + side] for top, left in places], dim=1)
    return torch.cat([five, mirrored(five, flow)], dim=1)


def random_crops(images: Tensor, side: int, flow: bool = False) -> Tensor:
    """Cut a crop out of each image, anywhere, and mirror half of them: (N, C, h, w) -> (N, C, s, s)."""
    room = torch.tensor(images.shape[-2:]) - side + 1
    places = (torch.rand(len(images), 2) * room).long().tolist()
    cut = [image[:, top : top + side, left : left + side] for image, (top, left) in zip(images, places, strict=True)]
    mirror = (torch.rand(len(images)) < 0.5).to(images.device)[:, None, None, None]
    crops = torch.stack(cut)
    return torch.where(mirror, mirrored(crops, flow), crops)


def jittered(images: Tensor) -> Tensor:
    """Shift each RGB image's colours along the principal axes of natural images, by N(0, 0.1²) of their deviations.

    Args:
        images: (N, 3, h, w), pixels from 0 to 255.
    """
    axes = torch.tensor(AXES) * torch.tensor(AXES_DEVIATION)
    shifts = 255 * JITTER * torch.randn(len(images), 3) @ axes.T
    return images + shifts.to(images.device)[:, :, None, None]


def stacked(fields: Tensor) -> Tensor:
    """Stack consecutive fields as channels and subtract each one's mean vector.

    I(2k−1) = d^x_{τ+k−1}, I(2k) = d^y_{τ+k−1}, k = 1 … L, each without its mean over the whole field, which camera motion
    contributes to.

    Args:
        fields: (N, L, 2, h, w) uint8 codes.

    Returns:
        (N, 2L, h, w) float32, in codes.
    """
    return _centred(fields).flatten(1, 2)


def followed(fields: Tensor) -> Tensor:
    """Stack displacements along the trajectory that begins at each pixel, and subtract each field's mean vector.

    I(2k−1), I(2k) = d_{τ+k−1}(p_k), p_1 = (u, v), p_k = p_{k−1} + d_{τ+k−2}(p_{k−1}), bilinear; what leaves the image stays at
    its edge.

    Args:
        fields: (N, L, 2, h, w) uint8 codes.

    Returns:
        (N, 2L, h, w) float32, in codes.
    """
    steps = (fields.float() - 128) * PIXELS
    both = torch.cat([_centred(fields), steps], dim=2)  # (N, L, 4, h, w)
    height, width = fields.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([columns, rows], dim=-1).to(steps).expand(len(fields), -1, -1, -1)  # (N, h, w, 2)
    size, found = torch.tensor([width, height]).to(steps), []
    for field in both.unbind(dim=1):
        there = functional.grid_sample(field, (2 * place + 1) / size - 1, padding_mode="border", align_corners=False)
        found.append(there[:, :2])
        place = place + there[:, 2:].permute(0, 2, 3, 1)
    return torch.cat(found, dim=1)


def _centred(fields: Tensor) -> Tensor:
    values = fields.float()
    return values - values.mean(dim=(-2, -1), keepdim=True)
