"""Losses against PyTorch, centred differences, hand-made numbers and targets that do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from section1.losses import (
    BinaryCrossEntropy,
    Loss,
    MeanSquaredError,
    MulticlassHinge,
    SoftmaxCrossEntropy,
)
from tests.helpers import assert_close, locked, numerical_gradient

CLASSIFIERS: dict[str, tuple[Callable[[], Loss], Callable]] = {
    "cross entropy": (SoftmaxCrossEntropy, F.cross_entropy),
    "smoothed cross entropy": (
        lambda: SoftmaxCrossEntropy(label_smoothing=0.1),
        lambda z, t: F.cross_entropy(z, t, label_smoothing=0.1),
    ),
    # PyTorch divides by the number of classes
    "hinge": (MulticlassHinge, lambda z, t: F.multi_margin_loss(z, t) * z.shape[1]),
    "hinge, margin 0.3": (
        lambda: MulticlassHinge(margin=0.3),
        lambda z, t: F.multi_margin_loss(z, t, margin=0.3) * z.shape[1],
    ),
}
REGRESSIONS: dict[str, tuple[Callable[[], Loss], Callable]] = {
    "binary cross entropy": (BinaryCrossEntropy, F.binary_cross_entropy_with_logits),
    "squared error": (MeanSquaredError, F.mse_loss),
}
LOSSES = [make for make, _ in [*CLASSIFIERS.values(), *REGRESSIONS.values()]]
each_classifier = pytest.mark.parametrize(
    ("make", "reference"), CLASSIFIERS.values(), ids=CLASSIFIERS.keys()
)
each_regression = pytest.mark.parametrize(
    ("make", "reference"), REGRESSIONS.values(), ids=REGRESSIONS.keys()
)
each_loss = pytest.mark.parametrize("make", LOSSES, ids=[*CLASSIFIERS, *REGRESSIONS])


def example(loss: Loss, rows: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A prediction (rows, 4) in float64, and targets for it."""
    rng = np.random.default_rng(seed)
    prediction = 2 * rng.standard_normal((rows, 4))
    if isinstance(loss, (SoftmaxCrossEntropy, MulticlassHinge)):
        return prediction, rng.integers(0, 4, rows)
    return prediction, rng.integers(0, 2, prediction.shape).astype(float)


def assert_loss_matches(loss: Loss, reference: Callable, z: np.ndarray, t: np.ndarray) -> None:
    tensor = torch.tensor(z, requires_grad=True)
    expected = reference(tensor, torch.tensor(t))
    expected.backward()
    assert loss(z, t) == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
    assert tensor.grad is not None
    assert_close(loss.backward(), tensor.grad.numpy(), 1e-12, "slope against PyTorch")


