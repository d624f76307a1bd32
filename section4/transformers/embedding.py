"""Tokens as vectors, and where in the text they stand.

A token is a number without a size: 7 is not between 6 and 8. So each gets a vector of its own,
a row of a table, which training moves. Attention looks at a set of such vectors and knows no
order; the order has to be written into them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from section1.layer import Layer
from section1.parameter import Parameter

STD = 0.02  # of the initial weights, as in GPT-2


class Embedding(Layer):
    """y = W[x]: row x of a table W.

    That is a one-hot vector times W, without the product. Backward: dW[k] is the sum of dy over
    all places where x is k; sorted by x they stand side by side. Tokens have no slope: dx is None.

    Shapes: x (...,) integers from 0 to V - 1, W (V, D), y (..., D).

    Raises ValueError for other numbers.
    Source: Bengio, Ducharme, Vincent, Jauvin, A neural probabilistic language model (2003).
    Derivation: report.tex, eq:embedding-backward.
    """

    def __init__(
        self, vocabulary: int, width: int, *, rng: np.random.Generator, dtype: Any = np.float32
    ):
        weight = STD * rng.standard_normal((vocabulary, width))
        self.weight = Parameter(weight.astype(dtype, copy=False))

    def forward(self, x: np.ndarray) -> np.ndarray:
        vocabulary, width = self.weight.value.shape
        if x.dtype.kind not in "iu":
            raise ValueError(f"Embedding expects integers, got an array of {x.dtype}")
        if x.size and not (x.min() >= 0 and x.max() < vocabulary):
            raise ValueError(
                f"Embedding({vocabulary}, {width}) expects numbers from 0 to {vocabulary - 1}, got "
                f"values from {x.min()} to {x.max()}"
            )
        self.remember(x)
        y = self.scratch("y", (*x.shape, width), self.weight.value.dtype)
        return np.take(self.weight.value, x, axis=0, out=y, mode="clip")  # "raise" would copy

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        x = self.recall().reshape(-1)  # (...,) -> (N,)
        order = np.argsort(x, kind="stable")
        found, starts = np.unique(x[order], return_index=True)
        rows = dy.reshape(len(x), -1)[order]  # (..., D) -> (N, D)
        self.weight.grad[found] += np.add.reduceat(rows, starts, axis=0)
        return None


class Unembedding(Layer):
    """y = x W^T: for every token, how well its row of W agrees with x.

    Given the table of an `Embedding`, the two share it ("weight tying"), and both add to its
    gradient. Shapes: x (..., D), W (V, D), y (..., V).
    Source: Press, Wolf, Using the output embedding to improve language models, arXiv:1608.05859.
    """

    def __init__(self, weight: Parameter):
        self.weight = weight

    def forward(self, x: np.ndarray) -> np.ndarray:
        vocabulary, width = self.weight.value.shape
        rows = x.reshape(-1, width)  # (..., D) -> (N, D)
        self.remember(rows)
        y = self.scratch("y", (len(rows), vocabulary), np.result_type(x, self.weight.value))
        np.matmul(rows, self.weight.value.T, out=y)  # (N, D) @ (D, V)
        return y.reshape(*x.shape[:-1], vocabulary)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        rows = self.recall()
        drows = dy.reshape(len(rows), -1)  # (..., V) -> (N, V)
        self.weight.accumulate(np.matmul, drows.T, rows)  # (V, N) @ (N, D)
        dx = self.scratch("dx", rows.shape, dy.dtype)
        np.matmul(drows, self.weight.value, out=dx)  # (N, V) @ (V, D)
        return dx.reshape(*dy.shape[:-1], -1)


# --- positions --------------------------------------------------------------------------------


class LearnedPositions(Layer):
    """y = x + P[:T]: a vector for each place, learnt like those of the tokens.

    Shapes: x (N, T, D), P (context, D), y (N, T, D).
    Raises ValueError for a text longer than `context`.
    Source: Gehring et al., Convolutional sequence to sequence learning, arXiv:1705.03122.
    """

    def __init__(
        self, context: int, width: int, *, rng: np.random.Generator, dtype: Any = np.float32
    ):
        weight = STD * rng.standard_normal((context, width))
        self.weight = Parameter(weight.astype(dtype, copy=False))

    def forward(self, x: np.ndarray) -> np.ndarray:
        return added(self, x, self.weight.value)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        self.weight.grad[: dy.shape[1]] += dy.sum(axis=0)
        return dy


class SinusoidalPositions(Layer):
    """y = x + s P[:T], with P of `sinusoids` and s such that P is as large as new embeddings.

    Shapes and errors: those of `LearnedPositions`.
    """

    def __init__(self, context: int, width: int, *, dtype: Any = np.float32):
        self.table = (STD * np.sqrt(2) * sinusoids(context, width)).astype(dtype)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return added(self, x, self.table)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        return dy


def added(layer: Layer, x: np.ndarray, table: np.ndarray) -> np.ndarray:
    tokens, context = x.shape[1], len(table)
    if tokens > context:
        raise ValueError(f"a text of {tokens} tokens does not fit into a context of {context}")
    y = layer.scratch("y", x.shape, np.result_type(x, table))
    return np.add(x, table[:tokens], out=y)


def sinusoids(context: int, width: int) -> np.ndarray:
    """P (context, D): sine and cosine of the position at D/2 speeds, from 1 to 1/10000.

    P[t, 2i] = sin(t / 10000^(2i / D)) and P[t, 2i + 1] = cos(the same). The vector of place
    t + k is that of t turned by an angle that depends on k alone.
    Source: Vaswani et al., Attention is all you need, arXiv:1706.03762, section 3.5.
    """
    angles = np.arange(context)[:, None] * speeds(width)  # (context, D/2)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(context, width)


def speeds(width: int) -> np.ndarray:
    """10000^(-2i / D) for i from 0 to D/2 - 1. Raises ValueError for an odd D."""
    if width % 2:
        raise ValueError(f"sines and cosines come in pairs: the width must be even, got {width}")
    return 10_000.0 ** (-np.arange(0, width, 2) / width)


def rotate(x: np.ndarray, backward: bool = False) -> np.ndarray:
    """Turn x at place t by the angles t / 10000^(2i / d): rotary positions.

    The pairs that are turned are x[i] and x[i + d/2]. A product of a query and a key that were
    both turned depends on how far apart they stand, and not on where. A rotation is undone by
    the opposite one, and that is also its backward pass.

    Shapes: x (..., T, d) and what is returned.
    Source: Su et al., RoFormer, arXiv:2104.09864.
    """
    tokens, size = x.shape[-2:]
    cos, sin = turns(tokens, size, x.dtype)  # (T, d/2) each
    if backward:
        sin = -sin
    a, b = x[..., : size // 2], x[..., size // 2 :]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


@lru_cache(maxsize=16)
def turns(tokens: int, size: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    angles = np.arange(tokens)[:, None] * speeds(size)  # (T, d/2)
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
