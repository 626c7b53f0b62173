"""The overlay video: frame and overlay side by side, the likeliest classes and the time below, as H.264.

The overlay is the released recipe's, stretched from its 224 x 224 px with the picture, blur included. H.264 in yuv420p with
its index first plays in every browser.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import cast

import av
import matplotlib
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont

from datamodules.videos import DataError
from reproduce.experiments.attention_files import Moment
from reproduce.visual.overlay import SIGMA, overlay

ENCODERS = ("libx264", "libopenh264", "h264_nvenc", "h264_videotoolbox", "h264_qsv", "h264_amf", "h264_mf", "h264_v4l2m2m")
X264 = {"crf": "20", "preset": "veryfast", "bf": "0", "mbtree": "0"}
"""A picture of even blur needs no more. x264's macroblock tree gave other bytes in 3 of 100 files of the same pictures."""
BIT_RATE = 4_000_000  # of the encoders that have no constant quality in common
TICKS = 90_000  # a second, MPEG's own clock: 24, 25, 29.97, 30 and 60 fps come out even
TRIAL = 256  # px, side of the frame that an encoder is tried with; NVENC refuses small ones

RECIPE = 224  # px, the side that the recipe's blur is for
LEAST_WIDTH = 480  # px, which the text below needs
LEAST = 16  # px, least side of a picture; H.264 codes blocks of 16
GAP = 4  # px between frame and overlay
PAD, LINE, SIZE = 10, 26, 16  # px of the text: around it, from line to line, of the font
LISTED = 3  # classes below the picture
PERCENT = 62  # px for "100 %"
BACKGROUND, TEXT, MUTED, BAR_BACKGROUND, BAR = (17, 19, 23), (255, 255, 255), (176, 182, 192), (48, 53, 62), (86, 180, 233)
FONT = "fonts/ttf/DejaVuSans.ttf"  # comes with matplotlib: the same letters on every machine


class Painter:
    """Draws the frames of one overlay video.

    Args:
        height, width: of a frame as it is shown.
        side: of the frame's larger side in the picture, px.
        classes: names by id.
        attends: whether there is an overlay beside the frame.
        seconds: the video's duration.
    """

    def __init__(self, height: float, width: float, side: int, classes: Sequence[str], attends: bool, seconds: float) -> None:
        scale = side / max(height, width)
        self.picture = _even(scale * width), _even(scale * height)
        self.classes, self.attends, self.seconds = classes, attends, seconds
        wide, high = self.picture
        pictures = 2 * wide + GAP if attends else wide
        self.width = max(LEAST_WIDTH, pictures)
        self.left = (self.width - pictures) // 2
        self.lines = min(LISTED, len(classes))
        self.height = high + 2 * PAD + (self.lines + 1) * LINE

    def fitted(self, frame: np.ndarray) -> np.ndarray:
        """A frame (H, W, 3) uint8 at the picture's size."""
        return np.asarray(Image.fromarray(frame).resize(self.picture, Image.Resampling.BILINEAR))

    def overlaid(self, picture: np.ndarray, attention: np.ndarray) -> np.ndarray:
        """The recipe's overlay on a fitted frame."""
        wide, high = self.picture
        return overlay(picture, attention, (SIGMA * high / RECIPE, SIGMA * wide / RECIPE))

    def paint(self, frame: np.ndarray, index: int, seconds: float, moment: Moment) -> np.ndarray:
        """One frame of the overlay video.

        Args:
            frame: (H, W, 3) uint8 as decoded.
            index: its number.
            seconds: at which it is shown.
            moment: the last one at or before it.

        Returns:
            (height, width, 3) uint8.
        """
        canvas = Image.new("RGB", (self.width, self.height), BACKGROUND)
        picture, (wide, high) = self.fitted(frame), self.picture
        canvas.paste(Image.fromarray(picture), (self.left, 0))
        if moment.attention is not None:
            canvas.paste(Image.fromarray(self.overlaid(picture, moment.attention)), (self.left + wide + GAP, 0))
        draw, font = ImageDraw.Draw(canvas), _font()
        begin, end = round(0.46 * self.width), self.width - PAD - PERCENT
        middle = high + PAD + LINE // 2
        for label in ranked(moment.probabilities, self.lines):
            share = float(moment.probabilities[label])
            name = _shortened(self.classes[label], begin - 2 * PAD)
            draw.text((PAD, middle), name, TEXT, font, anchor="lm")
            box = (begin, middle - 7, end, middle + 7)
            draw.rectangle(box, BAR_BACKGROUND)
            if (reach := round(share * (end - begin))) > 0:
                draw.rectangle((begin, box[1], begin + reach, box[3]), BAR)
            draw.text((self.width - PAD, middle), f"{100 * share:.0f} %", TEXT, font, anchor="rm")
            middle += LINE
        time = f"{clock(seconds)} / {clock(self.seconds)}"
        draw.text((PAD, middle), time, MUTED, font, anchor="lm")
        draw.text((self.width - PAD, middle), f"frame {index}", MUTED, font, anchor="rm")
        return np.asarray(canvas)


