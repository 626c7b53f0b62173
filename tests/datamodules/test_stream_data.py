"""What streams see: draws uniform over classes, equally spaced frames, windows of fields; the same on one rank and on two."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import chisquare

from datamodules.manifest import ArraySpec, StoreSpec
from datamodules.stores import Store
from datamodules.streams import Draws, StreamDataModule, equal_steps
from datamodules.videos import Annotation, Video


def videos_of(counts: list[int], labels=lambda c: (c,)) -> tuple[Video, ...]:
    return tuple(Video(f"{c}/{i}.avi", labels(c), f"{c} {i}") for c, count in enumerate(counts) for i in range(count))


@pytest.mark.parametrize("counts", [[1, 5, 30], [40, 2, 2, 9]])
def test_draws_are_uniform_over_classes_and_over_each_ones_videos(counts):
    videos = videos_of(counts)
    drawn = Draws(videos).videos(np.random.default_rng(0), 10_000)
    found = np.bincount(drawn, minlength=len(videos))
    expected = np.concatenate([np.full(count, 10_000 / len(counts) / count) for count in counts])
    assert chisquare(found, expected).pvalue > 0.01
    assert chisquare(found, np.full(len(videos), 10_000 / len(videos))).pvalue < 1e-6  # not over videos


def test_a_video_of_two_labels_is_drawn_for_each_and_one_of_none_for_its_own():
    videos = (Video("a", (0,), "a"), Video("b", (0, 1), "b"), Video("c", (), "c"))
    found = np.bincount(Draws(videos).videos(np.random.default_rng(0), 12_000))
    assert chisquare(found, [2000, 6000, 4000]).pvalue > 0.01


def test_frames_are_equally_spaced_and_repeated_where_a_video_has_fewer():
    assert equal_steps(25, 25).tolist() == list(range(25))
    assert equal_steps(100, 4).tolist() == [12, 37, 62, 87]
    assert equal_steps(1, 5).tolist() == [0] * 5
    assert set(equal_steps(10, 25).tolist()) == set(range(10)) and (np.diff(equal_steps(10, 25)) >= 0).all()
    assert equal_steps(1000, 25)[0] == 20 and equal_steps(1000, 25)[-1] == 980


FIELDS = {"0/0.avi": 30, "0/1.avi": 6, "0/2.avi": 12, "1/0.avi": 30, "1/1.avi": 30, "1/2.avi": 30, "1/3.avi": 30}


def module(tmp_path, **more) -> StreamDataModule:
    """Of videos whose rows say their number: value (row, 0)."""
    videos = tuple(Video(name, (int(name[0]),), name) for name in FIELDS)
    store = Store(tmp_path)
    store.begin(StoreSpec("flow", (ArraySpec("flow", "|u1", (2, 1, 1)),), {}), {})
    for name, rows in FIELDS.items():
        writer = store.writer(name)
        values = np.zeros((rows, 2, 1, 1), np.uint8)
        values[:, 0, 0, 0], values[:, 1] = np.arange(rows), int(name[0])
        writer.append(values)
        writer.close()
    annotation = Annotation("clips", "default", tmp_path, tmp_path, ("a", "b"), False, videos[:5], videos[5:])
    options = {"batch_size": 8, "steps": 3, "seed": 1, "scored": 4, **more}
    return StreamDataModule(annotation, Store(tmp_path), **options)


def test_a_stack_is_consecutive_fields_and_the_last_one_repeated_where_there_are_fewer(tmp_path):
    data = module(tmp_path, length=10)
    for video in data.videos("train"):
        rows = FIELDS[video.name]
        for place in (0.0, 0.5, 0.999):
            seen = data._drawn(video.name, place, 0)[:, 0, 0, 0]
            first = int(place * max(1, rows - 9))
            assert seen.tolist() == [min(first + k, rows - 1) for k in range(10)]
    whole = {batch.video: batch.x for batch in data.test_dataloader()}
    assert [whole[0][:, 0, 0, 0, 0].tolist(), whole[0].shape] == [equal_steps(21, 4).tolist(), (4, 10, 2, 1, 1)]
    assert data.counts("test").tolist() == [4, 4] and data.targets("test").tolist() == [1, 1]


def test_an_epochs_draws_are_the_same_again_others_in_the_next_and_of_the_class_that_is_asked(tmp_path):
    data = module(tmp_path)
    first, again = (list(data.train_dataloader()) for _ in range(2))
    assert len(first) == 3 and all(np.array_equal(a.x, b.x) for a, b in zip(first, again, strict=True))
    for batch in first:
        assert batch.batch_size == 8 and np.array_equal(batch.x[:, 1, 0, 0], batch.target)
    data.trainer = SimpleNamespace(global_step=3, global_rank=0, world_size=1, num_devices=1)
    assert not np.array_equal(next(iter(data.train_dataloader())).x, first[0].x)


def test_two_ranks_together_see_what_one_sees(tmp_path):
    one = [np.asarray(batch.x) for batch in module(tmp_path / "a").train_dataloader()]
    shares = []
    for rank in range(2):
        data = module(tmp_path / f"b{rank}")
        data.trainer = SimpleNamespace(global_step=0, global_rank=rank, world_size=2, num_devices=1)
        shares.append([np.asarray(batch.x) for batch in data.train_dataloader()])
        assert [batch.video for batch in data.test_dataloader()] == [rank]
    for whole, first, second in zip(one, *shares, strict=True):
        assert np.array_equal(whole[0::2], first) and np.array_equal(whole[1::2], second)


def test_what_is_validated_on_is_not_trained_on(tmp_path):
    data = module(tmp_path)
    held, kept = data.videos("val"), data.videos("train")
    assert held and not set(held) & set(kept) and set(held) | set(kept) == set(data.annotation.train)
    data.train_on_all = True
    assert data.videos("train") == data.annotation.train and data.val_dataloader() == []


def test_where_memory_is_short_rows_are_read_from_the_files(tmp_path, monkeypatch):
    whole = [np.asarray(batch.x) for batch in module(tmp_path / "a").train_dataloader()]
    monkeypatch.setattr("datamodules.streams.free_memory", lambda: 0)
    data = module(tmp_path / "b")
    assert all(np.array_equal(a, b.x) for a, b in zip(whole, data.train_dataloader(), strict=True)) and not data._held


def test_draws_of_a_second_set_stand_beside_those_of_the_first_which_stay_as_they_are(tmp_path):
    alone = [np.asarray(batch.x) for batch in module(tmp_path / "a").train_dataloader()]
    second = module(tmp_path / "b", batch_size=4, seed=5)
    second.train_on_all = True
    data = module(tmp_path / "c", second=second)
    batches = list(data.train_dataloader())
    assert all(np.array_equal(batch.x, x) for batch, x in zip(batches, alone, strict=True))
    beside = [batch.second for batch in batches]
    assert [(one.batch_size, len(one.x), one.second) for one in beside] == [(4, 4, None)] * 3
    assert all(np.array_equal(one.x[:, 1, 0, 0], one.target) for one in beside)
    assert not np.array_equal(beside[0].x, batches[0].x[:4]) and data._fits is second._fits is True
    shares = []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_step=0, global_rank=rank, world_size=2, num_devices=1)
        shares.append([np.asarray(batch.second.x) for batch in data.train_dataloader()])
    for whole, first, other in zip(beside, *shares, strict=True):
        assert np.array_equal(whole.x[0::2], first) and np.array_equal(whole.x[1::2], other)
