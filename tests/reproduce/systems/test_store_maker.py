"""Trajectory and gray stores: as computed by hand, killed and resumed, waited for, replaced, damaged, refused."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import kill_when, start
from conftest import PATIENCE, TINY, once, script, wait_for
from moving_clips import HEIGHT, WIDTH, draw_moving, lay_out_moving

from datamodules.decoding import VideoError, read_frames
from datamodules.descriptors.trajectories import TrajectoryOptions, trajectories
from datamodules.stored_videos import usable
from datamodules.stores import Store
from datamodules.videos import DataError
from reproduce import prepare
from reproduce.common.cli import resolve
from reproduce.common.dataset import PLACES, STORES, read_annotation
from reproduce.common.processes import locked
from reproduce.common.settings import Settings
from reproduce.systems import gray_store, skipped_trajectory_store, store_maker, trajectory_store

SMALL = [*TINY, "trajectories.length=6", "trajectories.scales=1", "trajectories.workers=2", "slow_features.height=24"]
OPTIONS = TrajectoryOptions(6, 1, "orb")
CLIP, STILL = "down/clip4.avi", "down/still.avi"


def words(root: Path, *more: str) -> list[str]:
    return [*SMALL, f"paths.data={root}", f"paths.features={root / 'features'}", f"paths.runs={root / 'runs'}", *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Moving clips with their trajectories, made without a break; to be copied."""

    def make(folder: Path) -> None:
        lay_out_moving(folder / "clips")
        prepare.main(words(folder, "row=idt_fv"))

    return once(tmp_path_factory, "moving", make)


@pytest.fixture
def root(whole, tmp_path) -> Path:
    """A copy of the clips alone."""
    shutil.copytree(whole / "clips", tmp_path / "root/clips")
    return tmp_path / "root"


def opened(root: Path, *more: str):
    settings = resolve(Settings, words(root, *more))
    return settings, read_annotation(settings), STORES["trajectories"].open(settings)


def names_of(annotation) -> list[str]:
    return [video.name for video in annotation.videos]


def contents(store: Store) -> dict[str, bytes]:
    return {path.relative_to(store.path).as_posix(): path.read_bytes() for path in sorted(store.path.rglob("*.npy"))}


def written(store: Store) -> dict[str, int]:
    return {name: store.file(name).stat().st_mtime_ns for name in store.videos}


def gray(path: Path) -> list[np.ndarray]:
    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in read_frames(path)]


def expected(frames: list[np.ndarray], level: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Descriptors and positions as a store has them."""
    pairs = list(trajectories(frames, OPTIONS))
    positions = np.concatenate([places for places, _ in pairs])
    positions[:, 0] *= level + 1
    levels = np.full((len(positions), 1), level, np.float32)
    return np.concatenate([found for _, found in pairs]).astype(np.float16), np.hstack([positions, levels])


def holds(store: Store, name: str, arrays) -> bool:
    descriptors, positions = arrays
    return np.array_equal(store.read(name), descriptors) and np.array_equal(store.read(name, PLACES), positions)


# values


def test_a_store_holds_each_clips_trajectories_and_what_they_are_of(whole):
    _, annotation, store = opened(whole)
    assert sorted(store.videos) == sorted(names_of(annotation)) and not store.bad
    path = annotation.folder / CLIP
    frames = gray(path)
    assert store.rows(CLIP) > 20 and holds(store, CLIP, expected(frames)) and not store.damaged(store.videos)
    facts = {"frames": 24, "width": WIDTH, "height": HEIGHT, "fps": 25.0, "source_bytes": path.stat().st_size}
    assert {key: store.videos[CLIP][key] for key in facts} == facts
    assert store.manifest["opencv"] == cv2.__version__ and store.manifest["decoder"]
    assert any("ORB stand for those of SURF" in note for note in store.notes)


def test_a_clip_in_which_nothing_moves_has_no_rows(whole):
    _, _, store = opened(whole)
    assert store.rows(STILL) == 0 and store.read(STILL).shape[0] == store.read(STILL, PLACES).shape[0] == 0
    assert store.videos[STILL]["frames"] == 24


@pytest.mark.parametrize("level", [1, 2])
def test_a_level_of_a_slowed_clip_is_level_0_of_the_original(root, level):
    """Each frame stands level + 1 times; ends count the slowed clip's frames."""
    shutil.rmtree(root / "clips")
    for number in range(2):
        for side in ("train", "test"):
            draw_moving(root / f"clips/{side}/{'ab'[number]}/{side}{number}.avi", number, number, 24, repeat=level + 1)
    settings, annotation, _ = opened(root, f"trajectories.skips={level}")
    store = skipped_trajectory_store.ensure(settings, annotation)
    for number, video in enumerate(annotation.train):
        descriptors, positions = expected(gray(draw_moving(root / f"{number}.avi", number, number)), level)
        rows = store.read(video.name, PLACES)[:, -1] == level
        assert len(descriptors) > 20 and np.array_equal(store.read(video.name)[rows], descriptors)
        assert np.array_equal(store.read(video.name, PLACES)[rows], positions)


@pytest.mark.parametrize("height", [40, HEIGHT, 200])
def test_frames_higher_than_the_setting_are_brought_to_it_and_others_left(root, whole, height):
    settings, annotation, _ = opened(root, f"trajectories.height={height}")
    store = trajectory_store.ensure(settings, annotation)
    width = round(WIDTH * height / HEIGHT)
    frames = gray(annotation.folder / CLIP)
    if height < HEIGHT:
        frames = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames]
    facts = store.videos[CLIP]
    assert (facts["width"], facts["height"]) == frames[0].shape[::-1] and holds(store, CLIP, expected(frames))
    assert (contents(store) == contents(opened(whole)[2])) == (height >= HEIGHT)
    assert any(f"height of {height} pixels" in note for note in store.notes)


