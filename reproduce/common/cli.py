"""The command line: ``key=value`` words into settings, with presets and shorthands; help, and errors in words.

The order of precedence is: defaults (the paper's), those of the data set, presets in the given order, column, row, the command
line.
"""

from __future__ import annotations

import codecs
import difflib
import os
import sys
import textwrap
from collections.abc import Mapping
from io import TextIOWrapper
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.blocks import BLOCK_LENGTH, NATIVE_FPS, skip_of
from datamodules.folds import parse_fold
from datamodules.parts import parse_groups
from datamodules.videos import TRUTHS
from reproduce.common.catalogue import COLUMNS, DATASETS, PAPER_NETWORK, ROWS, measured_columns
from reproduce.common.fields import MANY, entries
from reproduce.common.presets import GENERATED, MODELS, PRESETS
from reproduce.common.settings import DataSettings, Settings, SettingsError, get

PLAIN = {"λ": "lambda", "γ": "gamma", "–": "-", "−": "-", "…": "...", "×": "x", "±": "+-", "µ": "u", "\u00a0": " "}
"""How characters of the suite's own are written where the output's encoding lacks them."""

MOST_BLOCKS = 1000  # of a video; a decoding process holds them in memory

S = TypeVar("S")  # Settings, or those of a script that runs nothing


def command_line(cls: type[S], doc: str, argv: list[str] | None) -> S:
    """Settings from a script's command line; prints help, or an error, and exits where that is called for."""
    words = sys.argv[1:] if argv is None else argv
    _write_anything()
    if {"-h", "--help", "help"} & set(words):
        print(help_text(doc, cls))
        raise SystemExit(0)
    try:
        return resolve(cls, words)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _write_anything() -> None:
    """Let the output take every character, whatever its encoding: those that it lacks are written in others."""
    codecs.register_error("plain", lambda error: (_plain(error), error.end))  # type: ignore[attr-defined]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> str:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(character) or ascii(character)[1:-1] for character in error.object[error.start : error.end])


