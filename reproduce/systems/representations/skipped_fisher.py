"""Multi-skip feature stacking: Fisher vectors of the union of trajectories at several levels of frame skips.

Source: Lan, Lin, Li, Hauptmann & Raj, Beyond Gaussian pyramid: multi-skip feature stacking for action recognition,
arXiv:1411.6660, 2014. Level l takes frames 0, l + 1, 2 (l + 1), …; one PCA and one mixture are fitted to all levels together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reproduce.systems.representations.trajectory_fisher import TrajectoryFisher


class SkippedFisher(TrajectoryFisher):
    """Fisher vectors as of trajectories, with those of levels 1 to L among them."""

    def descriptors(self, name: str) -> Sequence[np.ndarray]:
        """The trajectories of all levels."""
        return [self.stores["trajectories"].read(name), self.stores["skipped_trajectories"].read(name)]


make = SkippedFisher
