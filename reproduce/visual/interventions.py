"""Interventions on attention: a glimpse given by hand (paper Fig. 5), and mistakes corrected by other attention alone (Fig. 9).

A glimpse is a cell, a box, or a whole map over the locations.

A correction draws the location softmax anew for a test video that a run got wrong, and then optimises it alone for the true
label (``lightning_modules.glimpses.correct``). As a control, the same is done for a label that is neither the true nor the
predicted one: what attention alone can make the network predict, whether or not it is so. One row a video is written as soon
as it is known, so that the same command goes on after a kill.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.blocks import BLOCK_LENGTH, BlockIndex, Span
from datamodules.boxes import cell_coverage
from datamodules.features import FeatureStore
from datamodules.pool import FramePool
from datamodules.reading import number, read_rows, whole_number
from datamodules.videos import Annotation, DataError, Video
from lightning_modules.attention import LocationAttention, SoftAttentionLSTM
from lightning_modules.frames import Frames
from lightning_modules.glimpses import LIMIT, correct, run_glimpse
from lightning_modules.measures import gaze
from lightning_modules.metrics import block_scores
from reproduce.common.catalogue import DEFAULT_ATTENTION
from reproduce.common.files import write_rows
from reproduce.common.progress import Progress
from reproduce.common.settings import SettingsError
from reproduce.systems.loading import Trained
from reproduce.systems.tracks import Track, Tracker, track_video

SEARCH = "search"
FORMS = (
    "a cell as row,column from 0 (glimpse=3,4); a box as left,top,right,bottom in fractions of the frame "
    "(glimpse=0.2,0.1,0.6,0.9); a map as a CSV file with a row of numbers for each row of cells (glimpse=map.csv); or "
    f"glimpse={SEARCH}, which tries every cell"
)

ANEW = "remove the file to begin anew"
MOST = 2**31  # of a seed, and of steps
FARTHEST = 1.5  # of ``moved``, whose way is at most a frame's diagonal


def parse_glimpse(text: str, grid: tuple[int, int]) -> np.ndarray:
    """(rows, columns) float64 summing to 1, from what a user wrote; see ``FORMS``.

    Raises:
        SettingsError: it is none of the forms, or lies outside the frame.
    """
    rows, columns = grid
    if text.endswith(".csv"):
        return _read_map(Path(text).expanduser(), grid)
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 2 and all(number.is_integer() for number in numbers):
        row, column = map(int, numbers)
        if not (0 <= row < rows and 0 <= column < columns):
            raise SettingsError(f"glimpse={text}: the map has rows 0 to {rows - 1} and columns 0 to {columns - 1}")
        made = np.zeros(grid)
        made[row, column] = 1
        return made
    if len(numbers) == 4:
        left, top, right, bottom = numbers
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise SettingsError(f"glimpse={text}: a box needs 0 <= left < right <= 1 and 0 <= top < bottom <= 1")
        covered = cell_coverage(np.asarray([numbers]), grid)[0].astype(np.float64).reshape(grid)
        return covered / covered.sum()
    raise SettingsError(f"glimpse={text}: give {FORMS}")


def _read_map(path: Path, grid: tuple[int, int]) -> np.ndarray:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            made = np.asarray([[float(value) for value in row] for row in csv.reader(file) if row])
    except (OSError, ValueError, csv.Error) as error:
        raise SettingsError(f"glimpse={path}: no readable CSV file of numbers ({error})") from error
    if made.shape != grid or not np.isfinite(made).all() or made.min() < 0 or made.sum() <= 0:
        rows, columns = grid
        raise SettingsError(
            f"glimpse={path}: expected {rows} rows of {columns} numbers that are not negative and not all 0; "
            f"found an array of shape {made.shape}"
        )
    return made / made.sum()


def scores_with(trained: Trained, video: Dense, glimpse: np.ndarray) -> np.ndarray:
    """Score a video (C,) with a glimpse (rows, columns) in place of the network's attention in every frame."""
    network = attending(trained)
    logits = run_glimpse(
        network, video.frames, torch.from_numpy(glimpse.ravel()), video.blocks, BLOCK_LENGTH, video.skip, video.stride
    )
    return block_scores(logits, trained.multi_label, trained.settings.model.last_n).mean(dim=0).cpu().numpy()


def scores_of_cells(trained: Trained, video: Dense) -> np.ndarray:
    """Score a video (rows, columns, C) with attention on one cell alone, for each cell."""
    cells = np.eye(trained.grid[0] * trained.grid[1]).reshape(-1, *trained.grid)
    return np.stack([scores_with(trained, video, cell) for cell in cells]).reshape(*trained.grid, -1)


