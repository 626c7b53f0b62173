"""What a feature store's manifest may say, by sizes worked out by hand."""

import json
import re

import pytest

from datamodules.manifest import FeatureStoreError, StoreSpec, problem, read_manifest, spec_of
from datamodules.reading import DataError

# Five frames of 6 locations and 4 channels: 5 · 6 · 4 numbers of two bytes are 240, 5 · 4 · 2 of four bytes 160; each file
# has a header of 128 bytes.
ENTRY = {"frames": 5, "bytes": 368, "pooled_bytes": 288}
FACTS = {"source_bytes": 1234, "crc32": 0, "pooled_crc32": 2**32 - 1, "ends_crc32": 7, "declared_frames": 6}
MANIFEST = {"format": 2, "spec": {"backbone": "googlenet"}, "grid": [2, 3], "channels": 4}


def cubes_of(locations: int, channels: int) -> StoreSpec:
    return spec_of(MANIFEST | {"grid": [1, locations], "channels": channels})


CUBES = cubes_of(6, 4)
ODD_NAMES = ["run/a \"b\" 'c'.avi", "two\nlines.avi", "🎬|<b>.avi", ""]


# a video's entry


def test_what_is_damaged_is_a_text():
    assert problem({**ENTRY, "damage": "0.8 s are missing after 1.6 s"}, CUBES) is None
    assert problem({**ENTRY, "damage": 8}, CUBES) == "damage is 8"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        FACTS,
        {"declared_frames": 0},
        {"fps": None, "width": None, "of a later version": [1]},
        {"bytes": 240 + 64, "pooled_bytes": 160 + 64},
        {"bytes": 240 + 4096, "pooled_bytes": 160 + 4096},
    ],
)
def test_an_entry_whose_sizes_follow_from_its_frames_is_right(changes):
    assert problem(ENTRY | changes, CUBES) is None


def test_one_frame_of_one_number_is_right_too():
    assert problem({"frames": 1, "bytes": 2 + 128, "pooled_bytes": 8 + 128}, cubes_of(1, 1)) is None


DRAWN = spec_of({**MANIFEST, "spec": {"blocks": "4 random blocks a train video"}})


def drawn_entry(frames: int, *starts: object) -> dict:
    header = 128
    return {"frames": frames, "bytes": frames * 48 + header, "pooled_bytes": frames * 32 + header, "starts": list(starts)}


@pytest.mark.parametrize("entry", [drawn_entry(60, 0, 7), drawn_entry(30, 0), drawn_entry(30, 8), drawn_entry(5, 0)])
def test_drawn_blocks_say_where_each_begins(entry):
    assert problem(entry, DRAWN) is None
    assert problem(entry, CUBES) == f"starts is {entry['starts']}, of {entry['frames']} frames"


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize(
    "starts", [None, "0", [], [7, 0], [3, 3], [0], [0, 1, 2], [0, -1], [0, 1.0], [0, True], [0, 10**10], [[0], [1]]]
)
def test_starts_that_cannot_be_are_named(starts):
    entry = {**drawn_entry(60), "starts": starts}
    assert problem(entry, DRAWN) == f"starts is {starts}, of 60 frames"
    assert problem(drawn_entry(5, 1), DRAWN) == "starts is [1], of 5 frames"
    del entry["starts"]
    assert problem(entry, DRAWN) == "starts is None, of 60 frames"


@pytest.mark.parametrize("entry", [None, [], "5 frames", 5, True])
def test_what_is_no_entry_says_nothing_of_its_video(entry):
    assert problem(entry, CUBES) == "no facts about it"


@pytest.mark.parametrize("key", ["frames", "bytes", "pooled_bytes"])
def test_a_number_that_lacks_or_cannot_be_is_named(key):
    for value in (None, 0, -5, 5.0, "5", True, [5], 2**60 + 1):
        assert problem({**ENTRY, key: value}, CUBES) == f"{key} is {value!r}"
    assert problem({name: value for name, value in ENTRY.items() if name != key}, CUBES) == f"{key} is None"


@pytest.mark.parametrize("key", ["source_bytes", "crc32", "pooled_crc32", "ends_crc32"])
def test_a_fact_that_need_not_be_there_must_be_right_where_it_is(key):
    for value in (None, -1, 1.0, "0", True, {}, 2**60 + 1):
        assert problem({**ENTRY, key: value}, CUBES) == f"{key} is {value!r}"


@pytest.mark.parametrize("value", [None, 5.0, "5", False])
def test_the_frames_that_a_file_declares_are_a_whole_number(value):
    assert problem({**ENTRY, "declared_frames": value}, CUBES) == f"declared_frames is {value!r}"


@pytest.mark.parametrize("header", [-64, 0, 1, 63, 127, 129, 4096 + 64, 10**9])
def test_a_file_of_another_size_than_its_frames_take_is_named(header):
    assert problem({**ENTRY, "bytes": 240 + header}, CUBES) == (f"5 frames take 240 bytes and a header, it says {240 + header}")
    assert problem({**ENTRY, "pooled_bytes": 160 + header}, CUBES) == (
        f"5 frames take 160 pooled_bytes and a header, it says {160 + header}"
    )


