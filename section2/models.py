"""The network of this section: fully connected, with normalisation and dropout to choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from section1.activations import activation as new_activation
from section1.layer import Layer
from section1.linear import Linear
from section1.network import Sequential
from section2.batchnorm import BatchNorm1D
from section2.dropout import Dropout


def fully_connected_net(
    sizes: Sequence[int],
    activation: str | Layer = "relu",
    *,
    batchnorm: bool = False,
    dropout: float = 0.0,
    init: str = "he_normal",
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> Sequential:
    """(Linear, batch norm, activation, dropout) for each hidden layer, then a Linear.

    A Linear before batch norm has no bias, which the mean would take out again. Without
    batch norm and dropout the network is `section1.mlp.MLP`, weight for weight.

    Args:
        sizes: features from the input to the output, such as (784, 128, 10).
        dropout: chance that a hidden unit is dropped; 0 for no dropout.
        rng: source of the initial weights and of the seeds for dropout.

    Raises ValueError for fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError(
            f"a network needs two sizes or more, the input's and the output's: {sizes}"
        )
    layers: list[Layer] = []
    for inputs, outputs in zip(sizes, sizes[1:-1]):
        layers.append(Linear(inputs, outputs, rng=rng, init=init, bias=not batchnorm, dtype=dtype))
        if batchnorm:
            layers.append(BatchNorm1D(outputs, dtype=dtype))
        layers.append(new_activation(activation))
        if dropout:
            layers.append(Dropout(dropout, rng=rng))
    layers.append(Linear(sizes[-2], sizes[-1], rng=rng, init=init, dtype=dtype))
    return Sequential(*layers)
