"""The convolution: one small set of weights that looks at every place of an image.

All three passes are the same two moves, a copy of windows (im2col) and a matrix product:

    forward             y = columns(x) W
    backward, input     dx = columns(dy) W', with W' the filters turned by half a turn, for a
                        pixel x(u) reaches y(o) through W(u - o): a convolution again
    backward, weights   dW = columns(x)^T dy, or, from the copy that is there already,
                        dW' = x^T columns(dy)

The copy is as large as KH*KW images, so it is never made for a whole batch: a few images
at a time, so that it is read again while it still lies in cache, and never kept.

Derivations: report.tex, eq:convolution-dw, eq:convolution-dx, eq:convolution-gather.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from section1.functions import as_float
from section1.initializers import initialize
from section1.layer import Layer
from section1.parameter import Parameter
from section3.im2col import Pair, col2im, output_size, pad, pair, windows

COLUMNS = 2**18  # elements of columns at a time: 1 MB of float32, a core's own cache
SHORT = 16  # elements; the copy of shorter runs than this goes the other way round


class Conv2D(Layer):
    """y(n, o, f) = b(f) + sum over k, c of W(k, c, f) x(n, S o + D k - P, c).

    Here o and k run over rows and columns, S is the stride, D the dilation and P the padding
    with zeros. It is a cross-correlation, which the field calls convolution.
    Of G groups, each sees C/G channels and makes F/G filters.

    Shapes: x (N, H, W, C), W (KH, KW, C/G, F), b (F,), y (N, OH, OW, F), with
    OH = (H + 2 P - D (KH - 1) - 1) // S + 1, and OW alike.

    Args:
        channels, filters: C and F.
        kernel, stride, padding, dilation: one number, or one for rows and one for columns;
            padding may be "same": OH = H and OW = W, for stride 1 and windows of odd size.
        rng: source of the initial weights; biases start at zero.
        init: name of an initialiser in `section1.initializers`.
        bias: whether there is a b.
        dtype: float32 or float64, of the weights; an x of a wider type is computed in that.

    Raises ValueError for settings out of range, for groups that do not divide C and F, for an
    x without C channels, and for windows larger than the padded x.
    Sources: LeCun et al., Gradient-based learning applied to document recognition (1998);
    Dumoulin, Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
    """

    micro_batch = 32  # images: their activations and columns about fit into a core's cache

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int | Pair = 3,
        *,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        rng: np.random.Generator,
        init: str = "he_normal",
        dtype: Any = np.float32,
    ):
        self.channels, self.filters, self.groups = channels, filters, groups
        self.kernel, self.stride = pair(kernel, "Conv2D kernel"), pair(stride, "Conv2D stride")
        self.dilation = pair(dilation, "Conv2D dilation")
        if min(channels, filters, groups) < 1:
            raise ValueError(f"{self}: channels, filters and groups must be at least 1")
        if channels % groups or filters % groups:
            raise ValueError(
                f"{self}: groups must divide channels and filters, but {groups} does not divide "
                f"{channels} and {filters}"
            )
        if padding == "same":
            if self.stride != (1, 1) or not all(k % 2 for k in self.kernel):
                raise ValueError(f'{self}: padding "same" needs stride 1 and an odd kernel')
            (kh, kw), (dh, dw) = self.kernel, self.dilation
            padding = dh * (kh - 1) // 2, dw * (kw - 1) // 2
        elif isinstance(padding, str):
            raise ValueError(f'{self}: padding must be numbers or "same", got {padding!r}')
        self.padding = pair(padding, "Conv2D padding", least=0)
        shape = (*self.kernel, channels // groups, filters)
        self.weight = Parameter(initialize(init, shape, rng, dtype))
        self.bias = Parameter(np.zeros(filters, dtype)) if bias else None

    def __str__(self) -> str:
        return f"Conv2D({self.channels}, {self.filters}, {self.kernel[0]}x{self.kernel[1]})"

    def forward(self, x: np.ndarray) -> np.ndarray:
        oh, ow = self._output_size(x)
        x = as_float(x)
        self.remember(x)
        dtype = np.result_type(x, self.weight.value)
        y = self.scratch("y", (len(x), oh, ow, self.filters), dtype)
        w = by_group(self.weight.value, self.groups)  # (G, KH*KW*C/G, F/G)
        for images, view in self._windows(x, self.padding, self.stride):
            np.matmul(self._columns(view), w, out=by_group(y[images], self.groups))  # (G, M, F/G)
            add_bias(y[images], self.bias)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        x = self.recall()
        self._bias_gradient(dy)
        if self._gathers():
            return self._gather(x, dy)
        for images, view in self._windows(x, self.padding, self.stride):
            self._weight_gradient(self._columns(view), dy[images])
        return self._scatter(x, dy) if self.input_gradient else None

    def _bias_gradient(self, dy: np.ndarray) -> None:
        if self.bias is not None:
            rows = dy.reshape(-1, self.filters)  # (N*OH*OW, F)
            self.bias.accumulate(np.matmul, np.ones(len(rows), dy.dtype), rows)

    def _weight_gradient(self, columns: np.ndarray, dy: np.ndarray) -> None:
        """dW += columns^T dy, for columns (G, M, KH*KW*C/G) and dy of M places."""
        dw = self.workspace("dw", self.weight.value.shape, dy.dtype)
        dys = by_group(dy, self.groups)  # (G, M, F/G)
        np.matmul(columns.transpose(0, 2, 1), dys, out=by_group(dw, self.groups))
        self.weight.accumulate(np.positive, dw)

    def _gathers(self) -> bool:
        """Whether backward copies windows of dy, for dx and dW; else those of x, for dW alone.

        Only at stride 1 is dx a convolution, and the windows of many filters are a large copy.
        """
        return self.input_gradient and self.stride == (1, 1) and 4 * self.channels >= self.filters

    def _gather(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """dW and dx at stride 1: a pixel collects from the windows that it lay in."""
        (kh, kw), g, c, f = self.kernel, self.groups, self.channels, self.filters
        dx = self.scratch("dx", x.shape, dy.dtype)
        turned = self.weight.value[::-1, ::-1].reshape(kh, kw, c // g, g, f // g)
        turned = turned.transpose(3, 0, 1, 4, 2).reshape(g, -1, c // g)  # (G, KH*KW*F/G, C/G)
        dw, part = self.workspace("dw", (2, g, c // g, kh * kw * (f // g)), dy.dtype)
        dw.fill(0)
        ph, pw = (d * (k - 1) - p for d, k, p in zip(self.dilation, self.kernel, self.padding))
        for images, view in self._windows(dy, (ph, pw), (1, 1)):
            columns = self._columns(view)  # (G, M, KH*KW*F/G)
            np.matmul(columns, turned, out=by_group(dx[images], g))  # (G, M, C/G)
            xs = by_group(x[images], g).transpose(0, 2, 1)  # (G, C/G, M)
            dw += np.matmul(xs, columns, out=part)  # (G, C/G, KH*KW*F/G)
        back = dw.reshape(g, c // g, kh, kw, f // g)[:, :, ::-1, ::-1]
        back = back.transpose(2, 3, 1, 0, 4)  # (KH, KW, C/G, G, F/G)
        self.weight.accumulate(np.positive, back.reshape(self.weight.value.shape))
        return dx

    def _scatter(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """dx at any stride: every dy, times the filters, is added to the window it came from."""
        dx, g = self.scratch("dx", x.shape, dy.dtype), self.groups
        n, oh, ow, _ = dy.shape
        w = by_group(self.weight.value, g).transpose(0, 2, 1)  # (G, F/G, KH*KW*C/G)
        for images in slices(n, oh * ow * w.shape[2]):
            for group, rows in enumerate(by_group(dy[images], g)):  # (M, F/G)
                part = split(dx[images], g)[:, :, :, group]
                geometry = self.kernel, self.stride, self.padding, self.dilation
                part[...] = col2im(rows @ w[group], part.shape, *geometry)
        return dx

    def _output_size(self, x: np.ndarray) -> Pair:
        if x.ndim != 4 or x.shape[-1] != self.channels:
            raise ValueError(
                f"{self} expects images (N, H, W, {self.channels}), got shape {x.shape}"
            )
        try:
            return output_size(x.shape[1:3], self.kernel, self.stride, self.padding, self.dilation)
        except ValueError as error:
            raise ValueError(f"{self}: {error}") from None

    def _windows(
        self, x: np.ndarray, padding: Pair, stride: Pair
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Views (n, OH, OW, KH, KW, G, C/G) of the windows of n images at a time, and which."""
        (n, h, w, c), (ph, pw) = x.shape, padding
        oh, ow = output_size((h, w), self.kernel, stride, padding, self.dilation)
        each = oh * ow * max(math.prod(self.kernel) * c, self.channels, self.filters)
        for images in slices(n, each):
            part = x[images]
            if padding != (0, 0):
                padded = self.workspace("padded", (len(part), h + 2 * ph, w + 2 * pw, c), x.dtype)
                part = pad(part, padding, out=padded)
            yield images, windows(split(part, self.groups), self.kernel, stride, self.dilation)

    def _columns(self, view: np.ndarray, keep_as: str = "") -> np.ndarray:
        """Windows (..., KH, KW, G, C/G) as rows of a matrix for each group: (G, M, KH*KW*C/G).

        Where the runs that can be copied at once, KW*C/G elements, are short, the matrix is
        stored by columns: then a run is as long as a row of the image.
        """
        *places, kh, kw, g, c = view.shape
        if (kh, kw) == (1, 1) and not keep_as:  # every pixel is a window, and is there as a row
            return by_group(view.reshape(*places, g * c), g)
        k = len(places)
        by_rows = kw * c >= SHORT
        if by_rows:
            view = view.transpose(k + 2, *range(k), k, k + 1, k + 3)  # (G, ..., KH, KW, C/G)
        else:
            view = view.transpose(k + 2, k, k + 1, k + 3, *range(k))  # (G, KH, KW, C/G, ...)
        if keep_as:
            columns = self.scratch(keep_as, view.shape, view.dtype)
        else:
            columns = self.workspace("columns", view.shape, view.dtype)
        np.copyto(columns, view)
        if by_rows:
            return columns.reshape(g, -1, kh * kw * c)
        return columns.reshape(g, kh * kw * c, -1).transpose(0, 2, 1)


def by_group(array: np.ndarray, groups: int) -> np.ndarray:
    """A view (G, M, K/G) of an array (..., K) with M rows: a matrix for each group."""
    return array.reshape(-1, groups, array.shape[-1] // groups).transpose(1, 0, 2)


def split(array: np.ndarray, groups: int) -> np.ndarray:
    """A view (..., G, K/G) of an array (..., K)."""
    return array.reshape(*array.shape[:-1], groups, -1)


def add_bias(y: np.ndarray, bias: Parameter | None) -> np.ndarray:
    """y (n, OH, OW, F) + b (F,), in place, where there is a b.

    It is added line by line of the image: a few long sums are faster than many short ones.
    """
    if bias is not None:
        n, oh, ow, f = y.shape
        lines = y.reshape(n * oh, ow * f)
        lines += np.tile(bias.value, ow)
    return y


def slices(images: int, elements: int) -> Iterator[slice]:
    """Cut so many images, with so many elements of columns each, into runs of about COLUMNS."""
    step = max(1, COLUMNS // elements)
    for start in range(0, images, step):
        yield slice(start, min(start + step, images))
