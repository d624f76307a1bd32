"""The residual block: layers that learn what to add to their input, not what to replace it by.

With y = x + f(x) the slope of y along x is 1 + f'(x): the gradient has a way round the
layers, however small f' is (report.tex, eq:residual-sum). A block whose f is 0 at first, as in
`residual_block`, does no harm before it has learnt anything, so that a hundred of them can be
stacked; where f starts at random, each block adds to the variance of what passes through.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from section1.activations import Identity, ReLU
from section1.layer import Layer
from section1.network import Sequential
from section3.batchnorm import BatchNorm2D
from section3.conv import Conv2D


class Residual(Layer):
    """y = body(x) + shortcut(x), with the identity for a shortcut unless one is given.

    Both must give the same shape. Backward: dx is the sum of what both send back.

    Raises ValueError where the shapes differ.
    Source: He, Zhang, Ren, Sun, Deep residual learning for image recognition, arXiv:1512.03385.
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None):
        self.body = body
        self.shortcut = Identity() if shortcut is None else shortcut

    def forward(self, x: np.ndarray) -> np.ndarray:
        f, s = self.body.forward(x), self.shortcut.forward(x)
        if f.shape != s.shape:
            raise ValueError(
                f"Residual cannot add {f.shape} from its body and {s.shape} from its shortcut, "
                f"for input of shape {x.shape}"
            )
        return np.add(f, s, out=self.scratch("y", f.shape, f.dtype))

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        df, ds = self.body.backward(dy), self.shortcut.backward(dy)
        if df is None or ds is None:
            return None
        return np.add(df, ds, out=self.scratch("dx", df.shape, df.dtype))

    def skip_input_gradient(self) -> None:
        super().skip_input_gradient()
        self.body.skip_input_gradient()
        self.shortcut.skip_input_gradient()


def residual_block(
    channels: int,
    filters: int,
    *,
    stride: int = 1,
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> Sequential:
    """Conv, norm, ReLU, conv, norm; plus the input; ReLU: the basic block of ResNet-18 and -34.

    Where the size or the number of channels changes, the shortcut is a 1x1 convolution with
    batch norm ("option B"). The second norm starts at gamma = 0, so that every block
    starts as its shortcut (Goyal et al., arXiv:1706.02677, section 5.1).
    Shapes: x (N, H, W, channels), y (N, ceil(H / stride), ceil(W / stride), filters).
    """
    settings: dict[str, Any] = {"bias": False, "rng": rng, "dtype": dtype}
    last = BatchNorm2D(filters, dtype=dtype)
    last.gamma.value[...] = 0
    body = Sequential(
        Conv2D(channels, filters, 3, stride=stride, padding=1, **settings),
        BatchNorm2D(filters, dtype=dtype),
        ReLU(),
        Conv2D(filters, filters, 3, padding=1, **settings),
        last,
    )
    shortcut: Layer = Identity()
    if stride != 1 or channels != filters:
        shortcut = Sequential(
            Conv2D(channels, filters, 1, stride=stride, **settings),
            BatchNorm2D(filters, dtype=dtype),
        )
    return Sequential(Residual(body, shortcut), ReLU())
