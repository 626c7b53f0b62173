"""Configuration: every key, the presets, ``key=value`` overrides, checks. Free of torch, so that errors come at once.

Settings are nested dataclasses; a string below a field is its meaning and appears in ``--help``. The order of
precedence is: defaults (the paper's), presets in the given order, the command line.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import os
import sys
import textwrap
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Optional, TypeVar, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.folds import parse_fold
from reproduce.common.catalogue import COLUMNS, PRESETS, RELEASED_MINIATURE, ROWS
from reproduce.common.ranges import unusable

DATA_NAMES = ("ucf11", "hmdb51", "hollywood2", "videofolder")


class SettingsError(ValueError):
    """A setting is unknown or impossible; the message says which, and what to write instead."""


@dataclass
class DataSettings:
    """Which videos, and how blocks are cut from them."""

    name: str = "ucf11"
    """data set: ucf11, hmdb51, hollywood2 or videofolder"""
    folder: Optional[str] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """folder below paths.data; null for the data set's name. A videofolder needs it"""
    split: Optional[str] = None  # noqa: UP045
    """ucf11: paper_like, logo-1 … logo-25, random; hmdb51: 1, 2, 3; videofolder: default, seed-<n>; null for the first"""
    fold: Optional[str] = None  # noqa: UP045
    """i/n: train's first stage alone, validated on fold i of n folds of train by whole groups; all/n: each fold in its turn"""
    fps: float = 30.0
    """nominal sampling rate; frames are taken int(30 / fps) apart"""
    stride: int = 1
    """frames between two blocks of a video; the paper's is 1"""
    batch_size: int = 128
    """blocks of a batch, over all devices"""
    resident: str = "auto"
    """where features lie while training: gpu, ram, mmap (read from the files at each batch), rotate (whole videos come into \
memory in turns, each once an epoch), or auto (gpu or else ram if they fit the budget, else rotate)"""
    gpu_budget: float = 60.0
    """GiB of each GPU's memory that features may fill; at most 60 % of what is free are taken"""
    ram_budget: Optional[float] = None  # noqa: UP045
    """GiB of main memory that each process may fill with features; null for its part of half of what is free"""
    skip_bad: bool = False
    """leave out videos that are missing or do not decode, and say so in every table, instead of refusing"""


@dataclass
class BackboneSettings:
    """The frozen image network whose last convolutional map is attended to."""

    name: str = "googlenet"
    """any torchvision classification network"""
    weights: str = "imagenet"
    """imagenet (torchvision's download), random (calibrated on the data), released (imported), or a file"""
    layer: Optional[str] = None  # noqa: UP045
    """graph node to cut the network at; null for its last convolutional map"""
    size: int = 224
    """side in pixels of the square that frames are squashed to"""
    seed: int = 0
    """of random weights"""
    precision: str = "auto"
    """of extraction: fp32, fp16, bf16, or auto (what the hardware has, if a trial's features keep cosine 0.999, else fp32)"""
    compile: str = "auto"
    """torch.compile the network: true, false, or auto (where the frames are so many that it repays)"""
    batch_size: Optional[int] = None  # noqa: UP045
    """frames a batch, for each device; null for 64 on a GPU, 16 on the CPU"""
    workers: Optional[int] = None  # noqa: UP045
    """decoding processes for each device; null for the cores that the network leaves free, up to 8"""


@dataclass
class ModelSettings:
    """The network (paper §3)."""

    name: str = "soft_attention"
    """soft_attention, avg_pool_lstm, max_pool_lstm or softmax_regression"""
    attention: str = "location"
    """location (paper, Eq. 4) or content (released code)"""
    attention_layers: int = 0
    """extra layers of content attention; the released code has 2 for hmdb51"""
    num_layers: int = 3
    """LSTM layers, 1 to 5 in the paper"""
    hidden_dim: int = 512
    """H, width of LSTM and head; the presets take 1024 for hmdb51"""
    dropout: float = 0.5
    """probability of a zero at every dropout site"""
    input_dropout: bool = True
    """dropout at the LSTM layers' inputs too (paper), or only in the head (released code)"""
    last_n: int = 30
    """steps whose probabilities are averaged into a block's prediction"""
    fast: bool = True
    """soft attention by its fast form; false takes Eqs. 1-6 as written, with equal results; of no effect on other networks"""


