"""The generated stand-ins: read by the official readers, the actor where the boxes say, the same bytes each time."""

import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datamodules import hmdb51, hollywood2, miniature, sports1m, ucf11, ucf101
from datamodules.boxes import read_boxes
from datamodules.decoding import probe, read_frames
from datamodules.videos import MINIATURE_MARKER, Annotation

READERS = {
    "ucf11": ucf11.read,
    "hmdb51": hmdb51.read,
    "hollywood2": hollywood2.read,
    "ucf101": ucf101.read,
    "sports1m": sports1m.read,
}
SPLITS = {
    "ucf11": ("paper_like", "logo-3"),
    "hmdb51": ("1", "2", "3"),
    "hollywood2": ("official",),
    "ucf101": ("1", "3"),
    "sports1m": ("original",),
}
RING_NOTE = "UCF-11: drawn with data.truth=ring: nothing marks the actor that counts, in the middle of the others"
SMALL = {"ucf11": 25, "hmdb51": 36, "hollywood2": 27, "ucf101": 16, "sports1m": 12}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, tuple[Path, dict[str, Annotation], list[miniature.Clip]]]:
    """Every data set in small: its folder, what the official reader finds there under each split, and the clips."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ucf11, "PREFIXES", {"basketball": "shooting"})
        patch.setattr(miniature, "CLIPS_PER_GROUP", 1)
        patch.setattr(hmdb51, "CLASSES", ["kick", "kick_ball", "run", "sit", "situp", "wave"])
        patch.setattr(miniature, "HMDB_SIDES", (("1", 3), ("0", 1), ("2", 2)))
        patch.setattr(miniature, "HOLLYWOOD_CLIPS", {"train": 14, "test": 13})
        patch.setattr(ucf101, "CLASSES", ("Archery", "HandstandPushups", "Hammering", "YoYo"))
        patch.setattr(miniature, "SPORTS", 4)
        patch.setattr(sports1m, "COUNTS", {"labels": 4})
        patch.setattr(miniature, "SPORTS_CLIPS", {"train": 2, "test": 1})
        for data, read in READERS.items():
            root = tmp_path_factory.mktemp("miniature") / data
            calls: list[tuple[int, int]] = []
            assert miniature.generate(root, data, 2, lambda *numbers, calls=calls: calls.append(numbers))
            assert calls == [(done, SMALL[data]) for done in range(1, SMALL[data] + 1)]
            annotations = {split: read(root, split) for split in SPLITS[data]}
            found[data] = root, annotations, miniature.LAYOUTS[data]()[0]
    return found


each_set = pytest.mark.parametrize("data", list(READERS))


@each_set
def test_the_official_reader_accepts_what_is_written_and_knows_that_it_is_generated(sets, data):
    root, annotations, clips = sets[data]
    for annotation in annotations.values():
        assert annotation.miniature and annotation.data == data
        assert {video.name for video in annotation.videos} <= {clip.name for clip in clips}
        assert all(annotation.path(video).is_file() for video in annotation.videos)
        assert data == "ucf11" or {video.name for video in annotation.listed} == {clip.name for clip in clips}
    listed = {video.name for annotation in annotations.values() for video in annotation.videos}
    assert listed == {clip.name for clip in clips}


@each_set
def test_labels_are_the_actions_that_are_drawn(sets, data):
    _, annotations, clips = sets[data]
    actions = {clip.name: tuple(sorted(clip.actions)) for clip in clips}
    for annotation in annotations.values():
        assert all(video.labels == actions[video.name] for video in annotation.videos)


def test_small_sets_have_the_sizes_of_their_sides(sets):
    sizes = {d: [(len(a.train), len(a.test)) for a in annotations.values()] for d, (_, annotations, _) in sets.items()}
    assert sizes == {
        "ucf11": [(15, 10), (24, 1)],
        "hmdb51": [(18, 12)] * 3,
        "hollywood2": [(14, 13)],
        "ucf101": [(12, 4)] * 2,
        "sports1m": [(8, 4)],
    }


def test_hmdb51_splits_differ(sets):
    _, annotations, _ = sets["hmdb51"]
    assert len({frozenset(v.name for v in annotation.test) for annotation in annotations.values()}) == 3


def test_hollywood2_has_clips_of_several_labels_and_of_none():
    clips, _, _ = miniature.LAYOUTS["hollywood2"]()
    assert {len(clip.actions) for clip in clips} == {0, 1, 2}
    for side in ("train", "test"):
        assert {a for clip in clips if side in clip.name for a in clip.actions} == set(range(12))


@each_set
def test_files_are_as_the_real_ones_in_kind_and_rate(sets, data):
    root, annotations, clips = sets[data]
    rates = {"ucf11": (".mpg", 29.97), "hmdb51": (".avi", 30), "hollywood2": (".avi", 23.976), "ucf101": (".avi", 25)}
    rates["sports1m"] = (".mp4", 30)
    suffix, rate = rates[data]
    annotation = next(iter(annotations.values()))
    for video in annotation.videos[:5]:
        info = probe(annotation.path(video))
        assert video.name.endswith(suffix) and info.fps == pytest.approx(rate, abs=0.01)
        assert (info.width, info.height) == (miniature.WIDTH, miniature.HEIGHT)


@each_set
def test_boxes_cover_every_frame_of_every_video_that_decodes(sets, data):
    root, annotations, clips = sets[data]
    boxes = read_boxes(root / "boxes.csv")
    assert set(boxes) == {clip.name for clip in clips}
    for clip in clips:
        found = boxes[clip.name]
        assert len(found) == sum(1 for _ in read_frames(root / clip.path, 16))
        assert np.isfinite(found).all()


def test_short_clips_occur_and_most_are_not_short(sets):
    lengths = [len(b) for root, *_ in sets.values() for b in read_boxes(root / "boxes.csv").values()]
    assert min(lengths) >= 1
    assert 0 < sum(length < 30 for length in lengths) < len(lengths) / 4


def vividness(frames: np.ndarray) -> np.ndarray:
    """(F, H, W) largest minus smallest channel."""
    return frames.max(axis=-1).astype(int) - frames.min(axis=-1)


def inside(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(F, H, W) whether the pixel's centre lies in the frame's box."""
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    across = (x > boxes[:, :1]) & (x < boxes[:, 2:3])
    down = (y > boxes[:, 1:2]) & (y < boxes[:, 3:4])
    return down[:, :, None] & across[:, None, :]


