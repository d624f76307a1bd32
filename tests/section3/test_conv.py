"""The convolution: PyTorch, loops and centred differences, for every geometry."""

from __future__ import annotations

import pickle
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from section1.layer import Layer
from section3 import naive
from section3.conv import Conv2D, slices
from tests.helpers import (
    assert_close,
    assert_gradients,
    assert_gradients_add_up,
    assert_layer_contract,
    assert_matches_torch,
    backward,
    gradients,
)
from tests.section3.test_im2col import Geometry, geometries, geometry_cases
from tests.section3.test_layers import as_torch, randomised, rng, some

ODD = Geometry((2, 7, 6, 2), (3, 5), padding=(1, 2))
STRIDED = Geometry((2, 7, 6, 2), (3, 2), stride=(2, 3), padding=(1, 1))
DILATED = Geometry((2, 7, 8, 2), (3, 2), padding=(3, 4), dilation=(2, 3))
WALKS = pytest.mark.parametrize(
    "geometry", [ODD, STRIDED, DILATED], ids=["3x5", "stride", "dilate"]
)


def conv(geometry: Geometry, filters: int = 3, dtype: Any = np.float64, **options: Any) -> Any:
    """A convolution of that geometry whose biases are random, too."""
    kernel, stride, padding, dilation = geometry.walk
    layer = Conv2D(
        geometry.shape[-1], filters, kernel, stride=stride, padding=padding, dilation=dilation,
        rng=rng(), dtype=dtype, **options,
    )  # fmt: skip
    assert (layer.kernel, layer.stride, layer.padding, layer.dilation) == geometry.walk
    return randomised(layer)


def conv_layouts(short: int, elements: int) -> Any:
    """Both ways to store columns, and any number of chunks: small images take one of each."""
    return mock.patch.multiple("section3.conv", SHORT=short, COLUMNS=elements)


def assert_same_without_dx(layer: Layer, x: np.ndarray) -> None:
    """The first layer of a network takes another way to the same dW."""
    dy = some(layer(x).shape, 3)
    layer.zero_grad()
    backward(layer, dy)
    first = layer.replica()
    first.skip_input_gradient()
    for _ in range(2):  # its arrays are used again
        first.zero_grad()
        first(x)
        assert first.backward(dy) is None
    for number, (grad, expected) in enumerate(zip(gradients(first), gradients(layer))):
        assert_close(grad, expected, 1e-12, f"parameter {number} without dx")


# --- PyTorch, loops, slopes ---------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    geometry=geometries(),
    groups=st.integers(1, 3),
    filters=st.integers(1, 3),
    bias=st.booleans(),
    short=st.sampled_from([1, 10_000]),
    elements=st.sampled_from([1, 200, 2**18]),
)
def test_conv_matches_torch(
    geometry: Geometry, groups: int, filters: int, bias: bool, short: int, elements: int
) -> None:
    *images, channels = geometry.shape
    geometry = geometry._replace(shape=(*images, channels * groups))
    layer, x = conv(geometry, filters * groups, groups=groups, bias=bias), some(geometry.shape)
    with conv_layouts(short, elements):
        assert_matches_torch(layer, as_torch(layer), x)
        assert_same_without_dx(layer, x)


