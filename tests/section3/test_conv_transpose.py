"""The transposed convolution: PyTorch, loops, centred differences, and the layer it transposes."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from section3 import naive
from section3.conv import Conv2D
from section3.conv_transpose import ConvTranspose2D
from section3.im2col import Pair
from tests.helpers import (
    assert_close,
    assert_gradients,
    assert_gradients_add_up,
    assert_layer_contract,
    assert_matches_torch,
    backward,
    gradients,
)
from tests.section3.test_conv import assert_same_without_dx
from tests.section3.test_im2col import pairs
from tests.section3.test_layers import as_torch, randomised, rng, some


class Spread(NamedTuple):
    """Images (N, H, W, C), and how a pixel is spread over a window."""

    shape: tuple[int, ...]
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)

    @property
    def walk(self) -> dict[str, Any]:
        return dict(zip(("stride", "padding", "output_padding"), self[2:]))


@st.composite
def spreads(draw: st.DrawFn) -> Spread:
    """Any geometry that leaves something of the image."""
    shape = tuple(draw(st.integers(1, most)) for most in (3, 4, 4, 3))
    kernel, stride = draw(pairs(1, 4)), draw(pairs(1, 3))
    extra = draw(st.integers(0, stride[0] - 1)), draw(st.integers(0, stride[1] - 1))
    full = [s * (n - 1) + k + e for s, n, k, e in zip(stride, shape[1:3], kernel, extra)]
    ph, pw = (draw(st.integers(0, min(4, (size - 1) // 2))) for size in full)
    return Spread(shape, kernel, stride, (ph, pw), extra)


SPREADS = [
    Spread((2, 3, 3, 2), (4, 4), (2, 2), (1, 1)),  # twice as large: that of a DCGAN
    Spread((1, 1, 1, 1), (1, 1)),
    Spread((2, 3, 2, 3), (3, 5), padding=(1, 2)),
    Spread((2, 3, 4, 1), (2, 3), (3, 2), (0, 1), (2, 1)),  # gaps between windows, and behind
    Spread((1, 4, 3, 2), (2, 2), padding=(2, 1)),  # more is cut off than a window is wide
    Spread((2, 2, 3, 2), (3, 2), (2, 1), (1, 0), (1, 0)),
]
spread_cases = pytest.mark.parametrize("spread", SPREADS, ids=str)


def layer_of(spread: Spread, filters: int = 3, dtype: Any = np.float64, **options: Any) -> Any:
    """A layer of that geometry whose biases are random, too."""
    layer = ConvTranspose2D(
        spread.shape[-1], filters, spread.kernel, **spread.walk, rng=rng(), dtype=dtype, **options
    )
    return randomised(layer)


@settings(max_examples=100, deadline=None)
@given(
    spread=spreads(),
    filters=st.integers(1, 3),
    bias=st.booleans(),
    elements=st.sampled_from([1, 100, 2**18]),
)
def test_it_matches_torch(spread: Spread, filters: int, bias: bool, elements: int) -> None:
    layer, x = layer_of(spread, filters, bias=bias), some(spread.shape)
    with mock.patch("section3.conv.COLUMNS", elements):
        assert_matches_torch(layer, as_torch(layer), x)
        assert_same_without_dx(layer, x)


@spread_cases
@pytest.mark.parametrize("bias", [True, False])
def test_awkward_shapes(spread: Spread, bias: bool) -> None:
    layer, x = layer_of(spread, bias=bias), some(spread.shape)
    assert_matches_torch(layer, as_torch(layer), x)
    assert_gradients(layer, x, tolerance=1e-6)
    assert_layer_contract(lambda dtype: layer_of(spread, dtype=dtype, bias=bias), x)
    assert_same_without_dx(layer, x)


@settings(max_examples=25, deadline=None)
@given(spread=spreads(), bias=st.booleans())
def test_it_is_the_loop(spread: Spread, bias: bool) -> None:
    layer, x = layer_of(spread, 2, bias=bias), some(spread.shape)
    weight, b = layer.weight.value, layer.bias.value if bias else None
    y = naive.conv_transpose2d(x, weight, b, **spread.walk)
    assert_close(layer(x), y, 1e-10, "y against the loop")
    dy = some(y.shape, 3)
    walk: Any = {"stride": spread.stride, "padding": spread.padding}
    slopes = naive.conv_transpose2d_backward(dy, x, weight, **walk)
    for name, fast, loop in zip(
        ("dx", "dw", "db"), [backward(layer, dy), *gradients(layer)], slopes
    ):
        assert_close(fast, loop, 1e-10, f"{name} against the loop")


@spread_cases
def test_it_is_the_transpose_of_a_convolution(spread: Spread) -> None:
    """(conv a) . b = a . (transpose b), with the same filters."""
    layer, x = layer_of(spread, bias=False), some(spread.shape)
    conv = Conv2D(
        3, spread.shape[-1], spread.kernel, stride=spread.stride, padding=spread.padding,
        bias=False, rng=rng(), dtype=np.float64,
    )  # fmt: skip
    conv.weight.value[...] = layer.weight.value.swapaxes(2, 3)
    y = layer(x)
    image = some(y.shape, 5)
    assert conv(image).shape == x.shape
    assert (conv(image) * x).sum() == pytest.approx((image * y).sum(), rel=1e-10)


def test_one_by_hand() -> None:
    layer = ConvTranspose2D(1, 1, 2, rng=rng(), dtype=np.float64)
    layer.weight.value[:, :, 0, 0] = [[1, 2], [3, 4]]
    layer.bias.value[...] = 10  # type: ignore[union-attr]
    x = np.array([[1.0, 10], [100, 1000]]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(
        layer(x)[0, :, :, 0] - 10, [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]
    )
    dx = backward(layer, np.ones((1, 3, 3, 1)))
    np.testing.assert_array_equal(dx[0, :, :, 0], [[10, 10], [10, 10]])
    dw, db = gradients(layer)
    np.testing.assert_array_equal(dw[:, :, 0, 0], np.full((2, 2), 1111))
    assert db == [9]


@spread_cases
def test_a_batch_has_the_sum_of_its_images_gradients(spread: Spread) -> None:
    assert_gradients_add_up(layer_of(spread), some((3, *spread.shape[1:])))


@pytest.mark.parametrize("stride", [1, 2])
def test_initial_weights_keep_the_scale_of_a_signal(stride: int) -> None:
    layer = ConvTranspose2D(32, 16, 4, stride=stride, padding=1, rng=rng())
    assert layer.bias is not None and not layer.bias.value.any()
    x = np.maximum(some((16, 12, 12, 32)), 0)  # after a ReLU
    inner = layer(x)[:, 3:-3, 3:-3]
    assert inner.std() == pytest.approx(1, rel=0.1)


def test_images_of_integers_and_of_any_strides() -> None:
    spread = SPREADS[0]
    layer, pixels = layer_of(spread), rng().integers(0, 256, spread.shape)
    np.testing.assert_array_equal(layer(pixels.astype(np.uint8)), layer(pixels.astype(float)))
    x = some(spread.shape[::-1]).T
    y = layer(x)
    dy = some(y.shape[::-1], 3).T
    dx = backward(layer, dy)
    straight = np.ascontiguousarray(x), np.ascontiguousarray(dy)
    np.testing.assert_allclose(layer(straight[0]), y, rtol=0, atol=1e-12)
    np.testing.assert_allclose(backward(layer, straight[1]), dx, rtol=0, atol=1e-12)


NAME = r"ConvTranspose2D\(3, 4, 4x4\)"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"filters": 0}, r"ConvTranspose2D\(3, 0, 4x4\): channels and filters must be at least 1"),
        ({"kernel": 0}, "kernel must be one or two whole numbers of at least 1"),
        ({"stride": (1, 0)}, "stride must be one or two whole numbers of at least 1"),
        ({"padding": -1}, "padding must be one or two whole numbers of at least 0"),
        ({"output_padding": 1}, NAME + r": output_padding must be below the stride \(1, 1\)"),
        ({"stride": (3, 2), "output_padding": (2, 2)}, r"below the stride \(3, 2\), got \(2, 2\)"),
    ],
)
def test_settings_that_are_refused(options: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ConvTranspose2D(**{"channels": 3, "filters": 4, "rng": rng(), **options})


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((2, 5, 5, 4), r" expects images \(N, H, W, 3\), got shape \(2, 5, 5, 4\)"),
        ((5, 5, 3), r" expects images \(N, H, W, 3\), got shape \(5, 5, 3\)"),
        ((1, 1, 5, 3), r": nothing is left of an input of 1x5 .* would be 0x4"),
    ],
)
def test_images_that_are_refused(shape: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=NAME + complaint):
        ConvTranspose2D(3, 4, padding=2, rng=rng())(np.ones(shape))
