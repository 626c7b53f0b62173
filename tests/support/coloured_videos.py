"""Videos of two colours, and of frames that bear their numbers."""

import struct
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np

STRIPES = 10  # frame numbers up to 1023, in black and white stripes


def stamped(number: int, width: int = 160, height: int = 64) -> np.ndarray:
    """A frame that shows its number in binary, lowest bit on the left."""
    bits = (number >> np.arange(STRIPES)) & 1
    return np.broadcast_to(np.repeat(bits * 255, width // STRIPES)[None, :, None], (height, width, 3)).astype(np.uint8)


def stamp_of(frame: np.ndarray) -> int:
    """The number that a decoded frame shows."""
    step = frame.shape[1] / STRIPES
    bits = [frame[frame.shape[0] // 2, int((bit + 0.5) * step), 1] > 128 for bit in range(STRIPES)]
    return int(sum(1 << bit for bit, on in enumerate(bits) if on))


def write_video(path: Path, frames: Iterable[np.ndarray], codec: str = "mpeg4", rate: int = 30, **options: str) -> Path:
    with av.open(f"file:{path}", "w", options=options) as container:
        stream = None
        for image in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=rate)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    return path


def red_and_blue(width: int = 64, height: int = 32) -> np.ndarray:
    """Left half red, right half blue."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    frame[:, : width // 2, 0] = 255
    frame[:, width // 2 :, 2] = 255
    return frame


def is_red(region: np.ndarray) -> bool:
    return bool(region[..., 0].min() > 180 and region[..., 2].max() < 75)


def is_blue(region: np.ndarray) -> bool:
    return bool(region[..., 2].min() > 180 and region[..., 0].max() < 75)


QUARTERS = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "Y": (255, 255, 0)}


def four_quarters(width: int = 64, height: int = 32) -> np.ndarray:
    """Red and green above, blue and yellow below."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    for number, colour in enumerate(QUARTERS.values()):
        below, right = divmod(number, 2)
        rows, columns = (slice(half * side // 2, (half + 1) * side // 2) for half, side in ((below, height), (right, width)))
        frame[rows, columns] = colour
    return frame


def quarters_of(frame: np.ndarray) -> str:
    """The colours of a frame's quarters by their initials, the upper two before the lower two: ``RG/BY``."""
    height, width = frame.shape[:2]
    found = ""
    for row in (height // 4, 3 * height // 4):
        for column in (width // 4, 3 * width // 4):
            pixel = frame[row, column].astype(int)
            found += min(QUARTERS, key=lambda name: abs(pixel - QUARTERS[name]).sum())
    return f"{found[:2]}/{found[2:]}"


def rotate_header(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Set a, b, c, d of the display matrix in the track header of an mp4 (ISO 14496-12: x' = ax + cy, y' = bx + dy)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    assert data[at] == 0, "version 0: the matrix begins 40 bytes into the box"
    a, b, c, d = (value << 16 for value in matrix)
    data[at + 40 : at + 76] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
