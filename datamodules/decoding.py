"""Video files -> frames, in order, never by seeking, in memory that does not depend on the video's length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from datamodules.damage import FALLBACK_RATE, LEAST_BYTES, DamageError, DamageWatch
from datamodules.videos import REMEDY, DataError

HEAD = 512  # bytes that tell text from video
TEXT = bytes(range(32, 127)) + b"\t\r\n\f"
MAX_PIXELS = 2**26  # of a frame: 8192 x 8192, twice 8K; a header of a few bytes may claim a frame that fills the memory
CHUNK = 32  # frames held in memory at a time

RESIZE_RULE = "whole frame squashed to size x size, libswscale bilinear, rgb24, display rotation applied"


class VideoError(DataError):
    """A video cannot be decoded from its first to its last frame."""


class DamagedVideo(VideoError):
    """A video is damaged.

    Args:
        path: its file.
        what: is damaged, and where.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}; {REMEDY}")
        self.path, self.what = path, what


@dataclass(frozen=True)
class VideoInfo:
    """What a file's header says; the frame count of a header is a claim, not a fact.

    Args:
        fps: average frames per second, 0.0 where the header has none.
        width, height: of the stored frame, in pixels, before rotation.
        declared_frames: the header's frame count, 0 where it has none.
        seconds: the duration it claims, 0.0 where it claims none.
        pixel_aspect: width of a pixel as it is to be shown, over its height.
        file_bytes: size of the file.
    """

    fps: float
    width: int
    height: int
    declared_frames: int
    seconds: float = 0.0
    pixel_aspect: float = 1.0
    file_bytes: int = 0

    @property
    def expected_frames(self) -> int:
        """The declared frames, capped by the duration at the average rate and by what the file has bytes for; 0 if unknown."""
        caps = [self.declared_frames, round(self.seconds * self.fps) or self.declared_frames, self.file_bytes // LEAST_BYTES]
        return min(caps)


def decoder_version() -> str:
    """PyAV and FFmpeg's libavcodec, by version."""
    major, minor, micro = av.library_versions["libavcodec"]
    return f"PyAV {av.__version__}, libavcodec {major}.{minor}.{micro}"


def probe(path: Path) -> VideoInfo:
    """Read a file's header.

    Raises:
        VideoError: the file is missing, empty, no video, or has no video stream.
    """
    container, stream = _open(path)
    with container:
        rate = stream.average_rate or stream.guessed_rate
        seconds = (container.duration or 0) / av.time_base
        context = stream.codec_context
        aspect = float(stream.sample_aspect_ratio or 1)
        return VideoInfo(
            fps=float(rate or 0),
            width=context.width,
            height=context.height,
            declared_frames=stream.frames,
            seconds=seconds,
            pixel_aspect=aspect,
            file_bytes=path.stat().st_size,
        )


def read_frames(path: Path, size: int | None = None, threads: int = 1, kept: list[str] | None = None) -> Iterator[np.ndarray]:
    """Decode every frame in display order.

    Args:
        path: a video file.
        size: side of the square the whole frame is squashed to, aspect ratio dropped (protocol §6); None keeps the
            stored size.
        threads: decoder threads.
        kept: keep what decodes of a damaged video; this list receives what is damaged, in words. None refuses it.

    Yields:
        (H, W, 3) uint8 RGB, turned and mirrored as the file's display matrix asks.

    Raises:
        DamagedVideo: the video is damaged, and not to be kept; may come after its last frame.
        VideoError: the file cannot be opened, or has no frame.
    """
    for _, image in read_timed(path, size, threads, kept):
        yield image


def read_timed(
    path: Path, size: int | None = None, threads: int = 1, kept: list[str] | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """``read_frames``, each frame with the seconds since the first one at which it is shown.

    Where the file does not say, or times do not ascend, a frame follows the one before at the rate that FFmpeg guesses.
    """
    number, begin, seconds, angle, matrix = 0, 0.0, 0.0, 0, (1, 0, 0, 1)
    try:
        container, stream = _open(path)
        with container:
            stream.codec_context.thread_count = threads
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            stream.thread_type = "AUTO" if threads > 1 else "NONE"
            # Where all frames have one time, the average rate is absurd.
            interval = 1 / float(stream.guessed_rate or stream.average_rate or FALLBACK_RATE)
            scaler = VideoReformatter()  # not the frame's own, whose threads would live as long
            watch = DamageWatch(container, stream, path.stat().st_size, keep=kept is not None)
            for frame in watch.frames():
                image = scaler.reformat(frame, size, size, "rgb24", interpolation="BILINEAR").to_ndarray()
                if not number:
                    begin = frame.time or 0.0
                elif frame.time is not None and frame.time - begin > seconds:
                    seconds = frame.time - begin
                else:
                    seconds += interval
                if not number or frame.rotation != angle:  # a frame that was asked stays in memory until garbage is collected
                    angle, matrix = frame.rotation, _display_matrix(frame)
                yield seconds, _as_displayed(image, matrix)
                number += 1
            if kept is not None and watch.found:
                kept.append(watch.found)
    except DamageError as error:
        raise DamagedVideo(path, str(error)) from error
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise VideoError(f"{path}: frame {number} does not decode ({_reason(error)})") from error
    if number == 0:
        raise VideoError(f"{path}: has no frame")


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """The numbers a, b, c, d of a frame's display matrix; those of an upright picture where it has none."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = (1, 0, 0, 0, 1) if matrix is None else np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    return a, b, c, d


def _as_displayed(image: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Turn and mirror an image as a display matrix asks, to the nearest of the eight orientations.

    The matrix shows the pixel (x, y) at x' = ax + cy, y' = bx + dy (ISO 14496-12, §8.3.2).
    """
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.swapaxes(0, 1), c, b  # columns of the picture shown are rows of the stored one
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def read_chunks(
    path: Path, size: int, length: int = CHUNK, threads: int = 1, kept: list[str] | None = None
) -> Iterator[np.ndarray]:
    """Decode in chunks of at most ``length`` frames, (n, size, size, 3) uint8 each. Raises as ``read_frames``."""
    held: list[np.ndarray] = []
    for frame in read_frames(path, size, threads, kept):
        held.append(frame)
        if len(held) == length:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


def _open(path: Path) -> tuple[InputContainer, VideoStream]:
    try:
        size = path.stat().st_size
        if size == 0:
            raise VideoError(f"{path}: the file is empty (0 bytes)")
        with path.open("rb") as file:
            head = file.read(HEAD)
        if not head.translate(None, TEXT):  # FFmpeg would open what a playlist names
            raise VideoError(f"{path}: a text file, such as a playlist or a web page, and no video")
        # file: keeps FFmpeg from reading a name such as 'concat:x' as a protocol; a title may be in any encoding
        options = {"protocol_whitelist": "file"}
        container = av.open(f"file:{path}", mode="r", options=options, metadata_errors="replace")
    except (OSError, ValueError, av.FFmpegError) as error:
        raise VideoError(f"{path}: not a readable video ({_reason(error)})") from error
    stream, problem = _chosen(container), None
    if stream is None:
        problem = "has no video stream" + (" but a cover picture" if container.streams.video else "")
    elif stream.codec_context is None:
        problem = "its codec is unknown to FFmpeg"
    elif stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
        problem = f"frames of {stream.codec_context.width} x {stream.codec_context.height} pixels are too large"
    if stream is None or problem:
        container.close()
        raise VideoError(f"{path}: {problem}")
    return container, stream


def _chosen(container: InputContainer) -> VideoStream | None:
    """The video stream that FFmpeg takes; of a cover picture, which is a stream of one frame too, the next one by its rule."""
    others = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    best = container.streams.best("video")

    def rank(stream: VideoStream) -> tuple[bool, bool]:
        return stream is best, bool(stream.disposition & Disposition.default)

    return max(others, key=rank, default=None)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
