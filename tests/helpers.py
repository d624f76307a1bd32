"""Checks that every layer of the course must pass, in one place.

- `numerical_gradient`: the slope of a function by centred differences.
- `assert_gradients`: a layer's backward against them.
- `assert_matches_torch`: values and gradients of a layer against PyTorch, in float64.
- `assert_layer_contract`: what `section1.layer.Layer` promises beyond the mathematics.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from section1.layer import Layer

ROUNDING = 8  # times eps: (a + b) + a + b is not quite 2 (a + b), where two layers share weights


def numerical_gradient(
    function: Callable[[], float], array: np.ndarray, step: float = 1e-5
) -> np.ndarray:
    """d function() / d array by centred differences, changing float64 `array` in place.

    The error is about step^2 times the third derivative, plus 1e-16 |f| / step.
    """
    assert array.dtype == np.float64, "centred differences need float64"
    slope = np.empty_like(array)
    for index in np.ndindex(array.shape):
        before = array[index]
        array[index] = before + step
        above = function()
        array[index] = before - step
        below = function()
        array[index] = before
        slope[index] = (above - below) / (2 * step)
    return slope


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Within `tolerance` of `expected`, relative to its largest element where that exceeds 1."""
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, not {expected.shape}"
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, err_msg=what)


def backward(layer: Layer, dy: np.ndarray) -> np.ndarray:
    """`layer.backward(dy)`, which here must return a dx."""
    dx = layer.backward(dy)
    assert dx is not None
    return dx


def assert_gradients(layer: Layer, x: np.ndarray, tolerance: float = 1e-7, seed: int = 0) -> None:
    """dx and every parameter's gradient of sum(y * dy), for a random dy, are the slopes of it.

    `layer` and `x` are float64; x should keep clear of kinks by more than 1e-5. A layer
    that draws random numbers must draw the same at each call.
    """
    x = x.copy()
    dy = np.random.default_rng(seed).standard_normal(layer(x).shape)

    def total() -> float:
        return float((layer(x) * dy).sum())

    slopes = [numerical_gradient(total, array) for array in [x, *values(layer)]]
    layer.zero_grad()
    layer(x)
    assert_close(backward(layer, dy), slopes[0], tolerance, "dx against centred differences")
    for number, (grad, slope) in enumerate(zip(gradients(layer), slopes[1:])):
        assert_close(grad, slope, tolerance, f"parameter {number} against centred differences")


def assert_matches_torch(
    layer: Layer,
    reference: Callable[..., torch.Tensor],
    x: np.ndarray,
    value_tolerance: float = 1e-12,
    gradient_tolerance: float = 1e-10,
    seed: int = 0,
) -> None:
    """y, dx and all parameters' gradients equal those of PyTorch, in float64.

    `reference(x, *parameters)` takes tensors that hold x and `layer.parameters()` in our
    own layout and does its transposes itself, so all gradients come back in our layout. An x
    of integers has no dx.
    """
    assert x.dtype in (np.float64, np.int64)
    arrays = [x, *values(layer)]
    inputs = [torch.tensor(array, requires_grad=array.dtype.kind == "f") for array in arrays]
    expected = reference(*inputs)
    y = layer(x)
    assert_close(y, expected.detach().numpy(), value_tolerance, "y against PyTorch")

    dy = np.random.default_rng(seed).standard_normal(y.shape)
    expected.backward(torch.tensor(dy))
    layer.zero_grad()
    dx = layer.backward(dy)
    for number, (ours, tensor) in enumerate(zip([dx, *gradients(layer)], inputs)):
        what = f"gradient of parameter {number - 1}" if number else "dx"
        if not tensor.requires_grad:
            assert ours is None, f"integers have no {what}"
            continue
        assert ours is not None and tensor.grad is not None, f"no {what}"
        assert_close(ours, tensor.grad.numpy(), gradient_tolerance, f"{what} against PyTorch")


