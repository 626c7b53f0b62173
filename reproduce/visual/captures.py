"""What is no video file becomes one before it is predicted: a stream or a camera as it comes, or a folder of frames.

A prediction reads its video twice. A capture holds the packets as they are, not coded anew; it grows on disk, and takes its
name when it is whole.
"""

from __future__ import annotations

import os
import re
import select
import signal
import stat
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer

from datamodules.decoding import FALLBACK_RATE
from datamodules.videos import DataError
from reproduce.common.progress import duration

PROTOCOLS = "rtsp,rtsps,rtp,rtmp,rtmps,srt,udp,tcp,http,https,httpproxy,tls,crypto"
"""That a stream may use; ``file`` is not among them, since a playlist may name any file."""
PIPE = "-"
SILENCE = 10.0  # seconds without a packet, after which a stream has ended
POLL = 0.2  # seconds between two looks whether to stop
PICTURE = re.compile(r"(?P<name>.*?)(?P<number>\d+)\.(?P<kind>jpe?g|png)", re.IGNORECASE)
CODECS = {"jpg": "mjpeg", "jpeg": "mjpeg", "png": "png"}
FLOW = "flow"  # how names of optical flow begin, which stands beside frames


def is_stream(video: str) -> bool:
    """Whether a word names a stream: an address, ``-`` for the standard input, a pipe, or a camera."""
    if re.match(r"[a-z][a-z0-9+.]+://", video, re.IGNORECASE) or video == PIPE:
        return True
    try:
        mode = os.stat(os.path.expanduser(video)).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def capture_stream(video: str, path: Path) -> None:
    """Write a stream's video to a file until it ends, nothing comes for a while, or Ctrl-C.

    Args:
        video: see ``is_stream``.
        path: of the file, in Matroska.

    Raises:
        DataError: it cannot be opened, or has no whole frame; or the file cannot be written.
    """
    begun, packets, last, shift = time.monotonic(), 0, -1, 0
    print(f"capturing {video} to {path.resolve()}, until it ends or Ctrl-C", flush=True)
    with _stopping() as stop:
        try:
            with _open(video, stop) as source, _draft(path) as target:
                stream = source.streams.best("video")
                if stream is None:
                    raise DataError(f"video={video}: has no video stream")
                copy = target.add_stream_from_template(stream)
                for packet in _packets(source, stream):
                    if stop.is_set() and ("://" in video or _is_camera(video)):  # a pipe ends by itself then
                        break
                    if packet.dts is None or not (packets or packet.is_keyframe):  # frames before it do not decode
                        continue
                    if packets and packet.dts + shift <= last:  # a camera that starts again counts anew
                        shift = last + (packet.duration or 1) - packet.dts
                    last = packet.dts = packet.dts + shift
                    packet.pts = packet.pts if packet.pts is None else packet.pts + shift
                    packet.stream = copy
                    target.mux(packet)
                    packets += 1
                if not packets:
                    raise DataError(f"video={video}: gave no whole frame within {duration(time.monotonic() - begun)}")
        except (OSError, ValueError, av.FFmpegError) as error:
            raise DataError(f"video={video}: cannot be captured ({getattr(error, 'strerror', None) or error})") from error
    print(f"captured {packets} frames in {duration(time.monotonic() - begun)}", flush=True)


