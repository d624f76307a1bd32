"""Can a network without a hidden layer learn XOR, and how small a hidden layer is enough?

XOR is 1 where exactly one of two inputs is 1. No straight line separates the two classes
(Minsky and Papert, Perceptrons, 1969), so the hidden layer is not an ornament.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._training import counted, of_runs, train
from section1.functions import sigmoid
from section1.losses import BinaryCrossEntropy
from section1.mlp import MLP
from section1.sgd import SGD
from section1.training import predict
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
Y = np.array([0, 1, 1, 0])
SPAN = np.linspace(-0.5, 1.5, 81)


def compute(run: Run) -> Result:
    budget = run.budget
    run.note_data("xor", "the four points of XOR")
    plane = np.stack(np.meshgrid(SPAN, SPAN), axis=-1).reshape(-1, 2).astype(np.float32)
    widths = [0, *sorted(set(budget.hidden))]
    metrics, curves, arrays, rows = {}, {}, {}, []
    with run.progress(len(widths) * budget.seeds * budget.epochs) as bar:
        for width in widths:
            sizes = [2, width, 1] if width else [2, 1]

            def recipe(rng: np.random.Generator, sizes: list[int] = sizes) -> tuple:
                model = MLP(sizes, activation="tanh", init="xavier_uniform", rng=rng)
                return model, BinaryCrossEntropy(), SGD(model.parameters(), budget.lr)

            runs = [
                train(run, recipe, (X, Y), (X, Y), key=(width, seed), bar=bar)
                for seed in range(budget.seeds)
            ]
            solved = sum(trained.test_metric == 1 for trained in runs)
            metrics[f"solved_{width}"] = solved / budget.seeds
            rows.append([width, f"{solved} of {budget.seeds}", max(t.test_metric for t in runs)])
            curves[f"loss_{width}"] = Curve.over_runs(
                range(1, budget.epochs + 1),
                [trained.history.loss for trained in runs],
                "epoch",
                "binary cross-entropy (nats)",
            )
            logits = predict(runs[0].model, plane, threads=run.threads)
            arrays[f"plane_{width}"] = sigmoid(logits).reshape(81, 81)
    widest = widths[-1]
    metrics["solved"] = metrics[f"solved_{widest}"]
    enough = [width for width in widths if metrics[f"solved_{width}"] == 1]
    answer = (
        f"Seeds that solve XOR without a hidden layer: {rows[0][1]}, and the best gets "
        f"{rows[0][2]:.0%} of the points; with {counted(widest, 'hidden unit')}: {rows[-1][1]}. "
        + (f"{enough[0]} units are the fewest that never failed." if enough else "None always did.")
    )
    table = Table(["hidden units", "seeds that solve XOR", "best accuracy"], rows)
    return Result(answer, "solved", metrics, curves, {"widths": table}, arrays)


def draw(result: Result) -> dict[str, Figure]:
    widths = [row[0] for row in result.tables["widths"].rows]
    names = {
        width: counted(width, "hidden unit") if width else "No hidden layer" for width in widths
    }
    solved = {row[0]: row[1] for row in result.tables["widths"].rows}
    ends = (f"{names[width].lower()} {solved[width]}" for width in (0, widths[-1]))
    finding = f"Seeds that solve XOR: {'; '.join(ends)}"

    boundary, axes = plots.grid(1, 2, width=4, height=3.6, sharey=True)
    for place, width in zip(axes[0], (widths[0], widths[-1])):
        image = place.contourf(
            SPAN, SPAN, result.arrays[f"plane_{width}"], np.linspace(0, 1, 11), cmap="RdBu_r"
        )
        for value, marker in ((0, "o"), (1, "s")):
            points = X[value == Y]
            place.plot(
                *points.T, marker, color=f"C{value}", ms=11, mec="white", label=f"XOR = {value}"
            )
        place.set(title=names[width], xlabel="first input", ylabel="second input")
    axes[0, 0].legend(loc="center", frameon=True)
    boundary.colorbar(image, ax=axes[0].tolist(), label="predicted probability of 1")
    boundary.suptitle(finding)

    loss, axes = plots.grid(width=7)
    for k, width in enumerate(widths):
        line = ("-", ":", "-.", "--")[k % 4]
        plots.plot_curve(axes[0, 0], result.curves[f"loss_{width}"], names[width], ls=line)
    axes[0, 0].axhline(np.log(2), color="black", ls=":", lw=1, label="guessing: ln 2")
    axes[0, 0].set_title(of_runs(result.curves["loss_0"].n))
    loss.legend(loc="outside right center")
    loss.suptitle(finding)
    return {"boundary": boundary, "loss": loss}
