"""Decoding of real, generated and broken video files."""

import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from coloured_videos import (
    four_quarters,
    is_blue,
    is_red,
    quarters_of,
    red_and_blue,
    rotate_header,
    stamp_of,
    stamped,
    write_video,
)

from datamodules import decoding
from datamodules.decoding import VideoError, decoder_version, probe, read_chunks, read_frames
from datamodules.videos import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared"
CLIPS = SHARED / "data" / "clips"
STRANGERS = SHARED / "data" / "strangers"
needs_strangers = pytest.mark.skipif(not STRANGERS.is_dir(), reason=f"the strangers' files are not there: {STRANGERS}")
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"the real clips are not there: {CLIPS}")


@pytest.fixture(scope="session")
def long_video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("decoding") / "long.mp4", map(stamped, range(600)))


# real files


@needs_clips
@pytest.mark.parametrize(
    ("name", "frames", "height", "width"),
    [
        ("v_biking_01_01.mpg", 151, 240, 320),
        ("v_ApplyEyeMakeup_g01_c01.avi", 164, 240, 320),
        ("v_BaseballPitch_g01_c01.avi", 107, 240, 320),
        ("unordered.mov", 4, None, None),
    ],
)
def test_real_clips_give_every_frame(name, frames, height, width):
    shapes = [frame.shape for frame in read_frames(CLIPS / name)]
    assert len(shapes) == frames and len(set(shapes)) == 1 and shapes[0][2] == 3
    if height:
        assert shapes[0] == (height, width, 3)
    assert sum(map(len, read_chunks(CLIPS / name, 56))) == frames


@needs_clips
def test_a_clip_with_rotation_comes_as_it_is_displayed():
    info = probe(CLIPS / "video_90.mov")
    assert (info.width, info.height) == (568, 320)
    assert {frame.shape for frame in read_frames(CLIPS / "video_90.mov")} == {(568, 320, 3)}
    assert {chunk.shape[1:] for chunk in read_chunks(CLIPS / "video_90.mov", 64)} == {(64, 64, 3)}


@needs_clips
def test_rotation_and_squashing_commute():
    whole = next(read_frames(CLIPS / "video_90.mov")).astype(float)
    small = next(read_frames(CLIPS / "video_90.mov", 32)).astype(float)
    blocks = whole[: 568 // 8 * 8, :, :].reshape(8, 71, 8, 40, 3).mean(axis=(1, 3))
    assert abs(blocks - small.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))).mean() < 8


@needs_clips
def test_the_header_of_a_real_clip_is_read():
    info = probe(CLIPS / "v_biking_01_01.mpg")
    assert (info.width, info.height) == (320, 240) and info.fps == pytest.approx(29.97, abs=0.01)


@pytest.mark.counts("strange videos")
@needs_clips
def test_a_file_whose_frames_do_not_decode_is_named():
    path = CLIPS / "corrupted.mp4"
    with pytest.raises(VideoError) as error:
        list(read_frames(path))
    assert str(path) in str(error.value)


# broken files


def broken(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no video\n" * 200)
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(20_000))
    elif kind == "folder":
        path.mkdir()
    elif kind == "audio":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), "fltp", "mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    elif kind == "half":  # an mp4's index stands at its end
        data = write_video(path, map(stamped, range(20))).read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif kind == "unknown codec":
        path = write_video(folder / f"{kind}.avi", map(stamped, range(5)))
        path.write_bytes(path.read_bytes().replace(b"FMP4", b"Q0Q0"))
    return path


KINDS = ["missing", "empty", "text", "noise", "folder", "audio", "half", "unknown codec"]


@pytest.mark.counts("strange videos")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_video_is_an_error_that_names_the_file(tmp_path, kind):
    path = broken(kind, tmp_path)
    with pytest.raises(VideoError) as error:
        list(read_frames(path))
    assert str(path) in str(error.value) and isinstance(error.value, DataError)


@pytest.mark.parametrize("kind", KINDS)
def test_the_header_of_what_is_no_video_is_an_error_that_names_the_file(tmp_path, kind):
    path = broken(kind, tmp_path)
    with pytest.raises(VideoError) as error:
        probe(path)
    assert str(path) in str(error.value)


