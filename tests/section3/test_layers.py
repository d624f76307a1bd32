"""Batch norm of images, flatten and residual blocks; and PyTorch's twin of any layer here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from section1.activations import Identity, LeakyReLU, ReLU, Tanh
from section1.layer import Layer
from section1.linear import Linear
from section1.network import Sequential
from section2.batchnorm import BatchNorm1D
from section3.batchnorm import BatchNorm2D
from section3.conv import Conv2D
from section3.conv_transpose import ConvTranspose2D
from section3.flatten import Flatten, Unflatten
from section3.fused import ConvMaxPool2D
from section3.pooling import AvgPool2D, GlobalAvgPool2D, MaxPool2D
from section3.residual import Residual, residual_block
from tests.helpers import (
    assert_gradients,
    assert_layer_contract,
    assert_matches_torch,
    backward,
    gradients,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def some(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return rng(seed).standard_normal(shape)


def randomised(layer: Any, seed: int = 2) -> Any:
    """The layer with random biases, gammas and betas too, so that none of them hides."""
    for number, parameter in enumerate(layer.parameters()):
        parameter.value[...] = some(parameter.value.shape, seed + number)
    return layer


# --- the same layer in PyTorch ------------------------------------------------------------


def as_torch(layer: Layer) -> Callable[..., torch.Tensor]:
    """`reference(x, *parameters)` for `assert_matches_torch`: what `layer` is in PyTorch."""

    def reference(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        rest = iter(parameters)
        y = run(layer, x, rest)
        assert next(rest, None) is None, "a parameter that PyTorch does not have"
        return y

    return reference


def run(layer: Any, x: torch.Tensor, rest: Iterator[torch.Tensor]) -> torch.Tensor:
    """y of PyTorch for our layout of x, with the layer's parameters taken from `rest`."""
    images = x.movedim(-1, 1)  # (N, C, ...)
    match layer:
        case Sequential():
            for inner in layer.layers:
                x = run(inner, x, rest)
            return x
        case Residual():
            return run(layer.body, x, rest) + run(layer.shortcut, x, rest)
        case Conv2D():
            w = next(rest).permute(3, 2, 0, 1).contiguous()  # (F, C/G, KH, KW)
            b = next(rest) if layer.bias is not None else None
            walk = layer.stride, layer.padding, layer.dilation, layer.groups
            y = F.conv2d(images, w, b, *walk)
            if isinstance(layer, ConvMaxPool2D):
                y = F.max_pool2d(y, layer.pool)
        case ConvTranspose2D():
            w = next(rest).permute(2, 3, 0, 1).contiguous()  # (C, F, KH, KW)
            b = next(rest) if layer.bias is not None else None
            y = F.conv_transpose2d(images, w, b, layer.stride, layer.padding, layer.output_padding)
        case MaxPool2D():
            y = F.max_pool2d(images, layer.kernel, layer.stride, layer.padding)
        case AvgPool2D():
            y = F.avg_pool2d(images, layer.kernel, layer.stride, layer.padding)
        case GlobalAvgPool2D():
            return F.adaptive_avg_pool2d(images, 1).flatten(1)
        case BatchNorm1D():
            y = F.batch_norm(images, None, None, next(rest), next(rest), True, eps=layer.eps)
        case Linear():
            return F.linear(x, next(rest).T, next(rest) if layer.bias is not None else None)
        case Flatten():
            return torch.flatten(x, 1)
        case Unflatten():
            return torch.unflatten(x, 1, layer.shape)
        case ReLU():
            return torch.relu(x)
        case LeakyReLU():
            return F.leaky_relu(x, layer.a)
        case Tanh():
            return torch.tanh(x)
        case Identity():
            return x
        case _:
            raise AssertionError(f"no twin of {layer}")
    return y.movedim(1, -1)


# --- batch norm ---------------------------------------------------------------------------

SHAPES = [(4, 3, 5, 2), (1, 3, 3, 4), (2, 1, 1, 3), (3, 2, 7, 1)]


def batch_norm(channels: int, dtype: Any = np.float64) -> Any:
    return randomised(BatchNorm2D(channels, dtype=dtype))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm(shape: tuple[int, ...]) -> None:
    layer, x = batch_norm(shape[-1]), 3 * some(shape) + 5
    assert_matches_torch(layer, as_torch(layer), x)
    assert_gradients(batch_norm(shape[-1]), x, tolerance=2e-6)
    assert_layer_contract(lambda dtype: batch_norm(shape[-1], dtype), x)


def test_a_channel_is_one_feature_and_not_each_pixel() -> None:
    x = some((6, 4, 5, 3)) + 10 * some((1, 4, 5, 3), 5)  # every pixel has a mean of its own
    layer = BatchNorm2D(3, dtype=np.float64)
    y = layer(x)
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, rtol=1e-3)
    assert np.abs(y.mean(axis=0)).max() > 0.5  # what differs between pixels is still there
    assert layer.gamma.value.shape == layer.buffers()[0].shape == (3,)


