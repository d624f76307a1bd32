"""Mixtures: where their modes lie, and how samples are counted."""

from __future__ import annotations

import numpy as np
import pytest

from section4.gans.mixtures import Mixture, grid, ring

BOTH = pytest.mark.parametrize("mixture", [ring(), grid()], ids=["ring", "grid"])


@BOTH
def test_they_have_mean_0_and_variance_1(mixture: Mixture) -> None:
    np.testing.assert_allclose(mixture.centres.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(mixture.centres.var(axis=0), 1)
    points, modes = mixture.sample(20_000, np.random.default_rng(0))
    assert points.shape == (20_000, 2) and points.dtype == np.float32 and modes.dtype == np.int64
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(points.var(axis=0), 1, atol=0.03)
    np.testing.assert_allclose(
        (points - mixture.centres[modes]).std(), mixture.deviation, rtol=0.02
    )
    counts = np.bincount(modes)
    assert len(counts) == len(mixture.centres) and counts.min() > 0.8 * counts.mean()


def test_modes_lie_on_a_ring_and_on_a_grid() -> None:
    centres = ring(8).centres
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), np.sqrt(2))
    np.testing.assert_allclose(centres[:4], -centres[4:], atol=1e-12)
    assert len(grid(5).centres) == 25
    lines = np.unique(grid(5).centres[:, 0].round(9))
    np.testing.assert_allclose(np.diff(lines), 40 * grid(5).deviation)


@BOTH
def test_its_own_samples_are_good_and_cover_all_modes(mixture: Mixture) -> None:
    points, _ = mixture.sample(5000, np.random.default_rng(1))
    modes, good = mixture.quality(points)
    assert modes == len(mixture.centres)
    assert good == pytest.approx(1 - np.exp(-4.5), abs=0.006)  # Rayleigh, within 3 deviations


def test_what_lies_elsewhere_counts_for_nothing() -> None:
    mixture = ring(4)
    first = mixture.centres[0]
    inside = first + np.array([2.9, 0]) * mixture.deviation
    outside = first + np.array([0, 3.1]) * mixture.deviation
    assert mixture.quality(np.stack([first, inside])) == (1, 1.0)
    assert mixture.quality(np.stack([outside, first])) == (1, 0.5)
    assert mixture.quality(outside[None]) == (0, 0.0)
    assert mixture.quality(outside[None], radius=4) == (1, 1.0)
    assert mixture.quality(np.array([[np.nan, 0], *mixture.centres[1:3]])) == (2, 2 / 3)


def test_the_same_generator_gives_the_same_points() -> None:
    first, second = (grid().sample(10, np.random.default_rng(3))[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