def test_gray_frames_are_those_of_the_video_squashed_to_four_to_three(root):
    settings, annotation, _ = opened(root)
    store = gray_store.ensure(settings, annotation)
    for name in (CLIP, STILL):
        small = [cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA) for frame in gray(annotation.folder / name)]
        assert np.array_equal(store.read(name), np.stack(small)) and store.rows(name) == 24


def test_a_stream_that_changes_its_size_is_brought_to_its_first_frames(root, monkeypatch):
    images = [np.full((60, 80, 3), 9, np.uint8), np.full((30, 44, 3), 9, np.uint8)]
    monkeypatch.setattr(store_maker, "read_frames", lambda path, kept: iter(images))
    facts: dict = {}
    found = list(store_maker.GrayFrames(root / "clips", keep=False).read(CLIP, facts))
    assert [frame.shape for frame in found] == [(60, 80)] * 2 and (facts["width"], facts["frames"]) == (80, 2)


# stopped, at once, replaced


@pytest.mark.counts("SIGKILLs")
@pytest.mark.skipif(sys.platform == "win32", reason="there are no process groups on Windows")
def test_killed_and_resumed_it_is_the_same_byte_for_byte(root, whole):
    folder = opened(root)[2].path

    def some() -> bool:
        return sum(path.read_bytes().count(b"\n") for path in folder.glob("journal-*.jsonl")) >= 2

    kill_when(some, "prepare.py", *words(root, "row=idt_fv"), cwd=root)
    kept = written(Store(folder))
    assert 2 <= len(kept) < 13
    script("prepare.py", *words(root, "row=idt_fv"), cwd=root)
    store, other = Store(folder), opened(whole)[2]
    assert contents(store) == contents(other) and not list(folder.rglob("*.part")) and not list(folder.glob("journal-*"))
    assert {name: written(store)[name] for name in kept} == kept
    assert store.fingerprint(store.videos) == other.fingerprint(other.videos)


