"""Each representation against its definition, through its store, on moving clips and on features written by hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, once
from moving_clips import lay_out_moving
from torchvision.models import resnet18

from datamodules.decoding import read_frames
from datamodules.descriptors.trajectories import channels
from datamodules.features import BACKBONE
from datamodules.videos import DataError
from lightning_modules.encoders.fisher import improved
from lightning_modules.encoders.rank_pooling import rank_pool
from reproduce import prepare
from reproduce.common.cli import resolve
from reproduce.common.dataset import PLACES, STORES, read_annotation
from reproduce.common.representations import REPRESENTATIONS
from reproduce.common.settings import Settings
from reproduce.systems.video_vectors import VideoVectors

SMALL = [*TINY, "trajectories.length=6", "trajectories.scales=1", "trajectories.skips=1", "trajectories.workers=1"]
SMALL += ["encoder.components=3", "encoder.samples=400", "encoder.subvolume_dimensions=6", "encoder.column_dimensions=8"]
SMALL += ["backbone.name=resnet18", "backbone.layer=null", "backbone.size=64"]
SMALL += ["slow_features.height=24", "slow_features.dimensions=[12,6]", "slow_features.words=8"]
CLIP, STILL = "across/clip4.avi", "down/still.avi"


def words(root: Path, *more: str) -> list[str]:
    return [*SMALL, f"paths.data={root}", f"paths.features={root / 'features'}", f"paths.runs={root / 'runs'}", *more]


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> Path:
    """Moving clips with all stores that representations are made from; not to be changed but for vectors."""

    def make(folder: Path) -> None:
        lay_out_moving(folder / "clips")
        for row in ("mifs", "dl_sfa", "rank_pooling"):
            prepare.main(words(folder, f"row={row}"))

    return once(tmp_path_factory, "described", make)


def vectors_of(root: Path, name: str, *more: str) -> VideoVectors:
    settings = resolve(Settings, words(root, *more))
    stores = {kind: STORES[kind].open(settings) for kind in REPRESENTATIONS[name].stores}
    return VideoVectors(name, settings, read_annotation(settings), stores)


def made(root: Path, name: str, *more: str):
    """A representation that has learned, and the vectors of all clips by name."""
    vectors = vectors_of(root, name, *more)
    names = [video.name for video in vectors.videos.videos]
    store = vectors.ensure(names)
    return vectors.representation, {name: store.read(name)[0] for name in names}


def copied(described: Path, tmp_path: Path) -> Path:
    shutil.copytree(described, tmp_path / "root", symlinks=True)
    return tmp_path / "root"


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_a_vector_is_finite_of_the_length_that_is_said_and_of_length_1_or_0(described, name):
    representation, vectors = made(described, name)
    for clip, vector in vectors.items():
        assert vector.shape == (representation.length,) and np.isfinite(vector).all()
        if name == "slow_words":
            assert vector.sum() == pytest.approx(1, abs=1e-5) and vector.min() >= 0
        still = clip == STILL and "cubes" not in REPRESENTATIONS[name].stores
        if name in ("trajectory_fisher", "skipped_fisher"):  # five channels, each of length 1
            assert np.linalg.norm(vector) == pytest.approx(0 if still else 5**0.5, abs=1e-4)
        if name == "stacked_fisher":
            assert np.linalg.norm(vector) == pytest.approx(0 if still else 1, abs=1e-4)
        if name == "trajectory_evolution" and still:
            assert not vector.any()
    assert len({vector.tobytes() for vector in vectors.values()}) > 1


@pytest.mark.parametrize("name", ["trajectory_fisher", "skipped_fisher"])
def test_fisher_vectors_are_the_encoders_of_the_union_of_all_rows(described, name):
    representation, vectors = made(described, name)
    kinds = REPRESENTATIONS[name].stores
    rows = np.concatenate([representation.stores[kind].read(CLIP) for kind in kinds]).astype(np.float32)
    assert len(representation.stores[kinds[-1]].read(CLIP)) > 10
    encoded = [improved(encoder.gradients(encoder.sums(rows[:, columns]))) for encoder, columns in each_channel(representation)]
    np.testing.assert_allclose(vectors[CLIP], np.concatenate(encoded), atol=1e-4)


def each_channel(representation):
    return [(representation.encoders[name], columns) for name, columns in representation.channels().items()]


def test_pieces_of_a_long_clip_add_up(described, monkeypatch):
    representation, vectors = made(described, "skipped_fisher")
    monkeypatch.setattr("reproduce.systems.representations.base.ROWS", 7)
    np.testing.assert_allclose(representation.vector(CLIP), vectors[CLIP], atol=1e-4)


def test_skips_without_trajectories_change_nothing(described, tmp_path):
    """Of the same mixture, a clip's vector is that of level 0 alone."""
    root = copied(described, tmp_path)
    representation, _ = made(root, "skipped_fisher")
    store = representation.stores["skipped_trajectories"]
    facts = {key: store.videos[CLIP][key] for key in ("fps", "frames", "width", "height", "source_bytes")}
    store.writer(CLIP).close(**facts)
    rows = representation.stores["trajectories"].read(CLIP).astype(np.float32)
    encoded = [improved(encoder.gradients(encoder.sums(rows[:, columns]))) for encoder, columns in each_channel(representation)]
    np.testing.assert_allclose(representation.vector(CLIP), np.concatenate(encoded), atol=1e-4)


