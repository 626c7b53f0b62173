"""A run's network beside the videos of its data set: what it sees and says of one, as a strip of frames and overlays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

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
from reproduce.common.naming import file_names
from reproduce.common.progress import Progress
from reproduce.common.settings import Settings
from reproduce.experiments.folder import RunFolder
from reproduce.systems.loading import Trained, load_trained
from reproduce.systems.recurrent import build_data
from reproduce.systems.tracks import Track, Tracker, track_video
from reproduce.visual.clips import BY_BOX, Clip, Rule, choose, clips_of, find_videos, short_names, unknown_video
from reproduce.visual.overlay import overlay
from reproduce.visual.pages import Strip, evenly
from reproduce.visual.recordings import read_some

SEPARATOR = " · "


class Shown:
    """A trained network and the videos that it can be shown with.

    Args:
        folder: of the run.
        settings: say where data and features lie now.

    Raises:
        DataError: the run has no attention, its files are damaged, or data or features are missing or others than it had.
    """

    def __init__(self, folder: RunFolder, settings: Settings) -> None:
        self.trained: Trained = load_trained(folder.path)
        if self.trained.settings.model.name != "soft_attention":
            raise DataError(
                f"{folder.path}: {self.trained.settings.model.name} has no attention to draw; row=soft_attention_0 has"
            )
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
        """What the network sees and says of a video."""
        if name not in self._tracks:
            self._tracks[name] = track_video(self.network, self.data.store, name, Tracker.of(self.trained))
        return self._tracks[name]

    def frames(self, name: str, wanted: np.ndarray) -> np.ndarray:
        """Some frames of a video, (n, H, W, 3) uint8, squashed as the backbone saw them."""
        return read_some(self.annotation.path(self.videos[name]), wanted)

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

    def strip(self, name: str, columns: int, first: int | None = None, *more: str) -> Strip:
        """A clip's frames above its overlays.

        Args:
            name: of the video.
            columns: pictures beside one another.
            first: steps from the clip's beginning that they are taken from; None for all.
            more: words for the caption.
        """
        track = self.track(name)
        assert track.attention is not None
        chosen = evenly(len(track.frames[:first]), columns)
        frames = self.frames(name, track.frames[chosen])
        rows = (("frames", list(frames)), ("attention", overlays(frames, track.attention[chosen])))
        return Strip(self.caption(name, *more), rows, self.seconds(name, track.frames[chosen]), self.prediction(name)[2])

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
        progress = Progress(f"looking at {self.name} clips", "clips")
        looked, pool = 0, sum(clip.correct == (rule.pool == "correct") or rule.pool == "any" for clip in self.clips)

        def value(clip: Clip) -> float | None:
            nonlocal looked
            looked += 1
            found = number(clip.name)
            progress.update(looked, pool)
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


def overlays(frames: np.ndarray, maps: np.ndarray) -> list[np.ndarray]:
    """Attention (n, rows, columns) laid over frames (n, H, W, 3)."""
    return [overlay(frame, alpha) for frame, alpha in zip(frames, maps, strict=True)]


def named_videos(wanted: Sequence[str], shown: Sequence[Shown]) -> list[list[str]]:
    """The videos that a user named, by the data set that has them.

    Raises:
        DataError: no data set has a video of such a name, or a name means several.
    """
    found = [find_videos(wanted, list(one.videos)) for one in shown]
    for word in wanted:
        if all(names[word] is None for names in found):
            every = [name for one in shown for name in one.videos]
            raise unknown_video(word, every, " and ".join(dict.fromkeys(one.name for one in shown)))
    return [[name for name in names.values() if name is not None] for names in found]
