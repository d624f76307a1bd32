"""Of every layer and loss an example, for its gradient to be checked, and some whole networks.

The examples of sections 1 and 2 are here. A later section N has a file
`sectionN/experiments/_checks.py` with tables of the same names, `EXAMPLES`, `ABSTRACT`,
`MISTAKES` and `MODELS`, and an experiment that calls `account` and `draw_account` of
`_account.py`, or a test that plants the same faults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from section1 import activations, losses
from section1.layer import Layer
from section1.linear import Linear
from section1.losses import Loss
from section1.mlp import MLP
from section1.network import Sequential
from section1.parallel import Workers
from section1.row_parallel import RowParallel
from section1.training import micro_batches
from section2.batchnorm import BatchNorm1D
from section2.dropout import Dropout
from section2.faults import Faulty, FaultyLoss, Mistake, Miswritten
from section2.layernorm import LayerNorm
from section2.models import fully_connected_net

Random = np.random.Generator
F64: Any = np.float64


@dataclass(frozen=True)
class Example:
    """A layer, or a loss with a target, in float64, and an input for it."""

    make: Callable[[Random], Layer | Loss]
    x: Callable[[Random], np.ndarray]
    target: Callable[[Random], np.ndarray] | None = None


@dataclass(frozen=True)
class Model:
    """A whole network in float64 with its loss, an input and a target.

    `sample` elements of each array are looked at one by one where a fault is planted; the random
    directions go through all of them anyway.
    """

    make: Callable[[Random], Sequential]
    loss: Loss
    x: Callable[[Random], np.ndarray]
    target: Callable[[Random], np.ndarray]
    sample: int = 10


def normal(*shape: int) -> Callable[[Random], np.ndarray]:
    return lambda rng: rng.standard_normal(shape)


def with_zeros(*shape: int) -> Callable[[Random], np.ndarray]:
    """Random numbers, the first two of which are 0: on the kink of a ReLU."""

    def draw(rng: Random) -> np.ndarray:
        x = rng.standard_normal(shape)
        x.flat[:2] = 0
        return x

    return draw


def with_ties(rows: int, classes: int) -> Callable[[Random], np.ndarray]:
    """Scores of which the first row is all alike but for its last class, ahead by 1."""

    def draw(rng: Random) -> np.ndarray:
        scores = rng.standard_normal((rows, classes))
        scores[0] = 0
        scores[0, -1] = 1
        return scores

    return draw


def labels(rows: int, classes: int) -> Callable[[Random], np.ndarray]:
    """Random classes, but the last one for the first row."""
    return lambda rng: np.append(classes - 1, rng.integers(classes, size=rows - 1))


def layer(make: Callable[[], Layer], x: Callable[[Random], np.ndarray] | None = None) -> Example:
    """An example of a layer without random numbers; one input fits those without a size."""
    return Example(lambda rng: make(), x or normal(4, 5))


def loss(make: Callable[[], Loss], x: Callable, target: Callable) -> Example:
    return Example(lambda rng: make(), x, target)


EXAMPLES: dict[type, list[Example]] = {
    Linear: [
        Example(lambda rng: Linear(5, 3, rng=rng, dtype=F64), normal(4, 5)),
        Example(lambda rng: Linear(5, 3, rng=rng, bias=False, dtype=F64), normal(4, 5)),
        Example(lambda rng: Linear(5, 3, rng=rng, dtype=F64), normal(2, 3, 5)),
    ],
    activations.Identity: [layer(activations.Identity)],
    activations.Sigmoid: [layer(activations.Sigmoid)],
    activations.Tanh: [layer(activations.Tanh)],
    activations.ReLU: [layer(activations.ReLU, with_zeros(4, 5))],
    activations.LeakyReLU: [layer(lambda: activations.LeakyReLU(0.1), with_zeros(4, 5))],
    activations.ELU: [
        layer(activations.ELU),
        layer(lambda: activations.ELU(alpha=2.0), with_zeros(4, 5)),
    ],
    activations.Softplus: [layer(activations.Softplus)],
    activations.SiLU: [layer(activations.SiLU)],
    activations.GELU: [
        layer(lambda: activations.GELU("tanh")),
        layer(lambda: activations.GELU("none")),
    ],
    Sequential: [
        Example(
            lambda rng: Sequential(Linear(5, 4, rng=rng, dtype=F64), activations.Tanh()),
            normal(4, 5),
        )
    ],
    RowParallel: [
        Example(
            lambda rng: RowParallel(
                Linear(5, 3, rng=rng, dtype=F64).replica(),
                Workers(1), cut=lambda rows: micro_batches(rows, 2),
            ),
            normal(5, 5),
        )
    ],
    MLP: [
        Example(lambda rng: MLP([3, 4, 2], "tanh", rng=rng, dtype=F64), normal(4, 3)),
        Example(lambda rng: MLP([3, 4, 3, 2], "relu", rng=rng, dtype=F64), normal(4, 3)),
    ],
    losses.SoftmaxCrossEntropy: [
        loss(losses.SoftmaxCrossEntropy, normal(6, 4), labels(6, 4)),
        loss(lambda: losses.SoftmaxCrossEntropy(0.1), normal(2, 3, 4),
             lambda rng: rng.integers(4, size=(2, 3))),
    ],
    losses.BinaryCrossEntropy: [
        loss(losses.BinaryCrossEntropy, normal(6, 1), labels(6, 2)),
        loss(losses.BinaryCrossEntropy, normal(6, 3), lambda rng: rng.random((6, 3))),
    ],
    losses.MeanSquaredError: [loss(losses.MeanSquaredError, normal(6, 3), normal(6, 3))],
    losses.MulticlassHinge: [loss(losses.MulticlassHinge, with_ties(6, 4), labels(6, 4))],
    BatchNorm1D: [
        layer(lambda: BatchNorm1D(5, dtype=F64), normal(6, 5)),
        layer(lambda: BatchNorm1D(5, dtype=F64), normal(2, 3, 5)),
    ],
    LayerNorm: [
        layer(lambda: LayerNorm(5, dtype=F64), normal(4, 5)),
        layer(lambda: LayerNorm(5, dtype=F64), normal(2, 3, 5)),
    ],
    Dropout: [Example(lambda rng: Dropout(0.4, rng=rng), normal(4, 5))],
}  # fmt: skip

ABSTRACT: dict[type, str] = {
    Layer: "the base class of all layers",
    Loss: "the base class of all losses",
    activations.Activation: "the base class of y = f(x)",
    activations.SelfGate: "the base class of y = x P(x)",
    Faulty: "wrong on purpose",
    FaultyLoss: "wrong on purpose",
    Miswritten: "wrong on purpose",
}

MISTAKES: dict[str, tuple[tuple[type, ...], Mistake]] = {}  # name: the layers that can make it

MODELS: dict[str, Model] = {
    "MLP, tanh, cross-entropy": Model(
        lambda rng: MLP([8, 7, 6, 4], "tanh", rng=rng, dtype=F64),
        losses.SoftmaxCrossEntropy(), normal(6, 8), labels(6, 4),
    ),
    "MLP, GELU, squared error": Model(
        lambda rng: MLP([8, 7, 6, 4], "gelu", rng=rng, dtype=F64),
        losses.MeanSquaredError(), normal(6, 8), normal(6, 4),
    ),
    "MLP, ReLU, hinge": Model(
        lambda rng: MLP([8, 7, 6, 4], "relu", rng=rng, dtype=F64),
        losses.MulticlassHinge(), normal(6, 8), labels(6, 4),
    ),
    "batch norm, dropout, cross-entropy": Model(
        lambda rng: fully_connected_net(
            [8, 7, 6, 4], "tanh", batchnorm=True, dropout=0.2, rng=rng, dtype=F64
        ),
        losses.SoftmaxCrossEntropy(), normal(6, 8), labels(6, 4),
    ),
}  # fmt: skip
