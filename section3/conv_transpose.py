"""The transposed convolution: a convolution run backwards, which makes images larger.

Where a convolution gathers a window into one number, this layer spreads one pixel over a window;
where windows overlap, they add up. So it is the backward pass of a `Conv2D` of stride S, used
forward, and its backward pass is that convolution's forward: with the same W for both,

    forward             y = col2im(x W^T)
    backward, input     dx = columns(dy) W
    backward, weights   dW = columns(dy)^T x

Derivation: report.tex, eq:transposed-convolution-backward.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from section1.functions import as_float
from section1.initializers import initialize
from section1.layer import Layer
from section1.parameter import Parameter
from section3.conv import add_bias, slices
from section3.im2col import Pair, col2im, pad, pair, windows


class ConvTranspose2D(Layer):
    """y(n, S u + k - P, f) = b(f) + sum over u, k, c of W(k, c, f) x(n, u, c).

    Here u and k run over rows and columns, S is the stride, and P is cut off all around. The rows
    that no window need reach are the "output padding" OP: a convolution of stride S makes the
    same OH of several sizes H, and OP says which of them is meant.

    Shapes: x (N, H, W, C), W (KH, KW, C, F), b (F,), y (N, OH, OW, F), with
    OH = S (H - 1) + KH - 2 P + OP, and OW alike.

    Args:
        channels, filters: C and F.
        kernel, stride, padding, output_padding: one number, or one for rows and one for columns.
        rng: source of the initial weights; biases start at zero.
        init: name of an initialiser in `section1.initializers`. Its weights are taken
            sqrt(SH SW) times as large: an output sums not KH KW C inputs but, on average, only
            KH KW C / (SH SW).
        bias: whether there is a b.
        dtype: float32 or float64, of the weights; an x of a wider type is computed in that.

    Raises ValueError for settings out of range, for an output padding that is not below the
    stride, for an x without C channels, and where nothing is left after P is cut off.
    Sources: Zeiler et al., Deconvolutional networks (2010); Dumoulin, Visin, A guide to
    convolution arithmetic for deep learning, arXiv:1603.07285, chapter 4.
    """

    micro_batch = 32  # images, as for Conv2D

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int | Pair = 4,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        output_padding: int | Pair = 0,
        bias: bool = True,
        rng: np.random.Generator,
        init: str = "he_normal",
        dtype: Any = np.float32,
    ):
        self.channels, self.filters = channels, filters
        self.kernel = pair(kernel, "ConvTranspose2D kernel")
        self.stride = pair(stride, "ConvTranspose2D stride")
        self.padding = pair(padding, "ConvTranspose2D padding", least=0)
        self.output_padding = pair(output_padding, "ConvTranspose2D output_padding", least=0)
        if min(channels, filters) < 1:
            raise ValueError(f"{self}: channels and filters must be at least 1")
        if any(extra >= s for extra, s in zip(self.output_padding, self.stride)):
            raise ValueError(
                f"{self}: output_padding must be below the stride {self.stride}, "
                f"got {self.output_padding}"
            )
        weight = initialize(init, (*self.kernel, channels, filters), rng, dtype)
        weight *= math.sqrt(math.prod(self.stride))
        self.weight = Parameter(weight)
        self.bias = Parameter(np.zeros(filters, dtype)) if bias else None

    def __str__(self) -> str:
        kh, kw = self.kernel
        return f"ConvTranspose2D({self.channels}, {self.filters}, {kh}x{kw})"

    def forward(self, x: np.ndarray) -> np.ndarray:
        oh, ow = self._output_size(x)
        x = as_float(x)
        self.remember(x)
        n, h, w, c = x.shape
        weight = self.weight.value.transpose(2, 0, 1, 3).reshape(c, -1)  # (C, KH*KW*F)
        dtype = np.result_type(x, weight)
        y = self.scratch("y", (n, oh, ow, self.filters), dtype)
        for images in slices(n, h * w * weight.shape[1]):
            rows = x[images].reshape(-1, c)  # (n*H*W, C)
            columns = self.workspace("columns", (len(rows), weight.shape[1]), dtype)
            np.matmul(rows, weight, out=columns)  # (n*H*W, KH*KW*F)
            y[images] = col2im(columns, y[images].shape, self.kernel, self.stride, self.padding)
        return add_bias(y, self.bias)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        x = self.recall()
        (n, h, w, c), f = x.shape, self.filters
        if self.bias is not None:
            rows = dy.reshape(-1, f)  # (N*OH*OW, F)
            self.bias.accumulate(np.matmul, np.ones(len(rows), dy.dtype), rows)
        weight = self.weight.value.transpose(0, 1, 3, 2).reshape(-1, c)  # (KH*KW*F, C)
        dw = np.zeros((c, len(weight)), dy.dtype)
        dx = self.scratch("dx", x.shape, dy.dtype) if self.input_gradient else None
        for images in slices(n, h * w * len(weight)):
            view = windows(pad(dy[images], self.padding), self.kernel, self.stride)
            columns = self.workspace("columns", view.shape, dy.dtype)  # (n, H, W, KH, KW, F)
            np.copyto(columns, view)
            columns = columns.reshape(-1, len(weight))  # (n*H*W, KH*KW*F)
            dw += x[images].reshape(-1, c).T @ columns  # (C, n*H*W) @ (n*H*W, KH*KW*F)
            if dx is not None:
                np.matmul(columns, weight, out=dx[images].reshape(-1, c))
        back = dw.reshape(c, *self.kernel, f).transpose(1, 2, 0, 3)  # (KH, KW, C, F)
        self.weight.accumulate(np.positive, back)
        return dx

    def _output_size(self, x: np.ndarray) -> Pair:
        if x.ndim != 4 or x.shape[-1] != self.channels:
            raise ValueError(
                f"{self} expects images (N, H, W, {self.channels}), got shape {x.shape}"
            )
        oh, ow = (
            s * (size - 1) + k - 2 * p + extra
            for size, k, s, p, extra in zip(
                x.shape[1:3], self.kernel, self.stride, self.padding, self.output_padding
            )
        )
        if oh < 1 or ow < 1:
            raise ValueError(
                f"{self}: nothing is left of an input of {x.shape[1]}x{x.shape[2]} "
                f"when the padding {self.padding} is cut off: its output would be {oh}x{ow}"
            )
        return oh, ow
