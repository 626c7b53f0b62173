"""Trajectories to vectors to SVMs on a dozen drawn clips: stores resumed and shared, what is learned of train alone, scores."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import kill_when, start
from conftest import PATIENCE, TINY, draw_clips, once, script
from sklearn.svm import SVC

from datamodules.manifest import FeatureStoreError
from datamodules.videos import DataError, targets_of
from lightning_modules.encoders.fisher import improved
from reproduce import prepare
from reproduce.common import catalogue
from reproduce.common.cli import resolve
from reproduce.common.dataset import PLACES, STORES, read_annotation
from reproduce.common.settings import Settings, SettingsError
from reproduce.systems import kernel_svm, video_vectors
from reproduce.systems.trajectory_store import ensure
from reproduce.systems.video_processes import parse_share
from reproduce.systems.video_vectors import LEARNED, VideoVectors

SMALL = [*TINY, "encoder.components=3", "encoder.samples=500", "trajectories.workers=1"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A dozen clips of two classes, with their trajectories and cubes; to be copied."""

    def make(folder: Path) -> None:
        draw_clips(folder / "clips", classes=2)
        for row in ("idt_fv", "rank_pooling"):
            prepare.main([*words(folder), f"row={row}"])

    return once(tmp_path_factory, "trajectories", make)


@pytest.fixture
def root(prepared, tmp_path) -> Path:
    shutil.copytree(prepared, tmp_path / "root")
    return tmp_path / "root"


def words(root: Path, *more: str) -> list[str]:
    return [*SMALL, f"paths.data={root}", f"paths.features={root / 'features'}", f"paths.runs={root / 'runs'}", *more]


def opened(root: Path, row: str, *more: str):
    """Settings, data set and stores of a row."""
    settings = resolve(Settings, words(root, f"row={row}", *more))
    stores = {kind: STORES[kind].open(settings) for kind in catalogue.SYSTEMS[settings.model.name].stores}
    return settings, read_annotation(settings), stores


def vectors_of(root: Path, name: str, row: str, *more: str) -> VideoVectors:
    settings, videos, stores = opened(root, row, *more)
    return VideoVectors(name, settings, videos, stores)


def facts_of(store, name: str) -> dict:
    """What the manifest says of a video besides its arrays."""
    return {key: store.videos[name][key] for key in ("fps", "frames", "width", "height", "source_bytes")}


def test_shares_make_together_what_one_call_makes(root, prepared):
    settings, videos, stores = opened(root, "idt_fv")
    (whole,) = stores.values()
    shutil.rmtree(whole.path)
    for number in (2, 1, 3):
        ensure(settings, videos, share=parse_share(f"{number}/3"))
    found = ensure(settings, videos)
    assert found.missing(video.name for video in videos.videos) == []
    names = [video.name for video in videos.videos]
    assert found.fingerprint(names) == whole.fingerprint(names) is not None  # CRC-32s of all rows


def test_a_length_that_three_does_not_divide_is_refused(root):
    with pytest.raises(SettingsError, match="trajectories.length=16: .* take a multiple of 3"):
        STORES["trajectories"].spec(resolve(Settings, words(root, "trajectories.length=16")))


def test_vectors_are_the_encoders_of_all_rows_and_are_made_once(root, monkeypatch):
    vectors = vectors_of(root, "trajectory_fisher", "idt_fv")
    names = [video.name for video in vectors.videos.videos]
    store = vectors.ensure(names[:4])
    before = (vectors.path / LEARNED).stat().st_mtime_ns
    again = vectors_of(root, "trajectory_fisher", "idt_fv")
    monkeypatch.setattr(type(again.representation), "learn", None)  # what was learned is read
    store = again.ensure(names)
    assert (vectors.path / LEARNED).stat().st_mtime_ns == before and again.path == vectors.path
    representation, name = again.representation, names[0]
    rows = representation.stores["trajectories"].read(name).astype(np.float32)
    parts = [
        improved(encoder.gradients(encoder.sums(rows[:, representation.channels()[channel]])))
        for channel, encoder in representation.encoders.items()
    ]
    assert len(rows) and len(parts) == 5
    np.testing.assert_allclose(store.read(name)[0], np.concatenate(parts), atol=1e-5)
    assert len(store.manifest["made_from"]["learned"]) == 64


def test_vectors_are_encoded_by_as_many_processes_as_a_slurm_task_has_cores(root, monkeypatch, on_slurm):
    asked = []
    monkeypatch.setattr(video_vectors, "fill", lambda store, sizes, task, processes, *_: asked.append(processes))
    on_slurm(64, SLURM_PROCID="0", SLURM_CPUS_PER_TASK="6")
    for threads in ("null", "2"):
        vectors = vectors_of(root, "trajectory_fisher", "idt_fv", f"trainer.threads={threads}")
        vectors.ensure([vectors.videos.videos[0].name])
    assert asked == [6, 2]


