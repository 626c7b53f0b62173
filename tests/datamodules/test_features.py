"""The feature store: what is written is read, what is unfinished or damaged is told."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.features import FeatureSpec, FeatureStore, FeatureStoreError
from datamodules.files import write_atomically
from datamodules.manifest import FORMAT

SPEC = FeatureSpec(backbone="googlenet", weights="random:0", layer=None, size=224)
GRID, CHANNELS = (2, 3), 4
ODD_NAME = 'run/🎬 "q" \\ 手!(#)[x]&+;~@.avi'


def cubes(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, GRID[0] * GRID[1], CHANNELS)).astype(np.float32)


def write(store: FeatureStore, name: str, frames: int = 5, seed: int = 0, rank: int = 0) -> np.ndarray:
    features = cubes(frames, seed)
    writer = store.writer(name, rank)
    writer.append(features)
    writer.close(fps=30.0, width=64, height=48, declared_frames=frames)
    return features.astype(np.float16)


def pooled(half: np.ndarray) -> np.ndarray:
    """(F, 2, D) mean and maximum of (F, K, D) cubes over locations, from what half precision left of them."""
    exact = half.astype(np.float64)
    return np.stack([exact.mean(axis=1), exact.max(axis=1)], axis=1).astype(np.float32)


def file_of(store: FeatureStore, kind: str, name: str) -> Path:
    return {"cubes": store.file, "pooled": store.pooled_file}[kind](name)


def read_of(store: FeatureStore, kind: str, name: str) -> np.ndarray:
    return {"cubes": store.read, "pooled": store.pooled}[kind](name)


both = pytest.mark.parametrize("kind", ["cubes", "pooled"])


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "store")
    store.create(SPEC, GRID, CHANNELS, {"notes": ["a note"]})
    return store


# writing and reading


@pytest.mark.parametrize("pieces", [[1], [7], [3, 1, 3], [1] * 5])
def test_features_are_read_as_written_in_half_precision(store, pieces):
    features = cubes(sum(pieces))
    writer = store.writer("run/a.avi")
    for part in np.split(features, np.cumsum(pieces)[:-1]):
        writer.append(part)
    writer.close(fps=29.97, width=320, height=240, declared_frames=9)
    again = FeatureStore(store.path)
    assert np.array_equal(again.read("run/a.avi"), features.astype(np.float16))
    assert again.read("run/a.avi").dtype == np.float16
    assert again.frames("run/a.avi") == sum(pieces)
    entry = again.videos["run/a.avi"]
    assert (entry["fps"], entry["width"], entry["height"], entry["declared_frames"]) == (29.97, 320, 240, 9)


@pytest.mark.parametrize("pieces", [[1], [7], [3, 1, 3], [1] * 5])
def test_pooled_features_are_mean_and_maximum_of_the_cubes_in_half_precision(store, pieces):
    features = cubes(sum(pieces), seed=1) * 30
    writer = store.writer("run/a.avi")
    for part in np.split(features, np.cumsum(pieces)[:-1]):
        writer.append(part)
    assert writer.rows == sum(pieces)
    writer.close()
    found = FeatureStore(store.path).pooled("run/a.avi")
    half = features.astype(np.float16)
    assert found.shape == (sum(pieces), 2, CHANNELS) and found.dtype == np.float32
    assert np.allclose(found[:, 0], pooled(half)[:, 0], rtol=1e-6, atol=1e-6)
    assert np.array_equal(found[:, 1], half.max(axis=1).astype(np.float32)), "a maximum is one of the values"


def test_the_mean_of_the_largest_values_of_half_precision_is_finite(store):
    writer = store.writer("a.avi")
    writer.append(np.full((2, GRID[0] * GRID[1], CHANNELS), 65504.0))
    writer.close()
    assert (store.pooled("a.avi") == 65504.0).all()


@both
def test_features_are_memory_mapped_and_cannot_be_changed_by_readers(store, kind):
    write(store, "a.avi")
    features = read_of(store, kind, "a.avi")
    assert isinstance(features, np.memmap) and not features.flags.writeable


def test_a_store_is_two_plain_npy_files_a_video(store):
    written = write(store, ODD_NAME)
    assert np.array_equal(np.load(store.path / "videos" / f"{ODD_NAME}.npy"), written)
    assert np.allclose(np.load(store.path / "pooled" / f"{ODD_NAME}.npy"), pooled(written), atol=1e-6)


@pytest.mark.parametrize("name", [ODD_NAME, "-v.avi", "two\nlines.avi", "a\u2028b.avi", "a\x85b.avi", "deep/er/still/a.avi"])
def test_odd_names_survive_journal_and_manifest(store, name):
    written = write(store, name)
    journalled = FeatureStore(store.path)
    assert np.array_equal(journalled.read(name), written)
    assert np.allclose(journalled.pooled(name), pooled(written), atol=1e-6)
    journalled.merge()
    assert list(FeatureStore(store.path).videos) == [name]


def test_nothing_is_seen_of_a_video_before_it_is_closed(store):
    writer = store.writer("a.avi")
    writer.append(cubes(3))
    assert not store.file("a.avi").exists() and not store.pooled_file("a.avi").exists()
    assert FeatureStore(store.path).missing(["a.avi"]) == ["a.avi"]
    writer.close()
    assert store.file("a.avi").exists() and store.pooled_file("a.avi").exists()
    assert FeatureStore(store.path).missing(["a.avi"]) == []


def test_a_discarded_video_leaves_nothing(store):
    writer = store.writer("a.avi")
    writer.append(cubes(3))
    writer.discard()
    assert [path for path in store.path.rglob("*") if path.is_file()] == [store.path / "manifest.json"]
    assert FeatureStore(store.path).missing(["a.avi"]) == ["a.avi"]


@pytest.mark.parametrize("shape", [(2, 5, CHANNELS), (2, 6, CHANNELS + 1), (6, CHANNELS), (2, 2, 3, CHANNELS)])
def test_features_of_another_shape_are_refused(store, shape):
    writer = store.writer("a.avi")
    with pytest.raises(FeatureStoreError, match=r"a\.avi: features of shape"):
        writer.append(np.zeros(shape))
    writer.discard()


@pytest.mark.counts("values that are not finite")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 70000.0], ids=["nan", "inf", "-inf", "over half precision"])
def test_a_value_that_is_not_finite_in_half_precision_is_refused_and_its_frame_named(store, value):
    writer = store.writer("a.avi")
    writer.append(cubes(10))
    features = cubes(8)
    features[3, 2, 1] = features[6, 0, 0] = value
    with pytest.raises(FeatureStoreError, match=r"a\.avi: features of frame 13 are not finite"):
        writer.append(features)
    assert writer.rows == 10
    writer.discard()


def test_infinities_of_both_signs_in_a_frame_are_refused(store):
    writer = store.writer("a.avi")
    features = cubes(4)
    features[2, :2, 3] = np.inf, -np.inf
    with pytest.raises(FeatureStoreError, match=r"a\.avi: features of frame 2 are not finite"):
        writer.append(features)
    writer.discard()


# manifest and journals


def test_a_new_store_is_empty_and_says_so(tmp_path):
    store = FeatureStore(tmp_path / "none")
    assert not store.exists() and store.videos == {} and store.bad == {} and store.notes == []
    assert store.missing(["a"]) == ["a"] and not store.path.exists()
    with pytest.raises(FeatureStoreError, match=r"no feature store in .*none; python reproduce/prepare\.py"):
        store.require(SPEC)


def test_the_manifest_says_what_the_features_are(store):
    again = FeatureStore(store.path)
    assert again.exists() and (again.grid, again.channels, again.notes) == (GRID, CHANNELS, ["a note"])
    assert again.manifest["spec"] == SPEC.made_from and again.manifest["format"] == FORMAT
    again.require(SPEC)


@pytest.mark.parametrize(
    ("key", "value"), [("backbone", "resnet50"), ("weights", "random:1"), ("layer", "inception4e"), ("size", 112)]
)
def test_another_configuration_is_refused_and_the_differing_key_named(store, key, value):
    others = set(asdict(SPEC)) - {key}
    asked = replace(SPEC, **{key: value})
    for call in (lambda: store.require(asked), lambda: store.create(asked, GRID, CHANNELS, {})):
        with pytest.raises(FeatureStoreError) as error:
            call()
        message = str(error.value)
        assert f"{key} is {asdict(SPEC)[key]!r}, the configuration asks for {value!r}" in message
        assert str(store.path.resolve()) in message
        assert not [other for other in others if f"{other} is " in message]


@pytest.mark.parametrize(("grid", "channels"), [((3, 2), CHANNELS), (GRID, 8)])
def test_another_map_is_refused(store, grid, channels):
    with pytest.raises(FeatureStoreError, match="holds maps of"):
        store.create(SPEC, grid, channels, {})


def test_creating_the_same_store_again_keeps_its_videos(store):
    write(store, "a.avi")
    store.merge()
    again = FeatureStore(store.path)
    again.create(SPEC, GRID, CHANNELS, {"notes": ["other"]})
    assert again.notes == ["a note"] and FeatureStore(store.path).missing(["a.avi"]) == []


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"spec": {}}', '"text"', "\x00\x01"])
def test_a_damaged_manifest_is_named(store, text):
    (store.path / "manifest.json").write_text(text)
    with pytest.raises(FeatureStoreError) as error:
        FeatureStore(store.path)
    assert str(store.path / "manifest.json") in str(error.value)


@pytest.mark.parametrize("other", [1, FORMAT + 1])
def test_a_manifest_of_another_format_is_refused(store, other):
    manifest = json.loads((store.path / "manifest.json").read_text())
    (store.path / "manifest.json").write_text(json.dumps(manifest | {"format": other}))
    with pytest.raises(FeatureStoreError, match=f"format {other}, this version reads {FORMAT}. Extract again"):
        FeatureStore(store.path)


def test_journals_of_all_ranks_merge_into_the_manifest_and_go(store):
    written = {name: write(FeatureStore(store.path), name, seed=rank, rank=rank) for rank, name in enumerate("abc")}
    FeatureStore(store.path).enter_bad("d", "no frame", rank=1)
    assert len(list(store.path.glob("journal-*.jsonl"))) == 3
    FeatureStore(store.path).merge()
    assert list(store.path.glob("journal-*.jsonl")) == []
    merged = FeatureStore(store.path)
    assert list(merged.videos) == ["a", "b", "c"] and merged.bad == {"d": "no frame"}
    assert all(np.array_equal(merged.read(name), features) for name, features in written.items())
    assert merged.missing(["a", "b", "c", "d", "e"]) == ["e"]


def test_merging_again_changes_nothing(store):
    write(store, "a")
    store.merge()
    before = (store.path / "manifest.json").read_bytes()
    FeatureStore(store.path).merge()
    assert (store.path / "manifest.json").read_bytes() == before


def cut_last_line(store: FeatureStore, keep: int) -> None:
    """What a process leaves that was killed while it wrote a line."""
    journal = store.path / "journal-0.jsonl"
    *whole, last = journal.read_bytes().splitlines(keepends=True)
    assert 0 < keep < len(last)
    journal.write_bytes(b"".join(whole) + last[:keep])


@pytest.mark.parametrize("keep", [1, 5, 20, 60])
def test_a_journal_with_a_cut_last_line_loses_that_video_alone(store, keep):
    for name in ("a", "b", "c"):
        write(store, name)
    cut_last_line(store, keep)
    again = FeatureStore(store.path)
    assert again.missing(["a", "b", "c"]) == ["c"]
    again.merge()
    assert FeatureStore(store.path).missing(["a", "b", "c"]) == ["c"]


@pytest.mark.parametrize("keep", [12, 13])  # after one byte of three, and after two
def test_a_journal_cut_within_a_character_of_a_name_can_still_be_read(store, keep):
    write(store, "a")
    write(store, "手" * 8)
    cut_last_line(store, keep)
    assert FeatureStore(store.path).missing(["a"]) == []


def test_a_video_entered_after_a_cut_line_is_not_lost(store):
    write(store, "a")
    write(store, "b")
    cut_last_line(store, 20)
    resumed = FeatureStore(store.path)
    for name in resumed.missing(["a", "b", "c"]):
        write(resumed, name)
    resumed.merge()
    assert FeatureStore(store.path).missing(["a", "b", "c"]) == []


def test_an_extraction_resumes_with_what_is_missing(store):
    names = [f"{number}.avi" for number in range(6)]
    for name in names[:2]:
        write(store, name)
    store.enter_bad(names[2], "no frame")
    resumed = FeatureStore(store.path)
    assert resumed.missing(names) == names[3:]
    for name in resumed.missing(names):
        write(resumed, name)
    resumed.merge()
    assert FeatureStore(store.path).missing(names) == []
    assert list(FeatureStore(store.path).videos) == [names[0], names[1], *names[3:]]


def test_a_bad_video_that_is_written_later_is_bad_no_more_and_the_other_way_round(store):
    store.enter_bad("a", "no frame")
    write(store, "a")
    write(store, "b")
    store.enter_bad("b", "was replaced")
    for found in (store, FeatureStore(store.path)):
        assert list(found.videos) == ["a"] and list(found.bad) == ["b"]


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "left in a journal"])
def test_bad_videos_that_were_forgotten_are_missing_again(store, merged):
    write(store, "a")
    store.enter_bad("b", "no frame")
    if merged:
        store.merge()
    FeatureStore(store.path).forget_bad()
    again = FeatureStore(store.path)
    assert again.bad == {} and again.missing(["a", "b"]) == ["b"]


def test_a_failed_write_leaves_the_old_text_and_no_part(tmp_path):
    path = tmp_path / "sub" / "file.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    write_atomically(path, "new")
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 2)), max_size=12))
@settings(deadline=None, max_examples=40)
def test_any_order_of_entries_and_merges_ends_with_the_last_word_on_each_video(tmp_path_factory, steps):
    store = FeatureStore(tmp_path_factory.mktemp("any"))
    store.create(SPEC, GRID, CHANNELS, {})
    last = {}
    for name, good, merge in steps:
        write(store, name, frames=1) if good else store.enter_bad(name, "why")
        last[name] = good
        if merge == 0:
            store.merge()
    again = FeatureStore(store.path)
    assert dict.fromkeys(again.videos, True) | dict.fromkeys(again.bad, False) == last
    assert again.missing("abcd") == [name for name in "abcd" if name not in last]


# damaged files


@pytest.mark.counts("damaged features")
@both
@pytest.mark.parametrize("keep", [0, 3, 60, -1])
def test_a_truncated_file_is_missing_and_cannot_be_read(store, kind, keep):
    write(store, "a.avi")
    path = file_of(store, kind, "a.avi")
    path.write_bytes(path.read_bytes()[:keep])
    again = FeatureStore(store.path)
    assert again.missing(["a.avi"]) == ["a.avi"]
    with pytest.raises(FeatureStoreError) as error:
        read_of(again, kind, "a.avi")
    assert str(path) in str(error.value) and "prepare.py" in str(error.value)


@pytest.mark.counts("damaged features")
@both
def test_a_removed_file_is_missing_and_cannot_be_read(store, kind):
    write(store, "a.avi")
    file_of(store, kind, "a.avi").unlink()
    assert store.missing(["a.avi"]) == ["a.avi"]
    with pytest.raises(FeatureStoreError, match=r"a\.avi\.npy: not readable"):
        read_of(store, kind, "a.avi")


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize(
    ("kind", "other"),
    [
        pytest.param("cubes", np.zeros((5, 6, 4), dtype=np.float32), id="float32"),
        pytest.param("cubes", np.zeros((5, 6, 4), dtype=">f2"), id="big-endian"),
        pytest.param("cubes", np.zeros((4, 6, 4), dtype=np.float16), id="one frame less"),
        pytest.param("cubes", np.zeros((5, 4, 6), dtype=np.float16), id="axes swapped"),
        pytest.param("cubes", np.zeros((5, 24), dtype=np.float16), id="flat"),
        pytest.param("pooled", np.zeros((5, 2, 4), dtype=np.float16), id="pooled float16"),
        pytest.param("pooled", np.zeros((5, 4, 2), dtype=np.float32), id="pooled axes swapped"),
        pytest.param("pooled", np.zeros((6, 2, 4), dtype=np.float32), id="pooled one frame more"),
    ],
)
def test_a_file_of_another_dtype_or_shape_cannot_be_read(store, kind, other):
    write(store, "a.avi", frames=5)
    path = file_of(store, kind, "a.avi")
    np.save(path, other)
    with pytest.raises(FeatureStoreError, match="the manifest says") as error:
        read_of(store, kind, "a.avi")
    assert str(path) in str(error.value)


@pytest.mark.counts("files with code in them")
def test_pickled_objects_are_refused_and_never_run(store, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    write(store, "a.avi")
    np.save(store.file("a.avi"), np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(FeatureStoreError, match=r"a\.avi\.npy: not readable"):
        store.read("a.avi")
    assert not (tmp_path / "sprung").exists()
