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
LEAST_DEVIATION, MOST_DEVIATION = 3**0.5, 50.0  # px, of a trajectory's x or y
JUMP, JUMP_SHARE = 20.0, 0.7  # px, and share of the trajectory's length, that no single step may both exceed
LEAST_MOTION = 1.0  # px, of the largest displacement without the camera's
POSITIONS = ("end", "x", "y", "sd_x", "sd_y", "length", "scale", "x_share", "y_share")


@dataclass(frozen=True)
class TrajectoryOptions:
    """How trajectories are made.

    Args:
        length: steps of a trajectory.
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
        length: steps of a trajectory.
    """
    found, start = {}, 0
    widths = (2 * length, *(TIME_CELLS * width for width in histograms.WIDTHS))
    for name, width in zip(("trajectory", *histograms.CHANNELS), widths, strict=True):
        found[name] = slice(start, start + width)
        start += width
    return found


CHANNELS = channels()


def trajectories(frames: Iterable[np.ndarray], options: TrajectoryOptions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Follow points through a video and describe their surroundings.

    Args:
        frames: (h, w) uint8 gray, all of one size.
        options: how.

    Yields:
        For each frame at which trajectories end, (n, 9) float32 ``POSITIONS`` in pixels of the frame and (n, d) float32
        descriptors, n > 0; ``channels`` names their columns. Frames with a side below 5 px have none.

    Raises:
        DataError: a frame differs in size from the first; OpenCV is not there.
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
            if min(image.shape) < STEP:
                return  # no cell fits
            sizes = scale_sizes(image.shape[1], image.shape[0], options.scales)
        elif image.shape != before.levels[0].shape:
            raise DataError(f"frame {number} is of {image.shape}, the frames before of {before.levels[0].shape} pixels")
        frame = Frame.of(image, sizes, detector)
        if before is not None:
            advance(groups, before, *motion(before, frame, sizes, detector))
            groups = [group for group in groups if len(group.scales)]
            if groups and groups[0].age == options.length:
                positions, descriptors = groups.pop(0).finish(number, frame.levels[0].shape)
                if len(positions):
                    yield positions, descriptors
        groups.append(new_group(frame, groups, options.length))
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


def motion(
    first: Frame, second: Frame, sizes: list[tuple[int, int]], detector: KeypointDetector | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Find the motion from a frame to the next at each scale.

    Returns:
        (h, w, 2) float32 of each scale: where points go; and the same without the camera's motion, which is described.
    """
    flows = farneback.flows(first.expansions, second.expansions)
    if detector is None or first.keypoints is None or second.keypoints is None:
        return flows, flows
    one, two = first.levels[0], second.levels[0]
    matches = zip(detector.match(first.keypoints, second.keypoints), moved_corners(one, flows[0]), strict=True)
    camera = homography(*(np.concatenate(points) for points in matches))
    warped = without_motion(one, two, camera)
    return flows, farneback.flows(first.expansions, farneback.expansions(warped, sizes))


@dataclass
class Group:
    """Trajectories that start at one frame, n of them in the frame yet.

    Args:
        scales: (n,) number of each trajectory's scale.
        points: (n, length + 1, 2) float32 positions, x and y in pixels of the scale.
        steps: (n, length, 2) float32 displacements without the camera's.
        cells: (n, 3, 132) float32 mean histograms of each third of the steps.
        age: steps taken; what comes after is not yet set.
    """

    scales: np.ndarray
    points: np.ndarray
    steps: np.ndarray
    cells: np.ndarray
    age: int = 0

    @classmethod
    def start(cls, scales: np.ndarray, points: np.ndarray, length: int) -> Group:
        """Start trajectories of a length at (n, 2) points."""
        count = len(points)
        positions = np.zeros((count, length + 1, 2), np.float32)
        positions[:, 0] = points
        steps, cells = (
            np.zeros((count, length, 2), np.float32),
            np.zeros((count, TIME_CELLS, sum(histograms.WIDTHS)), np.float32),
        )
        return cls(scales, positions, steps, cells)

    @property
    def here(self) -> np.ndarray:
        """(n, 2) the present points."""
        return self.points[:, self.age]

    def advance(self, there: np.ndarray, steps: np.ndarray, numbers: np.ndarray, alive: np.ndarray) -> None:
        """Take one step.

        Args:
            there: (n, 2) the next points.
            steps: (n, 2) the displacements without the camera's.
            numbers: (n, 132) histograms around the present points.
            alive: (n,) bool; the other trajectories end here.
        """
        length = self.steps.shape[1]
        self.steps[:, self.age] = steps
        self.cells[:, self.age * TIME_CELLS // length] += numbers * np.float32(TIME_CELLS / length)
        self.age += 1
        self.points[:, self.age] = there
        if not alive.all():
            self.scales, self.points, self.steps, self.cells = (
                part[alive] for part in (self.scales, self.points, self.steps, self.cells)
            )

    def finish(self, number: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Give positions and descriptors of the trajectories that are worth keeping, in pixels of the frame.

        Args:
            number: of the frame at which they end.
            shape: its height and width.
        """
        factor = (RATIO**self.scales).astype(np.float32)
        points, steps = self.points * factor[:, None, None], self.steps * factor[:, None, None]
        deviation = points.std(axis=1)
        lengths = np.linalg.norm(np.diff(points, axis=1), axis=2)
        length, longest = lengths.sum(axis=1), lengths.max(axis=1)
        motions = np.linalg.norm(steps, axis=2)
        still = (deviation < LEAST_DEVIATION).all(axis=1) | (motions.max(axis=1) <= LEAST_MOTION)
        erratic = (deviation > MOST_DEVIATION).any(axis=1) | ((longest > JUMP) & (longest > JUMP_SHARE * length))
        keep = ~still & ~erratic

        mean = points.mean(axis=1)
        positions = np.column_stack([np.full(len(mean), number), mean, deviation, length, factor, mean / shape[::-1]])
        shapes = steps[keep] / motions[keep].sum(axis=1)[:, None, None]
        ends = np.cumsum(histograms.WIDTHS)[:-1]
        parts = (shapes, *np.split(self.cells[keep], ends, axis=2))
        flat = [part.reshape(len(part), part.shape[1] * part.shape[2]) for part in parts]
        return positions[keep].astype(np.float32), np.concatenate(flat, axis=1)


def advance(groups: list[Group], frame: Frame, flows: list[np.ndarray], stabilised: list[np.ndarray]) -> None:
    """Describe what surrounds each point, and follow the flow to the next frame; trajectories that leave it end.

    Args:
        groups: all trajectories; they are changed.
        frame: the present one.
        flows, stabilised: as ``motion`` gives them.
    """
    if not groups:
        return
    here, scales = np.concatenate([group.here for group in groups]), np.concatenate([group.scales for group in groups])
    there, steps, alive = np.empty_like(here), np.empty_like(here), np.empty(len(here), bool)
    numbers = np.empty((len(here), sum(histograms.WIDTHS)), np.float32)
    for scale, image in enumerate(frame.levels):
        if not len(chosen := np.flatnonzero(scales == scale)):
            continue
        bounds = image.shape[::-1]
        pixels = np.clip(np.rint(here[chosen]).astype(int), 0, np.subtract(bounds, 1))
        x, y = pixels.T
        there[chosen] = moved = here[chosen] + flows[scale][y, x]
        steps[chosen] = stabilised[scale][y, x]
        numbers[chosen] = histograms.describe(image, stabilised[scale], pixels)
        alive[chosen] = ((moved > 0) & (moved < bounds)).all(axis=1)
    start = 0
    for group in groups:
        rows = slice(start, start := start + len(group.scales))
        group.advance(there[rows], steps[rows], numbers[rows], alive[rows])


def new_group(frame: Frame, groups: list[Group], length: int) -> Group:
    """Start a trajectory in every cell of the grid, at every scale, that has texture and no trajectory."""
    here = np.concatenate([np.zeros((0, 2), np.float32), *(group.here for group in groups)])
    scales = np.concatenate([np.zeros(0, int), *(group.scales for group in groups)])
    points = [sample(level, here[scales == scale]) for scale, level in enumerate(frame.levels)]
    return Group.start(np.repeat(np.arange(len(points)), [len(some) for some in points]), np.concatenate(points), length)


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