def test_two_commands_at_once_do_no_video_twice(root, whole):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": root}
    line = [sys.executable, str(Path(prepare.__file__)), *words(root, "row=idt_fv")]
    both = [subprocess.Popen(line, **pipes) for _ in range(2)]
    printed = [process.communicate(timeout=PATIENCE)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert "".join(printed).count("tracking in 13 videos: 100%") == 1
    assert contents(opened(root)[2]) == contents(opened(whole)[2])


@pytest.mark.parametrize(("held", "part"), [(".lock", "1/2"), (".lock", None), (".lock-2-of-2", None), (".lock-2-of-2", "2/2")])
def test_a_call_for_all_waits_for_shares_and_they_for_it(root, held, part):
    """What others are writing stays."""
    folder = opened(root)[2].path
    folder.mkdir(parents=True)
    unfinished = folder / "videos" / "other.npy.1.part"
    unfinished.parent.mkdir()
    unfinished.touch()
    with locked(folder / held):
        process = start("prepare.py", *words(root, "row=idt_fv", *([f"part={part}"] if part else [])), cwd=root)
        wait_for(lambda: "waiting for it" in (root / "output.txt").read_text(), process, root / "output.txt")
        assert unfinished.exists() and not Store(folder).exists()
    assert process.wait(PATIENCE) == 0
    assert unfinished.exists() == (part is not None)
    assert len(Store(folder).videos) == {None: 13, "1/2": 7, "2/2": 6}[part]


def test_a_share_does_not_wait_for_another(root):
    folder = opened(root)[2].path
    folder.mkdir(parents=True)
    with locked(folder / ".lock-2-of-2"):
        script("prepare.py", *words(root, "row=idt_fv", "part=1/2"), cwd=root)
    assert len(Store(folder).videos) == 7


def test_a_replaced_video_is_tracked_again_and_no_other(whole, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(whole, root)
    settings, annotation, store = opened(root)
    before = written(store)
    draw_moving(annotation.folder / CLIP, 77, 1, frames=20)
    store = trajectory_store.ensure(settings, annotation)
    assert {name for name, time in written(store).items() if time != before[name]} == {CLIP}
    assert holds(store, CLIP, expected(gray(annotation.folder / CLIP))) and store.videos[CLIP]["frames"] == 20


# bad videos and refusals


@pytest.mark.counts("bad videos")
def test_a_broken_video_is_bad_and_left_out_where_asked(root):
    (root / "clips" / CLIP).write_bytes(b"no video")
    settings, annotation, _ = opened(root)
    store = trajectory_store.ensure(settings, annotation)
    assert list(store.bad) == [CLIP] and len(store.videos) == 12
    with pytest.raises(DataError, match=rf"1 videos do not decode.*{CLIP}"):
        usable(annotation, store, skip_bad=False)
    assert CLIP not in names_of(usable(annotation, store, skip_bad=True))


@pytest.mark.counts("bad videos")
def test_of_a_damaged_video_what_decodes_is_kept_where_asked(root):
    path = root / "clips" / CLIP
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    settings, annotation, _ = opened(root, "trajectories.workers=1")
    store = trajectory_store.ensure(settings, annotation)
    assert "data.damaged=keep" in store.bad[CLIP]
    kept: list[str] = []
    frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in read_frames(path, kept=kept)]
    with pytest.raises(VideoError):
        gray(path)
    settings, annotation, _ = opened(root, "trajectories.workers=1", "data.damaged=keep")
    store = trajectory_store.ensure(settings, annotation)
    assert not store.bad and store.damaged_files == {CLIP: kept[0]} and holds(store, CLIP, expected(frames))
    assert store.videos[CLIP]["frames"] == len(frames) < 24


@pytest.mark.counts("bad settings")
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["trajectories.length=7"], "trajectories.length=7: .*take a multiple of 3"),
        (["part=3/2"], "part=3/2: .*such as 3/16"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_written(root, more, says, capsys):
    with pytest.raises(SystemExit) as stop:
        prepare.main(words(root, "row=idt_fv", *more))
    error = capsys.readouterr().err
    assert stop.value.code == 1 and re.search(says, error) and "Traceback" not in error
    assert not (root / "features").exists()


@pytest.mark.counts("missing libraries")
@pytest.mark.parametrize("row", ["idt_fv", "mifs", "dl_sfa"])
def test_without_opencv_the_extra_is_named(root, monkeypatch, capsys, row):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SystemExit) as stop:
        prepare.main(words(root, f"row={row}"))
    assert stop.value.code == 1 and "pip install -e '.[systems]'" in capsys.readouterr().err
    assert not list(root.glob("features/**/manifest.json"))


def test_a_store_of_other_trajectories_is_refused_by_what_differs(whole):
    settings, annotation, _ = opened(whole, "trajectories.scales=2", "trajectories.length=9")
    with pytest.raises(DataError, match="length is 6, the configuration asks for 9.*scales is 1, .*asks for 2"):
        trajectory_store.ensure(settings, annotation)


def test_as_many_processes_work_as_a_slurm_task_has_cores(root, monkeypatch, on_slurm):
    asked = []
    monkeypatch.setattr(store_maker, "fill", lambda store, sizes, task, processes, *_: asked.append(processes))
    settings, annotation, _ = opened(root, "trajectories.workers=null")
    on_slurm(64, SLURM_PROCID="0", SLURM_CPUS_PER_TASK="6")
    trajectory_store.ensure(settings, annotation)
    assert asked == [6]


def test_a_full_disk_is_said_with_what_to_do(root, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_maker, "fill", full)
    settings, annotation, _ = opened(root)
    with pytest.raises(DataError, match=r"cannot write trajectories to .*No space left.*make room or set paths\.features"):
        trajectory_store.ensure(settings, annotation)
