"""What does batch normalisation buy, and what does it ask for in return?

The same ReLU network is trained with and without it. First every learning rate is tried, all
else equal; then each is looked at with its own best rate, chosen on validation data: how
fast it learns, and how it does on test images. Then, at one rate for all, the size of the
batch is varied, for its mean and variance are what batch norm works with; and what was
trained on the statistics of batches is judged by the running averages and by such batches.
Sources: Ioffe, Szegedy, arXiv:1502.03167; Bjorck et al., Understanding batch normalization,
arXiv:1806.02375 (larger learning rates); Wu, He, arXiv:1803.08494 (small batches).
"""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._images import Rows, load_rows
from section1.experiments._training import Trained, counted, mean_std, spread, train
from section1.layer import Layer
from section1.losses import SoftmaxCrossEntropy
from section1.sgd import SGD
from section1.training import Batch
from section2.experiments._optimizers import listed
from section2.models import fully_connected_net
from utils.errors import UserError
from utils.experiments.progress import Progress
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

ARMS = {"plain": "without batch norm", "batchnorm": "with batch norm"}
TOLERATED = 0.05  # a rate is tolerated where validation accuracy is this close to the best


class Study:
    """Trains the network of the budget, with or without batch norm."""

    def __init__(self, run: Run, data: Rows, bar: Progress):
        self.run, self.data, self.bar = run, data, bar

    def train(self, arm: str, lr: float, seed: int, **options: Any) -> Trained | None:
        """None where the loss blew up."""
        budget, data = self.run.budget, self.data
        sizes = [data.features, *[budget.width] * budget.depth, len(data.classes)]

        def recipe(rng: np.random.Generator) -> tuple:
            model = fully_connected_net(sizes, batchnorm=arm == "batchnorm", rng=rng)
            return model, SoftmaxCrossEntropy(), SGD(model.parameters(), lr)

        done = self.bar.done
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                return train(
                    self.run, recipe, data.train, data.test, key=(seed,), bar=self.bar,
                    validation=data.validation, **options,
                )  # fmt: skip
        except FloatingPointError:
            while self.bar.done < done + options.get("epochs", budget.epochs):
                self.bar.advance("the loss blew up")
            return None


def batch_statistics(model: Layer, batch: Batch, size: int) -> float:
    """Accuracy where batch norm uses the mean and variance of batches of `size` images.

    The last batch is filled up with images before it, which count with their own.
    """
    x, y = batch
    size = min(size, len(x))
    model = copy.deepcopy(model)  # running averages move with every forward pass
    model.train()
    predicted = np.empty_like(y)
    for start in (len(x) - size, *range(0, len(x) - size, size)):
        cut = slice(start, start + size)
        predicted[cut] = model.forward(x[cut]).argmax(axis=1)
    return float(np.mean(predicted == y))


def validation_scores(trained: list[Trained | None], guessing: float) -> list[float]:
    """Validation accuracy at the end; a run that blew up counts as guessing."""
    return [t.history.val_metric[-1] if t is not None else guessing for t in trained]


