"""The stream of frames for feature extraction: every frame of every video once, in order, whoever decodes it."""

import contextlib
import multiprocessing
import os
import re
import signal
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from conftest import PATIENCE
from torch.utils.data import DataLoader

from datamodules import frames as frames_module
from datamodules.decoding import VideoError, read_chunks
from datamodules.drawn_blocks import Draw, draw_blocks
from datamodules.frames import (
    SHARED_MEMORY,
    FrameDataModule,
    FrameStream,
    SharedMemoryError,
    shared_bytes,
    workers_that_fit,
)

SIZE = 20
STRIPES = 10
LENGTHS = [1, 7, 40, 33, 5, 64, 32]


def write_video(path: Path, frames: int) -> Path:
    """A video whose frames show their numbers in black and white stripes, lowest bit on the left."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 160, 32, "yuv420p", 1_000_000
        for number in range(frames):
            bits = (number >> np.arange(STRIPES)) & 1
            image = np.broadcast_to(np.repeat(bits * 255, 16)[None, :, None], (32, 160, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    return path


def stamp_of(frame: torch.Tensor) -> int:
    """(3, S, S) -> the number that the frame shows."""
    row = frame[1, SIZE // 2].reshape(STRIPES, SIZE // STRIPES).float().mean(dim=1)
    return sum(1 << bit for bit in range(STRIPES) if row[bit] > 128)


@pytest.fixture(scope="session")
def paths(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("frames")
    return [write_video(folder / f"{number}.mp4", length) for number, length in enumerate(LENGTHS)]


class Received:
    """Puts a stream together again, as the writer of features does, and checks its form on the way."""

    def __init__(self, packets, packet: int) -> None:
        self.stamps: dict[int, list[int]] = {}
        self.ends, self.errors = {}, {}
        self.sizes = []
        for frames, segments in packets:
            assert frames.dtype == torch.uint8 and frames.shape[1:] == (3, SIZE, SIZE)
            assert len(frames) == 0 or frames.is_contiguous(memory_format=torch.channels_last)
            assert len(frames) == sum(segment.frames for segment in segments) <= packet
            self.sizes.append(len(frames))
            begin = 0
            for segment in segments:
                if segment.error is not None:
                    assert segment.frames == 0 and segment.end is None
                    self.errors[segment.video] = segment.error
                    continue
                assert segment.frames > 0
                assert segment.first == (segment.video not in self.stamps)
                assert segment.video not in self.ends, "no frame after the end"
                numbers = [stamp_of(frame) for frame in frames[begin : begin + segment.frames]]
                self.stamps.setdefault(segment.video, []).extend(numbers)
                begin += segment.frames
                if segment.end is not None:
                    self.ends[segment.video] = segment.end


def complete(lengths=LENGTHS) -> dict[int, list[int]]:
    return {number: list(range(length)) for number, length in enumerate(lengths)}


@pytest.mark.parametrize("packet", [1, 4, 16, 32, 33, 500])
def test_every_frame_of_every_video_comes_once_and_in_order_across_packets(paths, packet):
    received = Received(FrameStream(paths, SIZE, packet), packet)
    assert received.stamps == complete() and received.errors == {}
    assert set(received.ends) == set(range(len(paths)))


@pytest.mark.parametrize("packet", [4, 16, 500])
def test_packets_are_full_but_for_the_last(paths, packet):
    received = Received(FrameStream(paths, SIZE, packet), packet)
    assert set(received.sizes[:-1]) <= {packet}
    assert len(received.sizes) == -(-sum(LENGTHS) // packet)


def test_the_end_of_a_video_brings_the_facts_of_its_header(paths):
    received = Received(FrameStream(paths, SIZE, 16), 16)
    assert {(end.fps, end.width, end.height) for end in received.ends.values()} == {(25.0, 160, 32)}
    assert [received.ends[number].declared_frames for number in range(len(LENGTHS))] == LENGTHS


@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_workers_gives_the_same_frames(paths, workers):
    data = FrameDataModule(paths, SIZE, packet=16, num_workers=workers)
    received = Received(data.predict_dataloader(), 16)
    assert received.stamps == complete() and set(received.ends) == set(range(len(paths)))


@pytest.mark.parametrize(("packet", "workers"), [(7, 0), (30, 0), (64, 2)])
def test_of_drawn_blocks_these_frames_come_one_block_after_the_other_and_their_starts_at_the_end(paths, packet, workers):
    draws = [Draw(3, 5, path.stem) for path in paths]
    data = FrameDataModule(paths, SIZE, packet, workers, draws=draws)
    packets = list(data.predict_dataloader())
    expected = [draw_blocks(range(length), draw) for length, draw in zip(LENGTHS, draws, strict=True)]
    assert Received(packets, packet).stamps == {
        video: [frame for _, block in blocks for frame in block] for video, blocks in enumerate(expected)
    }
    ends = {segment.video: [*segment.starts] for _, segments in packets for segment in segments if segment.end is not None}
    assert ends == {video: [start for start, _ in blocks] for video, blocks in enumerate(expected)}
    assert not any(segment.starts for _, segments in packets for segment in segments if segment.end is None)


@pytest.mark.counts("SIGKILLs")
def test_the_video_at_which_a_decoding_process_died_is_known(paths):
    data = FrameDataModule(paths, SIZE, packet=1, num_workers=2)
    packets = iter(data.predict_dataloader())
    next(packets)
    assert data.stream is not None
    ((killed, _), (other, _)) = data.stream.at.tolist()
    assert killed != other and os.getpid() not in (killed, other)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises wherever this process is
    try:
        os.kill(killed, signal.SIGKILL)
        with pytest.raises((RuntimeError, OSError, EOFError)) as error:
            list(packets)
        deadline = time.monotonic() + PATIENCE
        while killed in {process.pid for process in multiprocessing.active_children()}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        data.on_exception(error.value)
    finally:
        signal.signal(signal.SIGCHLD, handler)
    assert data.lost == [paths[data.stream.at[0, 1]]], "the other one waits, or is done"


@pytest.mark.parametrize(
    ("free", "fitting"),
    [(64 << 20, 2), (6 * (9408 + 4) << 10, 2), ((6 * (9408 + 4) << 10) - 1, 1), (30 << 20, 0), (0, 0), (None, 8), (1 << 40, 8)],
)
def test_as_many_decoding_processes_as_shared_memory_has_room_for(free, fitting):
    """Packets of 64 frames of 224 x 224 pixels are 9408 KiB; each process works two ahead, two more are at hand."""
    assert workers_that_fit(8, 64, 224, free) == fitting


def in_shared_memory() -> dict[int, int]:
    """Bytes, by inode, of what this process and its children have open or mapped there; other processes' do not count."""
    found = {}
    for process in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        for path in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed since
                if os.readlink(path).startswith(str(SHARED_MEMORY)):
                    found[path.stat().st_ino] = path.stat().st_size
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            ends, _, _, _, inode, *name = line.split(maxsplit=5)
            if name and name[0].startswith(str(SHARED_MEMORY)):
                begin, end = (int(number, 16) for number in ends.split("-"))
                found[int(inode)] = end - begin
    return found


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="only Linux says what processes have of shared memory")
def test_what_processes_fill_of_shared_memory_is_what_is_reckoned(paths):
    data, before = FrameDataModule(paths, SIZE, packet=64, num_workers=2), in_shared_memory()
    packets = iter(data.predict_dataloader())
    at_hand = [next(packets), next(packets)]
    filled = {inode: size for inode, size in in_shared_memory().items() if inode not in before}
    assert len(at_hand) == 2 and 2 * 64 * SIZE * SIZE * 3 <= sum(filled.values()) <= shared_bytes(2, 64, SIZE)


