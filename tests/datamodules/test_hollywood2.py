"""Hollywood2 against label files of the official form and size, made up."""

import random
import shutil
from pathlib import Path

import pytest
from conftest import SHARED

from datamodules import hollywood2
from datamodules.decoding import probe, read_chunks
from datamodules.videos import DataError

CLASSES = [
    "AnswerPhone",
    "DriveCar",
    "Eat",
    "FightPerson",
    "GetOutCar",
    "HandShake",
    "HugPerson",
    "Kiss",
    "Run",
    "SitDown",
    "SitUp",
    "StandUp",
]
SIDES = {"train": 823, "test": 884}
REAL = SHARED / "data/hollywood2_clip/actioncliptrain00001.avi"


def made_up_labels() -> dict[str, dict[str, set[str]]]:
    """Side -> clip -> classes: one class for most clips, two for some, none for some."""
    generator = random.Random(0)
    return {
        side: {
            f"actionclip{side}{number:05d}": set(generator.sample(CLASSES, generator.choice((0, 1, 1, 1, 2))))
            for number in range(1, count + 1)
        }
        for side, count in SIDES.items()
    }


LABELS = made_up_labels()


NOISY = [f"actionclipautoautotrain{number:05d}" for number in range(1, 811)]


@pytest.fixture(scope="module")
def placeholders(tmp_path_factory) -> Path:
    """All clips, the noisily labelled ones too."""
    clips = tmp_path_factory.mktemp("hollywood2") / "AVIClips"
    clips.mkdir()
    for name in [*LABELS["train"], *LABELS["test"], *NOISY]:
        (clips / f"{name}.avi").write_bytes(b"x")
    return clips


@pytest.fixture
def root(tmp_path: Path, placeholders: Path) -> Path:
    """The official layout, the noisy label files included."""
    sets = tmp_path / "Hollywood2/ClipSets"
    sets.mkdir(parents=True)
    (tmp_path / "Hollywood2/AVIClips").symlink_to(placeholders)
    for label in CLASSES:
        for side, clips_of in LABELS.items():
            lines = [f"{clip}  {1 if label in labels else -1}\n" for clip, labels in clips_of.items()]
            (sets / f"{label}_{side}.txt").write_text("".join(lines))
        (sets / f"{label}_autotrain.txt").write_text("".join(f"{clip}  1\n" for clip in NOISY))
    return tmp_path


def test_the_official_split_is_823_to_884_with_the_labels_of_all_class_files(root):
    annotation = hollywood2.read(root)
    assert (len(annotation.train), len(annotation.test)) == (823, 884)
    assert list(annotation.classes) == CLASSES and annotation.multi_label
    for side in SIDES:
        found = {v.name: {CLASSES[label] for label in v.labels} for v in getattr(annotation, side)}
        assert found == {f"{clip}.avi": labels for clip, labels in LABELS[side].items()}


@pytest.mark.skipif(not REAL.is_file(), reason=f"the real clip is not there: {REAL}")
def test_a_real_clip_decodes_from_the_official_layout(root, placeholders):
    clips = root / "Hollywood2/AVIClips"
    clips.unlink()
    shutil.copytree(placeholders, clips)
    shutil.copyfile(REAL, clips / REAL.name)
    annotation = hollywood2.read(root)
    (video,) = (video for video in annotation.train if video.name == REAL.name)
    info, chunks = probe(annotation.path(video)), list(read_chunks(annotation.path(video), 256))
    assert (info.width, info.height, sum(map(len, chunks))) == (528, 224, 201)
    assert {chunk.shape[1:] for chunk in chunks} == {(256, 256, 3)}


def test_clips_carry_several_labels_in_ascending_order_or_none(root):
    annotation = hollywood2.read(root)
    assert {len(video.labels) for video in annotation.videos} == {0, 1, 2}
    assert all(list(video.labels) == sorted(set(video.labels)) for video in annotation.videos)


def test_noisily_labelled_clips_beside_are_not_used(root):
    annotation = hollywood2.read(root)
    assert not [video.name for video in annotation.videos if "auto" in video.name]


