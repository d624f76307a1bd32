"""Is every gradient of the course so far right, and would the check notice if one were not?

Each layer and loss of sections 1 and 2, and some whole networks, are held against centred
differences in float64; then faults are planted in them, one at a time. Why it takes float64
and a step that is neither long nor short is shown on the loss of a small network, along
random directions: a long step sees the curve (truncation), a short one only the rounding of
the loss, and between them the error has its lowest point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from section1.losses import SoftmaxCrossEntropy
from section1.mlp import MLP
from section2.experiments._account import account, draw_account
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

Line = Callable[[float], float]  # the loss at a distance along a direction
LEAST = 1e-17  # instead of an error of 0 under a logarithm


def forward_difference(f: Line, h: float) -> float:
    return (f(h) - f(0)) / h


def centred(f: Line, h: float) -> float:
    return (f(h) - f(-h)) / (2 * h)


def extrapolated(f: Line, h: float) -> float:
    """From h, 2h and 4h, without the errors in h^2 and h^4 (Richardson)."""
    d1, d2, d4 = (centred(f, step) for step in (h, 2 * h, 4 * h))
    return (16 * (4 * d1 - d2) / 3 - (4 * d2 - d4) / 3) / 15


METHODS: dict[str, tuple[Callable[[Line, float], float], Any, str]] = {
    "forward": (forward_difference, np.float64, "one-sided, (f(h) - f(0)) / h"),
    "centred": (centred, np.float64, "centred, (f(h) - f(-h)) / 2h"),
    "extrapolated": (extrapolated, np.float64, "centred with h, 2h, 4h, extrapolated"),
    "centred32": (centred, np.float32, "centred, in float32"),
}


def line_of(rng: np.random.Generator, dtype: Any) -> tuple[Line, float]:
    """The loss of a small network along a random direction, and its slope there."""
    model, loss = MLP([10, 16, 5], "tanh", rng=rng, dtype=dtype), SoftmaxCrossEntropy()
    x, y = rng.standard_normal((8, 10)).astype(dtype), rng.integers(5, size=8)
    parameters = model.parameters()
    middle = [parameter.value.copy() for parameter in parameters]
    direction = [rng.standard_normal(value.shape) for value in middle]
    length = np.sqrt(sum((along**2).sum() for along in direction))
    direction = [along / length for along in direction]

    def f(t: float) -> float:
        for parameter, value, along in zip(parameters, middle, direction):
            parameter.value[...] = value + t * along
        return loss(model(x), y)

    f(0)
    model.backward(loss.backward())
    slope = sum(float((p.grad * along).sum()) for p, along in zip(parameters, direction))
    return f, slope


def compute(run: Run) -> Result:
    result = account(run, [1, 2])
    steps = np.logspace(-12, 0, 49)
    rows = []
    for name, (method, dtype, label) in METHODS.items():
        errors = np.empty((run.budget.directions, len(steps)))
        for k in range(len(errors)):
            f, _ = line_of(run.rng(k), dtype)
            _, slope = line_of(run.rng(k), np.float64)  # the same weights, as exact as can be
            numeric = np.array([method(f, h) for h in steps])
            size = np.maximum(np.abs(numeric), abs(slope))
            errors[k] = np.log10(np.maximum(np.abs(numeric - slope) / size, LEAST))
        curve = Curve.over_runs(steps.tolist(), errors, "step h", "log10 of the relative error")
        result.curves[name] = curve
        best = int(np.argmin(curve.y))
        result.metrics[f"{name}_best_step"] = float(steps[best])
        result.metrics[f"{name}_best_error"] = 10 ** curve.y[best]
        rows.append([label, float(steps[best]), 10 ** curve.y[best], len(errors)])
    columns = ["difference", "best step", "relative error there", "directions"]
    result.tables["steps"] = Table(columns, rows)
    result.answer += (
        f" A centred difference is best at a step of {result.metrics['centred_best_step']:.0e} "
        f"(error {result.metrics['centred_best_error']:.0e}), an extrapolated one at "
        f"{result.metrics['extrapolated_best_step']:.0e} "
        f"({result.metrics['extrapolated_best_error']:.0e}); in float32 a centred one errs by at "
        f"least {result.metrics['centred32_best_error']:.0e}."
    )
    return result


def draw(result: Result) -> dict[str, Figure]:
    metrics = result.metrics
    steps, axes = plots.grid(width=7.2, height=4.2)
    axes[0, 0].set_xscale("log")
    for number, (name, (*_, label)) in enumerate(METHODS.items()):
        look = {"marker": plots.MARKERS[number], "ms": 4, "markevery": 4}
        look["ls"] = ("-", "--", "-.", ":")[number]
        plots.plot_curve(axes[0, 0], result.curves[name], label, **look)
    axes[0, 0].set_xlabel("step h (left: rounding of the loss; right: its curve)")
    steps.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    steps.suptitle(
        f"Too short a step sees rounding, too long a one the curve: the best centred difference "
        f"errs by {metrics['centred_best_error']:.0e} (h = {metrics['centred_best_step']:.0e}), in "
        f"float32 by {metrics['centred32_best_error']:.0e}"
    )
    return {"checks": draw_account(result), "steps": steps}
