"""From images to vectors and back, between the convolutions and the linear layers."""

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


class Unflatten(Layer):
    """y = x with its second axis made into those of an image: (N, H*W*C) -> (N, H, W, C). No copy.

    Raises ValueError for an x that does not have H*W*C features.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def forward(self, x: np.ndarray) -> np.ndarray:
        if x.ndim != 2 or x.shape[1] != math.prod(self.shape):
            raise ValueError(
                f"Unflatten to {self.shape} expects (N, {math.prod(self.shape)}), "
                f"got shape {x.shape}"
            )
        self.remember(x.shape)
        return x.reshape(-1, *self.shape)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy.reshape(self.recall())
