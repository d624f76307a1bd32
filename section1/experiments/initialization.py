"""Which initial weights let a signal pass through many layers, forward and back?

A layer multiplies the spread of its input by a factor, so after L layers the factor stands
to the power L. Images go through a deep untrained MLP; after each layer the spread of the
activations is measured, then that of the gradient on its way back; then the same networks
are trained for a short while, with one learning rate for all.
Sources: Glorot, Bengio (2010); He et al., arXiv:1502.01852; Saxe et al., arXiv:1312.6120.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from section1.activations import Activation
from section1.experiments._images import load_rows
from section1.experiments._training import counted
from section1.functions import softmax
from section1.losses import SoftmaxCrossEntropy
from section1.mlp import MLP
from section1.network import Sequential
from section1.sgd import SGD
from section1.training import Batch, fit
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

INITS = {
    "zeros": "zeros",
    "normal": "normal (0.01)",
    "xavier_normal": "Xavier",
    "he_normal": "He",
    "orthogonal": "orthogonal",
}
BENDS = {"tanh": "tanh", "relu": "ReLU"}
IMAGES = 256  # that are sent through the untrained networks
GUESSING = math.log(10)  # the loss of giving every digit the same chance
TINY = 1e-300  # instead of 0 as a divisor
WINDOW = 10  # steps over which the training loss is averaged


def spreads(model: Sequential, batch: Batch) -> tuple[list[float], list[float]]:
    """For every hidden layer the std of its activations, and of the loss's slope along them."""
    x, y = batch
    forward, backward = [], []
    for layer in model.layers:
        x = layer.forward(x)
        if isinstance(layer, Activation):
            forward.append(float(x.std(dtype=float)))
    dy = softmax(x)
    dy[np.arange(len(y)), y] -= 1  # of each image's own cross-entropy
    for layer in reversed(model.layers):
        if isinstance(layer, Activation):
            backward.append(float(dy.std(dtype=float)))
        dx = layer.backward(dy)
        assert dx is not None  # nobody told this model to skip its input gradient
        dy = dx
    return forward, backward[::-1]