def compute(run: Run) -> Result:
    budget = run.budget
    data = load_rows(run, "mnist")
    if min(budget.batch_size, *budget.batch_sizes, len(data.validation[0])) < 2:
        raise UserError(
            "batch norm needs two images or more: batch_size and batch_sizes must be at least 2, "
            "and samples at least 11, for a tenth of them is for validation"
        )
    seeds, epochs, guessing = range(budget.seeds), range(1, budget.epochs + 1), 0.1
    metrics, curves, rates, batches = {}, {}, [], []
    runs: dict[tuple[str, float], list[Trained | None]] = {}
    one_each = len(ARMS) * budget.seeds
    total = one_each * (len(budget.lr) * budget.epochs + len(budget.batch_sizes))
    with run.progress(total) as bar:
        study = Study(run, data, bar)
        for arm, lr in product(ARMS, budget.lr):
            runs[arm, lr] = [study.train(arm, lr, seed) for seed in seeds]
            scores = validation_scores(runs[arm, lr], guessing)
            blown = sum(t is None for t in runs[arm, lr])
            rates.append([ARMS[arm], lr, *mean_std(scores), blown, budget.seeds])
        for arm, size in product(ARMS, budget.batch_sizes):
            options = {"epochs": 1, "batch_size": size}
            trained = [study.train(arm, budget.common_lr, seed, **options) for seed in seeds]
            row = [ARMS[arm], size, *mean_std(validation_scores(trained, guessing)), None, None]
            if arm == "batchnorm":
                own = [
                    batch_statistics(t.model, data.validation, size) if t else guessing
                    for t in trained
                ]
                row[4:] = mean_std(own)
            batches.append([*row, budget.seeds])

    best = {}
    for arm, label in ARMS.items():
        mine = [row for row in learned(rates) if row[0] == label]
        if not mine:
            raise UserError(f"every network {label} blew up: try smaller learning rates")
        metrics[f"{arm}_best_lr"] = best[arm] = max(mine, key=lambda row: row[2])[1]
        if near := tolerated(rates, label):
            metrics[f"{arm}_smallest_lr"], metrics[f"{arm}_largest_lr"] = near[0], near[-1]
            metrics[f"{arm}_lr_range"] = near[-1] / near[0]
    for name, (arm, lr) in chosen(best).items():
        survived = [t for t in runs[arm, lr] if t is not None]
        if not survived:
            continue
        curves[f"{name}_accuracy"] = Curve.over_runs(
            epochs, [t.history.val_metric for t in survived], "epoch", "validation accuracy"
        )
        curves[f"{name}_loss"] = Curve.over_runs(
            epochs, [t.history.loss for t in survived], "epoch", "training loss (nats)"
        )
        metrics[f"{name}_first_epoch"] = curves[f"{name}_accuracy"].y[0]
        test, std = mean_std(t.test_metric for t in survived)
        metrics[f"{name}_test_accuracy"], metrics[f"{name}_test_accuracy_std"] = test, std
        seconds = [t.history.seconds[-1] / budget.epochs for t in survived]
        metrics[f"{name}_seconds_an_epoch"] = mean_std(seconds)[0]

    small, large = (
        next(row for row in batches if row[0] == ARMS["batchnorm"] and row[1] == size)
        for size in (min(budget.batch_sizes), max(budget.batch_sizes))
    )
    metrics["gap_smallest_batch"] = small[2] - small[4]
    metrics["gap_largest_batch"] = large[2] - large[4]
    n = {arm: curves[f"{arm}_loss"].n for arm in ARMS}  # the runs that did not blow up
    lost = len(ARMS) * budget.seeds - sum(n.values())
    answer = (
        f"{tolerance(rates)}. Each at its best rate ({best['batchnorm']:g} and "
        f"{best['plain']:g}), one epoch gives {metrics['batchnorm_first_epoch']:.1%} and "
        f"{metrics['plain_first_epoch']:.1%} of the validation images, and "
        f"{counted(budget.epochs, 'epoch')} "
        f"{percent(metrics, 'batchnorm', n['batchnorm'])} and "
        f"{percent(metrics, 'plain', n['plain'])} of the test images (n = {budget.seeds}"
        + (f", without {counted(lost, 'run')} that blew up" if lost else "")
        + f"). With batch norm an epoch takes "
        f"{metrics['batchnorm_seconds_an_epoch'] / metrics['plain_seconds_an_epoch']:.1f} times as "
        f"long, and a network trained with batches of {small[1]} "
        f"{change(metrics['gap_smallest_batch'])} where it must use the statistics of such batches "
        f"instead of running averages"
        + (f" ({change(metrics['gap_largest_batch'])} with {large[1]})" if large != small else "")
        + "."
    )
    columns = ["network", "lr", "validation accuracy", "std", "runs that blew up", "n"]
    tables = {"rates": Table(columns, rates)}
    columns = ["network", "batch size", "validation accuracy", "std", "by batch statistics", "std"]
    tables["batches"] = Table([*columns, "n"], batches)
    return Result(answer, "batchnorm_test_accuracy", metrics, curves, tables)


def chosen(best: dict[str, float]) -> dict[str, tuple[str, float]]:
    """What is looked at epoch by epoch: each at its own best rate, and both at the same."""
    return {
        "plain": ("plain", best["plain"]),
        "batchnorm": ("batchnorm", best["batchnorm"]),
        "batchnorm_same_lr": ("batchnorm", best["plain"]),
    }


def learned(rates: list[list]) -> list[list]:
    """The rows of the table of rates but for those where every run blew up: none is good."""
    return [row for row in rates if row[4] < row[5]]


def tolerated(rates: list[list], label: str) -> list[float]:
    """The rates at which validation accuracy of this network is near the best of all."""
    alive = learned(rates)
    least = max(row[2] for row in alive) - TOLERATED
    return sorted({row[1] for row in alive if row[0] == label and row[2] >= least})


def tolerance(rates: list[list]) -> str:
    """At which learning rates validation accuracy is near the best, in words."""
    norm, plain = (
        spelled(tolerated(rates, ARMS[arm]), [row[1] for row in rates])
        for arm in ("batchnorm", "plain")
    )
    return (
        f"Validation accuracy is within {100 * TOLERATED:.0f} points of the best at {norm} with "
        f"batch norm and at {plain} without"
    )


