"""Points in the plane: problems small enough to see a network solve them.

Every function takes the number of points, the standard deviation of Gaussian noise and a
generator, and returns x (n, 2) float32 and labels (n,) int64, in random order and with as
many points of one class as of another (give or take one).
"""

from __future__ import annotations

import numpy as np


def xor(n: int, noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Four clusters at (+-1, +-1); the class is whether the signs differ.

    No line separates the classes: Minsky & Papert, Perceptrons (1969).
    """
    corner = np.arange(n) % 4
    first, second = corner // 2, corner % 2
    points = np.stack([2.0 * first - 1, 2.0 * second - 1], axis=1)  # (n, 2)
    return _finish(points, first ^ second, noise, rng)


def moons(n: int, noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles of radius 1, each with its end inside the other."""
    label = np.arange(n) % 2
    t = rng.uniform(0, np.pi, n)
    upper = np.stack([np.cos(t), np.sin(t)], axis=1)  # (n, 2)
    lower = np.stack([1 - np.cos(t), 0.5 - np.sin(t)], axis=1)
    return _finish(np.where(label[:, None] == 0, upper, lower), label, noise, rng)


def circles(n: int, noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A circle of radius 1 (class 0) around one of radius 1/2 (class 1)."""
    label = np.arange(n) % 2
    t = rng.uniform(0, 2 * np.pi, n)
    radius = np.where(label == 0, 1.0, 0.5)
    return _finish(_polar(radius, t), label, noise, rng)


def spirals(
    n: int, noise: float, rng: np.random.Generator, turns: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    """Two arms of an Archimedean spiral, r = s for s in [0.1, 1], half a turn apart.

    Lang & Witbrock, Learning to tell two spirals apart (1988).
    """
    label = np.arange(n) % 2
    s = np.sqrt(rng.uniform(0.01, 1, n))  # the root spreads points evenly along the arm
    return _finish(_polar(s, 2 * np.pi * turns * s + np.pi * label), label, noise, rng)


def swiss_roll(
    n: int, noise: float, rng: np.random.Generator, bands: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """One rolled-up strip, r = t for t in [1.5 pi, 4.5 pi], scaled to radius 1.

    The class is which of `bands` equal pieces of the strip a point lies in: neighbours in
    the plane may be far apart along the strip. A slice of the roll of Tenenbaum, de Silva &
    Langford, A global geometric framework for nonlinear dimensionality reduction (2000).
    """
    label = np.arange(n) % bands
    along = (label + rng.uniform(0, 1, n)) / bands  # in [0, 1]
    t = np.pi * (1.5 + 3 * along)
    return _finish(_polar(t / (4.5 * np.pi), t), label, noise, rng)


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Points (n, 2) at the given radius and angle (n,)."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _finish(
    points: np.ndarray, label: np.ndarray, noise: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Add noise, put the points into random order, and set the types."""
    order = rng.permutation(len(points))
    noisy = points + noise * rng.standard_normal(points.shape)
    return noisy[order].astype(np.float32), label[order].astype(np.int64)
