"""Three surfaces with two coordinates, to watch optimizers descend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from section1.parameter import Parameter
from section1.sgd import Optimizer

RATES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

Numbers = Any  # a number, or an array of any shape


@dataclass(frozen=True)
class Surface:
    """f(x, y) and its gradient, for arrays of any shape, and what of it to draw."""

    height: Callable
    slope: Callable
    start: tuple[float, float]
    minimum: tuple[float, float]
    window: tuple[float, float, float, float]  # x from, to, y from, to


def ravine(x: Numbers, y: Numbers) -> Numbers:
    u, v = turned(x - 1, y - 1)
    return (u**2 + 50 * v**2) / 2


def ravine_slope(x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
    u, v = turned(x - 1, y - 1)
    return (math.sqrt(3) * u - 50 * v) / 2, (u + 50 * math.sqrt(3) * v) / 2


def turned(x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
    """(x, y) by its parts along and across a line at 30 degrees."""
    return (math.sqrt(3) * x + y) / 2, (math.sqrt(3) * y - x) / 2


def beale(x: Numbers, y: Numbers) -> Numbers:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    return a**2 + b**2 + c**2


def beale_slope(x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    dx = 2 * (a * (y - 1) + b * (y**2 - 1) + c * (y**3 - 1))
    return dx, 2 * x * (a + 2 * b * y + 3 * c * y**2)


def rosenbrock(x: Numbers, y: Numbers) -> Numbers:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def rosenbrock_slope(x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
    return -2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)


SURFACES = {
    "ravine": Surface(ravine, ravine_slope, (-3.0, 1.0), (1.0, 1.0), (-4, 4, -2.5, 3.5)),
    "Beale": Surface(beale, beale_slope, (1.0, 1.5), (3.0, 0.5), (-1.2, 4, -1.2, 2)),
    "Rosenbrock": Surface(
        rosenbrock, rosenbrock_slope, (-1.2, 1.0), (1.0, 1.0), (-1.7, 2.1, -0.6, 2)
    ),
}


def descend(
    rule: type[Optimizer], surface: Surface, starts: np.ndarray, lr: float, steps: int
) -> np.ndarray:
    """The places (steps + 1, starts, 2) that the optimizer visits from each start (starts, 2).

    These rules treat every number by itself, so all starts can be one parameter.
    """
    point = Parameter(starts.copy())
    optimizer = rule([point], lr)
    path = [starts.copy()]
    with np.errstate(all="ignore"):  # a rate that is too large ends in infinity
        for _ in range(steps):
            point.grad = np.stack(surface.slope(*point.value.T), axis=-1)
            optimizer.step()
            path.append(point.value.copy())
    return np.array(path)


def distances(path: np.ndarray, surface: Surface) -> np.ndarray:
    """How far each place (..., 2) is from the minimum; infinity where it is not a number."""
    with np.errstate(all="ignore"):
        distance = np.linalg.norm(path - surface.minimum, axis=-1)
    return np.where(np.isfinite(distance), distance, np.inf)


def best_rate(rule: type[Optimizer], surface: Surface, starts: np.ndarray, steps: int) -> float:
    def away(lr: float) -> float:
        return distances(descend(rule, surface, starts, lr, steps), surface).mean()

    return min(RATES, key=away)
