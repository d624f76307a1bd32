"""A convolution and the max-pool after it as one layer: the same numbers, sooner.

A pool compares neighbours, and neighbours do not lie side by side in memory: many short
jumps cost more than the comparison itself. But a matrix product can give its rows in any
order. So the windows are first sorted by their place in the pool: all that come first in
their pool, then all that come second, ... Then the pool is the largest of a few long arrays.
And as max(a + b) = max(a) + b, the bias is added after the pool, to fewer numbers.

`fused(model)` gives a network with the parameters of `model` itself: train the one, look at
the other. `conv.py` and `pooling.py` are the explanation, and the tests hold all of them to it.
"""

from __future__ import annotations

import numpy as np

from section1.functions import as_float
from section1.layer import Layer
from section1.network import Sequential
from section3.conv import Conv2D, add_bias, by_group
from section3.pooling import MaxPool2D


class ConvMaxPool2D(Conv2D):
    """y = MaxPool2D(Conv2D(x)), for a pool whose windows lie side by side without padding.

    It shares the parameters of `conv`. Shapes and errors are those of the two layers, with P x Q
    for the pool: x (N, H, W, C), y (N, OH // P, OW // Q, F). So are ties, but for outputs that
    become equal only when the bias is added and rounded: here the larger one wins, not the first.
    """

    def __init__(self, conv: Conv2D, pool: MaxPool2D):
        vars(self).update((k, v) for k, v in vars(conv).items() if not k.startswith("_"))
        self.pool = pool.kernel

    def forward(self, x: np.ndarray) -> np.ndarray:
        (oh, ow), (p, q) = self._output_size(x), self.pool
        if oh < p or ow < q:
            raise ValueError(f"{self}: its output of {oh}x{ow} holds no pool of {p}x{q}")
        oh, ow = oh // p, ow // q
        x = as_float(x)
        y = self.scratch("y", (len(x), oh, ow, self.filters), np.result_type(x, self.weight.value))
        w = by_group(self.weight.value, self.groups)  # (G, KH*KW*C/G, F/G)
        pools = []
        for k, (images, view) in enumerate(self._windows(x, self.padding, self.stride)):
            view = view[:, : oh * p, : ow * q].reshape(-1, oh, p, ow, q, *view.shape[3:])
            view = view.transpose(2, 4, 0, 1, 3, 5, 6, 7, 8)  # (P, Q, n, OH, OW, KH, KW, G, C/G)
            columns = self._columns(view, "" if self._gathers() else f"columns {k}")
            places = self.workspace("places", (p * q, *y[images].shape), y.dtype)
            np.matmul(columns, w, out=by_group(places, self.groups))  # (G, P*Q*n*OH*OW, F/G)
            np.maximum.reduce(places, axis=0, out=y[images])
            if self.training:
                won = self._winners(places, y[images], f"won {k}")
                pools.append((images, None if self._gathers() else columns, won))
        self.remember(x, pools)
        return add_bias(y, self.bias)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        x, pools = self.recall()
        self._bias_gradient(dy)
        n, oh, ow, f = dy.shape
        p, q = self.pool
        if self.input_gradient:  # dL/d(conv's output), zero where no pool reaches
            dconv = self.workspace("dconv", (n, *self._output_size(x), f), dy.dtype)
            dconv[:, oh * p :] = dconv[:, :, ow * q :] = 0
        for images, columns, won in pools:
            dplaces = self.workspace("places", won.shape, dy.dtype)  # (P*Q, n, OH, OW, F)
            np.multiply(won, dy[images], out=dplaces)
            if columns is not None:
                self._weight_gradient(columns, dplaces)
            if self.input_gradient:
                target = dconv[images, : oh * p, : ow * q].reshape(-1, oh, p, ow, q, f)
                target = target.transpose(2, 4, 0, 1, 3, 5)  # (P, Q, n, OH, OW, F)
                np.copyto(target, dplaces.reshape(target.shape))
        if not self.input_gradient:
            return None
        return self._gather(x, dconv) if self._gathers() else self._scatter(x, dconv)

    def _winners(self, places: np.ndarray, largest: np.ndarray, name: str) -> np.ndarray:
        """Which place (P*Q, n, OH, OW, F) is the largest of its pool: of several the first."""
        won = np.equal(places, largest, out=self.scratch(name, places.shape, bool))
        taken = won[0].copy()
        for others in won[1:]:
            np.greater(others, taken, out=others)  # true and not taken
            taken |= others
        return won


def fused(model: Sequential) -> Sequential:
    """A network that computes what `model` does, with the same parameters, sooner.

    Where a Conv2D is followed by a MaxPool2D, a ConvMaxPool2D takes their place; all other
    layers are those of `model` itself.
    """
    layers: list[Layer] = []
    for layer in model.layers:
        before = layers[-1] if layers else None
        if type(before) is Conv2D and isinstance(layer, MaxPool2D) and layer.side_by_side:
            layers[-1] = ConvMaxPool2D(before, layer)
        else:
            layers.append(fused(layer) if type(layer) is Sequential else layer)
    return Sequential(*layers)
