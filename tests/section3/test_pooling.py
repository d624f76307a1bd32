"""Pooling: PyTorch and loops, with overlaps, padding, left-over rows and ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from section1.layer import Layer
from section3 import naive
from section3.pooling import AvgPool2D, GlobalAvgPool2D, MaxPool2D
from tests.helpers import (
    assert_close,
    assert_gradients,
    assert_layer_contract,
    assert_matches_torch,
    backward,
)
from tests.section3.test_im2col import Geometry, geometries
from tests.section3.test_layers import as_torch, rng, some

KINDS = [MaxPool2D, AvgPool2D]
both = pytest.mark.parametrize("kind", KINDS)
GEOMETRIES = [
    Geometry((2, 4, 6, 3), (2, 2), (2, 2)),
    Geometry((2, 5, 7, 3), (2, 3), (2, 3)),  # rows and columns left over
    Geometry((2, 5, 6, 1), (3, 3), (1, 1)),  # overlaps
    Geometry((1, 7, 5, 2), (3, 2), (2, 1), (1, 1)),
    Geometry((1, 7, 8, 2), (2, 2), (3, 4), (1, 0)),  # gaps
    Geometry((1, 1, 1, 1), (1, 1), (1, 1)),
]


def pool(kind: Any, geometry: Geometry) -> Any:
    kernel, stride, padding, _ = geometry.walk
    layer = kind(kernel, stride=stride, padding=padding)
    assert (layer.kernel, layer.stride, layer.padding) == (kernel, stride, padding)
    return layer


def whole_numbers(shape: tuple[int, ...]) -> np.ndarray:
    """Few different ones, so that most windows hold their largest more than once."""
    return rng().integers(-2, 2, shape).astype(float)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@both
def test_pools_of_awkward_shapes(kind: type, geometry: Geometry) -> None:
    layer, x = pool(kind, geometry), some(geometry.shape)
    assert_matches_torch(layer, as_torch(layer), x)
    assert_matches_torch(layer, as_torch(layer), whole_numbers(geometry.shape))
    assert_gradients(layer, x)
    assert_layer_contract(lambda dtype: pool(kind, geometry), x)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), geometry=geometries(pool=True), ties=st.booleans())
def test_pools_match_torch(kind: type, geometry: Geometry, ties: bool) -> None:
    layer = pool(kind, geometry)
    x = whole_numbers(geometry.shape) if ties else some(geometry.shape)
    assert_matches_torch(layer, as_torch(layer), x)


def by_loop(kind: type, x: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """y, and dx for dy = y."""
    kernel, stride, padding, _ = geometry.walk
    settings: Any = {"stride": stride, "padding": padding}
    if kind is AvgPool2D:
        y = naive.avg_pool2d(x, kernel, **settings)
        return y, naive.avg_pool2d_backward(y, x.shape, kernel, **settings)
    y, winner = naive.max_pool2d(x, kernel, **settings)
    return y, naive.max_pool2d_backward(y, winner, x.shape, kernel, **settings)


@settings(max_examples=30, deadline=None)
@given(kind=st.sampled_from(KINDS), geometry=geometries(pool=True), ties=st.booleans())
def test_pools_are_the_loop_and_the_loop_is_pytorch(
    kind: type, geometry: Geometry, ties: bool
) -> None:
    layer = pool(kind, geometry)
    x = whole_numbers(geometry.shape) if ties else some(geometry.shape)
    y, dx = by_loop(kind, x, geometry)
    assert_close(layer(x), y, 1e-10, "y against the loop")
    assert_close(backward(layer, y), dx, 1e-10, "dx against the loop")
    tensor = torch.tensor(x, requires_grad=True)
    theirs = as_torch(layer)(tensor)
    assert_close(y, theirs.detach().numpy(), 1e-10, "the loop against PyTorch")
    theirs.backward(torch.tensor(y))
    assert tensor.grad is not None
    assert_close(dx, tensor.grad.numpy(), 1e-10, "dx of the loop against PyTorch")


def test_the_default_stride_is_the_kernel() -> None:
    for layer in (MaxPool2D((3, 2)), AvgPool2D((3, 2))):
        assert layer.stride == (3, 2) and layer.side_by_side
        assert layer(some((1, 8, 5, 2))).shape == (1, 2, 2, 2)
    assert not MaxPool2D(2, stride=1).side_by_side and not MaxPool2D(2, padding=1).side_by_side


@both
def test_whole_numbers_are_pooled_as_floats(kind: Any) -> None:
    x = rng().integers(0, 256, (2, 5, 4, 3), np.uint8)
    y = kind(2)(x)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, kind(2)(x.astype(np.float32)))
    by_loops, _ = by_loop(kind, x, Geometry(x.shape, (2, 2), (2, 2)))
    assert_close(y, by_loops, 1e-6, "the loop")


# --- what others got wrong ----------------------------------------------------------------


def test_padding_never_wins() -> None:
    x = np.full((1, 3, 3, 1), -5.0)
    layer = MaxPool2D(3, stride=1, padding=1)
    np.testing.assert_array_equal(layer(x), x)
    assert backward(layer, np.ones_like(x)).sum() == 9  # and nothing was sent into the padding


def test_an_element_of_several_windows_gets_the_sum() -> None:
    x = np.zeros((1, 3, 3, 1))
    x[0, 1, 1] = 1
    dx = {}
    for kind in (MaxPool2D, AvgPool2D):
        layer = kind(2, stride=1)
        dx[kind] = backward(layer, np.ones_like(layer(x)))
    np.testing.assert_array_equal(dx[MaxPool2D], 4 * x)
    np.testing.assert_array_equal(
        dx[AvgPool2D][0, :, :, 0], [[0.25, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 0.25]]
    )


def test_of_equal_elements_the_first_one_wins() -> None:
    layer, x = MaxPool2D(2), np.zeros((1, 2, 4, 1))
    x[0, 1, 2:] = 7
    layer(x)
    dx = backward(layer, np.array([3.0, 5.0]).reshape(1, 1, 2, 1))
    np.testing.assert_array_equal(dx[0, :, :, 0], [[3, 0, 0, 0], [0, 0, 5, 0]])


def test_left_over_rows_get_no_gradient() -> None:
    for kind in KINDS:
        layer = kind(2)
        layer(some((2, 5, 3, 2)))
        dx = backward(layer, np.ones((2, 2, 1, 2)))
        assert not dx[:, 4:].any() and not dx[:, :, 2:].any() and dx.sum() == pytest.approx(8)


@both
def test_a_pool_that_comes_first_computes_no_dx(kind: Any) -> None:
    layer = kind(2)
    y = layer(some((1, 4, 4, 1)))
    layer.skip_input_gradient()
    assert layer.backward(y) is None


# --- the mean of everything ---------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 7, 1, 2)], ids=str)
def test_global_average(shape: tuple[int, ...]) -> None:
    x = some(shape)
    assert_matches_torch(
        GlobalAvgPool2D(), lambda x: F.adaptive_avg_pool2d(x.movedim(-1, 1), 1)[..., 0, 0], x
    )
    assert_gradients(GlobalAvgPool2D(), x)
    assert_layer_contract(lambda dtype: GlobalAvgPool2D(), x)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_a_global_average_is_as_good_as_float32_can_be(dtype: Any) -> None:
    x = np.full((1, 512, 512, 3), 0.1 if dtype != np.uint8 else 7).astype(dtype)
    y = GlobalAvgPool2D()(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, np.float32(x[:, 0, 0]), rtol=1e-5)


# --- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "complaint"),
    [
        (
            MaxPool2D(2),
            (4, 4, 1),
            r"MaxPool2D\(2x2\) expects images \(N, H, W, C\), got .*\(4, 4, 1\)",
        ),
        (AvgPool2D(2), (2, 9), r"AvgPool2D\(2x2\) expects images \(N, H, W, C\), got .*\(2, 9\)"),
        (GlobalAvgPool2D(), (2, 9), r"GlobalAvgPool2D expects images .*, got shape \(2, 9\)"),
        (
            MaxPool2D((4, 2), padding=(1, 0)),
            (1, 1, 3, 1),
            r"MaxPool2D\(4x2\): a window of 4x2 .* input of 1x3 padded to 3x3",
        ),
    ],
)
def test_images_that_are_refused(layer: Layer, shape: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        layer(np.ones(shape))


@pytest.mark.parametrize("padding", [2, (0, 2), (2, 0)])
@both
def test_padding_of_more_than_half_a_window_is_refused(kind: Any, padding: Any) -> None:
    complaint = rf"{kind.__name__}\(3x3\): padding may be at most half a window, got \(\d, \d\)"
    with pytest.raises(ValueError, match=complaint):
        kind(3, padding=padding)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("kernel", 0), ("kernel", 2.5), ("kernel", (2, 2, 2)), ("stride", 0), ("padding", -1)],
)
@both
def test_numbers_that_are_refused(kind: Any, setting: str, value: Any) -> None:
    complaint = f"{kind.__name__}.*{setting} must be one or two whole numbers"
    with pytest.raises(ValueError, match=complaint):
        kind(**{setting: value})
