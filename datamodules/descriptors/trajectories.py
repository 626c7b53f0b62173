"""Improved dense trajectories (Wang & Schmid 2013): points tracked through 15 frames, and what is seen along them.

Written from the publication's description and constants. SIFT or ORB keypoints stand for SURF, which OpenCV's wheels lack.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from datamodules.descriptors import farneback, histograms
from datamodules.descriptors.camera import KeypointDetector, Keypoints, homography, moved_corners, without_motion
from datamodules.descriptors.farneback import RATIO, Expansion
from datamodules.descriptors.opencv import opencv
from datamodules.reading import DataError

STEP = 5  # px between sampled points
QUALITY = 0.001  # of the frame's largest corner measure that a sampled point must exceed
LEAST_SIDE = 32  # px of the short side at the coarsest scale
TIME_CELLS = 3
LEAST_DEVIATION, MOST_DEVIATION = 3**0.5, 50.0  # px, of a track's x or y
JUMP, JUMP_SHARE = 20.0, 0.7  # px, and share of the track's length, that no single step may both exceed
LEAST_MOTION = 1.0  # px, of the largest displacement without the camera's
POSITIONS = ("end", "x", "y", "sd_x", "sd_y", "length", "scale", "x_share", "y_share")


@dataclass(frozen=True)
class TrackOptions:
    """How tracks are made.

    Args:
        length: steps of a track.
        scales: at most, each √2 coarser than the one before.
        keypoints: "sift" or "orb", for camera motion.
        compensate: take camera motion out of the flow that is described.
    """

    length: int = 15
    scales: int = 8
    keypoints: str = "sift"
    compensate: bool = True


def channels(length: int = 15) -> dict[str, slice]:
    """Say which numbers of a descriptor belong to which channel.

    Args:
        length: steps of a track.
    """
    found, start = {}, 0
    for name, width in zip(("trajectory", *histograms.CHANNELS), (2 * length, *(TIME_CELLS * w for w in histograms.WIDTHS))):
        found[name] = slice(start, start + width)
        start += width
    return found


CHANNELS = channels()


def tracks(frames: Iterable[np.ndarray], options: TrackOptions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Follow points through a video and describe their surroundings.

    Args:
        frames: (h, w) uint8 gray, all of one size.
        options: how.

    Yields:
        For each frame at which tracks end, (n, 9) float32 ``POSITIONS`` in pixels of the frame and (n, d) float32
        descriptors, n > 0; ``channels`` names their columns.

    Raises:
        DataError: a frame differs in size from the first.
        ValueError: an option is out of range.
    """
    if options.length < TIME_CELLS or options.length % TIME_CELLS:
        raise ValueError(f"length {options.length}; take a multiple of {TIME_CELLS}")
    if options.scales < 1:
        raise ValueError(f"scales {options.scales}; take at least 1")
    detector = KeypointDetector(options.keypoints) if options.compensate else None
    before: Frame | None = None
    groups: list[Group] = []
    for number, image in enumerate(frames):
        if before is None:
            sizes = scale_sizes(image.shape[1], image.shape[0], options.scales)
        elif image.shape != before.levels[0].shape:
            shapes = " × ".join(map(str, image.shape)), " × ".join(map(str, before.levels[0].shape))
            raise DataError(f"frame {number} is {shapes[0]}, the frames before {shapes[1]}; give frames of one size")
        frame = Frame.of(image, sizes, detector)
        if before is not None:
            motion = Motion.between(before, frame, sizes, detector)
            groups = [moved for group in groups if len((moved := group.advance(before, motion)).points)]
            if groups and groups[0].age == options.length:
                positions, descriptors = groups.pop(0).finish(number, frame.levels[0].shape)
                if len(positions):
                    yield positions, descriptors
        groups.append(Group.sample(frame, groups, options))
        before = frame


def scale_sizes(width: int, height: int, most: int) -> list[tuple[int, int]]:
    """List (width, height) of each scale: at least one, the short side of every further one at least 32 px."""
    short, count = min(width, height), 1
    while count < most and short / RATIO**count >= LEAST_SIDE:
        count += 1
    return [(round(width / RATIO**scale), round(height / RATIO**scale)) for scale in range(count)]


@dataclass(frozen=True)
class Frame:
    """A frame at every scale.

    Args:
        levels: (h, w) uint8 each, the finest first.
        expansions: its polynomials.
        keypoints: for camera motion; None without compensation.
    """

    levels: list[np.ndarray]
    expansions: list[Expansion]
    keypoints: Keypoints | None

    @classmethod
    def of(cls, image: np.ndarray, sizes: list[tuple[int, int]], detector: KeypointDetector | None) -> Frame:
        """Compute all of a (h, w) uint8 image."""
        levels = [image]
        for size in sizes[1:]:
            levels.append(opencv().resize(levels[-1], size, interpolation=opencv().INTER_LINEAR))
        return cls(levels, farneback.expansions(image, sizes), detector.find(image) if detector else None)


@dataclass(frozen=True)
class Motion:
    """Motion from a frame to the next.

    Args:
        flows: (h, w, 2) float32 of each scale: where points go.
        stabilised: the same without the camera's motion: what is described.
        sums: integrals of the channels of each scale, of the first frame and the stabilised flow.
    """

    flows: list[np.ndarray]
    stabilised: list[np.ndarray]
    sums: list[list[np.ndarray]]

    @classmethod
    def between(cls, first: Frame, second: Frame, sizes: list[tuple[int, int]], detector: KeypointDetector | None) -> Motion:
        """Compute both flows from the first frame to the second."""
        flows = farneback.flows(first.expansions, second.expansions)
        if detector is None or first.keypoints is None or second.keypoints is None:
            return cls.of(first, flows, flows)
        one, two = first.levels[0], second.levels[0]
        pairs = zip(detector.match(first.keypoints, second.keypoints), moved_corners(one, flows[0]), strict=True)
        camera = homography(*(np.concatenate(points) for points in pairs))
        warped = without_motion(one, two, camera)
        return cls.of(first, flows, farneback.flows(first.expansions, farneback.expansions(warped, sizes)))

    @classmethod
    def of(cls, first: Frame, flows: list[np.ndarray], stabilised: list[np.ndarray]) -> Motion:
        return cls(
            flows, stabilised, [histograms.frame_integrals(*pair) for pair in zip(first.levels, stabilised, strict=True)]
        )


