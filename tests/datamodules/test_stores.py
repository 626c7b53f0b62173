"""Stores of every kind: written, killed, resumed, read, found damaged, told apart."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE
from handmade import put

from datamodules import videofolder
from datamodules.features import FeatureSpec, FeatureStore, FeatureStoreError, mean_and_max
from datamodules.manifest import ArraySpec, StoreSpec, described
from datamodules.stored_videos import replaced, to_extract, usable
from datamodules.stores import MANIFEST, Store

CUBES = FeatureSpec("googlenet", "random:0", None, 224)
SPECS = {
    "flow": StoreSpec("flow", (ArraySpec("flow", "|u1", (2, 3, 4)),), {"method": "dis", "side": 4}),
    "descriptors": StoreSpec(
        "descriptors", (ArraySpec("tracks", "<f2", (5,)), ArraySpec("positions", "<f4", (3,))), {"length": 15, "pca": None}
    ),
    "vectors": StoreSpec("vectors", (ArraySpec("vector", "<f4", (7,)),), {"coding": "fisher", "centres": 256}),
}
KINDS = ["cubes", *SPECS]
ROW = {"cubes": "frame", "flow": "field", "descriptors": "row", "vectors": "row"}
FLOATS = [("cubes", "cubes"), ("descriptors", "tracks"), ("descriptors", "positions"), ("vectors", "vector")]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_new_kind = pytest.mark.parametrize("kind", SPECS)


def open_store(path: Path, kind: str) -> Store:
    """A store of that kind, begun where it is not there yet."""
    if kind == "cubes":
        store = FeatureStore(path)
        store.create(CUBES, (2, 3), 4, {"decoder": "a decoder", "notes": ["a note"]})
        return store
    store = Store(path)
    store.begin(SPECS[kind], {"decoder": "a decoder", "notes": ["a note"]})
    return store


def given(kind: str, seed: int = 0, rows: int = 5) -> list[np.ndarray]:
    """What a writer is given of a video: some rows of each array that is not derived."""
    rows = 1 if kind == "vectors" else rows
    arrays = [ArraySpec("cubes", "<f2", (6, 4))] if kind == "cubes" else SPECS[kind].arrays
    generator = np.random.default_rng(seed)
    return [
        generator.integers(0, 256, (rows, *array.row_shape), dtype=np.uint8)
        if array.dtype == "|u1"
        else generator.normal(size=(rows, *array.row_shape)).astype(array.dtype)
        for array in arrays
    ]


def write(store: Store, kind: str, name: str, seed: int = 0, rows: int = 5, **facts) -> list[np.ndarray]:
    """A finished video, its rows written one at a time; returns all of its arrays."""
    arrays = given(kind, seed, rows)
    writer = store.writer(name)
    for row in range(len(arrays[0])):
        writer.append(*(values[row : row + 1] for values in arrays))
    writer.close(**facts)
    return [*arrays, mean_and_max(arrays[0])] if kind == "cubes" else arrays


def assert_holds(store: Store, name: str, written: list[np.ndarray]) -> None:
    assert [array.dtype for array in store.spec.arrays] == [values.dtype.str for values in written]
    for array, values in zip(store.spec.arrays, written, strict=True):
        found = store.read(name, array.name)
        assert isinstance(found, np.memmap) and not found.flags.writeable
        assert found.dtype == values.dtype and np.array_equal(found, values)
    assert np.array_equal(store.read(name), written[0]) and store.rows(name) == len(written[0])
    assert store.damaged([name]) == {}


# writing and reading


@each_kind
def test_a_video_is_read_as_it_was_written_from_the_journal_and_from_the_manifest(tmp_path, kind):
    store = open_store(tmp_path, kind)
    written = {name: write(store, kind, name, seed) for seed, name in enumerate(["run/a.avi", 'ü "q".avi'])}
    for again in (Store(tmp_path), store):
        for name, arrays in written.items():
            assert_holds(again, name, arrays)
        again.merge()
        assert list(tmp_path.glob("journal-*")) == [] and list(tmp_path.rglob("*.part")) == []
    assert Store(tmp_path).missing(written) == [] and Store(tmp_path).notes == ["a note"]


@each_kind
def test_the_first_array_lies_in_videos_and_every_other_in_a_folder_of_its_name(tmp_path, kind):
    store = open_store(tmp_path, kind)
    written = write(store, kind, "run/a.avi")
    folders = ["videos", *(array.name for array in store.spec.arrays[1:])]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(folders)
    for folder, values in zip(folders, written, strict=True):
        assert np.array_equal(np.load(tmp_path / folder / "run/a.avi.npy"), values)


def test_a_video_may_have_no_descriptor(tmp_path):
    store = open_store(tmp_path, "descriptors")
    store.writer("empty.avi").close(fps=25.0)
    writer = store.writer("also empty.avi")
    writer.append(*given("descriptors", rows=0))
    writer.close()
    store.merge()
    again = Store(tmp_path)
    for name in ("empty.avi", "also empty.avi"):
        assert again.missing([name]) == [] and again.rows(name) == 0 and again.damaged([name]) == {}
        assert [again.read(name, array).shape for array in ("tracks", "positions")] == [(0, 5), (0, 3)]
    assert again.fingerprint(["empty.avi"]) is not None


@pytest.mark.parametrize("kind", ["cubes", "flow", "vectors"])
def test_a_video_of_any_other_kind_has_a_row(tmp_path, kind):
    store = open_store(tmp_path, kind)
    writer = store.writer("a.avi")
    with pytest.raises(FeatureStoreError, match=rf"a\.avi: has no {ROW[kind]}"):
        writer.close()
    writer.discard()
    assert Store(tmp_path).missing(["a.avi"]) == ["a.avi"] and list(tmp_path.rglob("*.npy*")) == []


def test_a_video_has_one_vector(tmp_path):
    writer = open_store(tmp_path, "vectors").writer("a.avi")
    writer.append(*given("vectors"))
    writer.append(*given("vectors"))
    with pytest.raises(FeatureStoreError, match=r"a\.avi: has 2 rows, where one is expected"):
        writer.close()
    writer.discard()


def test_arrays_of_one_video_grow_together(tmp_path):
    writer = open_store(tmp_path, "descriptors").writer("a.avi")
    tracks, positions = given("descriptors")
    for pieces in ((tracks, positions[:4]), (tracks,), (tracks, positions, positions)):
        with pytest.raises(FeatureStoreError, match=r"a\.avi: pieces of \[5.*the store has 2 arrays of one length"):
            writer.append(*pieces)
    assert writer.rows == 0
    writer.discard()


@each_kind
def test_rows_of_another_shape_are_refused(tmp_path, kind):
    writer = open_store(tmp_path, kind).writer("a.avi")
    *rest, last = given(kind)
    for other in (last[..., :-1], last.reshape(len(last), -1)[..., None]):
        with pytest.raises(FeatureStoreError, match=r"a\.avi: features of shape .*, the store has"):
            writer.append(*rest, other)
    writer.discard()


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.int8])
def test_integers_are_not_cast_since_they_would_wrap_around(tmp_path, dtype):
    writer = open_store(tmp_path, "flow").writer("a.avi")
    with pytest.raises(FeatureStoreError, match=rf"a\.avi: features of {np.dtype(dtype)}, the store has uint8"):
        writer.append(given("flow")[0].astype(dtype))
    writer.discard()


@pytest.mark.counts("values that are not finite")
@pytest.mark.parametrize(("kind", "array"), FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300], ids=["nan", "inf", "-inf", "too large"])
def test_a_value_that_is_not_finite_is_refused_and_its_row_named(tmp_path, kind, array, value):
    store = open_store(tmp_path, kind)
    writer = store.writer("a.avi")
    arrays = [values.astype(np.float64) for values in given(kind, rows=70)]
    row = len(arrays[0]) - 1
    arrays[[one.name for one in store.spec.arrays].index(array)][row].flat[-1] = value
    with pytest.raises(
        FeatureStoreError, match=rf"a\.avi: features of {ROW[kind]} {row} are not finite in (half|single) precision"
    ):
        writer.append(*arrays)
    assert writer.rows == 0
    writer.discard()


# killed and resumed


@each_kind
def test_a_killed_writer_leaves_no_final_file_and_the_video_can_be_written_again(tmp_path, kind):
    write(open_store(tmp_path, kind), kind, "done.avi")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from datamodules.features import FeatureStore\n"
        "from datamodules.stores import Store\n"
        "store = (FeatureStore if sys.argv[2] == 'cubes' else Store)(Path(sys.argv[1]))\n"
        "given = [array for array in store.spec.arrays if array.name != 'pooled']\n"
        "store.writer('cut.avi').append(*(np.ones((5000, *array.row_shape), array.dtype) for array in given))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path), kind], env=environment, timeout=PATIENCE)
    assert run.returncode == -signal.SIGKILL
    again = open_store(tmp_path, kind)
    assert list(tmp_path.rglob("*.part")) and not again.file("cut.avi").exists()
    assert again.missing(["done.avi", "cut.avi"]) == ["cut.avi"]
    assert_holds(again, "cut.avi", write(again, kind, "cut.avi", seed=1))


@each_kind
@pytest.mark.parametrize("keep", [1, 30, -2])
def test_a_journal_that_lost_its_end_loses_that_video_alone(tmp_path, kind, keep):
    store = open_store(tmp_path, kind)
    written = {name: write(store, kind, name, seed) for seed, name in enumerate("abc")}
    journal = tmp_path / "journal-0.jsonl"
    *whole, last = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(whole) + last[:keep])
    resumed = open_store(tmp_path, kind)
    assert resumed.missing("abc") == ["c"]
    written["c"] = write(resumed, kind, "c", seed=2)
    resumed.merge()
    for name, arrays in written.items():
        assert_holds(Store(tmp_path), name, arrays)


@each_kind
def test_a_resumed_store_is_the_one_that_was_never_interrupted(tmp_path, kind):
    whole, resumed = open_store(tmp_path / "whole", kind), open_store(tmp_path / "resumed", kind)
    for seed, name in enumerate("abc"):
        write(whole, kind, name, seed)
    write(resumed, kind, "b", seed=1)
    resumed.writer("c").append(*given(kind))  # and never closed
    again = open_store(tmp_path / "resumed", kind)
    for name in again.missing("abc"):
        write(again, kind, name, seed="abc".index(name))
    assert again.fingerprint("abc") == whole.fingerprint("abc")
    for store in (again, whole):
        store.merge()
    assert (again.path / MANIFEST).read_bytes() == (whole.path / MANIFEST).read_bytes()


@each_kind
def test_bad_videos_are_entered_and_forgotten(tmp_path, kind):
    store = open_store(tmp_path, kind)
    write(store, kind, "a")
    store.enter_bad("b", "no frame", rank=1)
    assert Store(tmp_path).bad == {"b": "no frame"} and Store(tmp_path).missing("abc") == ["c"]
    Store(tmp_path).forget_bad()
    assert Store(tmp_path).bad == {} and Store(tmp_path).missing("abc") == ["b", "c"]


@each_kind
def test_an_annotation_is_usable_from_a_store_of_any_kind(tmp_path, kind):
    root = tmp_path / "mine"
    for name in ("run", "walk"):
        for number in range(4):
            put(root / f"{name}/{number}.mp4", f"{name} {number}")
    annotation, store = videofolder.read(root), open_store(tmp_path / "store", kind)
    assert to_extract(annotation, store) == [video.name for video in annotation.videos]
    with pytest.raises(FeatureStoreError, match=r"features of 8 of 8 videos are missing, 'run/0\.mp4' for one"):
        usable(annotation, store, skip_bad=False)
    for video in annotation.videos:
        write(store, kind, video.name, source_bytes=annotation.path(video).stat().st_size)
    assert usable(annotation, store, skip_bad=False) is annotation
    put(root / "run/2.mp4", "another video")
    assert replaced(annotation, store) == {"run/2.mp4": (5, 13)} and to_extract(annotation, store) == ["run/2.mp4"]
    with pytest.raises(FeatureStoreError, match=r"1 videos were replaced .*'run/2\.mp4' .* 5 bytes and has 13"):
        usable(annotation, store, skip_bad=False)


# damage


def arrays_of(kind: str) -> list[str]:
    return ["cubes", "pooled"] if kind == "cubes" else [array.name for array in SPECS[kind].arrays]


each_array = pytest.mark.parametrize(("kind", "array"), [(kind, array) for kind in KINDS for array in arrays_of(kind)])


@pytest.mark.counts("damaged features")
@each_array
@pytest.mark.parametrize("keep", [0, 60, -1])
def test_a_file_of_another_size_is_missing_and_cannot_be_read(tmp_path, kind, array, keep):
    write(open_store(tmp_path, kind), kind, "a.avi")
    store = Store(tmp_path)
    path = store.file("a.avi", array)
    path.write_bytes(path.read_bytes()[:keep])
    assert store.missing(["a.avi"]) == ["a.avi"] and list(store.damaged(["a.avi"])) == ["a.avi"]
    with pytest.raises(FeatureStoreError) as error:
        store.read("a.avi", array)
    assert str(path) in str(error.value) and "prepare.py" in str(error.value)


@pytest.mark.counts("damaged features")
@each_array
def test_a_file_of_another_video_is_noticed_when_it_is_read(tmp_path, kind, array):
    store = open_store(tmp_path, kind)
    write(store, kind, "a.avi", 0)
    write(store, kind, "b.avi", 1)
    shutil.copy(store.file("b.avi", array), store.file("a.avi", array))
    again = Store(tmp_path)
    assert again.missing(["a.avi"]) == []
    with pytest.raises(FeatureStoreError, match="holds other numbers than were written") as error:
        again.read("a.avi", array)
    assert str(store.file("a.avi", array)) in str(error.value)
    assert list(again.damaged(["a.avi", "b.avi"])) == ["a.avi"]


@pytest.mark.counts("damaged features")
@each_array
def test_a_flipped_bit_in_the_middle_is_found_by_the_full_check_whatever_was_read_before(tmp_path, kind, array):
    write(open_store(tmp_path, kind), kind, "a.avi")
    store = Store(tmp_path)
    for name in arrays_of(kind):
        store.read("a.avi", name)
    path = store.file("a.avi", array)
    data = bytearray(path.read_bytes())
    data[128 + (len(data) - 128) // 2] ^= 1
    path.write_bytes(data)
    assert store.missing(["a.avi"]) == []
    assert "holds other numbers" in store.damaged(["a.avi"])["a.avi"]


@pytest.mark.counts("values that are not finite")
@pytest.mark.parametrize(("kind", "array"), FLOATS)
def test_a_value_that_is_not_finite_is_found_with_its_row_and_file(tmp_path, kind, array):
    store = open_store(tmp_path, kind)
    write(store, kind, "a.avi", rows=70)
    path, row = store.file("a.avi", array), store.rows("a.avi") - 1
    values = np.lib.format.open_memmap(path, mode="r+")
    values[row].flat[0] = np.nan
    for first in (0, 100):
        with pytest.raises(FeatureStoreError, match=rf"features of {ROW[kind]} {first + row} are not finite") as error:
            store.require_finite("a.avi", values, first, array)
        assert str(path) in str(error.value)
    assert list(store.damaged(["a.avi"])) == ["a.avi"]


# what made it


@each_kind
def test_fingerprints_tell_numbers_rows_and_what_made_them_apart(tmp_path, kind):
    def fingerprint(number: int, seed: int = 0, rows: int = 5, **changes) -> str | None:
        path = tmp_path / str(number)
        write(open_store(path, kind), kind, "a", seed, rows)
        manifest = path / MANIFEST
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
        return Store(path).fingerprint(["a"])

    about = {"spec": {"size": 3}} if kind == "cubes" else {"made_from": {"side": 3}}
    found = [fingerprint(0), fingerprint(1, seed=1), fingerprint(2, decoder="another"), fingerprint(3, **about)]
    found += [] if kind == "vectors" else [fingerprint(4, rows=4)]
    assert len(set(found)) == len(found) and None not in found
    assert fingerprint(5, notes=["other words"]) == found[0]


def test_positions_count_for_a_fingerprint(tmp_path):
    tracks, positions = given("descriptors")
    found = set()
    for number, moved in enumerate((positions, positions[::-1])):
        store = open_store(tmp_path / str(number), "descriptors")
        writer = store.writer("a")
        writer.append(tracks, moved)
        writer.close()
        found.add(store.fingerprint(["a"]))
    assert len(found) == 2


@each_new_kind
def test_a_store_of_another_spec_is_refused_and_every_difference_named(tmp_path, kind):
    store, spec = open_store(tmp_path, kind), SPECS[kind]
    Store(tmp_path).require(spec)
    key, value = next(iter(spec.made_from.items()))
    first = replace(spec.arrays[0], row_shape=(9,))
    others = {
        f"{key} is {value!r}, the configuration asks for 'x'": replace(spec, made_from={**spec.made_from, key: "x"}),
        "new is None, the configuration asks for 1": replace(spec, made_from={**spec.made_from, "new": 1}),
        f"{key} is {value!r}, the configuration asks for None": replace(
            spec, made_from={k: v for k, v in spec.made_from.items() if k != key}
        ),
        f"kind is {kind!r}, the configuration asks for 'cubes'": CUBES,
        f"arrays is '{spec.arrays[0].name} {spec.arrays[0].dtype} {spec.arrays[0].row_shape}": replace(
            spec, arrays=(first, *spec.arrays[1:])
        ),
    }
    for words, other in others.items():
        with pytest.raises(FeatureStoreError) as error:
            store.require(other)
        assert words in str(error.value) and str(tmp_path.resolve()) in str(error.value)
    with pytest.raises(FeatureStoreError, match="'x'.*asks for 1"):
        store.begin(replace(spec, made_from={**spec.made_from, key: "x", "new": 1}), {})
    with pytest.raises(FeatureStoreError, match=f"holds {kind}, where feature cubes are expected"):
        FeatureStore(tmp_path)


def test_feature_cubes_are_a_store_like_any_other(tmp_path):
    written = write(open_store(tmp_path, "cubes"), "cubes", "a.avi")
    plain = Store(tmp_path)
    plain.require(CUBES)
    assert_holds(plain, "a.avi", written)
    assert plain.fingerprint(["a.avi"]) == FeatureStore(tmp_path).fingerprint(["a.avi"]) is not None
    with pytest.raises(FeatureStoreError, match="kind is 'cubes', the configuration asks for 'flow'"):
        plain.require(SPECS["flow"])


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "tracks"}, "'kind' is 'tracks'"),
        ({"kind": ["flow"]}, "'kind' is ['flow']"),
        ({"kind": "cubes"}, "'kind' is 'cubes'"),
        ({"made_from": None}, "'made_from' must say"),
        ({"arrays": []}, "'arrays' must be"),
        ({"arrays": [{"name": "flow", "dtype": "|u1"}]}, "'arrays' must be"),
        ({"arrays": [{"name": "../x", "dtype": "|u1", "row_shape": [2]}]}, "'arrays' must be"),
        ({"arrays": [{"name": "videos", "dtype": "|u1", "row_shape": [2]}]}, "'arrays' must be"),
        ({"arrays": [{"name": "a", "dtype": "O", "row_shape": [2]}]}, "'arrays' must be"),
        ({"arrays": [{"name": "a", "dtype": "|u1", "row_shape": [0]}]}, "'arrays' must be"),
        ({"arrays": [{"name": "a", "dtype": "|u1", "row_shape": []}]}, "'arrays' must be"),
        ({"arrays": [{"name": "a", "dtype": "|u1", "row_shape": [2]}] * 2}, "'arrays' has a name twice"),
        ({"videos": {"a.avi": {}}}, "video 'a.avi': fields is None"),
        ({"videos": {"a.avi": {"fields": 5, "bytes": 1}}}, "5 fields take 120 bytes and a header, it says 1"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_by_name(tmp_path, changes, says):
    open_store(tmp_path, "flow")
    path = tmp_path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(FeatureStoreError) as error:
        Store(tmp_path)
    assert f"{path}: not a manifest of a feature store" in str(error.value) and says in str(error.value)


@pytest.mark.parametrize("arrays", [(), (ArraySpec("flow", "<f8", (2,)),), (ArraySpec("a/b", "|u1", (2,)),)])
def test_no_store_is_begun_that_could_not_be_opened(tmp_path, arrays):
    with pytest.raises(ValueError, match="'arrays'"):
        Store(tmp_path).begin(replace(SPECS["flow"], arrays=arrays), {})
    assert not (tmp_path / MANIFEST).exists()


@each_new_kind
def test_what_a_manifest_says_of_a_store_is_its_spec(tmp_path, kind):
    assert open_store(tmp_path, kind).spec == Store(tmp_path).spec == SPECS[kind]
    assert json.loads(json.dumps(described(SPECS[kind]))) == described(SPECS[kind])