def test_evolution_pools_the_frames_in_which_trajectories_end_in_their_order(described):
    representation, vectors = made(described, "trajectory_evolution")
    store, known, parts = representation.stores["trajectories"], channels(6), []
    rows, ends = store.read(CLIP).astype(np.float32), store.read(CLIP, PLACES)[:, 0]
    columns = {**known, "mbh": slice(known["mbhx"].start, known["mbhy"].stop)}
    assert len(set(ends)) > 5 and (np.diff(ends) >= 0).all()
    for (encoder, _), name in zip(each_channel(representation), ("trajectory", "hog", "hof", "mbh"), strict=True):
        found = rows[:, columns[name]]
        found = found if name == "trajectory" else np.sqrt(found)
        parts.append(rank_pool(np.stack([encoder.gradients(encoder.sums(found[ends == end])) for end in np.unique(ends)])))
    np.testing.assert_allclose(vectors[CLIP], np.concatenate(parts), atol=1e-4)


def test_a_reversed_clip_swaps_the_two_directions(described, tmp_path):
    """Its trajectories stand in the opposite order of their ends."""
    root = copied(described, tmp_path)
    representation, vectors = made(root, "trajectory_evolution")
    store = representation.stores["trajectories"]
    facts = {key: store.videos[CLIP][key] for key in ("fps", "frames", "width", "height", "source_bytes")}
    rows, places = store.read(CLIP)[::-1].copy(), store.read(CLIP, PLACES)[::-1].copy()
    places[:, 0] = places[:, 0].max() + places[:, 0].min() - places[:, 0]
    writer = store.writer(CLIP)
    writer.append(rows, places)
    writer.close(**facts)
    again, start = representation.vector(CLIP), 0
    for encoder, _ in each_channel(representation):
        stop = start + 8 * encoder.means.size
        quarters = np.split(vectors[CLIP][start:stop], 4)  # positive parts of both directions, then negative ones
        assert not np.allclose(quarters[0], quarters[1], atol=1e-2)
        np.testing.assert_allclose(again[start:stop], np.concatenate([quarters[i] for i in (1, 0, 3, 2)]), atol=2e-3)
        start = stop


def test_columns_are_encoded_one_by_one(described):
    representation, vectors = made(described, "column_fisher")
    cubes = representation.stores["cubes"].read(CLIP).astype(np.float32)
    (encoder, _), *none = each_channel(representation)
    assert not none and encoder.means.shape == (3, 8)
    flat = cubes.reshape(-1, cubes.shape[-1])
    np.testing.assert_allclose(vectors[CLIP], improved(encoder.gradients(encoder.sums(flat))), atol=1e-4)


def test_stacked_vectors_see_histograms_at_the_middle_of_each_trajectory(described):
    representation, _ = made(described, "stacked_fisher")
    found, store = representation.trajectories(CLIP), representation.stores["trajectories"]
    places = store.read(CLIP, PLACES)
    assert found.extent == (80, 60, 24) and found.descriptors.shape[1] == 396
    assert np.array_equal(found.descriptors, store.read(CLIP)[:, 12:].astype(np.float32))
    assert np.array_equal(found.places, np.column_stack([places[:, 1], places[:, 2], places[:, 0] - 3]))


