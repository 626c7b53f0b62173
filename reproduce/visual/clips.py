"""Which clips a figure shows: by rule, from what a run predicted and attended to, or by name. The same clips each time.

The clips of a rule's pool are taken in its order, of each class one, then of each class a second one, and so on; ties go by
name. A clip of several classes counts for its first. A clip is classified correctly where the class of the highest score is
one of its own.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
import torch
from torch.nn import Module

from datamodules.base import VideoDataModule
from datamodules.blocks import NATIVE_FPS
from datamodules.decoding import probe
from datamodules.videos import DataError
from lightning_modules.measures import entropy
from reproduce.common.catalogue import label_of
from reproduce.common.dataset import data_folder
from reproduce.common.files import file_names
from reproduce.common.progress import Progress
from reproduce.common.settings import Settings
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.predictions import Predictions
from reproduce.systems.devices import device_of, set_arithmetic
from reproduce.systems.loading import Trained, load_trained
from reproduce.systems.recurrent import build_data
from reproduce.systems.tracks import Track, Tracker, track_video
from reproduce.visual.figure_runs import BY_BOX, LARGEST_FIRST, Rule
from reproduce.visual.recordings import frames_at

SEPARATOR = " · "


@dataclass(frozen=True)
class Clip:
    """A test video and what was predicted.

    Args:
        name: of the video.
        kind: its first class; empty for a video without.
        correct: whether the class of the highest score is one of its own.
        score: the highest one.
    """

    name: str
    kind: str
    correct: bool
    score: float


class RunClips:
    """A run with attention and the clips of its data set: its network's track of each, and choices among them.

    Args:
        folder: of the run.
        settings: say where data and features lie now.

    Raises:
        DataError: the run's files are damaged, or data or features are missing or others than it had.
    """

    def __init__(self, folder: RunFolder, settings: Settings) -> None:
        self.trained: Trained = load_trained(folder.path)
        self.trained.network.to(device_of(settings.trainer.accelerator))
        set_arithmetic(self.trained.settings)
        self.data: VideoDataModule = build_data(settings)
        self.annotation = self.data.annotation
        made_on = self.trained.about.get("data_fingerprint")
        if made_on != self.annotation.fingerprint():
            raise DataError(
                f"{folder.path}: was made on other videos than lie in {data_folder(settings).resolve()} now; "
                "say where its videos are with paths.data=<folder>, or run it again"
            )
        miniature = " (miniature)" if self.annotation.miniature else ""
        self.name = label_of(self.annotation.data) + miniature
        self.videos = {video.name: video for video in self.annotation.videos}
        self._short = short_names([video.name for video in self.annotation.videos])
        self._files = dict(zip(sorted(self.videos), file_names(sorted(self.videos)), strict=True))
        self._tracks: dict[str, Track] = {}

    @property
    def network(self) -> Module:
        """In evaluation mode."""
        return self.trained.network

    @property
    def penalty(self) -> float:
        """λ."""
        return self.trained.settings.objective.attention_penalty

    @property
    def kind(self) -> str:
        """For a title, what kind of attention it is where that is not the paper's."""
        kind = self.trained.settings.model.attention
        return "" if kind == "location" else f", {kind} attention"

    @property
    def model(self) -> str:
        """What the network is, for a title."""
        return f"{self.kind.removeprefix(', ')}, λ\u00a0=\u00a0{self.penalty:g}".removeprefix(", ")

    @cached_property
    def clips(self) -> list[Clip]:
        """The test videos and what the run's test predicted."""
        return clips_of(self.trained.folder.predictions())

    def short(self, name: str) -> str:
        """A video's name for a reader."""
        return self._short[name]

    def file_name(self, name: str) -> str:
        """Of a video's own file, without suffix: the same whichever of the data set's videos are drawn, and no other's."""
        return self._files[name]

    def track(self, name: str) -> Track:
        """The network's track of a video."""
        if name not in self._tracks:
            self._tracks[name] = track_video(self.network, self.data.store, name, Tracker.of(self.trained))
        return self._tracks[name]

    def frames(self, name: str, wanted: np.ndarray) -> np.ndarray:
        """Some frames of a video, (n, H, W, 3) uint8, squashed as the backbone saw them."""
        return frames_at(self.annotation.path(self.videos[name]), wanted)

    def seconds(self, name: str, frames: np.ndarray) -> tuple[str, ...]:
        """When frames are shown, by the film's own rate."""
        rate = probe(self.annotation.path(self.videos[name])).fps or NATIVE_FPS
        return tuple(f"{frame / rate:.1f} s" for frame in frames)

    def true(self, name: str) -> str:
        """A video's classes."""
        return ", ".join(self.trained.classes[label] for label in self.videos[name].labels) or "none"

    def prediction(self, name: str) -> tuple[str, float, bool | None]:
        """The class of the highest score, that score, and whether the video has that class (None if it has none at all)."""
        scores, labels = self.track(name).scores, self.videos[name].labels
        best = int(scores.argmax())
        return self.trained.classes[best], float(scores[best]), best in labels if labels else None

    def caption(self, name: str, *more: str) -> str:
        """``v_shooting_05_01 · true: basketball · predicted: diving (0.61)``, with more words before what was predicted."""
        found, score, _ = self.prediction(name)
        return SEPARATOR.join([self.short(name), f"true: {self.true(name)}", *more, f"predicted: {found} ({score:.2f})"])

    def foreground(self, name: str) -> float | None:
        """Mean attention inside the actor's box over the mean of the box's area; None for a video without box."""
        cells = self.data.cells(self.videos[name])
        track = self.track(name)
        assert track.attention is not None
        if cells is None:
            return None
        coverage = cells[0][track.frames]  # (n, K)
        boxed = np.isfinite(coverage).all(axis=1)
        inside = (track.attention.reshape(coverage.shape) * coverage)[boxed].sum(axis=1)
        area = coverage[boxed].mean() if boxed.any() else 0.0
        return float(inside.mean() / area) if area else None

    def entropy(self, name: str) -> float:
        """Mean entropy of a video's attention over that of uniform attention, from 0 to 1."""
        attention = self.track(name).attention
        assert attention is not None
        maps = torch.from_numpy(attention).flatten(1)[None]  # (1, n, K)
        return float(entropy(maps).mean()) / math.log(maps.shape[2]) if maps.shape[2] > 1 else 0.0

    def choose(self, rule: Rule, count: int) -> tuple[list[str], str]:
        """Clips by rule, and the rule in words; without boxes, entropy takes the place of attention in the box."""
        note = ""
        if rule.order in BY_BOX and not self.data.has_boxes:
            rule = Rule(rule.pool, BY_BOX[rule.order])
            note = " (the data set says not where the actor is)"
        number: Callable[[str], float | None] = self.foreground if rule.order in BY_BOX else self.entropy
        progress = Progress(f"attention on {self.name} clips", "clips")
        done, pool = 0, sum(clip.correct == (rule.pool == "correct") or rule.pool == "any" for clip in self.clips)

        def value(clip: Clip) -> float | None:
            nonlocal done
            done += 1
            found = number(clip.name)
            progress.update(done, pool)
            return found

        chosen = choose(self.clips, rule, count, value)
        progress.close()
        return chosen, f"{self.name}: {rule}{note}."

    def about(self, seeds: int) -> str:
        """Which run this is, for a note."""
        metrics = self.trained.folder.metrics() or {}
        figure = "val/mAP" if self.trained.multi_label else "val/accuracy"
        of = f", of {seeds} seeds the best on validation" if seeds > 1 else ""
        score = f" (validation {figure.removeprefix('val/')} {100 * metrics[figure]:.1f} %)" if figure in metrics else ""
        return f"run {self.trained.folder.name}, seed {self.trained.settings.seed}{of}{score}"


