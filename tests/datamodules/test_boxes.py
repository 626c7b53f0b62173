"""Boxes of the actor, and the share of each cell that they cover."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.boxes import COLUMNS, cell_coverage, centres_inside, read_boxes
from datamodules.videos import DataError

HEADER = "video,frame,left,top,right,bottom"


def write(path: Path, *rows: str) -> Path:
    file = path / "boxes.csv"
    file.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        ((0, 0, 1, 1), {(r, c): 1.0 for r in range(2) for c in range(4)}),
        ((0, 0, 0.25, 0.5), {(0, 0): 1.0}),
        ((0.75, 0.5, 1, 1), {(1, 3): 1.0}),
        ((0.125, 0, 0.375, 0.5), {(0, 0): 0.5, (0, 1): 0.5}),
        ((0.25, 0.25, 0.5, 0.75), {(0, 1): 0.5, (1, 1): 0.5}),
        ((0.3, 0.1, 0.4, 0.2), {(0, 1): 0.4 * 0.2}),
        ((0.125, 0.25, 0.875, 0.75), {(r, c): 0.5 if c in (1, 2) else 0.25 for r in range(2) for c in range(4)}),
    ],
    ids=["whole frame", "one cell", "last cell", "two halves", "two rows", "inside a cell", "middle"],
)
def test_coverage_of_hand_worked_boxes_on_two_rows_of_four(box, cells):
    expected = np.zeros((2, 4))
    for at, share in cells.items():
        expected[at] = share
    assert cell_coverage(np.array([box], dtype=float), (2, 4)) == pytest.approx(expected.reshape(1, 8), abs=1e-6)


def test_locations_go_row_by_row():
    (coverage,) = cell_coverage(np.array([[5 / 7, 2 / 7, 6 / 7, 3 / 7]]), (7, 7))
    assert coverage.argmax() == 2 * 7 + 5 and coverage[2 * 7 + 5] == pytest.approx(1) and coverage.sum() == pytest.approx(1)


edges = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda pair: pair[0] < pair[1])
boxes = st.lists(st.tuples(edges, edges).map(lambda p: (p[0][0], p[1][0], p[0][1], p[1][1])), min_size=1, max_size=5)
grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(boxes, grids)
@settings(deadline=None, max_examples=150)
def test_mean_coverage_is_the_area_of_the_box(boxes, grid):
    array = np.array(boxes)
    coverage = cell_coverage(array, grid)
    area = (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1])
    assert coverage.shape == (len(boxes), grid[0] * grid[1]) and coverage.dtype == np.float32
    assert coverage.min() >= 0 and coverage.max() <= 1 + 1e-6
    assert coverage.mean(axis=1) == pytest.approx(area, abs=1e-6)


@given(boxes, grids)
@settings(deadline=None, max_examples=60)
def test_coverage_equals_a_count_of_points(boxes, grid):
    rows, columns = grid
    fine = 40
    x = (np.arange(columns * fine) + 0.5) / (columns * fine)
    y = (np.arange(rows * fine) + 0.5) / (rows * fine)
    for box, coverage in zip(boxes, cell_coverage(np.array(boxes), grid), strict=True):
        inside = ((y > box[1]) & (y < box[3]))[:, None] & ((x > box[0]) & (x < box[2]))[None]
        counted = inside.reshape(rows, fine, columns, fine).mean(axis=(1, 3)).reshape(-1)
        assert abs(counted - coverage).max() <= 2.5 / fine


def test_a_frame_without_box_has_no_coverage():
    coverage = cell_coverage(np.array([[0, 0, 1, 1], [np.nan] * 4]), (3, 3))
    assert (coverage[0] == 1).all() and np.isnan(coverage[1]).all()


# several boxes a frame


@given(boxes, grids)
def test_one_actor_covers_what_one_box_covers(boxes, grid):
    array = np.array(boxes)
    np.testing.assert_allclose(cell_coverage(array[:, None], grid), cell_coverage(array, grid), atol=1e-6)
    assert np.array_equal(centres_inside(array[:, None], grid), centres_inside(array, grid))


@given(boxes, grids)
@settings(max_examples=40)
def test_several_actors_cover_what_any_of_them_does(boxes, grid):
    """Against a count of points, at most half a point's distance from an edge."""
    rows, columns = grid
    fine = 60
    x, y = (np.arange(columns * fine) + 0.5) / (columns * fine), (np.arange(rows * fine) + 0.5) / (rows * fine)
    inside = np.zeros((len(y), len(x)), dtype=bool)
    for left, top, right, bottom in boxes:
        inside |= ((y > top) & (y < bottom))[:, None] & ((x > left) & (x < right))[None]
    counted = inside.reshape(rows, fine, columns, fine).mean(axis=(1, 3)).reshape(-1)
    (covered,) = cell_coverage(np.array([boxes]), grid)
    assert covered.dtype == np.float32 and abs(counted - covered).max() <= 2.5 * len(boxes) / fine
    assert covered.min() >= 0 and covered.max() <= 1


