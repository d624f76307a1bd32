"""Activations: the bends between linear layers, without which depth adds nothing.

A composition of linear layers is linear. An activation is a function f of one number,
applied to each element, so its Jacobian is diagonal and the chain rule is a product of
two numbers: dx_i = dy_i f'(x_i). Every class here is such an f beside its f'.
Derivations: report.tex, from eq:activation-backward to eq:gelu.
"""

from __future__ import annotations

import copy
import math

import numpy as np

from section1.functions import as_float, normal_distribution, sigmoid, zeros
from section1.layer import Layer


class Activation(Layer):
    """Base class: y = f(x) and dx = dy f'(x), elementwise, for x of any shape.

    A subclass writes `function`, y = f(x) into `y`, and `slope`, f'(x) into `out`, which
    may use x, y or both.
    """

    def function(self, x: np.ndarray, y: np.ndarray) -> None:
        raise NotImplementedError

    def slope(self, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
        raise NotImplementedError

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = as_float(x)
        y = self.scratch("y", x.shape, x.dtype)
        self.function(x, y)
        self.remember(x, y)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        x, y = self.recall()
        dx = self.scratch("dx", y.shape, y.dtype)
        self.slope(x, y, dx)
        dx *= dy
        return dx


class Identity(Layer):
    """y = x. It returns its argument itself, not a copy."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy


class Sigmoid(Activation):
    """y = 1 / (1 + e^-x) and y' = y (1 - y), which is never above 1/4.

    Source: Rumelhart, Hinton, Williams, Learning representations by back-propagating
    errors (1986).
    """

    def function(self, x: np.ndarray, y: np.ndarray) -> None:
        sigmoid(x, out=y)

    def slope(self, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
        np.subtract(1, y, out=out)
        out *= y


class Tanh(Activation):
    """y = tanh x and y' = 1 - y^2: a sigmoid around zero.

    Source: LeCun, Bottou, Orr, Mueller, Efficient BackProp (1998), section 4.4.
    """

    def function(self, x: np.ndarray, y: np.ndarray) -> None:
        np.tanh(x, out=y)

    def slope(self, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
        np.multiply(y, y, out=out)
        np.subtract(1, out, out=out)


class ReLU(Activation):
    """y = max(x, 0) and y' = [x > 0]; at the kink, where y has no slope, y' = 0.

    Source: Nair, Hinton, Rectified linear units improve restricted Boltzmann machines (2010).
    """

    def function(self, x: np.ndarray, y: np.ndarray) -> None:
        np.maximum(x, zeros(y.shape, y.dtype), out=y)

    def slope(self, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
        np.greater(y, 0, out=out)  # 1 for true, 0 for false


class LeakyReLU(Activation):
    """y = max(x, a x) with a small slope a, so that no unit stops learning; y' = 1 or a.

    Raises ValueError unless 0 <= a <= 1.
    Source: Maas, Hannun, Ng, Rectifier nonlinearities improve acoustic models (2013).
    """

    def __init__(self, slope: float = 0.01):
        if not 0 <= slope <= 1:
            raise ValueError(f"LeakyReLU expects a slope from 0 to 1, got {slope}")
        self.a = slope

    def function(self, x: np.ndarray, y: np.ndarray) -> None:
        np.multiply(x, self.a, out=y)
        np.maximum(x, y, out=y)

    def slope(self, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
        np.greater(x, 0, out=out)
        out *= 1 - self.a
        out += self.a


class ELU(Activation):
    """y = x above zero and a (e^x - 1) below; y' = 1 above and a e^x = y + a below.

    Source: Clevert, Unterthiner, Hochreiter, Fast and accurate deep network learning by
    exponential linear units, arXiv:1511.07289. Raises ValueError for a negative alpha.
    """

    def __init__(self, alpha: float = 1.0):
        if not alpha >= 0:
            raise ValueError(f"ELU expects an alpha of 0 or more, got {alpha}")
        self.alpha = alpha

    def function(self, x: np.ndarray, y: np.ndarray) -> None:
        zero = zeros(y.shape, y.dtype)
        np.minimum(x, zero, out=y)
        np.expm1(y, out=y)
        y *= self.alpha
        y += np.maximum(x, zero, out=self.scratch("positive", y.shape, y.dtype))

    def slope(self, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
        np.minimum(y, zeros(y.shape, y.dtype), out=out)
        out += self.alpha
        if self.alpha != 1:  # above zero it is alpha so far
            out += np.multiply(x > 0, 1 - self.alpha, dtype=out.dtype)


class Softplus(Activation):
    """y = log(1 + e^x) and y' = sigmoid(x): a ReLU with a round corner.

    Written as max(x, 0) + log(1 + e^-|x|), where nothing can overflow.
    Source: Dugas et al., Incorporating second-order functional knowledge (2001).
    """

    def function(self, x: np.ndarray, y: np.ndarray) -> None:
        np.abs(x, out=y)
        np.negative(y, out=y)
        np.exp(y, out=y)
        np.log1p(y, out=y)
        positive = self.scratch("positive", y.shape, y.dtype)
        y += np.maximum(x, zeros(y.shape, y.dtype), out=positive)

    def slope(self, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
        sigmoid(x, out=out)


class SelfGate(Layer):
    """Base class: y = x P(x), elementwise: x times the chance P(x) that it passes.

    P is a smooth step from 0 to 1, a distribution function with the density p = P', so
    dx = dy (P(x) + x p(x)). A subclass writes `distribution`, P(x), and `density`, p(x),
    which may use P(x); both into `out`.
    """

    def distribution(self, x: np.ndarray, out: np.ndarray) -> None:
        raise NotImplementedError

    def density(self, x: np.ndarray, chance: np.ndarray, out: np.ndarray) -> None:
        raise NotImplementedError

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = as_float(x)
        chance = self.scratch("chance", x.shape, x.dtype)
        self.distribution(x, chance)
        self.remember(x, chance)
        return np.multiply(x, chance, out=self.scratch("y", x.shape, x.dtype))

    def backward(self, dy: np.ndarray) -> np.ndarray:
        x, chance = self.recall()
        dx = self.scratch("dx", x.shape, x.dtype)
        self.density(x, chance, dx)
        dx *= x
        dx += chance
        dx *= dy
        return dx


class SiLU(SelfGate):
    """y = x s with s = sigmoid(x), and y' = s + x s (1 - s).

    Sources: Hendrycks, Gimpel, arXiv:1606.08415; Ramachandran, Zoph, Le, Searching for
    activation functions, arXiv:1710.05941, who call it swish.
    """

    def distribution(self, x: np.ndarray, out: np.ndarray) -> None:
        sigmoid(x, out=out)

    def density(self, x: np.ndarray, chance: np.ndarray, out: np.ndarray) -> None:
        np.subtract(1, chance, out=out)
        out *= chance


class GELU(SelfGate):
    """y = x P(x), with P the standard normal distribution function.

    Args:
        approximate: "tanh" takes P(x) = (1 + tanh u) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3),
            which is within 0.0005 of the exact y and what GPT-2 uses; "none" is exact to
            rounding and takes about twice the time. (PyTorch's own default is "none".)

    Source: Hendrycks, Gimpel, Gaussian error linear units, arXiv:1606.08415.
    """

    C, A = math.sqrt(2 / math.pi), 0.044715

    def __init__(self, approximate: str = "tanh"):
        if approximate not in ("tanh", "none"):
            raise ValueError(f"GELU knows approximate='tanh' and 'none', got {approximate!r}")
        self.approximate = approximate

    def distribution(self, x: np.ndarray, out: np.ndarray) -> None:
        if self.approximate == "none":
            normal_distribution(x, out=out)
            return
        np.multiply(x, x, out=out)
        out *= self.C * self.A
        out += self.C
        out *= x  # u = x (C + C A x^2)
        np.tanh(out, out=out)
        out *= 0.5
        out += 0.5

    def density(self, x: np.ndarray, chance: np.ndarray, out: np.ndarray) -> None:
        np.multiply(x, x, out=out)
        if self.approximate == "none":
            out *= -0.5
            np.exp(out, out=out)
            out *= 1 / math.sqrt(2 * math.pi)
            return
        out *= 6 * self.C * self.A
        out += 2 * self.C  # 2 u'
        out *= chance
        rest = self.scratch("rest", x.shape, x.dtype)
        out *= np.subtract(1, chance, out=rest)  # p = u' (1 - tanh^2 u) / 2 = 2 u' P (1 - P)


ACTIVATIONS: dict[str, type[Layer]] = {
    "identity": Identity,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "gelu": GELU,
    "silu": SiLU,
    "softplus": Softplus,
}


def activation(name: str | Layer) -> Layer:
    """A new activation layer of that name, or a copy of the layer that was given.

    A copy, because a layer remembers its last input: one that stood in two places of a
    network would forget the first. Raises ValueError for an unknown name.
    """
    if isinstance(name, Layer):
        return copy.deepcopy(name)
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
