"""Gradient descent: the loop over the parameters, and the plainest rule of all."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from section1.parallel import Workers
from section1.parameter import Parameter

PIECE = 131_072  # elements a piece: half a megabyte of float32, so that a few arrays fit in cache
MANY = 500_000  # elements; one thread is done with fewer before others have woken up

Piece = tuple[np.ndarray, ...]


class Spare(threading.local):
    """Arrays for intermediate results, of each thread its own; a copy starts empty."""

    def __init__(self) -> None:
        self.arrays: dict[tuple, np.ndarray] = {}

    def __reduce__(self) -> tuple:
        return Spare, ()


class Optimizer:
    """Base class: owns the loop over parameters. A subclass writes `update` alone.

    A parameter is updated in flat pieces that stay in cache while the several passes of
    a rule go over them. State (momentum, second moments) is a list of arrays in line
    with the parameters, made by `new_state` and passed to `update` piece by piece.
    Pieces do not depend on each other, so threads may share them out.
    """

    def __init__(self, parameters: Iterable[Parameter], lr: float):
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError(f"{type(self).__name__} was given no parameters to train")
        if not lr >= 0:
            raise ValueError(f"the learning rate must be 0 or more, got {lr}")
        self.lr = float(lr)  # a np.float64 would make float64 of every product
        self.steps = 0
        self.state: list[list[np.ndarray]] = []
        self._spare = Spare()
        self._pieces: list[Piece] = []

    def __repr__(self) -> str:
        """The class and its settings, but for what changes on the way: lr and steps."""
        settings = (
            f"{name}={value}"
            for name, value in vars(self).items()
            if isinstance(value, (int, float, str, tuple)) and name not in ("lr", "steps")
        )
        return f"{type(self).__name__}({', '.join(settings)})"

    def __getstate__(self) -> dict:  # a copy has arrays of its own, so pieces of its own
        return vars(self) | {"_pieces": []}

    def new_state(self, needed: Sequence[bool] | None = None) -> list[np.ndarray]:
        """One array of zeros per parameter, kept and passed on to `update`.

        Parameters for which `needed` says false get an empty array.
        """
        arrays = [np.zeros_like(parameter.value) for parameter in self.parameters]
        if needed is not None:
            arrays = [array if keep else array.ravel()[:0] for array, keep in zip(arrays, needed)]
        self.state.append(arrays)
        return arrays

    def step(self, workers: Workers | None = None) -> None:
        """Change every parameter by its gradient, on all threads of `workers`."""
        self.steps += 1
        for parameter in self.parameters:
            parameter.grad  # noqa: B018 - writes out the zeros of a gradient that nobody added to
        if not self._pieces:
            self._pieces = [p for k in range(len(self.parameters)) for p in self.pieces(k)]
        if workers is None or sum(p.value.size for p in self.parameters) < MANY:
            for piece in self._pieces:
                self.update(*piece)
        else:
            workers.map(self.update, *zip(*self._pieces))

    def pieces(self, index: int) -> Iterator[Piece]:
        """The arguments for `update`, piece by piece, of one parameter: views, made once."""
        parameter = self.parameters[index]
        arrays = [parameter.value, parameter.grad, *(kind[index] for kind in self.state)]
        flat = [array.reshape(-1) for array in arrays]  # views: all are contiguous
        for start in range(0, flat[0].size, PIECE):
            yield tuple(array[start : start + PIECE] for array in flat)

    def update(self, value: np.ndarray, grad: np.ndarray, *state: np.ndarray) -> None:
        """The rule, on one flat piece: change `value` and `state` in place, not `grad`."""
        raise NotImplementedError

    def spare(self, like: np.ndarray, number: int = 0) -> np.ndarray:
        """A reused array for intermediate results, of the shape and dtype of `like`."""
        arrays, key = self._spare.arrays, (like.shape, like.dtype, number)
        if key not in arrays:
            arrays[key] = np.empty_like(like)
        return arrays[key]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.zero_grad()


class SGD(Optimizer):
    """w <- w - lr g. Source: Robbins and Monro, A stochastic approximation method (1951)."""

    def update(self, value: np.ndarray, grad: np.ndarray, *state: np.ndarray) -> None:
        value -= np.multiply(grad, self.lr, out=self.spare(value))
