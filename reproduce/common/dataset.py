"""From settings to data on disk: which folder, which reader, which stores. Free of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from datamodules.descriptors.trajectories import POSITIONS, TIME_CELLS, channels
from datamodules.features import FeatureSpec, FeatureStore
from datamodules.files import file_sha256
from datamodules.folds import deal_folds, parse_fold
from datamodules.leaks import equal_files
from datamodules.manifest import DESCRIPTORS, ArraySpec, StoreSpec, ViewSpec
from datamodules.parts import Part, parse_groups
from datamodules.permuted import Permuted
from datamodules.released import SPEC as IMPORTED
from datamodules.removed import REMOVED, removed_videos
from datamodules.stored_videos import to_extract, usable
from datamodules.stores import Store
from datamodules.videos import TRUTHS, Annotation, DataError, Reader
from reproduce.common.catalogue import DATASETS, FINER_LAYERS, PAPER_NETWORK, SIDE, TIMM
from reproduce.common.fields import entries
from reproduce.common.presets import GENERATED
from reproduce.common.processes import cores, locked
from reproduce.common.settings import DataSettings, Settings, SettingsError, get, with_values

FULL, CROP = 256, 224  # pixels of a stream's frame and of a crop of it (Simonyan & Zisserman 2014)
FRAMES, CROPS = 25, 10  # of a video and of a frame, that streams score
PLACES = "positions"  # array of a trajectory store
CHANNELS = "channels"  # stands for the mean image's means of each channel
MEAN_FILE = "ilsvrc_2012_mean.npy"
MEAN_SHA256 = "97eefba7e046ee097121ad18564329636d2f9c153b748c7313653cae8594a149"


def split_of(settings: Settings) -> str:
    """The split a run uses."""
    return settings.data.split or DATASETS[settings.data.name].default_split


def part_of(settings: Settings) -> Part:
    """The part of the data set that a run takes; false for the whole."""
    data = settings.data
    return Part(parse_groups(data.groups) if data.groups else (), tuple(data.classes))


def turns_of(settings: Settings) -> tuple[str, ...]:
    """The splits that a table pools: one, or those that ``data.split`` stands for, such as each group left out in its turn."""
    module = DATASETS[settings.data.name].module()
    each = getattr(module, "EACH", None)
    return module.turns(part_of(settings)) if each and settings.data.split == each else (split_of(settings),)


def dataset_of(settings: Settings) -> str:
    """The data set's name as run folders and stores bear it; a user's own has its folder's."""
    return data_folder(settings).name if DATASETS[settings.data.name].of_user else settings.data.name


def data_folder(settings: Settings) -> Path:
    """The data set's folder."""
    return Path(settings.paths.data).expanduser() / _folder_name(settings)


def _folder_name(settings: Settings) -> str:
    """Of the data set's folder, below the videos and below the features."""
    return settings.data.folder or drawn(settings.data.name, settings.data.truth)


def drawn(data: str, truth: str) -> str:
    """The name of a data set's folder: its own, and where it was drawn with another truth than usual, that one's."""
    return data if truth == TRUTHS[0] else f"{data}-{truth}"


def read_annotation(settings: Settings) -> Annotation:
    """Read and check a run's data set; with ``preset=miniature``, generate it first where there is none.

    Raises:
        DataError: what is on disk is not the data set, or its train does not go into ``data.fold``.
    """
    root = data_folder(settings)
    data = DATASETS[settings.data.name]
    if GENERATED in settings.preset and not data.of_user:
        make_miniature(settings, root)
    annotation = reader_of(settings.data.name, settings.data.permuted).read(
        root, split_of(settings), settings.data.skip_bad, part_of(settings)
    )
    if settings.data.fold is not None:
        deal_folds(annotation.train, parse_fold(settings.data.fold).folds, annotation.classes)
    return annotation


def on_other_data(settings: Settings, name: str) -> Settings:
    """The settings of a run on another data set, whole and in its default split, with blocks and stores made likewise."""
    own = [entry.key for entry in entries(DataSettings, "data.")]
    kept = ("fps", "stride", "batch_size", "resident", "gpu_budget", "gpu_reserve", "ram_budget", "skip_bad", "damaged")
    plain = Settings()
    others = {key: get(plain, key) for key in own if key.removeprefix("data.") not in kept}
    return with_values(settings, {**others, **DATASETS[name].sets, "data.name": name})


