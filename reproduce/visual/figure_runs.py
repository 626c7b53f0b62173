"""What figures.py is asked for: its settings, the rule of its clips, and the best finished run of each need. Free of torch."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Optional

from datamodules.videos import DataError
from reproduce.common.catalogue import DEFAULT_ATTENTION, PENALTY, ROWS, SYSTEMS, row_of
from reproduce.common.cli import resolve
from reproduce.common.dataset import dataset_of
from reproduce.common.fields import ranged
from reproduce.common.files import file_words
from reproduce.common.settings import DataSettings, Settings, SettingsError
from reproduce.evaluation.collection import Configuration, DataSet, Run, read
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import configuration, named

ROW_WORDS = ("row", "model.name", "objective.attention_penalty")
DATA_WORDS = ("data.name", "column", "data.split", "data.folder", "data.truth")
MOST_DIFFERENCES = 4  # that an error names
SHOWS = {"glimpse": ("glimpse", "videos"), "correction": ("limit", "videos"), "mistakes": (), "tradeoff": (), "reads": ()}
"""Of each figure, the settings of its own that say what it shows; others have ``RULED``."""
RULED = ("choose", "videos")
POOLS = {
    "correct": "classified correctly",
    "incorrect": "classified incorrectly",
    "any": "of the test set",
}
ORDERS = {
    "first": "the first by name",
    "confident": "those with the highest score",
    "foreground": "those with the most attention in the actor's box over the box's area",
    "background": "those with the least attention in the actor's box over the box's area",
    "focused": "those with the least entropy of attention",
    "spread": "those with the greatest entropy of attention",
}
BY_BOX = {"foreground": "focused", "background": "spread"}
"""Orders that need boxes, and what takes their place on data without them."""
LARGEST_FIRST = ("confident", "foreground", "spread")


@dataclass
class FigureSettings(Settings):
    """Settings of figures.py: those of the runs, and what is drawn of them."""

    figure: list[str] = field(default_factory=lambda: ["all"])
    """which figures, or all"""
    videos: list[str] = field(default_factory=list)
    """clips by name (without folder and suffix, where that is unique) instead of by rule"""
    choose: list[str] = field(default_factory=list)
    """rule by which clips are chosen: correct, incorrect or any, and the order they are taken in: first (by name), confident, \
foreground or background (attention in the actor's box over the box's area), focused or spread (entropy); one a class as \
long as there are classes. Empty for each figure's own rule"""
    clips: Optional[int] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """clips of a figure, of each data set and kind; null for each figure's own number"""
    columns: int = 6
    """pictures beside one another, evenly spaced over the clip"""
    glimpse: str = "search"
    """of figure=glimpse: a cell as row,column from 0; a box as left,top,right,bottom in fractions of the frame; a map as a \
CSV file; or search, which tries every cell"""
    limit: int = 200
    """of figure=correction: the optimiser's steps after which a clip counts as not corrected"""
    most: Optional[int] = None  # noqa: UP045
    """of figure=correction: so many misclassified clips, the first of each class by name, then the second ones, and so on; \
null for all, with preset=miniature for 8"""
    train: bool = False
    """train what is missing; preset=miniature, whose runs take minutes, does so anyway"""
    workers: Optional[int] = ranged(None, 1)  # noqa: UP045
    """runs at a time; null for one on each trainer.devices GPUs, or one a core, up to 8, where there is no GPU"""


OWN_KEYS = ("figure", "videos", "choose", "clips", "columns", "glimpse", "limit", "most", "train", "workers")
DEFAULTS = FigureSettings()


@dataclass(frozen=True)
class Rule:
    """How clips are chosen.

    Args:
        pool: of ``POOLS``.
        order: of ``ORDERS``.
    """

    pool: str
    order: str

    def __str__(self) -> str:
        return f"of the clips {POOLS[self.pool]}, {ORDERS[self.order]}, one a class as long as there are classes"


def parse_rule(words: Sequence[str], default: Rule) -> Rule:
    """The rule that ``choose=`` says, a default's part where it says none.

    Raises:
        SettingsError: a word is unknown, or there are two pools or two orders.
    """
    known = [*POOLS, *ORDERS]
    for word in words:
        if word not in known:
            close = difflib.get_close_matches(word, known, n=1)
            raise SettingsError(f"choose={word}: {f'did you mean {close[0]}? ' if close else ''}choose from {', '.join(known)}")
    pools = [word for word in words if word in POOLS]
    orders = [word for word in words if word in ORDERS]
    if len(pools) > 1 or len(orders) > 1:
        raise SettingsError(f"choose=[{','.join(words)}]: at most one of {', '.join(POOLS)} and one of {', '.join(ORDERS)}")
    return Rule((pools or [default.pool])[0], (orders or [default.order])[0])


