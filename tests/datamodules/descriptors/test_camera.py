import cv2
import numpy as np
import pytest

from datamodules.descriptors.camera import EDGE, KeypointDetector, homography, moved_corners, without_motion

RNG = np.random.default_rng(0)
TURN = np.array([[0.999, -0.03, 4.0], [0.03, 0.999, -3.0], [1e-5, 0, 1]])


def scene():
    smooth = cv2.GaussianBlur(RNG.normal(size=(160, 200)), (0, 0), 2)
    return np.clip(128 + 50 * smooth / smooth.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["sift", "orb"])
def test_keypoints_match_where_the_camera_moved_them(kind):
    first = scene()
    second = cv2.warpPerspective(first, TURN, (200, 160))
    detector = KeypointDetector(kind)
    one, other = detector.match(detector.find(first), detector.find(second))
    assert len(one) > 100
    assert np.abs(one - other).max() < 25
    expected = cv2.perspectiveTransform(one[:, None], TURN)[:, 0]
    assert np.mean(np.linalg.norm(expected - other, axis=1) < 1.5) > 0.7
    corners = np.float32([[[0, 0]], [[200, 0]], [[0, 160]], [[200, 160]]])
    error = cv2.perspectiveTransform(corners, homography(one, other)) - cv2.perspectiveTransform(corners, TURN)
    assert np.abs(error).max() < 2


@pytest.mark.parametrize("kind", ["sift", "orb"])
def test_a_blank_frame_matches_nothing(kind):
    detector = KeypointDetector(kind)
    blank = detector.find(np.full((60, 80), 90, np.uint8))
    assert [len(points) for points in detector.match(blank, detector.find(scene()))] == [0, 0]
    assert [len(points) for points in moved_corners(np.zeros((60, 80), np.uint8), np.zeros((60, 80, 2), np.float32))] == [0, 0]


def test_unknown_keypoints_are_refused():
    with pytest.raises(ValueError, match="'surf'; take one of sift, orb"):
        KeypointDetector("surf")


def test_corners_move_with_the_flow_at_their_pixel():
    flow = np.dstack(np.meshgrid(np.arange(200), np.arange(160))).astype(np.float32)  # each pixel's flow is its place
    corners, moved = moved_corners(scene(), flow)
    assert 100 < len(corners) <= 1000
    assert np.array_equal(moved, 2 * corners)


def test_homography_is_the_identity_where_few_matches_agree():
    points = RNG.uniform(0, 100, (200, 2)).astype(np.float32)
    assert np.array_equal(homography(points[:50], points[:50] + 3), np.eye(3)), "50 matches are too few"
    assert homography(points[:51], points[:51] + 3) == pytest.approx(np.array([[1, 0, 3], [0, 1, 3], [0, 0, 1]]), abs=1e-3)
    scattered = RNG.uniform(0, 100, (200, 2)).astype(np.float32)
    assert np.array_equal(homography(points, scattered), np.eye(3)), "too few of the matches agree"


def test_second_frame_is_seen_from_the_first_cameras_place():
    first = scene()
    second = np.roll(first, 7, axis=1)
    shift = np.array([[1, 0, 7], [0, 1, 0], [0, 0, 1.0]])
    unrelated = np.zeros_like(first)
    warped = without_motion(unrelated, second, shift)
    assert np.array_equal(warped[EDGE:-EDGE, : 200 - 7 - EDGE], first[EDGE:-EDGE, : 200 - 7 - EDGE])
    assert not warped[:, 200 - 7 - EDGE :].any(), "what leaves the second frame is the first frame's"
    assert not warped[:EDGE].any() and not warped[-EDGE:].any()
    assert np.array_equal(without_motion(first, second, np.eye(3))[EDGE:-EDGE, EDGE:-EDGE], second[EDGE:-EDGE, EDGE:-EDGE])