@each_set
def test_the_actor_is_where_its_box_says_in_every_decoded_frame(sets, data):
    root, _, clips = sets[data]
    boxes = read_boxes(root / "boxes.csv")
    for clip in [clip for clip in clips if clip.actions][::3]:
        frames = np.stack(list(read_frames(root / clip.path)))
        vivid = vividness(frames)
        here = inside(boxes[clip.name], *frames.shape[1:3])
        for t in range(len(frames)):
            assert vivid[t][here[t]].mean() > 2 * vivid[t][~here[t]].mean(), (clip.name, t)
        strongest = vivid > 0.6 * np.percentile(vivid[here], 90)
        assert (strongest & here).sum() > 0.85 * strongest.sum(), clip.name
        assert np.percentile(vivid[here], 90) > 60


@each_set
def test_the_actor_is_small_and_its_box_inside_the_frame(sets, data):
    for found in read_boxes(sets[data][0] / "boxes.csv").values():
        area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
        assert (area > 0.01).all() and (area < 0.15).all()
        assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("first", ["one", "two"])
def test_the_actor_of_two_actions_does_them_one_after_the_other(first):
    clips = [clip for clip in miniature.LAYOUTS["hollywood2"]()[0] if len(clip.actions) == 2]
    clip = clips[0 if first == "one" else -1]
    both, _ = miniature.draw(clip)
    alone, _ = miniature.draw(replace(clip, actions=clip.actions[:1]))
    half = len(both) // 2
    assert np.array_equal(both[: half - 1], alone[: half - 1])
    assert not np.array_equal(both[half + 1], alone[half + 1])


@each_set
def test_clips_of_one_group_share_their_scene(sets, data):
    _, annotations, clips = sets[data]
    scene = {clip.name: clip.scene for clip in clips}
    scenes = defaultdict(set)
    for annotation in annotations.values():
        for video in annotation.videos:
            scenes[video.group].add(scene[video.name])
    assert {len(found) for found in scenes.values()} == {1}


@each_set
def test_clips_of_one_scene_are_one_group_so_that_a_hold_out_does_not_separate_them(sets, data):
    _, annotations, clips = sets[data]
    scene = {clip.name: clip.scene for clip in clips}
    groups = defaultdict(set)
    for annotation in annotations.values():
        for video in annotation.videos:
            groups[scene[video.name]].add(video.group)
    assert {len(found) for found in groups.values()} == {1}


