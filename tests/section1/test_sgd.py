"""Gradient descent against torch.optim.SGD, and the loop that all optimizers share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from section1.parameter import Parameter
from section1.sgd import PIECE, SGD, Optimizer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sgd_matches_torch(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (4,), (2, 3, 1, 5), (PIECE + 7,), (2, PIECE)]
    parameters = [Parameter(rng.standard_normal(shape).astype(dtype)) for shape in shapes]
    tensors = [torch.tensor(parameter.value, requires_grad=True) for parameter in parameters]
    ours, theirs = SGD(parameters, lr=0.1), torch.optim.SGD(tensors, lr=0.1)
    for _ in range(3):
        for parameter, tensor in zip(parameters, tensors):
            parameter.grad = rng.standard_normal(parameter.value.shape)
            tensor.grad = torch.tensor(parameter.grad)
        ours.step()
        theirs.step()
    for parameter, tensor in zip(parameters, tensors):
        tolerance = 1e-6 if dtype == np.float32 else 1e-14
        np.testing.assert_allclose(
            parameter.value, tensor.detach().numpy(), rtol=tolerance, atol=tolerance
        )
    assert ours.steps == 3


def test_step_writes_into_the_same_array_and_leaves_the_gradient() -> None:
    parameter = Parameter(np.array([1.0, 2.0]))
    view = parameter.value
    parameter.grad = np.array([1.0, -1.0])
    SGD([parameter], lr=0.5).step()
    np.testing.assert_array_equal(view, [0.5, 2.5])
    np.testing.assert_array_equal(parameter.grad, [1, -1])


def test_zero_grad_then_step_changes_nothing() -> None:
    parameter = Parameter(np.array([1.0, 2.0]))
    parameter.grad = np.array([1.0, -1.0])
    optimizer = SGD([parameter], lr=0.5)
    optimizer.zero_grad()
    np.testing.assert_array_equal(parameter.grad, 0)
    optimizer.step()
    np.testing.assert_array_equal(parameter.value, [1, 2])


def test_the_learning_rate_may_change() -> None:
    parameter = Parameter(np.zeros(1))
    optimizer = SGD(iter([parameter]), lr=1)
    parameter.grad = np.ones(1)
    optimizer.step()
    optimizer.lr = 0.25
    optimizer.step()
    assert parameter.value == -1.25


def test_the_type_of_the_learning_rate_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    value, grad = rng.standard_normal((2, 100), np.float32)
    results = []
    for lr in (0.1, np.float64(0.1)):
        parameter = Parameter(value.copy())
        parameter.grad = grad
        SGD([parameter], lr).step()
        results.append(parameter.value)
    np.testing.assert_array_equal(results[1], results[0])


def test_state_stands_in_line_with_its_parameter() -> None:
    class Heavy(Optimizer):
        """Adds up what it has seen: v <- v + g; w <- w - lr v."""

        def __init__(self, parameters: list[Parameter], lr: float):
            super().__init__(parameters, lr)
            self.new_state()

        def update(self, value: np.ndarray, grad: np.ndarray, *state: np.ndarray) -> None:
            (velocity,) = state
            velocity += grad
            value -= self.lr * velocity

    parameters = [Parameter(np.zeros(2 * PIECE + 1)), Parameter(np.zeros((2, 2)))]
    optimizer = Heavy(parameters, lr=1)
    for _ in range(2):
        for number, parameter in enumerate(parameters):
            parameter.grad = np.full(parameter.value.shape, number + 1.0)
        optimizer.step()
    np.testing.assert_array_equal(parameters[0].value, -3)  # -(1) - (1 + 1)
    np.testing.assert_array_equal(parameters[1].value, -6)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameters"):
        SGD([], lr=0.1)
    for lr in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="0 or more"):
            SGD([Parameter(np.zeros(1))], lr=lr)
    with pytest.raises(NotImplementedError):
        Optimizer([Parameter(np.zeros(1))], lr=0.1).step()
