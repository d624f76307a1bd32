"""The networks: their shapes and sizes, PyTorch's gradients, and that they learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from section1.activations import ReLU
from section1.linear import Linear
from section1.losses import SoftmaxCrossEntropy
from section1.network import Sequential
from section1.training import evaluate, fit
from section2.dropout import Dropout
from section2.optimizers import Adam
from section3.conv import Conv2D
from section3.fused import fused
from section3.models import lenet5, mnist_cnn, numpy_resnet, three_layer_cnn
from section3.pooling import MaxPool2D
from section3.residual import Residual
from tests.helpers import assert_layer_contract, assert_matches_torch
from tests.section3.test_layers import as_torch, randomised, rng, some

Make = Callable[..., Sequential]

SMALL: dict[str, tuple[Make, dict[str, Any], tuple[int, int, int]]] = {
    "mnist_cnn": (mnist_cnn, {"filters": (3, 4), "hidden": 8, "shape": (9, 8, 1)}, (9, 8, 1)),
    "mnist_cnn, two convolutions": (
        mnist_cnn,
        {"filters": (3, 4), "hidden": 8, "shape": (8, 8, 3), "convolutions": 2},
        (8, 8, 3),
    ),
    "mnist_cnn, batch norm": (
        mnist_cnn,
        {"filters": (3, 4), "hidden": 8, "shape": (8, 8, 2), "batchnorm": True},
        (8, 8, 2),
    ),
    "mnist_cnn, all convolutional": (
        mnist_cnn,
        {"filters": (3,), "hidden": 0, "shape": (5, 4, 1), "convolutions": 2, "batchnorm": True},
        (5, 4, 1),
    ),
    "lenet5": (lenet5, {}, (28, 28, 1)),
    "three_layer_cnn": (
        three_layer_cnn,
        {"filters": 3, "kernel": 5, "hidden": 8, "shape": (7, 8, 3)},
        (7, 8, 3),
    ),
    "numpy_resnet": (numpy_resnet, {"widths": (3, 4), "channels": 2}, (5, 6, 2)),
    "numpy_resnet, deeper": (numpy_resnet, {"widths": (3,), "blocks": 3, "channels": 1}, (4, 4, 1)),
}
small = pytest.mark.parametrize(("make", "options", "shape"), SMALL.values(), ids=SMALL)


def count(model: Sequential) -> int:
    return sum(parameter.value.size for parameter in model.parameters())


# --- PyTorch ------------------------------------------------------------------------------


@small
def test_gradients_of_a_whole_network(make: Make, options: dict, shape: tuple) -> None:
    model = randomised(make(rng=rng(), dtype=np.float64, **options))
    for parameter in model.parameters():
        parameter.value *= 0.5
    assert_matches_torch(model, as_torch(model), some((3, *shape)), value_tolerance=1e-10)


@small
def test_networks_keep_the_contract_of_a_layer(make: Make, options: dict, shape: tuple) -> None:
    assert_layer_contract(lambda dtype: make(rng=rng(), dtype=dtype, **options), some((3, *shape)))


# --- shapes and sizes ---------------------------------------------------------------------


@small
def test_scores_of_as_many_classes_as_wanted(make: Make, options: dict, shape: tuple) -> None:
    x = some((2, *shape)).astype(np.float32)
    for classes in (10, 3):
        assert make(rng=rng(), classes=classes, **options)(x).shape == (2, classes)


def mnist_parameters(c: int, filters: tuple[int, int], features: int, hidden: int) -> int:
    a, b = filters
    return 9 * c * a + a + 9 * a * b + b + features * hidden + hidden + hidden * 10 + 10


@pytest.mark.parametrize(
    ("model", "parameters", "shape"),
    [
        (lenet5(rng=rng()), 61_706, (28, 28, 1)),  # with all connections between convolutions
        (mnist_cnn(rng=rng()), mnist_parameters(1, (32, 64), 3136, 128), (28, 28, 1)),
        (
            mnist_cnn(shape=(32, 32, 3), rng=rng()),
            mnist_parameters(3, (32, 64), 4096, 128),
            (32, 32, 3),
        ),
        (three_layer_cnn(rng=rng()), 147 * 32 + 32 + 8192 * 100 + 100 + 1010, (32, 32, 3)),
        # ResNet-20 with projections: 0.27 million in He et al., table 6
        (numpy_resnet((16, 32, 64), 3, rng=rng()), 272_474, (32, 32, 3)),
    ],
    ids=["lenet5", "mnist_cnn", "mnist_cnn of CIFAR", "three_layer_cnn", "ResNet-20"],
)
def test_number_of_parameters(model: Sequential, parameters: int, shape: tuple) -> None:
    assert count(model) == parameters
    assert all(parameter.value.dtype == np.float32 for parameter in model.parameters())
    assert model(some((2, *shape)).astype(np.float32)).shape == (2, 10)


@pytest.mark.parametrize(("blocks", "widths"), [(1, (2,)), (2, (2, 3)), (3, (2, 2, 4))])
def test_depth_and_sizes_of_a_resnet(blocks: int, widths: tuple[int, ...]) -> None:
    model = numpy_resnet(widths, blocks, rng=rng())
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, Linear) or (isinstance(layer, Conv2D) and layer.kernel == (3, 3))
    ]
    assert len(layers) == 2 * blocks * len(widths) + 2
    for size in (9, 8, 1):
        y = some((2, size, size, 3)).astype(np.float32)
        for layer in model.layers[:-2]:
            y = layer(y)
        for _ in widths[1:]:
            size = -(-size // 2)
        assert y.shape == (2, size, size, widths[-1])


def test_every_block_of_a_resnet_starts_as_its_shortcut() -> None:
    model = numpy_resnet((2, 3), 2, rng=rng(), dtype=np.float64)
    blocks = [layer for layer in model.modules() if isinstance(layer, Residual)]
    assert len(blocks) == 4
    for block in blocks:
        x = some((2, 4, 4, vars(vars(block.body)["layers"][0])["channels"]))
        np.testing.assert_array_equal(block(x), block.shortcut(x))


def kinds(model: Sequential) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def test_the_order_of_layers() -> None:
    shape = (8, 8, 1)
    model = mnist_cnn((2,), 4, shape=shape, batchnorm=True, dropout=0.2, rng=rng())
    assert kinds(model) == [
        "Conv2D", "MaxPool2D", "BatchNorm2D", "ReLU",
        "Flatten", "Dropout", "Linear", "BatchNorm1D", "ReLU", "Dropout", "Linear",
    ]  # fmt: skip
    biases = [vars(layer)["bias"] for layer in model.layers if isinstance(layer, (Conv2D, Linear))]
    assert [bias is None for bias in biases] == [True, True, False]
    assert [layer.p for layer in model.layers if isinstance(layer, Dropout)] == [0.2, 0.2]
    model = mnist_cnn((2, 3), 0, shape=shape, convolutions=2, rng=rng())
    assert kinds(model) == 2 * ["Conv2D", "ReLU", "Conv2D", "MaxPool2D", "ReLU"] + [
        "Flatten", "Linear",
    ]  # fmt: skip


def test_a_pool_may_come_before_relu() -> None:
    x = some((2, 4, 4, 3))
    pool, bend = MaxPool2D(2), ReLU()
    np.testing.assert_array_equal(bend(pool(x)), pool(bend(x)))


@small
def test_convolutions_of_one_shape_start_with_different_weights(
    make: Make, options: dict, shape: tuple
) -> None:
    model = make(rng=rng(), **options)
    convs = [layer.weight.value for layer in model.modules() if isinstance(layer, Conv2D)]
    for k, weight in enumerate(convs):
        for other in convs[:k]:
            assert weight.shape != other.shape or (weight != other).all()


# --- learning -----------------------------------------------------------------------------


@small
@pytest.mark.parametrize("prepare", [lambda model: model, fused], ids=["plain", "fused"])
def test_a_few_images_are_learnt_by_heart(
    make: Make, options: dict, shape: tuple, prepare: Callable[[Sequential], Sequential]
) -> None:
    model = prepare(make(rng=rng(), **options))
    x, y = some((8, *shape)).astype(np.float32), np.arange(8)
    history = fit(
        model,
        SoftmaxCrossEntropy(),
        Adam(model.parameters(), 0.02),
        (x, y),
        epochs=100,
        batch_size=8,
        rng=rng(),
        threads=1,
    )
    assert history.metric[-1] == 1 and history.loss[-1] < 0.2 < 1.5 < history.loss[0]
    _, accuracy = evaluate(model, SoftmaxCrossEntropy(), (x, y), threads=1)
    assert accuracy == 1


# --- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: mnist_cnn(shape=(3, 28, 1), rng=rng()), "images of 3x28 cannot be halved 2 times"),
        (lambda: mnist_cnn((1, 1, 1), shape=(28, 7, 1), rng=rng()), "28x7 cannot .* 3 times"),
        (lambda: three_layer_cnn(shape=(1, 8, 3), rng=rng()), "images of 1x8 cannot be halved"),
        (lambda: three_layer_cnn(kernel=4, rng=rng()), r'Conv2D\(3, 32, 4x4\): padding "same"'),
        (lambda: numpy_resnet((), rng=rng()), r"needs a width and a block, got \(\) and 1"),
        (lambda: numpy_resnet((4,), 0, rng=rng()), r"needs a width and a block, got \(4,\) and 0"),
        (lambda: mnist_cnn(convolutions=0, rng=rng()), "convolution"),
        (lambda: mnist_cnn(dropout=1.0, rng=rng()), "at least 0 and below 1"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_built(build: Callable[[], Sequential], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build()


@pytest.mark.parametrize(
    ("model", "shape", "complaint"),
    [
        (mnist_cnn(rng=rng()), (3, 3, 1), r"MaxPool2D\(2x2\): a window of 2x2 .* input of 1x1"),
        (mnist_cnn(rng=rng()), (32, 32, 1), r"Linear\(3136, 128\) expects 3136 features"),
        (lenet5(rng=rng()), (8, 8, 1), r"Conv2D\(6, 16, 5x5\): a window of 5x5 .* input of 4x4"),
        (lenet5(rng=rng()), (28, 28, 3), r"Conv2D\(1, 6, 5x5\) expects images \(N, H, W, 1\)"),
        (three_layer_cnn(rng=rng()), (1, 8, 3), r"MaxPool2D\(2x2\): a window of 2x2"),
        (numpy_resnet(rng=rng()), (8, 8, 1), r"Conv2D\(3, 32, 3x3\) expects images"),
    ],
)
def test_images_that_are_refused(model: Sequential, shape: tuple, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        model(np.ones((2, *shape), np.float32))