def named_videos(wanted: Sequence[str], runs: Sequence[RunClips]) -> list[list[str]]:
    """The videos that a user named, by the data set that has them.

    Raises:
        DataError: no data set has a video of such a name, or a name means several.
    """
    found = [find_videos(wanted, list(one.videos)) for one in runs]
    for word in wanted:
        if all(names[word] is None for names in found):
            every = [name for one in runs for name in one.videos]
            raise unknown_video(word, every, " and ".join(dict.fromkeys(one.name for one in runs)))
    return [[name for name in names.values() if name is not None] for names in found]


def clips_of(found: Predictions) -> list[Clip]:
    """The test videos of a run."""
    return [
        Clip(name, next(iter(np.asarray(found.classes)[hot]), ""), bool(hot[scores.argmax()]), float(scores.max()))
        for name, hot, scores in zip(found.videos, found.target, found.scores, strict=True)
    ]


def choose(clips: Iterable[Clip], rule: Rule, count: int, value: Callable[[Clip], float | None]) -> list[str]:
    """Names of the clips that a rule takes, fewer than asked for where the pool has no more.

    Args:
        clips: in any order.
        rule: the rule.
        count: clips to take.
        value: by which the orders from foreground to spread go: attention in the box over the box's area, or entropy; a
            clip that it gives None is left out.
    """
    pool = [clip for clip in clips if rule.pool == "any" or clip.correct == (rule.pool == "correct")]
    ranked: list[tuple[float, str, Clip]] = []
    for clip in pool:
        number = {"first": 0.0, "confident": clip.score}.get(rule.order)
        number = value(clip) if number is None else number
        if number is not None:
            ranked.append((-number if rule.order in LARGEST_FIRST else number, clip.name, clip))
    ranked.sort(key=lambda entry: entry[:2])
    taken: dict[str, int] = {}
    rounds: list[tuple[int, int, str]] = []
    for place, (_, name, clip) in enumerate(ranked):
        rounds.append((taken.get(clip.kind, 0), place, name))
        taken[clip.kind] = taken.get(clip.kind, 0) + 1
    return [name for _, _, name in sorted(rounds)[:count]]


def find_videos(wanted: Sequence[str], names: Sequence[str]) -> dict[str, str | None]:
    """For each name that a user wrote, the one video that it means, or None.

    A video may be called by its whole name, with or without suffix, or by its last parts, such as the file's name.

    Raises:
        DataError: a name means several videos.
    """
    found: dict[str, str | None] = {}
    for word in wanted:
        alike = [name for name in names if word in (name, _stem(name))]
        alike = alike or [name for name in names if name.endswith(f"/{word}") or _stem(name).endswith(f"/{word}")]
        if len(alike) > 1:
            raise DataError(f"videos: {word} may be any of {', '.join(alike[:5])}; write more of the path")
        found[word] = alike[0] if alike else None
    return found


def unknown_video(word: str, names: Sequence[str], where: str) -> DataError:
    """The error that there is no such video, with those whose names come near."""
    by_file = {PurePosixPath(name).name: name for name in names} | {PurePosixPath(name).stem: name for name in names}
    close = difflib.get_close_matches(word, [*names, *by_file], n=3, cutoff=0.6)
    said = list(dict.fromkeys(by_file.get(name, name) for name in close))
    hint = f"did you mean {' or '.join(said)}?" if said else f"the first of them is {min(names)}" if names else "it has none"
    return DataError(f"videos: there is no {word} among the videos of {where}; {hint}")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """For captions: names without folder and suffix where all of them differ in that, else without suffix."""
    stems = [PurePosixPath(name).stem for name in names]
    return dict(zip(names, stems if len(set(stems)) == len(names) else map(_stem, names), strict=True))


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