def spelled(near: list[float], tried: list[float]) -> str:
    """Rates in words: as a range where all those tried between the ends belong to them."""
    if not near:
        return "no rate"
    if len(near) == 1:
        return f"the rate {near[0]:g}"
    if all(lr in near for lr in tried if near[0] <= lr <= near[-1]):
        return f"rates from {near[0]:g} to {near[-1]:g}"
    return f"the rates {listed([f'{lr:g}' for lr in near])}"


def change(gap: float) -> str:
    """What an accuracy that is less by `gap` does."""
    points = f"{abs(100 * gap):.1f}"
    if points == "0.0":
        return "loses nothing"
    return f"{'loses' if gap > 0 else 'gains'} {points} points"


def percent(metrics: dict[str, float], name: str, n: int) -> str:
    mean, std = metrics[f"{name}_test_accuracy"], metrics[f"{name}_test_accuracy_std"]
    return f"{mean:.2%}{spread(100 * std, n)}"


def draw(result: Result) -> dict[str, Figure]:
    metrics = result.metrics
    tried, axes = plots.grid(width=6.6, height=3.8)
    for number, label in enumerate(ARMS.values()):
        rows = [row for row in result.tables["rates"].rows if row[0] == label]
        look = {"color": f"C{number}", "marker": plots.MARKERS[number], "capsize": 3}
        x, y, std = np.array([row[1:4] for row in rows], float).T
        axes[0, 0].errorbar(x, 100 * y, 100 * std, label=label, **look)
        for row in rows:
            if row[4]:
                look = {"fontsize": "small", "ha": "center", "color": f"C{number}"}
                text, place = f"{row[4]} of {row[5]}\nblew up", (row[1], 100 * row[2])
                axes[0, 0].annotate(text, place, (0, -28), textcoords="offset points", **look)
    axes[0, 0].set(
        xscale="log", xlabel="learning rate", ylabel="validation accuracy (%)", ylim=(-8, 104)
    )
    axes[0, 0].legend(loc="lower left")
    tried.suptitle(tolerance(result.tables["rates"].rows))

    speed, axes = plots.grid(1, 2, width=4.6, height=4)
    best = {arm: metrics[f"{arm}_best_lr"] for arm in ARMS}
    for number, (name, (arm, lr)) in enumerate(chosen(best).items()):
        if f"{name}_loss" not in result.curves or (number == 2 and lr == best["batchnorm"]):
            continue
        look = {"marker": plots.MARKERS[number], "color": f"C{number}", "ms": 4}
        label = f"{ARMS[arm]}, lr {lr:g}"
        for place, kind in zip(axes[0], ("loss", "accuracy")):
            plots.plot_curve(place, result.curves[f"{name}_{kind}"], label, **look)
    speed.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    first = {arm: metrics[f"{arm}_first_epoch"] for arm in ARMS}
    speed.suptitle(
        f"Validation accuracy after one epoch: {first['batchnorm']:.1%} with batch norm, "
        f"{first['plain']:.1%} without, each at its best learning rate"
    )

    size, axes = plots.grid(width=6.6, height=4.2)
    rows = result.tables["batches"].rows
    shown = [
        ("without batch norm", "plain", 2),
        ("with batch norm, running averages", "batchnorm", 2),
        ("with batch norm, each batch's own statistics", "batchnorm", 4),
    ]
    for number, (label, arm, column) in enumerate(shown):
        mine = [row for row in rows if row[0] == ARMS[arm]]
        mean, std = 100 * np.array([row[column : column + 2] for row in mine], float).T
        look = {"color": f"C{number}", "marker": plots.MARKERS[number], "capsize": 3}
        axes[0, 0].errorbar(
            [row[1] for row in mine], mean, std, label=label, ls=("-", "-", "--")[number], **look
        )
    sizes = sorted({row[1] for row in rows})
    axes[0, 0].set_xscale("log", base=2)
    axes[0, 0].set_xticks(sizes, sizes)
    axes[0, 0].set(xlabel="images in a batch (larger batches: fewer steps in an epoch)")
    axes[0, 0].set_ylabel("validation accuracy after one epoch (%)")
    size.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    size.suptitle(
        f"Judged by the statistics of batches of {sizes[0]}, a network with batch norm "
        f"{change(metrics['gap_smallest_batch'])}"
        + (f"; of {sizes[-1]}, it {change(metrics['gap_largest_batch'])}" if sizes[1:] else "")
    )
    return {"learning_rates": tried, "speed": speed, "batch_size": size}
