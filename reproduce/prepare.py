"""Prepare one data set: check what is on disk, decode every video, extract features.

    python reproduce/prepare.py data.name=ucf11 paths.data=/data
    python reproduce/prepare.py preset=miniature data.name=hmdb51
    python reproduce/prepare.py data.name=ucf11 backbone.weights=released released=/data/their_features

Continues where an earlier call stopped. Videos that do not decode are listed at the end and make the exit status 1,
unless data.skip_bad=true, which leaves them out of every run and says so in every table.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from datamodules.videos import DataError
from reproduce.inputs import fail, feature_folder, read_annotation
from reproduce.settings import Settings, SettingsError, command_line


@dataclass
class PrepareSettings(Settings):
    """Settings of prepare.py: those of a run, and two more."""

    released: Optional[str] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """folder with the released code's train_features.h5 … to import, with backbone.weights=released"""
    retry_bad: bool = False
    """try again to decode the videos that earlier calls found bad"""


def main(argv: list[str] | None = None) -> Path:
    """Prepare a data set; returns the feature store's folder."""
    settings = command_line(PrepareSettings, __doc__ or "", argv)
    try:
        annotation = read_annotation(settings)
        print(
            f"{annotation.data}, split {annotation.split}: {len(annotation.train)} train and {len(annotation.test)} test "
            f"videos of {len(annotation.classes)} classes in {annotation.folder.resolve()}",
            flush=True,
        )
        store = _features(settings, annotation)
    except (DataError, SettingsError) as error:
        raise fail(error) from error
    _report(store, [video.name for video in annotation.videos], settings.data.skip_bad)
    return store.path


def _features(settings: PrepareSettings, annotation):
    from datamodules.features import FeatureStore

    if settings.retry_bad:
        FeatureStore(feature_folder(settings)).forget_bad()
    if settings.released:
        from datamodules.released import import_features

        if settings.backbone.weights != "released":
            raise SettingsError(f"released={settings.released}: goes with backbone.weights=released")
        store = FeatureStore(feature_folder(settings))
        import_features(Path(settings.released), store, {video.name for video in annotation.videos})
        return store
    from lightning_modules.backbone import BackboneError
    from reproduce.extraction import ensure_features, quiet_lightning

    quiet_lightning()
    try:
        return ensure_features(settings, annotation)
    except BackboneError as error:
        raise SettingsError(str(error)) from error


def _report(store, names: list[str], skip_bad: bool) -> None:
    good = [name for name in names if name in store.videos]
    frames = sum(store.frames(name) for name in good)
    rows, columns = store.grid
    print(f"{len(good)} videos, {frames} frames of {rows}x{columns}x{store.channels} features in {store.path.resolve()}")
    lying = [name for name in good if store.videos[name]["declared_frames"] not in (0, store.frames(name))]
    if lying:
        first = store.videos[lying[0]]
        print(
            f"note: the headers of {len(lying)} videos claim another number of frames than were decoded, {lying[0]!r} "
            f"{first['declared_frames']} instead of {first['frames']}; the decoded ones count"
        )
    bad = [name for name in names if name in store.bad]
    for name in bad:
        print(f"bad: {name}: {store.bad[name]}", file=sys.stderr)
    if bad and not skip_bad:
        print(
            f"error: {len(bad)} of {len(names)} videos do not decode. Replace the files and run again with "
            "retry_bad=true, or leave them out of every run with data.skip_bad=true",
            file=sys.stderr,
        )
        raise SystemExit(1)


if __name__ == "__main__":
    main()
