"""Toy problems: shapes, balance, repeatability, and the geometry that makes each of them hard."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from utils.data import toy
from utils.data.functions import TARGETS_1D, TARGETS_2D

Maker = Callable[[int, float, np.random.Generator], tuple[np.ndarray, np.ndarray]]
MAKERS: dict[str, tuple[Maker, int]] = {
    "xor": (toy.xor, 2),
    "moons": (toy.moons, 2),
    "circles": (toy.circles, 2),
    "spirals": (toy.spirals, 2),
    "swiss_roll": (toy.swiss_roll, 4),
}


@pytest.mark.parametrize("n", [1, 7, 200])
@pytest.mark.parametrize("name", MAKERS)
def test_shapes_types_and_balance(name: str, n: int) -> None:
    make, classes = MAKERS[name]
    x, y = make(n, 0.1, np.random.default_rng(0))
    assert (x.shape, x.dtype) == ((n, 2), np.float32)
    assert (y.shape, y.dtype) == ((n,), np.int64)
    counts = np.bincount(y, minlength=classes)
    assert len(counts) == classes
    assert counts.max() - counts.min() <= 1
    assert np.abs(x).max() < 3


@pytest.mark.parametrize("name", MAKERS)
def test_the_generator_decides(name: str) -> None:
    make, _ = MAKERS[name]
    (x, y), (again, labels), (other, _) = (
        make(100, 0.1, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(x, again)
    np.testing.assert_array_equal(y, labels)
    assert not np.array_equal(x, other)
    assert not np.array_equal(y, np.sort(y)), "the order is random"


@pytest.mark.parametrize("name", MAKERS)
def test_noise_has_the_given_size(name: str) -> None:
    make, _ = MAKERS[name]
    clean, _ = make(4000, 0.0, np.random.default_rng(0))
    noisy, _ = make(4000, 0.2, np.random.default_rng(0))
    np.testing.assert_allclose((noisy - clean).std(), 0.2, rtol=0.05)


@pytest.mark.parametrize("name", MAKERS)
def test_points_without_noise_are_separable_by_their_neighbours(name: str) -> None:
    make, _ = MAKERS[name]
    x, y = make(1000, 0.0, np.random.default_rng(0))
    distance = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distance, np.inf)
    if name == "xor":  # only four different points: look at all that are equal
        assert all(len(set(y[(x == corner).all(axis=1)])) == 1 for corner in np.unique(x, axis=0))
    assert np.mean(y[distance.argmin(axis=1)] == y) > 0.97


@pytest.mark.parametrize(("name", "limit"), [("xor", 0.6), ("circles", 0.65), ("spirals", 0.75)])
def test_no_line_solves_it(name: str, limit: float) -> None:
    make, _ = MAKERS[name]
    x, y = make(1000, 0.1, np.random.default_rng(0))
    design = np.column_stack([x, np.ones(len(x))])
    weights = np.linalg.lstsq(design, 2.0 * y - 1, rcond=None)[0]
    assert np.mean((design @ weights > 0) == y) < limit


def test_xor_is_xor() -> None:
    x, y = toy.xor(400, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(np.abs(x), 1)
    np.testing.assert_array_equal(y, (x[:, 0] * x[:, 1] < 0).astype(int))


def test_circles_and_moons_have_their_radii() -> None:
    x, y = toy.circles(400, 0.0, np.random.default_rng(0))
    np.testing.assert_allclose(np.hypot(*x.T), np.where(y == 0, 1.0, 0.5), rtol=1e-6)
    x, y = toy.moons(400, 0.0, np.random.default_rng(0))
    centre = np.where(y[:, None] == 0, [0.0, 0.0], [1.0, 0.5])
    np.testing.assert_allclose(np.hypot(*(x - centre).T), 1, rtol=1e-6)
    assert (x[y == 0, 1] >= 0).all()
    assert (x[y == 1, 1] <= 0.5).all()


def test_spiral_arms_are_one_turned_by_half() -> None:
    x, y = toy.spirals(400, 0.0, np.random.default_rng(0), turns=1.5)
    upright = np.where(y[:, None] == 0, x, -x)
    radius = np.hypot(*upright.T)
    angle = np.arctan2(upright[:, 1], upright[:, 0])
    turns = (2 * np.pi * 1.5 * radius - angle) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-5)
    assert radius.min() >= 0.1 - 1e-6
    assert radius.max() <= 1 + 1e-6


def test_swiss_roll_bands_follow_each_other() -> None:
    x, y = toy.swiss_roll(400, 0.0, np.random.default_rng(0))
    radius = np.hypot(*x.T)
    for band in range(3):
        assert radius[y == band].max() <= radius[y == band + 1].min() + 1e-6
    assert set(toy.swiss_roll(60, 0.0, np.random.default_rng(0), bands=6)[1]) == set(range(6))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_targets_keep_shape_and_type(dtype: type) -> None:
    axis: np.ndarray = np.linspace(-1, 1, 201, dtype=dtype)
    for target in TARGETS_1D.values():
        value = target(axis)
        assert (value.shape, value.dtype) == (axis.shape, dtype)
        assert 0.3 < value.max() <= 1
        assert value.min() >= -1
        assert target(axis[:, None]).shape == (201, 1)
    grid = np.meshgrid(axis, axis)
    for target in TARGETS_2D.values():
        value = target(*grid)
        assert (value.shape, value.dtype) == ((201, 201), dtype)
        assert 0.3 < value.max() <= 1
        assert value.min() >= -1
        np.testing.assert_array_equal(target(axis[None, :], axis[:, None]), value)


def test_target_values() -> None:
    at = np.array([-1.0, -0.5, 0.0, 0.5])
    np.testing.assert_allclose(TARGETS_1D["step"](at), [0, 0, 1, 1])
    np.testing.assert_allclose(TARGETS_1D["abs"](at), [1, 0.5, 0, 0.5])
    np.testing.assert_allclose(TARGETS_1D["bump"](at), np.exp([-25, -6.25, 0, -6.25]))
    np.testing.assert_allclose(TARGETS_1D["sines"](np.array([0.25])), [0.25])
    np.testing.assert_allclose(TARGETS_1D["chirp"](np.array([-0.5])), [1])
    point = (np.array([0.6]), np.array([0.8]))
    np.testing.assert_allclose(TARGETS_2D["ripple"](*point), [-1])
    np.testing.assert_allclose(TARGETS_2D["saddle"](*point), [-0.28])
    np.testing.assert_allclose(TARGETS_2D["checker"](np.array([0.25]), np.array([0.25])), [1])
    np.testing.assert_allclose(TARGETS_2D["bumps"](np.array([0.4]), np.array([0.4])), 1, atol=1e-3)


def test_formulas_can_be_drawn() -> None:
    from matplotlib.mathtext import MathTextParser

    parser = MathTextParser("path")
    for target in (*TARGETS_1D.values(), *TARGETS_2D.values()):
        parser.parse(target.formula)
