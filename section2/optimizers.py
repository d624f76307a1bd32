"""Optimizers: what to do with a gradient besides following it.

Two ideas are behind all of them. Momentum averages gradients over time, so that what
keeps pointing the same way adds up and what flips sign cancels. A second moment measures
how large the gradients of each single weight are, so that every weight gets a step of its
own size. `section1.sgd.Optimizer` owns the loop; here stand the rules, g being the gradient
and w the weights.

A rule runs over a piece of the arrays that is in cache, one NumPy call a pass, so its
price is its number of passes. Factors are therefore taken out of the arrays: instead of the
average m <- b m + (1 - b) g the state holds the sum m <- b m + g, which is m / (1 - b) and
one pass less, and the factor joins the other numbers that the step is multiplied by.

Derivations: report.tex, eq:momentum, eq:nesterov, eq:adagrad, eq:rmsprop, eq:adam, eq:adamw,
eq:clip; of the state, eq:adam-state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from section1.parameter import Parameter
from section1.sgd import SGD, Optimizer

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Momentum",
    "Nesterov",
    "RMSprop",
    "clip_gradient_norm",
]


def clip_gradient_norm(parameters: Iterable[Parameter], max_norm: float) -> float:
    """Shrink all gradients by one factor so that their joint norm is at most `max_norm`.

    g <- g min(1, max_norm / (|g| + 1e-6)), with |g| over all parameters together; returns |g|
    as it was before. Raises ValueError for a negative `max_norm`.
    Source: Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural
    networks, arXiv:1211.5063.
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm must be 0 or more, got {max_norm}")
    gradients = [parameter.grad.reshape(-1) for parameter in parameters]  # views
    norm = math.sqrt(sum(float(np.dot(grad, grad)) for grad in gradients))
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        for grad in gradients:
            grad *= factor
    return norm


class Rule(Optimizer):
    """What the rules below share: weight decay, and a step divided by sqrt(v)."""

    def __init__(self, parameters: Iterable[Parameter], lr: float, weight_decay: float = 0.0):
        super().__init__(parameters, lr)
        self.weight_decay = at_least_zero("weight_decay", weight_decay)

    def slope(self, value: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """g + weight_decay w: the slope of the loss plus weight_decay |w|^2 / 2."""
        if self.weight_decay == 0:
            return grad
        slope = np.multiply(value, self.weight_decay, out=self.spare(value, 1))
        slope += grad
        return slope

    def descend(
        self, value: np.ndarray, along: np.ndarray, square: np.ndarray, rate: float, eps: float
    ) -> None:
        """w <- w - rate along / (sqrt(square) + eps)."""
        step = np.sqrt(square, out=self.spare(value))
        step += eps
        np.divide(along, step, out=step)
        step *= rate
        value -= step


class Momentum(Rule):
    """m <- b m + g;  w <- w - lr m: a heavy ball that rolls downhill.

    A steady gradient adds up to g / (1 - b): with b = 0.9 the step is ten times longer.
    Source: Polyak, Some methods of speeding up the convergence of iteration methods (1964).
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, lr, weight_decay)
        self.momentum = below_one("momentum", momentum)
        self.new_state()

    def update(self, value: np.ndarray, grad: np.ndarray, *state: np.ndarray) -> None:
        (m,) = state
        m *= self.momentum
        m += self.slope(value, grad)
        value -= np.multiply(m, self.lr, out=self.spare(value))


class Nesterov(Momentum):
    """m <- b m + g;  w <- w - lr (g + b m): momentum that looks one step ahead.

    Sources: Nesterov, A method of solving a convex programming problem with convergence rate
    O(1/k^2) (1983); in this form Sutskever, Martens, Dahl, Hinton, On the importance of
    initialization and momentum in deep learning (2013).
    """

    def update(self, value: np.ndarray, grad: np.ndarray, *state: np.ndarray) -> None:
        (m,) = state
        g = self.slope(value, grad)
        m *= self.momentum
        m += g
        ahead = np.multiply(m, self.momentum, out=self.spare(value))
        ahead += g
        ahead *= self.lr
        value -= ahead


class AdaGrad(Rule):
    """v <- v + g^2;  w <- w - lr g / (sqrt(v) + eps): rarely used weights take larger steps.

    v only grows, so the rate of each weight only falls.
    Source: Duchi, Hazan, Singer, Adaptive subgradient methods for online learning and
    stochastic optimization (2011).
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, lr, weight_decay)
        self.eps = at_least_zero("eps", eps)
        self.new_state()

    def update(self, value: np.ndarray, grad: np.ndarray, *state: np.ndarray) -> None:
        (v,) = state
        g = self.slope(value, grad)
        v += np.multiply(g, g, out=self.spare(value))
        self.descend(value, g, v, self.lr, self.eps)


