"""What does spatial batch norm change in a convolutional network: how fast it learns, and how?

The same deep network is trained with and without it, at several learning rates. A channel is
normalised over all places of all images of a batch, so it has one mean and one variance.
Then each network is looked at with its own best rate, chosen on validation data. Last comes
what batch norm is there for: the statistics of each channel where they enter a ReLU, step by
step. A channel that is negative everywhere is dead, and one far above zero is not bent at all.
Sources: Ioffe, Szegedy, arXiv:1502.03167; Santurkar et al., How does batch normalization help
optimization?, arXiv:1805.11604 (it is not the change of distributions alone); Bjorck et al.,
arXiv:1806.02375 (without it, few channels grow large, and larger with depth).
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from section1.activations import ReLU
from section1.experiments._training import Trained, mean_std, rise_and_fall, train
from section1.layer import Layer
from section1.linear import Linear
from section1.losses import SoftmaxCrossEntropy
from section1.network import Sequential
from section1.sgd import SGD
from section1.training import evaluate
from section2.experiments.batchnorm_study import ARMS, percent, validation_scores
from section3.batchnorm import BatchNorm2D
from section3.conv import Conv2D
from section3.experiments._cnns import Images, load_images, tied
from section3.fused import fused
from section3.pooling import GlobalAvgPool2D, MaxPool2D
from utils.errors import UserError
from utils.experiments.progress import Progress
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

SEEN, LOOKS = 100, 12  # training images on which channels are measured, and how many times, about
KINDS = ("std of what enters the ReLU", "share of it let through (%)")
LEARNS = 2  # times as many validation images right as by guessing: at such a rate it learns


def network(
    filters: list[int], convolutions: int, batchnorm: bool, data: Images, rng: np.random.Generator
) -> Sequential:
    """For each number of filters so many 3x3 convolutions and a pool; the mean of each channel.

    The first convolution takes steps of two, to save time.
    """
    layers: list[Layer] = []
    channels, stride = data.shape[2], 2
    for count in filters:
        for k in range(1, convolutions + 1):
            settings: dict[str, Any] = {"stride": stride, "padding": 1, "bias": not batchnorm}
            layers.append(Conv2D(channels, count, 3, **settings, rng=rng))
            if k == convolutions:
                layers.append(MaxPool2D(2))
            if batchnorm:
                layers.append(BatchNorm2D(count))
            layers.append(ReLU())
            channels, stride = count, 1
    output = Linear(channels, len(data.classes), init="xavier_uniform", rng=rng)
    return fused(Sequential(*layers, GlobalAvgPool2D(), output))


def channels(model: Sequential, x: np.ndarray) -> np.ndarray:
    """For each channel of what enters the last ReLU its standard deviation and the share above
    zero, which gets through: (2, C)."""
    model = copy.deepcopy(model)  # running averages move with every forward pass
    model.train()
    for layer in model.layers:
        if isinstance(layer, ReLU):
            last = x
        x = layer.forward(x)
    return np.stack([last.std(axis=(0, 1, 2)), (last > 0).mean(axis=(0, 1, 2))])


class Study:
    """Trains the network of the budget, with or without batch norm."""

    def __init__(self, run: Run, data: Images, bar: Progress):
        self.run, self.data, self.bar = run, data, bar
        steps = run.budget.epochs * math.ceil(len(data.train[0]) / run.budget.batch_size)
        self.every = max(1, steps // LOOKS)

    def train(self, arm: str, lr: float, seed: int) -> tuple[Trained | None, np.ndarray]:
        """The network, or None where the loss blew up; of seed 0 also what `channels` said of
        the last ReLU, every so many steps: (looks, 2, C)."""
        budget, data = self.run.budget, self.data
        looks: list[np.ndarray] = []
        done, step, model = self.bar.done, 0, Sequential()

        def recipe(rng: np.random.Generator) -> tuple:
            nonlocal model
            model = network(budget.filters, budget.convolutions, arm == "batchnorm", data, rng)
            return model, SoftmaxCrossEntropy(), SGD(model.parameters(), lr)

        def look() -> None:
            nonlocal step
            if seed == 0 and step % self.every == 0:
                looks.append(channels(model, data.train[0][:SEEN]))
            step += 1

        trained = None
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                trained = train(
                    self.run, recipe, data.train, data.validation, key=(seed,), bar=self.bar,
                    validation=data.validation, on_gradients=look,
                    schedule=rise_and_fall(lr, self.run, len(data.train[0])),
                )  # fmt: skip
        except FloatingPointError:
            while self.bar.done < done + budget.epochs:
                self.bar.advance("the loss blew up")
        return trained, np.array(looks)


def compute(run: Run) -> Result:
    budget = run.budget
    data = load_images(run, "cifar10")
    metrics: dict[str, float] = {}
    curves, rates, arrays = {}, [], {}
    epochs, guessing = range(1, budget.epochs + 1), 1 / len(data.classes)
    with run.progress(len(ARMS) * len(budget.lr) * budget.seeds * budget.epochs) as bar:
        study = Study(run, data, bar)
        for arm, label in ARMS.items():
            runs = {lr: [study.train(arm, lr, k) for k in range(budget.seeds)] for lr in budget.lr}
            scores = {}
            for lr, pairs in runs.items():
                trained = [t for t, _ in pairs]
                scores[lr] = mean_std(validation_scores(trained, guessing))
                rates.append([label, lr, *scores[lr], trained.count(None), budget.seeds])
            best = max(scores, key=lambda lr: scores[lr][0])
            learns = [lr for lr in scores if scores[lr][0] >= LEARNS * guessing] or [0]
            survived = [t for t, _ in runs[best] if t is not None]
            if not survived:
                raise UserError(f"every network {label} blew up: try smaller learning rates")
            for name, unit, kind, factor in (
                ("accuracy", "validation accuracy (%)", "val_metric", 100),
                ("loss", "training loss (nats)", "loss", 1),
            ):
                values = [factor * np.array(getattr(t.history, kind)) for t in survived]
                curves[f"{arm}_{name}"] = Curve.over_runs(epochs, values, "epoch", unit)
            tests = [
                evaluate(t.model, SoftmaxCrossEntropy(), data.test, threads=run.threads)[1]
                for t in survived
            ]
            channel = runs[best][0][1]
            arrays[f"{arm}_channels"], arrays[f"{arm}_tests"] = channel, np.array(tests)
            low, high = np.percentile(channel[-1], (10, 90), axis=1)
            test, std = mean_std(tests)
            metrics |= {
                f"{arm}_best_lr": best,
                f"{arm}_lowest_lr": min(learns),
                f"{arm}_highest_lr": max(learns),
                f"{arm}_test_accuracy": test,
                f"{arm}_test_accuracy_std": std,
                f"{arm}_first_epoch": curves[f"{arm}_accuracy"].y[0] / 100,
                f"{arm}_seconds_an_epoch": mean_std(
                    t.history.seconds[-1] / budget.epochs for t in survived
                )[0],
                f"{arm}_channel_factor": high[0] / max(low[0], 1e-30),
                f"{arm}_through_low": low[1],
                f"{arm}_through_high": high[1],
            }
    metrics["guessing"] = guessing
    arrays["every"] = np.array(study.every)
    ratio = metrics["batchnorm_seconds_an_epoch"] / metrics["plain_seconds_an_epoch"]
    answer = (
        f"Each at its best learning rate, {budget.epochs} epochs give "
        f"{percent(metrics, 'batchnorm')} of the test images with batch norm and "
        f"{percent(metrics, 'plain')} without (n = {budget.seeds}), one epoch "
        f"{metrics['batchnorm_first_epoch']:.1%} and {metrics['plain_first_epoch']:.1%} of the "
        f"validation images. Learning rates that beat guessing twofold: with it "
        f"{usable(metrics, 'batchnorm')}, without it {usable(metrics, 'plain')}. In the end "
        f"the last ReLU lets through {through(metrics, 'batchnorm')} of a channel with it and "
        f"{through(metrics, 'plain')} without (10th to 90th percentile of the channels). An "
        f"epoch with it takes {ratio:.1f} times as long."
    )
    columns = ["network", "peak learning rate", "validation accuracy", "std", "blew up", "n"]
    tables = {"rates": Table(columns, rates)}
    return Result(answer, "batchnorm_test_accuracy", metrics, curves, tables, arrays)


def usable(metrics: dict[str, float], arm: str) -> str:
    low, high = metrics[f"{arm}_lowest_lr"], metrics[f"{arm}_highest_lr"]
    return "none" if not high else f"{low:g} to {high:g}" if low < high else f"only {high:g}"


def through(metrics: dict[str, float], arm: str) -> str:
    return f"{metrics[f'{arm}_through_low']:.0%} to {metrics[f'{arm}_through_high']:.0%}"


def draw(result: Result) -> dict[str, Figure]:
    metrics, arrays = result.metrics, result.arrays
    speed, axes = plots.grid(1, 3, width=4.2, height=3.8)
    for number, (arm, label) in enumerate(ARMS.items()):
        look: dict[str, Any] = {"marker": plots.MARKERS[number], "color": f"C{number}", "ms": 5}
        look["ls"] = ("--", "-")[number]
        rows = [row for row in result.tables["rates"].rows if row[0] == label]
        lr, mean, std = (np.array([row[k] for row in rows]) for k in (1, 2, 3))
        axes[0, 0].errorbar(lr, 100 * mean, 100 * std, capsize=3, label=label, **look)
        for row in rows:
            if row[4]:
                text, place = f"{row[4]} of {row[5]}\nblew up", (row[1], 100 * (row[2] - row[3]))
                spot = {"xytext": (0, -26), "textcoords": "offset points", "ha": "center"}
                axes[0, 0].annotate(text, place, fontsize="small", color=f"C{number}", **spot)
        for place, kind in zip(axes[0, 1:], ("accuracy", "loss")):
            curve = result.curves[f"{arm}_{kind}"]
            name = f"{label}, rate {metrics[f'{arm}_best_lr']:g} (n = {curve.n})"
            plots.plot_curve(place, curve, name, **look)
    guessing, blown = 100 * metrics["guessing"], sum(row[4] for row in result.tables["rates"].rows)
    axes[0, 0].axhline(LEARNS * guessing, color="black", ls=":", lw=1.2, label="guessing × 2")
    axes[0, 0].set(
        xscale="log", xlabel="peak learning rate", ylim=(-guessing if blown else 0, None)
    )
    axes[0, 0].set_xticks(lr, [f"{rate:g}" for rate in lr])
    axes[0, 0].minorticks_off()
    axes[0, 0].set_ylabel(f"validation accuracy (%), n = {rows[0][5]}")
    axes[0, 0].legend(loc="upper left")
    speed.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    speed.suptitle(
        f"{verdict(arrays)} Learning rates at which anything is learned: with it "
        f"{usable(metrics, 'batchnorm')}, without it {usable(metrics, 'plain')}"
    )

    inside, axes = plots.grid(2, 2, width=4.6, height=2.9, sharex=True, sharey="row")
    for column, (arm, label) in enumerate(ARMS.items()):
        seen = arrays[f"{arm}_channels"]  # (looks, 2, C)
        steps = arrays["every"] * np.arange(len(seen))
        for measure, place in enumerate(axes[:, column]):
            values = (1, 100)[measure] * seen[:, measure]
            place.plot(steps, values, color=f"C{column}", lw=0.8, alpha=0.5)
            place.plot(steps, np.median(values, axis=1), "k--", label="median of the channels")
        axes[0, column].set_title(f"{label}, rate {metrics[f'{arm}_best_lr']:g}, first seed")
        axes[1, column].set_xlabel("step")
    axes[0, 0].set_yscale("log")
    for place, label in zip(axes[:, 0], KINDS):
        place.set_ylabel(label)
    axes[0, 0].legend()
    inside.suptitle(
        f"The last ReLU lets through {through(metrics, 'plain')} of a channel without batch norm "
        f"and {through(metrics, 'batchnorm')} with it; standard deviations differ by a factor of "
        f"{metrics['plain_channel_factor']:.1f} and {metrics['batchnorm_channel_factor']:.1f} "
        "(10th to 90th percentile of the channels)"
    )
    return {"speed": speed, "channels": inside}


def verdict(arrays: dict[str, np.ndarray]) -> str:
    """On test images, each at its best rate; what differs by no more than seeds do is a tie."""
    plain, normalised = arrays["plain_tests"], arrays["batchnorm_tests"]
    gain = 100 * (normalised.mean() - plain.mean())
    if len(plain) == len(normalised) and tied(plain, normalised):
        return "With batch norm and without it the networks tie on test images within noise."
    word = "more" if gain > 0 else "fewer"
    return f"With batch norm {abs(gain):.1f} points {word} of the test images are right."