@dataclass(frozen=True)
class Outcome:
    """What became of one misclassified video, a row of ``correction.csv``.

    Args:
        video: its name.
        target: its true class.
        prediction: of the network as it was trained.
        random_prediction: under the randomly initialised location softmax.
        corrected: whether it is predicted correctly in the end.
        steps: of the optimiser until then, or the limit.
        turned: ½ Σ_i |l_{t,i} - l'_{t,i}| between the learned and the last attention, mean over frames: 0 same, 1 disjoint.
        moved: distance between the two attentions' centres, mean over frames, in fractions of the frame's sides.
        control: the class that the control was optimised for.
        control_reached: whether the control was predicted in the end.
        control_steps: as ``steps``, for the control.
        seed, limit: of this row.
    """

    video: str
    target: str
    prediction: str
    random_prediction: str
    corrected: bool
    steps: int
    turned: float
    moved: float
    control: str
    control_reached: bool
    control_steps: int
    seed: int
    limit: int


@dataclass(frozen=True)
class Tracks:
    """A video's tracks under the learned, the random and the optimised location softmax."""

    learned: Track
    random: Track
    optimised: Track


def correct_all(
    trained: Trained,
    annotation: Annotation,
    store: FeatureStore,
    names: Sequence[str],
    path: Path,
    seed: int = 1,
    limit: int = LIMIT,
) -> Iterator[tuple[Outcome, Tracks | None]]:
    """Correct misclassified test videos; writes ``path``, a row a video, and goes on where it stopped.

    Args:
        trained: the run.
        annotation, store: of its data.
        names: of the videos.
        path: CSV file.
        seed: of the random weights.
        limit: steps of the optimiser.

    Yields:
        Each video's outcome, in the order of the names; its tracks too, unless it was done before.

    Raises:
        DataError: the file is damaged or cannot be written.
    """
    before = read_outcomes(path, trained, annotation)
    done = {row.video: row for row in before if (row.seed, row.limit) == (seed, limit)}
    others = [row for row in before if (row.seed, row.limit) != (seed, limit)]  # of other calls: they stay
    wrong = {video.name: video for video in mistaken(trained, annotation)}
    videos = [wrong[name] for name in names]
    progress = Progress(f"correcting {annotation.data}", "videos")
    for count, video in enumerate(videos, start=1):
        if video.name in done:
            yield done[video.name], None
            continue
        outcome, tracks = correct_one(trained, store, video, seed, limit)
        yield outcome, tracks  # drawn before it counts as done
        done[video.name] = outcome
        write_rows(path, [[field.name for field in fields(Outcome)], *(astuple(one) for one in (*others, *done.values()))])
        progress.update(count, len(videos))
    progress.close()


def mistaken(trained: Trained, annotation: Annotation) -> list[Video]:
    """The test videos that a run got wrong, by name.

    Raises:
        SettingsError: the data set is multi-label, so that a video is not simply right or wrong.
        DataError: the run was tested on other videos.
    """
    if trained.multi_label:
        raise SettingsError(f"{annotation.data} has several labels a video; correction needs data sets with one")
    predictions = trained.folder.predictions()
    by_name = {video.name: video for video in annotation.test}
    if set(predictions.videos) != set(by_name):
        raise DataError(f"{trained.folder.path}/predictions.csv: not the test videos of {annotation.folder}")
    wrong = ~predictions.target[np.arange(len(predictions.videos)), predictions.scores.argmax(axis=1)]
    return [by_name[name] for name in sorted(np.asarray(predictions.videos)[wrong].tolist())]


def read_outcomes(path: Path, trained: Trained, annotation: Annotation) -> list[Outcome]:
    """Read what ``correct_all`` wrote of a run; nothing where there is no file.

    Raises:
        DataError: it is damaged, or of another run; names the line.
    """
    if not path.exists():
        return []
    columns = [field.name for field in fields(Outcome)]
    try:
        rows = read_rows(path, columns, columns)
    except DataError as error:
        raise DataError(f"{error}; {ANEW}") from error
    true = {video.name: trained.classes[video.labels[0]] for video in mistaken(trained, annotation)}
    found: dict[tuple[str, int, int], Outcome] = {}
    for line, values in rows:
        try:
            one = _outcome(values)
            if true.get(one.video) != one.target:
                raise ValueError(f"{one.video!r} of class {one.target!r} is no test video that {trained.folder.name} got wrong")
            for kind in (one.prediction, one.random_prediction, one.control):
                if kind not in trained.classes:
                    raise ValueError(f"there is no class {kind!r}")
            if found.setdefault((one.video, one.seed, one.limit), one) is not one:
                raise ValueError(f"{one.video!r} stands there twice with seed {one.seed} and limit {one.limit}")
        except ValueError as error:
            raise DataError(f"{path}, line {line}: malformed ({error}); {ANEW}") from None
    return list(found.values())


def _outcome(values: dict[str, str]) -> Outcome:
    """A row of the file."""
    readers: dict[str, Callable[[str], Any]] = {
        "bool": {"True": True, "False": False}.get,
        "int": lambda text: whole_number(text, MOST),
        "float": number,
        "str": str,
    }
    read = {field.name: readers[str(field.type)](values[field.name]) for field in fields(Outcome)}
    for name, value in read.items():
        if value is None:
            raise ValueError(f"{name} is {values[name]!r}")
    one = Outcome(**read)
    if one.limit < 1 or max(one.steps, one.control_steps) > one.limit:
        raise ValueError(f"{one.steps} and {one.control_steps} steps with limit {one.limit}")
    if not (0 <= one.turned <= FARTHEST and 0 <= one.moved <= FARTHEST):
        raise ValueError(f"turned is {one.turned:g} and moved {one.moved:g}")
    return one


