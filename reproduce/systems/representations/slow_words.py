"""A bag of words of slow features of gray frames, in the manner of DL-SFA.

Source: Sun, Jia, Chan, Fang, Wang & Yan, DL-SFA: deeply-learned slow feature analysis for action recognition, CVPR 2014, in
outline; several of its constants are not public. Sizes and the chain after the layers follow Le et al., CVPR 2011.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from datamodules.stores import Store
from datamodules.videos import Annotation
from lightning_modules.encoders.slow_features import BagOfWords, SlowOptions, fit_bag_of_words, shares
from reproduce.systems.representations.base import Representation


class SlowWords(Representation):
    """The histogram of a video's blocks over words, of sum 1."""

    histograms = True
    notes = ("DL-SFA style: layer sizes after Le et al. (2011), non-linearity and scaling chosen here",)
    bag: BagOfWords

    def learn(self, videos: Annotation) -> None:
        """Fit both layers and the words to train's frames."""
        chosen = self.settings.slow_features
        options = SlowOptions(
            cube=_three(chosen.cube, "cube"),
            block=_three(chosen.block, "block"),
            dimensions=_two(chosen.dimensions),
            response=chosen.response,
            words=chosen.words,
        )
        clips = _Clips(self.stores["gray"], sorted(video.name for video in videos.train))
        self.bag = fit_bag_of_words(clips, options, self.settings.seed)

    def arrays(self) -> dict[str, np.ndarray]:
        """Of the bag of words."""
        return self.bag.arrays()

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take a bag of words that was learned before."""
        self.bag = BagOfWords.from_arrays(arrays)

    @property
    def length(self) -> int:
        """The number of words."""
        return self.settings.slow_features.words

    def vector(self, name: str) -> np.ndarray:
        """Each word's share of the blocks; zeros of a video that is shorter than one."""
        return shares(self.bag.counts(self.stores["gray"].read(name)).astype(np.float32))


class _Clips(Collection):
    """Videos' gray frames, (F, h, w) each, read anew at each time."""

    def __init__(self, store: Store, names: Sequence[str]) -> None:
        self.store, self.names = store, names

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.store.read(name) for name in self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names


def _three(sizes: Sequence[int], what: str) -> tuple[int, int, int]:
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"slow_features.{what}={list(sizes)}: give frames, rows and columns")
    return sizes[0], sizes[1], sizes[2]


def _two(sizes: Sequence[int]) -> tuple[int, int]:
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"slow_features.dimensions={list(sizes)}: give the outputs of the first and of the second layer")
    return sizes[0], sizes[1]


make = SlowWords