@pytest.mark.parametrize("more", ["seed=2", "encoder.components=4", "data.split=seed-3"])
def test_another_seed_setting_or_train_is_another_store(root, more):
    assert vectors_of(root, "trajectory_fisher", "idt_fv", more).path != vectors_of(root, "trajectory_fisher", "idt_fv").path


def test_what_is_learned_depends_on_no_test_video(root):
    first = vectors_of(root, "trajectory_fisher", "idt_fv")
    first.ensure([video.name for video in first.videos.train])
    learned = (first.path / LEARNED).read_bytes()
    shutil.rmtree(first.path)
    for video in first.videos.test:  # its rows are no longer there
        first.representation.stores["trajectories"].file(video.name).unlink()
    second = vectors_of(root, "trajectory_fisher", "idt_fv")
    second.ensure([video.name for video in second.videos.train])
    assert second.path == first.path
    with np.load(second.path / LEARNED) as found:
        (root / "before.npz").write_bytes(learned)
        with np.load(root / "before.npz") as before:
            assert set(found) == set(before) and all(np.array_equal(found[key], before[key]) for key in found)


def test_a_vector_whose_source_was_made_anew_is_made_anew(root):
    vectors = vectors_of(root, "trajectory_fisher", "idt_fv")
    name = vectors.videos.test[0].name
    before = vectors.ensure([name]).read(name).copy()
    source = STORES["trajectories"].open(vectors.settings)
    writer = source.writer(name)
    writer.append(source.read(name)[:5].copy(), source.read(name, PLACES)[:5].copy())
    writer.close(**facts_of(source, name))
    again = vectors_of(root, "trajectory_fisher", "idt_fv")
    assert again.path == vectors.path and not np.array_equal(again.ensure([name]).read(name), before)


def test_damaged_learning_is_refused_by_name(root):
    vectors = vectors_of(root, "trajectory_fisher", "idt_fv")
    vectors.ensure([])
    (vectors.path / LEARNED).write_bytes(b"nothing")
    with pytest.raises(FeatureStoreError, match="learned.npz: not readable"):
        vectors_of(root, "trajectory_fisher", "idt_fv").ensure([])


def test_too_few_descriptors_are_said_with_numbers(root):
    with pytest.raises(DataError, match="samples for 5000 Gaussians"):
        vectors_of(root, "trajectory_fisher", "idt_fv", "encoder.components=5000").ensure([])


def test_a_clip_without_trajectories_is_a_vector_of_zeros(root):
    rows = {"trajectory_fisher": "idt_fv", "trajectory_evolution": "video_darwin", "stacked_fisher": "stacked_fv"}
    for name, row in rows.items():
        vectors = vectors_of(root, name, row, "encoder.subvolume_dimensions=2")
        test = vectors.videos.test[0].name
        source = STORES["trajectories"].open(vectors.settings)
        if source.rows(test):
            source.writer(test).close(**facts_of(source, test))
            vectors = vectors_of(root, name, row, "encoder.subvolume_dimensions=2")
        found = vectors.ensure([test]).read(test)
        assert found.shape == (1, vectors.representation.length) and not found.any()


def test_scores_are_those_of_linear_svms_on_the_vectors(root):
    settings, videos, stores = opened(root, "idt_fv")
    system = kernel_svm.build(settings, videos)
    system.fit(videos, stores, None, None)
    scores = system.scores(videos, stores)
    vectors = vectors_of(root, "trajectory_fisher", "idt_fv")
    store = vectors.ensure([])
    train, test = (np.concatenate([store.read(one.name) for one in side]) for side in (videos.train, videos.test))
    scale = np.sqrt((train**2).sum(axis=1).mean())
    for label in range(2):
        machine = SVC(kernel="linear", C=100).fit(train / scale, targets_of(videos.train, videos) == label)
        expected = 1 / (1 + np.exp(-machine.decision_function(test / scale)))
        np.testing.assert_allclose(scores[:, label], expected, atol=1e-3)
    assert system.describe(None)["representations"] == {"trajectory_fisher": vectors.path.name}


def test_rank_pooling_learns_nothing_and_has_length_1(root):
    settings, videos, stores = opened(root, "rank_pooling")
    vectors = VideoVectors("feature_evolution", settings, videos, stores)
    name = videos.test[0].name
    store = vectors.ensure([name])
    assert store.spec.made_from["learned"] is None and np.linalg.norm(store.read(name)) == pytest.approx(1, abs=1e-5)


def test_object_scores_are_the_mean_of_the_networks_own(root):
    settings, videos, stores = opened(root, "objects")
    vectors = VideoVectors("object_scores", settings, videos, stores)
    found = vectors.representation.mean_probabilities(videos.test[0].name)
    assert found.sum() == pytest.approx(1) and len(found) == 1000
    assert "1000 object categories of mobilenet_v3_small" in vectors.representation.notes[0]


