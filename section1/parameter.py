"""A parameter: an array that training changes, and the slope of the loss along it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Parameter:
    """An array `value` and the gradient `grad` of the loss with respect to it.

    Both have the same shape and dtype. `value` is only ever changed in place
    (`p.value[...] = ...`), because optimizers and replicas of a model hold views of it.
    """

    def __init__(self, value: np.ndarray):
        self.value = np.ascontiguousarray(value)
        self._grad = np.empty_like(self.value)
        self._is_zero = True  # `_grad` stands for zeros that nobody has written out yet

    @property
    def grad(self) -> np.ndarray:
        if self._is_zero:
            self._grad.fill(0)
            self._is_zero = False
        return self._grad

    @grad.setter
    def grad(self, value: np.ndarray) -> None:
        self._grad[...] = value
        self._is_zero = False

    def zero_grad(self) -> None:
        self._is_zero = True

    def accumulate(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """`grad += function(*args, **kwargs)`, for a NumPy function that takes `out=`.

        The first sum after `zero_grad` is written straight into `grad`: no zeros to
        fill, no temporary array, no addition.
        """
        if self._is_zero:
            function(*args, out=self._grad, **kwargs)
            self._is_zero = False
        else:
            self._grad += function(*args, **kwargs)
