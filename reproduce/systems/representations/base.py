"""What a representation is, and what those of local descriptors share. Free of torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.stores import Store
from datamodules.videos import Annotation
from lightning_modules.encoders.fisher import Encoder, fit_encoder
from reproduce.common.settings import Settings

ROWS = 32_768  # descriptors that are read at a time, so that memory does not grow with a video's length


class Representation(ABC):
    """One vector a video; goes to other processes, so it can be pickled.

    Args:
        settings: of the run.
        stores: by kind, what it is made from.
    """

    histograms = False
    """Whether vectors are compared by the χ² kernel, and classes weighed by their sizes."""
    notes: tuple[str, ...] = ()
    """What a table has to say of it."""

    def __init__(self, settings: Settings, stores: Mapping[str, Store]) -> None:
        self.settings, self.stores = settings, dict(stores)

    def learn(self, videos: Annotation) -> None:  # noqa: B027 - what learns nothing leaves it as it is
        """Fit to train, with the run's seed; nothing where nothing is learned."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learned, by name."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:  # noqa: B027 - likewise
        """Take what was learned before."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Numbers of a vector, once learned."""

    @abstractmethod
    def vector(self, name: str) -> np.ndarray:
        """The vector of a video, (length,) float32; zeros where the video has nothing to describe."""


class Channels(Representation):
    """A representation with an encoder for each channel of local descriptors."""

    def __init__(self, settings: Settings, stores: Mapping[str, Store]) -> None:
        super().__init__(settings, stores)
        self.encoders: dict[str, Encoder] = {}

    @abstractmethod
    def channels(self) -> Mapping[str, slice]:
        """Name of each channel -> its columns among a descriptor's."""

    def kept(self, width: int) -> int:
        """Numbers that PCA leaves of a channel's descriptor."""
        return max(1, width // 2)

    @abstractmethod
    def descriptors(self, name: str) -> Sequence[np.ndarray]:
        """A video's local descriptors, (n, d) each, memory-mapped."""

    def prepared(self, channel: str, descriptors: np.ndarray) -> np.ndarray:
        """A channel's descriptors as they are encoded, float32."""
        return np.asarray(descriptors, dtype=np.float32)

    def learn(self, videos: Annotation) -> None:
        """Fit each channel's PCA and mixture to as many descriptors of every train video."""
        chosen, seed = self.settings.encoder, self.settings.seed
        share = -(-chosen.samples // len(videos.train))
        names = sorted(video.name for video in videos.train)
        for channel in self.channels():
            generator = np.random.default_rng(seed)  # the same descriptors for every channel
            drawn = [self._drawn(name, channel, share, generator) for name in names]
            samples = np.concatenate(drawn)[: chosen.samples]
            self.encoders[channel] = fit_encoder(
                samples, components=chosen.components, dimensions=self.kept(samples.shape[1]), seed=seed
            )

    def _drawn(self, name: str, channel: str, share: int, generator: np.random.Generator) -> np.ndarray:
        found, columns = self.descriptors(name), self.channels()[channel]
        total = sum(map(len, found))
        rows = np.sort(generator.permutation(total)[:share])
        parts, begin = [], 0
        for one in found:
            inside = rows[(rows >= begin) & (rows < begin + len(one))] - begin
            parts.append(self.prepared(channel, one[inside][:, columns]))
            begin += len(one)
        return np.concatenate(parts)

    def arrays(self) -> dict[str, np.ndarray]:
        """Of every encoder, ``<channel>/<name>``."""
        return {f"{channel}/{key}": value for channel, one in self.encoders.items() for key, value in one.arrays().items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take encoders that were learned before."""
        for channel in self.channels():
            own = {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith(f"{channel}/")}
            self.encoders[channel] = Encoder.from_arrays(own)

    def gradients(self, channel: str, descriptors: Sequence[np.ndarray]) -> np.ndarray:
        """The Fisher vector of some descriptors under a channel's mixture, (2Kd,), as it comes."""
        encoder, columns = self.encoders[channel], self.channels()[channel]
        pieces = (one[begin : begin + ROWS, columns] for one in descriptors for begin in range(0, len(one), ROWS))
        sums = np.zeros((len(encoder.weights), 1 + 2 * len(encoder.axes)))
        for piece in pieces:
            sums += encoder.sums(self.prepared(channel, piece))
        return encoder.gradients(sums)

    @property
    def gradients_length(self) -> int:
        """Σ_channels 2Kd."""
        return sum(2 * encoder.means.size for encoder in self.encoders.values())
