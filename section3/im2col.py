"""im2col: the windows that a convolution looks at, laid out as rows of a matrix.

A filter is a dot product with a window, and many dot products at once are a matrix
product. So the windows are copied next to each other, once, and all the arithmetic is left
to the fastest routine that a computer has. `col2im` is the transpose of that copy: it adds
every element of every window back to the pixel that it came from.

Letters: N images, C channels, H x W pixels; a window is KH x KW, there are OH x OW of them.
Source: Chellapilla, Puri, Simard, High performance convolutional neural networks for
document processing (2006). Derivation: report.tex, eq:convolution-gemm, eq:col2im.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

Pair = tuple[int, int]


def pair(value: int | Pair, name: str, least: int = 1) -> Pair:
    """(rows, columns) from one number for both or from two.

    Raises ValueError for anything but whole numbers of at least `least`.
    """
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(isinstance(k, (int, np.integer)) and k >= least for k in both):
        raise ValueError(
            f"{name} must be one or two whole numbers of at least {least}, got {value}"
        )
    return int(both[0]), int(both[1])


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """(OH, OW) for an input of `size` (H, W): (H + 2 P - D (K - 1) - 1) // S + 1 each way.

    Raises ValueError where not even one window fits.
    """
    oh, ow = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation)
    )
    if oh < 1 or ow < 1:
        spread = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
        padded = [n + 2 * p for n, p in zip(size, padding)]
        raise ValueError(
            f"a window of {spread[0]}x{spread[1]} does not fit into an input of "
            f"{size[0]}x{size[1]} padded to {padded[0]}x{padded[1]}"
        )
    return oh, ow


def pad(
    x: np.ndarray, padding: Pair, value: float = 0, out: np.ndarray | None = None
) -> np.ndarray:
    """x (N, H, W, C) with PH rows and PW columns of `value` around each image; a copy.

    Negative numbers cut off rows and columns instead.
    """
    (n, h, w, c), (ph, pw) = x.shape, padding
    if out is None:
        out = np.empty((n, h + 2 * ph, w + 2 * pw, c), x.dtype)
    out.fill(value)
    top, left = max(ph, 0), max(pw, 0)
    cut_h, cut_w = max(-ph, 0), max(-pw, 0)
    inner = x[:, cut_h : h - cut_h, cut_w : w - cut_w]
    out[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
    return out


def windows(
    x: np.ndarray, kernel: Pair, stride: Pair = (1, 1), dilation: Pair = (1, 1)
) -> np.ndarray:
    """A view (N, OH, OW, KH, KW, ...) of x (N, H, W, ...): each window, without copying any.

    Moving to the next window and moving inside one are both steps through the same memory,
    so all that changes is how far a step goes. Neighbouring windows share their elements:
    the view must not be written to.
    """
    n, h, w, *rest = x.shape
    oh, ow = output_size((h, w), kernel, stride, (0, 0), dilation)
    image, row, column, *inner = x.strides
    return as_strided(
        x,
        (n, oh, ow, *kernel, *rest),
        (
            image, row * stride[0], column * stride[1],
            row * dilation[0], column * dilation[1], *inner,
        ),
        writeable=False,
    )  # fmt: skip


def im2col(
    x: np.ndarray,
    kernel: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> np.ndarray:
    """The windows of x (N, H, W, C) as rows: (N*OH*OW, KH*KW*C), of the dtype of x."""
    view = windows(pad(x, padding), kernel, stride, dilation)
    n, oh, ow, kh, kw, c = view.shape
    return view.reshape(n * oh * ow, kh * kw * c)


def col2im(
    columns: np.ndarray,
    shape: tuple[int, ...],
    kernel: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> np.ndarray:
    """The transpose of im2col: from (N*OH*OW, KH*KW*C) to x of `shape` (N, H, W, C).

    A pixel that lay in several windows gets the sum. One addition of whole arrays for each
    of the KH*KW places in a window; windows overlap, but one place of all of them never does.
    """
    n, h, w, c = shape
    oh, ow = output_size((h, w), kernel, stride, padding, dilation)
    parts = columns.reshape(n, oh, ow, *kernel, c)
    (ph, pw), (sh, sw), (dh, dw) = padding, stride, dilation
    x = np.zeros((n, h + 2 * ph, w + 2 * pw, c), columns.dtype)
    for i, j in np.ndindex(*kernel):
        top, left = i * dh, j * dw
        x[:, top : top + sh * oh : sh, left : left + sw * ow : sw] += parts[:, :, :, i, j]
    return x[:, ph : ph + h, pw : pw + w]
