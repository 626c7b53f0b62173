"""ViPER annotations, laid out as UCF-11's archive does, against boxes worked out by hand."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from handmade import CPU, GRID, fill, stage

from datamodules import ucf11, viper
from datamodules.base import UCF11DataModule
from datamodules.boxes import cell_coverage, centres_inside
from datamodules.videos import DataError
from datamodules.viper import read_viper

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<viper xmlns="http://lamp.cfar.umd.edu/viper#" xmlns:data="http://lamp.cfar.umd.edu/viperdata#">
    <config>
        <descriptor name="Information" type="FILE">
            <attribute dynamic="false" name="H-FRAME-SIZE" type="http://lamp.cfar.umd.edu/viperdata#dvalue"/>
        </descriptor>
        <descriptor name="PERSON" type="OBJECT">
            <attribute dynamic="true" name="Location" type="http://lamp.cfar.umd.edu/viperdata#bbox"/>
            <attribute dynamic="true" name="biking" type="http://lamp.cfar.umd.edu/viperdata#bvalue">
                <default><data:bvalue value="false"/></default>
            </attribute>
        </descriptor>
    </config>
    <data>
"""
TAIL = "    </data>\n</viper>\n"
SIZE = """<attribute name="SOURCETYPE"/>
<attribute name="NUMFRAMES"><data:dvalue value="40"/></attribute>
<attribute name="FRAMERATE"><data:fvalue value="1.0"/></attribute>
<attribute name="H-FRAME-SIZE"><data:dvalue value="320"/></attribute>
<attribute name="V-FRAME-SIZE"><data:dvalue value="240"/></attribute>
"""


def bbox(x, y, width, height, span: str = "") -> str:
    spanned = f'framespan="{span}" ' if span else ""
    return f'<data:bbox {spanned}height="{height}" width="{width}" x="{x}" y="{y}"/>\n'


def person(*boxes: str, span: str = "1:40", name: str = "PERSON", acts: str = "") -> str:
    doing = f'<data:bvalue framespan="{span}" value="{acts}"/>' if acts else ""
    return (
        f'<object framespan="{span}" id="0" name="{name}">\n<attribute name="Location">\n{"".join(boxes)}</attribute>\n'
        f'<attribute name="biking">{doing}</attribute>\n</object>\n'
    )


def source(*objects: str, name: str = "v_biking_05_01.mpg", size: str = SIZE) -> str:
    return f'<sourcefile filename="{name}">\n<file id="0" name="Information">\n{size}</file>\n{"".join(objects)}</sourcefile>\n'


def write(folder: Path, *sources: str, name: str = "v_biking_05_01.xgtf") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + "".join(sources) + TAIL, encoding="utf-8")
    return path


def line_of(path: Path, text: str) -> int:
    return 1 + path.read_text().split(text)[0].count("\n")


# reading


def test_boxes_are_fractions_of_the_frame_by_spans_that_count_from_1(tmp_path):
    path = write(tmp_path, source(person(bbox(80, 60, 160, 120, "1:2"), bbox(0, 0, 32, 24, "4:4 6:7"))))
    found = read_viper(path, 8)
    first, second, none = [0.25, 0.25, 0.75, 0.75], [0, 0, 0.1, 0.1], [np.nan] * 4
    assert found.shape == (8, 1, 4)
    np.testing.assert_allclose(found[:, 0], [first, first, none, second, none, second, second, none])


@pytest.mark.timeout(240)  # no frame is counted one by one
def test_frames_beyond_the_film_and_before_the_first_are_left_out(tmp_path):
    path = write(tmp_path, source(person(bbox(0, 0, 320, 240, "0:2"), bbox(0, 0, 160, 240, "9:999999999"), span="0:999999999")))
    found = read_viper(path, 10)[:, 0]
    assert found[:2].tolist() == [[0, 0, 1, 1]] * 2 and np.isnan(found[2:8]).all()
    assert found[8:].tolist() == [[0, 0, 0.5, 1]] * 2