@dataclass(frozen=True)
class Need:
    """A run that a figure is drawn from.

    Args:
        data: of ``data.name``; None for that of the command line.
        row: of the catalogue; None for that of the command line or else ``DEFAULT_ATTENTION``.
        fps: of ``data.fps``; None for that of the command line.
    """

    data: str | None = None
    row: str | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Request:
    """The command line, and what it finds.

    Args:
        settings: as resolved.
        words: of the command line, for the runs alone.
    """

    settings: FigureSettings
    words: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where figures are written."""
        return Path(self.settings.paths.results).expanduser() / "figures"

    def path(self, figure: str, needs: Sequence[Need], several: bool = False) -> Path:
        """Where a figure is written, without suffix: ``attention``, and what it shows that it does not show by itself.

        That is the data set, if it is not UCF-11; and of the networks and the clips what the command line says of them,
        such as ``attention_hmdb51_soft_attention_1_released``.

        Args:
            figure: its name.
            needs: its runs.
            several: whether it is of fixed data sets.
        """
        dataset = self.wanted(needs[0])[0]
        own = [] if several or dataset == DataSettings.name else [dataset]
        apart = [word for need in needs for word in self._apart(need)]
        apart += [f"seed_{self.settings.seed}"] if any(word.startswith("seed=") for word in self.words) else []
        apart += [self._said(key) for key in SHOWS.get(figure, RULED) if getattr(self.settings, key) != getattr(DEFAULTS, key)]
        words = [file_words("_".join(dict.fromkeys(apart)))] if apart else []
        return self.folder / "_".join([figure, *own, *words])

    def _said(self, key: str) -> str:
        """A setting of a figure's own in words."""
        settings = self.settings
        said = {"choose": "_".join(settings.choose), "videos": ",".join(settings.videos), "limit": f"limit_{settings.limit}"}
        return said.get(key, settings.glimpse.replace(",", "_"))

    def _apart(self, need: Need) -> list[str]:
        """In words, how a need's runs differ from those of the figure as it is drawn by itself."""
        settings = self.settings_of(need)
        dataset = {"data.name": settings.data.name, "data.folder": settings.data.folder}
        words = [f"preset=[{','.join(settings.preset)}]", *(f"{key}={value}" for key, value in dataset.items() if value)]
        (_, found), (_, usual) = self.wanted(need), Request(self.settings, tuple(words)).wanted(need)
        keys = [key for key in found if found[key] != usual.get(key)]
        row = [row_of(found)] if {"model.name", PENALTY} & set(keys) else []
        released = ["released"] if "released" in settings.preset else []
        others = [f"{key.rpartition('.')[2]}_{found[key]}" for key in keys if key not in ("model.name", PENALTY)]
        return [*row, *released, *others]

    def words_of(self, need: Need) -> list[str]:
        """The words that train.py takes for a run, without its seed unless the command line says one."""
        words = list(self.words)
        if need.data is not None and need.data != self.settings.data.name:
            words = [*_without(words, DATA_WORDS), f"data.name={need.data}"]
        if need.row is not None:
            words = [*_without(words, ROW_WORDS), f"row={need.row}"]
        elif len(_without(words, ROW_WORDS)) == len(words):
            words.append(f"row={DEFAULT_ATTENTION}")
        if need.fps is not None:
            words = [*_without(words, ("data.fps",)), f"data.fps={need.fps:g}"]
        return words

    def settings_of(self, need: Need) -> Settings:
        """The settings of a run."""
        return resolve(Settings, self.words_of(need))

    def check(self, figure: str, needs: Sequence[Need]) -> None:
        """Refuse runs of systems that do not attend, before anything is trained.

        Raises:
            SettingsError: a need's row has no attention; names one that has.
        """
        for need in needs:
            settings = self.settings_of(need)
            if not SYSTEMS[settings.model.name].attends:
                given = f"row={settings.row}" if settings.row else f"model.name={settings.model.name}"
                raise SettingsError(f"figure={figure}: {given} has no attention to draw; row={DEFAULT_ATTENTION} has")

    def command(self, need: Need) -> str:
        """What to run for it."""
        return shlex.join(["python", "reproduce/train.py", *self.words_of(need)])

    @cached_property
    def _read(self) -> list[DataSet]:
        found, problems = read(Path(self.settings.paths.runs).expanduser())
        for problem in problems:
            print(f"note: {problem}", flush=True)
        return found

    def configurations(self, dataset: str) -> tuple[Configuration, ...]:
        """Everything that ran to its end on a data set."""
        return next((found.configurations for found in self._read if found.name == dataset), ())

    def wanted(self, need: Need) -> tuple[str, dict]:
        """The data set's name as in run folders, and the settings besides the seed by dotted key, of a need."""
        settings = self.settings_of(need)
        dataset = dataset_of(settings)
        wanted = named(configuration(settings))
        return dataset, {key: value for key, value in wanted.items() if key != "seed"}

    def runs(self, need: Need) -> list[Run]:
        """The finished runs of a need whose weights are there, the best on validation first; of ``seed=`` where given."""
        dataset, wanted = self.wanted(need)
        found = [
            run
            for one in self.configurations(dataset)
            if {key: value for key, value in one.settings.items() if key != "videos"} == wanted
            for run in one.runs
            if run.folder.tested.is_file() and "map" in run.about  # which earlier versions did not write
        ]
        if any(word.startswith("seed=") for word in self.words):
            found = [run for run in found if run.settings["seed"] == self.settings.seed]
        return sorted(found, key=lambda run: (-validation(run), run.settings["seed"]))

    def best(self, need: Need = Need()) -> RunFolder:
        """Of a need's finished runs, which differ in the seed alone, the one with the best validation figure.

        Raises:
            DataError: there is none; says which command makes it.
        """
        found = self.runs(need)
        if not found:
            raise DataError(self.lacking(need))
        return found[0].folder

    def lacking(self, need: Need) -> str:
        """That a need has no finished run, which run comes nearest, and what to do."""
        dataset, wanted = self.wanted(need)
        row = row_of(wanted)
        where = Path(self.settings.paths.runs).expanduser().resolve()
        label = ROWS[row].label if row in ROWS else row
        said = f"no finished run with its weights of {dataset}, {label}, with these settings in {where}"
        near = [
            (apart, one)
            for one in self.configurations(dataset)
            if (apart := {key: one.settings[key] for key in wanted if key in one.settings and one.settings[key] != wanted[key]})
        ]
        if near:
            apart, one = min(near, key=lambda pair: len(pair[0]))
            some = [f"{key}={value} instead of {wanted[key]}" for key, value in list(apart.items())[:MOST_DIFFERENCES]]
            more = f" and {len(apart) - len(some)} more" if len(apart) > len(some) else ""
            said += f"\n    the nearest, {one.runs[0].folder.name}, has {', '.join(some)}{more}"
        return f"{said}\n    make it with: {self.command(need)}"

    def train(self, needs: Sequence[Need]) -> None:
        """Train what is not there, as the tables do; exits where that fails.

        Raises:
            SettingsError: a row is none of Table 1's.
            DataError: data are not in place.
        """
        from reproduce.common.dataset import read_annotation
        from reproduce.experiments.scheduler import exit_if_failed, finish_grid

        groups: dict[tuple[str, ...], list[str]] = {}
        for need in needs:
            settings = self.settings_of(need)
            if settings.row not in ROWS:
                raise SettingsError(f"figures.py trains the rows of Table 1 alone; run it yourself: {self.command(need)}")
            read_annotation(settings)
            groups.setdefault(tuple(_without(self.words_of(need), ("row", "seed"))), []).append(str(settings.row))
        failures = []
        for words, rows in groups.items():
            settings = resolve(Settings, list(words))
            name = (
                settings.data.name
                if settings.data.fps == Settings().data.fps
                else f"{settings.data.name} at {settings.data.fps:g} fps"
            )
            columns = {name: [list(words)]}
            _, failed = finish_grid(
                self.settings, columns, list(dict.fromkeys(rows)), [self.settings.seed], self.settings.workers, "figures.py"
            )
            failures += failed
        exit_if_failed(failures)
        self.__dict__.pop("_read", None)  # the new runs are read too


def validation(run: Run) -> float:
    """The figure by which a run's seed is taken: validation accuracy, or mAP for multi-label."""
    return float(run.metrics.get("val/mAP" if run.multi_label else "val/accuracy", float("-inf")))


def _without(words: Sequence[str], keys: Sequence[str]) -> list[str]:
    return [word for word in words if word.partition("=")[0] not in keys]
