"""Composition: a network is a list of layers, and the chain rule is a loop."""

from __future__ import annotations

import numpy as np

from section1.layer import Layer


def chain_rule(dy: np.ndarray, *layers: Layer) -> np.ndarray:
    """dL/dx from dL/dy, back through `layers`, of which the last to compute comes first."""
    for layer in layers:
        gradient = layer.backward(dy)
        assert gradient is not None, f"{type(layer).__name__} passes no gradient on"
        dy = gradient
    return dy


class Sequential(Layer):
    """y = f_n(... f_2(f_1(x))).

    Backward is the chain rule from the last layer to the first:
    dL/dx = J_1^T J_2^T ... J_n^T dL/dy, never forming a Jacobian J (report.tex, eq:chain-rule).
    """

    def __init__(self, *layers: Layer):
        self.layers = list(layers)

    def forward(self, x: np.ndarray) -> np.ndarray:
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        for layer in reversed(self.layers):
            gradient = layer.backward(dy)
            if gradient is None:  # nothing before this layer has anything to learn
                return None
            dy = gradient
        return dy

    def skip_input_gradient(self) -> None:
        """No dx for the layers up to the first one that has parameters, inclusive."""
        for layer in self.layers:
            layer.skip_input_gradient()
            if layer.parameters():
                break

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)
