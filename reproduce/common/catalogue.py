"""The catalogue: one entry a data set, a system, a row, a column. Nothing else but presets chooses by their names.

Adding a data set is one reader in ``datamodules/`` and one entry of ``DATASETS``. Adding a system is one module in
``reproduce/systems/``, one entry of ``SYSTEMS`` and one of ``ROWS``. Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from reproduce.common.representations import REPRESENTATIONS

RGB = "RGB data only"
FLOW = "RGB data and optical flow"
OBJECTS = "RGB data, optical flow and object responses"
"""Sections of Table 2, by their names in ``evaluation/published.csv``: what a system sees."""


@dataclass(frozen=True)
class DataSetInfo:
    """A data set.

    Args:
        label: for a reader.
        reader: module of ``datamodules`` that holds its facts and reads its official layout.
        grouped: whether the clips of a group share scene and actor, so that statistics take whole groups.
        multi_label: whether a video may have several labels; then mAP is the figure.
        hits: whether it may, and one of them is enough; then hit@1 is the figure. Else it is accuracy.
        of_user: anybody's videos: ``data.folder`` names the data set, and nothing is downloaded or generated.
        sets: settings that it has whatever the preset, by dotted key; of blocks to draw, where videos are long.
        contained_in: data sets that hold its videos, as far as they hold together.
        truths: of its generated stand-in, by ``data.truth``, (row, another row that it is above), since it is drawn so.
    """

    label: str
    reader: str
    grouped: bool = False
    multi_label: bool = False
    hits: bool = False
    of_user: bool = False
    sets: Mapping[str, Any] = field(default_factory=dict)
    contained_in: tuple[str, ...] = ()
    truths: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    @property
    def figure(self) -> str:
        """``mAP``, ``hit@1`` or ``acc``, as tables head their columns."""
        return figure_of(self.multi_label, self.hits)

    def module(self) -> Any:
        """The reader."""
        return import_module(self.reader)

    @property
    def default_split(self) -> str:
        """The split that is taken where the settings name none."""
        return self.module().DEFAULT_SPLIT

    def has_split(self, name: str) -> bool:
        """Whether it has a split of that name."""
        return self.module().is_split(name)


def figure_of(multi_label: bool, hits: bool = False) -> str:
    """The figure of a data set, by what its videos' labels are."""
    return "mAP" if multi_label else "hit@1" if hits else "acc"


DATASETS: dict[str, DataSetInfo] = {
    "ucf11": DataSetInfo(
        "UCF-11",
        "datamodules.ucf11",
        grouped=True,
        contained_in=("ucf101",),
        truths={
            # A mark tells whose action counts: an average loses it, h_{t-1} finds it by trying places, the frame shows it.
            "halo": (
                ("content_attention_0", "avg_pool_lstm"),
                ("content_attention_0", "soft_attention_0"),
                ("soft_attention_0", "avg_pool_lstm"),
                ("top_k_content_attention", "avg_pool_lstm"),
                ("hard_content_attention", "avg_pool_lstm"),
            ),
            # A place tells it: an average loses it, the frame hardly shows it, weights of places find it.
            "ring": (
                ("softmax_regression", "avg_pool_lstm"),
                ("soft_attention_0", "avg_pool_lstm"),
                ("soft_attention_0", "content_attention_0"),
            ),
        },
    ),
    "hmdb51": DataSetInfo("HMDB-51", "datamodules.hmdb51"),
    "hollywood2": DataSetInfo("Hollywood2", "datamodules.hollywood2", multi_label=True),
    "ucf101": DataSetInfo("UCF-101", "datamodules.ucf101", grouped=True),
    "sports1m": DataSetInfo(
        "Sports-1M", "datamodules.sports1m", hits=True, sets={"data.blocks_per_video": [4, 20], "data.stride": 30}
    ),
    "videofolder": DataSetInfo("a folder of videos", "datamodules.videofolder", grouped=True, of_user=True),
}
"""By ``data.name``, in the order of the tables' columns."""

OF_USER = next(name for name, data in DATASETS.items() if data.of_user)


