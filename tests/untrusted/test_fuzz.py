"""Generated input for every parser: valid input comes back as it was, any other is a DataError or a correct result."""

import json
from pathlib import Path

import numpy as np
import pytest
from fuzzing import damage, damaged, feeding, junk, tries
from handmade import CHANNELS, GRID, features_of, fill, put
from hypothesis import given
from hypothesis import strategies as st

from datamodules import hmdb51, hollywood2, videofolder
from datamodules.boxes import COLUMNS, read_boxes
from datamodules.features import FeatureStore
from datamodules.reading import csv_text
from datamodules.viper import read_viper

fed = pytest.fixture(feeding)


# input


def usable(name: str) -> bool:
    return all(part not in ("", ".", "..") for part in name.split("/"))


letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0/")
names = st.text(letters, min_size=1, max_size=12).filter(usable)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def test_damage_does_what_it_says():
    assert damaged(b"abc", [("flip", 1, b"\1")]) == b"acc" and damaged(b"", [("flip", 3, b"\1")]) == b""


# split files and label files


clips = names.filter(lambda name: "\n" not in name and name.strip(" \t\r") == name)
entries = st.dictionaries(clips, st.sampled_from("012"), max_size=8)


def split_text(found: dict[str, str], end: str = " \n") -> bytes:
    return "".join(f"{clip} {side}{end}" for clip, side in found.items()).encode()


@given(entries, st.sampled_from([" \n", "\n", " \r\n", "\t\n"]))
@tries
def test_split_files_come_back(folder, fed, found, end):
    path = put(folder / "a_test_split1.txt", split_text(found, end))
    assert hmdb51.read_split_file(path) == [(clip, hmdb51.SIDES[side]) for clip, side in found.items()]
    fed.back["split files"] += 1


@given(entries, damage)
@tries
def test_damaged_split_files_are_refused_or_read(folder, fed, found, steps):
    path = put(folder / "b_test_split1.txt", damaged(split_text(found), steps))
    read = fed("split files", hmdb51.read_split_file, path)
    if read is not None:
        text = path.read_bytes().decode("utf-8-sig")
        assert len({clip for clip, _ in read}) == len(read)
        for clip, side in read:
            written = {None: "0", "train": "1", "test": "2"}[side]
            assert any(line.startswith(clip) and line.rstrip().endswith(written) for line in text.split("\n"))


labels = st.dictionaries(st.integers(1, 99_999), st.booleans(), max_size=8)


def label_text(found: dict[int, bool]) -> bytes:
    return "".join(f"actioncliptrain{number:05d}  {1 if present else -1}\n" for number, present in found.items()).encode()


@given(labels)
@tries
def test_label_files_come_back(folder, fed, found):
    path = put(folder / "Kiss_train.txt", label_text(found))
    assert hollywood2.read_label_file(path, "train") == {
        f"actioncliptrain{number:05d}": value for number, value in found.items()
    }
    fed.back["label files"] += 1


@given(labels, damage)
@tries
def test_damaged_label_files_are_refused_or_read(folder, fed, found, steps):
    path = put(folder / "Run_train.txt", damaged(label_text(found), steps))
    read = fed("label files", lambda path: hollywood2.read_label_file(path, "train"), path)
    for clip, present in (read or {}).items():
        assert clip.isascii() and len(clip) == 20
        assert any(
            line.split() == [clip, "1" if present else "-1"] for line in path.read_bytes().decode("utf-8-sig").split("\n")
        )


# videos.csv


classes = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
classes = classes.filter(lambda name: name == name.strip() and name)


@given(st.lists(names, min_size=1, max_size=6, unique_by=str.casefold), classes, st.randoms(use_true_random=False))
@tries
def test_lists_of_videos_come_back(folder, fed, listed, name, shuffle):
    rows = [[f"{number}-{video}", name if number % 2 else f"{name}2", f"g{number}"] for number, video in enumerate(listed)]
    order = shuffle.sample(range(3), 3)
    table = [["path", "class", "group"], *rows]
    path = put(folder / "mine/videos.csv", csv_text([[row[i] for i in order] for row in table]).encode())
    found, _ = videofolder._read_csv(path)
    assert [[row["path"], row["class"], row["group"]] for row in found] == rows
    fed.back["videos.csv"] += 1


