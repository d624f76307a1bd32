"""How many handwritten digits does a small convolutional network get wrong?

Convolutions look at each place of the image with the same weights, so a stroke is known
wherever it is. To learn that a digit stays the same when it is moved, the network sees the
training images moved, at every epoch by other distances. What counts is the accuracy of the
last epoch: the test set is looked at once, when all is done.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from section1 import checkpoint
from section1.experiments._images import (
    account_of_errors,
    draw_errors,
    frequent_errors,
    hardest_and_easiest,
)
from section1.experiments._training import counted, mean_std
from section1.network import Sequential
from section2.optimizers import AdamW
from section3.experiments._cnns import count_parameters, load_images
from section3.experiments._learning import as_rows, learn
from section3.fused import fused
from section3.models import mnist_cnn
from utils.errors import UserError
from utils.experiments.budget import Budget
from utils.experiments.results import Curve, Result, command
from utils.experiments.run import Run
from utils.output import plots


def network(budget: Budget, rng: np.random.Generator) -> Sequential:
    """The network that a budget describes, untrained, for MNIST's ten classes of 28x28 pixels."""
    return mnist_cnn(
        budget.filters, budget.hidden, convolutions=budget.convolutions,
        batchnorm=budget.batchnorm, dropout=budget.dropout, rng=rng,
    )  # fmt: skip


def load_trained(folder: Path, result: Result) -> Sequential:
    """The network, of several seeds the first, of the run whose result lies in `folder`.

    Raises UserError where its checkpoint is missing or damaged, or of a run that has not ended.
    """
    settings = result.info["settings"]
    checkpoints = folder / "checkpoints" / settings["mode"]
    try:
        if (checkpoints / "unfinished.json").exists():
            raise ValueError(f"the training in {checkpoints} has not ended")
        rng = np.random.default_rng()  # all that it draws is replaced
        model = network(Budget(settings["budget"]), rng)
        learned = fused(model)  # which shares the parameters of `model`
        last = checkpoints / "seed0" / "last.npz"
        checkpoint.load(last, learned, AdamW(learned.parameters(), 0), rng)
        if not {"pixel_mean", "pixel_std"} <= result.arrays.keys():
            raise ValueError("its result does not say how pixels were standardised")
    except (OSError, ValueError) as error:
        words = f"mnist_cnn --mode {settings['mode']}"
        raise UserError(
            f"the network cannot be loaded ({error}): "
            f"{command(words, folder.parents[1])} trains it anew"
        ) from error
    return model


def compute(run: Run) -> Result:
    budget = run.budget
    data = load_images(run, "mnist")
    models = [network(budget, run.rng(seed, 0)) for seed in range(budget.seeds)]
    changes = {"shift": budget.shift, "turn": budget.turn, "stretch": budget.stretch}
    with run.resumable() as folder, run.progress(budget.seeds * budget.epochs) as bar:
        runs = [
            learn(
                run, model, data, epochs=budget.epochs, lr=budget.lr, folder=folder / f"seed{seed}",
                bar=bar, key=seed, **changes,
            )
            for seed, model in enumerate(models)
        ]  # fmt: skip
    mean, std = mean_std(trained.test_metric for trained in runs)
    seconds = runs[0].history.seconds[-1]
    epochs = range(1, budget.epochs + 1)
    curves = {
        name: Curve.over_runs(
            epochs, 100 - 100 * np.array([getattr(t.history, key) for t in runs]),
            "epoch", "images that are wrong (%)",
        )
        for name, key in (("training", "metric"), ("validation", "val_metric"))
    }  # fmt: skip
    tables, arrays = account_of_errors(runs[0].model, as_rows(data), run)
    words = hardest_and_easiest(tables["classes"].rows, ".1%")
    pairs = tables["confused"].rows
    tests, wrong = len(data.test[0]), round((1 - runs[0].test_metric) * len(data.test[0]))
    several = budget.seeds > 1
    spread, which = (f" ± {100 * std:.2f} points", "the first run") if several else ("", "it")
    answer = (
        f"After {counted(budget.epochs, 'epoch')} {mean:.2%}{spread} of the "
        f"{tests:,} test images are right (n = {budget.seeds}); {which} gets {wrong} wrong. "
        f"It has {count_parameters(models[0]):,} parameters, and its training took {seconds:.0f} "
        f"s. {words[0].upper() + words[1:]}; "
        + (f"most frequent errors: {frequent_errors(pairs)}." if pairs else "there is no error.")
    )
    metrics = {
        "test_accuracy": mean,
        "test_accuracy_std": std,
        "validation_accuracy": 1 - curves["validation"].y[-1] / 100,
        "training_accuracy": 1 - curves["training"].y[-1] / 100,
        "hardest_class_accuracy": min(row[2] for row in tables["classes"].rows),
        "parameters": count_parameters(models[0]),
        "validation_images": len(data.validation[0]),
    }
    arrays |= {"pixel_mean": data.mean, "pixel_std": data.std}
    return Result(answer, "test_accuracy", metrics, curves, tables, arrays)


def draw(result: Result) -> dict[str, Figure]:
    metrics = result.metrics
    curves, axes = plots.grid(1, 2, width=4.6, height=3.8)
    budget = result.info["settings"]["budget"]
    moved = budget["shift"] or budget["turn"] or budget["stretch"]
    harder = ["moved images"] * bool(moved) + ["dropout"] * bool(budget["dropout"])
    training = "training" + ": " * bool(harder) + ", ".join(harder)
    names = {"training": training, "validation": "validation"}
    for (name, curve), style in zip(result.curves.items(), ("-", "--")):
        plots.plot_curve(axes[0, 0], curve, names[name], marker="o", ms=3, ls=style)
    wrong = 100 - 100 * metrics["test_accuracy"]
    axes[0, 0].plot(curve.x[-1], wrong, "D", color="C2", label="test, after the last epoch")
    # The scale is logarithmic down to one validation image, and straight from there to none.
    axes[0, 0].set_yscale("symlog", linthresh=100 / metrics["validation_images"])
    axes[0, 0].set_ylim(bottom=min(wrong, *(min(c.y) for c in result.curves.values())) / 1.5)
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    axes[0, 0].legend(loc="upper right")
    if curve.n > 1:
        axes[0, 0].set_title(f"bands: one standard deviation of {curve.n} seeds")
    classes = sorted(result.tables["classes"].rows, key=lambda row: row[2])
    errors = [100 - 100 * row[2] for row in classes]
    bars = axes[0, 1].barh([row[0] for row in classes], errors)
    axes[0, 1].bar_label(bars, fmt="%.2f", fontsize="small", padding=2)
    axes[0, 1].set(
        xlim=(0, max(*errors, 0.1) * 1.2), ylabel="class",
        xlabel="test images of the class that are wrong (%)" + ", first seed" * (curve.n > 1),
    )  # fmt: skip
    axes[0, 1].grid(False, axis="y")
    curves.suptitle(
        f"{metrics['test_accuracy']:.2%} of the test images are right after the last epoch; "
        f"{hardest_and_easiest(classes, '.1%')}"
    )
    name = "First seed" if curve.n > 1 else "The network"
    return {"accuracy": curves, **draw_errors(result, name)}
