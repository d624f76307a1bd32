"""How many more photographs does a deeper convolutional network tell apart?

Small colour photographs of ten kinds of things, CIFAR-10 (Krizhevsky, Learning multiple layers
of features from tiny images, 2009), for networks of growing depth: one convolution with large
filters; three with small ones, each with a pool and batch norm; residual blocks. All of them
see the training images moved by a few pixels and, every other time, in a mirror. They differ in
more than depth: in filters, batch norm, learning rate and epochs. So this compares networks each
trained as suits it, once, and does not tell what of the difference depth alone makes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._images import account_of_errors, draw_errors, hardest_and_easiest
from section1.experiments._training import counted, one_for_each
from section1.network import Sequential
from section3.conv import Conv2D
from section3.experiments._cnns import Images, count_parameters, load_images
from section3.experiments._learning import as_rows, learn
from section3.models import mnist_cnn, numpy_resnet, three_layer_cnn
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

MODELS: dict[str, Callable[[Images, np.random.Generator], Sequential]] = {
    "three_layer_cnn": lambda data, rng: three_layer_cnn(
        shape=data.shape, classes=len(data.classes), rng=rng
    ),
    "conv_pool_3": lambda data, rng: mnist_cnn(
        (32, 64, 128), shape=data.shape, classes=len(data.classes), batchnorm=True, rng=rng
    ),
    "numpy_resnet": lambda data, rng: numpy_resnet(
        channels=data.shape[2], classes=len(data.classes), rng=rng
    ),
}


def compute(run: Run) -> Result:
    budget = run.budget
    if unknown := [name for name in budget.models if name not in MODELS]:
        raise UserError(f"there is no model {unknown[0]}: choose from {', '.join(MODELS)}")
    epochs = budget.epochs * len(budget.models) if len(budget.epochs) == 1 else budget.epochs
    if len(epochs) != len(budget.models):
        raise UserError(f"epochs must be one number, or one for each of {', '.join(budget.models)}")
    if len(set(budget.models)) < len(budget.models):
        raise UserError(f"models must differ from each other, got {', '.join(budget.models)}")
    rates = one_for_each(budget.models, budget.lr)
    data = load_images(run, "cifar10")
    trained, curves, rows = {}, {}, []
    metrics: dict[str, float] = {}
    with run.resumable() as folder, run.progress(sum(epochs)) as bar:
        for number, (name, count, lr) in enumerate(zip(budget.models, epochs, rates)):
            model = MODELS[name](data, run.rng(number, 0))
            trained[name] = learn(
                run, model, data, epochs=count, lr=lr, folder=folder / name, bar=bar, key=number,
                shift=budget.shift, mirror=True,
            )  # fmt: skip
            history, test = trained[name].history, trained[name].test_metric
            convolutions = sum(isinstance(layer, Conv2D) for layer in model.modules())
            pace, right = history.seconds[-1] / count, history.val_metric[-1]
            rows.append([name, convolutions, count_parameters(model), count, pace, right, test])
            metrics |= {f"{name}_test_accuracy": test, f"{name}_validation_accuracy": right}
            x, seconds = range(1, count + 1), history.seconds
            values = [[100 * accuracy for accuracy in history.val_metric]]
            label = "validation images that are right (%)"
            curves[name] = Curve.over_runs(x, values, "epoch", label)
            curves[f"{name}, time"] = Curve.over_runs(seconds, values, "training time (s)", label)
    best = max(rows, key=lambda row: row[5])  # on validation data: the test set chooses nothing
    tables, arrays = account_of_errors(trained[best[0]].model, as_rows(data), run)
    columns = ["model", "convolutions", "parameters", "epochs", "seconds per epoch"]
    tables["models"] = Table([*columns, "validation accuracy", "test accuracy"], rows)
    answer = (
        "; ".join(
            f"{name}, with {counted(convolutions, 'convolution')}, gets "
            f"{test:.1%} of the test images right after {counted(count, 'epoch')} "
            f"of {pace:.1f} s"
            for name, convolutions, _, count, pace, _, test in rows
        )
        + f" (n = 1). For {best[0]}, which none beats on the validation images, "
        f"{hardest_and_easiest(tables['classes'].rows, '.0%')}."
    )
    metrics = {"test_accuracy": best[6], **metrics}
    return Result(answer, "test_accuracy", metrics, curves, tables, arrays)


def draw(result: Result) -> dict[str, Figure]:
    rows = result.tables["models"].rows
    curves, axes = plots.grid(1, 3, width=4.2, height=3.8)
    for number, (name, *_) in enumerate(rows):
        look = {"marker": plots.MARKERS[number], "ms": 4, "color": f"C{number}"}
        plots.plot_curve(axes[0, 0], result.curves[name], name, **look)
        plots.plot_curve(axes[0, 1], result.curves[f"{name}, time"], name, **look)
    axes[0, 0].legend(loc="lower right")
    names = [f"{name}\n{count:,} parameters" for name, _, count, *_ in rows]
    colours = [f"C{number}" for number in range(len(rows))]
    bars = axes[0, 2].bar(names, [100 * row[6] for row in rows], color=colours)
    axes[0, 2].bar_label(bars, fmt="%.1f", padding=2)
    axes[0, 2].set(ylim=(0, 105), ylabel="test images that are right, last epoch (%)")
    axes[0, 2].tick_params("x", labelsize="small")
    axes[0, 2].grid(False, axis="x")
    curves.suptitle(f"{best_and_worst(rows)} (n = 1)")
    best = max(rows, key=lambda row: row[5])
    return {"accuracy": curves, **draw_errors(result, best[0])}


def best_and_worst(rows: list[list]) -> str:
    """Of the models, rows of the table, on test images, in words."""
    ranked = sorted(rows, key=lambda row: row[6])
    low, high = ranked[0], ranked[-1]
    words = f"{high[0]} gets {high[6]:.1%} of the test images right"
    words += f" after {counted(high[3], 'epoch')}"
    if len(rows) > 1:
        gap = 100 * (high[6] - low[6])
        ahead = f"{gap:.1f} points more than" if round(gap, 1) else "within 0.1 points of"
        words += f", {ahead} {low[0]} after {low[3]}"
    return words
