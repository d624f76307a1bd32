"""The networks of this section, from the one of 1998 to one with residual blocks.

Max-pooling comes before ReLU where it can: the largest of ReLUs is the ReLU of the largest,
so the result is the same, and ReLU has a fourth of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from section1.activations import ReLU, Tanh
from section1.layer import Layer
from section1.linear import Linear
from section1.network import Sequential
from section2.batchnorm import BatchNorm1D
from section2.dropout import Dropout
from section3.batchnorm import BatchNorm2D
from section3.conv import Conv2D
from section3.flatten import Flatten
from section3.pooling import AvgPool2D, GlobalAvgPool2D, MaxPool2D
from section3.residual import residual_block

Shape = tuple[int, int, int]  # of one image: H, W, C


def mnist_cnn(
    filters: Sequence[int] = (32, 64),
    hidden: int = 128,
    *,
    shape: Shape = (28, 28, 1),
    classes: int = 10,
    convolutions: int = 1,
    batchnorm: bool = False,
    dropout: float = 0.0,
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> Sequential:
    """For each number of `filters`: 3x3 convolutions, 2x2 max-pool, ReLU; then linear layers.

    Args:
        hidden: units of the linear layer before the last one; 0 for none.
        shape: (H, W, C) of an image.
        convolutions: how many before each pool, a ReLU between one and the next.
        batchnorm: normalise before every ReLU. The layers before it have no bias then.
        dropout: chance that a unit before each linear layer is dropped.

    Raises ValueError where the image is too small for that many pools, and for no convolutions.
    """
    if convolutions < 1:
        raise ValueError(f"mnist_cnn needs a convolution before each pool, got {convolutions}")
    h, w = halved(shape, len(filters))
    channels = shape[2]
    layers: list[Layer] = []
    settings: dict[str, Any] = {"bias": not batchnorm, "rng": rng, "dtype": dtype}
    for count in filters:
        for k in range(convolutions):
            layers.append(Conv2D(channels, count, 3, padding=1, **settings))
            channels = count
            if k == convolutions - 1:
                layers.append(MaxPool2D(2))
            if batchnorm:
                layers.append(BatchNorm2D(count, dtype=dtype))
            layers.append(ReLU())
    layers.append(Flatten())
    features = h * w * channels
    if hidden:
        if dropout:
            layers.append(Dropout(dropout, rng=rng))
        layers.append(Linear(features, hidden, **settings))
        if batchnorm:
            layers.append(BatchNorm1D(hidden, dtype=dtype))
        layers.append(ReLU())
        features = hidden
    if dropout:
        layers.append(Dropout(dropout, rng=rng))
    layers.append(Linear(features, classes, init="xavier_uniform", rng=rng, dtype=dtype))
    return Sequential(*layers)


def lenet5(*, classes: int = 10, rng: np.random.Generator, dtype: Any = np.float32) -> Sequential:
    """LeNet-5 for images of 28x28: two 5x5 convolutions with mean pools, then three linear layers.

    As in the paper, but for full connections between the convolutions, tanh itself for its
    scaled form, softmax for its last layer, and plain means for its pools, which multiply the sum
    of four by a trained coefficient, add a trained bias, and squash the result.
    Source: LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document
    recognition (1998), section II.B.
    """
    settings: dict[str, Any] = {"init": "xavier_uniform", "rng": rng, "dtype": dtype}
    return Sequential(
        Conv2D(1, 6, 5, padding=2, **settings), Tanh(), AvgPool2D(2),  # (N, 14, 14, 6)
        Conv2D(6, 16, 5, **settings), Tanh(), AvgPool2D(2),  # (N, 5, 5, 16)
        Flatten(),
        Linear(400, 120, **settings), Tanh(),
        Linear(120, 84, **settings), Tanh(),
        Linear(84, classes, **settings),
    )  # fmt: skip


def three_layer_cnn(
    filters: int = 32,
    kernel: int = 7,
    hidden: int = 100,
    *,
    shape: Shape = (32, 32, 3),
    classes: int = 10,
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> Sequential:
    """One convolution that keeps the size, 2x2 max-pool, ReLU, and two linear layers.

    Raises ValueError where the image is too small for the pool.
    Source: the second assignment of the Stanford course CS231n, "ThreeLayerConvNet".
    """
    h, w = halved(shape, 1)
    return Sequential(
        Conv2D(shape[2], filters, kernel, padding="same", rng=rng, dtype=dtype),
        MaxPool2D(2),
        ReLU(),
        Flatten(),
        Linear(h * w * filters, hidden, rng=rng, dtype=dtype),
        ReLU(),
        Linear(hidden, classes, init="xavier_uniform", rng=rng, dtype=dtype),
    )


def numpy_resnet(
    widths: Sequence[int] = (32, 64, 128),
    blocks: int = 1,
    *,
    channels: int = 3,
    classes: int = 10,
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> Sequential:
    """A convolution, then `blocks` residual blocks of each width, then the mean of each channel.

    The image is halved at every width but the first. With b blocks of w widths it has
    2 b w + 2 layers with weights.
    Source: He, Zhang, Ren, Sun, Deep residual learning, arXiv:1512.03385, section 4.2.
    """
    if not widths or blocks < 1:
        raise ValueError(f"numpy_resnet needs a width and a block, got {widths} and {blocks}")
    before = widths[0]
    layers: list[Layer] = [
        Conv2D(channels, before, 3, padding=1, bias=False, rng=rng, dtype=dtype),
        BatchNorm2D(before, dtype=dtype),
        ReLU(),
    ]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(residual_block(before, width, stride=stride, rng=rng, dtype=dtype))
            before = width
    layers += [
        GlobalAvgPool2D(),
        Linear(before, classes, init="xavier_uniform", rng=rng, dtype=dtype),
    ]
    return Sequential(*layers)


def halved(shape: Shape, times: int) -> tuple[int, int]:
    """(H, W) of an image after so many 2x2 pools."""
    h, w = shape[0] >> times, shape[1] >> times
    if min(h, w) < 1:
        raise ValueError(f"images of {shape[0]}x{shape[1]} cannot be halved {times} times")
    return h, w