def kind_of(data: str) -> str:
    """``data.name`` of a run's data set, which a user may have named."""
    return data if data in DATASETS else OF_USER


def label_of(data: str) -> str:
    """A data set's name for a reader; a user's own is its folder's."""
    return data if DATASETS[kind_of(data)].of_user else DATASETS[data].label


@dataclass(frozen=True)
class SystemInfo:
    """A system: what is fitted and scored.

    Args:
        module: of ``reproduce.systems``; train.py and predict.py alone import it.
        sees: section of Table 2.
        settings: settings that its result depends on, by dotted key or by group, besides data set, split and seed.
        stores: kinds of stores that prepare.py must make of every video, see ``reproduce.common.dataset.STORES``.
        deterministic: one seed is enough, and tables say so.
        attends: whether it has a location softmax.
        members: key of the setting that names rows, or one, whose finished runs it is made from; empty for none.
        representations: by which it describes a video, see ``representations.py``; of a kernel SVM alone.
        needs: modules of the optional libraries that it cannot do without.
    """

    module: str
    sees: str
    settings: tuple[str, ...]
    stores: tuple[str, ...] = ("cubes",)
    deterministic: bool = False
    attends: bool = False
    members: str = ""
    representations: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def lacks(self) -> tuple[str, ...]:
        """Those of its optional libraries that are not installed."""
        return tuple(name for name in self.needs if find_spec(name) is None)


_BLOCKS = ("data.fps", "data.stride", "data.batch_size")
_TRAINING = ("optim", "protocol", "trainer.max_epochs", "trainer.precision")
_LOSS = ("objective.batch_reduction", "objective.weight_decay")
_LSTM = ("model.name", "model.num_layers", "model.hidden_dim", "model.dropout", "model.input_dropout", "model.last_n")
_ATTENDING = (*_BLOCKS, *_LSTM, "model.attention", "model.attention_layers")
_STREAM = (
    *(f"backbone.{key}" for key in ("name", "weights", "layer", "size", "seed")),
    *("protocol", "trainer.max_epochs", "trainer.precision"),
)
_POOLED = SystemInfo("reproduce.systems.recurrent", RGB, (*_BLOCKS, *_LSTM, *_LOSS, *_TRAINING))


_CLASSIFIER = SystemInfo(
    "reproduce.systems.pretrained",
    RGB,
    (*_BLOCKS, *(f"model.{key}" for key in ("name", "num_layers", "hidden_dim", "dropout", "last_n")), *_LOSS, *_TRAINING),
)


def _kernel_svm(sees: str, *representations: str) -> SystemInfo:
    """A linear SVM on the sum of its representations' Gram matrices."""
    infos = [REPRESENTATIONS[name] for name in representations]
    return SystemInfo(
        "reproduce.systems.kernel_svm",
        sees,
        tuple(dict.fromkeys(["model.name", *(key for info in infos for key in info.settings)])),
        stores=tuple(dict.fromkeys(kind for info in infos for kind in info.stores)),
        deterministic=not any(info.learned for info in infos),
        representations=representations,
        needs=tuple(dict.fromkeys(["sklearn", *(name for info in infos for name in info.needs)])),
    )


