"""``prepare.py`` on HMDB-51, whose three splits share one store: which clips it takes, and what it deletes."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
from conftest import SHARED, SMALL_BACKBONE
from finished import noise

from datamodules import hmdb51
from datamodules.features import FeatureStore
from datamodules.miniature import VERSION
from datamodules.stored_videos import usable
from datamodules.videos import MINIATURE_MARKER
from reproduce.common import files
from reproduce.common.cli import resolve
from reproduce.common.dataset import read_annotation
from reproduce.common.settings import Settings
from reproduce.experiments import scheduler as grid
from reproduce.prepare import PrepareSettings, _read_splits
from reproduce.prepare import main as prepare_main
from reproduce.systems.cnn_features import calibration_frames

CLASSES = ["kick", "run", "wave"]
SIDES = {"1": "21010", "2": "02110", "3": "10210"}  # of a class's five clips; the last is in no split
SMALL = ["data.name=hmdb51", *SMALL_BACKBONE]
STORE = "features/hmdb51/mobilenet_v3_small-random"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """HMDB-51's layout with three classes of five clips, and the two archives they came in."""
    root = tmp_path_factory.mktemp("drawn") / "hmdb51"
    for name in CLASSES:
        clips = [f"Film_[{number}]_{name}_f_cm_np1_fr_med_0.avi" for number in range(5)]
        for clip in clips:
            noise(root / name / clip)
        for split, sides in SIDES.items():
            path = root / f"testTrainMulti_7030_splits/{name}_test_split{split}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(f"{clip} {side} \n" for clip, side in zip(clips, sides, strict=True)))
    (root / MINIATURE_MARKER).write_text(json.dumps({"version": VERSION, "counts": {"train": 6, "test": 3}}))
    for archive in hmdb51.ARCHIVES:
        (root / archive.name).write_bytes(b"an archive")
    return root


@pytest.fixture
def root(drawn, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(hmdb51, "CLASSES", CLASSES)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(drawn, tmp_path / "data/hmdb51")
    return tmp_path / "data/hmdb51"


def prepare(*words: str, status: int = 0) -> str:
    """``prepare.py`` in this process; returns what it printed."""
    ended = 0
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
        try:
            prepare_main([*SMALL, *words])
        except SystemExit as stop:
            ended = stop.code
    assert ended == status, printed.getvalue()
    return printed.getvalue()


def names(*splits: str) -> set[str]:
    return {video.name for split in splits for video in hmdb51.read(Path("data/hmdb51"), split).videos}


def test_without_a_split_every_clip_is_taken_once_and_every_split_checked(root):
    printed = prepare()
    store = FeatureStore(Path(STORE))
    assert len(names("1", "2", "3")) == 12 and names("1", "2", "3") < set(store.videos) and len(store.videos) == 15
    assert all(f"hmdb51, split {split}: 6 train and 3 test videos of 3 classes" in printed for split in "123")
    assert printed.count("the content of a train file") == 3  # each split's own: the drawn clips are alike
    assert "taking all 15 videos" in printed and "15 videos, 60 frames" in printed
    written = {name: store.file(name).stat().st_mtime_ns for name in store.videos}
    for split in "123":
        annotation = hmdb51.read(root, split)
        assert usable(annotation, store, skip_bad=False) is annotation
        prepare(f"data.split={split}")
    assert {name: FeatureStore(store.path).file(name).stat().st_mtime_ns for name in written} == written


def test_features_that_do_not_fit_are_refused_before_the_first_is_made(root, monkeypatch, count):
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage._replace(free=files.RESERVE))
    printed = prepare(status=1)
    assert "too little disk space: " in printed and " for the features of 15 videos in " in printed
    assert str(Path(STORE).resolve()) in printed and "paths.features" in printed and not list(Path(STORE).rglob("*.npy"))
    count("full disks", 1)


def test_with_a_split_only_its_clips_are_taken_and_the_others_join_them_later(root):
    printed = prepare("data.split=2")
    assert set(FeatureStore(Path(STORE)).videos) == names("2") and "split 1:" not in printed
    assert "leaving 6 videos alone that have no side in split 2" in printed and "9 videos, 36 frames" in printed
    assert "extracting features of 6 videos" in prepare()
    assert len(FeatureStore(Path(STORE)).videos) == 15


