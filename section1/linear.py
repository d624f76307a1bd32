"""The linear layer: every output is a weighted sum of every input, plus a bias."""

from __future__ import annotations

from typing import Any

import numpy as np

from section1.initializers import initialize
from section1.layer import Layer
from section1.parameter import Parameter


class Linear(Layer):
    """y = x W + b.

    Shapes: x (N, in), W (in, out), b (out,), y (N, out). Leading axes beyond N are
    allowed: x (..., in) gives y (..., out).

    Args:
        inputs, outputs: the number of features on either side.
        rng: source of the initial weights; biases start at zero.
        init: name of an initialiser in `section1.initializers`.
        bias: whether there is a b.
        dtype: float32 or float64, of the weights; an x of a wider type is computed in that.

    Raises ValueError where x does not have `inputs` features.
    Source: Goodfellow, Bengio, Courville, Deep Learning (2016), section 6.5. Derivation:
    report.tex, eq:linear-backward.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rng: np.random.Generator,
        init: str = "he_normal",
        bias: bool = True,
        dtype: Any = np.float32,
    ):
        self.weight = Parameter(initialize(init, (inputs, outputs), rng, dtype))
        self.bias = Parameter(np.zeros(outputs, dtype)) if bias else None

    def forward(self, x: np.ndarray) -> np.ndarray:
        inputs, outputs = self.weight.value.shape
        if x.shape[-1] != inputs:
            raise ValueError(
                f"Linear({inputs}, {outputs}) expects {inputs} features, got shape {x.shape}"
            )
        rows = x.reshape(-1, inputs)  # (..., in) -> (N, in): one large product, not many small
        self.remember(rows)
        y = self.scratch("y", (len(rows), outputs), np.result_type(x, self.weight.value))
        np.matmul(rows, self.weight.value, out=y)  # (N, in) @ (in, out) -> (N, out)
        if self.bias is not None:
            y += self.bias.value
        return y.reshape(*x.shape[:-1], outputs)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        rows = self.recall()  # (N, in)
        drows = dy.reshape(-1, dy.shape[-1])  # (..., out) -> (N, out)
        self.weight.accumulate(np.matmul, rows.T, drows)  # (in, N) @ (N, out)
        if self.bias is not None:
            self.bias.accumulate(np.sum, drows, axis=0)
        if not self.input_gradient:
            return None
        dx = self.scratch("dx", rows.shape, dy.dtype)
        np.matmul(drows, self.weight.value.T, out=dx)  # (N, out) @ (out, in)
        return dx.reshape(*dy.shape[:-1], -1)
