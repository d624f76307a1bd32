"""Networks with batch norm on several threads: the same numbers as in one piece."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from section1.activations import ReLU
from section1.layer import Layer
from section1.linear import Linear
from section1.losses import SoftmaxCrossEntropy
from section1.network import Sequential
from section1.parallel import Workers
from section1.row_parallel import RowParallel, needs_whole_batch, row_parallel
from section1.sgd import SGD
from section1.training import TrainingStep, micro_batches
from section2.batchnorm import BatchNorm1D
from section2.dropout import Dropout
from section2.models import fully_connected_net
from section3.models import numpy_resnet
from tests.helpers import assert_gradients, assert_matches_torch, backward, gradients


def in_threes(rows: int) -> list[slice]:
    return micro_batches(rows, 3)


def linear(dtype: Any = np.float64) -> RowParallel:
    layer = Linear(4, 5, rng=np.random.default_rng(0), dtype=dtype)
    return RowParallel(layer.replica(), Workers(2), in_threes)


@pytest.mark.parametrize("rows", [1, 3, 4, 8])
def test_it_is_the_layer_itself(rows: int) -> None:
    x = np.random.default_rng(1).standard_normal((rows, 4))
    assert_matches_torch(linear(), lambda x, w, b: x @ w + b, x)
    assert_gradients(linear(), x)


def test_later_calls_do_not_overwrite_what_it_returned() -> None:
    layer, x = linear(), np.random.default_rng(1).standard_normal((8, 4))
    y, dx = layer(x), backward(layer, np.ones((8, 5)))
    before = y.copy(), dx.copy()
    layer(x + 1)
    layer.backward(np.zeros((8, 5)))
    np.testing.assert_array_equal(y, before[0])
    np.testing.assert_array_equal(dx, before[1])


def test_only_runs_of_layers_with_weights_between_batch_norms_are_cut() -> None:
    rng = np.random.default_rng(0)
    net = fully_connected_net([4, 6, 6, 3], batchnorm=True, rng=rng).replica()
    parts = row_parallel(net, Workers(1), in_threes)
    assert isinstance(parts, Sequential)
    kinds = [type(part).__name__ for part in parts.layers]
    assert kinds == ["RowParallel", "BatchNorm1D", "RowParallel", "BatchNorm1D", "RowParallel"]
    assert not needs_whole_batch(parts[0]) and needs_whole_batch(parts)
    bare = row_parallel(Sequential(BatchNorm1D(4), ReLU()), Workers(1), in_threes)
    assert not any(isinstance(part, RowParallel) for part in bare.modules())


def networks() -> dict[str, Layer]:
    rng = np.random.default_rng(0)
    return {
        "fully connected": fully_connected_net(
            [48, 20, 20, 3], batchnorm=True, rng=rng, dtype=np.float64
        ),
        "residual": numpy_resnet((4, 6), classes=3, rng=rng, dtype=np.float64),
    }


@pytest.mark.parametrize("name", networks())
def test_the_gradient_is_that_of_the_whole_batch(name: str) -> None:
    rng = np.random.default_rng(2)
    images = rng.standard_normal((20, 4, 4, 3))
    x = images if name == "residual" else images.reshape(20, 48)
    y = rng.integers(0, 3, 20)
    plain, cut = networks()[name], networks()[name]
    loss = SoftmaxCrossEntropy()
    loss.forward(plain.forward(x), y)
    plain.backward(loss.backward())
    with Workers(3) as workers:
        step = TrainingStep(cut, loss, SGD(cut.parameters(), 0.0), workers, micro_batch=3)
        step(x, y)
    for ours, theirs in zip(gradients(cut), gradients(plain)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    for ours, theirs in zip(cut.buffers(), plain.buffers()):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", networks())
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    rng = np.random.default_rng(2)
    images = rng.standard_normal((40, 4, 4, 3))
    x = images if name == "residual" else images.reshape(40, 48)
    y = rng.integers(0, 3, 40)
    ends = set()
    for threads in (1, 2, 3):
        model = networks()[name]
        with Workers(threads) as workers:
            step = TrainingStep(
                model, SoftmaxCrossEntropy(), SGD(model.parameters(), 0.1), workers, micro_batch=7
            )
            losses = [step(x, y)[0] for _ in range(3)]
        ends.add((*losses, *(p.value.tobytes() for p in model.parameters())))
    assert len(ends) == 1


def test_every_part_drops_units_of_its_own_but_the_same_ones_again() -> None:
    def masks() -> np.ndarray:
        net = Sequential(Dropout(0.5, rng=np.random.default_rng(0)), BatchNorm1D(50))
        parts = row_parallel(Sequential(Linear50(), *net.layers).replica(), Workers(2), in_threes)
        parts.reseed(4, 0)
        assert isinstance(parts, Sequential)
        return parts[0](np.ones((6, 50), np.float32))

    first = masks()
    assert not np.array_equal(first[:3], first[3:])
    np.testing.assert_array_equal(first, masks())


class Linear50(Linear):
    """The identity, as a layer with weights."""

    def __init__(self) -> None:
        super().__init__(50, 50, rng=np.random.default_rng(0))
        self.weight.value[...] = np.eye(50)


def test_it_keeps_the_dtype() -> None:
    assert linear(np.float32)(np.ones((7, 4), np.float32)).dtype == np.float32