def test_a_random_backbone_is_calibrated_on_the_same_frames_whichever_clips_are_taken(root):
    prepare("paths.features=all")
    prepare("paths.features=one", "data.split=1")
    both = [FeatureStore(Path(folder) / "hmdb51/mobilenet_v3_small-random") for folder in ("all", "one")]
    shas = {store.manifest["weights_sha256"] for store in both}
    assert len(shas) == 1 and len(both[0].videos) == 15 and len(both[1].videos) == 9
    settings = resolve(Settings, SMALL)
    assert len(calibration_frames(read_annotation(settings), 64)) == 4 * 6  # of split 1's train


@pytest.mark.parametrize("what", ["archives", "videos"])
def test_nothing_is_deleted_before_the_clips_of_the_other_splits_have_features(root, what):
    before = sorted(root.rglob("*"))
    printed = prepare("data.split=2", f"delete={what}", status=1)
    assert f"delete={what}: 6 videos have no features yet" in printed and "nothing was deleted" in printed
    assert "6 of them have no side in split 2" in printed and "without data.split" in printed
    assert sorted(root.rglob("*")) == before
    assert "are free again" in prepare(f"delete={what}")
    assert not list(root.glob("*.rar")) and len(list(root.rglob("*.avi"))) == (15 if what == "archives" else 0)
    assert len(names("1", "2", "3")) == 12 and "15 videos, 60 frames" in prepare()


def test_a_clip_of_another_split_that_does_not_decode_is_reported_before_the_archive_is_gone(root):
    clip = "run/Film_[4]_run_f_cm_np1_fr_med_0.avi"  # in no split
    (root / clip).write_bytes(b"no video")
    prepare("data.split=1")
    printed = prepare("delete=archives", status=1)
    assert f"bad: {clip}" in printed and "1 of 15 videos do not decode" in printed and len(list(root.glob("*.rar"))) == 2
    annotation = hmdb51.read(root, "1")
    assert usable(annotation, FeatureStore(Path(STORE)), skip_bad=False) is annotation
    prepare("delete=archives", "data.skip_bad=true")
    assert not list(root.glob("*.rar"))


def test_a_missing_clip_of_another_split_is_named_before_any_work(root):
    (root / "wave/Film_[3]_wave_f_cm_np1_fr_med_0.avi").unlink()
    assert "1 of 15 annotated videos are missing" in prepare("delete=archives", status=1)
    assert not Path(STORE).exists() and len(list(root.glob("*.rar"))) == 2


def test_a_damaged_file_of_another_split_is_named_before_any_work(root):
    path = root / "testTrainMulti_7030_splits/run_test_split3.txt"
    path.write_text(path.read_text() + "a line without a side\n")
    assert f"{path.relative_to(Path.cwd())}, line 6" in prepare(status=1)
    assert not Path(STORE).exists()


def test_a_table_prepares_the_clips_of_its_own_split_alone(root, monkeypatch):
    asked = []
    monkeypatch.setattr(grid, "run_here", lambda script, words: asked.append((script, words)) or 0)
    for words, split in ((SMALL, "1"), ([*SMALL[1:], "column=hmdb51_2"], "2")):
        assert grid._prepare("HMDB-51", "cubes", words) == 0
        assert asked[-1] == ("prepare.py", [*words, f"data.split={split}"])
        assert resolve(Settings, asked[-1][1]).data.split == split
    prepare("data.split=1")
    assert grid._prepare("HMDB-51", "cubes", SMALL) == 0 and len(asked) == 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="the official split files are not beside this checkout")
def test_of_the_official_lists_all_6766_clips_are_taken_and_each_splits_leaks_told(tmp_path, capsys):
    home = tmp_path / "hmdb51"
    shutil.copytree(SHARED / "data/hmdb51_splits", home / "testTrainMulti_7030_splits")
    number = 0
    for name in hmdb51.CLASSES:
        (home / name).mkdir()
        for clip, _ in hmdb51.read_split_file(home / f"testTrainMulti_7030_splits/{name}_test_split1.txt"):
            number += 1
            (home / name / clip).write_bytes(number.to_bytes(4, "big"))
    settings = resolve(PrepareSettings, ["data.name=hmdb51", f"paths.data={tmp_path}"])
    videos = _read_splits(settings, read_annotation(settings))
    printed = capsys.readouterr().out
    assert len(videos) == len({video.name for video in videos}) == 6766 and "taking all 6766 videos" in printed
    assert printed.count("3570 train and 1530 test videos of 51 classes") == 3
    assert all(f"{shared} of 1530 test videos come from a source that train has too" in printed for shared in (457, 527, 529))
    settings = resolve(PrepareSettings, ["column=hmdb51_3", f"paths.data={tmp_path}"])
    assert len(_read_splits(settings, read_annotation(settings))) == 5100
    assert "leaving 1666 videos alone that have no side in split 3" in capsys.readouterr().out