def test_object_scores_are_the_whole_networks_mean_over_frames(described):
    """In fp32, of the frames themselves; the store has half precision."""
    representation, vectors = made(described, "object_scores")
    o = representation.mean_probabilities(CLIP)
    torch.manual_seed(0)
    network = resnet18()
    beside = torch.load(representation.stores["cubes"].path / BACKBONE, weights_only=True)
    own = {key.removeprefix("body."): value for key, value in beside.items() if key.startswith("body.")}
    unexpected = network.load_state_dict(own, strict=False).unexpected_keys
    assert not unexpected and len(own) > 50  # the classifier alone is as it was drawn
    frames = np.stack(list(read_frames(described / "clips" / CLIP, size=64)))
    images = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() - beside["mean"]) / beside["std"]
    with torch.inference_mode():
        expected = network.eval()(images).softmax(dim=1).mean(dim=0).numpy()
    assert o.sum() == pytest.approx(1, abs=1e-6) and len(o) == 1000
    np.testing.assert_allclose(o / expected, 1, atol=1e-2)
    np.testing.assert_allclose(vectors[CLIP] ** 2, o, atol=1e-6)


def test_object_scores_need_a_classifier(described):
    settings = resolve(Settings, words(described, "backbone.weights=released"))
    stores = {"cubes": STORES["cubes"].open(resolve(Settings, words(described)))}
    with pytest.raises(DataError, match="object scores need the network's classifier"):
        VideoVectors("object_scores", settings, read_annotation(settings), stores)


@pytest.mark.parametrize("name", [name for name, info in REPRESENTATIONS.items() if info.learned])
def test_what_is_learned_is_read_again_and_gives_the_same_vectors(described, name):
    first, vectors = made(described, name)
    again = vectors_of(described, name)
    again.ensure([CLIP])
    assert again.representation is not first
    assert np.array_equal(again.representation.vector(CLIP), first.vector(CLIP))
    np.testing.assert_allclose(again.representation.vector(CLIP), vectors[CLIP], atol=1e-5)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_three_processes_make_the_vectors_of_one(described, tmp_path, name):
    _, one = made(described, name)
    root = tmp_path / "features"
    vectors = vectors_of(described, name, "trainer.threads=3")
    root.mkdir()
    vectors.path = root / vectors.path.name  # else they are there
    names = list(one)[-4:]
    store = vectors.ensure(names)
    for clip in names:
        np.testing.assert_allclose(store.read(clip)[0], one[clip], atol=1e-4)


@pytest.mark.parametrize("dimensions", ["[]", "[12]", "[12,8,6]", "[12,0]"])
@pytest.mark.counts("bad settings")
def test_slow_features_have_two_layers(described, dimensions):
    with pytest.raises(DataError, match=r"slow_features\.dimensions="):
        vectors_of(described, "slow_words", f"slow_features.dimensions={dimensions}").ensure([])


def test_vectors_that_all_say_nothing_are_refused_with_what_they_are(described, tmp_path):
    vectors = vectors_of(copied(described, tmp_path), "feature_evolution")
    vectors.representation.vector = lambda name: np.zeros(vectors.representation.length, np.float32)
    shutil.rmtree(vectors.path, ignore_errors=True)
    vectors.settings.trainer.threads = 1
    names = [video.name for video in vectors.videos.videos]
    vectors.ensure(names)
    with pytest.raises(DataError, match="rank pooling of the mean feature.*no vector says anything"):
        vectors.kernel(names)


def test_histograms_that_are_all_equal_are_refused_with_what_they_are(described, tmp_path):
    vectors = vectors_of(copied(described, tmp_path), "slow_words")
    vectors.ensure([])
    equal = np.full(vectors.representation.length, 1 / vectors.representation.length, np.float32)
    vectors.representation.vector = lambda name: equal
    vectors.settings.trainer.threads = 1
    shutil.rmtree(vectors.path / "videos", ignore_errors=True)
    names = [video.name for video in vectors.videos.videos]
    vectors.ensure(names)
    with pytest.raises(DataError, match="bags of slow features.*equal"):
        vectors.kernel(names)
