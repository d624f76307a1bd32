"""Batch normalisation: every feature gets mean 0 and variance 1 over the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from section1.layer import Layer
from section1.parameter import Parameter


class BatchNorm1D(Layer):
    """y = gamma x^ + beta, with x^ = (x - mean) / sqrt(var + eps), feature by feature.

    Mean and variance are taken over the batch in training. In evaluation they are running
    averages, kept as r <- (1 - momentum) r + momentum (that of the batch), the variance with
    n - 1 in place of n.

    Backward, the short form: as x moves, mean and variance move too, so of x^'s slope
    dx^ = gamma dy only what neither of them can follow arrives at x:
        dx = (dx^ - mean(dx^) - x^ mean(dx^ x^)) / sqrt(var + eps)

    Shapes: x (N, C), gamma and beta (C,), y (N, C). Leading axes beyond N are allowed and
    count as batch: x (..., C).

    Raises ValueError for another number of features, and in training for a single row,
    which has no variance.
    Sources: Ioffe, Szegedy, Batch normalization, arXiv:1502.03167; the short backward is
    from the notes of the Stanford course CS231n.
    """

    whole_batch = True

    def __init__(
        self, features: int, *, momentum: float = 0.1, eps: float = 1e-5, dtype: Any = np.float32
    ):
        self.gamma = Parameter(np.ones(features, dtype))
        self.beta = Parameter(np.zeros(features, dtype))
        self.running_mean = np.zeros(features, dtype)
        self.running_var = np.ones(features, dtype)
        self.momentum, self.eps = momentum, eps

    def buffers(self) -> list[np.ndarray]:
        return [self.running_mean, self.running_var]

    def forward(self, x: np.ndarray) -> np.ndarray:
        features = len(self.gamma.value)
        if x.shape[-1] != features:
            raise ValueError(
                f"{type(self).__name__}({features}) expects {features} features, "
                f"got input of shape {x.shape}"
            )
        rows = x.reshape(-1, features)  # (..., C) -> (N, C)
        y = self.scratch("y", rows.shape, np.result_type(x, self.gamma.value))
        if not self.training:
            scale = self.gamma.value / np.sqrt(self.running_var + self.eps)
            np.multiply(rows, scale, out=y)
            y += self.beta.value - self.running_mean * scale
            return y.reshape(x.shape)

        n = len(rows)
        if n < 2:
            raise ValueError(f"batch norm needs two rows or more to train, got shape {x.shape}")
        mean = rows.mean(axis=0)
        normal = np.subtract(rows, mean, out=self.scratch("normal", y.shape, y.dtype))
        var = np.einsum("nc,nc->c", normal, normal) / n
        inverse = 1 / np.sqrt(var + self.eps)
        normal *= inverse  # x^
        self.remember(normal, inverse)
        for running, now in ((self.running_mean, mean), (self.running_var, var * (n / (n - 1)))):
            running *= 1 - self.momentum
            running += self.momentum * now
        np.multiply(normal, self.gamma.value, out=y)
        y += self.beta.value
        return y.reshape(x.shape)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        normal, inverse = self.recall()
        rows = dy.reshape(normal.shape)  # (..., C) -> (N, C)
        dgamma = np.einsum("nc,nc->c", rows, normal)
        dbeta = rows.sum(axis=0)
        self.gamma.grad += dgamma
        self.beta.grad += dbeta
        if not self.input_gradient:
            return None
        n = len(rows)
        dx = np.multiply(normal, dgamma / -n, out=self.scratch("dx", rows.shape, normal.dtype))
        dx += rows
        dx -= dbeta / n
        dx *= self.gamma.value * inverse
        return dx.reshape(dy.shape)