def correct_one(
    trained: Trained, store: FeatureStore, video: Video, seed: int = 1, limit: int = LIMIT
) -> tuple[Outcome, Tracks]:
    """Correct one misclassified video.

    Raises:
        SettingsError: the run's attention has no location softmax weights.
        DataError: the features cannot be read.
    """
    network = attending(trained)
    if not isinstance(network.attention, LocationAttention):
        raise SettingsError(
            f"{trained.folder.path}: content attention has no location softmax weights to optimise; take a run with "
            "model.attention=location, as preset=paper has"
        )
    whole, (target,) = dense(trained, store, video.name), video.labels
    learned = track_video(network, store, video.name, Tracker.of(trained))
    predicted, last_n = int(learned.scores.argmax()), trained.settings.model.last_n
    entropy = np.frombuffer(hashlib.sha256(f"{seed} {video.name}".encode()).digest()[:8], dtype=np.int64)[0]
    generator = torch.Generator().manual_seed(int(entropy) & (2**63 - 1))
    others = [label for label in range(len(trained.classes)) if label not in (target, predicted)]
    if whole.stride != 1 or not others:
        raise SettingsError(f"{trained.folder.path}: correction needs data.stride=1 and at least three classes")
    control = others[int(torch.randint(len(others), (1,), generator=generator))]
    made, controlled = (
        correct(network, whole.frames, label, whole.blocks, BLOCK_LENGTH, whole.skip, last_n, generator, limit)
        for label in (target, control)
    )
    tracks = []
    for weight in (made.random, made.weight):
        with _with_attention(network, weight):
            tracks.append(track_video(network, store, video.name, Tracker.of(trained)))
    names = trained.classes
    turned, moved = track_difference(learned, tracks[1])
    outcome = Outcome(
        video=video.name,
        target=names[target],
        prediction=names[predicted],
        random_prediction=names[made.random_prediction],
        corrected=made.corrected,
        steps=made.steps,
        turned=round(turned, 6),
        moved=round(moved, 6),
        control=names[control],
        control_reached=controlled.corrected,
        control_steps=controlled.steps,
        seed=seed,
        limit=limit,
    )
    return outcome, Tracks(learned, *tracks)


@contextmanager
def _with_attention(network: SoftAttentionLSTM, weight: Tensor) -> Iterator[None]:
    """The network with another location softmax for a while."""
    assert isinstance(network.attention, LocationAttention)
    own = network.attention.locations.weight
    before = own.detach().clone()
    own.data.copy_(weight)
    try:
        yield
    finally:
        own.data.copy_(before)


def track_difference(one: Track, other: Track) -> tuple[float, float]:
    """How far two tracks of the same frames are apart: ``turned`` and ``moved`` of ``Outcome``."""
    assert one.attention is not None and other.attention is not None
    turned = 0.5 * np.abs(one.attention - other.attention).sum(axis=(1, 2)).mean()
    here, there = (
        gaze(torch.from_numpy(maps.reshape(1, len(maps), -1)), (maps.shape[1], maps.shape[2]))
        for maps in (one.attention, other.attention)
    )
    moved = (here - there).norm(dim=-1).mean()
    return float(turned), float(moved)


@dataclass(frozen=True)
class Dense:
    """All blocks of one video, as ``run_dense`` takes them: the frames that they share, and how they lie in them.

    Args:
        frames: inputs of the frames, in order.
        blocks: N.
        skip: frames between two steps of a block.
        stride: frames between the beginnings of two blocks.
    """

    frames: Frames
    blocks: int
    skip: int
    stride: int


def dense(trained: Trained, store: FeatureStore, name: str) -> Dense:
    """A video's blocks as they are tested, on the network's device.

    Raises:
        DataError: the features cannot be read.
    """
    network = attending(trained)
    index = BlockIndex([store.frames(name)], trained.skip, trained.settings.data.stride)
    frames, skip, stride = index.stretch(Span(0, 0, int(index.counts[0])))
    device = next(network.parameters()).device
    inputs = FramePool(store, [name], network.inputs, "mmap").stretch(0, frames, device)
    return Dense(Frames(**inputs), int(index.counts[0]), skip, stride)


def attending(trained: Trained) -> SoftAttentionLSTM:
    """The network of a run with attention.

    Raises:
        SettingsError: it has none.
    """
    if not isinstance(trained.network, SoftAttentionLSTM):
        raise SettingsError(
            f"{trained.folder.path}: {trained.settings.model.name} has no attention; take a run of row={DEFAULT_ATTENTION}"
        )
    return trained.network
