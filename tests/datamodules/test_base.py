"""The LightningDataModule on a small store written by hand: every block is the frames that the block index names."""

import csv
import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import (
    CHANNELS,
    CPU,
    FRAMES,
    GRID,
    ROWS,
    SPEC,
    batches,
    blocks_of,
    dense_blocks,
    features_of,
    fill,
    inputs_of,
    lay_out,
    module,
    naive_block,
    naive_blocks,
    stage,
)
from lightning.pytorch import Trainer

import datamodules
from datamodules import base, hmdb51, hollywood2, sports1m, ucf11, ucf101, videofolder
from datamodules.base import BOXES, HMDB51DataModule
from datamodules.batches import Batch, DenseBatch
from datamodules.blocks import num_blocks
from datamodules.boxes import cell_coverage
from datamodules.features import FeatureStore, FeatureStoreError
from datamodules.parts import Part
from datamodules.videos import Annotation, DataError, Video, targets_of
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.objective import Objective
from lightning_modules.recognizer import Recognizer


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return lay_out(tmp_path_factory.mktemp("base") / "videos", ROWS)


@pytest.fixture(scope="module")
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


@pytest.fixture
def drawn(root, tmp_path) -> dict[str, list[int]]:
    """The same videos with drawn blocks, ``tmp_path / "drawn"``; returns the first frame of each, by video."""
    store, found = FeatureStore(tmp_path / "drawn"), {}
    store.create(replace(SPEC, blocks="2 random blocks a video"), GRID, CHANNELS, {"notes": []})
    for name, frames in FRAMES.items():
        found[name] = [0] if frames < 31 else [1, frames - 30] if frames > 31 else [0, 1]
        writer = store.writer(name)
        writer.append(np.concatenate([features_of(name, frames)[start : start + 30] for start in found[name]]))
        writer.close(starts=found[name])
    store.merge()
    return found


def test_training_and_test_read_drawn_blocks_and_none_that_spans_two(root, drawn, tmp_path):
    data = module(root, tmp_path / "drawn", stride=30)
    for which in ("train", "val", "test"):
        expected = [naive_block(video.name, start, 1).tobytes() for video in data.videos(which) for start in drawn[video.name]]
        assert sorted(blocks_of(batches(data, which))) == sorted(expected)


@pytest.mark.parametrize(("fps", "stride"), [(30, 1), (30, 29), (6, 30)])
def test_drawn_blocks_are_refused_at_any_other_stride(root, drawn, tmp_path, fps, stride):
    with pytest.raises(DataError, match=rf"fps={fps}, stride={stride}: .*drawn holds blocks .*fps=30 and stride=30"):
        module(root, tmp_path / "drawn", fps=fps, stride=stride)


def test_boxes_of_drawn_blocks_are_those_of_the_frames_they_came_from(root, features, drawn, boxed, tmp_path):
    data, whole = module(root, tmp_path / "drawn", stride=30), module(root, features)
    for video in data.videos("test"):
        frames = data.store.source_frames(video.name)
        assert len(frames) == data.store.frames(video.name) and frames[0] == drawn[video.name][0]
        for some, every in zip(data.cells(video), whole.cells(video), strict=True):
            np.testing.assert_array_equal(some, every[frames])


rates = pytest.mark.parametrize(("fps", "stride"), [(30, 1), (6, 1), (30, 4), (6, 5), (15, 3)])


@pytest.mark.parametrize("which", ["train", "val", "test"])
@pytest.mark.parametrize("kind", ["cube", "max"])
@rates
def test_every_block_is_the_frames_that_the_protocol_names(root, features, which, fps, stride, kind):
    data = module(root, features, fps=fps, stride=stride)
    expected = naive_blocks([video.name for video in data.videos(which)], int(30 / fps), stride, kind)
    assert sorted(blocks_of(batches(data, which), kind)) == sorted(expected)


@pytest.mark.parametrize("which", ["val", "test"])
@pytest.mark.parametrize("at_once", [512, 7])
@rates
def test_evaluation_goes_video_by_video_and_block_by_block(root, features, which, at_once, fps, stride, monkeypatch):
    monkeypatch.setattr(base, "DENSE_BLOCKS", at_once)
    data = module(root, features, fps=fps, stride=stride)
    found = batches(data, which)
    assert blocks_of(found) == naive_blocks([video.name for video in data.videos(which)], int(30 / fps), stride)
    assert all(isinstance(batch, DenseBatch) and 1 <= batch.blocks <= at_once and batch.steps == 30 for batch in found)
    seen = np.zeros(len(data.videos(which)), dtype=int)
    for batch in found:
        seen[batch.video] += batch.blocks
    assert seen.tolist() == data.block_counts(which).tolist()