def train_loss(run: Run, model: MLP, data: Batch, rng: np.random.Generator) -> np.ndarray:
    """The loss in training, averaged over windows of ten steps; NaN where it blew up."""
    budget, (x, y) = run.budget, data
    windows = max(1, budget.steps // WINDOW)

    def batches(rng: np.random.Generator) -> Iterator[Batch]:
        for _ in range(budget.steps):
            rows = rng.integers(len(x), size=budget.batch_size)
            yield x[rows], y[rows]

    loss, optimizer = SoftmaxCrossEntropy(), SGD(model.parameters(), budget.lr)
    options = {"epochs": 1, "batch_size": budget.batch_size, "threads": run.threads}
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            history = fit(model, loss, optimizer, batches, rng=rng, metric=None, **options)
    except FloatingPointError:
        return np.full(windows, math.nan)
    return np.array([np.mean(part) for part in np.array_split(history.step_loss, windows)])


def compute(run: Run) -> Result:
    budget = run.budget
    data = load_rows(run, "mnist")
    sample = data.train[0][:IMAGES], data.train[1][:IMAGES]
    sizes = [data.features, *[budget.width] * budget.depth, len(data.classes)]
    layers, metrics, curves, rows = range(1, budget.depth + 1), {}, {}, []
    with run.progress(len(BENDS) * len(INITS) * budget.seeds) as bar:
        for bend in BENDS:
            for init in INITS:
                forward, backward, losses = [], [], []
                for seed in range(budget.seeds):
                    weights, order = run.rng(seed).spawn(2)
                    model = MLP(sizes, bend, init, rng=weights)
                    there, back = spreads(model, sample)
                    forward.append(there)
                    backward.append(back)
                    losses.append(train_loss(run, model, data.train, order))
                    bar.advance()
                key = f"{bend}_{init}"
                curves[f"forward_{key}"] = Curve.over_runs(
                    layers, forward, "hidden layer", "std of activations"
                )
                curves[f"backward_{key}"] = Curve.over_runs(
                    layers, backward, "hidden layer", "std of dL/d(activation)"
                )
                steps = (np.arange(len(losses[0])) + 0.5) * budget.steps / len(losses[0])
                curves[f"loss_{key}"] = Curve.over_runs(
                    steps, losses, "step", "cross-entropy (nats)"
                )
                last = float(np.mean([loss[-1] for loss in losses]))
                ends = [np.mean(side, axis=0)[[0, -1]] for side in (forward, backward)]
                there, back = ends[0][1] / max(ends[0][0], TINY), ends[1][0] / max(ends[1][1], TINY)
                for name, number in (("loss", last), ("forward", there), ("backward", back)):
                    if math.isfinite(number):
                        metrics[f"{key}_{name}"] = float(number)
                rows.append(
                    [BENDS[bend], INITS[init], float(there), float(back), last, budget.seeds]
                )
    answer = (
        f"From the first to the last of {counted(budget.depth, 'hidden layer')} the spread of "
        "activations is multiplied by "
        f"{factor(metrics['tanh_xavier_normal_forward'])} with tanh and Xavier; with ReLU by "
        f"{factor(metrics['relu_xavier_normal_forward'])} with Xavier, "
        f"{factor(metrics['relu_he_normal_forward'])} with He and "
        f"{factor(metrics['relu_normal_forward'])} with normal weights of std 0.01. "
        f"{learning(rows, budget.steps)}"
    )
    columns = ["activation", "init", "forward: last / first layer", "backward: first / last layer"]
    table = Table([*columns, f"loss after {counted(budget.steps, 'step')}", "n"], rows)
    return Result(answer, "relu_he_normal_forward", metrics, curves, {"inits": table})


def factor(number: float) -> str:
    return f"{number:.2f}" if number >= 0.01 or number == 0 else f"{number:.0e}"


def learned(loss: float | None) -> bool:
    """Whether a loss is clearly below guessing; None and NaN are of a training that blew up."""
    return loss is not None and loss < 0.95 * GUESSING


def learning(rows: list[list], steps: int) -> str:
    """Which of the networks learned, in words."""
    sentences, after = [], counted(steps, "step")
    for bend in BENDS.values():
        losses = {row[1]: row[4] for row in rows if row[0] == bend}
        good = {name: loss for name, loss in losses.items() if learned(loss)}
        stuck = [name for name in losses if name not in good]
        if good:
            best = min(good, key=good.__getitem__)
            words = f"With {bend}, {best} is best after {after} (loss {good[best]:.2f})"
            words += f"; not clearly below guessing: {', '.join(stuck)}." if stuck else "."
        else:
            words = f"With {bend}, none gets clearly below guessing in {after}."
        sentences.append(words)
    return " ".join(sentences)


def draw(result: Result) -> dict[str, Figure]:
    rows = result.tables["inits"].rows
    signal, axes = plots.grid(2, 2, width=4.8, height=3.3, sharex=True, sharey="row")
    training, places = plots.grid(1, 2, width=4.8, height=3.8, sharey=True)
    for column, (bend, title) in enumerate(BENDS.items()):
        for number, (init, label) in enumerate(INITS.items()):
            look = {"color": f"C{number}", "marker": plots.MARKERS[number], "ms": 3.5}
            for place, kind in zip(axes[:, column], ("forward", "backward")):
                curve = result.curves[f"{kind}_{bend}_{init}"]
                if max(curve.y) > 0:
                    plots.plot_curve(place, curve, label, **look)
                else:
                    place.plot([], [], label=f"{label}: exactly 0 everywhere", **look)
            loss = result.curves[f"loss_{bend}_{init}"]
            plots.plot_curve(places[0, column], loss, label, **look)
        axes[0, column].set_title(f"{title}, forward")
        axes[1, column].set_title(f"{title}, backward")
        places[0, column].set_title(title)
        places[0, column].axhline(GUESSING, color="black", ls=":", lw=1, label="guessing: ln 10")
    for place in axes.ravel():
        place.set_yscale("log")
        place.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].legend(loc="lower left")
    places[0, 1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    kept = {(row[0], row[1]): row[2] for row in rows}
    signal.suptitle(
        f"From the first to the last of {counted(len(curve.x), 'ReLU layer')} the spread of the "
        f"signal is multiplied by {factor(kept['ReLU', 'He'])} with He, "
        f"{factor(kept['ReLU', 'Xavier'])} with Xavier and "
        f"{factor(kept['ReLU', 'normal (0.01)'])} with weights of std 0.01"
    )
    found = []
    for bend in BENDS.values():
        names = [row[1] for row in rows if row[0] == bend and learned(row[4])]
        found.append(
            f"with {bend} {len(names)} of {len(INITS)} learn ({', '.join(names) or 'none'})"
        )
    training.suptitle(f"{counted(len(curve.x), 'hidden layer')}: {'; '.join(found)}")
    return {"signal": signal, "training": training}
