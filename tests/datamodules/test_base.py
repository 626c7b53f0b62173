"""The LightningDataModule on a small store written by hand: X[b, t] is the frame that the block index names."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import datamodules
from datamodules.base import BOXES, HMDB51DataModule, VideoFolderDataModule, targets_of
from datamodules.blocks import num_blocks
from datamodules.boxes import cell_coverage
from datamodules.features import FeatureSpec, FeatureStore, FeatureStoreError
from datamodules.videos import Annotation, DataError, Video

GRID, CHANNELS = (2, 3), 4
LENGTHS = (1, 19, 30, 31, 34, 42)
CPU = torch.device("cpu")


def features_of(name: str, frames: int) -> np.ndarray:
    seed = list(name.encode())
    return np.random.default_rng(seed).normal(size=(frames, GRID[0] * GRID[1], CHANNELS)).astype(np.float16)


def lay_out(root: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """Placeholders and a list; the data module never decodes."""
    for path, *_ in rows:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    with (root / "videos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "class", "group", "split"), *rows])
    return root


def fill(path: Path, lengths: dict[str, int]) -> FeatureStore:
    store = FeatureStore(path)
    store.create(FeatureSpec("googlenet", "random:0", None, 224), GRID, CHANNELS, {"notes": []})
    for name, frames in lengths.items():
        writer = store.writer(name)
        writer.append(features_of(name, frames))
        writer.close(fps=30.0, width=64, height=48, declared_frames=frames)
    store.merge()
    return store


ROWS = [
    (f"{name}/{side}{n}.mp4", name, f"{side} source {n // 2}", side)
    for name in ("jump", "run", "walk")
    for side, number in (("train", 12), ("test", 4))
    for n in range(number)
]
FRAMES = {row[0]: LENGTHS[n % len(LENGTHS)] for n, row in enumerate(ROWS)}


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """Three classes of twelve train and four test videos; a source gives two videos of each class."""
    return lay_out(tmp_path_factory.mktemp("base") / "videos", ROWS)


@pytest.fixture(scope="session")
def features(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("base") / "features", FRAMES).path


@pytest.fixture
def boxed(root) -> dict[str, np.ndarray]:
    """The same folder with boxes for all videos but the last, written for one test."""
    generator = np.random.default_rng(0)
    boxes = {}
    for path, *_ in ROWS[:-1]:
        low = generator.uniform(0, 0.5, (FRAMES[path], 2)).round(3)
        boxes[path] = np.concatenate([low, low + generator.uniform(0.1, 0.5, low.shape).round(3)], axis=1)
    with (root / BOXES).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "frame", "left", "top", "right", "bottom"])
        writer.writerows([name, t, *edges] for name, frames in boxes.items() for t, edges in enumerate(frames.tolist()))
    yield boxes
    (root / BOXES).unlink()


def stage(which: str, rank: int = 0, world_size: int = 1, epoch: int = 0) -> SimpleNamespace:
    """What the data module asks a Trainer."""
    return SimpleNamespace(
        training=which == "train",
        testing=which == "test",
        global_rank=rank,
        world_size=world_size,
        current_epoch=epoch,
        global_step=0,
    )


def batches(module: VideoFolderDataModule, which: str, **trainer) -> list:
    module.trainer = stage(which, **trainer)
    loader = getattr(module, f"{which}_dataloader")()
    module.trainer.global_step = module.trainer.current_epoch * len(loader)
    return [module.transfer_batch_to_device(share, CPU, 0) for share in loader]


def module(root: Path, features: Path, **settings) -> VideoFolderDataModule:
    return VideoFolderDataModule(root, features, **{"batch_size": 16, "resident": "ram", **settings})


def naive_block(name: str, start: int, skip: int) -> np.ndarray:
    """(T, K, D) by protocol §4, the last frame repeated."""
    cube = features_of(name, FRAMES[name])
    picked = list(range(start, FRAMES[name], skip))[:30]
    return cube[picked + [picked[-1]] * (30 - len(picked))]


@pytest.mark.parametrize("which", ["train", "val", "test"])
@pytest.mark.parametrize(("fps", "stride"), [(30, 1), (6, 1), (30, 4)])
def test_every_block_is_the_frames_that_the_protocol_names(root, features, which, fps, stride):
    data = module(root, features, fps=fps, stride=stride)
    skip = int(30 / fps)
    expected = [
        naive_block(video.name, start * stride, skip)
        for video in data.videos(which)
        for start in range(num_blocks(FRAMES[video.name], skip, stride))
    ]
    found = [block for batch in batches(data, which) for block in batch.X.numpy()]
    assert len(found) == len(expected)
    assert sorted(block.tobytes() for block in found) == sorted(block.tobytes() for block in expected)


@pytest.mark.parametrize("which", ["val", "test"])
def test_evaluation_goes_video_by_video_and_block_by_block(root, features, which):
    data = module(root, features)
    seen = 0
    for batch in batches(data, which):
        (number,) = set(batch.video.tolist())
        name = data.videos(which)[number].name
        for block in batch.X.numpy():
            assert np.array_equal(block, naive_block(name, seen, 1))
            seen += 1
        assert batch.weight.tolist() == [1.0] * len(batch.X)
        if seen == data.block_counts(which)[number]:
            seen = 0
    assert seen == 0


@pytest.mark.parametrize("which", ["train", "val", "test"])
@pytest.mark.parametrize("resident", ["mmap", "gpu", "auto"])
def test_batches_are_the_same_wherever_the_features_lie(root, features, which, resident):
    reference = batches(module(root, features, resident="ram"), which)
    found = batches(module(root, features, resident=resident), which)
    assert len(reference) == len(found) > 1
    for ours, theirs in zip(reference, found, strict=True):
        assert ours.X.dtype == theirs.X.dtype == torch.float16 and ours.X.shape[1:] == (30, 6, 4)
        assert torch.equal(ours.X, theirs.X)
        assert torch.equal(ours.target, theirs.target) and torch.equal(ours.video, theirs.video)


def test_an_unknown_place_for_the_features_is_refused(root, features):
    with pytest.raises(ValueError, match="resident='disk' is none of auto, gpu, ram, mmap"):
        module(root, features, resident="disk").block_counts("train")


@pytest.mark.parametrize("which", ["train", "val", "test"])
def test_targets_are_the_classes_of_the_videos(root, features, which):
    data = module(root, features)
    for batch in batches(data, which):
        named = [data.annotation.classes[target] for target in batch.target.tolist()]
        assert named == [data.videos(which)[video].name.split("/")[0] for video in batch.video.tolist()]
        assert batch.target.dtype == torch.int64


def test_targets_of_several_labels_are_zeros_and_ones(tmp_path):
    videos = (Video("a", (0, 2), "a"), Video("b", (), "b"), Video("c", (1,), "c"))
    annotation = Annotation("demo", "1", tmp_path, tmp_path, ("x", "y", "z"), True, videos, ())
    assert targets_of(videos, annotation).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_train_val_and_test_share_no_video_and_no_group(root, features):
    data = module(root, features)
    names = {which: {v.name for v in data.videos(which)} for which in ("train", "val", "test")}
    groups = {which: {v.group for v in data.videos(which)} for which in ("train", "val", "test")}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert names[one] and not names[one] & names[other]
        assert not groups[one] & groups[other]
    assert names["train"] | names["val"] == {row[0] for row in ROWS if row[3] == "train"}
    assert {v.labels for v in data.videos("val")} == {(0,), (1,), (2,)}


def test_about_15_percent_of_train_are_held_out_the_same_whatever_the_seed(root, features):
    held = {tuple(module(root, features, seed=seed).videos("val")) for seed in range(3)}
    assert len(held) == 1 and len(held.pop()) == 6


def test_training_on_all_has_all_of_train_and_validates_on_nothing(root, features):
    data = module(root, features, train_on_all=True)
    assert {v.name for v in data.videos("train")} == {row[0] for row in ROWS if row[3] == "train"}
    assert data.videos("val") == () and len(data.val_dataloader()) == 0
    total = sum(num_blocks(FRAMES[row[0]]) for row in ROWS if row[3] == "train")
    assert sum(len(batch.X) for batch in batches(data, "train")) == total == data.block_counts("train").sum()


def test_the_test_set_is_the_same_in_both_stages(root, features):
    assert module(root, features).videos("test") == module(root, features, train_on_all=True).videos("test")


def test_the_map_has_the_shape_of_the_store(root, features):
    assert module(root, features).map_shape == (6, 4)


@pytest.mark.parametrize("which", ["train", "val", "test"])
def test_counts_and_targets_of_a_set_are_those_of_its_videos(root, features, which):
    data = module(root, features, fps=15, stride=2)
    videos = data.videos(which)
    assert data.block_counts(which).tolist() == [num_blocks(FRAMES[v.name], 2, 2) for v in videos]
    assert data.targets(which).tolist() == [v.labels[0] for v in videos]


# epochs and ranks


def order(data, **trainer) -> list[bytes]:
    return [block.tobytes() for batch in batches(data, "train", **trainer) for block in batch.X.numpy()]


def test_each_epoch_and_each_seed_has_its_own_order_and_the_same_blocks(root, features):
    data = module(root, features, seed=1)
    first = order(data, epoch=0)
    assert order(module(root, features, seed=1), epoch=0) == first
    for other in (order(data, epoch=1), order(module(root, features, seed=2), epoch=0)):
        assert other != first and sorted(other) == sorted(first)


def test_the_first_batch_after_a_resume_is_of_the_new_epoch_before_lightning_has_counted_it(root, features):
    data = module(root, features)
    second = order(data, epoch=1)
    data.trainer = stage("train", epoch=0)
    loader = data.train_dataloader()
    data.trainer.global_step = len(loader)
    resumed = [data.transfer_batch_to_device(share, CPU, 0) for share in loader]
    assert [block.tobytes() for batch in resumed for block in batch.X.numpy()] == second


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_each_global_batch_of_training(root, features, world_size):
    alone = batches(module(root, features, batch_size=7), "train")
    ranks = [
        batches(module(root, features, batch_size=7), "train", rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for whole, *shares in zip(alone, *ranks, strict=True):
        united = [block.tobytes() for share in shares for block in share.X[share.weight > 0].numpy()]
        assert sorted(united) == sorted(block.tobytes() for block in whole.X.numpy())
        assert {share.batch_size for share in shares} == {whole.batch_size} == {len(whole.X)}


@pytest.mark.parametrize("world_size", [2, 5])
def test_ranks_share_the_test_videos_whole(root, features, world_size):
    seen = {}
    for rank in range(world_size):
        for batch in batches(module(root, features), "test", rank=rank, world_size=world_size):
            for video in batch.video.tolist():
                seen.setdefault((video, rank), 0)
                seen[video, rank] += 1
    data = module(root, features)
    assert {video: count for (video, _), count in seen.items()} == dict(enumerate(data.block_counts("test").tolist()))
    assert len(seen) == len(data.videos("test"))


def test_the_loader_of_every_set_knows_its_length(root, features):
    data = module(root, features, batch_size=7)
    for which in ("train", "val", "test"):
        data.trainer = stage(which)
        loader = getattr(data, f"{which}_dataloader")()
        assert len(loader) == len(list(loader)) > 1


def test_without_a_trainer_the_loaders_serve_one_process(root, features):
    data = module(root, features)
    assert data.trainer is None
    counted = sum(len(share.blocks) for share in data.train_dataloader())
    assert counted == data.block_counts("train").sum()


def test_other_batches_pass_untouched(root, features):
    data = module(root, features)
    assert torch.equal(data.transfer_batch_to_device(torch.arange(3), CPU, 0), torch.arange(3))


# boxes


def test_coverage_comes_with_test_batches_and_belongs_to_the_frames_of_the_block(root, features, boxed):
    data = module(root, features)
    assert data.has_boxes
    checked = 0
    for batch in batches(data, "test"):
        name = data.videos("test")[int(batch.video[0])].name
        assert batch.coverage.shape == batch.X.shape[:3]
        if name not in boxed:
            assert batch.coverage.isnan().all()
            continue
        cells = cell_coverage(boxed[name], GRID)
        cubes = features_of(name, FRAMES[name])
        for block, covered in zip(batch.X.numpy(), batch.coverage.numpy(), strict=True):
            frames = [int((cubes == cube).all(axis=(1, 2)).argmax()) for cube in block]
            assert np.allclose(covered, cells[frames], atol=1e-6)
            checked += 1
    assert checked > len(boxed) / 4


@pytest.mark.parametrize("which", ["train", "val"])
def test_there_is_no_coverage_but_when_testing(root, features, boxed, which):
    assert all(batch.coverage is None for batch in batches(module(root, features), which))


def test_without_boxes_there_is_no_coverage(root, features):
    data = module(root, features)
    assert not data.has_boxes
    assert all(batch.coverage is None for batch in batches(data, "test"))


def test_a_table_of_fewer_or_more_boxes_than_frames_leaves_the_rest_without(root, features):
    long, short = (next(row[0] for row in ROWS if row[3] == "test" and FRAMES[row[0]] == frames) for frames in (42, 19))
    rows = [f"{long},{t},0,0,1,1\n" for t in range(10)] + [f"{short},{t},0,0,1,1\n" for t in range(50)]
    try:
        (root / BOXES).write_text("video,frame,left,top,right,bottom\n" + "".join(rows))
        data = module(root, features)
        by_name = {}
        for batch in batches(data, "test"):
            by_name.setdefault(data.videos("test")[int(batch.video[0])].name, batch.coverage[0])
    finally:
        (root / BOXES).unlink()
    assert (by_name[long][:10] == 1).all() and by_name[long][10:].isnan().all()
    assert (by_name[short] == 1).all()


# what can be wrong


def test_missing_features_name_the_command_that_makes_them(root, tmp_path):
    with pytest.raises(FeatureStoreError, match=r"48 of 48 .*prepare\.py"):
        module(root, tmp_path / "none")
    some = {name: FRAMES[name] for name in list(FRAMES)[1:]}
    with pytest.raises(FeatureStoreError, match=r"1 of 48 .*'jump/train0\.mp4'.*prepare\.py"):
        module(root, fill(tmp_path / "some", some).path)


def test_a_bad_video_is_refused_and_left_out_under_skip_bad(root, tmp_path):
    bad = "run/test3.mp4"
    store = fill(tmp_path / "store", {name: frames for name, frames in FRAMES.items() if name != bad})
    store.enter_bad(bad, "no frame")
    with pytest.raises(DataError, match=r"run/test3\.mp4"):
        module(root, store.path)
    data = module(root, store.path, skip_bad=True)
    assert len(data.videos("test")) == 11 and bad not in {v.name for v in data.videos("test")}
    assert len({int(batch.video[0]) for batch in batches(data, "test")}) == 11


@pytest.mark.parametrize("settings", [{"stride": 0}, {"batch_size": 0}, {"fps": 0}, {"fps": 31}, {"stride": -1}])
def test_settings_out_of_range_are_refused(root, features, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        module(root, features, **settings)


def test_missing_data_are_told_before_anything_else(tmp_path):
    with pytest.raises(DataError, match="HMDB-51's split files not found"):
        HMDB51DataModule(tmp_path, tmp_path / "features")


def test_a_train_side_of_one_group_has_nothing_to_hold_out_and_says_so_or_validates_on_nothing(tmp_path):
    rows = [(f"{c}/{n}.mp4", c, f"{c} {'b' if n > 2 else 'a'}", "test" if n > 2 else "train") for c in "xy" for n in range(5)]
    root = lay_out(tmp_path / "videos", rows)
    data = None
    try:
        data = module(root, fill(tmp_path / "features", {row[0]: 31 for row in rows}).path)
        found = batches(data, "val")
    except DataError as error:
        assert "hold" in str(error) or "valid" in str(error)
    else:
        assert found == [] and data.block_counts("val").tolist() == []


def test_data_modules_are_found_by_name_in_the_package():
    from datamodules import base

    for name in datamodules.DATA_MODULES:
        assert getattr(datamodules, name) is getattr(base, name)
    with pytest.raises(AttributeError, match="no attribute 'Kinetics'"):
        datamodules.Kinetics  # noqa: B018
