"""Which activations let gradients through, and for which inputs do they stop them?

Backpropagation multiplies every gradient by the slope of the activation. Where the slope
is almost zero a unit learns nothing; where it is never above 1/4, as for the sigmoid, the
slopes of ten layers leave at most a millionth of a gradient, if the weights do not make up for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from section1.activations import ACTIVATIONS, activation
from section1.experiments._training import mean_std, rounded, spread
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

X = np.linspace(-5, 5, 1001)
STOPPED = 0.01  # a slope below this lets less than a hundredth of the gradient through


def value_and_slope(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f(x) and f'(x) as the layer itself computes them: forward, and backward of ones."""
    layer = activation(name)
    y = layer.forward(x)
    slope = layer.backward(np.ones_like(x))
    assert slope is not None
    return y, slope


def where(chosen: np.ndarray) -> str:
    """The inputs X that are `chosen`, as intervals: "x < -4.6, x > 4.6"."""
    edges = np.flatnonzero(np.diff(chosen.astype(int), prepend=0, append=0)).reshape(-1, 2)
    words = []
    for first, after in edges:
        low, high = rounded(X[first], 1), rounded(X[after - 1], 1)
        if first == 0:
            words.append(f"x < {high:g}")
        elif after == len(X):
            words.append(f"x > {low:g}")
        else:
            words.append(f"{low:g} < x < {high:g}" if low < high else f"x near {low:g}")
    return ", ".join(words) or "nowhere"


def compute(run: Run) -> Result:
    budget = run.budget
    run.note_data("inputs", f"{len(X)} inputs from -5 to 5, and standard-normal signals")
    metrics, curves = {}, {}
    rows: list[list[Any]] = []
    with run.progress(len(ACTIVATIONS)) as bar:
        for name in ACTIVATIONS:
            y, slope = value_and_slope(name, X)
            curves[f"value_{name}"] = Curve(X.tolist(), y.tolist(), None, 1, "input x", "f(x)")
            curves[f"slope_{name}"] = Curve(X.tolist(), slope.tolist(), None, 1, "input x", "f'(x)")
            stopped = np.abs(slope) < STOPPED
            signals = run.rng(0).standard_normal((budget.seeds, budget.samples))
            outputs, slopes = value_and_slope(name, signals)  # (seeds, samples)
            average, deviation = mean_std(outputs.mean(axis=1))
            gain, _ = mean_std(np.sqrt((slopes**2).mean(axis=1)))
            metrics[f"{name}_stopped"] = float(stopped.mean())
            metrics[f"{name}_largest_slope"] = float(slope.max())
            metrics[f"{name}_output_mean"], metrics[f"{name}_output_mean_std"] = average, deviation
            metrics[f"{name}_gradient_rms"] = gain
            share = f"{stopped.mean():.0%}"
            mean = f"{rounded(average, 3):.3f}{spread(deviation, budget.seeds, '.3f')}"
            mean += f" (n = {budget.seeds})"
            rows.append([name, share, where(stopped), round(float(slope.max()), 3), mean, gain])
            bar.advance(name)
    bends = {row[0]: metrics[f"{row[0]}_stopped"] for row in rows if row[0] != "identity"}
    never = [name for name, share in bends.items() if share == 0]
    worst = max(bends, key=lambda name: bends[name])
    flattest = min(bends, key=lambda name: metrics[f"{name}_largest_slope"])
    top = metrics[f"{flattest}_largest_slope"]
    places = {row[0]: row[2] for row in rows}
    metrics["most_stopped"] = bends[worst]
    answer = (
        f"Of the inputs from -5 to 5, {worst} stops the gradient (slope below {STOPPED}) for "
        f"the most, {bends[worst]:.0%} ({places[worst]}); "
        + (f"{' and '.join(never)} stops none. " if never else "every one of them stops some. ")
        + f"The slope of {flattest} is at most {top:.2f}, so ten of them leave at most "
        f"{top**10:.0e} of a gradient."
    )
    columns = [
        "activation", f"slope < {STOPPED}", "where", "largest slope",
        "mean output for N(0, 1)", "RMS slope for N(0, 1)",
    ]  # fmt: skip
    return Result(answer, "most_stopped", metrics, curves, {"activations": Table(columns, rows)})


def draw(result: Result) -> dict[str, Figure]:
    figure, axes = plots.grid(3, 3, width=3.5, height=2.7, sharex=True, sharey=True)
    rows = result.tables["activations"].rows
    for place, (name, share, stopped_where, largest, *_) in zip(axes.flat, rows):
        value, slope = result.curves[f"value_{name}"], result.curves[f"slope_{name}"]
        stopped = np.abs(slope.y) < STOPPED
        place.fill_between(value.x, -1.5, 3.2, where=stopped, color="0.88", lw=0, step="mid")
        place.plot(value.x, value.y, label="f(x)")
        place.plot(slope.x, slope.y, "--", label="slope f'(x)")
        place.set_title(f"{name}: slope up to {largest:g}\nstops {share} ({stopped_where})")
        place.set(ylim=(-1.5, 3.2))
    for place in axes[-1]:
        place.set_xlabel("input x")
    for place in axes[:, 0]:
        place.set_ylabel("output, slope")
    axes[0, 0].legend(loc="upper left")
    kinds = [row for row in rows if row[0] != "identity"]
    worst = max(kinds, key=lambda row: result.metrics[f"{row[0]}_stopped"])
    figure.suptitle(
        f"{worst[0]} stops gradients for {worst[1]} of the inputs, more than any other; "
        f"grey: slope below {STOPPED}"
    )
    return {"activations": figure}