@geometry_cases
@pytest.mark.parametrize("bias", [True, False])
def test_conv_of_awkward_shapes(geometry: Geometry, bias: bool) -> None:
    layer, x = conv(geometry, bias=bias), some(geometry.shape)
    assert_matches_torch(layer, as_torch(layer), x)
    assert_gradients(layer, x, tolerance=1e-6)
    assert_layer_contract(lambda dtype: conv(geometry, dtype=dtype, bias=bias), x)
    assert_same_without_dx(layer, x)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("channels", "filters", "groups"), [(4, 6, 2), (3, 3, 3), (3, 6, 3), (4, 2, 2), (6, 3, 3)]
)
def test_groups(channels: int, filters: int, groups: int, stride: int) -> None:
    geometry = Geometry((2, 5, 4, channels), (3, 2), (stride, stride), (1, 1))
    layer, x = conv(geometry, filters, groups=groups), some(geometry.shape)
    assert_matches_torch(layer, as_torch(layer), x)
    assert_layer_contract(lambda dtype: conv(geometry, filters, dtype, groups=groups), x)
    assert_same_without_dx(layer, x)
    weight = layer.weight.value
    alone = [  # a group is a convolution by itself
        naive.conv2d(
            np.split(x, groups, axis=-1)[k], np.split(weight, groups, axis=-1)[k],
            np.split(layer.bias.value, groups)[k], stride=(stride, stride), padding=(1, 1),
        )
        for k in range(groups)
    ]  # fmt: skip
    np.testing.assert_allclose(layer(x), np.concatenate(alone, axis=-1), rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(geometry=geometries(), groups=st.integers(1, 2), bias=st.booleans())
def test_conv_is_the_loop_and_the_loop_is_pytorch(
    geometry: Geometry, groups: int, bias: bool
) -> None:
    n, h, w, channels = geometry.shape
    geometry = geometry._replace(shape=(min(n, 2), h, w, channels * groups))
    layer, x = conv(geometry, 2 * groups, groups=groups, bias=bias), some(geometry.shape)
    walk: Any = dict(zip(("stride", "padding", "dilation"), geometry.walk[1:]))
    weight, b = layer.weight.value, layer.bias.value if bias else None
    y = naive.conv2d(x, weight, b, groups=groups, **walk)
    dy = some(y.shape, 3)
    slopes = naive.conv2d_backward(dy, x, weight, groups=groups, **walk)

    assert_close(layer(x), y, 1e-10, "y against the loop")
    ours = [backward(layer, dy), *gradients(layer)]
    inputs = [
        torch.tensor(a, requires_grad=True) for a in (x, *(p.value for p in layer.parameters()))
    ]
    theirs = as_torch(layer)(*inputs)
    assert_close(y, theirs.detach().numpy(), 1e-10, "the loop against PyTorch")
    theirs.backward(torch.tensor(dy))
    for name, fast, loop, tensor in zip(("dx", "dw", "db"), ours, slopes, inputs):
        assert tensor.grad is not None
        assert_close(loop, tensor.grad.numpy(), 1e-10, f"{name} of the loop against PyTorch")
        assert_close(fast, loop, 1e-10, f"{name} against the loop")


@pytest.mark.parametrize("kernel", [1, 3, 5, (3, 5)])
@pytest.mark.parametrize("dilation", [1, (2, 3)])
def test_padding_same_keeps_the_size(kernel: Any, dilation: Any) -> None:
    layer = Conv2D(
        2, 3, kernel, padding="same", dilation=dilation, rng=rng(), dtype=np.float64
    )  # fmt: skip
    x = some((2, 6, 5, 2))
    assert layer(x).shape == (2, 6, 5, 3)
    assert_matches_torch(
        layer,
        lambda x, w, b: torch.nn.functional.conv2d(
            x.permute(0, 3, 1, 2), w.permute(3, 2, 0, 1), b, padding="same", dilation=dilation
        ).permute(0, 2, 3, 1),
        x,
    )


def test_a_convolution_by_hand() -> None:
    layer = Conv2D(1, 1, 2, rng=rng(), dtype=np.float64)
    layer.weight.value[:, :, 0, 0] = [[1, 2], [3, 4]]
    layer.bias.value[...] = 10  # type: ignore[union-attr]
    x = np.arange(1.0, 10).reshape(1, 3, 3, 1)
    np.testing.assert_array_equal(layer(x)[0, :, :, 0], [[47, 57], [77, 87]])
    dx = backward(layer, np.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(dx[0, :, :, 0], [[1, 3, 2], [4, 10, 6], [3, 7, 4]])
    dw, db = gradients(layer)
    np.testing.assert_array_equal(dw[:, :, 0, 0], [[12, 16], [24, 28]])
    assert db == [4]


# --- what others got wrong ----------------------------------------------------------------


@WALKS
def test_a_batch_has_the_sum_of_its_images_gradients(geometry: Geometry) -> None:
    assert_gradients_add_up(conv(geometry), some((3, *geometry.shape[1:])))


@WALKS
def test_nothing_grows_with_the_number_of_steps(geometry: Geometry) -> None:
    layer, x = conv(geometry), some(geometry.shape)
    replica = layer.replica()
    sizes = set()
    for _ in range(5):
        for one in (layer, replica):
            one.backward(one(x))
        arrays = sorted((name, id(array)) for name, array in replica._scratch.items())
        sizes.add((len(pickle.dumps(layer)), tuple(arrays)))
    assert len(sizes) == 1


def test_layers_of_one_shape_start_with_different_weights() -> None:
    source = rng()
    first, second = (Conv2D(2, 3, rng=source) for _ in range(2))
    assert (first.weight.value != second.weight.value).all()
    again = Conv2D(2, 3, rng=rng())
    np.testing.assert_array_equal(again.weight.value, first.weight.value)


def test_initial_weights_keep_the_scale_of_a_signal() -> None:
    layer = Conv2D(16, 64, 5, groups=2, rng=rng())
    assert layer.weight.value.std() == pytest.approx(np.sqrt(2 / (25 * 8)), rel=0.05)
    assert layer.bias is not None and not layer.bias.value.any()
    assert Conv2D(2, 3, bias=False, rng=rng()).bias is None
    assert not Conv2D(2, 3, init="zeros", rng=rng()).weight.value.any()


@pytest.mark.parametrize("elements", [1, 100, 500, 10_000])
@pytest.mark.parametrize("groups", [1, 2])
@WALKS
def test_chunks_change_nothing_but_rounding(geometry: Geometry, groups: int, elements: int) -> None:
    x = some((7, *geometry.shape[1:]))
    results = []
    for limit in (2**18, elements):
        with conv_layouts(16, limit):
            layer = conv(geometry, 4, groups=groups)
            y = layer(x)
            results.append([y, backward(layer, some(y.shape, 3)), *gradients(layer)])
            assert_same_without_dx(layer, x)
    for cut, whole in zip(*results, strict=True):
        np.testing.assert_allclose(cut, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("elements", "ends"), [(10, [7]), (49, [2, 4, 6, 7]), (101, [1, 2, 3, 4, 5, 6, 7])]
)
def test_images_are_cut_into_runs_of_so_many_elements(elements: int, ends: list[int]) -> None:
    with conv_layouts(16, 100):
        runs = list(slices(7, elements))
    assert runs == [slice(start, end) for start, end in zip([0, *ends], ends)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_pixels_may_be_integers(dtype: type) -> None:
    layer, x = conv(ODD), rng().integers(0, 256, ODD.shape)
    np.testing.assert_array_equal(layer(x.astype(dtype)), layer(x.astype(float)))


def test_any_strides_will_do() -> None:
    x = some((2, 2, 6, 7)).transpose(0, 3, 2, 1)  # (N, C, W, H) seen as (N, H, W, C)
    for geometry in (ODD, STRIDED):
        results = []
        for images in (x, np.ascontiguousarray(x)):
            layer = conv(geometry)
            dy = some(layer(images).shape[::-1], 3).T
            results.append([layer(images), backward(layer, dy), *gradients(layer)])
        for turned, straight in zip(*results, strict=True):
            np.testing.assert_allclose(turned, straight, rtol=0, atol=1e-12)


# --- what is refused ----------------------------------------------------------------------

NAME = r"Conv2D\(3, 4, "


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"groups": 2}, NAME + r"3x3\): groups must divide .* 2 does not divide 3 and 4"),
        ({"groups": 3}, NAME + r"3x3\): groups must divide .* 3 does not divide 3 and 4"),
        ({"groups": 0}, NAME + r"3x3\): channels, filters and groups must be at least 1"),
        ({"filters": 0}, r"Conv2D\(3, 0, 3x3\): channels, filters and groups must be at least 1"),
        ({"padding": "valid"}, NAME + r"3x3\): padding must be numbers or \"same\", got 'valid'"),
        ({"padding": "same", "kernel": (3, 2)}, NAME + r"3x2\): padding \"same\" needs .* odd"),
        ({"padding": "same", "stride": 2}, NAME + r"3x3\): padding \"same\" needs stride 1"),
        ({"init": "hee"}, "unknown initializer 'hee'"),
    ],
)
def test_settings_that_are_refused(options: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Conv2D(**{"channels": 3, "filters": 4, "rng": rng(), **options})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("kernel", 0), ("kernel", (3, 0)), ("kernel", (3, 3, 3)), ("kernel", 2.5),
        ("stride", 0), ("dilation", 0), ("padding", -1), ("padding", (0, -1)),
    ],
)  # fmt: skip
def test_numbers_that_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"Conv2D.*{setting} must be one or two whole numbers"):
        Conv2D(3, 4, **{"rng": rng(), setting: value})


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((2, 5, 5, 4), r"5x3\) expects images \(N, H, W, 3\), got shape \(2, 5, 5, 4\)"),
        ((2, 3, 5, 5), r"5x3\) expects images \(N, H, W, 3\), got shape \(2, 3, 5, 5\)"),
        ((5, 5, 3), r"5x3\) expects images \(N, H, W, 3\), got shape \(5, 5, 3\)"),
        ((1, 2, 5, 3), r"5x3\): a window of 5x3 .* input of 2x5 padded to 4x5"),
    ],
)
def test_images_that_are_refused(shape: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=NAME + complaint):
        Conv2D(3, 4, (5, 3), padding=(1, 0), rng=rng())(np.ones(shape))