class RMSprop(Rule):
    """v <- a v + (1 - a) g^2;  w <- w - lr g / (sqrt(v) + eps): AdaGrad that forgets.

    The state is v / (1 - a).
    Source: Tieleman, Hinton, Neural networks for machine learning, lecture 6.5 (2012).
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, lr, weight_decay)
        self.alpha = below_one("alpha", alpha)
        self.eps = at_least_zero("eps", eps)
        self.new_state()

    def update(self, value: np.ndarray, grad: np.ndarray, *state: np.ndarray) -> None:
        (v,) = state
        g = self.slope(value, grad)
        v *= self.alpha
        v += np.multiply(g, g, out=self.spare(value))
        unit = math.sqrt(1 - self.alpha)
        self.descend(value, g, v, self.lr / unit, self.eps / unit)


class Adam(Rule):
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  w <- w - lr m^ / (sqrt(v^) + eps).

    m and v start at zero, so after t steps they hold only 1 - b^t of an average, and the
    hats divide by that: m^ = m / (1 - b1^t) and v^ = v / (1 - b2^t). Without it the first
    steps would be far too long, as b2 is closer to 1 than b1.

    The state is m / (1 - b1), v / (1 - b2) and, with `amsgrad`, the largest v so far, which
    then takes the place of v in the step.
    Sources: Kingma, Ba, Adam: a method for stochastic optimization, arXiv:1412.6980; Reddi,
    Kale, Kumar, On the convergence of Adam and beyond, arXiv:1904.09237 (amsgrad).
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ):
        super().__init__(parameters, lr, weight_decay)
        self.betas = below_one("the first beta", betas[0]), below_one("the second beta", betas[1])
        self.eps = at_least_zero("eps", eps)
        for _ in range(3 if amsgrad else 2):
            self.new_state()

    def update(self, value: np.ndarray, grad: np.ndarray, *state: np.ndarray) -> None:
        m, v, *largest = state
        b1, b2 = self.betas
        g = self.slope(value, grad)
        m *= b1
        m += g
        v *= b2
        v += np.multiply(g, g, out=self.spare(value))
        if largest:
            v = np.maximum(largest[0], v, out=largest[0])
        m_unit = (1 - b1) / (1 - b1**self.steps)
        v_unit = math.sqrt((1 - b2) / (1 - b2**self.steps))
        self.descend(value, m, v, self.lr * m_unit / v_unit, self.eps / v_unit)


class AdamW(Adam):
    """Adam with decoupled decay: w <- (1 - lr weight_decay) w, before Adam's own step.

    In Adam the decay is part of g, and so divided by sqrt(v): weights with large gradients
    hardly decay. Here all decay alike.
    Source: Loshchilov, Hutter, Decoupled weight decay regularization, arXiv:1711.05101.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
    ):
        super().__init__(parameters, lr, betas, eps, weight_decay, amsgrad)

    def slope(self, value: np.ndarray, grad: np.ndarray) -> np.ndarray:
        return grad

    def update(self, value: np.ndarray, grad: np.ndarray, *state: np.ndarray) -> None:
        if self.weight_decay:
            value *= 1 - self.lr * self.weight_decay
        super().update(value, grad, *state)


def at_least_zero(name: str, number: float) -> float:
    if not number >= 0:
        raise ValueError(f"{name} must be 0 or more, got {number}")
    return float(number)


def below_one(name: str, number: float) -> float:
    if not 0 <= number < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {number}")
    return float(number)
