"""Augmentation: every image is changed as said, its label goes with it, and nothing else moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from section1.training import shuffled
from section3.augment import augmented, mirrored, shifted, turned


class Highest:
    """In place of a generator: every number is the largest that may be drawn."""

    def uniform(self, low: float, high: float, n: int) -> np.ndarray:
        return np.full(n, float(high))


class Lowest:
    def uniform(self, low: float, high: float, n: int) -> np.ndarray:
        return np.full(n, float(low))


def images(n: int, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).random((n, *shape)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shifted_images_are_cuts_of_the_padded_ones(dtype: Any) -> None:
    x = images(40, 6, 5, 3, dtype=dtype)
    before = x.copy()
    y = shifted(x, 2, np.random.default_rng(1))
    assert y.shape == x.shape and y.dtype == dtype and y.flags.c_contiguous
    np.testing.assert_array_equal(x, before)
    offsets = np.random.default_rng(1).integers(0, 5, size=(2, 40)).T
    assert len({tuple(offset) for offset in offsets}) > 10
    for image, result, (down, right) in zip(x, y, offsets):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
        np.testing.assert_array_equal(result, padded[down : down + 6, right : right + 5])


def test_a_shift_of_nothing_changes_nothing() -> None:
    x = images(3, 4, 4, 1)
    np.testing.assert_array_equal(shifted(x, 0, np.random.default_rng(0)), x)


def test_mirrored_images_are_the_images_or_their_mirror_images() -> None:
    x = images(200, 3, 4, 2)
    before = x.copy()
    y = mirrored(x, np.random.default_rng(2))
    np.testing.assert_array_equal(x, before)
    same = (y == x).all(axis=(1, 2, 3))
    mirror = (y == x[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirror).all() and 70 < same.sum() < 130 and y.dtype == x.dtype


def test_no_turn_changes_nothing() -> None:
    x = images(3, 5, 6, 2)
    np.testing.assert_allclose(turned(x, 0, 0, np.random.default_rng(0)), x, rtol=1e-5)


@pytest.mark.parametrize(("rng", "quarters"), [(Highest(), -1), (Lowest(), 1)])
@pytest.mark.parametrize("size", [5, 8])
def test_a_turn_by_a_right_angle_moves_pixels_to_pixels(size: int, rng: Any, quarters: int) -> None:
    x = images(2, size, size, 3)
    y = turned(x, 90, 0, rng)
    np.testing.assert_allclose(y, np.rot90(x, k=quarters, axes=(1, 2)), atol=1e-5)


@pytest.mark.parametrize(
    ("rng", "angle", "size"), [(Highest(), np.pi / 6, 1.25), (Lowest(), -np.pi / 6, 1 / 1.25)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_turned_slope_is_the_slope_in_the_other_direction(
    dtype: Any, rng: Any, angle: float, size: float
) -> None:
    """Interpolation is exact for a plane, so the result is known away from the edges."""
    i, j = np.mgrid[-11:12, -11:12]
    x = (2 * i + 3 * j).astype(dtype)[None, ..., None]
    y = turned(x, 30, 0.25, rng)
    cos, sin = np.cos(angle) / size, np.sin(angle) / size
    expected = 2 * (cos * i - sin * j) + 3 * (sin * i + cos * j)
    inside = np.s_[5:-5, 5:-5]
    np.testing.assert_allclose(y[0, ..., 0][inside], expected[inside], atol=1e-4)
    assert y.dtype == dtype


def test_integers_are_turned_as_floats_are() -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    y, expected = (turned(a, 30, 0.2, np.random.default_rng(1)) for a in (x, x.astype(np.float32)))
    np.testing.assert_array_equal(y, expected)


def test_turns_are_within_bounds_and_of_each_image_its_own() -> None:
    x = np.repeat(images(1, 9, 9, 1), 50, axis=0)
    y = turned(x, 20, 0.1, np.random.default_rng(3))
    assert len(np.unique(y[:, 0, 0, 0])) > 40
    np.testing.assert_allclose(y[:, 4, 4], x[:, 4, 4], rtol=1e-5)  # the middle stays
    assert y.min() >= x.min() and y.max() <= x.max() + 1e-6


def test_without_changes_the_batches_are_the_shuffled_ones() -> None:
    data = images(25, 4, 4, 1), np.arange(25)
    ours = augmented(data, 8, np.random.default_rng(4))
    for (x, y), (x_other, y_other) in zip(ours, shuffled(data, 8, np.random.default_rng(4))):
        np.testing.assert_array_equal(x, x_other)
        np.testing.assert_array_equal(y, y_other)


def test_labels_go_with_their_images_and_the_data_stay_as_they_are() -> None:
    """Image k has the one value k everywhere, which no shift, turn or mirror can change."""
    labels = np.arange(20)
    x = np.broadcast_to(labels[:, None, None, None], (20, 5, 5, 2)).astype(np.float32)
    before = x.copy()
    changes: dict[str, Any] = {"shift": 2, "mirror": True, "turn": 30.0, "stretch": 0.2}
    batches = list(augmented((x, labels), 6, np.random.default_rng(5), **changes))
    for images_, numbers in batches:
        np.testing.assert_allclose(images_[:, 0, 0, 0], numbers, rtol=1e-6)
    assert sorted(np.concatenate([y for _, y in batches])) == list(range(20))
    np.testing.assert_array_equal(x, before)


def test_the_same_generator_gives_the_same_changes() -> None:
    data = images(12, 6, 6, 3), np.arange(12)
    changes: dict[str, Any] = {"shift": 1, "mirror": True, "turn": 10.0}
    first, again, other = (
        np.concatenate([x for x, _ in augmented(data, 5, np.random.default_rng(seed), **changes)])
        for seed in (6, 6, 7)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
