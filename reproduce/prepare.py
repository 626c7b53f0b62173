"""Prepare one data set: get it, check what is on disk, decode every video, extract features.

    python reproduce/prepare.py data.name=ucf11 paths.data=/data
    python reproduce/prepare.py data.name=ucf11 paths.data=/data download=true
    python reproduce/prepare.py data.name=hmdb51 archive=[~/hmdb51_org.rar,~/test_train_splits.rar] delete=videos
    python reproduce/prepare.py data.name=hmdb51 data.split=2
    python reproduce/prepare.py preset=miniature data.name=hmdb51
    python reproduce/prepare.py data.name=ucf11 backbone.weights=released released=/data/their_features
    python reproduce/prepare.py data.name=hmdb51 row=idt_fv part=3/16

download=true takes what is there: the data set's folder, its archive in that folder or the one above, and only else the
network. With row=…, what that row reads is made: features of a CNN, or trajectories. All visible GPUs extract features, or the
processes that torchrun starts; trainer.devices= takes fewer. Continues where an earlier call stopped.
Videos that do not decode or are damaged are listed at the end and make the exit status 1, unless data.skip_bad=true, which
leaves them out of every run and says so in every table. data.damaged=keep keeps what decodes of damaged ones.

HMDB-51's three splits share one store of features. Without data.split all three are checked and all 6766 clips taken; with it
only the 5100 of that split are, and delete refuses until the other clips have features too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field, replace
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Optional

from datamodules.features import FeatureStore
from datamodules.leaks import describe, find_leaks
from datamodules.stores import Store
from datamodules.videos import REMEDY, Annotation, DataError, Video
from reproduce.acquisition.ledger import CHOICES, delete
from reproduce.common.catalogue import DATASETS, PAPER_NETWORK, SIDE, SYSTEMS
from reproduce.common.cli import command_line, fail
from reproduce.common.dataset import STORES, data_folder, feature_folder, read_annotation
from reproduce.common.files import Need, size_of
from reproduce.common.presets import GENERATED
from reproduce.common.processes import is_first_process
from reproduce.common.settings import DataSettings, Settings, SettingsError
from reproduce.experiments.identity import members
from reproduce.systems.video_processes import parse_share

GOOGLENET_BYTES = 49 * 1024 * 2 + 2 * 1024 * 4  # a frame: the map in half precision, its mean and maximum in single


@dataclass
class PrepareSettings(Settings):
    """Settings of prepare.py: those of a run, and some of its own."""

    released: Optional[str] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """folder with the released code's train_features.h5 … to import, with backbone.weights=released"""
    retry_bad: bool = False
    """try again to decode the videos that earlier calls found bad"""
    download: bool = False
    """get the data set: from archives in its folder or the one above, else from the mirrors and its official \
address; broken downloads go on where they stopped"""
    archive: list[str] = field(default_factory=list)
    """archives to take instead, wherever they are: zip, tar or RAR"""
    mirrors: list[str] = field(default_factory=list)
    """addresses (http, https, ftp) to try before the official one, with download=true; one of a folder ends in a slash"""
    check_features: bool = False
    """read all features again and name the files that do not hold what was written"""
    part: Optional[str] = None  # noqa: UP045
    """i/n: make the i-th of n shares of a row's trajectories, such as on one of n machines; the same command without it ends \
the work"""
    delete: str = "none"
    """what to delete when all features are complete: none, archives (in the data set's folder or the one above), or videos \
(and archives; runs and tables need only the features)"""


def main(argv: list[str] | None = None) -> Path:
    """Prepare a data set; returns the feature store's folder."""
    settings = command_line(PrepareSettings, __doc__ or "", argv)
    words = sys.argv[1:] if argv is None else argv
    own = any(word.startswith(("trainer.devices=", "trainer.num_nodes=")) for word in words)
    with nullcontext() if is_first_process() else redirect_stdout(StringIO()):
        return _prepare(settings, own)