@pytest.mark.parametrize(
    ("locations", "channels", "says"),
    [
        (49, 4, "5 frames take 1960 bytes and a header, it says 368"),
        (6, 1024, "5 frames take 61440 bytes and a header, it says 368"),
        (4, 6, "5 frames take 240 pooled_bytes and a header, it says 288"),
    ],
)
def test_an_entry_of_another_map_is_not_right(locations, channels, says):
    assert problem(ENTRY, cubes_of(locations, channels)) == says


# a manifest


def written(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"notes": [], "videos": {}, "bad": {}},
        {"notes": ["a <b>|\n🎬"], "videos": dict.fromkeys(ODD_NAMES, ENTRY | FACTS), "bad": dict.fromkeys(ODD_NAMES, "")},
        {"spec": {}, "grid": [1, 100_000], "channels": 10_000_000, "dtype": "<f2", "decoder": None},
    ],
)
def test_a_manifest_is_returned_as_it_was_written(tmp_path, more):
    assert read_manifest(written(tmp_path, MANIFEST | more)) == MANIFEST | more


def test_a_manifest_with_a_byte_order_mark_is_read(tmp_path):
    assert read_manifest(written(tmp_path, "\ufeff" + json.dumps(MANIFEST))) == MANIFEST


NUMBERS = "'spec' and 'channels' must say what the features are"
SIDES = "'grid' must be its rows and columns"
VIDEOS = "'videos' and 'bad' must say something of each video by its name"


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": True}, "'format' is True"),
        ({"format": None}, "'format' is None"),
        ({"spec": "googlenet"}, NUMBERS),
        ({"channels": 0}, NUMBERS),
        ({"channels": 10_000_001}, NUMBERS),
        ({"channels": 4.0}, NUMBERS),
        ({"grid": [2, 3, 1]}, SIDES),
        ({"grid": [2, True]}, SIDES),
        ({"grid": [-2, -3]}, SIDES),
        ({"grid": [1, 100_001]}, SIDES),
        ({"grid": {"rows": 2, "columns": 3}}, SIDES),
        ({"notes": None}, "'notes' must be a list of texts"),
        ({"notes": ["a", 3]}, "'notes' must be a list of texts"),
        ({"videos": None}, VIDEOS),
        ({"bad": "all"}, VIDEOS),
        (
            {"videos": {"a": ENTRY, "b": {**ENTRY, "bytes": 369}}},
            "video 'b': 5 frames take 240 bytes and a header, it says 369",
        ),
        ({"bad": {"a": "no frame", "b": ["no frame"]}}, "bad video 'b': no reason"),
        *(({"videos": {name: None}}, f"video {name!r}: no facts about it") for name in ODD_NAMES),
        *(({"bad": {name: 3}}, f"bad video {name!r}: no reason") for name in ODD_NAMES),
    ],
)
def test_a_manifest_that_contradicts_itself_says_where_and_what_to_do(tmp_path, changes, says):
    path = written(tmp_path, MANIFEST | changes)
    with pytest.raises(FeatureStoreError) as error:
        read_manifest(path)
    assert str(error.value) == f"{path}: not a manifest of a feature store ({says}). Remove the folder and extract again"


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize("key", ["format", "spec", "grid", "channels"])
def test_a_manifest_that_lacks_what_the_features_are_is_none(tmp_path, key):
    path = written(tmp_path, {name: value for name, value in MANIFEST.items() if name != key})
    with pytest.raises(FeatureStoreError, match=re.escape(f"{path}: not a manifest of a feature store (") + f".*{key}"):
        read_manifest(path)


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize("other", [-1, 0, 1, 3, 10**30])
def test_another_format_is_told_from_damage_whatever_else_stands_there(tmp_path, other):
    path = written(tmp_path, {"format": other, "grid": "unknown", "videos": 7})
    with pytest.raises(FeatureStoreError) as error:
        read_manifest(path)
    assert str(error.value) == f"{path}: format {other}, this version reads 2. Extract again"


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"format":\n"\xff"}', "line 2: not UTF-8 (byte 0xff)"),
        (b'{"format": 2}\n\0', "line 2: holds a zero byte"),
        (b'{"format": 2,\n"spec": {}', "line 2 column 11"),
        (b'{"format": 2, "grid": [2, 3], "grid": [2, 3]}', "'grid' stands there twice"),
        (b"2", "no 'format'"),
    ],
)
def test_what_is_no_manifest_is_named_with_its_place_and_what_to_do(tmp_path, content, says):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(FeatureStoreError, match=re.escape(says)) as error:
        read_manifest(path)
    assert str(error.value).startswith(f"{path}: not a manifest of a feature store (")
    assert str(error.value).endswith("). Remove the folder and extract again")


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize("folder", [False, True], ids=["missing", "a folder"])
def test_a_manifest_that_cannot_be_read_is_an_error_of_the_data(tmp_path, folder):
    path = tmp_path / "manifest.json"
    if folder:
        path.mkdir()
    with pytest.raises(DataError, match=re.escape(f"{path}: cannot be read (")) as error:
        read_manifest(path)
    assert type(error.value) is FeatureStoreError and str(error.value).endswith("Remove the folder and extract again")