def _packets(source: InputContainer, stream: Any) -> Iterator[av.Packet]:
    """The packets of a stream, up to an error of the network or a silence, which end it."""
    packets = source.demux(stream)
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except (OSError, av.FFmpegError) as error:
            print(f"the stream ended: {getattr(error, 'strerror', None) or error}", flush=True)
            return


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Within, Ctrl-C sets what this yields; a second one ends the process as usual."""
    stop = threading.Event()

    def told(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, told)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _open(video: str, stop: threading.Event) -> Iterator[InputContainer]:
    options = {"protocol_whitelist": PROTOCOLS}
    if "://" in video:
        patience = (SILENCE, SILENCE)
        with av.open(video, mode="r", options=options, timeout=patience, metadata_errors="replace") as container:
            yield container
        return
    name = os.path.expanduser(video)
    if _is_camera(video):
        if "v4l2" not in av.formats_available:
            raise DataError(
                f"video={video}: this PyAV reads no camera; let FFmpeg do it: ffmpeg -f v4l2 -i {video} -f mpegts - | "
                "python reproduce/predict.py video=- …"
            )
        with av.open(name, mode="r", format="v4l2", timeout=(SILENCE, SILENCE)) as container:
            yield container
        return
    descriptor = os.dup(sys.stdin.fileno()) if video == PIPE else os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with av.open(_Pipe(descriptor, stop), mode="r", options=options, metadata_errors="replace") as container:
            yield container
    finally:
        os.close(descriptor)


def _is_camera(video: str) -> bool:
    return video != PIPE and stat.S_ISCHR(os.stat(os.path.expanduser(video)).st_mode)


class _Pipe:
    """Reads a pipe, as long as nobody says stop; it has no end before its first byte."""

    def __init__(self, descriptor: int, stop: threading.Event) -> None:
        self.descriptor, self.stop, self.begun = descriptor, stop, False

    def read(self, size: int) -> bytes:
        while not self.stop.is_set():
            if not select.select([self.descriptor], [], [], POLL)[0]:
                continue
            if found := os.read(self.descriptor, size):
                self.begun = True
                return found
            if self.begun:
                break
            time.sleep(POLL)  # nobody writes yet
        return b""


@contextmanager
def _draft(path: Path, kind: str = "matroska") -> Iterator[OutputContainer]:
    """A file that takes its name when it is whole, and is gone otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with av.open(str(part), "w", format=kind) as container:
            yield container
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def pictures_in(folder: Path) -> list[Path]:
    """The frames that lie in a folder as numbered pictures, such as ``img_00001.jpg``, in order; none where there is one only.

    Raises:
        DataError: they are numbered under several names.
    """
    found: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in folder.iterdir():
        if (match := PICTURE.fullmatch(path.name)) and path.is_file() and not path.name.startswith((".", FLOW)):
            found[match["name"]].append((int(match["number"]), path))
    several = {name: sorted(numbered) for name, numbered in found.items() if len(numbered) > 1}
    if len(several) > 1:
        names = ", ".join(repr(name) for name in sorted(several))
        raise DataError(f"{folder}: holds pictures numbered under several names ({names}); leave those of one video there")
    return [path for numbered in several.values() for _, path in numbered]


def capture_pictures(folder: Path, path: Path) -> None:
    """Write a folder's frames to a video file, unless it is there and no older; FFmpeg's rate stands for the unknown one.

    Args:
        folder: that ``pictures_in`` finds some in.
        path: of the file, in AVI, which holds PNG too.

    Raises:
        DataError: the pictures are of several formats, or cannot be read; or the file cannot be written.
    """
    pictures = pictures_in(folder)
    kinds = sorted({CODECS[picture.suffix[1:].lower()] for picture in pictures})
    if len(kinds) > 1:
        raise DataError(f"{folder}: holds pictures of several formats ({', '.join(kinds)}); leave those of one there")
    try:
        if path.is_file() and path.stat().st_mtime > max(picture.stat().st_mtime for picture in pictures):
            return
        with av.open(str(pictures[0])) as first, _draft(path, "avi") as target:
            size = first.streams.video[0].codec_context
            stream: Any = target.add_stream(kinds[0], rate=FALLBACK_RATE)
            stream.width, stream.height, stream.pix_fmt = size.width, size.height, size.pix_fmt
            for number, picture in enumerate(pictures):
                packet = av.Packet(picture.read_bytes())
                packet.stream, packet.time_base = stream, Fraction(1, FALLBACK_RATE)
                packet.pts = packet.dts = number
                packet.is_keyframe = True
                target.mux(packet)
    except (OSError, ValueError, av.FFmpegError) as error:
        raise DataError(f"{folder}: its pictures cannot be read ({getattr(error, 'strerror', None) or error})") from error
    print(
        f"{folder}: {len(pictures)} pictures are one video; times are reckoned at {FALLBACK_RATE} frames a second", flush=True
    )