def test_what_cannot_be_built_is_refused(root, monkeypatch):
    settings, videos, _ = opened(root, "idt_fv", "data.fold=1/2")
    with pytest.raises(SettingsError, match="data.fold=1/2: an SVM of fixed C"):
        kernel_svm.build(settings, videos)
    settings, videos, _ = opened(root, "idt_fv")
    monkeypatch.setattr(catalogue, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="idt_fv needs sklearn and cv2: pip install -e '.\\[systems\\]'"):
        kernel_svm.build(settings, videos)


def test_a_share_of_cubes_is_refused(root, capsys):
    with pytest.raises(SystemExit):
        prepare.main(words(root, "row=rank_pooling", "part=1/2"))
    assert "part=1/2: goes with rows that read no cubes" in capsys.readouterr().err


# stopped and at once


def learned_of(path: Path) -> dict[str, bytes]:
    """What was learned, and every vector."""
    with np.load(path / LEARNED) as found:
        arrays = {key: found[key].tobytes() for key in found}
    return arrays | {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*.npy")}


def vector_folder(root: Path) -> Path:
    return vectors_of(root, "trajectory_fisher", "idt_fv").path


@pytest.mark.counts("SIGKILLs")
@pytest.mark.skipif(sys.platform == "win32", reason="there are no process groups on Windows")
@pytest.mark.parametrize("when", ["fitting", "encoding"])
def test_a_run_killed_over_its_vectors_goes_on_to_the_same(root, tmp_path, when):
    folder = vector_folder(root)
    script("train.py", *words(root, "row=idt_fv"), cwd=root)
    (first,) = (root / "runs/clips").glob("idt_fv-*/predictions.csv")
    expected, scores = learned_of(folder), first.read_bytes()
    shutil.rmtree(folder)
    shutil.rmtree(root / "runs")

    def begun() -> bool:
        return folder.exists() if when == "fitting" else any(path.stat().st_size for path in folder.glob("journal-*.jsonl"))

    kill_when(begun, "train.py", *words(root, "row=idt_fv"), cwd=root)
    assert not list((root / "runs/clips").glob("idt_fv-*/metrics.json"))
    script("train.py", *words(root, "row=idt_fv"), cwd=root)
    assert learned_of(folder) == expected and first.read_bytes() == scores and not list(folder.rglob("*.part"))


def test_two_runs_at_once_learn_once(root):
    """Of different systems that take the same representation."""
    rows = ("idt_fv", "video_darwin")
    both = []
    for row in rows:
        (root / row).mkdir()
        both.append(start("train.py", *words(root, f"row={row}"), cwd=root / row))
    assert [process.wait(PATIENCE) for process in both] == [0, 0]
    printed = "".join((root / row / "output.txt").read_text() for row in rows)
    assert printed.count("fitting Fisher vectors of improved dense trajectories to") == 1
    assert len(learned_of(vector_folder(root))) == 5 * 5 + 12


# classes


def test_of_several_labels_a_score_of_a_half_is_a_decision_of_0_and_absent_classes_score_0(root):
    settings, videos, stores = opened(root, "rank_pooling")
    labels = [(0,), (0, 1), (1,), ()]
    train, test = (
        tuple(replace(video, labels=labels[number % 4]) for number, video in enumerate(side))
        for side in (videos.train, videos.test)
    )
    many = replace(videos, multi_label=True, classes=("a", "b", "never"), train=train, test=test)
    system = kernel_svm.build(settings, many)
    system.fit(many, stores, None, None)
    scores = system.scores(many, stores)
    kernel = system._kernel([video.name for video in many.train + many.test])[len(train) :, : len(train)]
    decisions = system.svm.decisions(kernel)
    assert np.array_equal(scores[:, :2] >= 0.5, decisions[:, :2] >= 0) and (scores[:, 2] == 0).all()
    assert np.array_equal(scores[:, :2].argsort(axis=0), decisions[:, :2].argsort(axis=0))


def test_kernels_of_a_row_are_each_of_mean_1_over_train_and_added(root):
    settings, videos, stores = opened(root, "video_darwin")
    names, train = [video.name for video in videos.train + videos.test], len(videos.train)
    system = kernel_svm.build(settings, videos)
    system.fit(videos, stores, None, None)
    total = np.zeros((len(names), len(names)))
    for one in system.vectors:
        found = np.concatenate([one.ensure(names).read(name) for name in names]).astype(np.float64)
        part = found @ found.T
        total += part / np.trace(part[:train, :train]) * train
    np.testing.assert_allclose(system._kernel(names), total, rtol=1e-4, atol=1e-4)
    assert [one.info.label[:12] for one in system.vectors] == ["rank pooling", "Fisher vecto"]
