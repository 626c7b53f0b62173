"""Generated damage to every file of results that tables and reports read: refused by name, or read as what it may be."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fuzzing import Fed, damage, damaged, feeding, junk, tries
from hypothesis import given
from hypothesis import strategies as st
from runfolders import annotation, write_run

from datamodules.reading import csv_text
from lightning_modules.measures import NAMES
from reproduce.common.files import write_rows
from reproduce.evaluation.paper_tables import runs_of, table1
from reproduce.evaluation.table_files import NUMERIC, Line, read_csv, read_record
from reproduce.evaluation.writers import write_table
from reproduce.experiments.attention_files import Recording, read_attended, read_recordings, write_attended, write_recordings
from reproduce.experiments.folder import ABOUT, RunFolder
from reproduce.experiments.history import History
from reproduce.experiments.predictions import Predictions
from reproduce.experiments.scheduler import Point
from reproduce.visual.interventions import Outcome, mistaken, read_outcomes

fed = pytest.fixture(feeding)
DATA = annotation("ucf11", ["biking", "diving", "golf"], 4)
VIDEOS = [video.name for video in DATA.test]
ROWS = ("avg_pool_lstm", "soft_attention_1")


class Results:
    """Files of results: where each lies and what it holds, by its name."""

    def __init__(self, paths: list[Path]) -> None:
        self.files = {path.name: (path, path.read_bytes()) for path in paths}


def as_loaded(folder: RunFolder) -> Any:
    """What is asked of a run in order to read its outcomes; its network is not."""
    return SimpleNamespace(folder=folder, multi_label=False, classes=DATA.classes)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    root = tmp_path_factory.mktemp("results")
    points = []
    for row in ROWS:
        words = ["data.name=ucf11", "backbone.name=googlenet", f"row={row}"]
        points.append(Point("ucf11", row, 1, words, RunFolder(write_run(root / "runs", DATA, words, 2.0, 3))))
    write_table(table1(["ucf11"], ROWS, runs_of(points)), root)
    folder = points[1].folder
    ones = [[1] * len(NAMES)] * len(VIDEOS)
    write_attended(folder.attended, VIDEOS, NAMES, ones, ones)
    frames, maps = np.arange(5, dtype=np.int32), np.full((5, 2, 2), 0.25, np.float16)
    write_recordings(folder, [Recording(video, f"{n}", 5, frames, maps, maps[:, 0]) for n, video in enumerate(VIDEOS[:2])])
    wrong = mistaken(as_loaded(folder), DATA)
    rows = [
        astuple(Outcome(v.name, v.group.split()[0], "golf", "golf", True, 4, 0.5, 0.1, "golf", False, 9, 1, 9)) for v in wrong
    ]
    assert len(rows) >= 2
    write_rows(root / "correction.csv", [[field.name for field in fields(Outcome)], *rows])
    files = [root / name for name in ("table1.csv", "table1.json", "correction.csv")]
    files += [folder.attended, folder.history, folder.recordings]
    files += [folder.path / name for name in ("predictions.csv", "run.json", "metrics.json")]
    return Results(files)


# what each reader may return


def sound_predictions(found: Predictions) -> None:
    assert len(found.videos) == len(set(found.videos)) == len(VIDEOS)
    assert found.scores.shape == found.target.shape == (len(VIDEOS), 3) and np.isfinite(found.scores).all()
    assert (found.target.sum(axis=1) == 1).all()


def any_predictions(found: Predictions) -> None:
    assert len(found.lines) == len(found.videos) == len(found.predicted)
    assert found.scores.shape == found.target.shape == (len(found.videos), len(found.classes))


def attended(found: tuple[dict[str, int], dict[str, float]]) -> None:
    assert all(map(math.isfinite, found[1].values()))


def epochs(found: list[dict[str, Any]]) -> None:
    for row in found:
        assert type(row["stage"]) is str and type(row["epoch"]) is int
        assert all(math.isfinite(value) for key, value in row.items() if key != "stage")


def about(found: dict[str, Any]) -> None:
    assert all(type(found[key]) is kind for key, kind in ABOUT.items())
    assert all(isinstance(text, str) for text in [*found["notes"], *found["groups"].values()])


def figures(found: dict[str, Any]) -> None:
    assert all(math.isfinite(value) for value in found.values())
    assert all(0 <= found[key] <= 1 for key in ("test/accuracy", "test/mAP") if key in found)


def lines(found: list[Line]) -> None:
    assert all(math.isfinite(number) for line in found for number in line.numbers(*NUMERIC))


def record(found: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    assert all(type(run["seed"]) is int and type(run["folder"]) is str for runs in found.values() for run in runs)


def recordings(found: list[Recording]) -> None:
    for one in found:
        assert len(one.frames) == len(one.probabilities) > 0 and np.isfinite(one.probabilities).all()
        assert one.frames.dtype.kind in "iu" and (one.attention is None or one.attention.shape[0] == len(one.frames))


def outcomes(found: list[Outcome]) -> None:
    assert all(math.isfinite(one.turned) and math.isfinite(one.moved) for one in found)
    assert all(min(one.steps, one.control_steps) >= 0 for one in found)


def corrected(path: Path) -> list[Outcome]:
    (folder,) = path.parent.glob("runs/*/soft_attention_1-*")
    return read_outcomes(path, as_loaded(RunFolder(folder)), DATA)


READERS: dict[str, tuple[str, Callable[[Path], Any], Callable[[Any], None]]] = {
    "predictions.csv": ("predictions.csv", lambda path: RunFolder(path.parent).predictions(), sound_predictions),
    "predictions.csv, to be recounted": (
        "predictions.csv",
        lambda path: RunFolder(path.parent).predictions(sound=False),
        any_predictions,
    ),
    "attention.csv": ("attention.csv", read_attended, attended),
    "history.csv": ("history.csv", lambda path: History(path).epochs(), epochs),
    "run.json": ("run.json", lambda path: RunFolder(path.parent).about(), about),
    "metrics.json": ("metrics.json", lambda path: RunFolder(path.parent).metrics(), figures),
    "table1.csv": ("table1.csv", read_csv, lines),
    "table1.json": ("table1.json", read_record, record),
    "watched.npz": ("watched.npz", lambda path: read_recordings(RunFolder(path.parent.parent)), recordings),
    "correction.csv": ("correction.csv", corrected, outcomes),
}


def feed(fed: Fed, results: Results, name: str, change: Callable[[bytes], bytes]) -> None:
    """Give a reader a file that was changed, and look at what it returns; then restore the file."""
    file, read, check = READERS[name]
    path, content = results.files[file]
    path.write_bytes(change(content))
    try:
        found = fed(name, read, path)
        if found is not None:
            check(found)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", READERS)
def test_what_was_written_is_read(results, name):
    file, read, check = READERS[name]
    check(read(results.files[file][0]))


@pytest.mark.parametrize("name", READERS)
@given(steps=damage)
@tries
def test_damaged_results_are_refused_by_name_or_read_as_what_they_may_be(results, fed, name, steps):
    feed(fed, results, name, lambda content: damaged(content, steps))


WORDS = [
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-1",
    "0.5",
    "",
    " ",
    "x",
    "9" * 30,
    "9" * 5000,
    "٣",
    "1_0",
    "0x1",
    "True",
    "null",
    "\udcff",
]


@pytest.mark.parametrize("name", [name for name in READERS if ".csv" in name])
@given(where=st.tuples(st.integers(0, 100), st.integers(0, 100)), word=st.sampled_from(WORDS) | st.text(max_size=5))
@tries
def test_a_table_with_one_value_replaced_is_refused_by_name_or_read_as_what_it_may_be(results, fed, name, where, word):
    def change(content: bytes) -> bytes:
        rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
        row = rows[where[0] % len(rows)]
        row[where[1] % len(row)] = word
        return csv_text(rows).encode(errors="surrogateescape")

    feed(fed, results, name, change)


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in JSON: what holds it, and its key or number there."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from places(node[key])


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(".json")])
@given(where=st.integers(0, 1000), value=junk | st.sampled_from([10**400, -1, 0.5, "\0", "a\ud800"]))
@tries
def test_json_with_one_value_replaced_is_refused_by_name_or_read_as_what_it_may_be(results, fed, name, where, value):
    def change(content: bytes) -> bytes:
        found = json.loads(content)
        every = list(places(found))
        node, key = every[where % len(every)]
        node[key] = value
        return json.dumps(found).encode()

    feed(fed, results, name, change)


def arrays(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content)) as found:
        return dict(found)


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nan": lambda array: np.full(array.shape, np.nan),
    "inf": lambda array: np.full(array.shape, np.inf),
    "negative": lambda array: np.full(array.shape, -1),
    "texts": lambda array: np.full(array.shape, "x"),
    "complex": lambda array: np.full(array.shape, 1j),
    "times": lambda array: np.full(array.shape, np.datetime64("2015-11-12")),
    "zeros": lambda array: np.zeros(array.shape),
    "empty": lambda array: array.reshape(-1)[:0],
    "shorter": lambda array: array[:-1] if array.ndim else array,
    "flat": lambda array: array.reshape(-1),
    "deeper": lambda array: array[None],
}


@given(where=st.integers(0, 1000), kind=st.sampled_from(sorted(KINDS)))
@tries
def test_a_recording_with_one_array_replaced_is_refused_by_name_or_read_as_what_it_may_be(results, fed, where, kind):
    def change(content: bytes) -> bytes:
        found, file = arrays(content), io.BytesIO()
        name = sorted(found)[where % len(found)]
        np.savez(file, **(found | {name: KINDS[kind](found[name])}))
        return file.getvalue()

    feed(fed, results, "watched.npz", change)
