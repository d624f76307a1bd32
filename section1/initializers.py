"""Initial weights: random enough to differ, scaled so that signals neither die nor explode.

Units that start alike get the same gradient and stay alike for ever, so weights start at
random. A unit that sums `fan_in` inputs multiplies their variance by fan_in * var(w), layer
after layer: Xavier chooses var(w) so that this comes to about one, He to two, for ReLU drops
half the signal (report.tex, eq:initializers).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Shape = tuple[int, ...]


def fans(shape: Shape) -> tuple[int, int]:
    """How many inputs an output sums (fan_in), and how many outputs an input feeds (fan_out).

    Linear (in, out): in and out. Conv2D (KH, KW, C/groups, F): KH*KW*C/groups and KH*KW*F
    (as PyTorch counts; with groups an input feeds but a share of these outputs).
    """
    if len(shape) < 2:
        raise ValueError(f"fan-in and fan-out need a shape of two axes or more, got {shape}")
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def zeros(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """All zeros: for biases, and to see why weights must not start so."""
    return np.zeros(shape)


def normal(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Normal, standard deviation 0.01. Source: Krizhevsky et al., ImageNet (2012)."""
    return 0.01 * rng.standard_normal(shape)


def xavier_uniform(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Uniform, variance 2 / (fan_in + fan_out), between forward and backward; for tanh.

    Source: Glorot, Bengio, Understanding the difficulty of training deep feedforward
    neural networks (2010).
    """
    fan_in, fan_out = fans(shape)
    return uniform(shape, rng, variance=2 / (fan_in + fan_out))


def xavier_normal(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Normal, variance 2 / (fan_in + fan_out). Source: Glorot, Bengio (2010)."""
    fan_in, fan_out = fans(shape)
    return math.sqrt(2 / (fan_in + fan_out)) * rng.standard_normal(shape)


def he_uniform(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Uniform, variance 2 / fan_in. Source: He et al., arXiv:1502.01852."""
    fan_in, _ = fans(shape)
    return uniform(shape, rng, variance=2 / fan_in)


def he_normal(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Normal, variance 2 / fan_in: twice the plain recipe, as ReLU drops half the signal.

    Source: He, Zhang, Ren, Sun, Delving deep into rectifiers, arXiv:1502.01852.
    """
    fan_in, _ = fans(shape)
    return math.sqrt(2 / fan_in) * rng.standard_normal(shape)


def orthogonal(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """A random rotation: rows or columns, whichever are fewer, are orthonormal.

    A kernel (KH, KW, C, F) is one matrix (KH*KW*C, F).
    Source: Saxe, McClelland, Ganguli, Exact solutions to the nonlinear dynamics of
    learning in deep linear neural networks, arXiv:1312.6120.
    """
    rows, _ = fans(shape)
    columns = shape[-1]
    tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q *= np.where(np.diag(r) < 0, -1, 1)  # else QR prefers some rotations (Mezzadri 2007)
    return (q if rows >= columns else q.T).reshape(shape)  # (rows, columns) -> shape


def uniform(shape: Shape, rng: np.random.Generator, variance: float) -> np.ndarray:
    """Uniform on (-b, b), whose variance is b^2 / 3."""
    bound = math.sqrt(3 * variance)
    return rng.uniform(-bound, bound, shape)


INITIALIZERS: dict[str, Callable[[Shape, np.random.Generator], np.ndarray]] = {
    "zeros": zeros,
    "normal": normal,
    "xavier_uniform": xavier_uniform,
    "xavier_normal": xavier_normal,
    "he_uniform": he_uniform,
    "he_normal": he_normal,
    "orthogonal": orthogonal,
}


def initialize(
    name: str, shape: Shape, rng: np.random.Generator, dtype: Any = np.float32
) -> np.ndarray:
    """Initial weights of that shape, by the recipe of that name.

    They are drawn in float64 and then rounded, so a float32 and a float64 network of one
    seed start from the same weights. Raises ValueError for an unknown name.
    """
    if name not in INITIALIZERS:
        raise ValueError(f"unknown initializer {name!r}; known are {', '.join(INITIALIZERS)}")
    return INITIALIZERS[name](tuple(shape), rng).astype(dtype, copy=False)
