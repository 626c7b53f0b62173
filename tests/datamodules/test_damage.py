"""Damage: one rule for all containers, found or not, refused or kept; healthy strangers are not refused."""

from __future__ import annotations

import re
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from coloured_videos import stamp_of, stamped, write_video

from datamodules.decoding import DamagedVideo, VideoError, probe, read_frames, read_timed
from datamodules.videos import REMEDY

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
STRANGERS = SHARED / "strangers"
needs_strangers = pytest.mark.skipif(not STRANGERS.is_dir(), reason=f"the strangers' files are not there: {STRANGERS}")
LENGTH = 120  # frames, of 30 a second


def film(path: Path, codec: str, times=None, frames: int = LENGTH, **options: str) -> Path:
    """Noise that moves, as hard to compress as a real film; ``times`` in milliseconds."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 160, 96, "yuv420p", 400_000
        stream.codec_context.gop_size = 12
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(noise[:, number : number + 160]), "rgb24")
            if times:
                frame.pts, frame.time_base = times(number), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def kept_of(path: Path) -> tuple[int, str]:
    """How many frames a video has if it is kept, and what is damaged."""
    kept: list[str] = []
    return sum(1 for _ in read_frames(path, 16, kept=kept)), "; ".join(kept)


def within_a_key_frame(path: Path, least: int) -> int:
    """A place of the file from ``least`` on; ``least`` where it does not tell of key frames where they begin.

    A transport stream that ends between two frames is whole, and x264 does not always write frames of the same sizes.
    """
    with av.open(str(path)) as container:
        keys = [packet for packet in container.demux(video=0) if packet.is_keyframe and (packet.pos or 0) >= least]
        return keys[0].pos + keys[0].size // 2 if keys else least


# damaged

FILMS = {
    "h264.mkv": {},
    "mpeg4.mkv": {},
    "libvpx.webm": {},
    "h264.mp4": {"movflags": "faststart"},
    "mpeg4.mp4": {"movflags": "faststart"},
    "mpeg4.mov": {"movflags": "frag_keyframe+empty_moov"},
    "mpeg4.avi": {},
    "h264.ts": {},
    "mpeg1video.mpg": {},
    "flv1.flv": {},
    "wmv2.wmv": {},
}


@pytest.fixture(scope="module", params=FILMS)
def whole(request, tmp_path_factory) -> Path:
    return film(tmp_path_factory.mktemp("films") / request.param, request.param.partition(".")[0], **FILMS[request.param])


@pytest.mark.counts("strange videos")
@pytest.mark.parametrize("how", ["zeros", "taken out", "cut off"])
def test_a_hole_and_an_early_end_are_found_in_every_container(whole, tmp_path, how):
    assert kept_of(whole) == (LENGTH, "")
    data = whole.read_bytes()
    begin, end = len(data) * 4 // 10, len(data) * 6 // 10
    path = tmp_path / whole.name
    path.write_bytes({
        "zeros": data[:begin] + bytes(end - begin) + data[end:],
        "taken out": data[:begin] + data[end:],
        "cut off": data[: within_a_key_frame(whole, end)],
    }[how])  # fmt: skip
    with pytest.raises(DamagedVideo) as error:
        list(read_frames(path, 16))
    assert str(path) in str(error.value) and str(error.value).endswith(REMEDY) and "data.damaged=keep" in REMEDY
    frames, what = kept_of(path)
    assert 20 <= frames < LENGTH or how == "zeros"
    assert what and error.value.what.partition(" (")[0] in what


@pytest.mark.counts("strange videos")
@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "mpeg4"), ("webm", "libvpx"), ("ts", "h264"), ("flv", "flv1")])
def test_a_gap_is_found_by_times_where_everything_decodes(tmp_path, suffix, codec):
    path = film(tmp_path / f"gap.{suffix}", codec, lambda number: number * 1000 // 30 + (800 if number >= 60 else 0))
    frames, what = kept_of(path)
    assert frames == LENGTH and what.startswith("0.8 s are missing after 2.0 s")
    with pytest.raises(DamagedVideo, match=r"gap\..*: 0\.8 s are missing"):
        list(read_frames(path, 16))


@needs_strangers
@pytest.mark.counts("strange videos")
@pytest.mark.parametrize(
    ("name", "frames", "what"),
    [
        (
            "fragcut.mp4",
            82,
            r"frame 82 does not decode .*; the file breaks off within a frame; it ends after 2\.8 s of the 3\.0 s",
        ),
        ("cuttail.avi", 71, r"the file breaks off within a frame; it ends after 2\.4 s of the 4\.0 s that its header says"),
        ("../clips/corrupted.mp4", 49, r"frame \d+ does not decode"),
    ],
)
def test_strangers_damaged_files_are_refused_alike_and_what_decodes_is_kept(name, frames, what):
    with pytest.raises(DamagedVideo, match="data.damaged=keep"):
        list(read_frames(STRANGERS / name, 16))
    number, said = kept_of(STRANGERS / name)
    assert number == frames and re.search(what, said), said


@pytest.mark.counts("strange videos")
def test_kept_frames_are_the_right_ones_at_the_right_times(tmp_path):
    path = write_video(tmp_path / "a.avi", map(stamped, range(60)))
    data = path.read_bytes()
    chunks = [found.start() for found in re.finditer(b"00dc", data)]
    path.write_bytes(data[: chunks[31] + 20])  # within the 31st frame; the header names them too
    kept: list[str] = []
    found = [(seconds, stamp_of(frame)) for seconds, frame in read_timed(path, kept=kept)]
    assert [stamp for _, stamp in found[:30]] == list(range(30)) and "it ends after 1.0 s of the 2.0 s" in kept[0]
    assert found[10][0] == pytest.approx(10 / 30)


@pytest.mark.counts("strange videos")
def test_what_has_no_frame_is_refused_also_where_damage_is_kept(tmp_path):
    path = tmp_path / "noise.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(20_000))
    with pytest.raises(VideoError, match="not a readable video") as error:
        list(read_frames(path, kept=[]))
    assert REMEDY not in str(error.value), "no setting makes it decode"


# healthy


def uneven(number: int) -> int:
    """33 ms, but 100 ms after every fifth frame and half a second now and then: a phone's film."""
    return number * 33 + number // 5 * 67 + number // 40 * 500


