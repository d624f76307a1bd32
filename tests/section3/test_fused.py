"""Convolution and pool as one layer: what the two layers give, and PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from section1.activations import ReLU
from section1.layer import Layer
from section1.losses import SoftmaxCrossEntropy
from section1.network import Sequential
from section1.training import fit
from section2.dropout import Dropout
from section2.optimizers import Momentum
from section3.conv import Conv2D
from section3.fused import ConvMaxPool2D, fused
from section3.im2col import Pair, output_size
from section3.models import lenet5, mnist_cnn, three_layer_cnn
from section3.pooling import AvgPool2D, MaxPool2D
from tests.helpers import assert_layer_contract, assert_matches_torch, backward, gradients
from tests.section3.test_conv import assert_same_without_dx, conv, conv_layouts
from tests.section3.test_im2col import Geometry, geometries
from tests.section3.test_layers import as_torch, randomised, rng, some


def plain(geometry: Geometry, pool: Pair, **options: Any) -> Sequential:
    return Sequential(conv(geometry, **options), MaxPool2D(pool))


def results(model: Layer, x: np.ndarray) -> list[np.ndarray]:
    """y, dx and the gradients, for a dy of whole numbers; random numbers start anew."""
    model.zero_grad()
    model.reseed(0, 0)
    y = model(x)
    dy = rng(3).integers(-3, 4, y.shape).astype(x.dtype)
    return [y, backward(model, dy), *gradients(model)]


def assert_same_results(model: Sequential, x: np.ndarray, tolerance: float = 1e-12) -> None:
    for ours, expected in zip(results(fused(model), x), results(model, x), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


# --- one convolution and its pool ---------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    geometry=geometries(),
    groups=st.integers(1, 2),
    bias=st.booleans(),
    short=st.sampled_from([1, 10_000]),
    elements=st.sampled_from([1, 200, 2**18]),
)
def test_it_is_the_two_layers_and_pytorch(
    data: st.DataObject, geometry: Geometry, groups: int, bias: bool, short: int, elements: int
) -> None:
    *images, channels = geometry.shape
    geometry = geometry._replace(shape=(*images, channels * groups))
    oh, ow = output_size((images[1], images[2]), *geometry.walk)
    pool = tuple(data.draw(st.integers(1, min(n, 3))) for n in (oh, ow))
    model = plain(geometry, (pool[0], pool[1]), filters=2 * groups, groups=groups, bias=bias)
    x = some(geometry.shape)
    with conv_layouts(short, elements):
        assert isinstance(fused(model)[0], ConvMaxPool2D)
        assert_same_results(model, x)
        assert_matches_torch(fused(model), as_torch(fused(model)), x)
        assert_same_without_dx(fused(model), x)


AWKWARD = {
    "odd": (Geometry((2, 7, 5, 2), (3, 3), padding=(1, 1)), (2, 2)),
    "one channel": (Geometry((3, 6, 6, 1), (3, 5), padding=(1, 2)), (2, 3)),
    "stride": (Geometry((2, 11, 9, 2), (3, 2), stride=(2, 1), padding=(1, 0)), (2, 3)),
    "1x1 kernel": (Geometry((2, 5, 4, 2), (1, 1)), (2, 2)),
    "1x1 kernel, stride": (Geometry((2, 5, 8, 2), (1, 1), (2, 2), (1, 1)), (2, 2)),
    "1x1 pool": (Geometry((2, 4, 3, 2), (3, 3), padding=(1, 1)), (1, 1)),
    "1x1 both": (Geometry((2, 4, 3, 2), (1, 1), (2, 1), (1, 0)), (1, 1)),
    "1x1 both, padding": (Geometry((2, 4, 3, 2), (1, 1), padding=(1, 0)), (1, 1)),
    "all in one pool": (Geometry((1, 4, 5, 3), (2, 2)), (3, 4)),
    "dilation": (Geometry((2, 8, 8, 2), (3, 2), padding=(3, 4), dilation=(2, 3)), (3, 2)),
}
awkward = pytest.mark.parametrize(("geometry", "pool"), AWKWARD.values(), ids=AWKWARD)


@awkward
@pytest.mark.parametrize("bias", [True, False])
def test_awkward_shapes(geometry: Geometry, pool: Pair, bias: bool) -> None:
    x = some(geometry.shape)
    assert_same_results(plain(geometry, pool, bias=bias), x)

    def make(dtype: Any) -> Sequential:
        return fused(plain(geometry, pool, dtype=dtype, bias=bias))

    assert_layer_contract(make, x)
    assert_same_without_dx(make(np.float64), x)


@awkward
def test_of_equal_elements_the_first_one_wins(geometry: Geometry, pool: Pair) -> None:
    """Whole numbers, of which many are equal; then sums are exact and so is the comparison."""
    model, x = plain(geometry, pool), rng().integers(-1, 2, geometry.shape).astype(float)
    for parameter in model.parameters():
        parameter.value[...] = rng(1).integers(-1, 2, parameter.value.shape)
    for ours, expected in zip(results(fused(model), x), results(model, x), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert_matches_torch(fused(model), as_torch(model), x)


@pytest.mark.parametrize("elements", [1, 100, 500, 10_000])
@awkward
def test_chunks_change_nothing_but_rounding(geometry: Geometry, pool: Pair, elements: int) -> None:
    x = some((7, *geometry.shape[1:]))
    model = fused(plain(geometry, pool))
    whole = results(model, x)
    with conv_layouts(16, elements):
        for cut, expected in zip(results(model, x), whole, strict=True):
            np.testing.assert_allclose(cut, expected, rtol=0, atol=1e-12)
        assert_same_without_dx(model, x)


# --- whole networks -----------------------------------------------------------------------


def mnist(**options: Any) -> Sequential:
    settings = {"filters": (3, 4), "hidden": 5, "shape": (9, 11, 1), "rng": rng()}
    return randomised(mnist_cnn(**{**settings, "dtype": np.float64, **options}))


MODELS: dict[str, Callable[[], Sequential]] = {
    "plain": mnist,
    "colour": lambda: mnist(shape=(8, 8, 3)),
    "two convolutions": lambda: mnist(convolutions=2),
    "batch norm": lambda: mnist(batchnorm=True),
    "dropout": lambda: mnist(dropout=0.3),
    "no hidden layer": lambda: mnist(hidden=0),
    "everything": lambda: mnist(convolutions=2, batchnorm=True, dropout=0.3, filters=(2, 3, 4)),
    "three layers": lambda: three_layer_cnn(2, 5, 6, shape=(9, 11, 1), rng=rng(), dtype=np.float64),
}
models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@models
def test_a_fused_network_is_the_network(make: Callable[[], Sequential]) -> None:
    model = make()
    together = fused(model)
    pools = sum(isinstance(layer, MaxPool2D) for layer in model.layers)
    assert len(together) == len(model) - pools
    assert sum(isinstance(layer, ConvMaxPool2D) for layer in together.layers) == pools
    assert together.parameters() == model.parameters()  # the same objects, in the same order
    others = [layer for layer in together.layers if not isinstance(layer, ConvMaxPool2D)]
    assert all(any(layer is its for its in model.layers) for layer in others)
    shape = (4, 8, 8, 3) if vars(model[0])["channels"] == 3 else (4, 9, 11, 1)
    assert_same_results(model, some(shape), tolerance=1e-11)


def trained(model: Sequential, together: bool, batches: int) -> list[np.ndarray]:
    """The parameters of `model` and its running averages after a few steps."""
    learner = fused(model) if together else model
    x, y = some((30, 9, 11, 1)), rng().integers(0, 10, 30)
    fit(
        learner,
        SoftmaxCrossEntropy(),
        Momentum(learner.parameters(), 0.05),
        (x, y),
        epochs=1,
        batch_size=30 // batches,
        micro_batch=4,
        rng=rng(),
        threads=2,
    )
    return [*(parameter.value for parameter in model.parameters()), *model.buffers()]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "colour"])
@pytest.mark.parametrize("batches", [1, 3])
def test_training_either_trains_the_model(name: str, batches: int) -> None:
    start = MODELS[name]().parameters()
    apart, together = (trained(MODELS[name](), which, batches) for which in (False, True))
    assert any((p.value != now).any() for p, now in zip(start, together))
    for ours, expected in zip(together, apart, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


def test_mean_pools_are_left_alone() -> None:
    model = lenet5(rng=rng())
    assert fused(model).layers == model.layers


@pytest.mark.parametrize(
    "pair",
    [
        (conv(Geometry((1, 6, 6, 2), (3, 3))), MaxPool2D(3, stride=2)),
        (conv(Geometry((1, 6, 6, 2), (3, 3))), MaxPool2D(2, padding=1)),
        (conv(Geometry((1, 6, 6, 2), (3, 3))), AvgPool2D(2)),
        (ReLU(), MaxPool2D(2)),
        (MaxPool2D(2), conv(Geometry((1, 6, 6, 2), (3, 3)))),
    ],
    ids=["overlap", "padding", "mean", "no convolution", "pool first"],
)
def test_what_cannot_be_fused_is_left_alone(pair: tuple[Layer, Layer]) -> None:
    assert fused(Sequential(*pair)).layers == list(pair)


def test_inner_networks_are_fused_and_models_left_as_they_were() -> None:
    inner = plain(Geometry((1, 6, 6, 2), (3, 3)), (2, 2))
    last = MaxPool2D(2)
    model = Sequential(inner, last)
    together = fused(model)
    assert [type(layer) for layer in together.modules()] == [
        Sequential, Sequential, ConvMaxPool2D, MaxPool2D,
    ]  # fmt: skip
    assert [type(layer) for layer in inner.layers] == [Conv2D, MaxPool2D]
    assert model.layers == [inner, last] and together[1] is last
    assert_same_results(model, some((2, 6, 6, 2)))
    again = fused(together)  # a pool after a fused pool stays a pool
    assert [type(layer) for layer in again.modules()] == [
        type(layer) for layer in together.modules()
    ]


def test_dropout_keeps_its_random_numbers() -> None:
    model = mnist(dropout=0.5)
    drops = [
        [layer for layer in network.modules() if isinstance(layer, Dropout)]
        for network in (model, fused(model))
    ]
    assert len(drops[0]) == 2 and drops[0] == drops[1]


def test_a_fused_layer_has_not_run_when_its_convolution_has() -> None:
    model, x = plain(Geometry((1, 6, 6, 2), (3, 3)), (2, 2)), some((1, 6, 6, 2))
    y = model(x)
    together = fused(model)
    with pytest.raises(RuntimeError, match="forward pass in training mode"):
        together.backward(y)
    model.backward(y)  # and the model still remembers


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((1, 6, 6, 3), r"Conv2D\(2, 3, 3x3\) expects images \(N, H, W, 2\), got .*\(1, 6, 6, 3\)"),
        ((1, 2, 6, 2), r"Conv2D\(2, 3, 3x3\): a window of 3x3 .* input of 2x6"),
        ((1, 5, 6, 2), r"Conv2D\(2, 3, 3x3\): its output of 3x4 holds no pool of 4x2"),
    ],
)
def test_images_that_are_refused(shape: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        fused(plain(Geometry((1, 8, 8, 2), (3, 3)), (4, 2)))(np.ones(shape))
