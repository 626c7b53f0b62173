"""UCF-11 against the list of its 1600 files."""

from collections import Counter
from pathlib import Path

import pytest

from datamodules import ucf11
from datamodules.parts import WHOLE, Part
from datamodules.videos import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared"
LIST = SHARED / "data" / "ucf11_files.txt"
CLIPS = SHARED / "data" / "ucf11_groups_1_to_3"
pytestmark = pytest.mark.skipif(not LIST.is_file(), reason=f"the list of UCF-11's files is not there: {LIST}")


@pytest.fixture(scope="module")
def paths() -> list[str]:
    return LIST.read_text().split()


def lay_out(folder: Path, paths: list[str]) -> None:
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


@pytest.fixture(scope="module")
def root(tmp_path_factory, paths) -> Path:
    """The official layout with placeholders, and the annotation folders that lie between the clips."""
    root = tmp_path_factory.mktemp("ucf11")
    lay_out(root / "UCF11_updated_mpg", paths)
    (root / "UCF11_updated_mpg/biking/Annotation").mkdir()
    (root / "UCF11_updated_mpg/biking/Annotation/v_biking_01_01.xgtf").write_text("<xml/>")
    return root


def sides(annotation) -> tuple[set[str], set[str]]:
    return {v.name for v in annotation.train}, {v.name for v in annotation.test}


def groups(videos) -> set[str]:
    return {video.group for video in videos}


def test_the_table_of_clips_equals_the_list(paths):
    counted = Counter()
    for path in paths:
        name, _, file = path.split("/")
        prefix, group, _ = file.removesuffix(".mpg").rsplit("_", 2)
        assert prefix == f"v_{ucf11.PREFIXES[name]}"
        counted[name, int(group)] += 1
    assert counted == {(name, g): n for name, row in ucf11.CLIPS.items() for g, n in enumerate(row, start=1)}
    assert len(paths) == sum(map(sum, ucf11.CLIPS.values())) == 1600


@pytest.mark.parametrize("split", ["paper_like", "random", "logo-7"])
def test_every_split_holds_exactly_the_files_of_the_list(root, paths, split):
    train, test = sides(ucf11.read(root, split))
    assert train | test == set(paths) and not train & test


def test_paper_like_is_975_to_625_with_no_group_on_both_sides(root):
    annotation = ucf11.read(root)
    assert annotation.split == "paper_like"
    assert (len(annotation.train), len(annotation.test)) == (975, 625)
    assert not groups(annotation.train) & groups(annotation.test)
    assert len(groups(annotation.videos)) == 11 * 25
    assert {int(v.name.rsplit("_", 2)[1]) for v in annotation.test} == set(range(5, 15))


def test_groups_5_to_14_are_the_only_contiguous_range_that_totals_625():
    totals = [sum(row[group] for row in ucf11.CLIPS.values()) for group in range(25)]
    ranges = [(a + 1, b) for a in range(25) for b in range(a + 1, 26) if sum(totals[a:b]) == 625]
    assert ranges == [(5, 14)] == [(ucf11.TEST_GROUPS[0], ucf11.TEST_GROUPS[-1])]


def test_the_25_leave_one_group_out_splits_partition_the_clips(root, paths):
    tested = Counter()
    for group in range(1, 26):
        annotation = ucf11.read(root, f"logo-{group}")
        train, test = sides(annotation)
        assert len(train) + len(test) == 1600
        assert {int(name.rsplit("_", 2)[1]) for name in test} == {group}
        assert not groups(annotation.train) & groups(annotation.test)
        tested.update(test)
    assert tested == dict.fromkeys(paths, 1)


def test_random_is_975_to_625_the_same_each_time_and_says_that_it_leaks(root):
    annotation = ucf11.read(root, "random")
    assert (len(annotation.train), len(annotation.test)) == (975, 625)
    assert sides(ucf11.read(root, "random")) == sides(annotation)
    assert len(groups(annotation.train) & groups(annotation.test)) > 100
    assert any("LEAKY" in note and "random" in note for note in annotation.notes)


def test_paper_like_says_that_it_is_a_guess_and_leave_one_out_has_nothing_to_say(root):
    (note,) = ucf11.read(root, "paper_like").notes
    assert "guess" in note and "LEAKY" not in note
    assert ucf11.read(root, "logo-1").notes == ()


def test_labels_are_the_class_folders_and_groups_never_span_classes(root):
    annotation = ucf11.read(root)
    assert len(annotation.classes) == 11 and not annotation.multi_label and not annotation.miniature
    for video in annotation.videos:
        (label,) = video.labels
        assert annotation.classes[label] == video.name.split("/")[0]
    assert len({(video.group, video.labels) for video in annotation.videos}) == len(groups(annotation.videos))


def test_class_folders_directly_below_the_root_are_found_too(root):
    assert sides(ucf11.read(root / "UCF11_updated_mpg")) == sides(ucf11.read(root))


