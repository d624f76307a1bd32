"""Threads for networks whose batch must not be cut, because batch norm looks at all of it.

Only batch norm itself needs all rows together. The layers between one batch norm and the next
work row by row: each such run of layers can be given to several threads, some rows to each,
and the parts be joined again.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import numpy as np

from section1.layer import Layer
from section1.network import Sequential
from section1.parallel import Workers

Cut = Callable[[int], list[slice]]


class RowParallel(Layer):
    """y = layer(x), some rows on each thread.

    Args:
        layer: a replica (see `Layer.replica`) of which no part needs the whole batch.
        workers: the threads.
        cut: the slices into which so many rows are cut, whatever the number of threads.

    Raises what `layer` raises.
    """

    def __init__(self, layer: Layer, workers: Workers, cut: Cut):
        self.layer, self.workers, self.cut = layer, workers, cut
        self.twins = {0: layer}  # no list: they are not more layers, but the same once more
        self.seed: tuple[int, ...] | None = None

    def reseed(self, *numbers: int) -> None:
        self.seed = numbers

    def forward(self, x: np.ndarray) -> np.ndarray:
        cuts = self.cut(len(x))
        for number in range(len(self.twins), len(cuts)):
            self.twins[number] = self.layer.replica()
        if self.seed is not None:
            for number, twin in self.twins.items():
                twin.reseed(*self.seed, number)
        self.remember(cuts)
        twins = self.twins.values()
        parts = self.workers.map(lambda twin, rows: twin.forward(x[rows]), twins, cuts)
        return self._joined("y", parts)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        cuts = self.recall()
        twins = list(self.twins.values())[: len(cuts)]
        total, *others = (twin.parameters() for twin in twins)
        for other in others:
            for parameter in other:
                parameter.zero_grad()
        parts = self.workers.map(lambda twin, rows: twin.backward(dy[rows]), twins, cuts)
        for other in others:  # always in the same order
            for mine, its in zip(total, other):
                mine.grad += its.grad
        return None if parts[0] is None else self._joined("dx", parts)

    def _joined(self, name: str, parts: list[np.ndarray]) -> np.ndarray:
        if len(parts) == 1:
            return parts[0]
        shape = sum(len(part) for part in parts), *parts[0].shape[1:]
        return np.concatenate(parts, out=self.scratch(name, shape, parts[0].dtype))


def row_parallel(layer: Layer, workers: Workers, cut: Cut) -> Layer:
    """A replica with each part that has weights and works row by row put into a RowParallel.

    The replica itself is changed, and must not be used any more.
    """
    if not needs_whole_batch(layer):
        if not layer.parameters():
            return layer
        parallel = RowParallel(layer, workers, cut)
        parallel._scratch = {}  # the joined parts, too, are written to the same memory every time
        return parallel
    if isinstance(layer, Sequential):
        parts: list[Layer] = []
        for whole, run in groupby(layer.layers, needs_whole_batch):
            parts += list(run) if whole else [Sequential(*run)]  # noqa: B031 - one or the other
        layer.layers = [row_parallel(part, workers, cut) for part in parts]
    else:
        for name, child in list(vars(layer).items()):
            if isinstance(child, Layer):
                setattr(layer, name, row_parallel(child, workers, cut))
    return layer


def needs_whole_batch(layer: Layer) -> bool:
    return any(part.whole_batch for part in layer.modules())