def require_other_data(settings: Settings, key: str, kind: str, annotation: Annotation) -> Annotation:
    """Another data set that a run learns from besides, without videos that do not decode.

    Args:
        settings: of the run on the other data set.
        key: setting that named it.
        kind: of store that it needs.
        annotation: the run's own data set.

    Raises:
        DataError: it is not there, its store lacks videos, or a file of it has the content of a test video's.
        FeatureStoreError: its store was made otherwise.
    """
    other, store, name = read_annotation(settings), STORES[kind].open(settings), settings.data.name
    missing = to_extract(other, store, keep_damaged=settings.data.keeps_damaged)
    if missing:
        row = "" if kind == "cubes" else f" row={settings.row}"
        raise DataError(
            f"{key}={name}: {store.path.resolve()} lacks {len(missing)} of {len(other.videos)} videos, {missing[0]!r} for one; "
            f"with the other settings as they are, python reproduce/prepare.py data.name={name}{row} makes them"
        )
    store.require(STORES[kind].spec(settings))
    other = usable(other, store, settings.data.skip_bad, settings.data.keeps_damaged)
    equal = equal_files((other, other.videos), (annotation, annotation.test))
    if equal:
        test, found = equal[0]
        raise DataError(
            f"{key}={name}: {len(equal)} of its files have the content of a test video of {annotation.data}, {found!r} that of "
            f"{test!r}; leave {name} out"
        )
    return other


def reader_of(data: str, permuted: int | None) -> Reader:
    """What reads a data set, by ``data.name``; with a seed, its train has the labels of other groups."""
    reader = DATASETS[data].module()
    return reader if permuted is None else Permuted(reader, permuted)


def make_miniature(settings: Settings, root: Path) -> None:
    """Generate a miniature data set, once, whichever of several processes comes first."""
    from datamodules.miniature import generate, is_complete
    from reproduce.common.progress import Progress

    truth = settings.data.truth
    if is_complete(root, truth) or (root.exists() and not (root / ".miniature").exists() and any(root.iterdir())):
        return  # the user's own data: their reader checks them
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with locked(root.parent / f".{root.name}.lock"):
            progress = Progress(f"drawing miniature {settings.data.name}", "clips")
            generate(root, settings.data.name, cores(), progress.update, truth)
            progress.close()
    except OSError as error:
        raise DataError(f"cannot write the miniature data to {root.resolve()} ({error}); set paths.data") from error


def require_videos(annotation: Annotation, names: list[str]) -> None:
    """Check that videos to be decoded are there, and were not deleted after an extraction.

    Raises:
        DataError: some were.
    """
    gone = removed_videos(annotation.root)
    deleted = [name for name in names if name in gone and not (annotation.folder / name).is_file()]
    if deleted:
        raise DataError(
            f"{annotation.folder.resolve()}: {len(deleted)} videos without features were deleted by delete=videos, "
            f"{deleted[0]!r} for one. To extract other features, remove {(annotation.root / REMOVED).resolve()} and run "
            "prepare.py with download=true"
        )


def store_folder(settings: Settings, name: str) -> Path:
    """The folder of a store of a run's data set: ``<paths.features>/<data set>/<name>``."""
    return Path(settings.paths.features).expanduser() / _folder_name(settings) / name


def feature_folder(settings: Settings, pyramid: bool = False) -> Path:
    """The feature store's folder: ``<paths.features>/<data set>/<backbone>-<weights>``, and what tells it apart.

    That are the numbers of drawn blocks, and the finer ones of several layers.
    """
    backbone = settings.backbone
    weights = backbone.weights
    if weights not in ("imagenet", "random", "released"):
        weights = Path(weights).stem
    network = _network_of(settings).replace(":", "-")  # which not every disk takes
    name = weights if weights.startswith(network) else f"{network}-{weights}"
    if settings.data.blocks_per_video:
        name = "-".join([name, "blocks", *map(str, settings.data.blocks_per_video)])
    if pyramid:
        name = "-".join([name, *(layer.replace("/", "_") for layer in finer_layers(settings))])
    return store_folder(settings, name)


def finer_layers(settings: Settings) -> list[str]:
    """The layers whose maps a network over several resolutions sees beside the backbone's own.

    Raises:
        SettingsError: none are known of the backbone, and none are named.
    """
    found = settings.multiresolution.layers or list(FINER_LAYERS.get(settings.backbone.name, ()))
    if not found:
        raise SettingsError(
            f"multiresolution.layers=[]: finer layers of {settings.backbone.name} are not known; name some of its nodes"
        )
    return found


