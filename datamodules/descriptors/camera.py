"""Camera motion between two frames: a homography from matched points, and the second frame without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.descriptors.opencv import opencv

KEYPOINTS = ("sift", "orb")
SIFT_CONTRAST = 0.02
ORB_POINTS = 1000
FARTHEST = 25  # px in x and in y that a keypoint may move
CORNERS = 1000
CORNER_QUALITY = 0.001  # of the strongest corner
CORNER_DISTANCE = 3  # px between corners
TOLERANCE = 1.0  # px from a match to the homography, for RANSAC
LEAST_MATCHES, LEAST_INLIERS = 50, 25  # below or at these there is no homography
EDGE = 5  # px next to the border of the second frame that are not used


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of a frame.

    Args:
        points: (n, 2) float32, x and y.
        descriptors: (n, d): float32 of SIFT, packed bits in uint8 of ORB.
    """

    points: np.ndarray
    descriptors: np.ndarray


class KeypointDetector:
    """Finds and describes keypoints.

    Args:
        kind: "sift", or "orb", which is faster.

    Raises:
        ValueError: there is no such kind.
    """

    def __init__(self, kind: str) -> None:
        cv2 = opencv()
        if kind not in KEYPOINTS:
            raise ValueError(f"keypoints {kind!r}; take one of {', '.join(KEYPOINTS)}")
        if kind == "sift":
            self._detector: Any = cv2.SIFT_create(contrastThreshold=SIFT_CONTRAST)
            self._norm = cv2.NORM_L2
        else:
            self._detector = cv2.ORB_create(ORB_POINTS)
            self._norm = cv2.NORM_HAMMING

    def find(self, image: np.ndarray) -> Keypoints:
        """Find the keypoints of a (h, w) uint8 image."""
        found, descriptors = self._detector.detectAndCompute(image, None)
        points = np.asarray(opencv().KeyPoint_convert(found), np.float32).reshape(-1, 2)
        return Keypoints(points, descriptors if len(found) else np.zeros((0, 1), np.uint8))

    def match(self, first: Keypoints, second: Keypoints) -> tuple[np.ndarray, np.ndarray]:
        """Match each keypoint of the first frame to the most similar one of the second within ``FARTHEST``.

        Returns:
            (m, 2) and (m, 2) float32: where the matched points are in the first and in the second frame.
        """
        if not len(first.points) or not len(second.points):
            return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
        near = np.ones((len(first.points), len(second.points)), bool)
        for one, other in zip(first.points.T, second.points.T, strict=True):
            near &= np.abs(one[:, None] - other) < FARTHEST
        pairs = opencv().BFMatcher(self._norm).match(first.descriptors, second.descriptors, near.view(np.uint8))
        one, other = (np.array([getattr(pair, side) for pair in pairs], int) for side in ("queryIdx", "trainIdx"))
        return first.points[one], second.points[other]


def moved_corners(image: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the corners of a frame, and where its flow takes them.

    Args:
        image: (h, w) uint8.
        flow: (h, w, 2) float32 from this frame to the next.

    Returns:
        (m, 2) and (m, 2) float32: the corners, and the same moved.
    """
    corners = opencv().goodFeaturesToTrack(image, CORNERS, CORNER_QUALITY, CORNER_DISTANCE)
    if corners is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    corners = corners.reshape(-1, 2)
    x, y = corners.astype(int).T  # they lie on pixels
    return corners, corners + flow[y, x]


def homography(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fit the homography that takes the first points to the second ones.

    Args:
        first, second: (m, 2) float32 matched points.

    Returns:
        (3, 3) float64 H, second ≈ H first; the identity where too few matches agree.
    """
    cv2 = opencv()
    if len(first) > LEAST_MATCHES:
        found, inliers = cv2.findHomography(first, second, cv2.RANSAC, TOLERANCE)
        if found is not None and np.count_nonzero(inliers) > LEAST_INLIERS:
            return found
    return np.eye(3)


def without_motion(first: np.ndarray, second: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Warp the second frame to where the first frame's camera saw it.

    Args:
        first, second: (h, w) uint8.
        motion: (3, 3) homography from the first to the second.

    Returns:
        (h, w) uint8: second(H x) at x, and first(x) where H x leaves the second frame or comes near its border.
    """
    cv2 = opencv()
    height, width = first.shape
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(second, motion, (width, height), flags=flags)
    inner = np.zeros_like(first)
    inner[EDGE : height - EDGE, EDGE : width - EDGE] = 255
    inside = cv2.warpPerspective(inner, motion, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    return np.where(inside > 0, warped, first)