@given(st.lists(names, min_size=1, max_size=6), damage)
@tries
def test_damaged_lists_of_videos_are_refused_or_read(folder, fed, listed, steps):
    rows = [[f"a/{number}-{video}", "ab"[number % 2], "train"] for number, video in enumerate(listed)]
    path = put(folder / "other/videos.csv", damaged(csv_text([["path", "class", "split"], *rows]).encode(), steps))
    for row in (fed("videos.csv", videofolder._read_csv, path) or [[]])[0]:
        assert row["path"] and not row["path"].startswith("/") and ".." not in row["path"].split("/")
        assert row["class"].strip() == row["class"] != "" and row.get("split", "train") in ("train", "test", "val")


@given(damage)
@tries
def test_a_damaged_folder_of_videos_is_refused_or_whole(folder, fed, steps):
    root = folder / "whole"
    rows = [["path", "class"], *([f"{name}/{n}.mp4", name] for name in ("run", "walk") for n in range(4))]
    for name, _ in rows[1:]:
        if not (root / name).exists():
            put(root / name, b"x")
    put(root / "videos.csv", damaged(csv_text(rows).encode(), steps))
    found = fed("videofolder", videofolder.read, root)
    if found is not None:
        assert all(found.path(video).is_file() for video in found.videos) and found.train and found.test
        assert not {video.name for video in found.train} & {video.name for video in found.test}


# boxes.csv


edges = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda pair: pair[0] < pair[1])
boxes = st.dictionaries(
    st.tuples(st.sampled_from(["a.avi", "b/c.avi", '"q",\n.avi']), st.integers(0, 40)), st.tuples(edges, edges), max_size=8
)


def box_text(found) -> bytes:
    rows = [[name, frame, x[0], y[0], x[1], y[1]] for (name, frame), (x, y) in found.items()]
    return csv_text([COLUMNS, *rows]).encode()


@given(boxes)
@tries
def test_boxes_come_back(folder, fed, found):
    read = read_boxes(put(folder / "boxes.csv", box_text(found)))
    assert sum(int((~np.isnan(frames[:, 0])).sum()) for frames in read.values()) == len(found)
    for (name, frame), (x, y) in found.items():
        assert read[name][frame].tolist() == [x[0], y[0], x[1], y[1]]
    fed.back["boxes.csv"] += 1


@given(boxes, damage)
@tries
def test_damaged_boxes_are_refused_or_inside_the_frame(folder, fed, found, steps):
    for frames in (
        fed("boxes.csv", read_boxes, put(folder / "more/boxes.csv", damaged(box_text(found), steps))) or {}
    ).values():
        known = frames[~np.isnan(frames).any(axis=1)]
        assert len(known) and ((known >= 0) & (known <= 1)).all()
        assert (known[:, 0] < known[:, 2]).all() and (known[:, 1] < known[:, 3]).all()


# .xgtf


people = st.lists(
    st.tuples(
        st.integers(1, 30), st.integers(0, 20), st.integers(0, 250), st.integers(0, 180), st.integers(1, 60), st.integers(1, 50)
    ),
    min_size=1,
    max_size=4,
)


def viper_text(found) -> bytes:
    objects = "".join(
        f'<object framespan="{first}:{first + more}" id="{number}" name="PERSON"><attribute name="Location">'
        f'<data:bbox framespan="{first}:{first + more}" height="{height}" width="{width}" x="{x}" y="{y}"/></attribute>'
        f'<attribute name="acts"><data:bvalue framespan="{first}:{first + more}" value="true"/></attribute></object>'
        for number, (first, more, x, y, width, height) in enumerate(found)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><viper xmlns="http://lamp.cfar.umd.edu/viper#" '
        'xmlns:data="http://lamp.cfar.umd.edu/viperdata#"><config/><data><sourcefile filename="v_shooting_01_01.mpg">'
        '<file id="0" name="Information"><attribute name="H-FRAME-SIZE"><data:dvalue value="320"/></attribute>'
        '<attribute name="V-FRAME-SIZE"><data:dvalue value="240"/></attribute></file>'
        f"{objects}</sourcefile></data></viper>"
    ).encode()


FRAMES = 50


