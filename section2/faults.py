"""Gradients that are wrong on purpose: a check that lets one of them pass proves nothing.

Each fault is one that people have shipped. `Faulty` and `FaultyLoss` put it into a layer or
a loss that is right; `Miswritten` is for the mistakes that only one kind of layer can make.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from section1.layer import Layer
from section1.losses import Loss

Fault = Callable[[np.ndarray], np.ndarray]
Mistake = Callable[[Any, np.ndarray, np.ndarray], np.ndarray | None]  # (layer, x, dy) -> dx


def one_element(gradient: np.ndarray) -> np.ndarray:
    wrong = gradient.copy()
    wrong.flat[gradient.size // 2] += 0.01 * np.abs(gradient).max()
    return wrong


FAULTS: dict[str, Fault] = {
    "scaled by 1.0001": lambda g: g * 1.0001,
    "wrong sign": lambda g: -g,
    "zero": np.zeros_like,
    "times its length": lambda g: g * len(g),
    "divided by its length": lambda g: g / len(g),
    "transposed": lambda g: g.T.reshape(g.shape),
    "one wrong element": one_element,
}


class Faulty(Layer):
    """`layer` with `fault` done to its dx, or to the gradient of its parameter `number`."""

    def __init__(self, layer: Layer, fault: Fault, number: int | None = None):
        self.layer, self.fault, self.number = layer, fault, number

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.layer.forward(x)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        dx = self.layer.backward(dy)
        if self.number is None:
            return dx if dx is None else self.fault(dx)
        parameter = self.parameters()[self.number]
        parameter.grad = self.fault(parameter.grad)
        return dx


class Miswritten(Layer):
    """`layer` with `mistake` for its backward pass: a function of the layer, x and dy.

    When it is called, `layer` has just seen x, and its `backward` is still right.
    """

    def __init__(self, layer: Layer, mistake: Mistake):
        self.layer, self.mistake = layer, mistake

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.remember(x)
        return self.layer.forward(x)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        return self.mistake(self.layer, self.recall(), dy)


class FaultyLoss(Loss):
    """`loss` with `fault` done to its gradient."""

    def __init__(self, loss: Loss, fault: Fault):
        self.loss, self.fault = loss, fault

    def forward(self, prediction: np.ndarray, target: np.ndarray) -> float:
        return self.loss.forward(prediction, target)

    def backward(self) -> np.ndarray:
        return self.fault(self.loss.backward())
