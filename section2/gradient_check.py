"""Gradient checking: the proof that a backward pass is the derivative of its forward pass.

The slope of f at w is the limit of the centred difference D(t) = (f(w + t) - f(w - t)) / 2t.
Too large a step t sees the curve, and too small a step the rounding of f; a gradient is
right only if it agrees with the difference to many digits. Three things make that sharp:

- Three steps h, 2h, 4h, combined so that the errors in t^2 and t^4 cancel (Richardson).
  So h need not be tiny, and rounding hardly matters.
- The rounding of f is measured. A gradient is compared relative to its own size or, where
  that is smaller, to the size at which rounding alone makes a relative error of the tolerance.
  If all is so small that rounding hides it, nothing has been shown, unless it is zero.
- A kink (ReLU at 0, a tie in max-pooling) has no slope to compare with. It is found from f
  alone: there the slopes from the left and the right still differ as t goes to 0, or the
  three steps disagree. Such elements are set aside and counted; too many, and nothing has
  been shown: the check fails.

Sources: Ridders, Accurate computation of F'(x) and F'(x) F''(x) (1982); More, Wild,
Estimating computational noise (2011). Derivations: report.tex, eq:gradient-check-error,
eq:richardson, eq:rounding-noise, eq:kink.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from section1.layer import Layer
from section1.losses import Loss
from section1.parameter import Parameter

TOLERANCE = 1e-7
STEP = 1e-3
SAMPLE = 100  # elements checked of one array
DIRECTIONS = 8


@dataclass(frozen=True)
class Row:
    """What was found for one array, or along random directions.

    `worst` is the largest relative error |a - n| / max(|a|, |n|) of the analytic gradient a
    and the numeric n. Where both are so small that rounding alone makes a relative error of
    `tolerance`, |a - n| is measured by the size at which it does.
    """

    name: str
    size: int
    checked: int
    kinks: int  # set aside
    worst: float
    tolerance: float
    visible: bool  # not all is hidden by rounding, or all is zero

    @property
    def passed(self) -> bool:
        """All agree, most could be checked, and there was something to see."""
        most = self.checked > 0 and self.checked >= self.kinks
        return most and self.worst <= self.tolerance and self.visible


@dataclass(frozen=True)
class Report:
    """One row for each array; `str(report)` is a table."""

    rows: list[Row]

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def worst(self) -> float:
        return max(row.worst for row in self.rows)

    def __str__(self) -> str:
        lines = [f"{'':<24}{'size':>8}{'checked':>9}{'kinks':>7}{'worst error':>13}"]
        for row in self.rows:
            wrong = not row.worst <= row.tolerance
            verdict = "" if row.passed else "  WRONG" if wrong else "  NOT CHECKED"
            lines.append(
                f"{row.name:<24}{row.size:>8}{row.checked:>9}{row.kinks:>7}{row.worst:>13.1e}{verdict}"
            )
        return "\n".join(lines)


# --- what is checked ---------------------------------------------------------------------


def check_layer(
    layer: Layer,
    x: np.ndarray,
    *,
    rng: np.random.Generator,
    tolerance: float = TOLERANCE,
    sample: int = SAMPLE,
    step: float = STEP,
) -> Report:
    """Check dx and the gradient of every parameter of sum(y * dy), for a random dy.

    `layer` and `x` are float64 (a float32 has too few digits, ValueError); for an x of
    integers there is no dx. The layer must be in training mode: in evaluation mode it keeps
    nothing for backward. Its random numbers are reseeded before every forward pass, and its
    values and buffers end as they were. At most `sample` elements of an array are checked,
    chosen by `rng`.
    """
    x, before = np.array(x, order="C"), [array.copy() for array in layer.buffers()]
    layer.reseed(0)
    dy = rng.standard_normal(layer.forward(x).shape)

    def terms() -> np.ndarray:
        layer.reseed(0)
        return layer.forward(x) * dy

    layer.zero_grad()
    terms()
    arrays = _arrays(layer, x, layer.backward(dy))
    check = _Check(terms, arrays, rng, tolerance, step)
    rows = [check.elements(name, sample) for name in arrays]
    _restore(layer, before)
    return Report(rows)


def check_loss(
    loss: Loss,
    prediction: np.ndarray,
    target: np.ndarray,
    *,
    rng: np.random.Generator,
    tolerance: float = TOLERANCE,
    sample: int = SAMPLE,
    step: float = STEP,
) -> Report:
    """Check the gradient of a loss along a float64 prediction."""
    prediction = np.array(prediction, order="C")
    loss.forward(prediction, target)
    arrays: Arrays = {"prediction": (prediction, loss.backward().copy())}

    def terms() -> np.ndarray:
        return np.array([loss.forward(prediction, target)])

    check = _Check(terms, arrays, rng, tolerance, step)
    return Report([check.elements("prediction", sample)])


def check_model(
    model: Layer,
    loss: Loss,
    x: np.ndarray,
    target: np.ndarray,
    *,
    rng: np.random.Generator,
    tolerance: float = TOLERANCE,
    sample: int = 10,
    directions: int = DIRECTIONS,
    step: float = STEP,
) -> Report:
    """Check the gradients of loss(model(x), target): a few elements of each array, and
    random directions through all of them at once, which no element can hide from.

    The conditions are those of `check_layer`.
    """
    x, before = np.array(x, order="C"), [array.copy() for array in model.buffers()]

    def terms() -> np.ndarray:
        model.reseed(0)
        return np.array([loss.forward(model.forward(x), target)])

    model.zero_grad()
    terms()
    arrays = _arrays(model, x, model.backward(loss.backward()))
    check = _Check(terms, arrays, rng, tolerance, step)
    rows = [check.elements(name, sample) for name in arrays]
    rows.append(check.directions(directions))
    _restore(model, before)
    return Report(rows)


Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # name: (values, analytic gradient)


def named_parameters(layer: Layer, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
    """Names such as `layers.0.weight` with all parameters of a layer."""
    for name, attribute in vars(layer).items():
        if isinstance(attribute, Parameter):
            yield prefix + name, attribute
        items = [(name, attribute)]
        if isinstance(attribute, (list, tuple)):
            items = [(f"{name}.{k}", item) for k, item in enumerate(attribute)]
        for path, item in items:
            if isinstance(item, Layer):
                yield from named_parameters(item, f"{prefix}{path}.")


def _arrays(layer: Layer, x: np.ndarray, dx: np.ndarray | None) -> Arrays:
    arrays = {}
    if x.dtype.kind == "f":
        if dx is None:
            raise ValueError(f"{type(layer).__name__}.backward returned no dx to check")
        arrays["x"] = x, dx.copy()
    seen = set[Parameter]()
    for name, parameter in named_parameters(layer):
        if parameter not in seen:  # one that two layers share is checked once
            arrays[name] = parameter.value, parameter.grad.copy()
            seen.add(parameter)
    return arrays


def _restore(layer: Layer, buffers: list[np.ndarray]) -> None:
    for array, before in zip(layer.buffers(), buffers):
        array[...] = before
    layer.zero_grad()


# --- how it is checked -------------------------------------------------------------------


class _Slope(NamedTuple):
    """The numeric slope along a line, its uncertainty, and whether there is a slope at all."""

    value: float
    uncertainty: float
    smooth: bool


class _Check:
    """`terms()` computes an array whose sum is the function f of `arrays`.

    The terms are subtracted before they are summed, so that those which an element does not
    touch cancel exactly.
    """

    def __init__(
        self,
        terms: Callable[[], np.ndarray],
        arrays: Arrays,
        rng: np.random.Generator,
        tolerance: float,
        step: float,
    ):
        self.terms, self.arrays, self.rng = terms, arrays, rng
        self.tolerance, self.step = tolerance, step
        for name, (array, _) in arrays.items():
            if array.dtype != np.float64:
                raise ValueError(f"a gradient check needs float64, but {name} is {array.dtype}")
        self.middle = terms().copy()
        self.noise = self.rounding()

    def elements(self, name: str, sample: int) -> Row:
        """Element by element: all of a small array, a sample of a large one."""
        array, gradient = self.arrays[name]
        if gradient.shape != array.shape:
            return Row(name, array.size, 0, 0, math.inf, self.tolerance, False)
        flat, chosen = array.reshape(-1), np.arange(array.size)
        if array.size > sample:
            chosen = self.rng.choice(array.size, sample, replace=False)
        slopes = []
        for index in chosen.tolist():
            before = flat[index]

            def at(t: float, index: int = index, before: float = before) -> np.ndarray:
                flat[index] = before + t
                return self.terms()

            slopes.append(self.slope(at))
            flat[index] = before
        return self.row(name, array.size, gradient.reshape(-1)[chosen].tolist(), slopes)

    def directions(self, count: int) -> Row:
        """Along random unit vectors v through all arrays at once, where the slope is a . v."""
        analytic, slopes = [], []
        size = sum(array.size for array, _ in self.arrays.values())
        for _ in range(count):
            move, vectors = self.random_line(1 / math.sqrt(size))
            slopes.append(self.slope(move))
            move(0)
            pairs = zip(vectors, self.arrays.values())
            analytic.append(float(sum((v * gradient).sum() for v, (_, gradient) in pairs)))
        return self.row("random directions", size, analytic, slopes)

    def random_line(self, scale: float) -> tuple[Callable[[float], np.ndarray], list[np.ndarray]]:
        """f at a distance t from here along a random vector, and that vector."""
        arrays = [array for array, _ in self.arrays.values()]
        before = [array.copy() for array in arrays]
        vectors = [scale * self.rng.standard_normal(array.shape) for array in arrays]

        def at(t: float) -> np.ndarray:
            for array, middle, vector in zip(arrays, before, vectors):
                array[...] = middle + t * vector
            return self.terms()

        return at, vectors

    def slope(self, at: Callable[[float], np.ndarray]) -> _Slope:
        """The slope of sum(at(t)) at t = 0; once more with a shorter step before giving up."""
        slope = self.slope_by(at, self.step)
        return slope if slope.smooth else self.slope_by(at, self.step / 8)

    def slope_by(self, at: Callable[[float], np.ndarray], h: float) -> _Slope:
        centred, bend = list[float](), list[float]()
        for t in (h, 2 * h, 4 * h):
            up, down = at(t) - self.middle, at(-t) - self.middle
            centred.append(float((up - down).sum()) / (2 * t))  # f' + (t^2) + (t^4) ...
            bend.append(float((up + down).sum()) / t)  # jump of f' + (t) + (t^3) ...
        first = (4 * centred[0] - centred[1]) / 3  # without t^2
        second = (4 * centred[1] - centred[2]) / 3
        value = (16 * first - second) / 15  # without t^4
        jump = (8 * (2 * bend[0] - bend[1]) - (2 * bend[1] - bend[2])) / 7  # without t, t^3
        uncertainty = 30 * self.noise / h  # the jump has a standard error of 4.7 noise / h
        limit = max(self.tolerance * abs(value), uncertainty)
        smooth = abs(jump) <= limit and abs(first - second) <= limit / 5
        return _Slope(value, uncertainty, smooth)

    def rounding(self) -> float:
        """The standard deviation of the rounding errors of f.

        Sixth differences of f over a very short line vanish but for the rounding, whose
        variance they multiply by 12! / 6!^2. The line starts beside the point, which may
        lie on a kink; the median of three lines does not mind a kink in one of them.
        """
        estimates = []
        for _ in range(3):
            at, _ = self.random_line(1e-6)
            values = np.stack([at(t) for t in range(1, 17)])
            at(0)
            sums = np.diff(values, 6, axis=0).reshape(10, -1).sum(axis=1)
            estimates.append(
                math.sqrt(np.mean(sums**2) * math.factorial(6) ** 2 / math.factorial(12))
            )
        one = float(np.finfo(float).eps * np.linalg.norm(self.middle))
        return float(np.clip(np.median(estimates), one / 2, 1000 * one))

    def row(self, name: str, size: int, analytic: list[float], slopes: list[_Slope]) -> Row:
        errors, visible, largest = [0.0], False, 0.0
        for a, (n, uncertainty, smooth) in zip(analytic, slopes):
            if not smooth:
                continue
            scale = max(abs(a), abs(n), uncertainty / self.tolerance)
            errors.append(abs(a - n) / scale if scale else 0.0)
            visible |= max(abs(a), abs(n)) > uncertainty
            largest = max(largest, abs(a))
        kinks = sum(not slope.smooth for slope in slopes)
        visible |= largest <= 4 * self.noise
        worst = float(np.max(errors))
        return Row(name, size, len(slopes) - kinks, kinks, worst, self.tolerance, visible)
