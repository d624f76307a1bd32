"""Initial weights: their variance, their range, their reproducibility."""

from __future__ import annotations

import numpy as np
import pytest

from section1.initializers import INITIALIZERS, fans, initialize

LINEAR, KERNEL = (300, 200), (3, 5, 16, 64)
VARIANCES = {
    "normal": lambda fan_in, fan_out: 1e-4,
    "xavier_uniform": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "xavier_normal": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he_uniform": lambda fan_in, fan_out: 2 / fan_in,
    "he_normal": lambda fan_in, fan_out: 2 / fan_in,
}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_fans() -> None:
    assert fans(LINEAR) == (300, 200)
    assert fans(KERNEL) == (3 * 5 * 16, 3 * 5 * 64)
    with pytest.raises(ValueError, match="two axes or more"):
        fans((10,))


@pytest.mark.parametrize(("shape", "sides"), [(LINEAR, (300, 200)), (KERNEL, (240, 960))])
@pytest.mark.parametrize("name", VARIANCES)
def test_mean_and_variance(name: str, shape: tuple[int, ...], sides: tuple[int, int]) -> None:
    weights = initialize(name, shape, rng(), np.float64)
    variance = VARIANCES[name](*sides)
    count = weights.size
    assert abs(weights.mean()) < 4 * np.sqrt(variance / count)
    # the relative error of a sample variance is sqrt(2 / count) at most
    assert weights.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / count))
    if name.endswith("uniform"):
        bound = np.sqrt(3 * variance)
        assert 0.99 * bound < np.abs(weights).max() <= bound


def test_relu_layers_keep_the_size_of_a_signal() -> None:
    random = rng()
    x = random.standard_normal((200, 256))
    for _ in range(20):
        x = np.maximum(x @ initialize("he_normal", (256, 256), random, np.float64), 0)
    assert 0.3 < (x**2).mean() < 3  # with half or twice the variance: 2^-20 or 2^20


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (3, 2, 4, 6), (1, 1, 2, 9), (1, 1)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    weights = initialize("orthogonal", shape, rng(), np.float64)
    assert weights.shape == shape
    matrix = weights.reshape(-1, shape[-1])
    rows, columns = matrix.shape
    product = matrix.T @ matrix if rows >= columns else matrix @ matrix.T
    np.testing.assert_allclose(product, np.eye(min(rows, columns)), atol=1e-14)


def test_orthogonal_prefers_no_sign() -> None:
    random = rng()
    signs = [initialize("orthogonal", (1, 1), random)[0, 0] for _ in range(200)]
    assert 70 < signs.count(1) < 130 and signs.count(1) + signs.count(-1) == 200


@pytest.mark.parametrize("name", INITIALIZERS)
def test_seed_and_dtype(name: str) -> None:
    double = initialize(name, (6, 4), rng(), np.float64)
    single = initialize(name, (6, 4), rng())
    assert double.dtype == np.float64 and single.dtype == np.float32
    np.testing.assert_array_equal(single, double.astype(np.float32))
    random = rng()
    if name != "zeros":
        first, second = (initialize(name, (6, 4), random) for _ in range(2))
        assert (first != second).any()


def test_zeros() -> None:
    np.testing.assert_array_equal(initialize("zeros", (3,), rng()), 0)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"'glorot'.*zeros.*orthogonal"):
        initialize("glorot", (2, 2), rng())