@each_classifier
@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 7), classes=st.integers(2, 6), seed=st.integers(0, 1000))
def test_classifiers_match_torch(
    make: Callable, reference: Callable, n: int, classes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    z, t = 3 * rng.standard_normal((n, classes)), rng.integers(0, classes, n)
    assert_loss_matches(make(), reference, z, t)


@each_regression
@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 7), width=st.integers(1, 4), seed=st.integers(0, 1000))
def test_regressions_match_torch(
    make: Callable, reference: Callable, n: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    z, t = 3 * rng.standard_normal((n, width)), rng.uniform(0, 1, (n, width))
    assert_loss_matches(make(), reference, z, t)


@each_loss
def test_slope_matches_centred_differences(make: Callable) -> None:
    loss = make()
    z, t = example(loss)
    slope = numerical_gradient(lambda: loss(z, t), z)
    loss(z, t)
    assert_close(loss.backward(), slope, 1e-8, "slope against centred differences")


@each_loss
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_changes_nothing_and_may_go_back_twice(make: Callable, dtype: Any) -> None:
    loss = make()
    z, t = example(loss)
    value = loss(locked(z.astype(dtype)), locked(t))
    assert type(value) is float
    first = loss.backward()
    before = first.copy()
    assert first.dtype == dtype and first.shape == z.shape
    first += 1  # who receives it may do what he likes with it
    np.testing.assert_array_equal(loss.backward(), before)


@each_loss
def test_is_a_mean_over_the_batch(make: Callable) -> None:
    loss = make()
    z, t = example(loss)
    once, slope = loss(z, t), loss.backward()
    thrice = loss(np.concatenate([z] * 3), np.concatenate([t] * 3))
    assert thrice == pytest.approx(once, rel=1e-14)
    np.testing.assert_allclose(3 * loss.backward()[: len(z)], slope, rtol=1e-13)


@each_loss
def test_backward_needs_forward(make: Callable) -> None:
    with pytest.raises(RuntimeError, match="needs a forward pass"):
        make().backward()


@each_loss
def test_float32_is_as_good_as_float32_can_be(make: Callable) -> None:
    loss = make()
    z, t = example(loss, rows=1000)
    exact, slope = loss(z, t), loss.backward()
    assert loss(z.astype(np.float32), t) == pytest.approx(exact, rel=1e-6)
    np.testing.assert_allclose(loss.backward(), slope, rtol=1e-4, atol=1e-9)


@each_loss
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_predictions_stay_finite(make: Callable, dtype: Any) -> None:
    loss = make()
    z = np.array([[1e4, -1e4, 0, 1e4], [-1e4, -1e4, -1e4, -1e4]], dtype)
    _, t = example(loss, rows=2)
    assert math.isfinite(loss(z, t)) and np.isfinite(loss.backward()).all()


def test_cross_entropy_takes_the_maximum_of_each_row() -> None:
    # with the maximum of the whole array, the second row would be log 0
    z = np.array([[1000.0, 1000.0], [-1000.0, -1000.0]])
    loss = SoftmaxCrossEntropy()
    assert loss(z, np.array([0, 1])) == pytest.approx(math.log(2), rel=1e-12)
    np.testing.assert_allclose(loss.backward(), [[-0.25, 0.25], [0.25, -0.25]])


def test_cross_entropy_of_a_certain_and_wrong_answer_is_the_logit() -> None:
    assert SoftmaxCrossEntropy()(np.array([[1000.0, 0.0]]), np.array([1])) == 1000


def test_cross_entropy_of_equal_logits_is_log_of_the_number_of_classes() -> None:
    loss = SoftmaxCrossEntropy()(np.zeros((3, 10)), np.array([0, 5, 9]))
    assert loss == pytest.approx(math.log(10), rel=1e-14)


def test_hinge_by_hand() -> None:
    loss = MulticlassHinge()
    # excess over the true class 0: -2 + 1 -> 0, 0.5 + 1; a tie with the margin pulls no more
    z, t = np.array([[2.0, 0.0, 2.5, 1.0]]), np.array([0])
    assert loss(z, t) == 1.5
    np.testing.assert_array_equal(loss.backward(), [[-1, 0, 1, 0]])


@each_classifier
def test_sequences(make: Callable, reference: Callable) -> None:
    rng = np.random.default_rng(0)
    z, t = rng.standard_normal((2, 3, 5)), rng.integers(0, 5, (2, 3))
    loss, flat = make(), make()
    assert loss(z, t) == flat(z.reshape(6, 5), t.reshape(6))
    np.testing.assert_array_equal(loss.backward(), flat.backward().reshape(2, 3, 5))


@each_regression
def test_targets_in_a_row_fit_predictions_in_a_column(make: Callable, reference: Callable) -> None:
    z, t = np.array([[0.5], [-1.0], [2.0]]), np.array([1, 0, 1])
    loss, same = make(), make()
    assert loss(z, t) == same(z, t[:, None])
    np.testing.assert_array_equal(loss.backward(), same.backward())
    assert loss.backward().shape == (3, 1)


@each_classifier
@pytest.mark.parametrize(
    ("z", "t", "complaint"),
    [
        (np.zeros((3, 4)), np.zeros((3, 4), int), r"need targets \(N,\).*\(3, 4\)"),
        (np.zeros((3, 4)), np.zeros(2, int), r"\(3, 4\) and targets \(2,\)"),
        (np.zeros(4), np.zeros((), int), r"got scores \(4,\)"),
        (np.zeros((3, 4)), np.zeros(3), "integer class numbers, got an array of float64"),
        (np.zeros((3, 4)), np.array([0, 1, 4]), "from 0 to 3, got values from 0 to 4"),
        (np.zeros((3, 4)), np.array([0, -1, 3]), "from 0 to 3, got values from -1 to 3"),
        (np.zeros((0, 4)), np.zeros(0, int), "batch is empty"),
    ],
)
def test_classes_that_do_not_fit(
    make: Callable, reference: Callable, z: np.ndarray, t: np.ndarray, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()(z, t)


@each_regression
def test_targets_that_do_not_fit(make: Callable, reference: Callable) -> None:
    with pytest.raises(ValueError, match=r"got \(3, 1\) for \(3,\)"):
        make()(np.zeros(3), np.zeros((3, 1)))  # would broadcast to (3, 3)
    with pytest.raises(ValueError, match=r"got \(3,\) for \(3, 2\)"):
        make()(np.zeros((3, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="batch is empty"):
        make()(np.zeros((0, 2)), np.zeros((0, 2)))


@pytest.mark.parametrize("t", [[0.0, 2.0], [-1.0, 1.0], [math.nan, 1.0]])
def test_binary_targets_out_of_range(t: list[float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        BinaryCrossEntropy()(np.zeros(2), np.array(t))


def test_label_smoothing_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1"):
        SoftmaxCrossEntropy(label_smoothing=1)


# --- targets that are left out ------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignore", [0, -100])
def test_ignored_targets_match_torch(smoothing: float, ignore: int) -> None:
    rng = np.random.default_rng(0)
    z, t = rng.standard_normal((3, 4, 5)), rng.integers(5, size=(3, 4))
    t[0, 1:] = t[2, 2] = ignore
    loss = SoftmaxCrossEntropy(smoothing, ignore=ignore)
    tensor = torch.tensor(z, requires_grad=True)
    expected = F.cross_entropy(
        tensor.flatten(0, 1), torch.tensor(t).flatten(), ignore_index=ignore,
        label_smoothing=smoothing,
    )  # fmt: skip
    expected.backward()
    assert loss(z, t) == pytest.approx(expected.item(), abs=1e-12)
    assert tensor.grad is not None
    np.testing.assert_allclose(loss.backward(), tensor.grad.numpy(), atol=1e-12)
    assert not loss.backward()[t == ignore].any()
    assert loss.weight(t) == (t != ignore).sum()


def test_nothing_but_ignored_targets() -> None:
    loss = SoftmaxCrossEntropy(0.1, ignore=2)
    z, t = np.ones((3, 5), np.float32), np.array([2, 2, 2])
    assert loss(z, t) == loss.weight(t) == 0
    dz = loss.backward()
    assert dz.shape == z.shape and dz.dtype == np.float32 and not dz.any()


def test_other_targets_are_still_checked() -> None:
    with pytest.raises(ValueError, match="from 0 to 4, got values from -1 to 3"):
        SoftmaxCrossEntropy(ignore=-100)(np.zeros((3, 5)), np.array([-100, -1, 3]))
