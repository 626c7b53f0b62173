"""The representations: one entry for each kind of vector of a video that kernel SVMs take. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RepresentationInfo:
    """One vector a video, of which kernel SVMs take one or several.

    Args:
        module: of ``reproduce.systems.representations``.
        label: for a reader.
        stores: kinds of stores that it is made from.
        settings: settings that it depends on.
        learned: whether it is fitted to train, with the seed.
        needs: modules of the optional libraries that it cannot do without, besides scikit-learn.
    """

    module: str
    label: str
    stores: tuple[str, ...]
    settings: tuple[str, ...] = ()
    learned: bool = True
    needs: tuple[str, ...] = ()


_MIXTURE = ("encoder.components", "encoder.samples")
_COLUMNS, _SUBVOLUMES = "encoder.column_dimensions", ("encoder.subvolume_dimensions", "encoder.subvolume_reduction")
_PLACE = "reproduce.systems.representations"
REPRESENTATIONS: dict[str, RepresentationInfo] = {
    "trajectory_fisher": RepresentationInfo(
        f"{_PLACE}.trajectory_fisher",
        "Fisher vectors of improved dense trajectories",
        ("trajectories",),
        _MIXTURE,
        needs=("cv2",),
    ),
    "skipped_fisher": RepresentationInfo(
        f"{_PLACE}.skipped_fisher",
        "Fisher vectors of trajectories at several frame skips",
        ("trajectories", "skipped_trajectories"),
        _MIXTURE,
        needs=("cv2",),
    ),
    "trajectory_evolution": RepresentationInfo(
        f"{_PLACE}.trajectory_evolution",
        "rank pooling of each frame's Fisher vector",
        ("trajectories",),
        _MIXTURE,
        needs=("cv2",),
    ),
    "stacked_fisher": RepresentationInfo(
        f"{_PLACE}.stacked_fisher", "stacked Fisher vectors", ("trajectories",), (*_MIXTURE, *_SUBVOLUMES), needs=("cv2",)
    ),
    "slow_words": RepresentationInfo(
        f"{_PLACE}.slow_words",
        "bags of slow features",
        ("gray",),
        tuple(f"slow_features.{key}" for key in ("cube", "block", "dimensions", "response", "words")),
        needs=("cv2",),
    ),
    "object_scores": RepresentationInfo(f"{_PLACE}.object_scores", "object scores", ("cubes",), learned=False),
    "feature_evolution": RepresentationInfo(
        f"{_PLACE}.feature_evolution", "rank pooling of the mean features", ("cubes",), learned=False
    ),
    "column_fisher": RepresentationInfo(
        f"{_PLACE}.column_fisher", "Fisher vectors of the feature cubes' columns", ("cubes",), (*_MIXTURE, _COLUMNS)
    ),
}
"""By the names that kernel SVMs have."""
