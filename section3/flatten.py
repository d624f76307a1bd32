"""From images to vectors, between the convolutions and the linear layers."""

from __future__ import annotations

import math

import numpy as np

from section1.layer import Layer


class Flatten(Layer):
    """y = x with all axes but the first made one: (N, H, W, C) -> (N, H*W*C). No copy."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.remember(x.shape)
        return x.reshape(len(x), math.prod(x.shape[1:]))

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy.reshape(self.recall())