@pytest.mark.counts("strange videos")
def test_a_video_that_breaks_off_in_the_middle_never_passes_as_a_longer_one(tmp_path):
    path = write_video(tmp_path / "cut.mpg", map(stamped, range(60)), codec="mpeg1video")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    seen = []
    try:
        for frame in read_frames(path):
            seen.append(stamp_of(frame))
    except VideoError as error:
        assert str(path) in str(error)
    assert 0 < len(seen) < 60 and seen[:-1] == list(range(len(seen) - 1))


# generated files


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mpeg4"), ("a.avi", "mpeg4"), ("a.mpg", "mpeg1video"), ("a.mov", "h264"), ("a.mkv", "h264")]
)
def test_every_frame_comes_once_in_display_order(tmp_path, name, codec):
    path = write_video(tmp_path / name, map(stamped, range(41)), codec)
    assert [stamp_of(frame) for frame in read_frames(path)] == list(range(41))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_frame(tmp_path, threads):
    path = write_video(tmp_path / "a.mp4", map(stamped, range(35)))
    reference = np.stack(list(read_frames(path, 48)))
    assert np.array_equal(np.concatenate(list(read_chunks(path, 48, threads=threads))), reference)


@pytest.mark.parametrize(("frames", "lengths"), [(1, [1]), (7, [7]), (8, [8]), (9, [8, 1]), (20, [8, 8, 4])])
def test_chunks_are_full_but_for_the_last(tmp_path, frames, lengths):
    path = write_video(tmp_path / "a.mp4", map(stamped, range(frames)))
    chunks = list(read_chunks(path, 60, length=8))
    assert [chunk.shape for chunk in chunks] == [(length, 60, 60, 3) for length in lengths]
    assert all(chunk.dtype == np.uint8 for chunk in chunks)
    assert [stamp_of(frame) for chunk in chunks for frame in chunk] == list(range(frames))


def test_a_chunk_is_decoded_only_when_it_is_asked_for(long_video, monkeypatch):
    decoded = []

    def counting(*args, **kwargs):
        for frame in read_frames(*args, **kwargs):
            decoded.append(1)
            yield frame

    monkeypatch.setattr(decoding, "read_frames", counting)
    chunks = read_chunks(long_video, 32)
    assert len(decoded) == 0
    next(chunks)
    assert len(decoded) == decoding.CHUNK
    next(chunks)
    assert len(decoded) == 2 * decoding.CHUNK


def test_memory_does_not_grow_with_the_length_of_a_video(long_video):
    size = 64
    numbers = []
    tracemalloc.start()
    try:
        for chunk in read_chunks(long_video, size):
            assert len(chunk) <= decoding.CHUNK
            numbers += [stamp_of(frame) for frame in chunk]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert numbers == list(range(600))
    assert peak < 4 * decoding.CHUNK * size * size * 3, "the list, its stack, and the chunk before"