def help_text(doc: str, cls: type) -> str:
    """A script's documentation and every key with meaning and default."""
    lines = [doc.strip(), "", "Settings, as key=value:", ""]
    for entry in entries(cls):
        default = "null" if entry.default is None else str(entry.default).replace("'", "")
        lines.append(f"  {entry.key}={default}")
        choices = f" ({', '.join(entry.choices)})" if entry.choices else ""
        lines += textwrap.wrap(entry.meaning + choices, 110, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def resolve(cls: type[S], overrides: list[str]) -> S:
    """Settings from ``key=value`` words.

    Raises:
        SettingsError: a word is no ``key=value``, a key is unknown, or a value is impossible.
    """
    given = dict(_parse(word, cls) for word in overrides)
    if issubclass(cls, Settings):
        presets = _presets(given.get("preset", MODELS[0]))
        column = _shorthand("column", {name: COLUMNS[name].sets for name in measured_columns()}, given)
        row = _shorthand("row", {name: row.sets for name, row in ROWS.items()}, given)
        data = {**column, **given}.get("data.name", DataSettings.name)
        given = {**_preset_layers(presets, str(data)), **column, **row, **given, "preset": presets}
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
    presets = (value or [MODELS[0]]) if isinstance(value, list) or value is None else [value]
    for preset in presets:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise SettingsError(f"preset={preset}: {_not_among(str(preset), list(PRESETS))}")
    if len(set(MODELS) & set(presets)) > 1:
        raise SettingsError(f"preset: {' and '.join(MODELS)} are two models; choose one of them")
    return presets


def _preset_layers(presets: list[str], data: str) -> dict[str, Any]:
    layers: dict[str, Any] = dict(DATASETS[data].sets) if data in DATASETS else {}
    base = [] if set(MODELS) & set(presets) else [MODELS[0]]
    for preset in (*base, *presets):
        layers |= {**PRESETS[preset].sets, **PRESETS[preset].on.get(data, {})}
    for preset in presets:
        for other, on in PRESETS[preset].above.items():
            layers |= on.get(data, {}) if other in presets else {}
    return layers


def _shorthand(key: str, meanings: Mapping[str, Mapping[str, Any]], given: dict[str, Any]) -> Mapping[str, Any]:
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
    """Check every range and choice, and of a `Settings` what goes with what.

    Raises:
        SettingsError: the first that is off.
    """
    for entry in entries(type(settings)):
        if reason := _unusable(entry.key, get(settings, entry.key), entry.range):
            raise SettingsError(reason)
    for entry in entries(type(settings)):
        value = get(settings, entry.key)
        if entry.choices and value not in entry.choices and (value is not None or entry.default is not None):
            raise SettingsError(f"{entry.key}={value}: {_not_among(str(value), list(entry.choices))}")
    if not isinstance(settings, Settings):
        return
    name, folder = settings.data.name, settings.data.folder
    if DATASETS[name].of_user and not folder:
        raise SettingsError(f"data.name={name}: say which folder below paths.data, as data.folder=<name>")
    if settings.data.fold is not None or settings.data.groups is not None:
        try:
            _ = settings.data.fold and parse_fold(settings.data.fold)
            _ = settings.data.groups and parse_groups(settings.data.groups)
        except ValueError as error:
            raise SettingsError(str(error)) from None
    if folder and (folder.startswith(("~", "/")) or os.path.isabs(folder) or ".." in folder.replace(os.sep, "/").split("/")):
        raise SettingsError(
            f"data.folder={folder}: a folder below paths.data; write paths.data=<where it lies> data.folder=<its name>"
        )
    truth = settings.data.truth
    if truth != TRUTHS[0] and (GENERATED not in settings.preset or truth not in DATASETS[name].truths):
        able = [data for data, info in DATASETS.items() if truth in info.truths]
        raise SettingsError(f"data.truth={truth}: goes with preset={GENERATED} data.name={' or '.join(able)} alone")
    if settings.data.blocks_per_video is not None:
        _check_blocks(settings.data)
    _check_other_data(name, "pretrain.data", settings.pretrain.data)
    _check_other_data(name, "temporal.second", [settings.temporal.second] if settings.temporal.second else [])
    for key, value in (ROWS[settings.row].needs if settings.row else {}).items():
        found = get(settings, key)
        if found != value:
            raise SettingsError(
                f"row={settings.row}: its runs have {key}={value}; drop {key}={found}, or the preset that sets it"
            )
    for key, value in (("resize", settings.backbone.resize == "authors"), ("mean", settings.backbone.mean is not None)):
        imported = settings.backbone.weights == "released"
        if value and (settings.backbone.name != PAPER_NETWORK or imported):
            raise SettingsError(
                f"backbone.{key}={getattr(settings.backbone, key)}: goes with backbone.name={PAPER_NETWORK}, not with "
                f"{'imported features' if imported else settings.backbone.name}"
            )
    alone = [row for row, info in ROWS.items() if not info.system.members]
    if len(set(settings.fusion.rows)) < 2 or not set(settings.fusion.rows) <= set(alone):
        raise SettingsError(f"fusion.rows={settings.fusion.rows}: name two rows or more, of {', '.join(alone)}")


def _check_blocks(data: DataSettings) -> None:
    blocks, key = data.blocks_per_video or [], "data.blocks_per_video"
    if len(blocks) != 2 or not all(1 <= number <= MOST_BLOCKS for number in blocks):
        raise SettingsError(f"{key}={blocks}: two numbers from 1 to {MOST_BLOCKS}, of train's videos and of test's")
    able = [name for name, info in DATASETS.items() if key in info.sets]
    if data.name not in able:  # elsewhere a video changes sides with the split, and the splits share their features
        raise SettingsError(f"{key}={blocks}: goes with data.name={' or '.join(able)}; write {key}=null")
    if skip_of(data.fps) != 1 or data.stride != BLOCK_LENGTH:
        raise SettingsError(
            f"{key}={blocks}: goes with data.fps={NATIVE_FPS} and data.stride={BLOCK_LENGTH}, so that none spans two; "
            f"{key}=null takes all frames"
        )


def _check_other_data(own: str, key: str, others: list[str]) -> None:
    """Refuse further data sets that nothing may be learned of, or that there are not."""
    able = [name for name, info in DATASETS.items() if not info.of_user]
    for name in others:
        word = f"{key}={name}"
        if name not in able:
            raise SettingsError(f"{word}: {_not_among(name, able)}")
        if others.count(name) > 1:
            raise SettingsError(f"{word}: stands there twice")
        if name == own:
            raise SettingsError(f"{word}: is data.name, whose test videos nothing may be learned of; drop it")
        if name in DATASETS[own].contained_in or own in DATASETS[name].contained_in:
            raise SettingsError(
                f"{word}: {DATASETS[name].label} and {DATASETS[own].label} have videos in common, so that it would learn of "
                f"test videos; drop it"
            )


def _unusable(key: str, value: Any, bounds: tuple[float, float] | None) -> str | None:
    """What is wrong with a value that is out of range or begins with the home of nobody."""
    if bounds and value is not None and not bounds[0] <= value <= bounds[1]:
        low, high = bounds
        return f"{key}={value}: must be {f'at least {low}' if high >= MANY else f'from {low} to {high}'}"
    if isinstance(value, str) and value.startswith("~") and os.path.expanduser(value) == value:
        return f"{key}={value}: nobody here has that home folder; write the path out"
    return None


def _not_among(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not close:  # the last part of a dotted key is often right
        close = [key for key in known if key.rsplit(".")[-1] == word.rsplit(".")[-1]][:1]
    listed = f"choose from {', '.join(known)}" if len(known) <= 12 else "--help lists every key"
    return f"did you mean {close[0]}? ({listed})" if close else listed


def unavailable(settings: Settings, error: Exception) -> str:
    """In words, that Lightning does not find the devices that are asked for."""
    trainer = settings.trainer
    return f"trainer.accelerator={trainer.accelerator}, trainer.devices={trainer.devices}: {str(error).splitlines()[0]}"


def fail(error: Exception) -> SystemExit:
    """Print an error that a user can act on, without a traceback; raise what this returns."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return SystemExit(1)
