"""Video files -> frames, in order, never by seeking, in memory that does not depend on the video's length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from datamodules.videos import DataError

CHUNK = 32  # frames held in memory at a time

RESIZE_RULE = "whole frame squashed to size x size, libswscale bilinear, rgb24, display rotation applied"


class VideoError(DataError):
    """A video cannot be decoded from its first to its last frame."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file's header says; the frame count of a header is a claim, not a fact.

    Args:
        fps: average frames per second, 0.0 where the header has none.
        width, height: of the stored frame, in pixels, before rotation.
        declared_frames: the header's frame count, 0 where it has none.
    """

    fps: float
    width: int
    height: int
    declared_frames: int


def decoder_version() -> str:
    """PyAV and FFmpeg's libavcodec, by version."""
    major, minor, micro = av.library_versions["libavcodec"]
    return f"PyAV {av.__version__}, libavcodec {major}.{minor}.{micro}"


def probe(path: Path) -> VideoInfo:
    """Read a file's header.

    Raises:
        VideoError: the file is missing, empty, no video, or has no video stream.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        return VideoInfo(float(rate or 0), stream.codec_context.width, stream.codec_context.height, stream.frames)


def read_frames(path: Path, size: int | None = None, threads: int = 1) -> Iterator[np.ndarray]:
    """Decode every frame in display order.

    Args:
        path: a video file.
        size: side of the square the whole frame is squashed to, aspect ratio dropped (protocol §6); None keeps the
            stored size.
        threads: decoder threads.

    Yields:
        (H, W, 3) uint8 RGB, rotated as the file's display matrix asks.

    Raises:
        VideoError: the file cannot be opened, a frame does not decode, or there is none; names file and frame.
    """
    number = 0
    try:
        with _open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = threads
            stream.thread_type = "AUTO" if threads > 1 else "NONE"
            for frame in container.decode(stream):
                image = frame.reformat(size, size, "rgb24", interpolation="BILINEAR").to_ndarray()
                turns = round(frame.rotation / 90) % 4  # counter-clockwise
                yield np.ascontiguousarray(np.rot90(image, turns)) if turns else image
                number += 1
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise VideoError(f"{path}: frame {number} does not decode ({_reason(error)})") from error
    if number == 0:
        raise VideoError(f"{path}: has no frame")


def read_chunks(path: Path, size: int, length: int = CHUNK, threads: int = 1) -> Iterator[np.ndarray]:
    """Decode in chunks of at most ``length`` frames, (n, size, size, 3) uint8 each. Raises as ``read_frames``."""
    held: list[np.ndarray] = []
    for frame in read_frames(path, size, threads):
        held.append(frame)
        if len(held) == length:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


def _open(path: Path) -> InputContainer:
    try:
        if path.stat().st_size == 0:
            raise VideoError(f"{path}: the file is empty (0 bytes)")
        # file: keeps FFmpeg from reading a name such as 'concat:x' as a protocol
        container = av.open(f"file:{path}", mode="r")
    except (OSError, ValueError, av.FFmpegError) as error:
        raise VideoError(f"{path}: not a readable video ({_reason(error)})") from error
    if not container.streams.video or container.streams.video[0].codec_context is None:
        what = "has no video stream" if not container.streams.video else "its codec is unknown to FFmpeg"
        container.close()
        raise VideoError(f"{path}: {what}")
    return container


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