@pytest.mark.parametrize(("width", "height"), [(64, 32), (32, 64), (320, 48), (50, 50)])
def test_the_whole_frame_is_squashed_and_nothing_is_cut_off(tmp_path, width, height):
    frame = red_and_blue(width, height)
    frame[: height // 4, :, 1] = 255  # a band at the top: yellow and cyan
    path = write_video(tmp_path / "a.mp4", [frame] * 2)
    (first, second) = read_frames(path, 32)
    assert first.shape == second.shape == (32, 32, 3)
    assert is_red(first[12:, :12]) and is_blue(first[12:, 20:])
    assert first[:4, :, 1].min() > 180 and first[12:, :, 1].max() < 75


def test_without_a_size_frames_keep_theirs(tmp_path):
    path = write_video(tmp_path / "a.mp4", [red_and_blue(96, 32)])
    (frame,) = read_frames(path)
    assert frame.shape == (32, 96, 3) and is_red(frame[:, :40]) and is_blue(frame[:, 56:])


# As FFmpeg shows a frame whose quarters are R G over B Y; a, b, c, d of the matrix.
ORIENTATIONS = {
    "upright": ((1, 0, 0, 1), "RG/BY"),
    "mirrored": ((-1, 0, 0, 1), "GR/YB"),
    "upside down": ((1, 0, 0, -1), "BY/RG"),
    "half turn": ((-1, 0, 0, -1), "YB/GR"),
    "clockwise": ((0, 1, -1, 0), "BR/YG"),
    "counter-clockwise": ((0, -1, 1, 0), "GY/RB"),
    "transposed": ((0, 1, 1, 0), "RB/GY"),
    "transposed the other way": ((0, -1, -1, 0), "YG/BR"),
}


@pytest.mark.counts("strange videos")
@pytest.mark.parametrize("matrix, quarters", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_a_frame_is_turned_and_mirrored_as_its_display_matrix_asks(tmp_path, matrix, quarters):
    path = rotate_header(write_video(tmp_path / "a.mp4", [four_quarters()] * 3), matrix)
    frames = list(read_frames(path))
    assert len(frames) == 3
    for frame in frames:
        assert frame.shape == ((64, 32, 3) if matrix[0] == 0 else (32, 64, 3)) and frame.flags["C_CONTIGUOUS"]
        assert quarters_of(frame) == quarters
    assert {quarters_of(frame) for frame in read_frames(path, 24)} == {quarters}


@needs_strangers
@pytest.mark.counts("strange videos")
def test_a_front_camera_s_video_is_mirrored_and_not_turned():
    with av.open(str(STRANGERS / "hflip.mp4")) as container:
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = list(read_frames(STRANGERS / "hflip.mp4"))
    assert len(frames) == 40
    assert all(abs(frame.astype(int) - image[:, ::-1]).mean() < 8 for frame, image in zip(frames, stored, strict=True))


@needs_strangers
@pytest.mark.counts("strange videos")
def test_of_several_video_streams_ffmpeg_s_choice_is_read():
    assert len(list(read_frames(STRANGERS / "thumbfirst.mp4"))) == 120
    info = probe(STRANGERS / "thumbfirst.mp4")
    assert (info.width, info.height, info.declared_frames) == (160, 120, 120)


@pytest.mark.counts("strange videos")
@pytest.mark.parametrize("first", ["cover", "film"])
def test_a_film_is_read_and_not_its_cover_picture(tmp_path, first):
    path = tmp_path / "covered.mp4"
    with av.open(str(path), "w") as container:
        for kind in ("cover", "film") if first == "cover" else ("film", "cover"):
            stream = container.add_stream("mjpeg" if kind == "cover" else "mpeg4", rate=10)
            stream.width, stream.height = (640, 480) if kind == "cover" else (64, 32)
            stream.pix_fmt = "yuvj420p" if kind == "cover" else "yuv420p"
            if kind == "cover":
                stream.disposition = av.stream.Disposition.attached_pic
        for stream in container.streams.video:
            image = np.zeros((stream.height, stream.width, 3), np.uint8)
            for _ in range(1 if stream.width == 640 else 12):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=stream.pix_fmt)))
            container.mux(stream.encode(None))
    assert [frame.shape for frame in read_frames(path)] == [(32, 64, 3)] * 12


def test_a_header_says_rate_size_and_a_number_of_frames(tmp_path):
    info = probe(write_video(tmp_path / "a.mp4", [red_and_blue()] * 12, rate=24))
    assert (info.fps, info.width, info.height, info.declared_frames) == (24.0, 64, 32, 12)


@pytest.mark.parametrize(
    "name",
    [
        "100%03d #[a] (b);&!.mp4",
        "two\nlines.mp4",
        "-y.mp4",
        "🎬 ünï.mp4",
        "concat:x|y.mp4",
        "http:x.mp4",
        "quote'\".mp4",
        "a?b=c.mp4",
    ],
)
def test_odd_names_are_files_like_any_other_also_relative_ones(tmp_path, monkeypatch, name):
    write_video(tmp_path / "plain.mp4", map(stamped, range(3))).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, Path(name)):
        assert [stamp_of(frame) for frame in read_frames(path)] == [0, 1, 2]
        assert probe(path).width == 160


def test_a_consumer_that_stops_early_leaves_the_file_closed(long_video):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        frames = read_frames(long_video, 16)
        next(frames)
        frames.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_the_decoder_is_named_with_its_versions():
    assert f"PyAV {av.__version__}" in decoder_version() and "libavcodec" in decoder_version()