@dataclass
class ObjectiveSettings:
    """The loss (Eq. 7)."""

    attention_penalty: float = 0.0
    """λ of the doubly stochastic penalty; the paper has 0, 1 and 10"""
    penalty_reduction: str = "mean"
    """of the penalty over locations: mean (released code) or sum (as Eq. 7 prints)"""
    batch_reduction: str = "mean"
    """of the cost over blocks: mean (paper) or sum (released code)"""
    weight_decay: float = 1e-5
    """γ, times the sum of all squared parameters"""


@dataclass
class OptimSettings:
    """The optimiser."""

    name: str = "adam"
    """adam, released_adam (with the released code's bias correction) or sgd"""
    lr: float = 2e-4
    """learning rate, constant"""
    beta1: float = 0.9
    """decay of the first moment"""
    beta2: float = 0.999
    """decay of the second moment"""
    eps: float = 1e-8
    """ε of Adam"""


@dataclass
class TrainerSettings:
    """Lightning's Trainer."""

    accelerator: str = "auto"
    """auto, cpu or gpu"""
    devices: int = 1
    """GPUs, or processes on the CPU, of one run on this machine"""
    num_nodes: int = 1
    """machines of one run"""
    max_epochs: int = 15
    """epochs of each of the protocol's stages, at most"""
    precision: str = "32-true"
    """Lightning's precision of training and testing: 32-true, bf16-mixed, 16-mixed"""
    threads: Optional[int] = None  # noqa: UP045
    """CPU threads of each process; null for the number of cores divided by devices"""


@dataclass
class LoggingSettings:
    """Weights & Biases."""

    wandb: str = "auto"
    """auto (online where a login exists, else offline), online, offline or disabled"""
    project: str = "visual-attention"
    """W&B project"""
    entity: Optional[str] = None  # noqa: UP045
    """W&B user or team; null for the login's own"""
    group: Optional[str] = None  # noqa: UP045
    """W&B group; null for the data set and row"""
    tags: list[str] = field(default_factory=list)
    """W&B tags, besides the data set, the model and the presets"""


@dataclass
class PathsSettings:
    """Where things lie; relative paths start at the working directory."""

    data: str = "data"
    """holds ucf11/, hmdb51/, hollywood2/, or <data.folder>/"""
    features: str = "features"
    """feature stores, <data set>/<backbone>-<weights>/"""
    runs: str = "runs"
    """run folders, <data set>/<model>-<hash of the configuration>/"""
    results: str = "results"
    """tables"""


@dataclass
class Settings:
    """One run: fit by the protocol's two stages, test, write."""

    preset: list[str] = field(default_factory=lambda: ["paper"])
    """paper, released, miniature, or several, later ones on top: preset=[released,miniature]"""
    row: Optional[str] = None  # noqa: UP045
    """a row of Table 1, short for model.name and λ: softmax_regression, avg_pool_lstm, max_pool_lstm, soft_attention_0, \
soft_attention_1, soft_attention_10"""
    column: Optional[str] = None  # noqa: UP045
    """data set and split in one word, short for data.name and data.split: ucf11, hmdb51_1, hmdb51_2, hmdb51_3, hollywood2"""
    protocol: str = "retrain"
    """retrain (hold 15 % of train out, note the cost at the best score, train on all of train down to it) or holdout"""
    seed: int = 1
    """of weights, dropout and the order of blocks"""
    data: DataSettings = field(default_factory=DataSettings)
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    paths: PathsSettings = field(default_factory=PathsSettings)


S = TypeVar("S")  # Settings, or those of a script that runs nothing

