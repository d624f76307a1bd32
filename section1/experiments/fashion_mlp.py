"""How well does an MLP tell clothes apart, and which does it confuse?

The network and the recipe of `activation_comparison`, unchanged, on Fashion-MNIST: made to
be loaded like MNIST and to be harder (Xiao, Rasul, Vollgraf, arXiv:1708.07747).
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._images import (
    account_of_errors,
    draw_errors,
    frequent_errors,
    hardest_and_easiest,
    load_rows,
)
from section1.experiments._training import mean_std, of_runs, rise_and_fall, spread, train
from section1.losses import SoftmaxCrossEntropy
from section1.mlp import MLP
from section1.sgd import SGD
from utils.experiments.results import Curve, Result
from utils.experiments.run import Run
from utils.output import plots


def compute(run: Run) -> Result:
    budget = run.budget
    data = load_rows(run, "fashion_mnist")

    def recipe(rng: np.random.Generator) -> tuple:
        model = MLP([data.features, 256, 128, len(data.classes)], rng=rng)
        return model, SoftmaxCrossEntropy(), SGD(model.parameters(), 0)

    with run.progress(budget.seeds * budget.epochs) as bar:
        runs = [
            train(
                run, recipe, data.train, data.test, key=(seed,), bar=bar,
                validation=data.validation,
                schedule=rise_and_fall(budget.lr, run, len(data.train[0])),
            )
            for seed in range(budget.seeds)
        ]  # fmt: skip
    mean, std = mean_std(trained.test_metric for trained in runs)
    epochs = range(1, budget.epochs + 1)
    curves = {
        name: Curve.over_runs(epochs, [getattr(t.history, key) for t in runs], "epoch", "accuracy")
        for name, key in (("training", "metric"), ("validation", "val_metric"))
    }
    tables, arrays = account_of_errors(runs[0].model, data, run)
    classes, pairs = tables["classes"].rows, tables["confused"].rows
    answer = (
        f"It gets {mean:.2%}{spread(100 * std, budget.seeds)} of the test images right "
        f"(n = {budget.seeds}). In the first run "
        + (
            f"{hardest_and_easiest(classes, '.1%')}; most frequent errors: "
            f"{frequent_errors(pairs)}."
            if pairs
            else "there is no error."
        )
    )
    metrics = {
        "test_accuracy": mean,
        "test_accuracy_std": std,
        "validation_accuracy": curves["validation"].y[-1],
        "training_accuracy": curves["training"].y[-1],
        "hardest_class_accuracy": min(row[2] for row in classes),
    }
    return Result(answer, "test_accuracy", metrics, curves, tables, arrays)


def draw(result: Result) -> dict[str, Figure]:
    curves, axes = plots.grid(1, 2, width=4.6, height=3.8)
    for name, curve in result.curves.items():
        plots.plot_curve(axes[0, 0], curve, name, marker="o", ms=3)
    axes[0, 0].legend(loc="lower right")
    axes[0, 0].set_title(of_runs(curve.n))
    classes = sorted(result.tables["classes"].rows, key=lambda row: row[2])
    bars = axes[0, 1].barh([row[0] for row in classes], [100 * row[2] for row in classes])
    axes[0, 1].bar_label(bars, fmt="%.1f", fontsize="small", padding=2)
    axes[0, 1].set(xlim=(0, 110), xlabel="test images of the class that are right (%), first seed")
    axes[0, 1].grid(False, axis="y")
    metrics, hard = result.metrics, hardest_and_easiest(classes, ".1%")
    curves.suptitle(
        f"{metrics['test_accuracy']:.1%} of the test images are right; {hard}. "
        f"At the end training accuracy is {metrics['training_accuracy']:.1%}, "
        f"validation accuracy {metrics['validation_accuracy']:.1%}"
    )
    return {"accuracy": curves, **draw_errors(result, "First seed")}
