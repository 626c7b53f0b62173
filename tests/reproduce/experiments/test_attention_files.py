"""attention.csv, and that a table's notes on attention follow from it; recordings, read as written."""

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest
from runfolders import annotation, write_run

from datamodules.videos import DataError
from lightning_modules.measures import NAMES
from reproduce import verify
from reproduce.evaluation.paper_tables import runs_of, table1
from reproduce.evaluation.writers import write_table
from reproduce.experiments.attention_files import (
    COUNTS,
    LONGEST,
    PICTURES,
    SIDE,
    Recording,
    counted_in,
    read_attended,
    read_recordings,
    read_sheet,
    recorded_frames,
    write_attended,
    write_recordings,
    write_sheet,
)
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.scheduler import Point

UCF, HMDB = (annotation(name, ["biking", "diving", "golf"], 6) for name in ("ucf11", "hmdb51"))
ROWS = ("avg_pool_lstm", "soft_attention_0", "soft_attention_1")
VIDEOS = [video.name for video in UCF.test]


def drawn(seed: int, boxed: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of every test video; every third has no box."""
    random = np.random.default_rng(seed)
    blocks = random.integers(1, 9, len(VIDEOS))
    steps: dict[str, np.ndarray] = {"blocks": blocks, "steps": 30 * blocks, "moves": 29 * blocks}
    steps["boxed_steps"] = np.where(np.arange(len(VIDEOS)) % 3 == 0, 0, 25 * blocks) * boxed
    counts = np.stack([steps[counted_in(name)] for name in NAMES], axis=1)
    return random.uniform(0.1, 2, counts.shape) * counts, counts


def write(path: Path, seed: int, boxed: bool = True) -> dict[str, float]:
    """Write a file; returns what ``metrics.json`` would say."""
    sums, counts = drawn(seed, boxed)
    write_attended(path, VIDEOS, NAMES, sums.tolist(), counts.tolist())
    return {f"test/{name}": sums[:, i].sum() / counts[:, i].sum() for i, name in enumerate(NAMES) if counts[:, i].any()}


@pytest.mark.parametrize("boxed", [True, False])
def test_the_videos_means_weighted_by_their_counts_are_the_sets(tmp_path, boxed):
    figures = write(tmp_path / "attention.csv", 1, boxed)
    videos, means = read_attended(tmp_path / "attention.csv")
    assert list(videos) == VIDEOS and list(videos.values()) == list(range(2, len(VIDEOS) + 2))
    assert {f"test/{name}": mean for name, mean in means.items()} == pytest.approx(figures, rel=1e-12)
    assert ("pointing_game" in means) == boxed
    with (tmp_path / "attention.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["box_area"] == "" for row in rows] == [not boxed or number % 3 == 0 for number in range(len(VIDEOS))]
    sums, counts = drawn(1, boxed)
    place = NAMES.index("attention_shift")
    assert int(rows[4]["moves"]) == counts[4, place]
    assert float(rows[4]["attention_shift"]) == pytest.approx(sums[4, place] / counts[4, place])


def test_names_of_any_kind_come_back(tmp_path):
    names = ['a,b "c".avi', "-x\ny.mpg", "<b>🤸</b>.avi", "a\rb.avi"]
    ones = [[1.0] * len(NAMES)] * len(names)
    write_attended(tmp_path / "a.csv", names, NAMES, ones, [[1] * len(NAMES)] * len(names))
    assert list(read_attended(tmp_path / "a.csv")[0]) == names


@pytest.mark.counts("damaged run folders")
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("video,blocks", "name,blocks", "line 1: expected video,blocks,steps,moves,boxed_steps and a column a figure"),
        ("box_area", "attention_shift", "line 1: expected"),
        ("diving/clip_00.avi", "biking/clip_00.avi", "line 8: malformed .*'biking/clip_00.avi' stands in line 2 already"),
        (r"(golf/clip_05.avi,)\d+", r"\g<1>-3", "line 19: malformed .*'-3' is no number of steps"),
        (r"(golf/clip_05.avi,(?:\d+,){4})[\d.]+", r"\g<1>nan", "line 19: malformed .*'nan' is not finite"),
        (r"(golf/clip_05.avi,(?:\d+,){4})[\d.]+", r"\g<1>high", "line 19: malformed .*'high'"),
        (r"golf/clip_05.avi,\d+,", "golf/clip_05.avi,", "line 19: malformed .*13 values instead of 14"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, old, new, says):
    path = tmp_path / "attention.csv"
    write(path, 1)
    change(path, old, new)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}, {says}"):
        read_attended(path)


def change(path: Path, old: str, new: str) -> None:
    text, number = re.subn(old, new, path.read_text(encoding="utf-8"), count=1)
    assert number == 1
    path.write_text(text, encoding="utf-8")


def test_a_trained_run_has_every_test_video_and_its_metrics_follow(trained):
    folder = RunFolder((trained / "run").resolve())
    videos, means = read_attended(folder.attended)
    metrics = folder.metrics() or {}
    said = {name: value for name, value in metrics.items() if name.startswith(("test/attention", "test/box", "test/point"))}
    assert list(videos) == list(folder.predictions().videos) and "test/attention_entropy" in said
    assert {f"test/{name}": mean for name, mean in means.items()} == pytest.approx(said, rel=1e-12)
    with folder.attended.open(newline="") as file:
        for row in csv.DictReader(file):
            blocks, steps, moves = (int(row[name]) for name in COUNTS[:3])
            assert steps == 30 * blocks and moves == 29 * blocks and blocks >= 1


# The notes under a table


@pytest.fixture
def made(tmp_path, capsys):
    """A table of two columns, three rows and two seeds each, a run of it, and a function that verifies it."""
    points = []
    for data in (UCF, HMDB):
        for row in ROWS:
            for seed in (1, 2):
                words = [f"data.name={data.data}", f"row={row}", f"seed={seed}"]
                folder = RunFolder(write_run(tmp_path / "runs", data, words, 2.0, 3))
                if row != "avg_pool_lstm":
                    folder.finish({**(folder.metrics() or {}), **write(folder.attended, len(points))})
                points.append(Point(data.data, row, seed, words, folder))
    write_table(table1(["ucf11", "hmdb51"], ROWS, runs_of(points)), tmp_path)

    def verified() -> tuple[int, str]:
        capsys.readouterr()
        try:
            verify.main([str(tmp_path)])
            status = 0
        except SystemExit as stop:
            status = int(str(stop.code))
        return status, capsys.readouterr().out

    return tmp_path, points[2].folder, verified


def test_notes_that_follow_from_the_videos_are_verified(made):
    root, folder, verified = made
    status, text = verified()
    assert status == 0 and "6 verified; notes: 10 verified" in text and "not verified" not in text
    means = [read_attended(run.attended)[1] for run in (folder, RunFolder(next(root.glob("runs/ucf11/soft_attention_0-*"))))]
    assert all(math.isfinite(mean["pointing_game"]) for mean in means)
    assert "UCF-11, attention (mass / pointing / entropy" in (root / "table1.md").read_text()


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        (
            "run/metrics.json",
            r'"test/attention_shift": \d',
            '"test/attention_shift": 7',
            "metrics.json: test/attention_shift is 7",
        ),
        ("run/attention.csv", r"(diving/clip_01.avi,(?:\d+,){4})[\d.]+", r"\g<1>1.5", "recomputed from attention.csv"),
        ("run/attention.csv", r"diving/clip_01.avi", "diving/clip_11.avi", "attention.csv: .*clip_.1.avi' is"),
        ("run/attention.csv", r"diving/clip_01.avi,.*\n", "", "attention.csv: 'diving/clip_01.avi' is"),
        ("run/attention.csv", r"video,", "film,", "attention.csv, line 1: expected video,blocks"),
        (
            "table1.md",
            r"(attention \(mass.*λ = 1: )\d+\.\d\d",
            r"\g<1>9.99",
            r"table1.md, line \d+ .*UCF-11, attention .*λ = 1: 9.99 .*λ = 1: .* expected",
        ),
        ("table1.md", r"\* UCF-11, attention .*\n", "", r"table1.md: lacks the line '\* UCF-11, attention \(mass"),
    ],
)
def test_what_was_changed_by_hand_is_named(made, name, old, new, says):
    root, folder, verified = made
    change(folder.path / name.removeprefix("run/") if name.startswith("run/") else root / name, old, new)
    status, text = verified()
    assert status == 1 and re.search(says, text), text


def test_a_run_without_the_file_is_said_to_be_unverified_in_this(made):
    _, folder, verified = made
    folder.attended.unlink()
    status, text = verified()
    assert status == 3 and "6 verified; notes: 9 verified" in text
    assert f"what it measured of its attention is not verified, attention.csv is missing: ucf11/{folder.path.name}" in text
    assert f"not verified: {made[0] / 'table1.md'}: the note on attention on ucf11: {folder.attended} is missing" in text


def test_notes_that_changed_places_are_named(made):
    root, _, verified = made
    text = (root / "table1.md").read_text(encoding="utf-8")
    first, second = re.findall(r"attention \(mass.*", text)
    (root / "table1.md").write_text(text.replace(first, "…").replace(second, first).replace("…", second), encoding="utf-8")
    status, said = verified()
    assert status == 1 and len(re.findall(r"table1.md, line \d+ \('\* (?:UCF-11|HMDB-51), attention .*expected", said)) == 2


# Recordings


EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize(("length", "count", "last"), [(1, 1, 0), (35, 35, 34), (60, 60, 59), (61, 60, 60), (10**6, 60, 899)])
def test_recorded_frames_are_evenly_spaced_and_bounded(length, count, last):
    frames = recorded_frames(length)
    assert len(frames) == count <= PICTURES and frames[0] == 0 and frames[-1] == last < LONGEST
    steps = np.diff(frames)
    assert len(steps) == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 60])
def test_sheets_and_recordings_are_read_as_written(tmp_path, count):
    folder = RunFolder(tmp_path)
    pictures = np.zeros((count, SIDE, SIDE, 3), dtype=np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None] * 4
    write_sheet(folder, "1-x", pictures)
    attention = np.random.default_rng(0).random((count, 2, 3)).astype(np.float16)
    blind = Recording("b", "2-b", 9, recorded_frames(count), None, np.ones((count, 4), np.float16))
    one = Recording(EVIL, "1-x", 900, recorded_frames(count), attention, np.ones((count, 4), np.float16), 24000 / 1001)
    write_recordings(folder, [one, blind])
    first, second = read_recordings(folder)
    assert (first.video, first.sheet, first.length) == (EVIL, "1-x", 900) and second.attention is None
    assert (first.rate, second.rate) == (24000 / 1001, None)  # as of an earlier version
    np.testing.assert_array_equal(first.attention, attention)
    means = read_sheet(folder, first).mean(axis=(1, 2, 3))
    assert np.abs(means - pictures[:, 0, 0, 0]).max() < 1.5  # 4 lie between two pictures


def test_no_recording_is_none_and_a_damaged_one_is_an_error_that_names_it(tmp_path, count):
    folder = RunFolder(tmp_path)
    assert read_recordings(folder) == []
    one = Recording("v", "1-v", 2, recorded_frames(2), None, np.ones((3, 4), np.float16))
    write_recordings(folder, [one])
    with pytest.raises(DataError, match=r"watched.npz: damaged \(v: not as many"):
        read_recordings(folder)
    with pytest.raises(DataError, match="1-v.webp: no pictures of v"):
        read_sheet(folder, one)
    for rate in (0.0, -25.0, float("nan"), float("inf")):
        write_recordings(folder, [Recording("v", "1-v", 2, recorded_frames(2), None, np.ones((2, 4), np.float16), rate)])
        with pytest.raises(DataError, match=r"watched.npz: damaged \(v: .* frames per second"):
            read_recordings(folder)
    for content in (b"", b"PK\x03\x04 and no more", folder.recordings.read_bytes()[:-40]):
        folder.recordings.write_bytes(content)
        with pytest.raises(DataError, match="watched.npz: damaged"):
            read_recordings(folder)
        count("damaged run folders", 1)
