"""Stores that processes make of videos, each one video at a time: locked, resumed, dealt over machines. Free of torch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.decoding import VideoError, decoder_version, probe, read_frames
from datamodules.descriptors.opencv import opencv
from datamodules.manifest import ArraySpec, FeatureStoreError, StoreSpec
from datamodules.stored_videos import to_extract
from datamodules.stores import Store
from datamodules.videos import Annotation, Video
from reproduce.common.dataset import STORES, require_videos
from reproduce.common.files import Need, check_space
from reproduce.common.processes import cores, leaving_on_sigterm, one_at_a_time
from reproduce.common.settings import Settings
from reproduce.systems.video_processes import ALL, Share, Task, estimated_frames, fill

TRIED = 3  # videos whose first rows are timed before the work begins


@dataclass(frozen=True)
class Making:
    """How the store of a kind is made.

    Args:
        kind: of ``STORES``.
        task: makes a video's rows.
        rows_a_frame: by estimate, for the disk space.
        what: for the progress line, such as ``tracking in``.
        notes: for every table made from it.
        facts: further ones of how the values are made.
        arrays: of every video, where they follow from more than settings; None for those of the kind.
        rows_a_video: in place of ``rows_a_frame``, where all videos have as many.
        processes: that work on videos; None for ``trajectories.workers``, or else one a core.
        opencv: whether OpenCV computes the values.
        timed: whether to say before what the work will take, by the first rows of some videos.
    """

    kind: str
    task: Task
    rows_a_frame: float
    what: str
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    arrays: tuple[ArraySpec, ...] | None = None
    rows_a_video: int | None = None
    processes: int | None = None
    opencv: bool = True
    timed: bool = False


def ensure_store(
    settings: Settings, annotation: Annotation, making: Making, videos: Sequence[Video] | None = None, share: Share = ALL
) -> Store:
    """The finished store of a run: opened if complete, else made from where an earlier call stopped.

    Videos that do not decode are entered in the store as bad, and the work goes on.

    Args:
        settings: the run's.
        annotation: its data set.
        making: how its rows are made.
        videos: of the data set, that are needed; train and test by default.
        share: of them, that this call takes, while others take theirs; the store is complete after all.

    Raises:
        FeatureStoreError: the store was made with another configuration, or cannot be written.
        DataError: a process is gone, whose finished videos stay.
    """
    kind = STORES[making.kind]
    spec, path = kind.spec(settings), kind.folder(settings)
    if making.arrays is not None:
        spec = StoreSpec(spec.kind, making.arrays, spec.made_from)
    assert isinstance(spec, StoreSpec)
    videos = annotation.videos if videos is None else videos
    keep = settings.data.keeps_damaged
    store = Store(path)
    if store.exists():
        store.require(spec)
        if not to_extract(annotation, store, videos, keep):
            return store
    require_videos(annotation, store.missing(video.name for video in videos))
    try:
        path.mkdir(parents=True, exist_ok=True)
        with leaving_on_sigterm(), _alone(path, share):
            if share == ALL:
                for unfinished in path.rglob("*.part"):  # left by a killed process
                    unfinished.unlink()
            store = Store(path)
            own = set(share.of([video.name for video in videos]))  # whatever others have finished meanwhile
            names = [name for name in to_extract(annotation, store, videos, keep) if name in own]
            if making.rows_a_video is None:
                rows = (estimated_frames(annotation, names) or 0) * making.rows_a_frame
            else:
                rows = making.rows_a_video * len(names)
            size = int(rows * sum(array.row_bytes for array in spec.arrays))
            if not store.exists():
                check_space([Need(path, size, f"{making.kind} of {len(names)} videos, by estimate")])
            made_by = {
                "decoder": decoder_version(),
                **({"opencv": opencv().__version__} if making.opencv else {}),
                **making.facts,
            }
            store.begin(spec, {**made_by, "notes": list(making.notes)})
            sizes = {name: (annotation.folder / name).stat().st_size for name in names}
            processes = making.processes or settings.trajectories.workers or cores()
            if making.timed:
                _say_cost(making, names, rows, size, processes)
            fill(store, sizes, making.task, processes, f"{making.what} {len(names)} videos", share.rank)
            if share == ALL:
                store.merge()
    except OSError as error:
        what = f"cannot write {making.kind} to {path.resolve()} ({error}); make room or set paths.features, and run it again"
        raise FeatureStoreError(what) from error
    return Store(path)


def _say_cost(making: Making, names: Sequence[str], rows: float, size: int, processes: int) -> None:
    """Time the first rows of some videos, and print what all will take."""
    done, begun = 0, time.perf_counter()
    for name in names[:TRIED]:
        with suppress(VideoError):  # the work itself says so
            done += sum(len(piece) for piece, *_ in islice(making.task(name), 1))
    if done and rows:
        each = (time.perf_counter() - begun) / done
        hours = rows * each / 3600 / processes
        print(
            f"{making.what} {len(names)} videos: {1000 * each:.1f} ms a row, {rows:.0f} rows by estimate: {hours:.2g} h by "
            f"{processes} processes; {size / 2**30:.2g} GiB",
            flush=True,
        )


@contextmanager
def _alone(path: Path, share: Share) -> Iterator[None]:
    """Hold a share's lock, that of all videos only while no share is at work; a share begins only while nobody holds that."""
    work = f"writes to {path.resolve()}"
    with ExitStack() as held:
        every = held.enter_context(ExitStack())
        every.enter_context(one_at_a_time(path / ".lock", work))
        if share == ALL:
            for lock in sorted(path.glob(".lock-*-of-*[0-9]")):
                held.enter_context(one_at_a_time(lock, work))
        else:
            held.enter_context(one_at_a_time(path / f".lock-{share.number}-of-{share.count}", work))
            every.close()
        yield


