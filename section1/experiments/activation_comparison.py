"""How much does the choice of activation matter for a small MLP on MNIST?

The same network, 784-256-128-10, is trained with five activations by plain gradient
descent. A learning rate that suits one activation starves or blows up another, so each has
its own: the best on validation data of three powers of two around it, on other seeds than
those here. Where it pays to start also differs: He for the ReLU family, Xavier for the others.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._images import account_of_errors, draw_errors, load_rows
from section1.experiments._training import (
    level_with_best,
    mean_std,
    of_runs,
    one_for_each,
    rise_and_fall,
    sharing,
    spread,
    standing,
    train,
)
from section1.losses import SoftmaxCrossEntropy
from section1.mlp import MLP
from section1.sgd import SGD
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

NAMES = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "gelu": "GELU",
}
INIT = {"sigmoid": "xavier_normal", "tanh": "xavier_normal"}


def compute(run: Run) -> Result:
    budget = run.budget
    rates = one_for_each(NAMES, budget.lr)
    data = load_rows(run, "mnist")
    epochs = range(1, budget.epochs + 1)
    metrics, curves, rows, scores, runs_of = {}, {}, [], [], {}
    with run.progress(len(NAMES) * budget.seeds * budget.epochs) as bar:
        for name, lr in zip(NAMES, rates):
            init = INIT.get(name, "he_normal")

            def recipe(rng: np.random.Generator, name: str = name, init: str = init) -> tuple:
                model = MLP([data.features, 256, 128, len(data.classes)], name, init, rng=rng)
                return model, SoftmaxCrossEntropy(), SGD(model.parameters(), 0)

            runs_of[name] = runs = [
                train(
                    run, recipe, data.train, data.test, key=(seed,), bar=bar,
                    validation=data.validation, schedule=rise_and_fall(lr, run, len(data.train[0])),
                )
                for seed in range(budget.seeds)
            ]  # fmt: skip
            accuracies = [trained.test_metric for trained in runs]
            mean, std = mean_std(accuracies)
            validation, _ = mean_std(t.history.val_metric[-1] for t in runs)
            metrics[f"{name}_test_accuracy"], metrics[f"{name}_test_accuracy_std"] = mean, std
            metrics[f"{name}_validation_accuracy"] = validation
            scores.append(accuracies)
            rows.append([NAMES[name], init, lr, validation, mean, std, budget.seeds])
            curves[name] = Curve.over_runs(
                epochs, [t.history.val_metric for t in runs], "epoch", "validation accuracy"
            )
    best = max(NAMES, key=lambda name: metrics[f"{name}_validation_accuracy"])
    metrics["best_test_accuracy"] = metrics[f"{best}_test_accuracy"]
    tables, arrays = account_of_errors(runs_of[best][0].model, data, run)
    arrays["test_accuracy"] = np.array(scores)  # (activations, seeds)
    columns = ["activation", "init", "peak lr", "validation accuracy", "test accuracy", "std", "n"]
    tables["activations"] = Table(columns, rows)
    means = {row[0]: row[4] for row in rows}
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    level = level_with_best(arrays["test_accuracy"], list(means))
    relu, relu_std = metrics["relu_test_accuracy"], metrics["relu_test_accuracy_std"]
    own = (
        "a learning rate of its own" if len(set(rates)) > 1 else f"a learning rate of {rates[0]:g}"
    )
    answer = (
        f"With {own} for each, all lie between {means[low]:.2%} ({low}) and "
        f"{means[high]:.2%} ({high}) of the test images, {100 * (means[high] - means[low]):.2f} "
        f"percentage points apart. ReLU reaches {relu:.2%}{spread(100 * relu_std, budget.seeds)} "
        f"(n = {budget.seeds}). "
        + (f"Level as far as these seeds can tell: {', '.join(level)}. " if level[1:] else "")
        + f"Best on validation data: {', '.join(sharing({row[0]: row[3] for row in rows}, max))}."
    )
    return Result(answer, "relu_test_accuracy", metrics, curves, tables, arrays)


def draw(result: Result) -> dict[str, Figure]:
    rows = result.tables["activations"].rows
    names, scores = [row[0] for row in rows], 100 * result.arrays["test_accuracy"]
    best = max(rows, key=lambda row: row[3])[0]

    accuracy, axes = plots.grid(width=6.8, height=3.2)
    plots.show_runs(axes[0, 0], scores, [f"{row[0]}\n(lr {row[2]:g})" for row in rows])
    axes[0, 0].set(ylabel="test accuracy (%)")
    accuracy.suptitle(standing(scores, names))

    curves, axes = plots.grid(width=6.4, height=4)
    for name, label in NAMES.items():
        plots.plot_curve(axes[0, 0], result.curves[name], label, marker="o", ms=3)
    axes[0, 0].legend(loc="lower right")
    starts = {label: result.curves[name].y[0] for name, label in NAMES.items()}
    curves.suptitle(
        f"Fastest at first: {', '.join(sharing(starts, max))} with {max(starts.values()):.1%} "
        f"after one epoch; {of_runs(result.curves['relu'].n)}"
    )
    return {"accuracy": accuracy, "curves": curves, **draw_errors(result, f"{best}, first seed")}