@pytest.mark.counts("full disks")
def test_no_room_in_shared_memory_is_told_to_who_waits(paths, monkeypatch):
    """The thread that would send the packet would drop it, and the wait for it have no end."""

    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    stream = FrameStream(paths, SIZE, 16)
    begun = time.monotonic()
    with pytest.raises(SharedMemoryError, match="No space left on device"):
        list(DataLoader(stream, batch_size=None, num_workers=1, multiprocessing_context="fork"))
    assert time.monotonic() - begun < PATIENCE / 10


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_each_video_goes_to_one_rank_and_all_ranks_together_have_every_frame(paths, world_size):
    stamps = defaultdict(list)
    for rank in range(world_size):
        data = FrameDataModule(paths, SIZE, packet=8)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
        for video, numbers in Received(data.predict_dataloader(), 8).stamps.items():
            stamps[video].append(numbers)
    assert stamps == {video: [numbers] for video, numbers in complete().items()}


def test_ranks_with_workers_share_the_videos_without_gap_or_overlap(paths):
    stamps = defaultdict(list)
    for rank in range(2):
        data = FrameDataModule(paths, SIZE, packet=8, num_workers=2)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        for video, numbers in Received(data.predict_dataloader(), 8).stamps.items():
            stamps[video].append(numbers)
    assert stamps == {video: [numbers] for video, numbers in complete().items()}