def test_the_background_of_a_group_is_seen_to_be_the_same():
    clips = miniature.LAYOUTS["ucf11"]()[0][:8]  # two of each of four groups
    backgrounds, groups = [], [clip.scene for clip in clips]
    for clip in clips:
        frames, boxes = miniature.draw(clip)
        away = np.broadcast_to(inside(boxes, *frames.shape[1:3])[..., None], frames.shape)
        backgrounds.append(np.ma.median(np.ma.array(frames, mask=away), axis=0))  # masked where the actor always is
    assert len(set(groups)) == 4
    for i in range(0, 8, 2):
        same = abs(backgrounds[i] - backgrounds[i + 1]).mean()
        others = [abs(backgrounds[i] - backgrounds[j]).mean() for j in range(8) if groups[j] != groups[i]]
        assert same < min(others)


# drawing


def test_a_drawing_depends_on_the_name_and_not_on_where_it_is_written():
    clip = miniature.LAYOUTS["hmdb51"]()[0][3]
    frames, boxes = miniature.draw(clip)
    np.random.seed(1)
    again, same_boxes = miniature.draw(replace(clip, path="elsewhere.avi", codec="mpeg1video"))
    assert np.array_equal(frames, again) and np.array_equal(boxes, same_boxes)
    other, _ = miniature.draw(replace(clip, name=clip.name + "x"))
    assert other.shape != frames.shape or not np.array_equal(other, frames)


def test_a_drawing_has_a_box_a_frame():
    frames, boxes = miniature.draw(miniature.LAYOUTS["ucf11"]()[0][0])
    assert frames.dtype == np.uint8 and frames.shape[1:] == (miniature.HEIGHT, miniature.WIDTH, 3)
    assert boxes.shape == (len(frames), 4)


@pytest.mark.parametrize("data", ["hmdb51", "hollywood2", "ucf11", "ucf101", "sports1m"])
def test_classes_look_or_move_differently(data):
    actions = {action for clip in miniature.LAYOUTS[data]()[0] for action in clip.actions}
    u, v = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21))
    looks = set()
    for action in actions:
        mask, tone = miniature.figure(action, u, v)
        moves = [miniature.motion(action, t, 0.3) for t in range(20)]
        path = np.concatenate([np.append(offset, [angle, scale]) for offset, angle, scale in moves])
        looks.add(mask.tobytes() + tone[mask].tobytes() + path.tobytes() + miniature.palette(action).tobytes())
    assert len(looks) == len(actions) == {"hmdb51": 51, "hollywood2": 12, "ucf11": 11, "ucf101": 101, "sports1m": 12}[data]


# a crowd


@pytest.fixture(scope="module")
def crowds() -> list[tuple[miniature.Clip, np.ndarray, np.ndarray]]:
    """Some clips of UCF-11, one of each class: clip, frames, boxes."""
    clips = miniature.LAYOUTS["ucf11"]()[0]
    return [(clip, *miniature.draw(clip)) for clip in clips[:: miniature.CLIPS_PER_GROUP * ucf11.GROUPS]]


def test_beside_the_marked_actor_others_do_other_classes_actions():
    clips = miniature.LAYOUTS["ucf11"]()[0]
    assert all(len({*clip.actions, *clip.crowd}) == 1 + miniature.CROWD for clip in clips)
    seen = Counter(action for clip in clips for action in clip.crowd)
    assert set(seen) == set(range(11)) and max(seen.values()) < 1.4 * min(seen.values())
    assert not any(
        clip.crowd for data in ("hmdb51", "hollywood2", "ucf101", "sports1m") for clip in miniature.LAYOUTS[data]()[0]
    )


def test_the_halo_and_nothing_else_is_white_and_lies_around_the_box(crowds):
    y, x = np.indices((miniature.HEIGHT, miniature.WIDTH)) + 0.5
    for _, frames, boxes in crowds:
        for frame, (left, top, right, bottom) in zip(frames, boxes, strict=True):
            white = frame.min(axis=-1) > 210
            apart = np.hypot(x - miniature.WIDTH * (left + right) / 2, y - miniature.HEIGHT * (top + bottom) / 2)
            assert white.sum() > 150 and apart[white].max() < miniature.HALO_RADIUS + 2


def test_the_others_are_as_vivid_as_the_marked_actor(crowds):
    for _, frames, boxes in crowds:
        vivid = vividness(frames) > 100
        here = inside(boxes, *frames.shape[1:3])
        assert 1.5 < vivid.sum() / (vivid & here).sum() < 10  # four of them share what is vivid


