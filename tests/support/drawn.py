"""Small videos that tests draw, and what is in a video file."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def draw(path: Path, shape=(48, 64), frames=5, codec="mpeg4", pix_fmt="yuv420p", pts=None, aspect=None) -> Path:
    """A small video of noise that moves; ``pts`` in milliseconds."""
    texture = np.random.default_rng(frames).integers(0, 256, (shape[0], shape[1] + frames, 3), dtype=np.uint8)
    with av.open(f"file:{path}", "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *shape, pix_fmt
        if aspect:
            stream.sample_aspect_ratio = aspect
        if pts:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            image = np.ascontiguousarray(texture[:, number : number + shape[1]])
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pix_fmt)
            if pts:
                frame.pts, frame.time_base = pts[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def facts(path: Path) -> dict:
    """What another reader finds in a video file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        seconds, kind = float(stream.duration * stream.time_base), (stream.codec_context.name, stream.codec_context.pix_fmt)
        times = [frame.time for frame in container.decode(stream)]
        size = stream.codec_context.height, stream.codec_context.width
    return {"kind": kind, "seconds": seconds, "times": times, "size": size}
