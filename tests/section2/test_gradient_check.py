"""The gradient check itself: what is right passes, and whatever is wrong is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from section1.activations import ACTIVATIONS, GELU, ReLU, Tanh, activation
from section1.layer import Layer
from section1.linear import Linear
from section1.losses import (
    BinaryCrossEntropy,
    Loss,
    MeanSquaredError,
    MulticlassHinge,
    SoftmaxCrossEntropy,
)
from section1.network import Sequential
from section2.batchnorm import BatchNorm1D
from section2.dropout import Dropout
from section2.faults import FAULTS, Fault, Faulty, FaultyLoss
from section2.gradient_check import check_layer, check_loss, check_model, named_parameters
from section2.layernorm import LayerNorm
from section2.models import fully_connected_net

N, C, K = 6, 4, 3
EVERY_LAYER = {name: lambda rng, name=name: activation(name) for name in ACTIVATIONS} | {
    "gelu exact": lambda rng: GELU(approximate="none"),
    "linear": lambda rng: Linear(C, K, rng=rng, dtype=np.float64),
    "linear without bias": lambda rng: Linear(C, K, rng=rng, bias=False, dtype=np.float64),
    "batch norm": lambda rng: BatchNorm1D(C, dtype=np.float64),
    "layer norm": lambda rng: LayerNorm(C, dtype=np.float64),
    "dropout": lambda rng: Dropout(0.3, rng=rng),
}
EVERY_LOSS: dict[str, tuple[Loss, str]] = {
    "softmax": (SoftmaxCrossEntropy(), "classes"),
    "softmax, smooth": (SoftmaxCrossEntropy(label_smoothing=0.1), "classes"),
    "binary": (BinaryCrossEntropy(), "numbers"),
    "squares": (MeanSquaredError(), "numbers"),
    "hinge": (MulticlassHinge(), "classes"),
}
each_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


def targets(kind: Any, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, C, N) if kind == "classes" else rng.random((N, C))


@pytest.mark.parametrize("make", EVERY_LAYER.values(), ids=EVERY_LAYER.keys())
def test_every_layer_is_right_to_1e_7(make: Any) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        layer = make(rng)
        report = check_layer(layer, rng.standard_normal((N, C)), rng=rng)
        assert report.passed, f"\n{report}"
        assert report.worst < 1e-7 / 10
        assert [row.name for row in report.rows] == ["x", *dict(named_parameters(layer))]
        assert sum(row.kinks for row in report.rows) == 0


@pytest.mark.parametrize(("loss", "kind"), EVERY_LOSS.values(), ids=EVERY_LOSS.keys())
def test_every_loss_is_right_to_1e_7(loss: Loss, kind: Any) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        report = check_loss(loss, rng.standard_normal((N, C)), targets(kind, rng), rng=rng)
        assert report.passed, f"\n{report}"
        assert report.worst < 1e-7 / 10


@each_fault
@pytest.mark.parametrize("number", [None, 0, 1], ids=["dx", "weight", "bias"])
def test_a_wrong_gradient_of_a_layer_is_refused(fault: Fault, number: int | None) -> None:
    rng = np.random.default_rng(0)
    layer = Faulty(Linear(C, K, rng=rng, dtype=np.float64), fault, number)
    if number == 1 and fault is FAULTS["transposed"]:
        pytest.skip("a vector is its own transpose")
    report = check_layer(layer, rng.standard_normal((N, C)), rng=rng)
    wrong = [row.name for row in report.rows if not row.passed]
    assert wrong == [["layer.weight", "layer.bias", "x"][-1 if number is None else number]]
    assert not report.passed and "WRONG" in str(report)


@each_fault
@pytest.mark.parametrize(("loss", "kind"), EVERY_LOSS.values(), ids=EVERY_LOSS.keys())
def test_a_wrong_gradient_of_a_loss_is_refused(loss: Loss, kind: Any, fault: Fault) -> None:
    rng = np.random.default_rng(0)
    prediction, target = rng.standard_normal((N, C)), targets(kind, rng)
    assert not check_loss(FaultyLoss(loss, fault), prediction, target, rng=rng).passed


class Scaled(Layer):
    """y = x W 1e-10 beside y = x W: a tiny gradient next to ordinary ones."""

    def __init__(self, inner: Layer, factor: float) -> None:
        self.inner, self.factor = inner, factor

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x + self.factor * self.inner.forward(x)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        dx = self.inner.backward(dy * self.factor)
        assert dx is not None
        return dy + dx


@each_fault
@pytest.mark.parametrize("number", [0, 1], ids=["weight", "bias"])
def test_a_wrong_gradient_of_1e_10_is_refused(fault: Fault, number: int | None) -> None:
    rng = np.random.default_rng(0)
    linear, x = Linear(C, C, rng=rng, dtype=np.float64), rng.standard_normal((N, C))
    assert check_layer(Scaled(linear, 1e-10), x, rng=rng).passed
    if fault in (FAULTS["scaled by 1.0001"], FAULTS["one wrong element"]):
        return  # a part in ten thousand of 1e-10 is less than the rounding of y
    if number == 1 and fault is FAULTS["transposed"]:
        return
    report = check_layer(Scaled(Faulty(linear, fault, number), 1e-10), x, rng=rng)
    assert [row.passed for row in report.rows] == [True, number != 0, number != 1], f"\n{report}"


@each_fault
def test_a_wrong_gradient_is_refused_when_all_of_them_are_tiny(fault: Fault) -> None:
    """Everything times 1e-10: then the rounding is as small, and every digit counts."""

    class Tiny(MeanSquaredError):
        def forward(self, prediction: np.ndarray, target: np.ndarray) -> Any:
            return 1e-10 * super().forward(prediction, target)

        def backward(self) -> Any:
            return 1e-10 * super().backward()

    rng = np.random.default_rng(0)
    prediction, target = rng.standard_normal((N, C)), rng.standard_normal((N, C))
    assert check_loss(Tiny(), prediction, target, rng=rng).passed
    assert not check_loss(FaultyLoss(Tiny(), fault), prediction, target, rng=rng).passed


def test_a_gradient_hidden_by_rounding_is_not_called_right() -> None:
    rng = np.random.default_rng(0)
    linear, x = Linear(C, C, rng=rng, dtype=np.float64), rng.standard_normal((N, C))
    report = check_layer(Scaled(linear, 1e-14), x, rng=rng)
    assert [row.passed for row in report.rows] == [True, False, False]
    assert "NOT CHECKED" in str(report)
    # but a gradient that is zero, and said to be zero, is right
    assert check_layer(Scaled(linear, 0.0), x, rng=rng).passed


def test_a_bias_before_batch_norm_has_no_gradient() -> None:
    rng = np.random.default_rng(0)
    linear = Linear(C, K, rng=rng, dtype=np.float64)
    net = Sequential(linear, BatchNorm1D(K, dtype=np.float64), Tanh())
    report = check_layer(net, rng.standard_normal((N, C)), rng=rng)
    assert report.passed, f"\n{report}"


# --- kinks -------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e-9, 2e-5, -1e-4, 6e-4, -1e-3, 1.8e-3, 3.9e-3])
def test_a_kink_is_set_aside_or_does_not_matter(offset: float) -> None:
    x = np.array([[1.0, -1.0, offset, 0.5, 2.0, -0.5]])
    rng = np.random.default_rng(0)
    report = check_layer(ReLU(), x, rng=rng)
    (row,) = report.rows
    assert report.passed and row.checked + row.kinks == 6
    # a step eight times shorter does not reach the kinks that are further away
    assert row.kinks == (1 if abs(offset) < 5e-4 else 0)
    wrong = check_layer(Faulty(ReLU(), FAULTS["wrong sign"]), x, rng=rng)
    assert not wrong.passed and wrong.rows[0].kinks == row.kinks


def test_ties_of_the_hinge_are_set_aside() -> None:
    scores = np.array([[0.0, 1.0, 2.5], [0.3, 0.7, 5.0]])  # 0.0 - 1.0 + margin = 0: at the kink
    report = check_loss(MulticlassHinge(), scores, np.array([1, 1]), rng=np.random.default_rng(0))
    assert report.passed and report.rows[0].kinks == 2


def test_mostly_kinks_prove_nothing() -> None:
    report = check_layer(ReLU(), np.zeros((2, 3)), rng=np.random.default_rng(0))
    assert report.rows[0].kinks == 6 and not report.passed


def test_wrong_gradients_do_not_pass_as_kinks() -> None:
    rng = np.random.default_rng(0)
    layer = Faulty(Tanh(), lambda g: g * (1 + 1e-6))
    report = check_layer(layer, rng.standard_normal((N, C)), rng=rng)
    assert report.rows[0].kinks == 0 and not report.passed


# --- whole models ------------------------------------------------------------------------


def net(rng: np.random.Generator, **options: Any) -> Sequential:
    return fully_connected_net([C, 12, 9, K], rng=rng, dtype=np.float64, **options)


@pytest.mark.parametrize("act", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("options", [{}, {"batchnorm": True}, {"dropout": 0.3}], ids=str)
def test_whole_models(act: str, options: dict) -> None:
    rng = np.random.default_rng(1)
    model = net(rng, activation=act, **options)
    x, y = rng.standard_normal((N, C)), rng.integers(0, K, N)
    before = [array.copy() for array in (*model.buffers(), *(p.value for p in model.parameters()))]
    report = check_model(model, SoftmaxCrossEntropy(), x, y, rng=rng)
    assert report.passed, f"\n{report}"
    assert report.rows[-1].name == "random directions" and report.rows[-1].checked > 0
    after = [*model.buffers(), *(p.value for p in model.parameters())]
    for old, new in zip(before, after):
        np.testing.assert_array_equal(old, new, "the check changed the model")


def test_a_direction_finds_the_element_that_no_sample_hit() -> None:
    rng = np.random.default_rng(1)
    model = net(rng, activation="tanh")
    model.layers[2] = Faulty(model.layers[2], FAULTS["one wrong element"], 0)
    x, y = rng.standard_normal((N, C)), rng.integers(0, K, N)
    report = check_model(model, SoftmaxCrossEntropy(), x, y, rng=rng, sample=1)
    assert [row.passed for row in report.rows[:-1]] == [True] * (len(report.rows) - 1)
    assert not report.rows[-1].passed


def test_a_vanishing_gradient_is_still_checked() -> None:
    rng = np.random.default_rng(0)
    model = fully_connected_net(
        [C, *[8] * 8, K], "sigmoid", init="xavier_normal", rng=rng, dtype=np.float64
    )
    x, y = rng.standard_normal((N, C)), rng.integers(0, K, N)
    report = check_model(model, SoftmaxCrossEntropy(), x, y, rng=rng)
    assert report.passed, f"\n{report}"
    assert np.abs(model.parameters()[0].grad).max() < 1e-4


# --- the small print ---------------------------------------------------------------------


def test_large_arrays_are_sampled_by_the_seed() -> None:
    layer, x = Tanh(), np.random.default_rng(0).standard_normal((40, 30))
    reports = [check_layer(layer, x, rng=np.random.default_rng(5), sample=25) for _ in range(2)]
    assert reports[0] == reports[1]
    (row,) = reports[0].rows
    assert (row.size, row.checked) == (1200, 25)


def test_the_order_of_an_array_in_memory_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    model, loss = Linear(C, K, rng=rng, dtype=np.float64), MeanSquaredError()
    x, zero = np.asfortranarray(rng.standard_normal((N, C))), FAULTS["zero"]
    target, other = rng.standard_normal((N, K)), rng.standard_normal((N, C))
    assert check_layer(model, x, rng=rng).passed
    assert check_model(model, loss, x, target, rng=rng).passed
    assert check_loss(loss, x, other, rng=rng).passed
    for report in (
        check_layer(Faulty(model, zero), x, rng=rng),
        check_model(Faulty(model, zero), loss, x, target, rng=rng),
        check_loss(FaultyLoss(loss, zero), x, other, rng=rng),
    ):
        assert not report.rows[0].passed


def test_names_follow_the_tree_of_layers() -> None:
    model = net(np.random.default_rng(0), batchnorm=True)
    named = list(named_parameters(model))
    assert [name for name, _ in named][:4] == [
        "layers.0.weight",
        "layers.1.gamma",
        "layers.1.beta",
        "layers.3.weight",
    ]
    assert [parameter for _, parameter in named] == model.parameters()


def test_what_is_refused() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, C))
    with pytest.raises(ValueError, match="needs float64, but weight is float32"):
        check_layer(Linear(C, K, rng=rng), x, rng=rng)
    with pytest.raises(ValueError, match="needs float64, but x is float32"):
        check_layer(Tanh(), x.astype(np.float32), rng=rng)
    layer = Linear(C, K, rng=rng, dtype=np.float64)
    layer.skip_input_gradient()
    with pytest.raises(ValueError, match=r"Linear.backward returned no dx"):
        check_layer(layer, x, rng=rng)
    short = check_layer(Faulty(Tanh(), lambda g: g[:1]), x, rng=rng)
    assert not short.passed and short.worst == np.inf
    nan = check_layer(Faulty(Tanh(), lambda g: g * np.nan), x, rng=rng)
    assert not nan.passed


class Twice(Sequential):
    """The same linear layer's weights twice: y = (x W + b) W + b."""

    def __init__(self, layer: Linear):
        super().__init__(layer, copy.copy(layer))


def test_a_parameter_that_two_layers_share_is_checked_once() -> None:
    rng = np.random.default_rng(0)
    model = Twice(Linear(C, C, rng=rng, dtype=np.float64))
    x, target = rng.standard_normal((2, N, C))
    report = check_model(model, MeanSquaredError(), x, target, rng=rng)
    assert report.passed, report
    assert [row.name for row in report.rows] == [
        "x", "layers.0.weight", "layers.0.bias", "random directions",
    ]  # fmt: skip
