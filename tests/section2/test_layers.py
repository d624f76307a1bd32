"""Batch norm, layer norm and dropout: PyTorch, numerical gradients, and what each promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from section1.losses import SoftmaxCrossEntropy
from section1.mlp import MLP
from section1.sgd import SGD
from section1.training import fit, predict
from section2.batchnorm import BatchNorm1D
from section2.dropout import Dropout
from section2.layernorm import LayerNorm
from section2.models import fully_connected_net
from tests.helpers import assert_gradients, assert_layer_contract, assert_matches_torch

SHAPES = [(6, 4), (2, 4), (3, 5, 4), (2, 3, 3, 4), (7, 1)]


def norm(kind: Any, features: int, dtype: Any = np.float64, seed: int = 0, **options: Any) -> Any:
    layer = kind(features, dtype=dtype, **options)
    rng = np.random.default_rng(seed)
    layer.gamma.value[...] = rng.uniform(0.5, 2, features)
    layer.beta.value[...] = rng.standard_normal(features)
    return layer


def some(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return 3 * np.random.default_rng(seed).standard_normal(shape) + 5


# --- batch norm --------------------------------------------------------------------------


def torch_batch_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return torch.nn.functional.batch_norm(rows, None, None, gamma, beta, True).reshape(x.shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm(shape: tuple[int, ...]) -> None:
    assert_matches_torch(norm(BatchNorm1D, shape[-1]), torch_batch_norm, some(shape))
    assert_gradients(norm(BatchNorm1D, shape[-1]), some(shape))
    assert_layer_contract(lambda dtype: norm(BatchNorm1D, shape[-1], dtype), some(shape))


def backward_step_by_step(x: np.ndarray, gamma: Any, dy: np.ndarray, eps: float) -> Any:
    """Batch norm backward through every node of its graph, as a check of the short form."""
    n = len(x)
    mean = x.sum(0) / n
    centred = x - mean
    squares = centred**2
    var = squares.sum(0) / n
    deviation = np.sqrt(var + eps)
    inverse = 1 / deviation
    normal = centred * inverse

    dbeta = dy.sum(0)
    dgamma = (dy * normal).sum(0)
    dnormal = dy * gamma
    dinverse = (dnormal * centred).sum(0)
    dcentred = dnormal * inverse
    ddeviation = -dinverse / deviation**2
    dvar = ddeviation / (2 * deviation)
    dsquares = np.ones_like(x) * dvar / n
    dcentred += 2 * centred * dsquares
    dmean = -dcentred.sum(0)
    return dcentred + np.ones_like(x) * dmean / n, dgamma, dbeta


@pytest.mark.parametrize("rows", [2, 3, 50])
def test_the_short_backward_is_the_long_one(rows: int) -> None:
    layer, x = norm(BatchNorm1D, 4), some((rows, 4))
    dy = np.random.default_rng(2).standard_normal(x.shape)
    layer(x)
    dx = layer.backward(dy)
    expected = backward_step_by_step(x, layer.gamma.value, dy, layer.eps)
    for ours, theirs in zip((dx, layer.gamma.grad, layer.beta.grad), expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("momentum", [0.1, 0.7])
@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_running_averages_and_evaluation(momentum: float, eps: float) -> None:
    layer = norm(BatchNorm1D, 4, momentum=momentum, eps=eps)
    theirs = torch.nn.BatchNorm1d(4, momentum=momentum, eps=eps, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight[:] = torch.tensor(layer.gamma.value)
        theirs.bias[:] = torch.tensor(layer.beta.value)
    buffers = layer.buffers()
    for seed in range(5):
        x = some((6, 4), seed)
        layer(x)
        theirs(torch.tensor(x))
    assert all(old is new for old, new in zip(buffers, layer.buffers()))
    for ours, expected in zip(buffers, theirs.buffers()):  # and then its count of batches
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
    layer.eval()
    theirs.eval()
    before = [array.copy() for array in buffers]
    for x in (some((6, 4), 9), some((1, 4), 10)):
        expected = theirs(torch.tensor(x)).detach().numpy()
        np.testing.assert_allclose(layer(x), expected, rtol=1e-12, atol=1e-12)
    for array, old in zip(buffers, before):
        np.testing.assert_array_equal(array, old, "evaluation changed a running average")


def test_batch_norm_normalises_each_feature() -> None:
    y = BatchNorm1D(4, dtype=np.float64)(some((50, 4)) * [1, 10, 0.1, 1] + [0, 5, -5, 100])
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=0), 1, rtol=1e-3)


def test_a_single_row_without_an_axis_for_rows() -> None:
    layer, row = norm(BatchNorm1D, 4), some((4,))
    with pytest.raises(ValueError, match="two rows or more"):
        layer(row)
    layer.eval()
    np.testing.assert_array_equal(layer(row), layer(row[None])[0])


@pytest.mark.parametrize("kind", [BatchNorm1D, LayerNorm])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_sums_of_narrow_numbers_do_not_overflow(kind: Any, dtype: Any) -> None:
    layer = norm(kind, 500, np.float32)
    x = np.random.default_rng(0).integers(100, 256, (500, 500)).astype(dtype)
    np.testing.assert_array_equal(layer(x), layer(x.astype(np.float32)))


def test_a_batch_of_batch_norm_is_not_cut() -> None:
    """All 300 rows count as one batch, whatever a micro-batch would hold."""
    rng = np.random.default_rng(0)
    model = fully_connected_net([4, 5, 3], batchnorm=True, rng=rng)
    x, y = some((300, 4)).astype(np.float32), rng.integers(0, 3, 300)
    hidden = model[0](x[np.random.default_rng(1).permutation(300)])  # as fit will shuffle
    fit(
        model,
        SoftmaxCrossEntropy(),
        SGD(model.parameters(), 0.0),
        (x, y),
        epochs=1,
        batch_size=300,
        rng=np.random.default_rng(1),
    )
    np.testing.assert_allclose(model.buffers()[0], 0.1 * hidden.mean(axis=0), rtol=1e-4)


# --- layer norm --------------------------------------------------------------------------


def torch_layer_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta)


@pytest.mark.parametrize("shape", [*SHAPES[:-1], (1, 8)], ids=str)
def test_layer_norm(shape: tuple[int, ...]) -> None:
    assert_matches_torch(norm(LayerNorm, shape[-1]), torch_layer_norm, some(shape))
    assert_gradients(norm(LayerNorm, shape[-1]), some(shape))
    assert_layer_contract(lambda dtype: norm(LayerNorm, shape[-1], dtype), some(shape))


def test_layer_norm_does_the_same_in_evaluation() -> None:
    layer, x = norm(LayerNorm, 4), some((3, 4))
    y = layer(x)
    layer.eval()
    np.testing.assert_array_equal(layer(x), y)


# --- dropout -----------------------------------------------------------------------------


def test_dropout_keeps_the_contract() -> None:
    x = some((5, 4))
    for p in (0.0, 0.3, 0.9):

        def make(dtype: Any, p: float = p) -> Dropout:
            return Dropout(p, rng=np.random.default_rng(0))

        assert_layer_contract(make, x)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_drops_a_share_and_keeps_the_mean(p: float) -> None:
    layer = Dropout(p, rng=np.random.default_rng(0))
    y = layer(np.ones((400, 500)))
    assert set(np.unique(y)) == {0.0, 1 / (1 - p)}
    assert (y == 0).mean() == pytest.approx(p, abs=0.005)
    assert y.mean() == pytest.approx(1, abs=0.02)


def test_dropout_backward_uses_the_mask_of_forward() -> None:
    layer = Dropout(0.5, rng=np.random.default_rng(0))
    y = layer(np.ones((20, 20)))
    np.testing.assert_array_equal(layer.backward(np.ones((20, 20))), y)


def test_dropout_is_the_identity_in_evaluation() -> None:
    layer, x = Dropout(0.5, rng=np.random.default_rng(0)), some((5, 4))
    layer.eval()
    np.testing.assert_array_equal(layer(x), x)


def masks(layer: Any) -> list[np.ndarray]:
    return [layer(np.ones((10, 10))) for _ in range(3)]


def test_dropout_draws_a_new_mask_every_time() -> None:
    rng = np.random.default_rng(0)
    first, second = Dropout(0.5, rng=rng), Dropout(0.5, rng=rng)
    drawn = masks(first) + masks(second)
    for place in ((0, 0), (0, 1), (1, 0)):  # step, micro-batch
        first.reseed(*place)
        drawn += masks(first)
    for k, mask in enumerate(drawn):
        assert all((mask != other).any() for other in drawn[:k])
    first.reseed(0, 1)
    for again, mask in zip(masks(first), drawn[9:12]):
        np.testing.assert_array_equal(again, mask)


class Spy(Dropout):
    """Dropout that notes, under the shape of x, the masks that it drew."""

    seen: list = []

    def forward(self, x: np.ndarray) -> Any:
        y = super().forward(x)
        if self.training:
            self.seen.append((y != 0).tobytes())
        return y


def train_with_dropout(threads: int, layer: Any = Dropout) -> Any:
    rng = np.random.default_rng(0)
    model = fully_connected_net([6, 16, 16, 3], dropout=0.4, rng=rng)
    model.layers[2] = layer(0.4, rng=rng)
    x, y = rng.standard_normal((200, 6)).astype(np.float32), rng.integers(0, 3, 200)
    history = fit(
        model,
        SoftmaxCrossEntropy(),
        SGD(model.parameters(), 0.1),
        (x, y),
        epochs=2,
        batch_size=100,
        micro_batch=25,
        rng=rng,
        threads=threads,
    )
    return [parameter.value for parameter in model.parameters()], history


def test_threads_do_not_change_what_is_dropped() -> None:
    one, first = train_with_dropout(threads=1)
    for threads in (2, 3):
        other, history = train_with_dropout(threads)
        assert history.step_loss == first.step_loss
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)


def test_every_micro_batch_of_every_step_has_its_own_mask() -> None:
    Spy.seen = []
    train_with_dropout(1, Spy)
    once_for_memory = 1  # two rows that tell how much memory a row takes
    assert len(Spy.seen) == len(set(Spy.seen)) == 2 * 2 * 4 + once_for_memory


# --- the network -------------------------------------------------------------------------


def test_the_plain_network_is_the_mlp() -> None:
    sizes = [5, 7, 6, 3]
    ours = fully_connected_net(sizes, "tanh", rng=np.random.default_rng(4))
    mlp = MLP(sizes, "tanh", rng=np.random.default_rng(4))
    x = some((3, 5)).astype(np.float32)
    np.testing.assert_array_equal(predict(ours, x), predict(mlp, x))


def test_the_order_of_layers() -> None:
    net = fully_connected_net(
        [5, 7, 3], batchnorm=True, dropout=0.2, rng=np.random.default_rng(0), dtype=np.float64
    )
    names = [type(layer).__name__ for layer in net.layers]
    assert names == ["Linear", "BatchNorm1D", "ReLU", "Dropout", "Linear"]
    assert vars(net[0])["bias"] is None and vars(net[4])["bias"] is not None
    assert all(parameter.value.dtype == np.float64 for parameter in net.parameters())


def test_what_is_refused() -> None:
    rng = np.random.default_rng(0)
    for p in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            Dropout(p, rng=rng)
    for kind in (BatchNorm1D, LayerNorm):
        with pytest.raises(ValueError, match=rf"{kind.__name__}\(4\) expects 4 features"):
            kind(4)(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="two rows or more"):
        BatchNorm1D(4)(np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match="two sizes or more"):
        fully_connected_net([3], rng=rng)