def test_the_marked_actor_stands_in_every_place():
    clips = miniature.LAYOUTS["ucf11"]()[0][:60]
    middles = np.array([(boxes[0, :2] + boxes[0, 2:]) / 2 for _, boxes in map(miniature.draw, clips)])
    places = miniature.PLACES / (miniature.WIDTH, miniature.HEIGHT)
    apart = np.abs(middles[:, None] - places).max(axis=-1)
    assert apart.min(axis=1).max() < 0.06 and set(apart.argmin(axis=1)) == set(range(len(places)))


def test_of_a_ring_nothing_marks_the_actor_that_counts_and_it_stands_in_the_middle(crowds):
    angles = []
    for clip, marked, _ in crowds:
        frames, boxes = miniature.draw(replace(clip, truth=miniature.RING))
        assert len(frames) == len(marked) and frames.min(axis=-1).max() < 210
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert abs(middles.mean(axis=0) - 0.5).max() < 0.05 and abs(middles - 0.5).max() < 0.06
        others = (vividness(frames) > 100) & ~inside(boxes, *frames.shape[1:3])
        y, x = np.nonzero(others.any(axis=0))
        out = (np.stack([x, y]) - [[miniature.WIDTH / 2], [miniature.HEIGHT / 2]]) / miniature.RADII[:, None]
        assert np.mean(np.hypot(*out) > 0.5) > 0.95
        angles.append(np.angle((out[0] + 1j * out[1]) ** miniature.CROWD).mean())
    assert np.ptp(angles) > 1, "others stand elsewhere in each clip"


# generating


@pytest.fixture
def tiny(monkeypatch) -> int:
    """Six clips of Hollywood2."""
    monkeypatch.setattr(miniature, "HOLLYWOOD_CLIPS", {"train": 3, "test": 3})
    return 6


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_generating_twice_gives_the_same_bytes_also_after_an_interruption(tiny, tmp_path):
    assert miniature.generate(tmp_path / "one", "hollywood2", workers=1)
    interrupted = tmp_path / "two"
    (interrupted / "Hollywood2/AVIClips").mkdir(parents=True)
    (interrupted / ".miniature").write_text("generated, may be removed\n")
    (interrupted / "Hollywood2/AVIClips/actioncliptrain00001.avi").write_bytes(b"half a clip")
    assert not miniature.is_complete(interrupted)
    assert miniature.generate(interrupted, "hollywood2", workers=2)
    one, two = contents(tmp_path / "one"), contents(interrupted)
    assert one == two and sum(name.endswith(".avi") for name in one) == tiny
    assert not [name for name in one if ".part" in name]
    # a complete set is left alone
    before = {path: path.stat().st_mtime_ns for path in interrupted.rglob("*")}
    assert miniature.is_complete(interrupted) and not miniature.generate(interrupted, "hollywood2")
    assert {path: path.stat().st_mtime_ns for path in interrupted.rglob("*")} == before


def test_another_version_of_the_drawings_is_not_complete(tmp_path, monkeypatch):
    (tmp_path / MINIATURE_MARKER).write_text(f'{{"version": {miniature.VERSION}}}')
    assert miniature.is_complete(tmp_path)
    monkeypatch.setattr(miniature, "VERSION", miniature.VERSION + 1)
    assert not miniature.is_complete(tmp_path)


def test_a_set_of_another_truth_is_not_the_one_that_is_asked_for_and_says_which_it_is(sets, monkeypatch, tmp_path):
    monkeypatch.setattr(ucf11, "PREFIXES", {"basketball": "shooting"})
    root, annotations, _ = sets["ucf11"]
    assert miniature.is_complete(root) and not miniature.is_complete(root, miniature.RING)
    for name in ("ring", "again"):
        shutil.copytree(root, tmp_path / name)
        marker = tmp_path / name / MINIATURE_MARKER
        marker.write_text(marker.read_text().replace('"halo"', '"ring"'))
    assert miniature.is_complete(tmp_path / "ring", miniature.RING) and not miniature.is_complete(tmp_path / "ring")
    usual, ring = annotations["paper_like"], ucf11.read(tmp_path / "ring")
    assert ring.notes == (*usual.notes, RING_NOTE) and ring.videos == usual.videos


@each_set
def test_a_folder_with_other_content_is_refused_and_left_as_it_was(tmp_path, data):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="paths.data") as error:
        miniature.generate(tmp_path, data)
    assert str(tmp_path.resolve()) in str(error.value)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}