def assert_layer_contract(make: Callable[[Any], Layer], x: np.ndarray) -> None:
    """`make(dtype)` gives a layer that keeps the promises of `section1.layer.Layer`.

    It changes neither x nor dy; float32 stays float32 and float64 float64; backward twice
    gives the same dx and adds the gradients twice; what it returned is not overwritten by
    a later call; it remembers nothing in evaluation mode and no more after many forward
    passes than after one; a replica gives the same y and dx, and leaves its original alone.
    An x of integers stays as it is, and has no dx.
    """
    integers = x.dtype.kind in "iu"
    for dtype in (np.float32, np.float64):
        layer, eps = make(dtype), float(np.finfo(dtype).eps)
        x = locked(x if integers else x.astype(dtype))
        y = layer(x)
        y_before = y.copy()
        assert y.dtype == dtype, f"{dtype.__name__} in, {y.dtype} out"
        size = len(pickle.dumps(layer))
        dy = locked(np.random.default_rng(0).standard_normal(y.shape).astype(dtype))

        layer.zero_grad()
        dx = layer.backward(dy)
        dx_before, once = copy.deepcopy(dx), gradients(layer)
        assert (dx is None) == integers, "dx is None for integers, and for them alone"
        if dx is not None:
            assert dx.shape == x.shape and dx.dtype == dtype, f"dx is {dx.shape} of {dx.dtype}"
        for parameter in layer.parameters():
            assert parameter.grad.shape == parameter.value.shape
            assert parameter.value.dtype == parameter.grad.dtype == dtype
        np.testing.assert_array_equal(layer.backward(dy), dx_before, "dx of a second backward")
        for grad, twice in zip(once, gradients(layer)):
            assert_close(twice, 2 * grad, ROUNDING * eps, "a second backward adds the same")

        for _ in range(3):
            layer(locked(x[::-1].copy() if integers else x + dtype(1)))
        layer.backward(dy)
        np.testing.assert_array_equal(y, y_before, "y after later calls")
        np.testing.assert_array_equal(dx, dx_before, "dx after later calls")
        assert len(pickle.dumps(layer)) <= size + 200, "what is kept grows with every forward"

        assert_replica_agrees(make(dtype), x, dy)
        remembers = any(module._memory is not None for module in layer.modules())
        layer.eval()
        layer(x)
        assert all(module._memory is None for module in layer.modules()), "remembers in eval mode"
        if remembers:
            with pytest.raises(RuntimeError, match="forward"):
                layer.backward(dy)


def assert_replica_agrees(layer: Layer, x: np.ndarray, dy: np.ndarray) -> None:
    """A replica, which reuses its arrays, gives at every step what a fresh layer gives."""
    replica = layer.replica()
    for _ in range(2):
        y = layer(x)
        np.testing.assert_array_equal(replica(x), y, "y of a replica")
        layer.zero_grad()
        replica.zero_grad()
        dx = layer.backward(dy)
        for _ in range(2):  # also when what was remembered lies in a reused array
            np.testing.assert_array_equal(replica.backward(dy), dx, "dx of a replica")
        for ours, theirs in zip(gradients(layer), gradients(replica)):
            eps = float(np.finfo(dy.dtype).eps)
            assert_close(theirs, 2 * ours, ROUNDING * eps, "gradients of a replica")


def assert_gradients_add_up(layer: Layer, x: np.ndarray, seed: int = 3) -> None:
    """A batch has the sum of its rows' gradients: not N times that, and not their mean."""
    dy = np.random.default_rng(seed).standard_normal(layer(x).shape)
    backward(layer, dy)
    whole = gradients(layer)
    layer.zero_grad()
    for row, slope in zip(np.split(x, len(x)), np.split(dy, len(x))):
        layer(row)
        backward(layer, slope)
    for grad, expected in zip(gradients(layer), whole):
        np.testing.assert_allclose(grad, expected, rtol=1e-12, atol=1e-12)


def values(layer: Layer) -> list[np.ndarray]:
    return [parameter.value for parameter in layer.parameters()]


def gradients(layer: Layer) -> list[np.ndarray]:
    """Copies, which later backward passes do not change."""
    return [parameter.grad.copy() for parameter in layer.parameters()]


def locked(array: np.ndarray) -> np.ndarray:
    """The array made read-only: whoever writes to it gets an error."""
    array.setflags(write=False)
    return array