HEALTHY = {
    "uneven mkv": ("a.mkv", "h264", {"times": uneven}),
    "uneven webm": ("a.webm", "libvpx", {"times": uneven}),
    "uneven mp4": ("a.mp4", "h264", {"times": uneven}),
    "uneven avi": ("a.avi", "mpeg4", {"times": uneven}),
    "two pauses, webm": ("a.webm", "libvpx", {"times": lambda number: number * 33 + 200 * (number > 30) + 500 * (number > 80)}),
    "pauses, mp4": ("a.mp4", "h264", {"times": lambda number: number * 33 + 900 * (number > 60)}),
    "webm without duration": ("a.webm", "libvpx", {"live": "1"}),
    "mkv without duration": ("a.mkv", "h264", {"live": "1"}),
    "fragments": ("a.mp4", "h264", {"movflags": "frag_keyframe+empty_moov"}),
    "B-frames in avi": ("a.avi", "h264", {}),
    "bare stream": ("a.m1v", "mpeg1video", {}),
    "one frame": ("a.mkv", "h264", {"frames": 1}),
}


@pytest.mark.counts("strange videos")
@pytest.mark.parametrize(("name", "codec", "options"), HEALTHY.values(), ids=HEALTHY)
def test_healthy_strangers_are_not_refused(tmp_path, name, codec, options):
    path = film(tmp_path / name, codec, **options)
    assert len(list(read_frames(path, 16))) == options.get("frames", LENGTH)


@pytest.mark.counts("strange videos")
@pytest.mark.parametrize(("suffix", "codec"), [("ts", "h264"), ("ts", "mpeg2video"), ("mpg", "mpeg1video")])
def test_files_put_together_are_not_refused(tmp_path, suffix, codec):
    parts = [film(tmp_path / f"{frames}.{suffix}", codec, frames=frames) for frames in (LENGTH, 60)]
    path = tmp_path / f"both.{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert len(list(read_frames(path, 16))) == LENGTH + 60


@pytest.mark.counts("strange videos")
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("seconds", [1, 6])
def test_sound_before_the_picture_and_longer_or_shorter_than_it_costs_no_frame(tmp_path, suffix, seconds):
    path = tmp_path / f"sound.{suffix}"
    with av.open(str(path), "w") as container:
        sound, picture = container.add_stream("aac", rate=16000, layout="mono"), container.add_stream("h264", rate=30)
        picture.width, picture.height, picture.pix_fmt = 160, 64, "yuv420p"
        for number in range(seconds * 16):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, number * 1024
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
        for number in range(90):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(stamped(number), "rgb24")))
        container.mux(picture.encode(None))
    assert [stamp_of(frame) for frame in read_frames(path)] == list(range(90))


@pytest.mark.counts("strange videos")
def test_what_an_edit_list_leaves_out_is_not_missing(tmp_path):
    path = film(tmp_path / "edited.mp4", "h264")
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12  # the duration of the only edit, in milliseconds
    assert struct.unpack(">I", data[at : at + 4]) == (4000,)
    data[at : at + 4] = struct.pack(">I", 2000)
    path.write_bytes(data)
    assert len(list(read_frames(path, 16))) == 60


@needs_strangers
@pytest.mark.counts("strange videos")
def test_a_header_that_no_file_could_keep_is_not_believed():
    path = STRANGERS / "hugecount.avi"
    assert len(list(read_frames(path, 16))) == 120
    info = probe(path)
    assert info.declared_frames == 2**32 - 1 and info.expected_frames <= info.file_bytes / 8 < 25_000


@pytest.mark.parametrize("folder", ["ucf11_groups_1_to_3", "fights", "hmdb51_clips", "hollywood2_clip"])
def test_no_real_clip_is_refused(folder):
    root = SHARED / folder
    if not root.is_dir():
        pytest.skip(f"the real clips are not there: {root}")
    paths = sorted(path for path in root.rglob("*") if path.suffix in (".avi", ".mpg", ".mp4"))
    assert paths
    assert {path.name: what for path in paths for _, what in [kept_of(path)] if what} == {}