def feature_spec(settings: Settings, pyramid: bool = False) -> FeatureSpec:
    """What decides the features' values; of the backbone's own map, or of several.

    Raises:
        SettingsError: the weights are a file that does not exist.
    """
    backbone = settings.backbone
    kind = backbone.weights
    if kind == "random":
        kind = f"random:{backbone.seed}"
    elif kind not in ("imagenet", "released"):
        kind = f"file:{_weights_sha256(Path(kind).expanduser())}"
    network = _network_of(settings)
    size = backbone.size or (None if network.startswith(TIMM) else SIDE)
    ours = network == PAPER_NETWORK
    return FeatureSpec(
        network,
        kind,
        backbone.layer,
        size,
        resize=resize_of(settings) if ours else None,
        mean=_mean_in_words(settings) if ours else None,
        finer=",".join(finer_layers(settings)) if pyramid else None,
        side=settings.multiresolution.side if pyramid else None,
        blocks=blocks_in_words(settings),
    )


def blocks_in_words(settings: Settings) -> str | None:
    """Which blocks of each video get features; None where all frames do."""
    if settings.data.blocks_per_video is None:
        return None
    train, test = settings.data.blocks_per_video
    return f"{train} random blocks a train video, {test} a test video, seed {settings.data.blocks_seed}"


def _network_of(settings: Settings) -> str:
    """The network's name as stores bear it: imported features are of the paper's, under a name that says only its kind."""
    backbone = settings.backbone
    imported = backbone.weights == IMPORTED.weights and backbone.name == PAPER_NETWORK
    return IMPORTED.backbone if imported else backbone.name


@lru_cache
def _weights_sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise SettingsError(
            f"backbone.weights={path}: neither imagenet, random nor released, and no readable file ({error})"
        ) from error


def resize_of(settings: Settings) -> str:
    """How frames come to the network: ``authors`` or ``direct``."""
    return settings.backbone.resize or ("authors" if settings.backbone.name == PAPER_NETWORK else "direct")


def mean_image(settings: Settings) -> Path | None:
    """The mean image that settings of the paper's network name, or that lies beside their weights; None without one."""
    backbone = settings.backbone
    if backbone.mean is not None:
        return None if backbone.mean == CHANNELS else Path(backbone.mean).expanduser()
    beside = Path(backbone.weights).expanduser().with_name(MEAN_FILE)
    return beside if backbone.weights not in ("imagenet", "random", "released") and beside.is_file() else None


def fetches_mean(settings: Settings) -> bool:
    """Whether the mean image comes with the weights: it is ImageNet's own."""
    return settings.backbone.weights == "imagenet" and settings.backbone.mean is None


def _mean_in_words(settings: Settings) -> str:
    path = mean_image(settings)
    if path is None:
        return f"image:{MEAN_SHA256}" if fetches_mean(settings) else CHANNELS
    return f"image:{_mean_sha256(path)}"


@lru_cache
def _mean_sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise SettingsError(f"backbone.mean={path}: neither {CHANNELS} nor a readable file ({error})") from error


def open_store(settings: Settings, pyramid: bool = False) -> FeatureStore:
    """The feature store of a run, whether or not it exists yet."""
    return FeatureStore(feature_folder(settings, pyramid))


def trajectory_folder(settings: Settings, skipped: bool = False) -> Path:
    """The folder of a run's trajectories, of its frames or of those that skips leave."""
    chosen = settings.trajectories
    name = f"trajectories-{chosen.keypoints}" + (f"-skips-1-{chosen.skips}" if skipped else "")
    return store_folder(settings, name)


def trajectory_spec(settings: Settings, skipped: bool = False) -> StoreSpec:
    """What a run's trajectories are, and what decides them: of all frames, or of levels 1 to L of the skips.

    Raises:
        SettingsError: their length does not go into three.
    """
    chosen = settings.trajectories
    if chosen.length % TIME_CELLS:
        raise SettingsError(f"trajectories.length={chosen.length}: descriptors have three cells in time; take a multiple of 3")
    made_from = {key: getattr(chosen, key) for key in ("length", "scales", "keypoints", "height")}
    columns = len(POSITIONS) + 1  # and the level
    arrays = (
        ArraySpec(DESCRIPTORS, "<f2", (max(part.stop for part in channels(chosen.length).values()),)),
        ArraySpec(PLACES, "<f4", (columns,)),
    )
    return StoreSpec(DESCRIPTORS, arrays, {**made_from, "skips": chosen.skips if skipped else 0})


def gray_folder(settings: Settings) -> Path:
    """The folder of a run's gray frames."""
    return store_folder(settings, f"gray-{settings.slow_features.height}")


