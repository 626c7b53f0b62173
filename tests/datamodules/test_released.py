"""Import of feature files in the released code's layout."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from released_files import CHANNELS, COLUMNS, LENGTHS, ROWS, grids, released_rows, write_set

from datamodules.features import FeatureSpec, FeatureStore, FeatureStoreError
from datamodules.released import SPEC, import_features, to_locations


@pytest.fixture(scope="module")
def content() -> dict[str, np.ndarray]:
    return {name: grids(length, seed) for seed, (name, length) in enumerate(LENGTHS.items())}


@pytest.fixture
def folder(tmp_path, content) -> Path:
    """Two videos in the training set, one in the test set."""
    folder = tmp_path / "released"
    folder.mkdir()
    (a, x), (b, y), (c, z) = content.items()
    write_set(folder, "train", {b: y, a: x})
    write_set(folder, "test", {c: z})
    return folder


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    return FeatureStore(tmp_path / "store")


def test_one_row_becomes_the_grid_row_by_row():
    grid = grids(2, 0)
    locations = to_locations(released_rows(grid))
    assert locations.shape == (2, 49, 1024)
    for row, column, channel in [(0, 0, 0), (0, 1, 5), (1, 0, 5), (3, 6, 1023), (6, 6, 512)]:
        assert locations[1, row * 7 + column, channel] == grid[1, row, column, channel]


def test_the_row_of_a_fortran_ordered_dump_is_read_as_its_authors_wrote_it():
    column_row_channel = np.random.default_rng(0).random((7, 7, 1024))  # their array, indexed [col, row, c]
    row = column_row_channel.ravel(order="F")[None]
    assert np.array_equal(to_locations(row)[0], column_row_channel.transpose(1, 0, 2).reshape(49, 1024))


def test_every_imported_cube_equals_the_row_major_grid_of_its_video(folder, store, content):
    import_features(folder, store, set(content))
    again = FeatureStore(store.path)
    assert set(again.videos) == set(content)
    for name, grid in content.items():
        features = again.read(name)
        assert features.shape == (len(grid), 49, 1024) and features.dtype == np.float16
        assert np.array_equal(features, grid.reshape(len(grid), 49, 1024).astype(np.float16))
        mean, maximum = again.pooled(name).transpose(1, 0, 2)
        assert np.allclose(mean, grid.mean(axis=(1, 2)), atol=1e-4) and np.array_equal(maximum, grid.max(axis=(1, 2)))


def test_imported_features_say_what_they_are(folder, store, content):
    import_features(folder, store, set(content))
    again = FeatureStore(store.path)
    again.require(FeatureSpec("googlenet", "released", None, 224))
    assert (again.grid, again.channels) == ((7, 7), 1024)
    assert any("imported from the released code" in note for note in again.notes)
    with pytest.raises(FeatureStoreError, match="weights is 'released'"):
        again.require(FeatureSpec("googlenet", "imagenet:IMAGENET1K_V1", None, 224))


def test_a_video_longer_than_a_piece_is_imported_whole(tmp_path, store):
    grid = np.zeros((300, ROWS, COLUMNS, CHANNELS), dtype=np.float32)
    grid[:, 2, 5, 7] = np.arange(300)
    short = grids(1, 3)
    write_set(tmp_path, "train", {"long.avi": grid, "short.avi": short}, prefix="")
    import_features(tmp_path, store, {"long.avi", "short.avi"})
    assert np.array_equal(store.read("long.avi")[:, 2 * 7 + 5, 7], np.arange(300))
    assert np.array_equal(store.read("short.avi"), short.reshape(1, 49, 1024))


def test_an_import_continues_where_it_stopped(folder, store, content):
    path = folder / "test_filename.txt"
    names = path.read_text()
    path.write_text("nowhere/else.avi\n")
    with pytest.raises(FeatureStoreError, match="test_filename.txt, line 1"):
        import_features(folder, store, set(content))
    first = store.file("run/a.avi").stat()
    path.write_text(names)
    again = FeatureStore(store.path)
    assert again.missing(content) == ["walk/c.avi"]
    import_features(folder, again, set(content))
    finished = FeatureStore(store.path)
    assert finished.missing(content) == []
    assert store.file("run/a.avi").stat().st_mtime_ns == first.st_mtime_ns, "what was there is not written again"
    assert np.array_equal(finished.read("walk/c.avi"), content["walk/c.avi"].reshape(2, 49, 1024))


def test_importing_twice_changes_nothing(folder, store, content):
    import_features(folder, store, set(content))
    before = (store.path / "manifest.json").read_bytes()
    import_features(folder, FeatureStore(store.path), set(content))
    assert (store.path / "manifest.json").read_bytes() == before


def test_windows_line_ends_and_a_missing_last_one_do_no_harm(folder, store, content):
    for name in ("train_framenum.txt", "train_filename.txt", "test_filename.txt"):
        text = (folder / name).read_text()
        (folder / name).write_bytes(text.rstrip("\n").replace("\n", "\r\n").encode())
    import_features(folder, store, set(content))
    assert FeatureStore(store.path).missing(content) == []


def test_features_of_another_origin_are_not_mixed_in(folder, store, content):
    store.create(FeatureSpec("googlenet", "random:0", None, 224), (7, 7), 1024, {})
    with pytest.raises(FeatureStoreError, match="weights is 'random:0', the configuration asks for 'released'"):
        import_features(folder, store, set(content))
    assert store.videos == {}


def test_a_folder_without_feature_files_is_refused(tmp_path, store):
    with pytest.raises(FeatureStoreError, match="no train_features.h5") as error:
        import_features(tmp_path, store, set())
    assert str(tmp_path.resolve()) in str(error.value)


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize("gone", ["train_framenum.txt", "test_filename.txt"])
def test_a_missing_list_is_named(folder, store, content, gone):
    (folder / gone).unlink()
    with pytest.raises(FeatureStoreError) as error:
        import_features(folder, store, set(content))
    assert str((folder / gone).resolve()) in str(error.value)


@pytest.mark.counts("damaged features")
def test_lists_of_different_length_are_refused_with_both_numbers(folder, store, content):
    with (folder / "train_framenum.txt").open("a") as file:
        file.write("4\n")
    with pytest.raises(FeatureStoreError, match="3 lines in train_framenum.txt, 2 names"):
        import_features(folder, store, set(content))


@pytest.mark.counts("damaged features")
def test_a_list_that_does_not_add_up_to_the_rows_is_refused(folder, store, content):
    (folder / "train_framenum.txt").write_text("1\n4\n")
    with pytest.raises(FeatureStoreError, match=r"train_features\.h5: 'features' has shape \(4, 50176\), 5 frames are listed"):
        import_features(folder, store, set(content))


@pytest.mark.counts("damaged features")
def test_rows_of_another_length_are_refused(folder, store, content):
    with h5py.File(folder / "train_features.h5", "w") as file:
        file["features"] = np.zeros((4, 49 * 512), dtype=np.float32)
    with pytest.raises(FeatureStoreError, match=r"shape \(4, 25088\)"):
        import_features(folder, store, set(content))


def test_a_video_of_another_data_set_is_named_with_its_line(folder, store, content):
    with pytest.raises(FeatureStoreError, match=r"train_filename\.txt, line 2: '.*run/a\.avi' is no video of this set"):
        import_features(folder, store, set(content) - {"run/a.avi"})


@pytest.mark.counts("damaged features")
def test_a_number_of_frames_that_is_no_number_is_named_with_its_file(folder, store, content):
    (folder / "train_framenum.txt").write_text("1\nthree\n")
    with pytest.raises(FeatureStoreError, match=r"train_framenum\.txt"):
        import_features(folder, store, set(content))


@pytest.mark.counts("damaged features")
@pytest.mark.parametrize("kind", ["no HDF5", "no data set 'features'"])
def test_a_features_file_of_another_kind_is_named(folder, store, content, kind):
    path = folder / "train_features.h5"
    if kind == "no HDF5":
        path.write_bytes(b"this is no HDF5 file" * 100)
    else:
        with h5py.File(path, "w") as file:
            file["data"] = np.zeros((4, 50176), dtype=np.float32)
    with pytest.raises(FeatureStoreError, match=r"train_features\.h5"):
        import_features(folder, store, set(content))


@pytest.mark.counts("values that are not finite")
def test_a_value_that_is_not_finite_is_refused_with_video_and_frame_and_leaves_no_part(folder, store, content):
    with h5py.File(folder / "train_features.h5", "r+") as file:
        file["features"][2, 77] = np.nan  # run/b has the first row
    with pytest.raises(FeatureStoreError, match=r"run/a\.avi: features of frame 1 are not finite"):
        import_features(folder, store, set(content))
    assert not store.file("run/a.avi").exists() and not store.pooled_file("run/a.avi").exists()
    assert not list(store.path.rglob("*.part"))
    assert FeatureStore(store.path).missing(content) == ["run/a.avi", "walk/c.avi"]


def test_the_released_spec_is_that_of_their_network():
    assert (SPEC.backbone, SPEC.weights, SPEC.size) == ("googlenet", "released", 224)