def test_what_two_actors_share_counts_once():
    half, other = [0, 0, 0.5, 1], [0.25, 0, 0.75, 1]
    covered = cell_coverage(np.array([[half, other], [half, half], [half, [np.nan] * 4], [[np.nan] * 4] * 2]), (1, 2))
    assert covered[:3].tolist() == [[1, 0.5], [1, 0], [1, 0]] and np.isnan(covered[3]).all()
    centres = centres_inside(np.array([[half, other], [half, half], [half, [np.nan] * 4], [[np.nan] * 4] * 2]), (1, 4))
    assert centres[:3].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]] and np.isnan(centres[3]).all()


def test_a_film_of_no_actors_has_no_box_in_any_frame():
    assert (
        np.isnan(cell_coverage(np.empty((3, 0, 4)), (2, 2))).all()
        and np.isnan(centres_inside(np.empty((3, 0, 4)), (2, 2))).all()
    )


@given(boxes, grids)
def test_a_centre_is_inside_where_all_four_edges_say_so(boxes, grid):
    rows, columns = grid
    found = centres_inside(np.array(boxes), grid)
    assert found.shape == (len(boxes), rows * columns) and found.dtype == np.float32
    for (left, top, right, bottom), cells in zip(boxes, found, strict=True):
        for i, cell in enumerate(cells):
            x, y = (i % columns + 0.5) / columns, (i // columns + 0.5) / rows
            assert cell == (left <= x <= right and top <= y <= bottom)


def test_a_frame_without_box_has_no_centre_inside():
    inside = centres_inside(np.array([[0, 0, 0.5, 0.5], [np.nan] * 4]), (2, 2))
    assert inside[0].tolist() == [1, 0, 0, 0] and np.isnan(inside[1]).all()


# reading


def test_boxes_are_read_by_video_and_frame_in_any_order(tmp_path):
    path = write(tmp_path, "b.avi,1,0.5,0.5,1,1", '"odd, ""name"".avi",0,0,0,1,1', "b.avi,0,0,0,0.25,0.5")
    found = read_boxes(path)
    assert set(found) == {"b.avi", 'odd, "name".avi'}
    assert found["b.avi"].tolist() == [[0, 0, 0.25, 0.5], [0.5, 0.5, 1, 1]]


def test_frames_without_a_row_have_no_box(tmp_path):
    found = read_boxes(write(tmp_path, "a.avi,2,0,0,1,1"))["a.avi"]
    assert found.shape == (3, 4) and np.isnan(found[:2]).all() and found[2].tolist() == [0, 0, 1, 1]


def test_a_table_without_rows_has_no_boxes(tmp_path):
    assert read_boxes(write(tmp_path)) == {}


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize(
    "row",
    [
        "a.avi,0,0.5,0,0.5,1",
        "a.avi,0,0.6,0,0.5,1",
        "a.avi,0,0,0.6,1,0.5",
        "a.avi,0,-0.1,0,1,1",
        "a.avi,0,0,0,1.01,1",
        "a.avi,0,0,0,1",
        "a.avi,0,0,0,1,1,1",
        "a.avi,0,left,0,1,1",
        "a.avi,-1,0,0,1,1",
        "a.avi,1.5,0,0,1,1",
        "a.avi,,0,0,1,1",
        "a.avi,0,nan,0,1,1",
        "a.avi,0,0,0,inf,1",
        "a.avi",
    ],
)
def test_a_malformed_row_is_named_with_file_and_line(tmp_path, row):
    path = write(tmp_path, "a.avi,0,0,0,1,1", row)
    with pytest.raises(DataError) as error:
        read_boxes(path)
    assert f"{path}, line 3" in str(error.value) and row in str(error.value)


@pytest.mark.counts("damaged lists")
@pytest.mark.parametrize("text", ["", "video,frame,x,y,w,h\n", "frame,video,left,top,right,bottom\n", "a.avi,0,0,0,1,1\n"])
def test_another_header_is_refused(tmp_path, text):
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(DataError, match="line 1: expected the columns " + HEADER):
        read_boxes(tmp_path / "boxes.csv")


def test_the_columns_are_those_of_the_header():
    assert ",".join(COLUMNS) == HEADER