SYSTEMS: dict[str, SystemInfo] = {
    "soft_attention": SystemInfo(
        "reproduce.systems.recurrent",
        RGB,
        (*_ATTENDING, "objective", *_TRAINING),
        attends=True,
    ),
    "top_k_attention": SystemInfo(
        "reproduce.systems.recurrent", RGB, (*_ATTENDING, "model.top_k", "objective", *_TRAINING), attends=True
    ),
    "hard_attention": SystemInfo(
        "reproduce.systems.hard_attention",
        RGB,
        (*_ATTENDING, "objective", "hard", *_TRAINING),
        attends=True,
        members="hard.start",
    ),
    "avg_pool_lstm": _POOLED,
    "max_pool_lstm": _POOLED,
    "softmax_regression": SystemInfo(
        "reproduce.systems.recurrent", RGB, (*_BLOCKS, "model.name", "model.last_n", *_LOSS, *_TRAINING)
    ),
    "multiresolution_attention": SystemInfo(
        "reproduce.systems.multiresolution",
        RGB,
        (*_BLOCKS, *_LSTM, "objective", *(f"multiresolution.{key}" for key in ("width", "combine", "nested")), *_TRAINING),
        stores=("pyramids",),
        attends=True,
    ),
    "lstm_classifier": _CLASSIFIER,
    "composite_lstm": replace(_CLASSIFIER, settings=(*_CLASSIFIER.settings, "pretrain")),
    "linear_probe": SystemInfo("reproduce.systems.linear_probe", RGB, ("model.name",), deterministic=True, needs=("sklearn",)),
    "rank_pooling": _kernel_svm(RGB, "feature_evolution"),
    "column_fv": _kernel_svm(RGB, "column_fisher"),
    "objects": _kernel_svm(RGB, "object_scores"),
    "dl_sfa": _kernel_svm(RGB, "slow_words"),
    "idt_fv": _kernel_svm(FLOW, "trajectory_fisher"),
    "video_darwin": _kernel_svm(FLOW, "trajectory_evolution", "trajectory_fisher"),
    "mifs": _kernel_svm(FLOW, "skipped_fisher"),
    "stacked_fv": _kernel_svm(FLOW, "trajectory_fisher", "stacked_fisher"),
    "objects_stacked_fv": _kernel_svm(OBJECTS, "object_scores", "trajectory_fisher", "stacked_fisher"),
    "spatial_stream": SystemInfo("reproduce.systems.streams", RGB, ("model.name", "spatial", *_STREAM), stores=("views",)),
    "temporal_stream": SystemInfo(
        "reproduce.systems.streams", FLOW, ("model.name", "temporal", *_STREAM), stores=("flow",), needs=("cv2",)
    ),
    "two_stream": SystemInfo(
        "reproduce.systems.fusion",
        FLOW,
        ("model.name", "fusion"),
        stores=(),
        members="fusion.rows",
        needs=("cv2", "sklearn"),
    ),
    "fusion": SystemInfo("reproduce.systems.fusion", RGB, ("model.name", "fusion"), stores=(), members="fusion.rows"),
}
"""By ``model.name``."""


@dataclass(frozen=True)
class RowInfo:
    """A row of the tables.

    Args:
        label: for a reader.
        sets: what ``row=`` stands for, by dotted key; ``model.name`` among it.
        short: the label where every row is of the same kind, such as under a chart.
        beyond: whether the paper has no such row in Table 1.
        needs: what a run must have besides, by dotted key, to be of the row.
    """

    label: str
    sets: Mapping[str, Any]
    short: str = ""
    beyond: bool = False
    needs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def system(self) -> SystemInfo:
        """What is fitted and scored."""
        return SYSTEMS[self.sets["model.name"]]


def _attention(penalty: float) -> RowInfo:
    sets = {"model.name": "soft_attention", PENALTY: penalty}
    return RowInfo(f"Soft attention model, λ = {penalty:g}", sets, f"Soft attention, λ\u00a0=\u00a0{penalty:g}")


def _content(penalty: float) -> RowInfo:
    """The released code's attention in the paper's network; that of ``preset=released`` has dropout in its head alone."""
    return _of_content(f"Content attention, λ = {penalty:g}", {"model.name": "soft_attention", PENALTY: penalty})


def _of_content(label: str, sets: Mapping[str, Any]) -> RowInfo:
    sets = {**sets, "model.attention": "content"}
    return RowInfo(label, sets, label.replace(" = ", "\u00a0=\u00a0"), beyond=True, needs={"model.input_dropout": True})


def _two_stream(label: str, method: str) -> RowInfo:
    """Both streams of the same settings and seed, fused."""
    members = ["spatial_stream", "temporal_stream"]
    sets = {"model.name": "two_stream", "fusion.rows": members, "fusion.method": method}
    return RowInfo(label, sets, beyond=True)


