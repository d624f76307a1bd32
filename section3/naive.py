"""Convolution and pooling as they are defined: a loop for every sum, and nothing else.

Nobody trains with these. They are what the fast layers are held against, because here it is
plain to see that every index is right; and they show what the fast layers save.
"""

from __future__ import annotations

import numpy as np

from section1.functions import as_float
from section3.im2col import Pair, output_size, pad


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> np.ndarray:
    """y(n, o, f) = b(f) + sum over k, c of W(k, c, f) x(n, S o + D k - P, c).

    Shapes: x (N, H, W, C), w (KH, KW, C/G, F), b (F,), y (N, OH, OW, F).
    """
    kh, kw, c, f = w.shape
    oh, ow = output_size(x.shape[1:3], (kh, kw), stride, padding, dilation)
    x = pad(x, padding)
    y = np.zeros((len(x), oh, ow, f), np.result_type(x, w))
    for n, i, j, k in np.ndindex(*y.shape):
        first = k // (f // groups) * c  # the first channel of the group that filter k sees
        total = 0.0 if b is None else b[k]
        for di, dj, dc in np.ndindex(kh, kw, c):
            row, column = i * stride[0] + di * dilation[0], j * stride[1] + dj * dilation[1]
            total += w[di, dj, dc, k] * x[n, row, column, first + dc]
        y[n, i, j, k] = total
    return y


def conv2d_backward(
    dy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dw and db: the loops of `conv2d`, where each product sends dy back to both factors."""
    kh, kw, c, f = w.shape
    (ph, pw), (_, h, width, _) = padding, x.shape
    x = pad(as_float(x), padding)
    dx, dw, db = np.zeros_like(x), np.zeros_like(w), np.zeros(f, w.dtype)
    for n, i, j, k in np.ndindex(*dy.shape):
        first = k // (f // groups) * c
        slope = dy[n, i, j, k]
        db[k] += slope
        for di, dj, dc in np.ndindex(kh, kw, c):
            row, column = i * stride[0] + di * dilation[0], j * stride[1] + dj * dilation[1]
            dw[di, dj, dc, k] += slope * x[n, row, column, first + dc]
            dx[n, row, column, first + dc] += slope * w[di, dj, dc, k]
    return dx[:, ph : ph + h, pw : pw + width], dw, db


def conv_transpose2d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    output_padding: Pair = (0, 0),
) -> np.ndarray:
    """y(n, S u + k - P, f) = b(f) + sum over u, k, c of W(k, c, f) x(n, u, c).

    Shapes: x (N, H, W, C), w (KH, KW, C, F), b (F,), y (N, OH, OW, F).
    """
    (kh, kw, _, f), (n_images, h, width, _) = w.shape, x.shape
    (sh, sw), (ph, pw) = stride, padding
    full = sh * (h - 1) + kh + output_padding[0], sw * (width - 1) + kw + output_padding[1]
    y = np.zeros((n_images, *full, f), np.result_type(x, w))
    for n, i, j, c in np.ndindex(*x.shape):
        for di, dj, k in np.ndindex(kh, kw, f):
            y[n, sh * i + di, sw * j + dj, k] += w[di, dj, c, k] * x[n, i, j, c]
    y = y[:, ph : full[0] - ph, pw : full[1] - pw]
    return y if b is None else y + b


def conv_transpose2d_backward(
    dy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dw and db: the loops of `conv_transpose2d`, each product sending dy to both factors."""
    (kh, kw, _, f), (sh, sw) = w.shape, stride
    x = as_float(x)
    db = np.array([dy[..., k].sum() for k in range(f)])
    dy = pad(dy, padding)
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for n, i, j, c in np.ndindex(*x.shape):
        for di, dj, k in np.ndindex(kh, kw, f):
            slope = dy[n, sh * i + di, sw * j + dj, k]
            dx[n, i, j, c] += slope * w[di, dj, c, k]
            dw[di, dj, c, k] += slope * x[n, i, j, c]
    return dx, dw, db


def max_pool2d(
    x: np.ndarray, kernel: Pair, *, stride: Pair, padding: Pair = (0, 0)
) -> tuple[np.ndarray, np.ndarray]:
    """The largest element of each window, y (N, OH, OW, C), and which it was, 0 to KH*KW - 1.

    Of several that are equal it is the first, row by row. Padding counts as -infinity.
    """
    oh, ow = output_size(x.shape[1:3], kernel, stride, padding, (1, 1))
    x = pad(as_float(x), padding, -np.inf)
    y = np.full((len(x), oh, ow, x.shape[3]), -np.inf, x.dtype)
    winner = np.zeros(y.shape, int)
    for n, i, j, c in np.ndindex(*y.shape):
        for place, (di, dj) in enumerate(np.ndindex(*kernel)):
            element = x[n, i * stride[0] + di, j * stride[1] + dj, c]
            if element > y[n, i, j, c]:
                y[n, i, j, c], winner[n, i, j, c] = element, place
    return y, winner


def max_pool2d_backward(
    dy: np.ndarray,
    winner: np.ndarray,
    shape: tuple[int, ...],
    kernel: Pair,
    *,
    stride: Pair,
    padding: Pair = (0, 0),
) -> np.ndarray:
    """dx of `shape` (N, H, W, C): every dy goes to the winner of its window."""
    n_images, h, w, channels = shape
    dx = np.zeros((n_images, h + 2 * padding[0], w + 2 * padding[1], channels), dy.dtype)
    for n, i, j, c in np.ndindex(*dy.shape):
        di, dj = divmod(winner[n, i, j, c], kernel[1])
        dx[n, i * stride[0] + di, j * stride[1] + dj, c] += dy[n, i, j, c]
    return dx[:, padding[0] : padding[0] + h, padding[1] : padding[1] + w]


def avg_pool2d(x: np.ndarray, kernel: Pair, *, stride: Pair, padding: Pair = (0, 0)) -> np.ndarray:
    """The mean of each window, y (N, OH, OW, C). Padding counts as zeros."""
    oh, ow = output_size(x.shape[1:3], kernel, stride, padding, (1, 1))
    x = pad(as_float(x), padding)
    y = np.zeros((len(x), oh, ow, x.shape[3]), x.dtype)
    for n, i, j, c in np.ndindex(*y.shape):
        for di, dj in np.ndindex(*kernel):
            y[n, i, j, c] += x[n, i * stride[0] + di, j * stride[1] + dj, c]
        y[n, i, j, c] /= kernel[0] * kernel[1]
    return y


def avg_pool2d_backward(
    dy: np.ndarray,
    shape: tuple[int, ...],
    kernel: Pair,
    *,
    stride: Pair,
    padding: Pair = (0, 0),
) -> np.ndarray:
    """dx of `shape` (N, H, W, C): every dy is shared out evenly over its window."""
    n_images, h, w, channels = shape
    dx = np.zeros((n_images, h + 2 * padding[0], w + 2 * padding[1], channels), dy.dtype)
    for n, i, j, c in np.ndindex(*dy.shape):
        for di, dj in np.ndindex(*kernel):
            share = dy[n, i, j, c] / (kernel[0] * kernel[1])
            dx[n, i * stride[0] + di, j * stride[1] + dj, c] += share
    return dx[:, padding[0] : padding[0] + h, padding[1] : padding[1] + w]
