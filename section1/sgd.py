"""Gradient descent: the loop over the parameters, and the plainest rule of all."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from section1.parameter import Parameter

PIECE = 32_768  # elements a piece: a few float32 arrays of this length fit in a core's L2 cache


class Optimizer:
    """Base class: owns the loop over parameters. A subclass writes `update` alone.

    A parameter is updated in flat pieces that stay in cache while the several passes of
    a rule go over them. State (momentum, second moments) is a list of arrays in line
    with the parameters, made by `new_state` and passed to `update` piece by piece.
    """

    def __init__(self, parameters: Iterable[Parameter], lr: float):
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError(f"{type(self).__name__} was given no parameters to train")
        if not lr >= 0:
            raise ValueError(f"the learning rate must be 0 or more, got {lr}")
        self.lr = lr
        self.steps = 0
        self.state: list[list[np.ndarray]] = []
        self._spare: dict[np.dtype, np.ndarray] = {}

    def new_state(self) -> list[np.ndarray]:
        """One array of zeros per parameter, kept and passed on to `update`."""
        arrays = [np.zeros_like(parameter.value) for parameter in self.parameters]
        self.state.append(arrays)
        return arrays

    def step(self) -> None:
        """Change every parameter by its gradient."""
        self.steps += 1
        for index, parameter in enumerate(self.parameters):
            arrays = [parameter.value, parameter.grad, *(kind[index] for kind in self.state)]
            flat = [array.reshape(-1) for array in arrays]  # views: all are contiguous
            for start in range(0, flat[0].size, PIECE):
                self.update(*(array[start : start + PIECE] for array in flat))

    def update(self, value: np.ndarray, grad: np.ndarray, *state: np.ndarray) -> None:
        """The rule, on one flat piece: change `value` and `state` in place, not `grad`."""
        raise NotImplementedError

    def spare(self, like: np.ndarray) -> np.ndarray:
        """A reused array for intermediate results, as long as the piece `like`."""
        if like.dtype not in self._spare:
            self._spare[like.dtype] = np.empty(PIECE, like.dtype)
        return self._spare[like.dtype][: like.size]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.zero_grad()


class SGD(Optimizer):
    """w <- w - lr g. Source: Robbins and Monro, A stochastic approximation method (1951)."""

    def update(self, value: np.ndarray, grad: np.ndarray, *state: np.ndarray) -> None:
        value -= np.multiply(grad, self.lr, out=self.spare(value))