def test_running_averages_and_evaluation() -> None:
    layer, theirs = batch_norm(3), torch.nn.BatchNorm2d(3, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight[:] = torch.tensor(layer.gamma.value)
        theirs.bias[:] = torch.tensor(layer.beta.value)
    for seed in range(3):
        x = 3 * some((2, 4, 5, 3), seed) + 5
        layer(x)
        theirs(torch.tensor(x).permute(0, 3, 1, 2))
    for ours, expected in zip(layer.buffers(), theirs.buffers()):  # and then its count
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
    layer.eval()
    theirs.eval()
    x = some((1, 1, 1, 3))
    expected = theirs(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    np.testing.assert_allclose(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((2, 3), r"BatchNorm2D\(3\) expects images \(N, H, W, 3\), got shape \(2, 3\)"),
        ((2, 2, 2, 4), r"BatchNorm2D\(3\) expects 3 features, got .*\(2, 2, 2, 4\)"),
        ((1, 1, 1, 3), r"batch norm needs two rows or more to train, got shape \(1, 1, 1, 3\)"),
    ],
)
def test_batch_norm_refuses(shape: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        BatchNorm2D(3)(np.ones(shape, np.float32))


# --- flatten ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 4), (0, 2, 2, 1)], ids=str)
def test_flatten(shape: tuple[int, ...]) -> None:
    x = some(shape)
    layer = Flatten()
    y = layer(x)
    assert y.shape == (shape[0], np.prod(shape[1:])) and (not x.size or np.shares_memory(x, y))
    np.testing.assert_array_equal(y.ravel(), x.ravel())
    np.testing.assert_array_equal(backward(layer, y), x)
    if x.size:
        assert_layer_contract(lambda dtype: Flatten(), x)


def test_unflatten_undoes_flatten() -> None:
    x = some((2, 3, 4, 5))
    layer, rows = Unflatten((3, 4, 5)), Flatten()(x)
    y = layer(rows)
    np.testing.assert_array_equal(y, x)
    assert np.shares_memory(rows, y)
    np.testing.assert_array_equal(backward(layer, y), rows)
    assert_layer_contract(lambda dtype: Unflatten((3, 4, 5)), rows)
    with pytest.raises(ValueError, match=r"Unflatten to \(3, 4, 5\) expects \(N, 60\), got .* 59"):
        layer(rows[:, :59])


# --- residual -----------------------------------------------------------------------------


def conv(channels: int, filters: int, dtype: Any = np.float64, **options: Any) -> Conv2D:
    return Conv2D(channels, filters, padding=1, rng=rng(), dtype=dtype, **options)


BODIES: dict[str, Callable[[Any], Layer]] = {
    "identity": lambda dtype: Residual(Sequential(conv(2, 2, dtype), Tanh())),
    "projection": lambda dtype: Residual(
        Sequential(Tanh(), conv(2, 3, dtype, stride=2)),
        Conv2D(2, 3, 1, stride=2, rng=rng(1), dtype=dtype),
    ),
    "nested": lambda dtype: Residual(Residual(conv(2, 2, dtype)), conv(2, 2, dtype, bias=False)),
    "block": lambda dtype: residual_block(2, 2, rng=rng(), dtype=dtype),
    "wider": lambda dtype: residual_block(2, 4, rng=rng(), dtype=dtype),
    "strided": lambda dtype: residual_block(2, 2, stride=2, rng=rng(), dtype=dtype),
    "wider and strided": lambda dtype: residual_block(2, 3, stride=2, rng=rng(), dtype=dtype),
}
bodies = pytest.mark.parametrize("make", BODIES.values(), ids=BODIES)


@bodies
@pytest.mark.parametrize("shape", [(2, 4, 4, 2), (1, 5, 3, 2)], ids=str)
def test_residual(make: Callable[[Any], Layer], shape: tuple[int, ...]) -> None:
    layer = randomised(make(np.float64))
    assert_matches_torch(layer, as_torch(layer), some(shape))
    assert_layer_contract(lambda dtype: randomised(make(dtype)), some(shape))


@bodies
def test_without_dx_the_other_gradients_are_the_same(make: Callable[[Any], Layer]) -> None:
    layer, x = randomised(make(np.float64)), some((2, 4, 4, 2))
    dy = some(layer(x).shape, 3)
    backward(layer, dy)
    expected = gradients(layer)
    layer.zero_grad()
    layer.skip_input_gradient()
    assert layer.backward(dy) is None
    for grad, before in zip(gradients(layer), expected):
        np.testing.assert_allclose(grad, before, rtol=1e-12, atol=1e-12)


def test_a_body_of_zeros_passes_everything() -> None:
    layer, x, dy = Residual(conv(2, 2, init="zeros")), some((2, 3, 3, 2)), some((2, 3, 3, 2), 3)
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(backward(layer, dy), dy)


@pytest.mark.parametrize(("filters", "stride"), [(2, 1), (3, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("size", [(4, 4), (5, 3), (1, 2)])
def test_a_block_starts_as_its_shortcut(filters: int, stride: int, size: Any) -> None:
    block, x = residual_block(2, filters, stride=stride, rng=rng(), dtype=np.float64), None
    x = some((3, *size, 2))
    residual = block[0]
    assert isinstance(residual, Residual)
    assert isinstance(residual.shortcut, Identity) == (filters == 2 and stride == 1)
    y = block(x)
    assert y.shape == (3, -(-size[0] // stride), -(-size[1] // stride), filters)
    np.testing.assert_array_equal(y, np.maximum(residual.shortcut(x), 0))
    block.backward(some(y.shape, 3))
    *others, gamma, _ = residual.body.parameters()
    assert gamma.grad.all()  # so it does not stay so
    assert not any(parameter.grad.any() for parameter in others)


@pytest.mark.parametrize("filters", [2, 5])
def test_parameters_of_a_block(filters: int) -> None:
    count = sum(p.value.size for p in residual_block(2, filters, rng=rng()).parameters())
    body = 9 * 2 * filters + 2 * filters + 9 * filters**2 + 2 * filters
    assert count == body + (0 if filters == 2 else 2 * filters + 2 * filters)


def test_shapes_that_cannot_be_added() -> None:
    with pytest.raises(
        ValueError, match=r"Residual cannot add \(1, 3, 3, 4\) .*\(1, 3, 3, 2\) from its shortcut"
    ):
        Residual(conv(2, 4))(np.ones((1, 3, 3, 2)))
