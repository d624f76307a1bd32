"""Functions of arrays that layers and losses share: sigmoid, softmax, the normal distribution.

Each is written so that no exponential overflows where the answer itself is harmless.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Any

import numpy as np


def as_float(x: np.ndarray) -> np.ndarray:
    """float32 and float64 as they are; float16 and integers as a float type that holds them."""
    x = np.asarray(x)
    return x.astype(np.result_type(x.dtype, np.float32), copy=False)


@lru_cache(maxsize=16)
def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Read-only zeros. `np.maximum(x, zeros)` takes a third of the time of `np.maximum(x, 0)`."""
    array = np.zeros(shape, dtype)
    array.setflags(write=False)
    return array


def sigmoid(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """1 / (1 + e^-x), elementwise.

    Far below zero e^-x overflows to infinity, and 1 / (1 + inf) = 0 is the right limit.
    """
    x = as_float(x)
    y = np.empty_like(x) if out is None else out
    np.negative(x, out=y)
    with np.errstate(over="ignore"):
        np.exp(y, out=y)
    np.add(y, 1, out=y)
    return np.divide(1, y, out=y)


def softmax(x: np.ndarray) -> np.ndarray:
    """e^x_k / sum_j e^x_j along the last axis: positive numbers that sum to one.

    Adding a constant to x changes nothing, so the largest x of *each row* is subtracted
    first: then no exponential overflows, and no row has only zeros.
    """
    x = as_float(x)
    y = x - x.max(axis=-1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def normal_distribution(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """P(x) = (1 + erf(x / sqrt 2)) / 2 into `out`, to within 2e-7 (float32) or 1e-14 (float64).

    NumPy has no erf. With a = |x|, the tail P(-a) falls like e^(-a^2 / 2), and what is left,
    M(a) = P(-a) e^(a^2 / 2), is so smooth in s = 16 / (a + 4) - 3 that a short polynomial
    in s gives it; `tail_polynomial` finds it from the erfc of Python's math module.
    Source: Shepherd, Laframboise, Chebyshev approximation of (1 + 2x) exp(x^2) erfc x (1981).
    """
    s = np.abs(x)
    s += 4
    np.divide(16, s, out=s)
    s -= 3  # from 1 at a = 0 by -1 at a = 4 to -3 far out, where e^(-a^2 / 2) is zero
    first, second, *others = tail_polynomial(8 if out.dtype == np.float32 else 14)
    tail = first * s
    tail += second
    for coefficient in others:  # Horner: M = (...(c_n s + c_n-1) s + ...) s + c_0
        tail *= s
        tail += coefficient
    np.multiply(x, x, out=s)
    s *= -0.5
    tail *= np.exp(s, out=s)  # P(-a)
    np.multiply(tail, -2, out=s)
    s += 1
    np.greater(x, 0, out=out)
    out *= s
    out += tail  # P(-a) for x <= 0, and 1 - P(-a) above
    return out


@cache
def tail_polynomial(count: int) -> list[float]:
    """Coefficients of M as a polynomial in s, the highest power first: see above.

    It goes through M at `count` Chebyshev points of -1 <= s <= 1, that is of 0 <= a <= 4.
    """
    chebyshev = np.polynomial.chebyshev
    s = chebyshev.chebpts1(count)
    tail = [math.exp(a * a / 2) * math.erfc(a / math.sqrt(2)) / 2 for a in 16 / (s + 3) - 4]
    powers = chebyshev.cheb2poly(chebyshev.chebfit(s, tail, count - 1))
    return [float(coefficient) for coefficient in powers[::-1]]
