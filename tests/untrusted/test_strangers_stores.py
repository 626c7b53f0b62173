"""Feature files of strangers: right, or refused by name; nothing in them is run."""

import json
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from handmade import CHANNELS, GRID, SPEC, features_of, fill, put
from released_files import CHANNELS as RELEASED_CHANNELS
from released_files import grids, write_set

from datamodules import videofolder
from datamodules.features import FeatureStore, FeatureStoreError
from datamodules.reading import DataError
from datamodules.released import import_features
from datamodules.stored_videos import replaced, to_extract, usable


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# feature stores


LENGTHS = {"a.avi": 9, "b.avi": 9, "c.avi": 31}


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    return fill(tmp_path / "store", LENGTHS)


def foreign(kind: str, store: FeatureStore, trap: Path) -> None:
    """Put something else in place of the cubes of ``a.avi``."""
    path, right = store.file("a.avi"), features_of("a.avi", 9)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap(trap)))
    elif kind == "objects":
        np.save(path, np.array([Trap(trap)] * 9, dtype=object), allow_pickle=True)
    elif kind == "archive":
        np.savez(path.with_suffix(".npz"), right)
        path.with_suffix(".npz").replace(path)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(Trap(trap)))
    elif kind == "fortran":
        np.save(path, np.asfortranarray(right))
    elif kind == "big-endian":
        np.save(path, right.astype(">f2"))
    elif kind == "float32":
        np.save(path, right.astype(np.float32))
    elif kind == "integers":
        np.save(path, right.view(np.uint16))
    elif kind == "another shape":
        np.save(path, right.reshape(9, CHANNELS, -1))
    elif kind == "swapped":
        path.write_bytes(store.file("b.avi").read_bytes())
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "end never written":
        data = path.read_bytes()
        path.write_bytes(data[:-100] + bytes(100))
    elif kind == "header alone":
        path.write_bytes(path.read_bytes()[:128])
    elif kind == "missing":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "huge claim":
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": (2**62, 6, 4)})


KINDS = ["pickle", "objects", "archive", "zip", "fortran", "big-endian", "float32", "integers", "another shape", "swapped"]
KINDS += ["empty", "cut", "end never written", "header alone", "missing", "folder", "huge claim"]


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize("kind", KINDS)
def test_a_foreign_file_in_a_store_is_refused_by_name_and_never_run(store, tmp_path, kind):
    foreign(kind, store, tmp_path / "sprung")
    again = FeatureStore(store.path)
    with pytest.raises(FeatureStoreError) as error:
        again.read("a.avi")
    assert str(store.file("a.avi")) in str(error.value) and "prepare.py" in str(error.value)
    assert list(again.damaged(LENGTHS)) == ["a.avi"]
    assert np.array_equal(again.read("b.avi"), features_of("b.avi", 9))
    assert not (tmp_path / "sprung").exists()


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists(), "else the tests with it would prove nothing"


def test_swapped_pooled_files_are_noticed(store, count):
    one, two = store.pooled_file("a.avi"), store.pooled_file("b.avi")
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    for name in ("a.avi", "b.avi"):
        with pytest.raises(FeatureStoreError, match=f"pooled/{name}.npy: holds other numbers than were written"):
            FeatureStore(store.path).pooled(name)
        count("damaged features", 1)


@pytest.mark.counts("values that are not finite")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["cubes", "pooled"])
def test_a_value_that_is_not_finite_is_found_with_its_frame(store, value, kind):
    """In a store of before CRC-32s were recorded, too."""
    manifest = json.loads((store.path / "manifest.json").read_text())
    for entry in manifest["videos"].values():
        for key in ("crc32", "pooled_crc32", "ends_crc32"):
            del entry[key]
    (store.path / "manifest.json").write_text(json.dumps(manifest))
    path = store.file("c.avi") if kind == "cubes" else store.pooled_file("c.avi")
    array = np.lib.format.open_memmap(path, mode="r+")
    array[17, 1, 2] = value
    array.flush()
    again = FeatureStore(store.path)
    with pytest.raises(FeatureStoreError, match="features of frame 17 are not finite"):
        again.require_finite("c.avi", again.read("c.avi") if kind == "cubes" else again.pooled("c.avi"))
    assert list(again.damaged(LENGTHS)) == ["c.avi"]


