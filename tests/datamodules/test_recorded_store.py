"""A feature store that commit aa43783 wrote, before there were other kinds: it opens, and is written again, as it was."""

import shutil
from pathlib import Path

import numpy as np

from datamodules.features import FeatureSpec, FeatureStore, mean_and_max
from datamodules.stores import VideoWriter

SPEC = FeatureSpec("googlenet", "random:0", None, 224)
RECORDED = Path(__file__).parent / "recorded_store"
FRAMES = {"run/a.avi": 5, "walk/b c.avi": 1, "run/c.avi": 3}
FINGERPRINTS = {
    tuple(FRAMES): "baa27ac5fb91772cfa760ae445e5865bedeb5121f552370d00c18e43e2e21146",
    ("run/a.avi",): "d344d2244d4b244e1d640c9d48b04f2f7b009cca366a349ed574592b0e540903",
}


def recorded_cubes(name: str) -> np.ndarray:
    frames, seed = FRAMES[name], list(FRAMES).index(name)
    return (np.arange(frames * 24).reshape(frames, 6, 4) * 7 % 31 * 0.25 - seed).astype(np.float32)


def test_an_old_store_opens_with_the_fingerprints_it_had(tmp_path):
    path = shutil.copytree(RECORDED, tmp_path / "store")
    store = FeatureStore(path)
    store.require(SPEC)
    assert (store.grid, store.channels, store.notes) == ((2, 3), 4, ["Features: googlenet, RANDOM weights"])
    assert store.bad == {"walk/d.avi": "no frame"} and store.missing(FRAMES) == [] and store.damaged(FRAMES) == {}
    for name, frames in FRAMES.items():
        cubes = recorded_cubes(name).astype(np.float16)
        assert store.frames(name) == frames and np.array_equal(store.read(name), cubes)
        assert np.array_equal(store.pooled(name), mean_and_max(cubes))
    for names, fingerprint in FINGERPRINTS.items():
        assert store.fingerprint(names) == fingerprint
    store.merge()
    assert {FeatureStore(path).fingerprint(names) for names in FINGERPRINTS} == set(FINGERPRINTS.values())


def test_a_store_is_written_as_it_was_then_byte_for_byte(tmp_path):
    store = FeatureStore(tmp_path)
    about = {"layer": "inception5b", "weights_sha256": "ab" * 32, "resize": "squash", "precision": "fp32", "compiled": False}
    about |= {"decoder": "av 1", "torch": "2.4", "notes": ["Features: googlenet, RANDOM weights"]}
    store.create(SPEC, (2, 3), 4, about)

    def close(writer: VideoWriter, fps: float, width: int, height: int, declared: int, size: int) -> None:
        writer.append(recorded_cubes(writer.name))
        writer.close(fps=fps, width=width, height=height, declared_frames=declared, source_bytes=size)

    close(store.writer("run/a.avi"), 29.97, 320, 240, 5, 1000)
    close(store.writer("walk/b c.avi"), 29.97, 320, 240, 1, 1001)
    store.merge()
    close(store.writer("run/c.avi", 1), 25.0, 64, 48, 0, 1002)
    store.enter_bad("walk/d.avi", "no frame", 1)
    found, expected = (
        {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (tmp_path, RECORDED)
    )
    assert found == expected
