"""Of every layer of section 3 an example, for its gradient to be checked, and some networks.

The tables are those that `section2/experiments/_checks.py` explains. `MISTAKES` has the ways in
which the backward pass of a convolution or a pool goes wrong in practice. Most of them are
no mistake in some geometry (padding 0, a 1x1 kernel, windows side by side), so there are
several geometries of everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from section1.activations import ReLU, Tanh
from section1.linear import Linear
from section1.losses import SoftmaxCrossEntropy
from section1.network import Sequential
from section2.experiments._checks import F64, Example, Model, Random, labels, layer, normal
from section2.faults import Mistake
from section3.batchnorm import BatchNorm2D
from section3.conv import Conv2D
from section3.conv_transpose import ConvTranspose2D
from section3.flatten import Flatten, Unflatten
from section3.fused import ConvMaxPool2D
from section3.models import mnist_cnn, numpy_resnet
from section3.naive import max_pool2d
from section3.pooling import AvgPool2D, GlobalAvgPool2D, MaxPool2D, Pool2D
from section3.receptive_field import Affine
from section3.residual import Residual

# --- examples ----------------------------------------------------------------------------


def spaced(*shape: int) -> Callable[[Random], np.ndarray]:
    """The numbers from -2 to 2 at equal distances, shuffled: no two of them nearly tie."""

    def draw(rng: Random) -> np.ndarray:
        size = int(np.prod(shape))
        return rng.permutation(np.linspace(-2, 2, size)).reshape(shape)

    return draw


def conv(channels: int, filters: int, kernel: Any, **options: Any) -> Callable[[Random], Conv2D]:
    return lambda rng: Conv2D(channels, filters, kernel, rng=rng, dtype=F64, **options)


def transpose(*sizes: Any, **options: Any) -> Callable[[Random], ConvTranspose2D]:
    return lambda rng: ConvTranspose2D(*sizes, rng=rng, dtype=F64, **options)


def affine(rng: Random) -> Affine:
    norm = BatchNorm2D(2, dtype=F64)
    norm.running_mean[...], norm.running_var[...] = rng.random((2, 2)) + 0.5
    return Affine(norm)


def pooled(pool: Any, *sizes: Any, **options: Any) -> Callable[[Random], ConvMaxPool2D]:
    return lambda rng: ConvMaxPool2D(conv(*sizes, **options)(rng), MaxPool2D(pool))


CONVOLUTIONS: dict[str, Example] = {
    "1×1": Example(conv(2, 3, 1), normal(2, 2, 2, 2)),
    "3×3": Example(conv(1, 2, 3), normal(2, 4, 4, 1)),
    "padding 1, two channels": Example(conv(2, 1, 3, padding=1), normal(2, 3, 2, 2)),
    "stride 2, padding 1": Example(conv(1, 2, 3, stride=2, padding=1), normal(2, 3, 4, 1)),
    "dilation 2, no bias": Example(conv(1, 2, 2, dilation=2, bias=False), normal(2, 4, 3, 1)),
    "two groups": Example(conv(2, 2, 2, groups=2), normal(2, 3, 3, 2)),
    "3×5, padding “same”": Example(conv(1, 1, (3, 5), padding="same"), normal(2, 3, 5, 1)),
}

POOLS: dict[str, Example] = {
    "2×2": layer(lambda: MaxPool2D(2), spaced(2, 4, 4, 1)),
    "2×2, a row left over": layer(lambda: MaxPool2D(2), spaced(2, 3, 4, 2)),
    "3×3, stride 2": layer(lambda: MaxPool2D(3, stride=2), spaced(2, 5, 5, 1)),
    "3×2, stride 1, padding 1": layer(
        lambda: MaxPool2D((3, 2), stride=1, padding=1), spaced(2, 4, 4, 1)
    ),
}

EXAMPLES: dict[type, list[Example]] = {
    Conv2D: list(CONVOLUTIONS.values()),
    ConvTranspose2D: [
        Example(transpose(2, 1, 3, bias=False), normal(2, 2, 3, 2)),
        Example(transpose(1, 2, 4, stride=2, padding=1), normal(2, 2, 2, 1)),
        Example(
            transpose(2, 2, (2, 3), stride=(3, 2), padding=(0, 1), output_padding=(1, 0)),
            normal(2, 2, 2, 2),
        ),
    ],
    ConvMaxPool2D: [
        Example(pooled(2, 1, 2, 3, padding=1), normal(2, 3, 4, 1)),
        Example(pooled((1, 2), 2, 2, 2, stride=(2, 1), groups=2), normal(2, 2, 3, 2)),
    ],
    MaxPool2D: list(POOLS.values()),
    AvgPool2D: [
        layer(lambda: AvgPool2D(2), normal(2, 4, 3, 2)),
        layer(lambda: AvgPool2D((3, 2), stride=(2, 1), padding=1), normal(2, 4, 4, 1)),
    ],
    GlobalAvgPool2D: [layer(GlobalAvgPool2D, normal(2, 3, 2, 3))],
    Flatten: [layer(Flatten, normal(2, 3, 2, 2))],
    Unflatten: [layer(lambda: Unflatten((3, 2, 2)), normal(2, 12))],
    BatchNorm2D: [layer(lambda: BatchNorm2D(2, dtype=F64), normal(3, 2, 2, 2))],
    Affine: [Example(affine, normal(3, 2, 2, 2))],
    Residual: [
        Example(lambda rng: Residual(conv(2, 2, (1, 3), padding="same")(rng)), normal(2, 2, 2, 2)),
        Example(
            lambda rng: Residual(
                Sequential(conv(1, 2, 2, stride=2, padding=1)(rng), Tanh()),
                conv(1, 2, 1, stride=2)(rng),
            ),
            normal(2, 3, 3, 1),
        ),
    ],
}

ABSTRACT: dict[type, str] = {Pool2D: "the base class of pools"}


# --- mistakes ----------------------------------------------------------------------------

Windowed = Conv2D | ConvTranspose2D


def filters_not_turned(conv: Windowed, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dx with the filters as they are in forward: x(u) reaches y(o) through W(u - o)."""
    w = conv.weight.value
    right = w.copy()
    w[...] = right[::-1, ::-1]
    dx = conv.backward(dy)
    w[...] = right
    assert dx is not None
    return dx


