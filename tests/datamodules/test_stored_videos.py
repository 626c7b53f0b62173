"""Which videos of an annotation a store has."""

from pathlib import Path

import pytest
from handmade import fill

from datamodules.features import FeatureStoreError
from datamodules.stored_videos import to_extract, usable
from datamodules.videos import REMEDY, Annotation, DataError, Video


@pytest.fixture
def annotation(tmp_path: Path) -> Annotation:
    train = tuple(Video(f"{n}.avi", (n % 2,), str(n)) for n in range(6))
    test = tuple(Video(f"{n}.avi", (n % 2,), str(n)) for n in range(6, 9))
    return Annotation("demo", "1", tmp_path, tmp_path, ("a", "b"), False, train, test)


def store_of(tmp_path: Path, videos: tuple[Video, ...]):
    return fill(tmp_path / "store", {video.name: 5 for video in videos})


def test_a_complete_store_is_usable_as_it_is(tmp_path, annotation):
    store = store_of(tmp_path, annotation.videos)
    assert usable(annotation, store, skip_bad=False) is annotation


def test_missing_features_are_counted_one_is_named_and_the_remedy(tmp_path, annotation):
    store = store_of(tmp_path, annotation.train)
    with pytest.raises(FeatureStoreError) as error:
        usable(annotation, store, skip_bad=True)
    message = str(error.value)
    assert "3 of 9" in message and "'6.avi'" in message and "python reproduce/prepare.py" in message
    assert str(store.path.resolve()) in message


def test_a_video_that_lacks_its_pooled_frames_counts_as_missing(tmp_path, annotation):
    store = store_of(tmp_path, annotation.videos)
    store.pooled_file("4.avi").unlink()
    with pytest.raises(FeatureStoreError, match=r"1 of 9 videos are missing, '4\.avi'"):
        usable(annotation, store, skip_bad=True)


def test_bad_videos_are_refused_unless_they_are_to_be_left_out(tmp_path, annotation):
    bad = [annotation.videos[0], annotation.videos[-1]]
    store = store_of(tmp_path, annotation.videos[1:-1])
    for video in bad:
        store.enter_bad(video.name, "no frame")
    with pytest.raises(DataError, match=r"2 videos do not decode: '0\.avi', '8\.avi'.*data\.skip_bad=true"):
        usable(annotation, store, skip_bad=False)
    left = usable(annotation, store, skip_bad=True)
    assert left.test == annotation.test[:-1] and left.train == annotation.train[1:]
    assert left.notes == ("demo: 2 videos left out (1 train, 1 test): do not decode",)


def test_a_class_that_loses_all_its_videos_of_a_side_is_named(tmp_path, annotation):
    store = store_of(tmp_path, annotation.videos[:-2])
    for video in annotation.videos[-2:]:
        store.enter_bad(video.name, "no frame")
    with pytest.raises(DataError, match=r"no test video of 'b'(.|\n)*2 videos do not decode.*retry_bad=true"):
        usable(annotation, store, skip_bad=True)


@pytest.mark.counts("strange videos")
def test_damaged_videos_are_refused_left_out_or_kept_with_a_note(tmp_path, annotation):
    store = store_of(tmp_path, annotation.videos)
    store.enter({"video": "0.avi", **store.videos["0.avi"], "damage": "0.8 s are missing after 1.6 s"}, 0)
    assert store.damaged_files == {"0.avi": "0.8 s are missing after 1.6 s"}
    with pytest.raises(DataError, match=r"1 videos do not decode or are damaged: '0\.avi'.*skip_bad=true; data\.damaged=keep"):
        usable(annotation, store, skip_bad=False)
    left = usable(annotation, store, skip_bad=True)
    assert left.notes == ("demo: 1 videos left out (1 train, 0 test): do not decode or are damaged",)
    assert "0.avi" not in {video.name for video in left.videos} and len(left.videos) == 8
    for skip_bad in (False, True):
        kept = usable(annotation, store, skip_bad, keep_damaged=True)
        assert kept.videos == annotation.videos
        assert kept.notes == ("demo: 1 videos damaged (1 train, 0 test): what decodes of them is kept",)


@pytest.mark.counts("strange videos")
def test_videos_refused_for_their_damage_are_extracted_where_it_is_kept_and_other_bad_ones_are_not(tmp_path, annotation):
    store = store_of(tmp_path, annotation.videos[2:])
    store.enter_bad("0.avi", f"/data/0.avi: it ends after 1.0 s of the 2.0 s that its header says; {REMEDY}")
    store.enter_bad("1.avi", "/data/1.avi: has no frame")
    assert to_extract(annotation, store) == []
    assert to_extract(annotation, store, keep_damaged=True) == ["0.avi"]
    with pytest.raises(FeatureStoreError, match=r"1 of 9 videos are missing, '0\.avi'"):
        usable(annotation, store, skip_bad=True, keep_damaged=True)
    assert len(usable(annotation, store, skip_bad=True).videos) == 7