CHOICES = {
    "data.name": DATA_NAMES,
    "data.resident": ("auto", "gpu", "ram", "mmap", "rotate"),
    "backbone.precision": ("auto", "fp32", "fp16", "bf16"),
    "backbone.compile": ("auto", "true", "false"),
    "model.name": ("soft_attention", "avg_pool_lstm", "max_pool_lstm", "softmax_regression"),
    "model.attention": ("location", "content"),
    "objective.penalty_reduction": ("mean", "sum"),
    "objective.batch_reduction": ("mean", "sum"),
    "optim.name": ("adam", "released_adam", "sgd"),
    "trainer.accelerator": ("auto", "cpu", "gpu"),
    "trainer.precision": ("32-true", "bf16-mixed", "16-mixed"),
    "logging.wandb": ("auto", "online", "offline", "disabled"),
    "protocol": ("retrain", "holdout"),
    "row": (*ROWS, None),
}


def resolve(cls: type[S], overrides: list[str]) -> S:
    """Settings from ``key=value`` words.

    Raises:
        SettingsError: a word is no ``key=value``, a key is unknown, or a value is impossible.
    """
    given = dict(_parse(word, cls) for word in overrides)
    if issubclass(cls, Settings):
        presets = _presets(given.get("preset", "paper"))
        column = _shorthand("column", COLUMNS, given)
        data = {**column, **given}.get("data.name", DataSettings.name)
        layers = {**_preset_layers(presets, str(data)), **column, **_shorthand("row", ROWS, given)}
        given = {**layers, **given, "preset": presets}
    config = OmegaConf.structured(cls)
    OmegaConf.set_struct(config, True)
    for key, value in given.items():
        _set(config, key, value)
    try:
        settings: Any = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise SettingsError(f"a value refers to another one, or is missing: {str(error).splitlines()[0]}") from error
    validate(settings)
    return settings


def _presets(value: Any) -> list[str]:
    presets = (value or ["paper"]) if isinstance(value, list) or value is None else [value]
    for preset in presets:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise SettingsError(f"preset={preset}: {_not_among(str(preset), list(PRESETS))}")
    if {"paper", "released"} <= set(presets):
        raise SettingsError("preset: paper and released are two models; choose one of them")
    return presets


def _preset_layers(presets: list[str], data: str) -> dict[str, Any]:
    layers: dict[str, Any] = {}
    base = [] if "released" in presets or "paper" in presets else ["paper"]
    for preset in (*base, *presets):
        layers |= {**PRESETS[preset]["*"], **PRESETS[preset].get(data, {})}
    if {"released", "miniature"} <= set(presets):
        layers |= RELEASED_MINIATURE.get(data, {})
    return layers


def _shorthand(key: str, meanings: dict[str, dict[str, Any]], given: dict[str, Any]) -> dict[str, Any]:
    """What the word given for ``row`` or ``column`` sets."""
    word = given.get(key)
    if word is None:
        return {}
    if word not in meanings:
        raise SettingsError(f"{key}={word}: {_not_among(str(word), list(meanings))}")
    for name, value in meanings[word].items():
        if name in given and given[name] != value:
            raise SettingsError(f"{key}={word} sets {name}={value}; drop {name}={given[name]} or the {key}")
    return meanings[word]


def _parse(word: str, cls: type) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if key.startswith("-"):
        raise SettingsError(f"{word}: write settings without dashes, as {word.lstrip('-') or 'key=value'}")
    if not equals:
        raise SettingsError(f"{word}: expected key=value; --help lists every key")
    known = {entry.key: entry for entry in entries(cls)}
    if key not in known:
        raise SettingsError(f"{key}: there is no such setting; {_not_among(key, list(known))}")
    if text in ("None", "none") and known[key].default != text:
        raise SettingsError(f"{word}: write {key}=null for no value")
    if known[key].type in ("str", "Optional[str]"):
        return key, None if text == "null" else text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{word}: the value cannot be read ({str(error).splitlines()[0]})") from error
    if isinstance(value, str):  # YAML reads 1e-3 as a string
        try:
            value = float(value) if known[key].type in ("float", "int", "Optional[int]") else value
        except ValueError:
            raise SettingsError(f"{word}: expected a number") from None
    if isinstance(value, float) and "int" in known[key].type and value.is_integer():
        value = int(value)  # sweeps write 32.0
    if value is None and not known[key].type.startswith("Optional"):
        raise SettingsError(f"{word}: {key} must have a value")
    if isinstance(value, str) and known[key].type.startswith("list"):
        value = [value]
    return key, value