def about_store(part: str, noun: str, store: Store, annotation: Annotation) -> dict[str, Any]:
    """What ``run.json`` says of a store that a run was made from: what decided it, and its videos' fingerprint."""
    return {
        part: store.manifest["made_from"],
        f"{noun}_fingerprint": store.fingerprint(video.name for video in annotation.videos),
    }


def in_pieces(rows: Iterable[np.ndarray], number: int) -> Iterator[tuple[np.ndarray]]:
    """Stack rows of one shape, some at a time, as a task yields them."""
    held: list[np.ndarray] = []
    for row in rows:
        held.append(row)
        if len(held) == number:
            yield (np.stack(held),)
            held = []
    if held:
        yield (np.stack(held),)


@dataclass(frozen=True)
class GrayFrames:
    """Decodes videos to gray frames of one size.

    Args:
        folder: of the videos.
        keep: whether what decodes of a damaged video is kept.
    """

    folder: Path
    keep: bool

    def read(
        self, name: str, facts: dict[str, Any], size: tuple[int, int] | None = None, height: int | None = None, step: int = 1
    ) -> Iterator[np.ndarray]:
        """Every ``step``-th frame, (h, w) uint8; a stream that changes its size is brought to the first frame's.

        Args:
            name: of the video.
            facts: receives what the manifest says of the video.
            size: (w, h) that frames are squashed to; None to keep their shape.
            height: that higher frames are brought to, where they keep their shape; None for frames as they are.
            step: between two frames.
        """
        cv2, path = opencv(), self.folder / name
        kept: list[str] | None = [] if self.keep else None
        facts |= {"fps": probe(path).fps, "source_bytes": path.stat().st_size, "frames": 0}
        for number, frame in enumerate(read_frames(path, kept=kept)):
            facts["frames"] = number + 1
            if size is None:
                rows = min(frame.shape[0], height or frame.shape[0])
                size = max(1, round(frame.shape[1] * rows / frame.shape[0])), rows
            if number % step:
                continue
            gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            yield gray if gray.shape[::-1] == size else cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
        facts |= dict(zip(("width", "height"), size or (0, 0), strict=True)) | ({"damage": kept[0]} if kept else {})