@pytest.mark.counts("damaged features")
def test_one_flipped_bit_within_is_found_by_the_full_check(store):
    data = bytearray(store.file("c.avi").read_bytes())
    data[128 + 15 * GRID[0] * GRID[1] * CHANNELS * 2] ^= 1
    store.file("c.avi").write_bytes(data)
    again = FeatureStore(store.path)
    assert again.missing(LENGTHS) == [] and list(again.damaged(LENGTHS)) == ["c.avi"]
    assert "holds other numbers" in again.damaged(["c.avi"])["c.avi"]


WRONG = [
    ("videos", []),
    ("bad", ["a.avi"]),
    ("bad", {"a.avi": None}),
    ("grid", [2]),
    ("grid", [2, 0]),
    ("grid", "23"),
    ("channels", "4"),
    ("channels", True),
    ("spec", None),
    ("notes", "a note"),
    ("format", "2"),
    ("format", 2.0),
    ("videos", {"a.avi": None}),
    ("videos", {"a.avi": {}}),
    ("videos", {"a.avi": {"frames": 5, "bytes": "many", "pooled_bytes": 1}}),
]


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_manifest_of_wrong_types_is_refused_by_name(store, key, value):
    path = store.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(FeatureStoreError) as error:
        FeatureStore(store.path)
    assert str(path) in str(error.value) and "extract again" in str(error.value).lower()


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize("frames", [0, -9, 8, 10, 10**12, 9.0, "9", True, None])
def test_a_manifest_that_lies_about_a_number_of_frames_is_refused_with_the_video(store, frames):
    path = store.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["videos"]["b.avi"]["frames"] = frames
    path.write_text(json.dumps(manifest))
    with pytest.raises(FeatureStoreError, match=r"manifest\.json: .*'b\.avi'"):
        FeatureStore(store.path)


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize("content", ["", "[]", "null", "{", "\ufeff{}", "[" * 100_000, '{"format": 2, "format": 2}', "\0"])
def test_what_is_no_manifest_is_refused_by_name(store, content):
    (store.path / "manifest.json").write_text(content)
    with pytest.raises(FeatureStoreError, match=r"manifest\.json: not a manifest of a feature store"):
        FeatureStore(store.path)


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize(
    "line", ["[]", "3", '"a"', '{"video": 3}', '{"video": "a.avi"}', '{"video": "a.avi", "frames": 5}', "[" * 99999]
)
def test_a_damaged_line_of_a_journal_says_nothing(store, line):
    (store.path / "journal-0.jsonl").write_text(f"{line}\n" + json.dumps({"video": "d.avi", "error": "no frame"}) + "\n")
    again = FeatureStore(store.path)
    assert again.missing([*LENGTHS, "d.avi"]) == [] and again.bad == {"d.avi": "no frame"}


def annotation_of(folder: Path):
    for name in ("run", "walk"):
        for number in range(4):
            put(folder / f"{name}/{number}.mp4", f"{name} {number}")
    return videofolder.read(folder)


@pytest.mark.counts("damaged features")
def test_a_video_that_was_replaced_is_noticed_named_and_extracted_again(tmp_path):
    annotation = annotation_of(tmp_path / "mine")
    store = FeatureStore(tmp_path / "store")
    store.create(SPEC, GRID, CHANNELS, {})
    for video in annotation.videos:
        writer = store.writer(video.name)
        writer.append(features_of(video.name, 3))
        writer.close(source_bytes=annotation.path(video).stat().st_size)
    store.merge()
    assert usable(annotation, FeatureStore(store.path), skip_bad=False) is annotation
    put(tmp_path / "mine/run/2.mp4", "another video")
    again = FeatureStore(store.path)
    assert replaced(annotation, again) == {"run/2.mp4": (5, 13)} and to_extract(annotation, again) == ["run/2.mp4"]
    with pytest.raises(
        FeatureStoreError, match=r"1 videos were replaced .*'run/2\.mp4' .* 5 bytes and has 13; python reproduce/prepare"
    ):
        usable(annotation, again, skip_bad=False)


