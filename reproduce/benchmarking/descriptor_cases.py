"""What the benchmark measures of Table 2's other systems: trajectories, encoders, kernels; each with its peak memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.decoding import read_frames
from datamodules.descriptors.opencv import opencv
from datamodules.descriptors.trajectories import TrajectoryOptions, trajectories
from lightning_modules.encoders.fisher import Encoder, fit_encoder
from lightning_modules.encoders.kernels import gram
from lightning_modules.encoders.rank_pooling import rank_direction, running_means
from reproduce.benchmarking.lines import Line
from reproduce.benchmarking.settings import BenchmarkSettings
from reproduce.benchmarking.workloads import Work, encode_clip, in_bytes, medians, peak_memory

CHANNEL = 96  # numbers of HOG, MBHx or MBHy
FRAMES = 95  # T, a mean HMDB-51 clip's frames
VIDEOS = 1000


def descriptors(settings: BenchmarkSettings, folder: Path, device: torch.device) -> Iterator[Line]:
    """Trajectories, mixture, Fisher vector, rank pooling and Gram matrix, on the CPU with as many threads as set."""
    yield from _trajectories(settings, folder, device)
    random = np.random.default_rng(0)
    rows, components = settings.rows, settings.encoder.components
    x = random.normal(size=(rows, CHANNEL)).astype(np.float32)
    kept = CHANNEL // 2
    encoder: list[Encoder] = []

    def fit() -> None:
        encoder[:] = [fit_encoder(x, components=components, dimensions=kept, seed=0)]

    yield _line(
        settings, device, f"mixture of K={components} fitted to {rows} descriptors, {CHANNEL} to {kept} numbers", fit, repeats=1
    )
    yield _line(
        settings,
        device,
        f"Fisher vector of {rows} descriptors, K={components}, d={kept}",
        lambda: encoder[0].gradients(encoder[0].sums(x)),
        "all posteriors and powers at once, in float64",
        lambda: _plain_sums(encoder[0], x),
    )
    series = random.random((FRAMES, 2 * components * kept)).astype(np.float32)
    yield _line(
        settings,
        device,
        f"rank pooling, T={FRAMES}, D={series.shape[1]}, one direction",
        lambda: rank_direction(series),
        "scikit-learn's LinearSVR (liblinear)",
        lambda: _plain_direction(series),
    )
    vectors = random.normal(size=(VIDEOS, series.shape[1])).astype(np.float32)
    yield _line(
        settings,
        device,
        f"Gram matrix of {VIDEOS} vectors of {series.shape[1]} numbers, in blocks",
        lambda: gram(lambda start, stop: vectors[start:stop], VIDEOS),
        "one product",
        lambda: vectors @ vectors.T,
    )


def _trajectories(settings: BenchmarkSettings, folder: Path, device: torch.device) -> Iterator[Line]:
    path = folder / "trajectories.avi"
    encode_clip(path, settings.clip_frames, 0)
    cv2, found = opencv(), []
    frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in read_frames(path)]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)

    def flow() -> None:
        for one, two in zip(frames, frames[1:], strict=False):
            cv2.calcOpticalFlowFarneback(one, two, None, 2**-0.5, 8, 10, 2, 7, 1.5, cv2.OPTFLOW_FARNEBACK_GAUSSIAN)  # type: ignore[call-overload]

    def track(options: TrajectoryOptions) -> None:
        found[:] = [sum(len(positions) for positions, _ in trajectories(frames, options))]

    for keypoints in ("sift", "orb"):
        yield _line(
            settings,
            device,
            f"improved dense trajectories, {keypoints.upper()}, {len(frames)} frames of 320x240, one thread",
            partial(track, TrajectoryOptions(keypoints=keypoints)),
            "OpenCV's Farnebäck flow at the finest scale alone",
            flow,
            per=len(frames),
        )
    cv2.setNumThreads(threads)


def _line(
    settings: BenchmarkSettings,
    device: torch.device,
    what: str,
    ours: Work,
    against: str = "",
    plain: Work | None = None,
    repeats: int | None = None,
    per: int = 1,
) -> Line:
    """A line of two ways, in milliseconds of each, or for each of several frames."""
    works = {"ours": ours} | ({} if plain is None else {"plain": plain})
    took = {name: 1000 * seconds / per for name, seconds in medians(works, device, repeats or settings.repeats).items()}
    unit = "ms a frame" if per > 1 else "ms"
    memory = " against ".join(in_bytes(peak_memory(work, device)) for work in works.values())
    return Line(
        what,
        against,
        str(device),
        f"{took['plain']:.1f} {unit}" if plain else "–",
        f"{took['ours']:.1f} {unit}",
        took["plain"] / took["ours"] if plain else None,
        memory,
    )


def _plain_sums(encoder: Encoder, x: np.ndarray) -> np.ndarray:
    """S⁰, S¹, S² by the book."""
    projected = (x - encoder.mean) @ encoder.axes.T
    logarithms = [
        np.log(weight) - 0.5 * (np.log(variance) + (projected - mean) ** 2 / variance).sum(axis=1)
        for weight, mean, variance in zip(encoder.weights, encoder.means, encoder.variances, strict=True)
    ]
    posteriors = np.exp(np.stack(logarithms, axis=1) - np.logaddexp.reduce(logarithms, axis=0)[:, None])
    return np.hstack([posteriors.sum(axis=0)[:, None], posteriors.T @ projected, posteriors.T @ projected**2])


def _plain_direction(series: np.ndarray) -> np.ndarray:
    from sklearn.svm import LinearSVR

    means = running_means(series)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    options: dict[str, Any] = {"loss": "squared_epsilon_insensitive", "dual": False, "fit_intercept": False}
    solver = LinearSVR(epsilon=0.1, C=1.0, **options)
    return solver.fit(means, np.arange(1, len(means) + 1)).coef_