def test_the_work_of_ranks_is_balanced_by_file_size(paths):
    sizes = [path.stat().st_size for path in paths]
    loads = [sum(sizes[video] for video in Received(FrameStream(paths, SIZE, 8, rank, 2), 8).stamps) for rank in range(2)]
    assert abs(loads[0] - loads[1]) <= max(sizes)


@pytest.mark.parametrize(("packet", "workers"), [(1, 0), (5, 0), (16, 0), (500, 0), (16, 2)])
def test_undecodable_videos_among_good_ones_are_told_and_the_others_are_complete(paths, tmp_path, packet, workers):
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    bad = {1: tmp_path / "text.mp4", 3: tmp_path / "missing.mp4", 6: tmp_path / "empty.mp4"}
    good = {0: 2, 2: 1, 4: 3, 5: 0}  # place in the list -> which of the videos
    mixed = [bad[place] if place in bad else paths[good[place]] for place in range(7)]
    received = Received(FrameDataModule(mixed, SIZE, packet, workers).predict_dataloader(), packet)
    assert received.stamps == {place: list(range(LENGTHS[video])) for place, video in good.items()}
    assert set(received.ends) == set(good)
    assert set(received.errors) == set(bad)
    assert all(str(path) in received.errors[place] for place, path in bad.items())


def test_a_list_of_bad_videos_alone_gives_their_errors_and_no_frame(tmp_path):
    received = Received(FrameStream([tmp_path / "a.mp4", tmp_path / "b.mp4"], SIZE, 8), 8)
    assert set(received.errors) == {0, 1} and received.stamps == {}


@pytest.mark.parametrize("packet", [5, 16, 32, 500])
def test_a_video_that_breaks_in_the_middle_has_no_end_and_the_next_ones_are_complete(paths, monkeypatch, packet):
    broken = LENGTHS.index(64)

    def breaking(path, size, **options):
        for chunk in read_chunks(path, size):
            yield chunk
            if path == paths[broken]:
                raise VideoError(f"{path}: frame 32 does not decode")

    monkeypatch.setattr(frames_module, "read_chunks", breaking)
    received = Received(FrameStream(paths, SIZE, packet), packet)
    assert set(received.errors) == {broken} and "frame 32 does not decode" in received.errors[broken]
    assert set(received.ends) == set(range(len(paths))) - {broken}
    assert {v: n for v, n in received.stamps.items() if v != broken} == {v: n for v, n in complete().items() if v != broken}


def test_packets_do_not_share_memory(paths):
    first, second, *_ = FrameStream(paths, SIZE, 8)
    before = second.frames.clone()
    first.frames.zero_()
    assert torch.equal(second.frames, before)


@pytest.mark.counts("strange videos")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_video_is_told_or_kept_with_what_is_damaged(paths, tmp_path, workers):
    cut = write_video(tmp_path / "cut.avi", 40)
    data = cut.read_bytes()
    cut.write_bytes(data[: [found.start() for found in re.finditer(b"00dc", data)][25]])
    mixed = [paths[0], cut, paths[1]]
    refused = Received(FrameDataModule(mixed, SIZE, 16, workers).predict_dataloader(), 16)
    assert set(refused.errors) == {1} and "data.damaged=keep" in refused.errors[1] and set(refused.ends) == {0, 2}
    packets = list(FrameDataModule(mixed, SIZE, 16, workers, keep=True).predict_dataloader())
    damage = {segment.video: segment.damage for _, segments in packets for segment in segments if segment.end}
    assert set(damage) == {0, 1, 2} and damage[0] == damage[2] == "" and "that its header says" in damage[1]