# the released code's files


@pytest.fixture
def released(tmp_path) -> Path:
    folder = tmp_path / "released"
    folder.mkdir()
    write_set(folder, "train", {"run/a.avi": grids(3, 0), "walk/b.avi": grids(2, 1)})
    return folder


def rewrite(folder: Path, kind: str, trap: Path) -> None:
    path = folder / "train_features.h5"
    rows = np.zeros((5, 49 * RELEASED_CHANNELS), dtype=np.float32)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap(trap)))
        return
    if kind == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return
    with h5py.File(folder / "other.h5", "w") as other:
        other["features"] = rows
    with h5py.File(path, "w") as file:
        if kind == "texts":
            file.create_dataset("features", rows.shape, dtype=h5py.string_dtype())
        elif kind == "integers":
            file["features"] = rows.astype(np.int32)
        elif kind == "link":
            file["features"] = h5py.ExternalLink("other.h5", "features")
        elif kind == "soft link":
            file["features"] = h5py.SoftLink("/elsewhere")
        elif kind == "raw bytes of another file":
            file.create_dataset("features", rows.shape, "f4", external=[("other.h5", 0, rows.nbytes)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(rows.shape, "f4")
            layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "features", rows.shape)
            file.create_virtual_dataset("features", layout)
        elif kind == "group":
            file.create_group("features")


H5 = ["pickle", "cut", "texts", "integers", "link", "soft link", "raw bytes of another file", "virtual", "group"]


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize("kind", H5)
def test_foreign_feature_files_are_refused_by_name_and_never_run(released, tmp_path, kind):
    rewrite(released, kind, tmp_path / "sprung")
    store = FeatureStore(tmp_path / "store")
    with pytest.raises(FeatureStoreError, match=r"train_features\.h5"):
        import_features(released, store, {"run/a.avi", "walk/b.avi"})
    assert store.videos == {} and not (tmp_path / "sprung").exists()


@pytest.mark.counts("damaged features")
def test_a_piece_that_would_fill_the_memory_is_refused(released, tmp_path, monkeypatch):
    with h5py.File(released / "train_features.h5", "w") as file:
        file.create_dataset(
            "features", (5, 49 * RELEASED_CHANNELS), "f4", chunks=(5, 49 * RELEASED_CHANNELS), compression="gzip"
        )
    monkeypatch.setattr("datamodules.released.LARGEST_CHUNK", 1000)
    with pytest.raises(FeatureStoreError, match="do not fit into memory"):
        import_features(released, FeatureStore(tmp_path / "store"), {"run/a.avi", "walk/b.avi"})


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train_filename.txt", "x/run/a.avi\nx/run/a.avi\n", "line 2: 'run/a.avi' stands in line 1 already"),
        ("train_filename.txt", b"x/run/a.avi\nL\xe4ufe/b.avi\n", "line 2: not UTF-8"),
        ("train_framenum.txt", "3\n\u0662\n", "line 2: expected a number of frames"),
        ("train_framenum.txt", "3\n-2\n", "line 2: expected a number of frames"),
        ("train_framenum.txt", "3\n99999999999999999999\n", "line 2: expected a number of frames"),
        ("train_framenum.txt", "3\n2\0\n", "line 2: holds a zero byte"),
    ],
)
def test_damaged_lists_beside_feature_files_name_their_line(released, tmp_path, file, content, words):
    put(released / file, content)
    with pytest.raises(DataError, match=words) as error:
        import_features(released, FeatureStore(tmp_path / "store"), {"run/a.avi", "walk/b.avi"})
    assert file in str(error.value)