@given(people)
@tries
def test_annotations_of_actors_come_back(folder, fed, found):
    read = read_viper(put(folder / "v_shooting_01_01.xgtf", viper_text(found)), FRAMES)
    assert read.shape[0] == FRAMES and read.shape[2] == 4
    for frame in range(FRAMES):
        wanted = [
            (x / 320, y / 240, (x + width) / 320, (y + height) / 240)
            for first, more, x, y, width, height in found
            if first - 1 <= frame <= first - 1 + more
        ]
        here = sorted(tuple(box) for box in read[frame] if not np.isnan(box).any())
        assert np.allclose(np.array(here).reshape(-1, 4), np.array(sorted(wanted)).reshape(-1, 4), atol=1e-9)
    fed.back[".xgtf"] += 1


@given(people, damage)
@tries
def test_damaged_annotations_of_actors_are_refused_or_inside_the_frame(folder, fed, found, steps):
    path = put(folder / "other/v_shooting_01_01.xgtf", damaged(viper_text(found), steps))
    read = fed(".xgtf", lambda path: read_viper(path, FRAMES), path)
    if read is not None:
        known = read[~np.isnan(read).any(axis=2)]
        assert read.shape[0] == FRAMES and ((known >= 0) & (known <= 1)).all()
        assert (known[:, 0] < known[:, 2]).all() and (known[:, 1] < known[:, 3]).all()


# the feature store


STORED = {"a.avi": 5, "b.avi": 5, "c.avi": 31}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[FeatureStore, dict[Path, bytes]]:
    store = fill(tmp_path_factory.mktemp("stores") / "store", STORED)
    return store, {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}


def use(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
    """All that a store holds and does not know to be damaged."""
    store = FeatureStore(path)
    if not store.exists():
        return None
    found = {}
    for name in STORED:
        if not store.missing([name]) and name not in store.bad:
            found[name] = (np.array(store.read(name)), np.array(store.pooled(name)))
            store.require_finite(name, found[name][0])
    return found


def restored(whole) -> FeatureStore:
    store, contents = whole
    for path, content in contents.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    return store


def assert_right(found: dict[str, tuple[np.ndarray, np.ndarray]] | None) -> None:
    for name, (cubes, pooled) in (found or {}).items():
        assert cubes.shape == (STORED[name], GRID[0] * GRID[1], CHANNELS) and pooled.shape == (STORED[name], 2, CHANNELS)
        assert np.array_equal(cubes, features_of(name, STORED[name]))


@given(damage)
@tries
def test_a_damaged_manifest_is_refused_or_gives_the_right_features(whole, fed, steps):
    store = restored(whole)
    path = store.path / "manifest.json"
    path.write_bytes(damaged(path.read_bytes(), steps))
    assert_right(fed("manifest.json", use, store.path))


@given(st.integers(0, 10_000), junk)
@tries
def test_a_manifest_with_one_value_replaced_is_refused_or_gives_the_right_features(whole, fed, where, value):
    store = restored(whole)
    path = store.path / "manifest.json"
    manifest = json.loads(path.read_text())
    places: list[tuple[dict, str]] = []
    waiting = [manifest]
    while waiting:
        node = waiting.pop()
        places += [(node, key) for key in node]
        waiting += [child for child in node.values() if isinstance(child, dict)]
    node, key = places[where % len(places)]
    node[key] = value
    path.write_text(json.dumps(manifest))
    assert_right(fed("manifest.json", use, store.path))


@given(st.lists(st.one_of(junk.map(json.dumps), st.text(max_size=20)), max_size=4))
@tries
def test_journals_of_anything_are_read(whole, count, lines):
    store = restored(whole)
    journal = store.path / "journal-0.jsonl"
    journal.write_bytes("\n".join(lines).encode("utf-8", "replace"))
    assert_right(use(store.path))
    count("journals, fuzzed", 1)
    journal.unlink()


@given(st.sampled_from(["videos/a.avi.npy", "pooled/a.avi.npy"]), st.integers(0, 127), st.binary(min_size=1, max_size=30))
@tries
def test_a_damaged_header_is_refused_or_gives_the_right_features(whole, fed, name, at, what):
    store = restored(whole)
    data = bytearray((store.path / name).read_bytes())
    data[at : at + len(what)] = what[: len(data) - at]
    (store.path / name).write_bytes(data)
    assert_right(fed(".npy headers", use, store.path))
