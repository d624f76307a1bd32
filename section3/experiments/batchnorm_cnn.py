"""What does spatial batch norm change in a convolutional network: how fast it learns, and how?

The same deep network is trained with and without it, at several learning rates. A channel is
normalised over all places of all images of a batch, so it has one mean and one variance.
Then each network is looked at with its own best rate, chosen on validation data. Last comes
what batch norm is there for: the share of each channel that its last ReLU lets through, step by
step. A channel that is negative everywhere is dead, and one far above zero is not bent at all.
Sources: Ioffe, Szegedy, arXiv:1502.03167; Santurkar et al., How does batch normalization help
optimization?, arXiv:1805.11604 (it is not the change of distributions alone); Bjorck et al.,
arXiv:1806.02375 (what happens to channels without it).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from section1.activations import ReLU
from section1.experiments._training import Trained, mean_std, rise_and_fall, spread, train
from section1.layer import Layer
from section1.linear import Linear
from section1.losses import SoftmaxCrossEntropy
from section1.network import Sequential
from section1.sgd import SGD
from section1.training import batch_ends
from section2.experiments.batchnorm_study import ARMS, validation_scores
from section3.batchnorm import BatchNorm2D
from section3.conv import Conv2D
from section3.experiments._cnns import ALONE, Images, load_images, tied
from section3.fused import fused
from section3.pooling import GlobalAvgPool2D, MaxPool2D
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

SEEN, LOOKS = 100, 12  # training images on which channels are measured, and how many times, about
LEARNS = 2  # it learns where so many times as many validation images are right as by guessing


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


def let_through(model: Sequential, x: np.ndarray) -> np.ndarray:
    """The share of each channel of what enters the last ReLU that is above zero: (C,)."""
    model = copy.deepcopy(model)  # running averages move with every forward pass
    model.train()
    for layer in model.layers:
        if isinstance(layer, ReLU):
            last = x
        x = layer.forward(x)
    return (last > 0).mean(axis=(0, 1, 2))


def compute(run: Run) -> Result:
    budget = run.budget
    data = load_images(run, "cifar10")
    guessing = 1 / len(data.classes)
    every = max(1, budget.epochs * len(batch_ends(len(data.train[0]), budget.batch_size)) // LOOKS)
    metrics: dict[str, float] = {"guessing": guessing}
    curves, rates, arrays = {}, [], {"every": np.array(every)}

    def one_run(
        arm: str, lr: float, seed: int, looked_at: bool
    ) -> tuple[Trained | None, list[np.ndarray]]:
        """The network, or None where the loss blew up, and what its last ReLU let through."""
        looks: list[np.ndarray] = []
        done, step, model = bar.done, 0, Sequential()

        def recipe(rng: np.random.Generator) -> tuple:
            nonlocal model
            model = network(budget.filters, budget.convolutions, arm == "batchnorm", data, rng)
            return model, SoftmaxCrossEntropy(), SGD(model.parameters(), lr)

        def look() -> None:
            nonlocal step
            if looked_at and step % every == 0:
                looks.append(let_through(model, data.train[0][:SEEN]))
            step += 1

        trained = None
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                trained = train(
                    run, recipe, data.train, data.test, key=(seed,), bar=bar,
                    validation=data.validation, on_gradients=look,
                    schedule=rise_and_fall(lr, run, len(data.train[0])),
                )  # fmt: skip
        except FloatingPointError:
            while bar.done < done + budget.epochs:
                bar.advance("the loss blew up")
        return trained, looks

    with run.progress(len(ARMS) * len(budget.lr) * budget.seeds * budget.epochs) as bar:
        for arm, label in ARMS.items():
            runs: dict[float, list[tuple[Trained | None, list[np.ndarray]]]] = {}
            scores = {}
            for lr in budget.lr:
                runs[lr] = []
                for seed in range(budget.seeds):
                    first = all(t is None for t, _ in runs[lr])
                    runs[lr].append(one_run(arm, lr, seed, looked_at=first))
                trained = [t for t, _ in runs[lr]]
                scores[lr] = mean_std(validation_scores(trained, guessing))
                rates.append([label, lr, *scores[lr], trained.count(None), budget.seeds])
            lasting = [lr for lr in runs if any(t is not None for t, _ in runs[lr])]
            if not lasting:
                raise UserError(f"every network {label} blew up: try smaller learning rates")
            best = max(lasting, key=lambda lr: scores[lr][0])
            survived = [t for t, _ in runs[best] if t is not None]
            looks = next(looks for t, looks in runs[best] if t is not None)
            scored = [100 * np.array(t.history.val_metric) for t in survived]
            epochs = range(1, budget.epochs + 1)
            curves[arm] = Curve.over_runs(epochs, scored, "epoch", "validation accuracy (%)")
            arrays[f"{arm}_tests"] = np.array([t.test_metric for t in survived])
            arrays[f"{arm}_through"] = np.array(looks)  # (looks, C)
            test, std = mean_std(arrays[f"{arm}_tests"])
            low, high = np.percentile(arrays[f"{arm}_through"][-1], (10, 90))
            metrics |= {
                f"{arm}_best_lr": best,
                f"{arm}_test_accuracy": test,
                f"{arm}_test_accuracy_std": std,
                f"{arm}_first_epoch": curves[arm].y[0] / 100,
                f"{arm}_through_low": low,
                f"{arm}_through_high": high,
            }
    epochs_give = "epochs give" if budget.epochs > 1 else "epoch gives"
    answer = (
        f"Each at its best learning rate, {budget.epochs} {epochs_give} "
        f"{percent(arrays['batchnorm_tests'])} of the test images with batch norm and "
        f"{percent(arrays['plain_tests'])} without ({lasted(arrays, budget.seeds)}), one epoch "
        f"{metrics['batchnorm_first_epoch']:.1%} and {metrics['plain_first_epoch']:.1%} of the "
        f"validation images. {usable(rates, guessing)} In the end {through(metrics)}."
    )
    columns = ["network", "peak learning rate", "validation accuracy", "std", "blew up", "n"]
    tables = {"rates": Table(columns, rates)}
    return Result(answer, "batchnorm_test_accuracy", metrics, curves, tables, arrays)


def percent(tests: np.ndarray) -> str:
    mean, std = mean_std(tests)
    return f"{mean:.2%}{spread(100 * std, len(tests), '.2f')}"


def lasted(arrays: dict[str, np.ndarray], seeds: int) -> str:
    """How many runs there are to average over: those that did not blow up."""
    plain, normalised = (len(arrays[f"{arm}_tests"]) for arm in ARMS)
    if plain == normalised == seeds:
        return f"n = {seeds}"
    return f"of {seeds} runs each {normalised} and {plain} did not blow up"


def usable(rates: list[list], guessing: float) -> str:
    plain, batchnorm = (
        ", ".join(f"{row[1]:g}" for row in rates if row[0] == label and row[2] >= LEARNS * guessing)
        for label in ARMS.values()
    )
    return (
        f"Learning rates that beat guessing twofold: {batchnorm or 'none'} with it, "
        f"{plain or 'none'} without."
    )


def through(metrics: dict[str, float]) -> str:
    plain, batchnorm = (
        f"{metrics[f'{arm}_through_low']:.0%} to {metrics[f'{arm}_through_high']:.0%}"
        for arm in ARMS
    )
    return (
        f"the last ReLU lets through {batchnorm} of a channel with batch norm and {plain} without "
        "(10th to 90th percentile of the channels)"
    )


def verdict(plain: np.ndarray, normalised: np.ndarray) -> str:
    """On test images, each at its best rate; what differs by no more than seeds do is a tie."""
    gain = 100 * (normalised.mean() - plain.mean())
    alone = min(len(plain), len(normalised)) < 2
    if tied(plain, normalised) and not alone:
        return "With batch norm and without it the networks tie on test images within noise."
    words = f"With batch norm {abs(gain):.1f} points {'more' if gain > 0 else 'fewer'} of the test "
    words += "images are right"
    if not round(gain, 1):
        words = "With batch norm and without it test accuracies lie within 0.1 points"
    return f"{words}{f' ({ALONE})' if alone else ''}."


def draw(result: Result) -> dict[str, Figure]:
    metrics, arrays, rates = result.metrics, result.arrays, result.tables["rates"].rows
    speed, ((left, right),) = plots.grid(1, 2, width=4.6, height=3.8)
    inside, axes = plots.grid(1, 2, width=4.6, height=3.4, sharey=True)
    for number, (arm, label) in enumerate(ARMS.items()):
        look: dict[str, Any] = {"marker": plots.MARKERS[number], "color": f"C{number}", "ms": 5}
        rows = [row[1:5] for row in rates if row[0] == label]
        lr, mean, std, blown = np.array(rows, float).T
        left.errorbar(lr, 100 * mean, 100 * std, capsize=3, label=label, **look)
        left.plot(lr[blown > 0], 100 * mean[blown > 0], "kx", ms=11, zorder=3)
        at_best = f"{label}, rate {metrics[f'{arm}_best_lr']:g}"
        curve = result.curves[arm]
        plots.plot_curve(right, curve, f"{at_best} (n = {curve.n})", **look)
        shares = 100 * arrays[f"{arm}_through"]  # (looks, C)
        place, steps = axes[0, number], arrays["every"] * np.arange(len(shares))
        place.plot(steps, shares, color=f"C{number}", lw=0.8, alpha=0.5)
        place.plot(steps, np.median(shares, axis=1), "k--", label="median of the channels")
        place.set(title=f"{at_best}, first run that lasted", xlabel="step")
    guessing = 100 * LEARNS * metrics["guessing"]
    left.axhline(guessing, color="black", ls=":", lw=1.2, label=f"guessing × {LEARNS}")
    left.set(xscale="log", xlabel="peak learning rate (×: some runs blew up)", ylim=(0, None))
    left.set_ylabel(f"validation accuracy (%), n = {rates[0][5]}")
    left.set_xticks(lr, [f"{rate:g}" for rate in lr])
    left.minorticks_off()
    left.legend()
    right.legend()
    better = verdict(arrays["plain_tests"], arrays["batchnorm_tests"])
    speed.suptitle(f"{better} {usable(rates, metrics['guessing'])}")
    axes[0, 0].set_ylabel("share let through by the last ReLU (%)")
    axes[0, 0].legend()
    inside.suptitle(f"In the end {through(metrics)}")
    return {"speed": speed, "channels": inside}