PENALTY = "objective.attention_penalty"
ROWS: dict[str, RowInfo] = {
    "softmax_regression": RowInfo(
        "Softmax regression (full CNN feature cube)", {"model.name": "softmax_regression"}, "Softmax regression"
    ),
    "avg_pool_lstm": RowInfo("Avg pooled LSTM", {"model.name": "avg_pool_lstm"}),
    "max_pool_lstm": RowInfo("Max pooled LSTM", {"model.name": "max_pool_lstm"}),
    **{f"soft_attention_{penalty:g}": _attention(penalty) for penalty in (0.0, 1.0, 10.0)},
    **{f"content_attention_{penalty:g}": _content(penalty) for penalty in (0.0, 1.0, 10.0)},
    "top_k_attention": RowInfo("Top-k attention", {"model.name": "top_k_attention"}, beyond=True),
    "top_k_content_attention": _of_content("Top-k content attention", {"model.name": "top_k_attention"}),
    "hard_attention": RowInfo("Hard attention", {"model.name": "hard_attention"}, beyond=True),
    "hard_content_attention": _of_content(
        "Hard content attention", {"model.name": "hard_attention", "hard.start": "content_attention_0"}
    ),
    "multiresolution_attention": RowInfo(
        "Multi-resolution attention, λ = 0",
        {"model.name": "multiresolution_attention", PENALTY: 0.0},
        "Multi-resolution, λ\u00a0=\u00a00",
        beyond=True,
    ),
    "linear_probe": RowInfo(
        "Linear probe (logistic regression on the mean feature)", {"model.name": "linear_probe"}, "Linear probe", beyond=True
    ),
    "lstm_classifier": RowInfo(
        "LSTM classifier, not pre-trained", {"model.name": "lstm_classifier"}, "LSTM classifier", beyond=True
    ),
    "composite_lstm": RowInfo("Composite LSTM Model", {"model.name": "composite_lstm"}, "Composite LSTM", beyond=True),
    "rank_pooling": RowInfo("Rank pooling of the mean feature", {"model.name": "rank_pooling"}, beyond=True),
    "column_fv": RowInfo(
        "Fisher vectors of the feature cube's columns", {"model.name": "column_fv"}, "Fisher vectors, columns", beyond=True
    ),
    "objects": RowInfo("Object scores", {"model.name": "objects"}, beyond=True),
    "dl_sfa": RowInfo("DL-SFA", {"model.name": "dl_sfa"}, beyond=True),
    "idt_fv": RowInfo("IDT + Fisher vectors", {"model.name": "idt_fv"}, beyond=True),
    "video_darwin": RowInfo("VideoDarwin", {"model.name": "video_darwin"}, beyond=True),
    "mifs": RowInfo("Multi-skIp Feature Stacking", {"model.name": "mifs"}, "Multi-skip stacking", beyond=True),
    "stacked_fv": RowInfo(
        "Traditional+Stacked Fisher Vectors", {"model.name": "stacked_fv"}, "Stacked Fisher vectors", beyond=True
    ),
    "objects_stacked_fv": RowInfo(
        "Objects+Traditional+Stacked Fisher Vectors",
        {"model.name": "objects_stacked_fv"},
        "Objects, stacked Fisher vectors",
        beyond=True,
    ),
    "spatial_stream": RowInfo("Spatial stream ConvNet", {"model.name": "spatial_stream"}, beyond=True),
    "temporal_stream": RowInfo("Temporal stream ConvNet", {"model.name": "temporal_stream"}, beyond=True),
    "two_stream": _two_stream("Two-stream ConvNet", "svm"),
    "two_stream_mean": _two_stream("Two-stream ConvNet, mean of scores", "mean"),
    "late_fusion": RowInfo("Late fusion, mean of scores", {"model.name": "fusion", "fusion.method": "mean"}, beyond=True),
    "late_fusion_svm": RowInfo("Late fusion, linear SVM", {"model.name": "fusion", "fusion.method": "svm"}, beyond=True),
}
"""By ``row``, in the order of the tables."""

TOP_K, HARD = "top_k_attention", "hard_attention"
"""Systems that soft attention is shown beside, where a step reads less."""
BASELINE = "avg_pool_lstm"
"""The row that the others are tested against."""
BASELINE_NAME = "the average-pooled LSTM"
DEFAULT_ATTENTION = "soft_attention_0"
"""The paper's figures are of it unless they say otherwise (footnote 1)."""
SOFT_ROWS = tuple(name for name, row in ROWS.items() if row.sets["model.name"] == ROWS[DEFAULT_ATTENTION].sets["model.name"])
"""Rows of soft attention, of which hard attention takes one to start from."""


