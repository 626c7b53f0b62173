"""The plain ways of doing the suite's work, as one writes them first. ``benchmark.py`` measures against them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.blocks import BLOCK_LENGTH
from datamodules.decoding import read_frames
from lightning_modules.attention import Head, InitialState
from lightning_modules.backbone import Backbone
from lightning_modules.frames import Output


class CellByCell(nn.Module):
    """The soft attention model (Eqs. 1-6) with an ``nn.LSTMCell`` a layer, in a Python loop under autograd.

    Args:
        locations: K.
        channels: D.
        num_classes: C.
        hidden_dim: H.
        num_layers: L.
        dropout: probability of a zero at every site.
    """

    def __init__(
        self, locations: int, channels: int, num_classes: int, hidden_dim: int = 512, num_layers: int = 3, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.attention = nn.Linear(hidden_dim, locations, bias=False)
        self.initial_state = InitialState(channels, hidden_dim, num_layers)
        sizes = [channels, *[hidden_dim] * (num_layers - 1)]
        self.cells = nn.ModuleList(nn.LSTMCell(size, hidden_dim) for size in sizes)
        self.head = Head(hidden_dim, num_classes, dropout)
        self.dropout = dropout

    def forward(self, X: Tensor) -> Output:
        """X (B, T, K, D) -> logits (B, T, C), attention (B, T, K)."""
        X = X.float()
        h_0, c_0 = self.initial_state(X.mean(dim=(1, 2)))
        h, c = list(h_0), list(c_0)
        hidden, attention = [], []
        for t in range(X.shape[1]):
            l_t = torch.softmax(self.attention(h[-1]), dim=1)
            x = torch.einsum("bk,bkd->bd", l_t, X[:, t])
            for layer, cell in enumerate(self.cells):
                h[layer], c[layer] = cell(F.dropout(x, self.dropout, self.training), (h[layer], c[layer]))
                x = h[layer]
            hidden.append(x)
            attention.append(l_t)
        return Output(self.head(torch.stack(hidden, dim=1)), torch.stack(attention, dim=1))


def stacked_blocks(frames: Tensor) -> Tensor:
    """All stride-1 blocks of a video, (F, …) -> (F - 29, 30, …): every frame up to 30 times."""
    return torch.stack([frames[start : start + BLOCK_LENGTH] for start in range(len(frames) - BLOCK_LENGTH + 1)])


def extract(videos: list[Path], backbone: Backbone, side: int, batch: int = 32) -> Iterator[Tensor]:
    """A network's map of every frame: decode a video, run float32 batches, as torch lays them out. Yields (n, K, D)."""
    plain = copy.deepcopy(backbone).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for video in videos:
        images = [torch.from_numpy(image).permute(2, 0, 1) for image in read_frames(video, side)]
        for begin in range(0, len(images), batch):
            frames = torch.stack(images[begin : begin + batch]).contiguous().to(plain.mean.device)
            with torch.no_grad():
                yield plain(frames)
