"""Functions to approximate, on [-1, 1] and on the square [-1, 1] x [-1, 1].

Each is hard in its own way: a jump, a corner, a frequency that rises, bumps on a plain. A
network with one hidden layer can come as close to any continuous one of them as one likes
(Cybenko, Approximation by superpositions of a sigmoidal function, 1989), which says
nothing about how many neurons or how much training that takes.

    TARGETS_1D["chirp"](x)         elementwise, any shape
    TARGETS_2D["ripple"](x1, x2)   elementwise, shapes that broadcast
    TARGETS_1D["chirp"].formula    for a plot's title, in LaTeX
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Target:
    """A function and its formula: call it on arrays, get an array of their dtype."""

    formula: str
    function: Callable[..., np.ndarray]

    def __call__(self, *coordinates: np.ndarray) -> np.ndarray:
        return self.function(*coordinates)


def _step(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, 0.0, 1.0).astype(x.dtype)


def _bumps(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    hill = np.exp(-8 * ((x - 0.4) ** 2 + (y - 0.4) ** 2))
    hollow = np.exp(-8 * ((x + 0.4) ** 2 + (y + 0.3) ** 2))
    return hill - hollow


TARGETS_1D: dict[str, Target] = {
    "sines": Target(
        r"$\frac{1}{2}\sin(2\pi x) + \frac{1}{4}\sin(6\pi x)$",
        lambda x: np.sin(2 * np.pi * x) / 2 + np.sin(6 * np.pi * x) / 4,
    ),
    "step": Target(r"$0$ if $x < 0$, else $1$", _step),
    "abs": Target(r"$|x|$", np.abs),
    "bump": Target(r"$e^{-25 x^2}$", lambda x: np.exp(-25 * x**2)),
    "chirp": Target(r"$\sin(2\pi (x + 1)^2)$", lambda x: np.sin(2 * np.pi * (x + 1) ** 2)),
}

TARGETS_2D: dict[str, Target] = {
    "ripple": Target(
        r"$\cos(3\pi \sqrt{x_1^2 + x_2^2})$", lambda x, y: np.cos(3 * np.pi * np.hypot(x, y))
    ),
    "saddle": Target(r"$x_1^2 - x_2^2$", lambda x, y: x**2 - y**2),
    "checker": Target(
        r"$\sin(2\pi x_1) \sin(2\pi x_2)$",
        lambda x, y: np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y),
    ),
    "bumps": Target(r"$e^{-8 |x - (0.4, 0.4)|^2} - e^{-8 |x + (0.4, 0.3)|^2}$", _bumps),
}
