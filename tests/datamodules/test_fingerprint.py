"""A store's fingerprint covers what made the features and every number of them, of the videos that are asked for."""

import json
from dataclasses import replace

import numpy as np
from handmade import CHANNELS, GRID, SPEC, features_of, fill

from datamodules.features import FeatureStore
from datamodules.stores import MANIFEST

LENGTHS = {"a.mp4": 5, "b.mp4": 7, "c.mp4": 1}


def test_equal_stores_have_one_fingerprint_whatever_the_order_and_the_pieces(tmp_path):
    whole = fill(tmp_path / "whole", LENGTHS)
    pieces = FeatureStore(tmp_path / "pieces")
    pieces.create(SPEC, GRID, CHANNELS, {"notes": ["other words"]})
    for name, frames in reversed(LENGTHS.items()):
        writer = pieces.writer(name)
        for frame in features_of(name, frames):
            writer.append(frame[None])
        writer.close(fps=25.0, width=1, height=1, declared_frames=0)
    assert whole.fingerprint(LENGTHS) == pieces.fingerprint(reversed(LENGTHS)) == FeatureStore(whole.path).fingerprint(LENGTHS)
    assert len(whole.fingerprint(LENGTHS)) == 64
    assert whole.fingerprint(["a.mp4"]) != whole.fingerprint(LENGTHS)


def changed(path, cube: np.ndarray, spec=SPEC, **about) -> str:
    store = FeatureStore(path)
    store.create(spec, GRID, CHANNELS, about)
    writer = store.writer("a.mp4")
    writer.append(cube)
    writer.close(fps=30.0, width=64, height=48, declared_frames=5)
    return store.fingerprint(["a.mp4"])


def test_every_number_and_what_made_them_count(tmp_path):
    cube = features_of("a.mp4", 5)
    bit, moved = cube.copy(), cube.copy()
    bit.view(np.uint16)[4, 5, 3] ^= 1
    moved[2] = moved[2][::-1]  # another order of locations: the means and maxima stay
    found = {
        "as it was": changed(tmp_path / "0", cube),
        "a bit": changed(tmp_path / "1", bit),
        "locations": changed(tmp_path / "2", moved),
        "a frame less": changed(tmp_path / "3", cube[:4]),
        "size": changed(tmp_path / "4", cube, replace(SPEC, size=112)),
        "weights": changed(tmp_path / "5", cube, weights_sha256="1"),
        "decoder": changed(tmp_path / "6", cube, decoder="another"),
    }
    assert len(set(found.values())) == len(found)
    assert changed(tmp_path / "7", cube, torch="another version of what the numbers do not show") == found["as it was"]


def test_a_store_from_before_the_checksums_has_none(tmp_path):
    store = fill(tmp_path, LENGTHS)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    del manifest["videos"]["b.mp4"]["crc32"]
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    store = FeatureStore(tmp_path)
    assert store.fingerprint(LENGTHS) is None and store.fingerprint(["a.mp4"]) is not None
