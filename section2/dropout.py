"""Dropout: a network that must do without a random part of itself cannot learn by heart."""

from __future__ import annotations

import numpy as np

from section1.functions import as_float
from section1.layer import Layer


class Dropout(Layer):
    """y = x mask / (1 - p), with a mask of 0 with chance p and of 1 otherwise.

    Divided by 1 - p ("inverted"), y has the mean of x, so nothing need be scaled in
    evaluation, where y = x. Backward is the same product with the same mask (report.tex,
    eq:dropout).

    Random numbers: the layer draws one number from `rng`, its seed, and from then on its own.
    `reseed(step, micro_batch)` starts them anew, at a place that depends on the seed
    and on those two numbers alone. The seed is a buffer, so a checkpoint keeps it.

    Raises ValueError unless 0 <= p < 1.
    Source: Srivastava et al., Dropout: a simple way to prevent neural networks from
    overfitting (2014).
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator):
        if not 0 <= p < 1:
            raise ValueError(f"Dropout expects a chance p of at least 0 and below 1, got {p}")
        self.p = p
        self.seed = rng.integers(2**32, size=4, dtype=np.uint32)
        self.reseed()

    def buffers(self) -> list[np.ndarray]:
        return [self.seed]

    def reseed(self, *numbers: int) -> None:
        words = [*self.seed.tolist(), *numbers]
        self.random = np.random.Generator(np.random.SFC64(words))

    def forward(self, x: np.ndarray) -> np.ndarray:
        if not self.training or self.p == 0:
            self.remember(None)
            return x
        x = as_float(x)
        chance = self.scratch("chance", x.shape, np.float32)
        self.random.random(dtype=np.float32, out=chance)
        scale = self.scratch("scale", x.shape, x.dtype)
        np.greater_equal(chance, self.p, out=scale)  # the mask: 1 for true, 0 for false
        scale *= 1 / (1 - self.p)
        self.remember(scale)
        return np.multiply(x, scale, out=self.scratch("y", x.shape, x.dtype))

    def backward(self, dy: np.ndarray) -> np.ndarray:
        scale = self.recall()
        if scale is None:
            return dy
        return np.multiply(dy, scale, out=self.scratch("dx", dy.shape, dy.dtype))