@dataclass(frozen=True)
class Group:
    """Tracks that start at one frame.

    Args:
        scales: (n,) number of each track's scale, ascending.
        points: (n, age + 1, 2) float32 positions, x and y in pixels of the scale.
        steps: (n, age, 2) float32 displacements without the camera's.
        cells: (n, age, 132) float32 histograms of each step.
    """

    scales: np.ndarray
    points: np.ndarray
    steps: np.ndarray
    cells: np.ndarray

    @property
    def age(self) -> int:
        """Steps taken so far."""
        return self.steps.shape[1]

    @classmethod
    def sample(cls, frame: Frame, groups: list[Group], options: TrackOptions) -> Group:
        """Start a track in every cell of the grid that has texture and no track."""
        points, scales = [], []
        for scale, level in enumerate(frame.levels):
            present = [group.points[group.scales == scale, -1] for group in groups]
            new = sample(level, np.concatenate(present) if present else np.zeros((0, 2), np.float32))
            points.append(new)
            scales.append(np.full(len(new), scale))
        positions = np.concatenate(points)[:, None]
        count = len(positions)
        steps, cells = np.zeros((count, 0, 2), np.float32), np.zeros((count, 0, sum(histograms.WIDTHS)), np.float32)
        return cls(np.concatenate(scales), positions, steps, cells)

    def advance(self, frame: Frame, motion: Motion) -> Group:
        """Describe the last step's surroundings, and follow the flow by one frame; tracks that leave the frame end."""
        here = self.points[:, -1]
        there, step, cells = np.empty_like(here), np.empty_like(here), np.empty((len(here), sum(histograms.WIDTHS)), np.float32)
        alive = np.zeros(len(here), bool)
        for scale, level in enumerate(frame.levels):
            chosen = self.scales == scale
            height, width = level.shape
            pixels = nearest(here[chosen], width, height)
            x, y = pixels.T
            there[chosen] = here[chosen] + motion.flows[scale][y, x]
            step[chosen] = motion.stabilised[scale][y, x]
            cells[chosen] = np.concatenate([histograms.window_histograms(s, pixels) for s in motion.sums[scale]], axis=1)
            alive[chosen] = ((there[chosen] > 0) & (there[chosen] < (width, height))).all(axis=1)
        return Group(
            self.scales[alive],
            np.concatenate([self.points, there[:, None]], axis=1)[alive],
            np.concatenate([self.steps, step[:, None]], axis=1)[alive],
            np.concatenate([self.cells, cells[:, None]], axis=1)[alive],
        )

    def finish(self, number: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Give positions and descriptors of the tracks that are kept.

        Args:
            number: of the frame at which they end.
            shape: its height and width.
        """
        factor = (RATIO**self.scales).astype(np.float32)
        points, steps = self.points * factor[:, None, None], self.steps * factor[:, None, None]
        deviation = points.std(axis=1)
        lengths = np.linalg.norm(np.diff(points, axis=1), axis=2)
        length, longest = lengths.sum(axis=1), lengths.max(axis=1)
        still = (deviation < LEAST_DEVIATION).all(axis=1)
        erratic = (deviation > MOST_DEVIATION).any(axis=1) | ((longest > JUMP) & (longest > JUMP_SHARE * length))
        motions = np.linalg.norm(steps, axis=2)
        keep = ~still & ~erratic & (motions.max(axis=1) > LEAST_MOTION)
        mean = points.mean(axis=1)
        positions = np.column_stack([np.full(len(mean), number), mean, deviation, length, factor, mean / shape[::-1]])
        count = len(points)
        shape_numbers = (steps / motions.sum(axis=1)[:, None, None]).reshape(count, -1)
        parts = [shape_numbers]
        start = 0
        for width in histograms.WIDTHS:
            cells = self.cells[:, :, start : start + width]
            parts.append(cells.reshape(count, TIME_CELLS, -1, width).mean(axis=2).reshape(count, -1))
            start += width
        return positions[keep].astype(np.float32), np.concatenate(parts, axis=1)[keep].astype(np.float32)


def sample(image: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Choose new points: the centre of each 5 px cell without a point, where the smaller eigenvalue is large enough.

    Args:
        image: (h, w) uint8.
        present: (n, 2) x and y of the points that are there.

    Returns:
        (m, 2) float32, x and y.
    """
    rows, columns = (side // STEP for side in image.shape)
    free = np.ones((rows, columns), bool)
    x, y = (present // STEP).astype(int).T
    inside = (x < columns) & (y < rows)
    free[y[inside], x[inside]] = False
    measure = opencv().cornerMinEigenVal(image, 3, ksize=3)
    centres = measure[STEP // 2 :: STEP, STEP // 2 :: STEP][:rows, :columns]
    y, x = np.nonzero(free & (centres > QUALITY * measure.max()))
    return np.stack([x, y], axis=1).astype(np.float32) * STEP + STEP // 2


def nearest(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Round (n, 2) points to pixels of a frame."""
    return np.clip(np.rint(points).astype(int), 0, (width - 1, height - 1))