class VideoFile:
    """An H.264 file that grows by a frame at a time; frames keep the times they are shown at.

    Args:
        path: of the file, whatever its suffix.
        height, width: even.
        rate: frames per second, on average.

    Raises:
        DataError: no H.264 encoder works here.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, height: int, width: int, rate: float) -> None:
        self._last, self._interval = -1, max(1, round(TICKS / rate))
        self._container = av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"})
        try:
            self._stream = _stream(self._container, encoder(), height, width, rate)
        except BaseException:
            self._container.close()
            raise

    def append(self, image: np.ndarray, seconds: float) -> None:
        """Add a frame (height, width, 3) uint8 RGB that is shown from some time on."""
        frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
        )
        self._last = max(self._last + 1, round(seconds * TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._mux(frame)

    def close(self) -> None:
        """Write what is left, and the index to the file's beginning."""
        self._mux(None)
        self._container.close()

    def discard(self) -> None:
        """Close the file as it is, also where it cannot be written any more."""
        with contextlib.suppress(OSError, ValueError, av.FFmpegError):
            self._container.close()

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._interval  # counts of the last frame; the others end where the next one begins
            self._container.mux(packet)


@lru_cache
def encoder() -> str:
    """The first H.264 encoder that works here: some are built in but need a device.

    Raises:
        DataError: there is none.
    """
    for name in ENCODERS:
        try:
            with av.open(BytesIO(), "w", format="mp4") as container:
                stream = _stream(container, name, TRIAL, TRIAL, 30.0)
                for number in range(2):
                    frame = av.VideoFrame(TRIAL, TRIAL, "yuv420p")
                    frame.pts, frame.time_base = number * TICKS // 30, Fraction(1, TICKS)
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
        except (av.FFmpegError, ValueError, OSError):  # ValueError: an unknown codec
            continue
        return name
    raise DataError(
        f"this build of PyAV (FFmpeg) has no H.264 encoder that works here, none of {', '.join(ENCODERS)}. "
        "PyAV's own wheels have libx264: pip install --force-reinstall av"
    )


def _stream(container: OutputContainer, name: str, height: int, width: int, rate: float) -> VideoStream:
    stream = cast(VideoStream, container.add_stream(name, rate=Fraction(rate).limit_denominator(1001)))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.time_base = Fraction(1, TICKS)
    stream.codec_context.gop_size = max(1, round(2 * rate))  # a player can jump every two seconds
    stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU601, ColorRange.MPEG
    if name == "libx264":
        stream.codec_context.options = X264
    else:
        stream.codec_context.bit_rate, stream.codec_context.max_b_frames = BIT_RATE, 0
    stream.codec_context.open()
    return stream


def ranked(probabilities: np.ndarray, top: int) -> list[int]:
    """Ids of the likeliest classes, the likeliest first; of equal ones the lower id."""
    return np.argsort(-probabilities, kind="stable")[:top].tolist()


def clock(seconds: float) -> str:
    """``0:07.3`` or ``1:02:07.3``."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    begin = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{begin}:{rest // 10:02d}.{rest % 10}"


def _even(length: float) -> int:
    return max(LEAST, 2 * round(length / 2))


@lru_cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), FONT), SIZE)


@lru_cache(maxsize=1024)
def _shortened(text: str, width: int) -> str:
    """A text, or as much of it as fits, with … for the rest."""
    font = _font()
    if font.getlength(text) <= width:
        return text
    return next(cut for end in range(len(text) - 1, -1, -1) if font.getlength(cut := f"{text[:end].rstrip()}…") <= width)
