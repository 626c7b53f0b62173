"""Settings of the benchmark, and the true sizes of the data sets that it rehearses. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from reproduce.common.cli import resolve
from reproduce.common.settings import DataSettings, Settings, SettingsError, with_values

ALL_CASES = ("startup", "extraction", "testing", "training", "epoch", "scaling", "descriptors")


@dataclass(frozen=True)
class Scale:
    """A data set's true sizes (protocol §8).

    Args:
        train, test: videos.
        mean, shortest, longest: frames of a video.
        classes: C.
    """

    train: int
    test: int
    mean: float
    shortest: int
    longest: int
    classes: int


SCALES = {
    # 32 to 59 GB of features are 319 000 to 588 000 frames of 1600 clips: the middle
    "ucf11": Scale(975, 625, 283.0, 12, 900, 11),
    "hmdb51": Scale(3570, 1530, 94.5, 19, 1063, 51),
}


SMALL: dict[str, Any] = {
    "trainer.threads": 1,
    "data.batch_size": 4,
    "model.hidden_dim": 8,
    "backbone.size": 64,
    "locations": 9,
    "channels": 16,
    "frames": 34,
    "repeats": 1,
    "steps": 1,
}
"""Sizes by which the CPU is compared with itself, in seconds."""


@dataclass
class BenchmarkSettings(Settings):
    """Settings of benchmark.py: those of a run, as far as they speak of sizes, and these."""

    data: DataSettings = field(default_factory=lambda: DataSettings(batch_size=64))
    cases: list[str] = field(default_factory=lambda: list(ALL_CASES))
    """what to measure: startup, extraction, testing, training, epoch, scaling, descriptors (needs the extra systems)"""
    scale: Optional[str] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """rehearse a column of Table 1 at a data set's true size instead: ucf11 or hmdb51"""
    device_check: bool = False
    """instead, compare the first GPU with the CPU, and measure it; trainer.accelerator=cpu: the CPU with itself, in small"""
    repeats: int = 5
    """repetitions, of which the median counts"""
    frames: int = 200
    """of a video"""
    locations: int = 49
    """K"""
    channels: int = 1024
    """D"""
    clips: int = 8
    """videos that features are extracted of"""
    clip_frames: int = 100
    """frames of each of them"""
    plain_clips: int = 1
    """of these, the videos that the plain way does, for it is slow"""
    epoch_batches: int = 4
    """batches of the epoch from the store"""
    processes: int = 4
    """most processes on the CPU for the scaling over processes: 1, 2 and 4"""
    rows: int = 50_000
    """local descriptors that are encoded"""
    steps: int = 5
    """training steps and test videos that a rehearsal measures of each row"""


def check(settings: BenchmarkSettings) -> None:
    """Refuse settings that nothing can be measured with.

    Raises:
        SettingsError: the first that is off.
    """
    for case in settings.cases:
        if case not in ALL_CASES:
            raise SettingsError(f"cases: {case} is none of {', '.join(ALL_CASES)}")
    if settings.scale not in (None, *SCALES):
        raise SettingsError(f"scale={settings.scale}: choose from {', '.join(SCALES)}")
    if settings.scale and settings.device_check:
        raise SettingsError(f"scale={settings.scale}: a rehearsal; run device_check=true by itself, before it")
    for key in ("repeats", "locations", "channels", "clips", "clip_frames", "plain_clips", "epoch_batches", "rows", "steps"):
        if getattr(settings, key) < 1:
            raise SettingsError(f"{key}={getattr(settings, key)}: must be at least 1")
    weights = settings.backbone.weights
    if weights not in ("imagenet", "random", "released") and not Path(weights).expanduser().is_file():
        raise SettingsError(f"backbone.weights={weights}: no such file; without one, weights are random here")
    if settings.frames < 31:
        raise SettingsError(f"frames={settings.frames}: must be at least 31, for more than one block")


def in_small(settings: BenchmarkSettings, words: Sequence[str]) -> BenchmarkSettings:
    """The same with the sizes of ``SMALL``, unless the command line has others."""
    given = {word.partition("=")[0] for word in words}
    return with_values(settings, {key: value for key, value in SMALL.items() if key not in given})  # type: ignore[return-value]


def take_papers_sizes(settings: BenchmarkSettings, words: Sequence[str]) -> None:
    """A rehearsal's batch and width are the paper's for that data set, unless the command line has others."""
    paper = resolve(Settings, [f"data.name={settings.scale}"])
    given = {word.partition("=")[0] for word in words}
    if "data.batch_size" not in given:
        settings.data.batch_size = paper.data.batch_size
    if "model.hidden_dim" not in given:
        settings.model.hidden_dim = paper.model.hidden_dim