def row_of(settings: Mapping[str, Any]) -> str:
    """The row that a run's settings, by dotted key, make; other λ make rows of their own, such as ``soft_attention_0.5``."""
    fitting = [
        name
        for name, row in ROWS.items()
        if all(settings.get(key) == value for key, value in {**row.sets, **row.needs}.items())
    ]
    if fitting:
        return max(fitting, key=lambda name: len(ROWS[name].sets))  # the one that says most, the first of equals
    name = settings["model.name"]
    return f"{name}_{settings[PENALTY]:g}" if PENALTY in settings else name


def row_label(row: str, settings: Mapping[str, Any] | None = None) -> str:
    """A row's name for a reader, short; also of a λ that the paper does not have."""
    if row in ROWS:
        return ROWS[row].short or ROWS[row].label
    if settings and PENALTY in settings:
        return _attention(settings[PENALTY]).short
    return row


@dataclass(frozen=True)
class ColumnInfo:
    """Data set and split in one word, for grids that are not the product of the two; or a mean over several.

    Args:
        label: for a reader.
        data: of ``DATASETS``.
        split: of the data set; None for its default.
        mean_of: columns whose mean it is; none for a column that is measured itself.
        published: whether published numbers of the data set stand in it.
    """

    label: str
    data: str
    split: str | None = None
    mean_of: tuple[str, ...] = ()
    published: bool = True

    @property
    def sets(self) -> dict[str, Any]:
        """What ``column=`` stands for."""
        return {"data.name": self.data} | ({"data.split": self.split} if self.split else {})

    def parts(self, name: str) -> tuple[str, ...]:
        """The measured columns that it is made of."""
        return self.mean_of or (name,)


COLUMNS: dict[str, ColumnInfo] = {
    "ucf11": ColumnInfo("UCF-11", "ucf11"),
    "hmdb51_1": ColumnInfo("HMDB-51, split 1", "hmdb51", "1", published=False),
    "hmdb51_2": ColumnInfo("HMDB-51, split 2", "hmdb51", "2", published=False),
    "hmdb51_3": ColumnInfo("HMDB-51, split 3", "hmdb51", "3", published=False),
    "hmdb51_mean": ColumnInfo("HMDB-51, mean of three splits", "hmdb51", mean_of=("hmdb51_1", "hmdb51_2", "hmdb51_3")),
    "hollywood2": ColumnInfo("Hollywood2", "hollywood2"),
    "ucf101_1": ColumnInfo("UCF-101, split 1", "ucf101", "1", published=False),
    "ucf101_2": ColumnInfo("UCF-101, split 2", "ucf101", "2", published=False),
    "ucf101_3": ColumnInfo("UCF-101, split 3", "ucf101", "3", published=False),
    "ucf101_mean": ColumnInfo("UCF-101, mean of three splits", "ucf101", mean_of=("ucf101_1", "ucf101_2", "ucf101_3")),
}
TABLE2_COLUMNS = ("hmdb51_mean", "hmdb51_1", "hollywood2")
"""What Table 2 shows; the first two are made of the same runs."""


def measured_columns(shown: Sequence[str] = tuple(COLUMNS)) -> list[str]:
    """The columns that runs are made for, of those that a table shows."""
    parts = {part for name in shown for part in COLUMNS[name].parts(name)}
    return [name for name in COLUMNS if name in parts]


PAPER_NETWORK = "bvlc_googlenet"
"""The one `backbone.name` that is no network of torchvision or timm."""
TIMM = "timm:"
"""How the `backbone.name` of a network of timm begins."""
SIDE = 224
"""Side in pixels of the frames that networks see which have no size of their own."""

FINER_LAYERS = {PAPER_NETWORK: ("inception_4e/output", "inception_3b/output"), "googlenet": ("inception4e", "inception3b")}
"""By `backbone.name`, nodes whose maps are finer than the last one."""