def _prepare(settings: PrepareSettings, own: bool) -> Path:
    """Prepare; ``own`` says that the command line tells the devices."""
    try:
        _check(settings)
        if (settings.download or settings.archive) and is_first_process():
            _acquire(settings)
        annotation = read_annotation(settings)
        videos = _read_splits(settings, annotation)
        names = [video.name for video in videos]
        if settings.part is not None:
            names = parse_share(settings.part).of(names)
        stores = {kind: _made(settings, annotation, videos, kind, own) for kind in _kinds(settings)}
        if settings.check_features:
            for store in stores.values():
                require_whole(store, names)
    except (DataError, SettingsError) as error:
        raise fail(error) from error
    for kind, store in stores.items():
        if is_first_process():
            _report(kind, store, names, settings.data)
    try:
        _delete(settings, annotation, list(stores.values()))
    except (DataError, OSError) as error:
        raise fail(error) from error
    return [*stores.values()][0].path


def _check(settings: PrepareSettings) -> None:
    wanted = settings.download or settings.archive or settings.delete != "none"
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1) > 1 and (wanted or settings.released or settings.retry_bad):
        raise SettingsError(
            "torchrun shares extraction alone; run prepare.py by itself for download, archive, released, retry_bad and delete"
        )
    if settings.delete not in CHOICES:
        raise SettingsError(f"delete={settings.delete}: choose from {', '.join(CHOICES)}")
    data = DATASETS[settings.data.name]
    if wanted and (data.of_user or not data.module().ARCHIVES):
        whose = "a videofolder is your own" if data.of_user else f"nobody hands on the videos of {data.label}"
        raise SettingsError(f"download, archive and delete go with data sets that have archives; {whose}")
    if wanted and GENERATED in settings.preset:
        raise SettingsError("preset=miniature draws its own data; drop download, archive and delete, or the preset")
    if settings.mirrors and not settings.download:
        raise SettingsError("mirrors goes with download=true")


def _acquire(settings: PrepareSettings) -> None:
    from reproduce.acquisition.install import Sources, acquire
    from reproduce.common.processes import leaving_on_sigterm

    name, sources = settings.data.name, Sources(settings.archive, settings.mirrors, settings.download)
    with leaving_on_sigterm():
        acquire(name, data_folder(settings), DATASETS[name].module().ARCHIVES, sources, _space_for_features(settings))


def _read_splits(settings: PrepareSettings, annotation: Annotation) -> tuple[Video, ...]:
    """Check and describe every split that is prepared; returns the videos that need features."""
    _describe(annotation)
    if not annotation.spare:
        return annotation.videos
    # The released code's features are of one split, and no others can be made here.
    if settings.data.split is not None or settings.backbone.weights == "released":
        spare, split = len(annotation.spare), annotation.split
        print(f"{annotation.data}: leaving {spare} videos alone that have no side in split {split}", flush=True)
        return annotation.videos
    for split in DATASETS[settings.data.name].module().SPLITS:
        if split != annotation.split:
            _describe(read_annotation(replace(settings, data=replace(settings.data, split=split))))
    print(f"{annotation.data}: taking all {len(annotation.listed)} videos, for every split", flush=True)
    return annotation.listed


def _describe(annotation: Annotation) -> None:
    print(
        f"{annotation.data}, split {annotation.split}: {len(annotation.train)} train and {len(annotation.test)} test "
        f"videos of {len(annotation.classes)} classes in {annotation.folder.resolve()}",
        flush=True,
    )
    for line in [
        *(f"{annotation.data}: {remark}" for remark in annotation.remarks),
        *describe(annotation, find_leaks(annotation)),
    ]:
        print(line, flush=True)


def _space_for_features(settings: PrepareSettings) -> Need | None:
    """Of GoogLeNet; of other networks, extraction itself finds out before it begins."""
    backbone = settings.backbone
    if (
        backbone.name not in ("googlenet", PAPER_NETWORK)
        or backbone.layer is not None
        or backbone.size not in (None, SIDE)
        or settings.released
    ):
        return None
    folder = feature_folder(settings)
    total = DATASETS[settings.data.name].module().LEAST_FRAMES * GOOGLENET_BYTES
    return Need(folder, max(0, total - size_of(folder)), "features")


