"""Pooling: one number for each window of each channel, its largest or its mean.

It makes images smaller, and what is found a pixel to the left is found all the same. All
pools here walk over the KH*KW places of a window, for all windows at once; the walk over
windows one by one is in `naive.py`. Derivations: report.tex, eq:max-pool, eq:average-pool.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from section1.functions import as_float
from section1.layer import Layer
from section3.im2col import Pair, output_size, pad, pair


class Pool2D(Layer):
    """Base class: windows of `kernel`, `stride` apart (default: side by side), on a padded x.

    Shapes: x (N, H, W, C), y (N, OH, OW, C), with OH = (H + 2 P - KH) // S + 1. Rows and
    columns at the end that fill no window are not used.

    Raises ValueError for settings out of range, for an x that is no stack of images, for
    windows larger than the padded x, and for a padding of more than half a window, which
    would make windows of padding alone.
    """

    def __init__(
        self, kernel: int | Pair = 2, *, stride: int | Pair | None = None, padding: int | Pair = 0
    ):
        name = type(self).__name__
        self.kernel = pair(kernel, f"{name} kernel")
        self.stride = self.kernel if stride is None else pair(stride, f"{name} stride")
        self.padding = pair(padding, f"{name} padding", least=0)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel)):
            raise ValueError(f"{self}: padding may be at most half a window, got {self.padding}")

    @property
    def side_by_side(self) -> bool:
        """Whether every element lies in at most one window, and there is no padding."""
        return self.stride == self.kernel and self.padding == (0, 0)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.kernel[0]}x{self.kernel[1]})"

    def _begin(self, x: np.ndarray, fill: float) -> tuple[np.ndarray, Pair]:
        """The padded x, and (OH, OW)."""
        if x.ndim != 4:
            raise ValueError(f"{self} expects images (N, H, W, C), got shape {x.shape}")
        try:
            size = output_size(x.shape[1:3], self.kernel, self.stride, self.padding, (1, 1))
        except ValueError as error:
            raise ValueError(f"{self}: {error}") from None
        x = as_float(x)
        if self.padding != (0, 0):
            (n, h, w, c), (ph, pw) = x.shape, self.padding
            x = pad(x, (ph, pw), fill, self.scratch("x", (n, h + 2 * ph, w + 2 * pw, c), x.dtype))
        return x, size

    def _places(self, x: np.ndarray, size: Pair) -> Iterator[np.ndarray]:
        """For each place in a window, row by row, the view (N, OH, OW, C) of it in all windows."""
        (oh, ow), (sh, sw) = size, self.stride
        for i, j in np.ndindex(*self.kernel):
            yield x[:, i : i + sh * (oh - 1) + 1 : sh, j : j + sw * (ow - 1) + 1 : sw]

    def _inside(self, padded: np.ndarray) -> np.ndarray:
        """A padded array without its padding."""
        (_, h, w, _), (ph, pw) = padded.shape, self.padding
        return padded[:, ph : h - ph, pw : w - pw]


class MaxPool2D(Pool2D):
    """y = the largest element of each window. Padding counts as -infinity, so it never wins.

    Backward: dy goes to the element that was the largest. Of several that are equal the
    first one gets it, row by row, as in PyTorch. An element that won in several
    windows gets the sum.

    Source: Jarrett et al., What is the best multi-stage architecture for object recognition?
    (2009); Goodfellow, Bengio, Courville, Deep Learning (2016), section 9.3.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        padded, size = self._begin(x, -np.inf)
        first, *others = self._places(padded, size)
        y = self.scratch("y", first.shape, padded.dtype)
        np.copyto(y, first)
        for place in others:
            np.maximum(y, place, out=y)
        self.remember(padded, y)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        padded, y = self.recall()
        if not self.input_gradient:
            return None
        size = y.shape[1:3]
        dx = self.scratch("dx", padded.shape, dy.dtype)
        dx.fill(0)
        rest = self.scratch("rest", y.shape, dy.dtype)  # of dy, what no place has claimed yet
        np.copyto(rest, dy)
        part = self.scratch("part", y.shape, dy.dtype)
        won = self.scratch("won", y.shape, bool)
        for place, target in zip(self._places(padded, size), self._places(dx, size)):
            np.equal(place, y, out=won)
            np.multiply(rest, won, out=part)
            rest -= part
            target += part
        return self._inside(dx)


class AvgPool2D(Pool2D):
    """y = the mean of each window. Padding counts as zeros, and is counted, as in PyTorch.

    Backward: dy / (KH KW) goes to every element of the window.

    Source: LeCun et al., Gradient-based learning applied to document recognition (1998).
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        padded, size = self._begin(x, 0)
        first, *others = self._places(padded, size)
        y = self.scratch("y", first.shape, padded.dtype)
        np.copyto(y, first)
        for place in others:
            y += place
        y *= 1 / (self.kernel[0] * self.kernel[1])
        self.remember(padded.shape)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        shape = self.recall()
        if not self.input_gradient:
            return None
        dx = self.scratch("dx", shape, dy.dtype)
        dx.fill(0)
        share = dy * (1 / (self.kernel[0] * self.kernel[1]))
        for target in self._places(dx, dy.shape[1:3]):
            target += share
        return self._inside(dx)


class GlobalAvgPool2D(Layer):
    """y = the mean of each channel over the whole image: (N, H, W, C) -> (N, C).

    Source: Lin, Chen, Yan, Network in network, arXiv:1312.4400.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        if x.ndim != 4:
            raise ValueError(f"GlobalAvgPool2D expects images (N, H, W, C), got shape {x.shape}")
        self.remember(x.shape)
        return as_float(x).mean(axis=1).mean(axis=1)  # in one step float32 would round more

    def backward(self, dy: np.ndarray) -> np.ndarray:
        n, h, w, c = self.recall()
        dx = self.scratch("dx", (n, h, w, c), dy.dtype)
        dx[...] = (dy / (h * w))[:, None, None]
        return dx