def test_a_box_holds_only_while_its_object_is_there(tmp_path):
    path = write(
        tmp_path, source(person(bbox(0, 0, 320, 240, "1:10"), span="3:4 6:6"), person(bbox(0, 0, 320, 120), span="2:2"))
    )
    found = read_viper(path, 8)
    assert np.flatnonzero(np.isfinite(found[:, 0, 0])).tolist() == [2, 3, 5]
    assert np.flatnonzero(np.isfinite(found[:, 1, 0])).tolist() == [1], "without a span of its own, its object's"


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-32, -24, 64, 48), [0, 0, 0.1, 0.1]),
        ((288, 216, 99, 99), [0.9, 0.9, 1, 1]),
        ((-10.5, 0, 330.5, 240), [0, 0, 1, 1]),
        ((320, 0, 10, 10), None),
        ((-40, 0, 40, 10), None),
        ((10, 10, 0, 20), None),
        ((10, 10, 20, 0), None),
        ((30, 10, -20, 10), None),
    ],
)
def test_boxes_are_cut_at_the_frame_and_empty_ones_are_none(tmp_path, box, expected):
    found = read_viper(write(tmp_path, source(person(bbox(*box, "1:1")))), 1)[0, 0]
    assert np.isnan(found).all() if expected is None else np.allclose(found, expected)


def test_of_all_persons_those_who_act_are_the_actors(tmp_path):
    bystander, actor = person(bbox(0, 0, 32, 24, "1:9"), acts="false"), person(bbox(32, 24, 32, 24, "1:9"), acts="true")
    ball = person(bbox(0, 0, 320, 240, "1:9"), name="BALL", acts="true")
    found = read_viper(write(tmp_path, source(bystander, actor, ball)), 9)
    np.testing.assert_allclose(found, np.broadcast_to([0.1, 0.1, 0.2, 0.2], (9, 1, 4)))
    both = read_viper(write(tmp_path, source(bystander, bystander, ball)), 9)
    assert both.shape == (9, 2, 4), "where nobody is said to act, everybody does"
    assert read_viper(write(tmp_path, source(ball)), 9).shape == (9, 0, 4)


def test_of_several_films_the_one_of_the_files_name_is_read(tmp_path):
    other = source(person(bbox(0, 0, 32, 24, "1:1")), name="C:\\clips\\v_biking_05_02.avi")
    same = source(person(bbox(32, 24, 32, 24, "1:1")), name="file:/D:/clips/v_biking_05_01.avi")
    assert np.allclose(read_viper(write(tmp_path, other, same), 1), [0.1, 0.1, 0.2, 0.2])
    assert np.allclose(read_viper(write(tmp_path, other, same, name="v_biking_05_02.xgtf"), 1), [0, 0, 0.1, 0.1])
    assert np.allclose(read_viper(write(tmp_path, other, same, name="renamed.xgtf"), 1), [0, 0, 0.1, 0.1]), "or the first"


EMPTY_SIZE = '<attribute name="H-FRAME-SIZE"/><attribute name="V-FRAME-SIZE"/>'


@pytest.mark.parametrize("size", ["", EMPTY_SIZE, SIZE.replace("320", "0")], ids=["none", "empty", "zero"])
def test_without_a_frame_size_the_films_is_taken(tmp_path, size):
    path = write(tmp_path, source(person(bbox(16, 12, 32, 24, "1:1")), size=size))
    assert np.allclose(read_viper(path, 1, (64, 48)), [0.25, 0.25, 0.75, 0.75])
    with pytest.raises(DataError, match="no H-FRAME-SIZE and V-FRAME-SIZE"):
        read_viper(path, 1)


def test_the_files_own_frame_size_goes_before_the_films(tmp_path):
    path = write(tmp_path, source(person(bbox(80, 60, 160, 120, "1:1"))))
    assert np.allclose(read_viper(path, 1, (640, 480)), [0.25, 0.25, 0.75, 0.75])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_other_encodings_are_read(tmp_path, encoding):
    path = tmp_path / "clip.xgtf"
    declared = {"utf-8-sig": "UTF-8", "utf-16": "UTF-16", "latin-1": "ISO-8859-1"}[encoding]
    text = (HEAD + source(person(bbox(0, 0, 320, 240, "1:1")), name="é.mpg") + TAIL).replace("UTF-8", declared)
    path.write_bytes(text.encode(encoding))
    assert read_viper(path, 1).tolist() == [[[0, 0, 1, 1]]]