def _delete(settings: PrepareSettings, annotation: Annotation, stores: Sequence[Store]) -> None:
    from reproduce.acquisition.install import archives_on_disk

    if settings.delete != "none" and is_first_process():
        delete(
            settings.delete,
            annotation,
            stores,
            archives_on_disk(DATASETS[settings.data.name].module().ARCHIVES, annotation.root),
        )


def _kinds(settings: PrepareSettings) -> tuple[str, ...]:
    """The kinds of stores that the row reads; of one that is made from finished runs, those that these read."""
    rows = members(settings) or [settings]
    return tuple(dict.fromkeys(kind for row in rows for kind in SYSTEMS[row.model.name].stores))


def _made(settings: PrepareSettings, annotation: Annotation, videos: Sequence[Video], kind: str, own: bool) -> Store:
    """The store of a kind, complete."""
    if settings.retry_bad and is_first_process():
        STORES[kind].open(settings).forget_bad()
    if settings.released and kind == "cubes":
        from datamodules.released import import_features

        if settings.backbone.weights != "released":
            raise SettingsError(f"released={settings.released}: goes with backbone.weights=released")
        store = FeatureStore(feature_folder(settings))
        import_features(Path(settings.released), store, {video.name for video in videos})
        return store
    maker = import_module(STORES[kind].maker)
    if settings.part is None:
        if not own and not STORES[kind].shared:
            from reproduce.systems.devices import all_devices

            return maker.ensure(all_devices(settings), annotation, videos)
        return maker.ensure(settings, annotation, videos)
    if not STORES[kind].shared:
        raise SettingsError(
            f"part={settings.part}: goes with rows that read no cubes; several machines extract {kind} by torchrun"
        )
    return maker.ensure(settings, annotation, videos, parse_share(settings.part))


def require_whole(store: Store, names: list[str]) -> None:
    """Read some videos' features and compare them with what was written.

    Raises:
        DataError: some are damaged; names their files.
    """
    finished = [name for name in names if name in store.videos]
    damaged = store.damaged(finished)
    if damaged:
        listed = "".join(f"\n    {reason}" for reason in damaged.values())
        raise DataError(f"features of {len(damaged)} of {len(finished)} videos are damaged:{listed}")
    print(f"the features of {len(finished)} videos are what was written", flush=True)


def _report(kind: str, store: Store, names: list[str], data: DataSettings) -> None:
    good = [name for name in names if name in store.videos]
    rows = sum(store.rows(name) for name in good)
    what = f"{rows} rows of {kind}"
    if isinstance(store, FeatureStore):
        height, width = store.grid
        what = f"{rows} frames of {height}x{width}x{store.channels} features"
    print(f"{len(good)} videos, {what} in {store.path.resolve()}")
    whole = [name for name in good if "starts" not in store.videos[name]]
    lying = [name for name in whole if store.videos[name].get("declared_frames", 0) not in (0, store.rows(name))]
    if lying:
        first = store.videos[lying[0]]
        print(
            f"note: the headers of {len(lying)} videos claim another number of frames than were decoded, {lying[0]!r} "
            f"{first['declared_frames']} instead of {first['frames']}; the decoded ones count"
        )
    bad, damaged = {name: store.bad[name] for name in names if name in store.bad}, store.damaged_files
    for name in (name for name in good if name in damaged):
        if data.keeps_damaged:
            print(f"damaged: {name}: {damaged[name]}; what decodes is kept", file=sys.stderr)
        else:
            bad[name] = f"{damaged[name]}; {REMEDY}"
    for name, reason in bad.items():
        print(f"bad: {name}: {reason}", file=sys.stderr)
    if bad and not data.skip_bad:
        print(
            f"error: {len(bad)} of {len(names)} videos do not decode or are damaged. Replace the files and run again with "
            "retry_bad=true, or leave them out of every run with data.skip_bad=true",
            file=sys.stderr,
        )
        raise SystemExit(1)


if __name__ == "__main__":
    main()