def kernel_transposed(conv: Windowed, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dW with rows and columns of the window in the other order."""
    dx = conv.backward(dy)
    dw = conv.weight.grad
    conv.weight.grad = dw.swapaxes(0, 1).reshape(dw.shape)
    assert dx is not None
    return dx


def last_image_only(conv: Windowed, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dW and db assigned, not added up, in a loop over images."""
    dx = conv.backward(dy)
    conv.zero_grad()
    conv.forward(x[-1:])
    conv.backward(dy[-1:])
    assert dx is not None
    return dx


def padding_not_cut(conv: Conv2D, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dx with the corner of the padded image, not its middle."""
    dx = conv.backward(dy)
    assert dx is not None
    return np.roll(dx, conv.padding, (1, 2))


def bias_averaged(conv: Windowed, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """db as the mean over the places of an image, not the sum."""
    dx = conv.backward(dy)
    if conv.bias is not None:
        conv.bias.grad /= dy.shape[1] * dy.shape[2]
    assert dx is not None
    return dx


def pool_assigned(pool: MaxPool2D, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Of an element that won in several windows only the last one counts."""
    (ph, pw), (sh, sw) = pool.padding, pool.stride
    _, winner = max_pool2d(x, pool.kernel, stride=pool.stride, padding=pool.padding)
    dx = np.zeros_like(x)
    for n, i, j, c in np.ndindex(*dy.shape):
        di, dj = divmod(winner[n, i, j, c], pool.kernel[1])
        dx[n, i * sh + di - ph, j * sw + dj - pw, c] = dy[n, i, j, c]
    return dx


def not_shared_out(pool: AvgPool2D, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Every element of a window gets all of dy."""
    dx = pool.backward(dy)
    assert dx is not None
    return dx * (pool.kernel[0] * pool.kernel[1])


def channels_first(flatten: Flatten, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """The vectors read as images with their channels before their rows."""
    n, h, w, c = x.shape
    return dy.reshape(n, c, h, w).transpose(0, 2, 3, 1)


def statistics_constant(norm: BatchNorm2D, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Mean and variance taken for constants that do not depend on x."""
    norm.backward(dy)
    return dy * norm.gamma.value / np.sqrt(x.var(axis=(0, 1, 2)) + norm.eps)


def shortcut_forgotten(block: Residual, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    dx = block.body.backward(dy)
    assert dx is not None
    return dx


MISTAKES: dict[str, tuple[tuple[type, ...], Mistake]] = {
    "filters not turned": ((Conv2D, ConvTranspose2D), filters_not_turned),
    "kernel transposed": ((Conv2D, ConvTranspose2D), kernel_transposed),
    "last image only": ((Conv2D, ConvTranspose2D), last_image_only),
    "padding not cut": ((Conv2D,), padding_not_cut),
    "db averaged": ((Conv2D, ConvTranspose2D), bias_averaged),
    "= for += in a pool": ((MaxPool2D,), pool_assigned),
    "mean not shared out": ((AvgPool2D,), not_shared_out),
    "channels first": ((Flatten,), channels_first),
    "statistics constant": ((BatchNorm2D,), statistics_constant),
    "shortcut forgotten": ((Residual,), shortcut_forgotten),
}


# --- whole networks ----------------------------------------------------------------------


def small_lenet(rng: Random) -> Sequential:
    """Convolution, tanh and mean pool, twice, and a linear layer, as in LeNet-5."""
    return Sequential(
        conv(1, 2, 3, padding=1)(rng), Tanh(), AvgPool2D(2),
        conv(2, 3, 2)(rng), Tanh(), AvgPool2D(2),
        Flatten(), Linear(3, 3, rng=rng, dtype=F64),
    )  # fmt: skip


def conv_pool_net(rng: Random) -> Sequential:
    """A convolution and its pool as one layer, and all that makes a block residual."""
    return Sequential(
        pooled(2, 1, 2, 3, padding=1)(rng), ReLU(),
        Residual(conv(2, 2, 3, padding=1)(rng)), GlobalAvgPool2D(),
        Linear(2, 3, rng=rng, dtype=F64),
    )  # fmt: skip


def model(make: Callable[[Random], Sequential], *shape: int) -> Model:
    return Model(make, SoftmaxCrossEntropy(), normal(*shape), labels(shape[0], 3), sample=1)


SMALL: dict[str, Any] = {"classes": 3, "dtype": F64}

MODELS: dict[str, Model] = {
    "mnist_cnn": model(
        lambda rng: mnist_cnn((2, 3), 4, shape=(4, 4, 1), rng=rng, **SMALL), 4, 4, 4, 1
    ),
    "mnist_cnn, batch norm, dropout": model(
        lambda rng: mnist_cnn(
            (2,), 3, shape=(4, 4, 1), convolutions=2, batchnorm=True, dropout=0.2, rng=rng, **SMALL
        ), 3, 4, 4, 1,
    ),
    "LeNet-like": model(small_lenet, 4, 6, 6, 1),
    "fused pool, residual": model(conv_pool_net, 4, 4, 4, 1),
    "numpy_resnet": model(
        lambda rng: numpy_resnet((2, 3), channels=1, rng=rng, **SMALL), 4, 3, 3, 1
    ),
}  # fmt: skip
