"""Videos of strangers: every frame comes, or the file is refused by name, in bounded memory."""

import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from handmade import put

from datamodules import decoding
from datamodules.decoding import CHUNK, VideoError, probe, read_chunks, read_frames

# videos


def encode(path: Path, frames: int, codec: str = "mpeg4", form: str = "yuv420p", size=(64, 48), step=None, **options) -> Path:
    """Left half red, right half black; ``step`` gives each frame's time in thirtieths of a second."""
    with av.open(f"file:{path}", "w", **options) as container:
        stream = container.add_stream(codec, rate=30)
        (stream.width, stream.height), stream.pix_fmt = size, form
        stream.codec_context.time_base = Fraction(1, 30)
        image = np.zeros((size[1], size[0], 3), dtype=np.uint8)
        image[:, : size[0] // 2, 0] = 255
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=form)
            if step:
                frame.pts, frame.time_base = step(number), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


FORMS = [
    ("gray.mkv", "ffv1", "gray", (64, 48)),
    ("gray16.mkv", "ffv1", "gray16le", (64, 48)),
    ("rgb.mkv", "ffv1", "bgr0", (64, 48)),
    ("ten.mkv", "ffv1", "yuv420p10le", (64, 48)),
    ("alpha.mkv", "ffv1", "yuva420p", (64, 48)),
    ("alpha.mov", "png", "rgba", (64, 48)),
    ("palette.gif", "gif", "rgb8", (64, 48)),
    ("odd.mkv", "ffv1", "yuv444p", (33, 17)),
    ("one.mkv", "ffv1", "rgb24", (1, 1)),
    ("full.avi", "mjpeg", "yuvj420p", (64, 48)),
]


@pytest.mark.parametrize(("name", "codec", "form", "size"), FORMS, ids=[form[0] for form in FORMS])
def test_frames_of_every_form_become_red_green_and_blue(tmp_path, name, codec, form, size):
    if codec not in av.codecs_available or form == "rgb24":
        form = "bgr0"
    frames = list(read_frames(encode(tmp_path / name, 5, codec, form, size), 32))
    assert len(frames) == 5 and all(frame.shape == (32, 32, 3) and frame.dtype == np.uint8 for frame in frames)
    left, right = frames[2][4:28, 2:12].mean(axis=(0, 1)), frames[2][4:28, 20:30].mean(axis=(0, 1))
    if form.startswith("gray"):
        assert np.ptp(left) < 2 and 60 < left[0] < 90 and right.max() < 10
    elif size != (1, 1):
        assert left[0] > 240 and left[1:].max() < 12 and right.max() < 12


@pytest.mark.parametrize("name", ["one.mp4", "one.avi", "one.mkv"])
def test_a_video_of_one_frame_is_one(tmp_path, name):
    assert len(list(read_frames(encode(tmp_path / name, 1), 16))) == 1


@pytest.mark.counts("strange videos")
def test_a_video_without_frames_is_refused_by_name(tmp_path):
    data = encode(tmp_path / "some.mkv", 3).read_bytes()
    path = tmp_path / "none.mkv"
    path.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # up to EBML's first element of frames
    with pytest.raises(VideoError, match=r"none\.mkv: (has no frame|not a readable video)"):
        list(read_frames(path, 16))


@pytest.mark.counts("strange videos")
def test_frames_of_changing_size_are_squashed_to_one(tmp_path):
    parts = [encode(tmp_path / f"{size[0]}.m1v", 20, "mpeg1video", size=size) for size in ((64, 48), (128, 96), (64, 48))]
    path = tmp_path / "changing.m1v"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert {frame.shape for frame in read_frames(path)} == {(48, 64, 3), (96, 128, 3)}
    chunks = np.concatenate(list(read_chunks(path, 24)))
    assert len(chunks) >= 57 and chunks.shape[1:] == (24, 24, 3), "the decoder may lose one frame at a change"
    assert (chunks[:, 4:20, 2:9, 0] > 200).all() and (chunks[:, 4:20, 15:22] < 50).all()


@pytest.mark.counts("strange videos")
def test_frames_at_uneven_times_all_come_once(tmp_path):
    path = encode(tmp_path / "uneven.mkv", 30, step=lambda number: number * number)
    assert len(list(read_frames(path, 16))) == 30


@pytest.mark.counts("strange videos")
def test_a_sound_file_with_a_cover_is_no_video_of_one_frame(tmp_path):
    path = tmp_path / "sound.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(
            cover.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24").reformat(format="yuvj420p"))
        )
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux([*sound.encode(frame), *sound.encode(None), *cover.encode(None)])
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams].count("video") == 1
    for read in (probe, lambda path: list(read_frames(path))):
        with pytest.raises(VideoError, match=r"sound\.m4a: has no video stream but a cover picture"):
            read(path)


@pytest.mark.counts("strange videos")
def test_a_title_in_another_encoding_is_no_reason_to_refuse_a_video(tmp_path):
    path = tmp_path / "title.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "T" * 12
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"T" * 12, b"caf\xe9 \xff\xfe\x80 00"))
    assert probe(path).declared_frames == 4 and len(list(read_frames(path, 16))) == 4


@pytest.mark.counts("strange videos")
@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "<!doctype html><title>404</title>\n" * 30,
    ],
    ids=["concat", "m3u8", "sdp", "html"],
)
@pytest.mark.parametrize("suffix", [".avi", ".m3u8"])
def test_a_text_that_names_other_files_is_no_video(tmp_path, text, suffix):
    encode(tmp_path / "secret.mp4", 3)
    path = put(tmp_path / f"list{suffix}", text)
    with pytest.raises(VideoError, match="a text file, such as a playlist or a web page, and no video"):
        list(read_frames(path))


def test_a_frame_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 400 * 400)
    assert len(list(read_frames(encode(tmp_path / "small.mp4", 2), 16))) == 2
    with pytest.raises(VideoError, match=r"large\.mp4: frames of 640 x 480 pixels are too large"):
        list(read_frames(encode(tmp_path / "large.mp4", 2, size=(640, 480)), 16))
    parts = [encode(tmp_path / f"{size[0]}.m1v", 20, "mpeg1video", size=size) for size in ((64, 48), (640, 480))]
    path = tmp_path / "growing.m1v"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    try:
        assert {frame.shape for frame in read_frames(path)} == {(48, 64, 3)}, "what grows later is not decoded either"
    except VideoError as error:
        assert str(path) in str(error)


@pytest.mark.slow(measured=True)
def test_a_long_video_takes_no_more_memory_than_a_short_one(tmp_path):
    path = tmp_path / "long.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)  # 20 000 frames at one a second: five and a half hours
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24").reformat(format="yuv420p")
        for number in range(20_000):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    tracemalloc.start()
    try:
        count = sum(map(len, read_chunks(path, 32)))
        assert tracemalloc.get_traced_memory()[1] < 4 * CHUNK * 32 * 32 * 3 + 200_000
    finally:
        tracemalloc.stop()
    assert count == 20_000