def _set(config: Any, key: str, value: Any) -> None:
    try:
        OmegaConf.update(config, key, value)
    except (OmegaConfBaseException, ValueError) as error:
        raise SettingsError(f"{key}={value}: {str(error).splitlines()[0]}") from error


def validate(settings: Any) -> None:
    """Check every range, and of a `Settings` every choice.

    Raises:
        SettingsError: the first that is off.
    """
    if reason := unusable({entry.key: get(settings, entry.key) for entry in entries(type(settings))}):
        raise SettingsError(reason)
    if not isinstance(settings, Settings):
        return
    for key, choices in CHOICES.items():
        value = get(settings, key)
        if value not in choices:
            raise SettingsError(f"{key}={value}: {_not_among(str(value), [str(c) for c in choices if c is not None])}")
    if settings.data.name == "videofolder" and not settings.data.folder:
        raise SettingsError("data.name=videofolder: say which folder below paths.data, as data.folder=<name>")
    if settings.data.fold is not None:
        try:
            parse_fold(settings.data.fold)
        except ValueError as error:
            raise SettingsError(str(error)) from None
    for key in ("count", "workers"):  # of tables and sweeps
        value = getattr(settings, key, None)
        if value is not None and value < 1:
            raise SettingsError(f"{key}={value}: must be at least 1")
    folder = settings.data.folder
    if folder and (folder.startswith(("~", "/")) or os.path.isabs(folder) or ".." in folder.replace(os.sep, "/").split("/")):
        raise SettingsError(
            f"data.folder={folder}: a folder below paths.data; write paths.data=<where it lies> data.folder=<its name>"
        )


def unavailable(settings: Settings, error: Exception) -> str:
    """In words, that Lightning does not find the devices that are asked for."""
    trainer = settings.trainer
    return f"trainer.accelerator={trainer.accelerator}, trainer.devices={trainer.devices}: {str(error).splitlines()[0]}"


def get(settings: Any, key: str) -> Any:
    """The value of a dotted key."""
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def _not_among(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not close:  # the last part of a dotted key is often right
        close = [key for key in known if key.rsplit(".")[-1] == word.rsplit(".")[-1]][:1]
    listed = f"choose from {', '.join(known)}" if len(known) <= 12 else "--help lists every key"
    return f"did you mean {close[0]}? ({listed})" if close else listed


@dataclass(frozen=True)
class Entry:
    """One key: its dotted name, type as written, default, and meaning."""

    key: str
    type: str
    default: Any
    meaning: str


@lru_cache
def entries(cls: type, prefix: str = "") -> tuple[Entry, ...]:
    """Every key of a settings class, with its meaning."""
    found: list[Entry] = []
    meanings = _meanings(cls)
    hints = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        default = item.default_factory() if callable(item.default_factory) else item.default  # type: ignore[misc]
        if dataclasses.is_dataclass(hints[item.name]):
            found += entries(hints[item.name], f"{prefix}{item.name}.")  # type: ignore[arg-type]
        else:
            found.append(Entry(prefix + item.name, str(item.type), default, meanings.get(item.name, "")))
    return tuple(found)


def _meanings(cls: type) -> dict[str, str]:
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for statement, following in zip(body, body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                meanings[statement.target.id] = following.value.value  # type: ignore[attr-defined]
    return meanings


def help_text(doc: str, cls: type) -> str:
    """A script's documentation and every key with meaning and default."""
    lines = [doc.strip(), "", "Settings, as key=value:", ""]
    for entry in entries(cls):
        default = "null" if entry.default is None else str(entry.default).replace("'", "")
        lines.append(f"  {entry.key}={default}")
        lines += textwrap.wrap(entry.meaning, 110, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def command_line(cls: type[S], doc: str, argv: list[str] | None) -> S:
    """Settings from a script's command line; prints help, or an error, and exits where that is called for."""
    words = sys.argv[1:] if argv is None else argv
    if {"-h", "--help", "help"} & set(words):
        print(help_text(doc, cls))
        raise SystemExit(0)
    try:
        return resolve(cls, words)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def to_yaml(settings: Settings) -> str:
    """The settings as YAML."""
    return yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False, allow_unicode=True)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