def four_by_three(height: int) -> tuple[int, int]:
    """Width and height of frames that are squashed to 4:3, whatever the video's shape is."""
    return round(height * 4 / 3), height


def gray_spec(settings: Settings) -> StoreSpec:
    """What a run's gray frames are, and what decides them."""
    width, height = four_by_three(settings.slow_features.height)
    return StoreSpec("gray", (ArraySpec("gray", "|u1", (height, width)),), {"width": width, "height": height})


def flow_folder(settings: Settings) -> Path:
    """The folder of a run's optical flow."""
    return store_folder(settings, f"flow-{settings.flow.method}-{settings.flow.size}")


def flow_spec(settings: Settings) -> StoreSpec:
    """What a run's optical flow is, and what decides it."""
    width, height = four_by_three(settings.flow.size)
    made_from = {"method": settings.flow.method, "width": width, "height": height}
    return StoreSpec("flow", (ArraySpec("flow", "|u1", (2, height, width)),), made_from)


def crop_settings(settings: Settings) -> Settings:
    """The settings with the network that crops of any frame pass through: it subtracts channel means, and resizes nothing."""
    own = {"backbone.resize": "direct", "backbone.mean": CHANNELS} if settings.backbone.name == PAPER_NETWORK else {}
    return with_values(settings, {**own, "backbone.size": crop_side(settings), "data.blocks_per_video": None})


def crop_side(settings: Settings) -> int:
    """Side in pixels of the crops that a stream's network sees."""
    return settings.backbone.size or SIDE


def view_side(settings: Settings) -> int:
    """Side in pixels of the square that frames are squashed to before crops are taken: 256 for crops of 224."""
    return round(crop_side(settings) * FULL / CROP)


def view_folder(settings: Settings) -> Path:
    """The folder of a run's views: features of crops, or, where the whole network is trained, frames."""
    whole = settings.spatial.layers == "all"
    features = feature_folder(crop_settings(settings))
    return features.with_name(f"views-{view_side(settings)}" if whole else f"views-{features.name}")


def view_spec(settings: Settings) -> ViewSpec:
    """What decides a run's views."""
    made_from: dict[str, Any] = {"frames": FRAMES, "side": view_side(settings)}
    if settings.spatial.layers == "last":
        made_from |= {**feature_spec(crop_settings(settings)).made_from, "crops": CROPS}
    return ViewSpec(made_from)


@dataclass(frozen=True)
class StoreKind:
    """A kind of store that systems read.

    Args:
        folder: where a run's lies.
        spec: what decides the values in it, by which a run's identity knows it.
        maker: module whose ``ensure`` makes what is missing of it, and whose ``about`` is what ``run.json`` says of it.
        part: of the identity.
        open: the store, whether or not it exists yet.
        shared: whether several commands may each make a share of it at the same time.
    """

    folder: Callable[[Settings], Path]
    spec: Callable[[Settings], StoreSpec | FeatureSpec | ViewSpec]
    maker: str
    part: str
    open: Callable[[Settings], Store]
    shared: bool = False


def _of_processes(
    name: str, module: str, folder: Callable[[Settings], Path], spec: Callable[[Settings], StoreSpec | ViewSpec]
) -> StoreKind:
    """A kind that processes make, one video at a time, see ``reproduce.systems.store_maker``."""
    maker = f"reproduce.systems.{module}"
    return StoreKind(folder, spec, maker, name, open=lambda settings: Store(folder(settings)), shared=True)


STORES = {
    "cubes": StoreKind(
        folder=feature_folder,
        spec=feature_spec,
        maker="reproduce.systems.cnn_features",
        part="features",
        open=open_store,
    ),
    "pyramids": StoreKind(
        folder=lambda settings: feature_folder(settings, pyramid=True),
        spec=lambda settings: feature_spec(settings, pyramid=True),
        maker="reproduce.systems.pyramid_store",
        part="pyramids",
        open=lambda settings: open_store(settings, pyramid=True),
    ),
    "gray": _of_processes("gray", "gray_store", gray_folder, gray_spec),
    "views": _of_processes("views", "view_store", view_folder, view_spec),
    "flow": _of_processes("flow", "flow_store", flow_folder, flow_spec),
    "trajectories": _of_processes("trajectories", "trajectory_store", trajectory_folder, trajectory_spec),
    "skipped_trajectories": _of_processes(
        "skipped_trajectories",
        "skipped_trajectory_store",
        folder=lambda settings: trajectory_folder(settings, skipped=True),
        spec=lambda settings: trajectory_spec(settings, skipped=True),
    ),
}
"""By the names that systems have in the catalogue."""
