"""Batch normalisation: every feature gets mean 0 and variance 1 over the batch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from section1.functions import as_float
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
    from the notes of the Stanford course CS231n. Both derivations: report.tex,
    eq:batchnorm-backward.
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
        x = as_float(x)
        lines = self._lines(x)  # (L, W*C)
        y = self.scratch("y", lines.shape, np.result_type(x, self.gamma.value))
        spread = partial(np.tile, reps=lines.shape[1] // features)  # (C,) -> (W*C,)
        if not self.training:
            scale = self.gamma.value / np.sqrt(self.running_var + self.eps)
            np.multiply(lines, spread(scale), out=y)
            y += spread(self.beta.value - self.running_mean * scale)
            return y.reshape(x.shape)

        n = lines.size // features
        if n < 2:
            raise ValueError(f"batch norm needs two rows or more to train, got shape {x.shape}")
        mean = self._sum(lines) / n
        normal = np.subtract(lines, spread(mean), out=self.scratch("normal", y.shape, y.dtype))
        var = self._sum(normal, normal) / n
        inverse = 1 / np.sqrt(var + self.eps)
        normal *= spread(inverse)  # x^
        self.remember(normal, inverse)
        for running, now in ((self.running_mean, mean), (self.running_var, var * (n / (n - 1)))):
            running *= 1 - self.momentum
            running += self.momentum * now
        np.multiply(normal, spread(self.gamma.value), out=y)
        y += spread(self.beta.value)
        return y.reshape(x.shape)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        normal, inverse = self.recall()  # (L, W*C), (C,)
        lines = dy.reshape(normal.shape)
        dgamma, dbeta = self._sum(lines, normal), self._sum(lines)
        self.gamma.grad += dgamma
        self.beta.grad += dbeta
        if not self.input_gradient:
            return None
        n = lines.size // len(dbeta)
        spread = partial(np.tile, reps=lines.shape[1] // len(dbeta))  # (C,) -> (W*C,)
        dx = self.scratch("dx", lines.shape, normal.dtype)
        np.multiply(normal, spread(dgamma / -n), out=dx)
        dx += lines
        dx -= spread(dbeta / n)
        dx *= spread(self.gamma.value * inverse)
        return dx.reshape(dy.shape)

    def _lines(self, x: np.ndarray) -> np.ndarray:
        """(..., W, C) -> (L, W*C), as a few long rows are faster than many; (N, C) as it is."""
        return x.reshape(-1, math.prod(x.shape[-2:] if x.ndim > 2 else x.shape[-1:]))

    def _sum(self, lines: np.ndarray, factor: np.ndarray | None = None) -> np.ndarray:
        """The sum over all rows, (L, W*C) -> (C,), of `lines` or of its product with `factor`."""
        if factor is None:
            sums = np.ones(len(lines), lines.dtype) @ lines  # np.sum along axis 0 is slower
        else:
            sums = np.einsum("lk,lk->k", lines, factor)
        return sums.reshape(-1, len(self.gamma.value)).sum(axis=0)  # (W*C,) -> (W, C) -> (C,)
