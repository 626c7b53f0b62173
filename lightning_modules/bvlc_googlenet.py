"""The paper's image network: BVLC's GoogLeNet, layer by layer as Caffe has it and under Caffe's names.

Source: BVLC/caffe ``models/bvlc_googlenet/deploy.prototxt`` (Szegedy et al. 2014). No batch norm; local response
normalisation after the first and third convolutions; true 5x5 branches; pooling that rounds sizes up. Auxiliary heads,
which only training has, are left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NAME = "bvlc_googlenet"
MAP = "inception_5b/output"
"""The last convolutional map, after its ReLUs: 7 x 7 x 1024 for images of 224 pixels."""
AUTHORS_SIDE = 256  # pixels: of the mean image, and of the frames that it is subtracted from
CHANNEL_MEANS = (104.0, 117.0, 123.0)  # BGR, of the mean image
INCEPTION = {  # channels of 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5, pool_proj
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
POOLED_BEFORE = {"4a": "pool3/3x3_s2", "5a": "pool4/3x3_s2"}


class LocalResponseNorm(nn.Module):
    """x · (1 + α/n Σ x²)^-β over n neighbouring channels; torch's own is several times slower on a CPU.

    The sum is a 1x1 convolution with a banded matrix. α/n goes into x before it is squared, so that half precision holds it.
    In place, for memory is what bounds it: it has no gradient.
    """

    band: Tensor

    def __init__(self, channels: int, size: int = 5, alpha: float = 1e-4) -> None:
        super().__init__()
        self.scale = math.sqrt(alpha / size)
        places = torch.arange(channels)
        near = (places[:, None] - places).abs() <= size // 2
        self.register_buffer("band", near.float()[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, rows, columns) -> the same shape; β = 0.75."""
        near = nn.functional.conv2d((self.scale * x).square_(), self.band)  # α/n Σ x²
        root = near.float().add_(1).rsqrt_()  # single also under autocast: 1 + … loses digits that the features need
        return x * root.mul_(root.sqrt()).to(x.dtype)  # root^1.5 = (…)^-0.75; a product of two types is several times slower


class Concat(nn.Module):
    """Concatenates maps along their channels; a module, so that the graph knows the result by Caffe's name."""

    def forward(self, *maps: Tensor) -> Tensor:
        """(N, c_i, rows, columns) each -> (N, Σ c_i, rows, columns)."""
        return torch.cat(maps, dim=1)


class BvlcGoogLeNet(nn.Module):
    """BVLC's GoogLeNet, 6 998 552 parameters; names of parameters are ``<Caffe's layer>.weight`` and ``.bias``.

    Args:
        side: pixels to which images are resized first, bilinearly and without a crop; None leaves them as they are.
    """

    def __init__(self, side: int | None = None) -> None:
        super().__init__()
        self.side = side
        self._convolution("conv1/7x7_s2", 3, 64, 7, stride=2)
        self.add_module("pool1/norm1", LocalResponseNorm(64))
        self._convolution("conv2/3x3_reduce", 64, 64, 1)
        self._convolution("conv2/3x3", 64, 192, 3)
        self.add_module("conv2/norm2", LocalResponseNorm(192))
        for name in ("pool1/3x3_s2", "pool2/3x3_s2", *POOLED_BEFORE.values()):
            self.add_module(name, nn.MaxPool2d(3, 2, ceil_mode=True))
        channels = 192
        for block, widths in INCEPTION.items():
            channels = self._inception(f"inception_{block}", channels, widths)
        self.add_module("pool5/7x7_s1", nn.AdaptiveAvgPool2d(1))  # Caffe's is 7x7: the same for images of 224 pixels
        self.add_module("loss3/classifier", nn.Linear(channels, 1000))

    def _convolution(self, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
        # He's initialisation: without batch norm, it alone keeps random maps from fading.
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        self.add_module(name, convolution)
        self.add_module(_relu_of(name), nn.ReLU())

    def _inception(self, block: str, inputs: int, widths: tuple[int, ...]) -> int:
        one, three_reduce, three, five_reduce, five, projection = widths
        self._convolution(f"{block}/1x1", inputs, one, 1)
        self._convolution(f"{block}/3x3_reduce", inputs, three_reduce, 1)
        self._convolution(f"{block}/3x3", three_reduce, three, 3)
        self._convolution(f"{block}/5x5_reduce", inputs, five_reduce, 1)
        self._convolution(f"{block}/5x5", five_reduce, five, 5)
        self.add_module(f"{block}/pool", nn.MaxPool2d(3, 1, padding=1, ceil_mode=True))
        self._convolution(f"{block}/pool_proj", inputs, projection, 1)
        self.add_module(f"{block}/output", Concat())
        return one + three + five + projection

    def _run(self, x: Tensor, *names: str) -> Tensor:
        """Put x through layers, each with its ReLU where it has one."""
        for name in names:
            x = self.get_submodule(name)(x)
            if _relu_of(name) in self._modules:
                x = self.get_submodule(_relu_of(name))(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) RGB, 0 to 255, minus the mean -> (N, 1000) class scores before the softmax."""
        x = images.flip(1)  # Caffe's networks see BGR
        if self.side is not None:
            x = nn.functional.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)
        x = self._run(x, "conv1/7x7_s2", "pool1/3x3_s2", "pool1/norm1")  # (N, 64, 56, 56)
        x = self._run(x, "conv2/3x3_reduce", "conv2/3x3", "conv2/norm2", "pool2/3x3_s2")  # (N, 192, 28, 28)
        for name in INCEPTION:
            if name in POOLED_BEFORE:
                x = self._run(x, POOLED_BEFORE[name])
            block = f"inception_{name}"
            branches = (
                self._run(x, f"{block}/1x1"),
                self._run(x, f"{block}/3x3_reduce", f"{block}/3x3"),
                self._run(x, f"{block}/5x5_reduce", f"{block}/5x5"),
                self._run(x, f"{block}/pool", f"{block}/pool_proj"),
            )
            x = self.get_submodule(f"{block}/output")(*branches)  # (N, Σ, rows, columns); at last (N, 1024, 7, 7)
        x = self._run(x, "pool5/7x7_s1")
        return self._run(x.flatten(1), "loss3/classifier")


def _relu_of(layer: str) -> str:
    """Caffe's name of the ReLU after a convolution: ``conv1/relu_7x7`` after ``conv1/7x7_s2``."""
    block, _, kind = layer.partition("/")
    return f"{block}/relu_{kind.removesuffix('_s2')}"