@pytest.mark.parametrize("split", ["paper", "logo-0", "logo-26", "logo-", "logo-01", "1", ""])
def test_an_unknown_split_is_refused_and_the_known_ones_are_named(root, split):
    with pytest.raises(DataError, match="UCF-11 has paper_like, logo, logo-1 … logo-25, and random"):
        ucf11.read(root, split)


def test_no_data_is_refused_with_the_paths_looked_at_and_the_address(tmp_path):
    with pytest.raises(DataError) as error:
        ucf11.read(tmp_path / "nothing")
    assert str(tmp_path / "nothing" / "UCF11_updated_mpg") in str(error.value)
    assert "https://www.crcv.ucf.edu/data/UCF11_updated_mpg.rar" in str(error.value)


def test_a_missing_clip_is_named_and_left_out_under_skip_bad(tmp_path, paths):
    gone = "basketball/v_shooting_25/v_shooting_25_06.mpg"
    lay_out(tmp_path, [path for path in paths if path != gone])
    with pytest.raises(DataError, match="v_shooting_25_06"):
        ucf11.read(tmp_path)
    annotation = ucf11.read(tmp_path, skip_bad=True)
    assert (len(annotation.train), len(annotation.test)) == (974, 625)
    assert any("1 videos left out (1 train, 0 test)" in note for note in annotation.notes)


def as_avi(paths: list[str]) -> list[str]:
    return [path.replace(".mpg", ".avi") for path in paths]


@pytest.mark.parametrize(
    "place", ["action_youtube_naudio", "", "action_youtube_naudio/action_youtube_naudio", "../action_youtube_naudio"]
)
def test_the_avi_edition_has_the_same_clips_wherever_it_lies(tmp_path, paths, root, place):
    own = tmp_path / "data" / "ucf11"
    own.mkdir(parents=True)
    lay_out(own / place, as_avi(paths))
    for split in ("paper_like", "random"):
        found, known = sides(ucf11.read(own, split)), sides(ucf11.read(root, split))
        assert found == tuple(set(as_avi(sorted(side))) for side in known)


def test_both_editions_at_once_are_refused_by_name(tmp_path, paths):
    lay_out(tmp_path / "action_youtube_naudio", as_avi(paths[:1]))
    lay_out(tmp_path / "UCF11_updated_mpg", paths[:1])
    with pytest.raises(DataError, match=r"there twice: .*UCF11_updated_mpg and .*action_youtube_naudio"):
        ucf11.read(tmp_path)


def test_an_avi_edition_in_a_folder_of_another_name_is_known_by_its_clips(tmp_path, paths):
    lay_out(tmp_path / "UCF11_updated_mpg", as_avi(paths))  # where an archive's contents are put, whatever is in it
    assert {video.name[-4:] for video in ucf11.read(tmp_path).videos} == {".avi"}


def test_a_part_takes_its_groups_alone_and_names_them(tmp_path, paths):
    lay_out(tmp_path / "UCF11_updated_mpg", [path for path in paths if path.rsplit("_", 2)[1] in ("01", "02", "03")])
    annotation = ucf11.read(tmp_path, "logo-2", part=Part((1, 2, 3)))
    assert annotation.split == "logo-2 of groups 1-3" and annotation.part == "groups 1-3" and len(annotation.classes) == 11
    assert {ucf11.group_number(video) for video in annotation.test} == {2}
    assert {ucf11.group_number(video) for video in annotation.train} == {1, 3}
    assert len(annotation.videos) == sum(sum(row[:3]) for row in ucf11.CLIPS.values())
    with pytest.raises(DataError, match=r"no test video(.|\n)*groups 1-3; data\.split must leave videos"):
        ucf11.read(tmp_path, "paper_like", part=Part((1, 2, 3)))


def test_leaving_each_group_out_in_its_turn_is_a_tables_affair(root):
    assert ucf11.turns(Part((1, 2, 3))) == ("logo-1", "logo-2", "logo-3")
    assert ucf11.turns(WHOLE) == tuple(f"logo-{group}" for group in range(1, 26))
    assert ucf11.is_split("logo")
    with pytest.raises(DataError, match="data.split=logo: is every group in turn, .* a run takes one: logo-2, logo-5"):
        ucf11.read(root, "logo", part=Part((2, 5)))


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"real clips are not there: {CLIPS}")
def test_the_real_clips_are_a_part_of_the_avi_edition(tmp_path):
    (tmp_path / "action_youtube_naudio").symlink_to(CLIPS)
    names = tuple(name for name in ucf11.PREFIXES if name not in ("swing", "volleyball_spiking"))
    annotation = ucf11.read(tmp_path, "logo-1", part=Part((1, 2, 3), names))
    assert (len(annotation.train), len(annotation.test), annotation.part) == (111, 53, "groups 1-3, 9 classes")
    assert all(annotation.path(video).is_file() for video in annotation.videos)
