"""Streams, pipes and folders of frames become video files, with the very frames that came."""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import REPOSITORY, wait_for
from PIL import Image

from datamodules.decoding import probe, read_frames
from datamodules.videos import DataError
from reproduce import predict
from reproduce.visual.captures import capture_pictures, capture_stream, is_stream, pictures_in


def transport_stream(frames: int) -> bytes:
    """An MPEG transport stream, which a receiver may join at any time, with a key frame every five frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
        for number in range(frames):
            image = np.full((48, 64, 3), (number * 7) % 256, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def serve(content: bytes, *, endless: bool = False):
    """Serve a stream to one client over TCP; returns its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        with listener, listener.accept()[0] as client:
            try:
                client.sendall(content)
                while endless:  # a camera has no end
                    time.sleep(0.05)
                    client.sendall(content)
            except OSError:
                pass

    threading.Thread(target=send, daemon=True).start()
    return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def frames_of(path: Path) -> list[np.ndarray]:
    return list(read_frames(path))


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


# streams


def test_what_is_a_stream(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert all(map(is_stream, ["rtsp://camera:8554/door", "HTTP://x/y", "-", str(tmp_path / "pipe"), "/dev/null"]))
    assert not any(map(is_stream, ["clip.mp4", str(tmp_path), "nowhere", "C:\\clips\\a.mp4", "concat:a.mp4"]))


@pytest.mark.counts("streams")
def test_a_stream_is_captured_frame_by_frame(tmp_path):
    content = transport_stream(40)
    (tmp_path / "a.ts").write_bytes(content)
    capture_stream(serve(content), tmp_path / "out/a.mkv")
    assert same(frames_of(tmp_path / "out/a.mkv"), frames_of(tmp_path / "a.ts"))
    assert probe(tmp_path / "out/a.mkv").fps == pytest.approx(25, abs=0.1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mkv"]


@pytest.mark.counts("streams")
def test_a_pipe_is_captured_until_its_writer_ends(tmp_path):
    (tmp_path / "a.ts").write_bytes(transport_stream(30))
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=lambda: shutil.copyfileobj((tmp_path / "a.ts").open("rb"), (tmp_path / "pipe").open("wb"))).start()
    capture_stream(str(tmp_path / "pipe"), tmp_path / "a.mkv")
    assert same(frames_of(tmp_path / "a.mkv"), frames_of(tmp_path / "a.ts"))


@pytest.mark.counts("streams")
def test_a_stream_that_breaks_off_keeps_its_whole_frames(tmp_path):
    content = transport_stream(40)
    capture_stream(serve(content[: len(content) // 2]), tmp_path / "a.mkv")
    assert 5 <= len(frames_of(tmp_path / "a.mkv")) < 40


CAPTURES = """
import sys
from pathlib import Path
from reproduce.visual.captures import capture_stream
capture_stream(sys.argv[1], Path(sys.argv[2]))
print("predicted now")
"""


@pytest.mark.counts("streams")
@pytest.mark.parametrize("kind", ["tcp", "silent pipe"])
def test_ctrl_c_ends_a_capture_and_its_file_is_whole(tmp_path, kind):
    if kind == "tcp":
        video = serve(transport_stream(40), endless=True)
    else:
        video = str(tmp_path / "pipe")
        os.mkfifo(video)
    command = [sys.executable, "-c", CAPTURES, video, str(tmp_path / "a.mkv")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    writer = open(video, "wb", buffering=0) if kind == "silent pipe" else contextlib.nullcontext()  # noqa: SIM115
    with writer:
        if kind == "silent pipe":  # its writer sends some frames, and then nothing
            writer.write(transport_stream(60))
        wait_for(lambda: "capturing" in (tmp_path / "output").read_text(), process, tmp_path / "output")
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, (tmp_path / "output").read_text()
    said = (tmp_path / "output").read_text()
    assert "predicted now" in said and "Traceback" not in said
    assert len(frames_of(tmp_path / "a.mkv")) >= 5 and not list(tmp_path.glob(".*.part"))


@pytest.mark.counts("streams")
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n"])
def test_what_is_no_stream_is_one_clear_line(tmp_path, content):
    with pytest.raises(DataError) as error:
        capture_stream(address := serve(content), tmp_path / "a.mkv")
    assert str(error.value).startswith(f"video={address}: ") and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_address_that_nobody_answers_is_one_clear_line(tmp_path):
    with pytest.raises(DataError, match="cannot be captured"):
        capture_stream("tcp://127.0.0.1:9", tmp_path / "a.mkv")


@pytest.mark.skipif("v4l2" in av.formats_available, reason="this PyAV reads cameras")
def test_a_camera_that_pyav_does_not_read_is_told_with_the_way(tmp_path):
    with pytest.raises(DataError, match=r"reads no camera.*ffmpeg -f v4l2 .*video=-"):
        capture_stream("/dev/null", tmp_path / "a.mkv")


# folders of frames


def draw(folder: Path, names: list[str], size: tuple[int, int] = (48, 32)) -> list[np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        image = np.full((size[1], size[0], 3), number * 9, dtype=np.uint8)
        image[: size[1] // 2, : size[0] // 2] = (255, 0, 0)
        Image.fromarray(image).save(folder / name)
    return [next(read_frames(folder / name)) for name in names]


@pytest.mark.counts("folders of frames")
@pytest.mark.parametrize("pattern", ["img_{:05d}.jpg", "frame{}.JPG", "{:03d}.png", "image_{:05d}.jpeg"])
def test_a_folder_of_frames_is_a_video_of_them_in_the_order_of_their_numbers(tmp_path, pattern):
    drawn = draw(tmp_path / "clip", [pattern.format(number) for number in range(1, 13)])
    capture_pictures(tmp_path / "clip", tmp_path / "a.avi")
    found = frames_of(tmp_path / "a.avi")
    assert len(found) == 12 and probe(tmp_path / "a.avi").fps == 25
    assert max(int(np.abs(one.astype(int) - other).max()) for one, other in zip(found, drawn, strict=True)) <= 2
    before = (tmp_path / "a.avi").stat().st_mtime_ns
    capture_pictures(tmp_path / "clip", tmp_path / "a.avi")
    assert (tmp_path / "a.avi").stat().st_mtime_ns == before


@pytest.mark.counts("folders of frames")
def test_optical_flow_beside_frames_is_passed_over_and_two_videos_are_told(tmp_path):
    draw(tmp_path / "a", ["img_00001.jpg", "img_00002.jpg", "flow_x_00001.jpg", "flow_x_00002.jpg", "cover1.jpg"])
    assert [path.name for path in pictures_in(tmp_path / "a")] == ["img_00001.jpg", "img_00002.jpg"]
    draw(tmp_path / "a", ["other_1.jpg", "other_2.jpg"])
    with pytest.raises(DataError, match=r"several names \('img_', 'other_'\)"):
        pictures_in(tmp_path / "a")


def test_predict_takes_folders_of_frames_and_videos_alike(tmp_path):
    draw(tmp_path / "in/walk/v1", ["img_00001.jpg", "img_00002.jpg"])
    draw(tmp_path / "in/walk/v2", ["img_00001.jpg", "img_00002.jpg"])
    draw(tmp_path / "in", ["photo.jpg"])
    (tmp_path / "in/a.mp4").touch()
    draw(tmp_path / "in/out/old", ["img_00001.jpg", "img_00002.jpg"])
    found = predict.videos_in(tmp_path / "in", tmp_path / "in/out")
    assert [path.relative_to(tmp_path / "in").as_posix() for path in found] == ["a.mp4", "walk/v1", "walk/v2"]
    assert predict.videos_in(tmp_path / "in/walk/v1", tmp_path / "in/out") == [tmp_path / "in/walk/v1"]
