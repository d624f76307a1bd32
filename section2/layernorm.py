"""Layer normalisation: every row gets mean 0 and variance 1 over its own features."""

from __future__ import annotations

from typing import Any

import numpy as np

from section1.functions import as_float
from section1.layer import Layer
from section1.parameter import Parameter


class LayerNorm(Layer):
    """y = gamma x^ + beta, with x^ = (x - mean) / sqrt(var + eps) over the last axis.

    Rows do not depend on each other, so it works the same in training and evaluation and
    for a single row. Backward is that of batch norm with rows and features exchanged, but
    gamma stays inside the means: with dx^ = gamma dy,
        dx = (dx^ - mean(dx^) - x^ mean(dx^ x^)) / sqrt(var + eps)

    Shapes: x (..., D), gamma and beta (D,), y (..., D).
    Raises ValueError for another number of features.
    Source: Ba, Kiros, Hinton, Layer normalization, arXiv:1607.06450. Derivation: report.tex,
    eq:layernorm-backward.
    """

    def __init__(self, features: int, *, eps: float = 1e-5, dtype: Any = np.float32):
        self.gamma = Parameter(np.ones(features, dtype))
        self.beta = Parameter(np.zeros(features, dtype))
        self.eps = eps

    def forward(self, x: np.ndarray) -> np.ndarray:
        features = len(self.gamma.value)
        if x.shape[-1] != features:
            raise ValueError(
                f"LayerNorm({features}) expects {features} features, got input of shape {x.shape}"
            )
        x = as_float(x)
        rows = x.reshape(-1, features)  # (..., D) -> (N, D)
        y = self.scratch("y", rows.shape, np.result_type(x, self.gamma.value))
        normal = self.scratch("normal", y.shape, y.dtype)
        mean = np.einsum("nd->n", rows)[:, None] / features  # (N, 1), faster than np.mean
        np.subtract(rows, mean, out=normal)
        var = np.einsum("nd,nd->n", normal, normal)[:, None] / features  # (N, 1)
        inverse = 1 / np.sqrt(var + self.eps)
        normal *= inverse  # x^
        self.remember(normal, inverse)
        np.multiply(normal, self.gamma.value, out=y)
        y += self.beta.value
        return y.reshape(x.shape)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        normal, inverse = self.recall()
        n, features = normal.shape
        rows = dy.reshape(n, features)  # (..., D) -> (N, D)
        product = self.workspace("product", rows.shape, normal.dtype)
        np.multiply(rows, normal, out=product)
        self.gamma.accumulate(np.sum, product, axis=0)
        self.beta.accumulate(np.sum, rows, axis=0)
        if not self.input_gradient:
            return None
        gamma = self.gamma.value
        share = gamma[:, None] / features  # (D, 1): of a feature in the means
        along = product @ share  # mean(dx^ x^): (N, D) @ (D, 1)
        dx = np.multiply(rows, gamma, out=self.scratch("dx", rows.shape, normal.dtype))
        dx -= rows @ share  # mean(dx^)
        dx -= np.multiply(normal, along, out=product)
        dx *= inverse
        return dx.reshape(dy.shape)
