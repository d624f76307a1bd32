"""Activations against PyTorch, centred differences and numbers too large to exponentiate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from section1.activations import (
    ACTIVATIONS,
    ELU,
    GELU,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
    activation,
)
from section1.functions import normal_distribution, sigmoid, softmax
from section1.layer import Layer
from tests.helpers import assert_gradients, assert_layer_contract, assert_matches_torch

CASES: dict[str, tuple[Callable[[], Layer], Callable]] = {
    "identity": (Identity, torch.nn.Identity()),
    "sigmoid": (Sigmoid, torch.nn.Sigmoid()),
    "tanh": (Tanh, torch.nn.Tanh()),
    "relu": (ReLU, torch.nn.ReLU()),
    "leaky_relu": (LeakyReLU, torch.nn.LeakyReLU()),
    "leaky_relu 0.2": (lambda: LeakyReLU(0.2), torch.nn.LeakyReLU(0.2)),
    "elu": (ELU, torch.nn.ELU()),
    "elu 0.3": (lambda: ELU(0.3), torch.nn.ELU(0.3)),
    "elu 1.7": (lambda: ELU(1.7), torch.nn.ELU(1.7)),
    "gelu": (GELU, torch.nn.GELU(approximate="tanh")),
    "gelu exact": (lambda: GELU(approximate="none"), torch.nn.GELU()),
    "silu": (SiLU, torch.nn.SiLU()),
    # PyTorch cuts softplus off at 20 unless told otherwise
    "softplus": (Softplus, torch.nn.Softplus(threshold=600)),
}
each_case = pytest.mark.parametrize(("make", "reference"), CASES.values(), ids=CASES.keys())


@each_case
def test_matches_torch(make: Callable, reference: Callable) -> None:
    rng = np.random.default_rng(1)
    for x in (
        3 * rng.standard_normal((7, 5)),
        rng.standard_normal((1, 1)),
        rng.standard_normal((2, 3, 4, 5)),
        np.linspace(-40, 40, 4001),
        np.array([[0.0, -0.0, 1e-300, -1e-300, 500.0, -500.0]]),
    ):
        assert_matches_torch(make(), reference, x)


@each_case
def test_matches_centred_differences(make: Callable, reference: Callable) -> None:
    x = np.random.default_rng(2).standard_normal((4, 3))
    assert_gradients(make(), np.where(np.abs(x) < 0.01, 0.5, x))


@each_case
def test_keeps_the_contract_of_a_layer(make: Callable, reference: Callable) -> None:
    x = np.random.default_rng(3).standard_normal((4, 3))
    x[0] = 0  # the kink
    assert_layer_contract(lambda dtype: make(), x)


@each_case
def test_float32_is_as_good_as_float32_can_be(make: Callable, reference: Callable) -> None:
    x = np.linspace(-30, 30, 3001, dtype=np.float32)
    layer = make()
    exact = reference(torch.tensor(x, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(layer(x), exact, rtol=3e-7, atol=3e-7)


@each_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_numbers_neither_overflow_nor_warn(
    make: Callable, reference: Callable, dtype: Any
) -> None:
    x = np.array([[-1e4, -1000, -100, 0, 100, 1000, 1e4]], dtype)
    layer = make()
    with np.errstate(all="warn", under="ignore"):  # and pytest turns a warning into an error
        y, dx = layer(x), layer.backward(np.ones_like(x))
    assert np.isfinite(y).all() and np.isfinite(dx).all()
    exact = reference(torch.tensor(x, dtype=torch.float64))
    np.testing.assert_allclose(y, exact, rtol=1e-6, atol=1e-30)


@each_case
@settings(max_examples=15, deadline=None)
@given(shape=array_shapes(max_dims=4, max_side=6), seed=st.integers(0, 1000))
def test_any_shape(make: Callable, reference: Callable, shape: tuple[int, ...], seed: int) -> None:
    assert_matches_torch(make(), reference, np.random.default_rng(seed).standard_normal(shape))


@each_case
def test_reads_views_and_integers(make: Callable, reference: Callable) -> None:
    x = np.random.default_rng(4).standard_normal((6, 8))
    assert_matches_torch(make(), reference, x.T[::2])
    assert_matches_torch(make(), reference, np.asfortranarray(x))
    for whole in (np.array([[0, 1, 2, 200]], np.uint8), np.array([[-2, -1, 0, 1, 3]])):
        exact = reference(torch.tensor(whole, dtype=torch.float64))
        np.testing.assert_allclose(make()(whole), exact, rtol=1e-6)


@each_case
def test_an_empty_batch_gives_an_empty_result(make: Callable, reference: Callable) -> None:
    layer, x = make(), np.zeros((0, 3), np.float32)
    assert layer(x).shape == layer.backward(x).shape == (0, 3)


def test_relu_at_its_kink() -> None:
    layer = ReLU()
    np.testing.assert_array_equal(layer(np.array([-1.0, -0.0, 0.0, 2.0])), [0, 0, 0, 2])
    np.testing.assert_array_equal(layer.backward(np.full(4, 5.0)), [0, 0, 0, 5])


def test_relu_backward_leaves_its_argument_alone() -> None:
    layer, dy = ReLU(), np.ones(4)
    layer(np.array([-1.0, -2.0, 3.0, 4.0]))
    layer.backward(dy)
    np.testing.assert_array_equal(dy, 1)


def test_relu_of_infinities() -> None:
    np.testing.assert_array_equal(ReLU()(np.array([-np.inf, np.inf])), [0, np.inf])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_keeps_its_digits_far_below_zero(dtype: Any) -> None:
    x = np.linspace(-80, 0, 161, dtype=dtype)
    exact = [1 / (1 + math.exp(-number)) for number in x]
    np.testing.assert_allclose(sigmoid(x), exact, rtol=8 * np.finfo(dtype).eps)


def test_sigmoid_of_a_number_and_of_integers() -> None:
    assert sigmoid(np.array(0.0)) == 0.5
    np.testing.assert_allclose(sigmoid(np.array([0, 1])), [0.5, 1 / (1 + 1 / math.e)])


def test_softmax_takes_the_maximum_of_each_row() -> None:
    # with the maximum of the whole array, the second row would be 0 / 0
    p = softmax(np.array([[1000.0, 1001.0], [-1001.0, -1000.0]]))
    np.testing.assert_allclose(p, [[1 / (1 + math.e), math.e / (1 + math.e)]] * 2, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_matches_torch_and_leaves_its_argument_alone(dtype: Any) -> None:
    x = np.random.default_rng(5).standard_normal((3, 4, 5)).astype(dtype)
    before = x.copy()
    p = softmax(x)
    assert p.dtype == dtype
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(p, torch.softmax(torch.tensor(x), -1), rtol=tolerance)
    np.testing.assert_array_equal(x, before)


def test_softmax_of_a_masked_row() -> None:
    np.testing.assert_array_equal(softmax(np.array([0.0, -np.inf, 0.0])), [0.5, 0, 0.5])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-7), (np.float64, 1e-14)])
def test_normal_distribution(dtype: Any, tolerance: float) -> None:
    x = np.concatenate([np.linspace(-12, 12, 20_001), [-1e4, -100, -40, 40, 100, 1e4]])
    x = x.astype(dtype)
    exact = np.array([math.erfc(-number / math.sqrt(2)) / 2 for number in x.astype(float)])
    assert np.abs(normal_distribution(x, np.empty_like(x)) - exact).max() < tolerance


def test_gelu_by_tanh_is_close_to_the_exact_one() -> None:
    x = np.linspace(-10, 10, 10_001)
    assert 1e-4 < np.abs(GELU()(x) - GELU(approximate="none")(x)).max() < 5e-4


def test_activation_by_name() -> None:
    assert set(ACTIVATIONS) == {name for name in CASES if " " not in name}
    for name, kind in ACTIVATIONS.items():
        assert type(activation(name)) is kind
        assert activation(name) is not activation(name)


def test_activation_copies_a_layer() -> None:
    layer = LeakyReLU(0.3)
    copied = activation(layer)
    assert isinstance(copied, LeakyReLU) and copied is not layer and copied.a == 0.3


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'swish'.*identity.*softplus"):
        activation("swish")
    with pytest.raises(ValueError, match="slope from 0 to 1, got -1"):
        LeakyReLU(-1)
    with pytest.raises(ValueError, match="alpha of 0 or more, got -1"):
        ELU(-1)
    with pytest.raises(ValueError, match="'erf'"):
        GELU(approximate="erf")
    with pytest.raises(RuntimeError, match=r"Sigmoid.backward needs a forward pass"):
        Sigmoid().backward(np.ones(3))
