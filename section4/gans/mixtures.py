"""Points from a known density: what a generator makes of them can be counted.

A mixture of narrow Gaussians is easy to sample and hard to imitate: a generator that has found
some of its modes is rewarded for them and has no reason to look for the others (mode collapse).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one standard deviation around `centres` (K, 2), all equally likely."""

    centres: np.ndarray
    deviation: float

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """n points (n, 2) float32 and the modes that they come from (n,) int64."""
        mode = rng.integers(len(self.centres), size=n)
        points = self.centres[mode] + self.deviation * rng.standard_normal((n, 2))
        return points.astype(np.float32), mode

    def quality(self, points: np.ndarray, radius: float = 3.0) -> tuple[int, float]:
        """Modes covered, and the share of good samples, of points (N, 2).

        A sample is good within `radius` standard deviations of the nearest centre, as 98.9% of
        the mixture's own are within 3; a mode is covered by one good sample or more. A point
        that is no number is not good.
        Source: Srivastava et al., VEEGAN, arXiv:1705.07761, section 4.1.
        """
        distance = np.linalg.norm(points[:, None] - self.centres, axis=2)  # (N, K)
        good = distance.min(axis=1) <= radius * self.deviation
        return len(np.unique(distance[good].argmin(axis=1))), float(good.mean())


def ring(modes: int = 8) -> Mixture:
    """Modes at equal distances on a circle, a hundred times as wide as one; variance 1.

    Source: Metz et al., Unrolled generative adversarial networks, arXiv:1611.02163.
    """
    angle = 2 * np.pi * np.arange(modes) / modes
    radius = math.sqrt(2)  # so that each coordinate has variance 1
    return Mixture(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), radius / 100)


def grid(side: int = 5) -> Mixture:
    """side^2 modes on a square grid, 40 standard deviations from one to the next; variance 1.

    Source: Dumoulin et al., Adversarially learned inference, arXiv:1606.00704.
    """
    line = np.arange(side) - (side - 1) / 2
    spacing = 1 / line.std()
    rows, columns = np.meshgrid(spacing * line, spacing * line)
    return Mixture(np.stack([rows.ravel(), columns.ravel()], axis=1), spacing / 40)