# what can be wrong


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        ('framespan="5:6"', 'framespan="5"', "framespan='5', expected <first>:<last>"),
        ('framespan="5:6"', 'framespan="a:b"', "framespan='a:b', expected"),
        ('framespan="5:6"', 'framespan="-5:6"', "framespan='-5:6', expected"),
        ('framespan="5:6"', 'framespan="6:5"', "framespan='6:5' ends before it begins"),
        ('framespan="5:6"', 'framespan="1:9999999999"', "framespan='1:9999999999', expected <first>:<last>"),
        ('x="7"', 'x="left"', "x='left', expected a number"),
        ('x="7"', 'x="nan"', "x='nan', expected a number"),
        ('x="7"', 'x="inf"', "x='inf', expected a number"),
        ('x="7"', "", "x=None, expected a number"),
        ('value="320"', 'value="wide"', "value='wide', expected a number"),
    ],
)
def test_what_cannot_be_read_is_named_with_file_and_line(tmp_path, good, bad, says):
    path = write(tmp_path, source(person(bbox(7, 8, 9, 10, "5:6"))))
    line = line_of(path, good)
    path.write_text(path.read_text().replace(good, bad))
    with pytest.raises(DataError) as error:
        read_viper(path, 40)
    assert f"{path}, line {line}: {says}" in str(error.value) and "remove the file" in str(error.value)


def test_a_file_that_is_cut_short_is_named_with_its_last_line(tmp_path):
    path = write(tmp_path, source(person(bbox(7, 8, 9, 10, "5:6"))))
    text = path.read_text()[:-40]
    path.write_text(text)
    with pytest.raises(DataError, match=rf"line {text.count(chr(10)) + 1}: no well-formed XML"):
        read_viper(path, 40)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize("content", [b"", b"MThd\0\0\0", b"\xff\xfe\0", b"{}", "<viper>".encode("utf-16")])
def test_something_else_is_no_xml(tmp_path, content):
    path = tmp_path / "clip.xgtf"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"clip\.xgtf, line 1: no well-formed XML"):
        read_viper(path, 40)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize("encoding", ["TTF-8", "big5", "rot13", "idna", "utf-32", "\u00e4"])
def test_an_encoding_that_is_none_is_named(tmp_path, encoding):
    path = tmp_path / "clip.xgtf"
    path.write_text((HEAD + source(person(bbox(0, 0, 320, 240, "1:1"))) + TAIL).replace("UTF-8", encoding), encoding="utf-8")
    with pytest.raises(DataError, match=r"clip\.xgtf, line 1: no"):
        read_viper(path, 1)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize("content", ["<html/>", "<viper><config/></viper>", "<sourcefile/>"])
def test_xml_without_a_film_is_no_annotation(tmp_path, content):
    path = tmp_path / "clip.xgtf"
    path.write_text(content)
    with pytest.raises(DataError, match="no <sourcefile>"):
        read_viper(path, 40)


BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<viper><data><sourcefile filename="&c;"/></data></viper>
"""
OUTSIDE = '<!DOCTYPE viper SYSTEM "file:///etc/passwd">\n<viper><data/></viper>\n'


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(("content", "line"), [(BOMB, 2), (OUTSIDE, 1)])
def test_document_types_and_entities_are_refused(tmp_path, content, line):
    path = tmp_path / "clip.xgtf"
    path.write_text(content)
    with pytest.raises(DataError, match=f"line {line}: a document type"):
        read_viper(path, 40)


def test_files_and_crowds_beyond_reason_are_refused(tmp_path, monkeypatch):
    crowd = write(tmp_path, source(*[person(bbox(0, 0, 9, 9, "1:1"))] * (viper.MOST_ACTORS + 1)))
    with pytest.raises(DataError, match="101 actors in one film"):
        read_viper(crowd, 40)
    monkeypatch.setattr(viper, "LARGEST", 1000)
    with pytest.raises(DataError, match="larger than"):
        read_viper(crowd, 40)


@pytest.mark.counts("damaged lists")
def test_a_folder_of_that_name_is_no_file(tmp_path):
    (tmp_path / "clip.xgtf").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_viper(tmp_path / "clip.xgtf", 40)


# UCF-11 in its official folders


FRAMES = 33


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Iterator[tuple[Path, Path]]:
    """Placeholders of the first clip of every group, and a store of their features; the data set is taken for that small."""
    root = tmp_path_factory.mktemp("official")
    names = []
    for folder, prefix in ucf11.PREFIXES.items():
        for group in range(1, ucf11.GROUPS + 1):
            stem = f"v_{prefix}_{group:02d}"
            (root / "UCF11_updated_mpg" / folder / stem).mkdir(parents=True)
            names.append(f"{folder}/{stem}/{stem}_01.mpg")
            (root / "UCF11_updated_mpg" / names[-1]).write_bytes(b"x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ucf11, "CLIPS", dict.fromkeys(ucf11.PREFIXES, (1,) * ucf11.GROUPS))
        patch.setattr("os.fsync", lambda descriptor: None)
        yield root, fill(tmp_path_factory.mktemp("features"), dict.fromkeys(names, FRAMES)).path


@pytest.fixture
def annotated(official):
    """Annotations of a train video and four test videos, one of which is cut short and one has no box."""
    root, _ = official
    folders = [root / "UCF11_updated_mpg" / name / "Annotation" for name in ("biking", "walking")]
    two = (bbox(0, 0, 160, 240, "1:10"), bbox(80, 0, 160, 240, "1:10"))
    write(folders[0], source(*(person(box) for box in two)), name="v_biking_05_01.xgtf")
    write(folders[0], source(name="v_biking_06_01.mpg"), name="v_biking_06_01.xgtf")
    write(folders[0], source(person(two[0])), name="v_biking_01_01.xgtf")
    write(folders[1], source(person(bbox(16, 12, 32, 24, "1:33")), size=""), name="v_walk_dog_14_01.xgtf")
    (folders[1] / "v_walk_dog_13_01.xgtf").write_text(HEAD)
    yield folders
    for folder in folders:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def test_ucf11_measures_against_its_own_annotations_and_says_on_how_many_videos(official, annotated):
    data = UCF11DataModule(*official)
    assert data.has_boxes
    measured, wrong = (note for note in data.notes if "boxes" in note)
    assert measured.endswith("which 2 of 110 test videos have")
    assert "1 annotations of boxes cannot be read" in wrong and f"{annotated[1]}/v_walk_dog_13_01.xgtf, line" in wrong

    data.trainer = stage("test")
    found = {}
    for span in data.test_dataloader():
        batch = data.transfer_batch_to_device(span, CPU, 0)
        found.setdefault(data.videos("test")[batch.video].name, batch)
    boxes = {
        "biking/v_biking_05/v_biking_05_01.mpg": ([0, 0, 0.75, 1], 10),
        "walking/v_walk_dog_14/v_walk_dog_14_01.mpg": ([0.25, 0.25, 0.75, 0.75], 33),
    }
    assert set(boxes) <= set(found) and len(found) == 110
    for name, batch in found.items():
        assert batch.grid == GRID and batch.coverage.shape == batch.inside.shape == (FRAMES, GRID[0] * GRID[1])
        if name not in boxes:
            assert batch.coverage.isnan().all() and batch.inside.isnan().all()
            continue
        box, frames = boxes[name]
        union = np.array([box])
        assert np.allclose(batch.coverage[:frames], cell_coverage(union, GRID)) and batch.coverage[frames:].isnan().all()
        assert np.array_equal(batch.inside[:frames], np.repeat(centres_inside(union, GRID), frames, axis=0))


def test_ucf11_without_annotations_has_no_boxes_and_nothing_to_say(official):
    data = UCF11DataModule(*official)
    assert not data.has_boxes and data.notes == []


def test_a_table_of_boxes_goes_before_the_annotations(official, annotated):
    root, features = official
    table = root / "boxes.csv"
    table.write_text("video,frame,left,top,right,bottom\nbiking/v_biking_05/v_biking_05_01.mpg,0,0,0,1,1\n")
    try:
        data = UCF11DataModule(root, features)
    finally:
        table.unlink()
    assert data.has_boxes and data.notes == []


def test_annotations_are_found_in_folders_of_groups_too(tmp_path):
    for name in ("basketball/Annotation/v_shooting_01_01.xgtf", "diving/Annotation/v_diving_02/v_diving_02_03.xgtf"):
        write(tmp_path, source(), name=name)
    (tmp_path / "diving/v_diving_02").mkdir()
    (tmp_path / "diving/v_diving_02/v_diving_02_03.mpg").touch()
    found = ucf11.annotation_files(tmp_path)
    assert {stem: file.name for stem, file in found.items()} == {
        stem: f"{stem}.xgtf" for stem in ("v_shooting_01_01", "v_diving_02_03")
    }
