"""Vector stores: what a representation learned of train, and the vector of every video, made once for all systems that take it.

A store's folder bears the representation's name and a hash of what decides the vectors: the stores it is made from, settings,
and, where something is learned, seed and train. ``learned.npz`` beside the manifest holds what was; its fingerprint is part of
the manifest. A vector whose source was made anew since is made anew too. Free of torch.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from datamodules.files import write_atomically
from datamodules.manifest import VECTORS, ArraySpec, FeatureStoreError, StoreSpec, prefixes_of
from datamodules.stores import Store
from datamodules.videos import Annotation, DataError
from lightning_modules.encoders.fitted import fingerprint
from lightning_modules.encoders.kernels import chi_square_kernel, gram, trace_normalised
from reproduce.common.dataset import store_folder
from reproduce.common.files import Need, check_space
from reproduce.common.processes import cores, locked
from reproduce.common.representations import REPRESENTATIONS
from reproduce.common.settings import Settings, get
from reproduce.systems.representations.base import Representation
from reproduce.systems.video_processes import Pieces, fill

LEARNED = "learned.npz"
SOURCE = "source_crc32"


def _plain(value: Any) -> Any:
    """A setting's value as a manifest states it."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class Encoding:
    """Makes one video's vector.

    Args:
        representation: fitted.
    """

    representation: Representation

    def __call__(self, name: str) -> Pieces:
        """One row."""
        yield (self.representation.vector(name)[None],)
        return {SOURCE: source_of(self.representation.stores, name)}


def source_of(stores: Mapping[str, Store], name: str) -> int:
    """CRC-32 of what a video's vector is made from."""
    found = [store.videos[name].get(f"{prefix}crc32", 0) for store in stores.values() for prefix in prefixes_of(store.spec)]
    return int(hashlib.sha256(repr(found).encode()).hexdigest()[:8], 16)


class VideoVectors:
    """The vectors of one representation of a data set under one split.

    Args:
        name: of the representation in the catalogue.
        settings: of the run.
        videos: the data set, without videos that do not decode.
        stores: by kind, what systems read; those of the representation among them.

    Raises:
        FeatureStoreError: the store there is damaged.
    """

    def __init__(self, name: str, settings: Settings, videos: Annotation, stores: Mapping[str, Store]) -> None:
        self.info, self.settings, self.videos = REPRESENTATIONS[name], settings, videos
        own = {kind: stores[kind] for kind in self.info.stores}
        self.representation: Representation = import_module(self.info.module).make(settings, own)
        train = [video.name for video in videos.train]
        made_from: dict[str, Any] = {"representation": name} | {key: _plain(get(settings, key)) for key in self.info.settings}
        for kind, store in own.items():
            made_from[kind] = store.fingerprint(train if self.info.learned else [])
        if self.info.learned:
            labels = [(video.name, video.labels) for video in sorted(videos.train, key=lambda video: video.name)]
            digest = hashlib.sha256(json.dumps(labels).encode()).hexdigest()
            made_from |= {"seed": settings.seed, "train": digest}
        self.made_from = made_from
        digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
        self.path = store_folder(settings, VECTORS) / f"{name}-{digest}"

    def ensure(self, names: Sequence[str]) -> Store:
        """Learn, where nothing was learned yet, and make the vectors of some videos that are missing.

        Another process that makes the same is waited for.

        Raises:
            FeatureStoreError: the store cannot be written, or was made from something else.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with locked(self.path / ".lock"):
                for unfinished in self.path.rglob("*.part"):  # left by a killed process
                    unfinished.unlink()
                self._learn()
                store, spec = Store(self.path), self._spec()
                store.begin(spec, {"notes": list(self.representation.notes)})
                missing = [name for name in names if not self._is_there(store, name)]
                check_space(
                    [Need(self.path, 4 * len(missing) * self.representation.length, f"vectors of {len(missing)} videos")]
                )
                if missing:
                    sizes = {name: sum(kind.rows(name) for kind in self.representation.stores.values()) for name in missing}
                    processes = self.settings.trainer.threads or cores()
                    fill(store, sizes, Encoding(self.representation), processes, f"encoding {self.info.label}")
                    store.merge()
        except OSError as error:
            raise FeatureStoreError(
                f"cannot write vectors to {self.path.resolve()} ({error}); make room or set paths.features, and run it again"
            ) from error
        return Store(self.path)

    def _learn(self) -> None:
        path = self.path / LEARNED
        if not self.info.learned:
            return
        if path.is_file():
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    self.representation.restore(dict(arrays))
                return
            except (OSError, ValueError, EOFError, KeyError) as error:
                raise FeatureStoreError(f"{path}: not readable ({error}). Remove {self.path} and run it again") from error
        print(f"fitting {self.info.label} to {len(self.videos.train)} train videos", flush=True)
        try:
            self.representation.learn(self.videos)
        except ValueError as error:
            raise DataError(f"{self.info.label}: {error}") from error
        file = io.BytesIO()
        np.savez(file, **self.representation.arrays())  # type: ignore[arg-type]
        write_atomically(path, file.getvalue())

    def _spec(self) -> StoreSpec:
        arrays = (ArraySpec("vector", "<f4", (self.representation.length,)),)
        learned = fingerprint(self.representation.arrays()) if self.info.learned else None
        return StoreSpec(VECTORS, arrays, {**self.made_from, "learned": learned})

    def _is_there(self, store: Store, name: str) -> bool:
        return not store.missing([name]) and store.videos[name].get(SOURCE) == source_of(self.representation.stores, name)

    def kernel(self, names: Sequence[str]) -> np.ndarray:
        """The kernel of some videos, whose vectors are there, (V, V) float32, with a mean of 1 over train's diagonal.

        Args:
            names: of the train videos first, then others.

        Raises:
            DataError: the train videos' vectors are all zero, or all equal histograms.
        """
        store, train = Store(self.path), np.arange(len(self.videos.train))

        def read(start: int, stop: int) -> np.ndarray:
            return np.concatenate([store.read(name) for name in names[start:stop]])

        try:
            if self.representation.histograms:
                return chi_square_kernel(read(0, len(names)), train)
            return trace_normalised(gram(read, len(names)), train)
        except ValueError as error:
            raise DataError(f"{self.info.label}: {error}") from error