def test_every_clip_is_a_group_of_its_own(root):
    videos = hollywood2.read(root).videos
    assert len({video.group for video in videos}) == len(videos) == 1707


def test_the_inner_folder_may_be_the_root(root):
    outer, inner = hollywood2.read(root), hollywood2.read(root / "Hollywood2")
    assert (inner.train, inner.test, inner.folder) == (outer.train, outer.test, outer.folder)


@pytest.mark.parametrize("split", ["1", "train", ""])
def test_there_is_one_split(root, split):
    with pytest.raises(DataError, match="one split, 'official'"):
        hollywood2.read(root, split)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    "line",
    [
        "actionclipautoautotrain00001  1",
        "actioncliptest00001  1",
        "actioncliptrain00001.avi  1",
        "actioncliptrain1  1",
        "actioncliptrain00001  0",
        "actioncliptrain00001",
        "actioncliptrain00001  1  1",
        "../actioncliptrain00001  1",
    ],
)
def test_a_malformed_line_is_named_with_its_file_and_number(root, line):
    path = root / "Hollywood2/ClipSets/Kiss_train.txt"
    lines = path.read_text().splitlines()
    lines[6] = line
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        hollywood2.read(root)
    assert str(path) in str(error.value) and "line 7" in str(error.value)


@pytest.mark.counts("damaged lists")
def test_a_clip_listed_twice_in_a_file_is_named_with_its_line(root):
    path = root / "Hollywood2/ClipSets/Eat_test.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(DataError, match="line 885: 'actioncliptest00001' is listed twice"):
        hollywood2.read(root)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(("shorter", "named"), [("Run", "Run"), ("AnswerPhone", "DriveCar")])
def test_class_files_that_list_different_clips_are_refused_with_file_and_clip(root, shorter, named):
    sets = root / "Hollywood2/ClipSets"
    path = sets / f"{shorter}_train.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="lists other clips than AnswerPhone_train.txt, 'actioncliptrain00823'") as error:
        hollywood2.read(root)
    assert str(sets / f"{named}_train.txt") in str(error.value)


@pytest.mark.counts("damaged lists")
def test_a_list_cut_short_in_all_files_is_told_by_its_count(root):
    for path in (root / "Hollywood2/ClipSets").glob("*_train.txt"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="822 train videos instead of 823"):
        hollywood2.read(root)


def test_one_space_and_windows_line_ends_read_as_the_official_two_spaces(tmp_path):
    path = tmp_path / "Kiss_test.txt"
    path.write_bytes(b"actioncliptest00001 -1\r\n\r\nactioncliptest00002  1\r\n")
    assert hollywood2.read_label_file(path, "test") == {"actioncliptest00001": False, "actioncliptest00002": True}


@pytest.mark.counts("damaged lists")
def test_a_missing_label_file_is_named(root):
    path = root / "Hollywood2/ClipSets/SitUp_test.txt"
    path.unlink()
    with pytest.raises(DataError) as error:
        hollywood2.read(root)
    assert str(path.resolve()) in str(error.value)


@pytest.mark.parametrize("gone", ["ClipSets", "AVIClips"])
def test_a_missing_folder_is_named_with_the_address(root, gone):
    (root / "Hollywood2" / gone).rename(root / "elsewhere")
    with pytest.raises(DataError, match="ftp://ftp.irisa.fr") as error:
        hollywood2.read(root)
    assert str((root / "Hollywood2" / gone).resolve()) in str(error.value)


def test_a_missing_clip_is_named_and_left_out_under_skip_bad(root, placeholders, request):
    gone = placeholders / "actioncliptest00777.avi"
    gone.unlink()
    request.addfinalizer(lambda: gone.write_bytes(b"x"))
    with pytest.raises(DataError, match=r"actioncliptest00777\.avi"):
        hollywood2.read(root)
    annotation = hollywood2.read(root, skip_bad=True)
    assert (len(annotation.train), len(annotation.test)) == (823, 883)
    assert annotation.notes == ("hollywood2: 1 videos left out (0 train, 1 test): missing on disk",)