def test_a_dense_batch_holds_the_frames_that_its_blocks_share_once(root, features):
    for fps, stride, held in ((30, 1, range(153)), (6, 5, range(0, 150, 5)), (6, 1, range(149))):
        data = module(root, features, fps=fps, stride=stride)
        name = next(video.name for video in data.videos("test") if FRAMES[video.name] == 153)
        (batch,) = (batch for batch in batches(data, "test") if data.videos("test")[batch.video].name == name)
        for kind, frames in inputs_of(name, 153).items():
            assert np.allclose(getattr(batch, kind).numpy(), frames[list(held)], atol=1e-6)


@pytest.mark.parametrize("which", ["train", "val", "test"])
def test_means_and_maxima_are_those_of_the_cubes(root, features, which):
    for batch in batches(module(root, features), which):
        assert batch.cube.dtype == torch.float16 and batch.mean.dtype == batch.max.dtype == torch.float32
        assert torch.allclose(batch.mean, batch.cube.float().mean(-2), atol=1e-6)
        assert torch.equal(batch.max, batch.cube.float().amax(-2))


def test_a_training_batch_has_so_many_blocks_of_weight_one(root, features):
    data = module(root, features, batch_size=50)
    found = batches(data, "train")
    total = int(data.block_counts("train").sum())
    assert [batch.batch_size for batch in found] == [50] * (total // 50) + [total % 50]
    for batch in found:
        assert isinstance(batch, Batch) and batch.cube.shape == (batch.batch_size, 30, 6, 4)
        assert batch.mean.shape == batch.max.shape == (batch.batch_size, 30, 4)
        assert batch.weight.tolist() == [1.0] * batch.batch_size


def test_the_target_of_a_training_block_is_the_class_of_its_video(root, features):
    data = module(root, features)
    owner = {block: name for name in FRAMES for block in naive_blocks([name])}
    for batch in batches(data, "train"):
        named = [data.annotation.classes[target] for target in batch.target.tolist()]
        assert named == [owner[block].split("/")[0] for block in blocks_of([batch])]
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
    assert len(blocks_of(batches(data, "train"))) == total == data.block_counts("train").sum()


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


@rates
def test_coverage_comes_with_test_batches_and_belongs_to_their_frames(root, features, boxed, fps, stride):
    data = module(root, features, fps=fps, stride=stride)
    assert data.has_boxes
    checked = 0
    for batch in batches(data, "test"):
        name = data.videos("test")[batch.video].name
        assert batch.coverage.shape == batch.cube.shape[:2]
        if name not in boxed:
            assert batch.coverage.isnan().all()
            continue
        cells = cell_coverage(boxed[name], GRID)
        cubes = features_of(name, FRAMES[name])
        blocks, covered = (dense_blocks(batch, frames).numpy() for frames in (batch.cube, batch.coverage))
        for block, found in zip(blocks, covered, strict=True):
            frames = [int((cubes == cube).all(axis=(1, 2)).argmax()) for cube in block]
            assert np.allclose(found, cells[frames], atol=1e-6)
            checked += 1
    assert checked >= data.block_counts("test")[:-1].sum() > 0


@pytest.mark.parametrize("which", ["train", "val"])
def test_there_is_no_coverage_but_when_testing(root, features, boxed, which):
    data = module(root, features)
    assert data.has_boxes
    assert not any(getattr(batch, "coverage", None) is not None for batch in batches(data, which))


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
            by_name[data.videos("test")[batch.video].name] = batch.coverage
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
    assert {batch.video for batch in batches(data, "test")} == set(range(11))


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


def test_a_reader_is_all_that_a_data_module_needs(root, features):
    read = []

    class Mine:
        DEFAULT_SPLIT = "seed-3"

        @staticmethod
        def is_split(name: str) -> bool:
            return videofolder.is_split(name)

        @staticmethod
        def read(root: Path, split: str, skip_bad: bool, part: Part) -> Annotation:
            read.append((root, split, skip_bad))
            return videofolder.read(root, "default", skip_bad)

    ours = base.VideoDataModule(root, features, reader=Mine(), resident="ram")
    named = base.VideoDataModule(root, features, split="seed-1", skip_bad=True, reader=Mine(), resident="ram")
    assert read == [(root, "seed-3", False), (root, "seed-1", True)]
    theirs = base.VideoDataModule(root, features, reader=videofolder, resident="ram", batch_size=16)
    assert ours.annotation == named.annotation == theirs.annotation == module(root, features).annotation
    assert blocks_of(batches(theirs, "train")) == blocks_of(batches(module(root, features), "train"))


def test_without_a_reader_a_data_module_says_what_to_give_it(root, features):
    with pytest.raises(TypeError, match=r"reader=, a module such as datamodules\.ucf11 .*datamodules\.UCF11DataModule"):
        base.VideoDataModule(root, features)


def test_the_data_modules_have_the_readers_of_their_data_sets():
    readers = {
        "UCF11": ucf11,
        "HMDB51": hmdb51,
        "Hollywood2": hollywood2,
        "UCF101": ucf101,
        "Sports1M": sports1m,
        "VideoFolder": videofolder,
    }
    assert {f"{name}DataModule" for name in readers} == set(datamodules.DATA_MODULES)
    for name, reader in readers.items():
        assert getattr(datamodules, f"{name}DataModule").reader is reader


def test_every_reader_says_which_splits_it_has():
    for reader in (ucf11, hmdb51, hollywood2, ucf101, videofolder):
        default = inspect.signature(reader.read).parameters["split"].default
        assert default == reader.DEFAULT_SPLIT and reader.is_split(default)
        assert not any(reader.is_split(name) for name in ("", "official ", "seed-", "4", "logo-26", "paper-like"))
    for reader in (ucf11, hmdb51, hollywood2):
        assert all(reader.is_split(name) for name in reader.SPLITS)
    assert all(videofolder.is_split(f"seed-{n}") for n in (0, 7, 999999999)) and not videofolder.is_split("seed-1234567890")


def test_data_modules_are_found_by_name_in_the_package():
    for name in datamodules.DATA_MODULES:
        assert getattr(datamodules, name) is getattr(base, name)
    with pytest.raises(AttributeError, match="no attribute 'Kinetics'"):
        datamodules.Kinetics  # noqa: B018


@pytest.mark.parametrize("boxes", [False, True])
def test_on_gpus_short_videos_are_tested_together_with_the_same_figures(boxes, root, features, request, monkeypatch):
    """Passes of at most so many blocks, each video's as often as before; a video in several parts stays so."""
    if boxes:
        request.getfixturevalue("boxed")
    monkeypatch.setattr(base, "DENSE_BLOCKS", 40)
    found = []
    for together in (False, True):
        data = module(root, features, resident="mmap")
        data.together = together
        monkeypatch.setattr(base.VideoDataModule, "_on_gpu", True)
        torch.manual_seed(0)
        network = SoftAttentionLSTM(GRID[0] * GRID[1], CHANNELS, 3, 8, 2)
        for parameter in network.parameters():
            parameter.data *= 4  # so that scores and attention differ between videos
        recognizer, sizes = Recognizer(network, 3, False, Objective()), []
        data.inputs, score = network.inputs, recognizer._score
        recognizer._score = lambda batch, score=score, sizes=sizes: (sizes.append(batch), score(batch))[1]
        options = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        Trainer(accelerator="cpu", use_distributed_sampler=False, **options).test(recognizer, datamodule=data, verbose=False)
        found.append((recognizer.scores, recognizer.attention, sizes))
    (scores, attention, alone), (same, measured, passes) = found
    torch.testing.assert_close(same.mean, scores.mean, rtol=1e-6, atol=1e-7)
    assert torch.equal(same.votes, scores.votes) and torch.equal(measured.counts, attention.counts)
    torch.testing.assert_close(measured.sums, attention.sums, rtol=1e-5, atol=1e-6)
    assert [(part.video, part.first) for one in passes for part in one] == [(part.video, part.first) for part in alone]
    assert all(sum(part.blocks for part in one) <= 40 for one in passes) and max(map(len, passes)) > 2
    assert len({part.video for part in alone}) < len(alone), "one video is longer than a pass"
