"""Parameter, Layer, Linear, Sequential, MLP and replicas; and the checks of tests/helpers.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from section1.activations import LeakyReLU, ReLU, Tanh
from section1.layer import Layer
from section1.linear import Linear
from section1.mlp import MLP
from section1.network import Sequential
from section1.parameter import Parameter
from tests.helpers import (
    assert_gradients,
    assert_layer_contract,
    assert_matches_torch,
    gradients,
    numerical_gradient,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- Parameter ----------------------------------------------------------------------------


def test_gradients_add_up_until_they_are_zeroed() -> None:
    parameter = Parameter(np.zeros((2, 2)))
    np.testing.assert_array_equal(parameter.grad, 0)
    a, b = rng().standard_normal((2, 2, 2))
    for _ in range(2):
        parameter.accumulate(np.matmul, a, b)
    np.testing.assert_array_equal(parameter.grad, 2 * (a @ b))
    parameter.zero_grad()
    parameter.accumulate(np.matmul, a, b)
    np.testing.assert_array_equal(parameter.grad, a @ b)
    parameter.zero_grad()
    np.testing.assert_array_equal(parameter.grad, 0)
    parameter.grad += 1
    np.testing.assert_array_equal(parameter.grad, 1)
    parameter.grad = a
    assert parameter.grad is not a
    np.testing.assert_array_equal(parameter.grad, a)


def test_a_parameter_is_contiguous() -> None:
    assert Parameter(rng().standard_normal((3, 4)).T).value.flags.c_contiguous


# --- Layer --------------------------------------------------------------------------------


def test_the_tree_of_layers() -> None:
    model = Sequential(Linear(2, 3, rng=rng()), Sequential(ReLU(), Linear(3, 1, rng=rng())))
    kinds = [type(layer).__name__ for layer in model.modules()]
    assert kinds == ["Sequential", "Linear", "Sequential", "ReLU", "Linear"]
    shapes = [parameter.value.shape for parameter in model.parameters()]
    assert shapes == [(2, 3), (3,), (3, 1), (1,)]
    assert model.buffers() == []


def test_train_and_eval_reach_every_layer() -> None:
    model = MLP([2, 3, 1], rng=rng())
    model(np.ones((1, 2), np.float32))
    model.eval()
    assert not any(layer.training for layer in model.modules())
    assert all(layer._memory is None for layer in model.modules())
    model.train()
    assert all(layer.training for layer in model.modules())


def test_zero_grad_reaches_every_parameter() -> None:
    model = MLP([2, 3, 1], rng=rng())
    model.backward(model(np.ones((1, 2), np.float32)))
    assert any(grad.any() for grad in gradients(model))
    model.zero_grad()
    assert not any(grad.any() for grad in gradients(model))


# --- Linear -------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 5), inputs=st.integers(1, 6), outputs=st.integers(1, 6), bias=st.booleans())
def test_linear_matches_torch(n: int, inputs: int, outputs: int, bias: bool) -> None:
    layer = Linear(inputs, outputs, rng=rng(), bias=bias, dtype=np.float64)
    for parameter in layer.parameters():
        parameter.value[...] = rng(1).standard_normal(parameter.value.shape)
    x = rng(2).standard_normal((n, inputs))
    assert_matches_torch(layer, lambda x, w, b=None: F.linear(x, w.T, b), x)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 4, 3), (2, 1, 5, 3)])
def test_linear_with_any_leading_axes(shape: tuple[int, ...]) -> None:
    layer = Linear(3, 2, rng=rng(), dtype=np.float64)
    assert_matches_torch(layer, lambda x, w, b: F.linear(x, w.T, b), rng().standard_normal(shape))


def test_linear_matches_centred_differences() -> None:
    assert_gradients(Linear(3, 4, rng=rng(), dtype=np.float64), rng().standard_normal((5, 3)))


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
def test_linear_keeps_the_contract_of_a_layer(shape: tuple[int, ...]) -> None:
    assert_layer_contract(
        lambda dtype: Linear(3, 4, rng=rng(), dtype=dtype), rng().standard_normal(shape)
    )


def test_linear_without_input_gradient() -> None:
    layer = Linear(3, 2, rng=rng(), dtype=np.float64)
    x, dy = rng().standard_normal((4, 3)), np.ones((4, 2))
    layer(x)
    layer.skip_input_gradient()
    assert layer.backward(dy) is None
    np.testing.assert_allclose(layer.weight.grad, x.T @ dy)


def test_linear_refuses_other_inputs() -> None:
    with pytest.raises(ValueError, match=r"Linear\(3, 2\) expects 3 features.*\(4, 5\)"):
        Linear(3, 2, rng=rng())(np.zeros((4, 5)))


# --- Sequential and MLP -------------------------------------------------------------------


def torch_mlp(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
    for w, b in zip(parameters[:-2:2], parameters[1:-2:2]):
        x = torch.tanh(F.linear(x, w.T, b))
    return F.linear(x, parameters[-2].T, parameters[-1])


@pytest.mark.parametrize("sizes", [(4, 2), (4, 5, 2), (4, 5, 3, 2), (1, 1, 1)])
@pytest.mark.parametrize("n", [1, 6])
def test_mlp_matches_torch_and_centred_differences(sizes: list, n: int) -> None:
    model = MLP(sizes, activation="tanh", rng=rng(), dtype=np.float64)
    x = rng().standard_normal((n, sizes[0]))
    assert_matches_torch(model, torch_mlp, x)
    assert_gradients(model, x)


def test_mlp_keeps_the_contract_of_a_layer() -> None:
    assert_layer_contract(
        lambda dtype: MLP([3, 5, 4, 2], rng=rng(), dtype=dtype), rng().standard_normal((6, 3))
    )


def test_mlp_layers_in_order() -> None:
    model = MLP([2, 3, 4, 1], activation=["relu", LeakyReLU(0.2)], rng=rng())
    kinds = [type(layer) for layer in model.layers]
    assert kinds == [Linear, ReLU, Linear, LeakyReLU, Linear]
    assert len(model) == 5 and model[1] is model.layers[1]
    assert all(parameter.value.dtype == np.float32 for parameter in model.parameters())


def test_layers_of_one_shape_start_with_different_weights() -> None:
    model = MLP([4, 4, 4, 4], rng=rng())
    first, second, third = (parameter.value for parameter in model.parameters()[::2])
    assert (first != second).all() and (second != third).all() and (first != third).all()


def test_one_activation_for_all_hidden_layers_is_not_one_object() -> None:
    # one object would remember only its last input
    bend = Tanh()
    model = MLP([3, 4, 4, 2], activation=bend, rng=rng(), dtype=np.float64)
    assert len({id(layer) for layer in [bend, *model.layers]}) == 6
    assert_gradients(model, rng().standard_normal((2, 3)))


def test_mlp_chooses_its_initializer() -> None:
    model = MLP([3, 4, 2], init="zeros", rng=rng())
    assert not any(parameter.value.any() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("sizes", "activation", "complaint"),
    [
        ([3], "relu", "two sizes or more"),
        ([], "relu", "two sizes or more"),
        ([3, 0, 2], "relu", r"at least 1, got \[3, 0, 2\]"),
        ([3, 2.5, 2], "relu", "whole numbers"),
        ([3, 4, 2], ["relu", "relu"], "each of its 1 hidden layers, got 2"),
        ([3, 4, 2], [], "each of its 1 hidden layers, got 0"),
        ([3, 4, 2], "rellu", "unknown activation 'rellu'"),
    ],
)
def test_mlp_refuses(sizes: list, activation: str | list, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        MLP(sizes, activation=activation, rng=rng())


def test_a_network_computes_no_gradient_that_nobody_reads() -> None:
    model = MLP([3, 4, 2], rng=rng(), dtype=np.float64)
    x, dy = rng().standard_normal((5, 3)), np.ones((5, 2))
    model(x)
    model.backward(dy)
    expected = gradients(model)
    model.zero_grad()
    model.skip_input_gradient()
    assert model.backward(dy) is None
    for grad, before in zip(gradients(model), expected):
        np.testing.assert_array_equal(grad, before)


# --- replicas -----------------------------------------------------------------------------


def test_a_replica_shares_weights_but_not_gradients_or_memory() -> None:
    model = MLP([3, 4, 2], rng=rng(), dtype=np.float64)
    x, dy = rng().standard_normal((5, 3)), np.ones((5, 2))
    model(x)
    replica = model.replica()
    with pytest.raises(RuntimeError, match="forward"):
        replica.backward(dy)  # what the original remembers is the original's
    replica(2 * x)
    replica.backward(dy)
    for ours, theirs in zip(model.parameters(), replica.parameters()):
        assert theirs.value is ours.value
        assert not np.shares_memory(theirs.grad, ours.grad)
        assert theirs.grad.any() and not ours.grad.any()
    model.backward(dy)  # its own input, x, is still there
    alone = MLP([3, 4, 2], rng=rng(), dtype=np.float64)
    alone(x)
    alone.backward(dy)
    for grad, expected in zip(gradients(model), gradients(alone)):
        np.testing.assert_array_equal(grad, expected)
    model.parameters()[0].value[...] = 0
    assert not replica.parameters()[0].value.any()


def test_a_replica_may_share_gradients() -> None:
    model = MLP([3, 4, 2], rng=rng())
    replica = model.replica(share_gradients=True)
    x = np.ones((5, 3), np.float32)
    replica.backward(replica(x))
    for ours, theirs in zip(model.parameters(), replica.parameters()):
        assert theirs is ours
    assert any(grad.any() for grad in gradients(model))


def test_a_replica_reuses_its_arrays_and_its_original_does_not() -> None:
    model = MLP([3, 4, 2], rng=rng())
    replica = model.replica()
    x = np.ones((5, 3), np.float32)
    assert np.shares_memory(replica(x), replica(x))
    assert not np.shares_memory(model(x), model(x))
    assert not np.shares_memory(model(x), replica(x))
    assert replica(x[:2]).shape == (2, 2)  # a smaller last batch
    twin = replica.replica()
    assert not np.shares_memory(twin(x), replica(x))
    replica.eval()  # several threads may use it at once
    assert not np.shares_memory(replica(x), replica(x))


def test_a_replica_shares_buffers() -> None:
    class Counter(Layer):
        def __init__(self) -> None:
            self.seen = np.zeros(1)

        def buffers(self) -> list[np.ndarray]:
            return [self.seen]

    model = Sequential(Counter(), Counter())
    replica = model.replica()
    assert [a is b for a, b in zip(model.buffers(), replica.buffers())] == [True, True]


# --- the checks themselves must refuse what is wrong ---------------------------------------


class Square(Layer):
    """y = w x^2, right; its subclasses below are wrong, each in one way."""

    def __init__(self, dtype: type = np.float64):
        self.w = Parameter(np.array([1.5], dtype))

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.remember(x)
        return self.w.value * x * x

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        x = self.recall()
        self.w.grad += (dy * x * x).sum()
        return 2 * self.w.value * x * dy


class ForgetsTheFactor(Square):
    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        dx = super().backward(dy)
        return None if dx is None else dx / 2


class ParameterGradientTimesN(Square):
    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        dx = super().backward(dy)
        self.w.grad *= len(dy)
        return dx


class OverwritesDy(Square):
    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        dy *= 2
        return super().backward(dy)


class OverwritesX(Square):
    def forward(self, x: np.ndarray) -> np.ndarray:
        x += 1
        return super().forward(x)


class SetsTheGradient(Square):
    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        self.w.zero_grad()
        return super().backward(dy)


class ForgetsAfterBackward(Square):
    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        dx = super().backward(dy)
        self._memory = None
        return dx


class Grows(Square):
    def forward(self, x: np.ndarray) -> np.ndarray:
        self.caches = [*getattr(self, "caches", []), x]
        return super().forward(x)


class RemembersInEvalMode(Square):
    def forward(self, x: np.ndarray) -> np.ndarray:
        self._memory = (x,)
        return self.w.value * x * x


class TurnsToFloat64(Square):
    def forward(self, x: np.ndarray) -> np.ndarray:
        return super().forward(x).astype(np.float64)


class ReusesItsOutput(Square):
    def forward(self, x: np.ndarray) -> np.ndarray:
        y = super().forward(x)
        self.y = getattr(self, "y", y)
        self.y[...] = y
        return self.y


class RemembersWhatIsOverwritten(Square):
    def forward(self, x: np.ndarray) -> np.ndarray:
        doubled = np.multiply(x, 1, out=self.scratch("z", x.shape, x.dtype))
        self.remember(doubled)
        return self.w.value * x * x

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        dx = super().backward(dy)
        assert dx is not None
        return np.multiply(dx, 1, out=self.scratch("z", dx.shape, dx.dtype))


def test_the_checks_accept_what_is_right() -> None:
    x = rng().standard_normal((4, 3))
    assert_gradients(Square(), x)
    assert_matches_torch(Square(), lambda x, w: w * x * x, x)
    assert_layer_contract(Square, x)


@pytest.mark.parametrize("wrong", [ForgetsTheFactor, ParameterGradientTimesN])
def test_the_checks_refuse_wrong_gradients(wrong: type[Layer]) -> None:
    x = rng().standard_normal((4, 3))
    with pytest.raises(AssertionError):
        assert_gradients(wrong(), x)
    with pytest.raises(AssertionError):
        assert_matches_torch(wrong(), lambda x, w: w * x * x, x)


@pytest.mark.parametrize(
    "wrong",
    [
        OverwritesDy,
        OverwritesX,
        SetsTheGradient,
        ForgetsAfterBackward,
        Grows,
        RemembersInEvalMode,
        TurnsToFloat64,
        ReusesItsOutput,
        RemembersWhatIsOverwritten,
    ],
)
def test_the_contract_refuses_broken_layers(wrong: type[Layer]) -> None:
    with pytest.raises((AssertionError, ValueError, RuntimeError, pytest.fail.Exception)):
        assert_layer_contract(wrong, rng().standard_normal((4, 3)))


def test_numerical_gradient() -> None:
    array = np.array([[1.0, -2.0], [0.5, 3.0]])
    before = array.copy()
    slope = numerical_gradient(lambda: float((array**3).sum()), array)
    np.testing.assert_allclose(slope, 3 * array**2, rtol=1e-8)
    np.testing.assert_array_equal(array, before)
    with pytest.raises(AssertionError, match="float64"):
        numerical_gradient(lambda: 0.0, array.astype(np.float32))
