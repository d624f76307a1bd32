"""The multilayer perceptron: linear layers with a bend between one and the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from section1.activations import activation as new_activation
from section1.layer import Layer
from section1.linear import Linear
from section1.network import Sequential


class MLP(Sequential):
    """Linear, activation, Linear, ..., Linear; nothing after the last, which gives logits.

    Args:
        sizes: features from the input to the output, such as (784, 128, 10).
        activation: a name from `section1.activations` or a layer, for every hidden layer;
            or a list of them, one for each.
        init: name of an initialiser in `section1.initializers`.
        rng: source of the initial weights.
        dtype: float32 or float64.

    Raises ValueError for fewer than two sizes, a size below one, or a list of activations
    that is not as long as there are hidden layers.
    Source: Rumelhart, Hinton, Williams (1986). Derivation: report.tex, eq:mlp-backward.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str | Layer | Sequence[str | Layer] = "relu",
        init: str = "he_normal",
        *,
        rng: np.random.Generator,
        dtype: Any = np.float32,
    ):
        sizes = list(sizes)
        if len(sizes) < 2:
            raise ValueError(f"MLP needs two sizes or more, the input's and the output's: {sizes}")
        if not all(isinstance(size, (int, np.integer)) and size > 0 for size in sizes):
            raise ValueError(f"MLP needs sizes that are whole numbers of at least 1, got {sizes}")
        hidden = len(sizes) - 2
        if isinstance(activation, (str, Layer)):
            activation = [activation] * hidden
        if len(activation) != hidden:
            raise ValueError(
                f"MLP({sizes}) needs one activation for each of its {hidden} hidden layers, "
                f"got {len(activation)}"
            )
        layers: list[Layer] = []
        for inputs, outputs, bend in zip(sizes, sizes[1:], [*activation, None]):
            layers.append(Linear(inputs, outputs, rng=rng, init=init, dtype=dtype))
            if bend is not None:
                layers.append(new_activation(bend))
        super().__init__(*layers)
