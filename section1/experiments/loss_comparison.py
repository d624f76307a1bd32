"""Which loss trains the best classifier of digits, and which one's confidence can be believed?

One network, one optimizer, four losses: softmax cross-entropy without and with label
smoothing, the multiclass hinge of support vector machines, and squared error on one-hot
targets. Their slopes differ in size, so hinge and squared error have learning rates of their
own, tuned like that of cross-entropy on validation data; smoothing takes cross-entropy's.
Confidence is a probability only where the loss makes it one: the softmax of the
logits under cross-entropy, the output itself (cut to 0 ... 1) under squared error. Hinge
scores promise an order and no probability, so hinge has no calibration.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._images import load_rows
from section1.experiments._training import (
    mean_std,
    of_runs,
    one_for_each,
    rise_and_fall,
    spread,
    standing,
    train,
)
from section1.functions import softmax
from section1.losses import Loss, MeanSquaredError, MulticlassHinge, SoftmaxCrossEntropy
from section1.mlp import MLP
from section1.sgd import SGD
from section1.training import Batch, accuracy, predict
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

NAMES = {
    "cross_entropy": "cross-entropy",
    "smoothed": "cross-entropy, smoothing 0.1",
    "hinge": "hinge",
    "mse": "squared error",
}
BINS = np.linspace(0, 1, 11)  # of confidence
ENOUGH = 20  # images in a bin that is worth a dot


def loss_of(name: str) -> Loss:
    if name == "hinge":
        return MulticlassHinge()
    if name == "mse":
        return MeanSquaredError()
    return SoftmaxCrossEntropy(label_smoothing=0.1 if name == "smoothed" else 0)


def one_hot_accuracy(prediction: np.ndarray, target: np.ndarray) -> float:
    return accuracy(prediction, target.argmax(axis=1))


def calibration(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each bin of confidence: images, their mean confidence, and the share that is right."""
    place = np.clip(np.digitize(confidence, BINS) - 1, 0, len(BINS) - 2)
    counts, sure, hits = (
        np.bincount(place, weights, minlength=len(BINS) - 1)
        for weights in (None, confidence, right)
    )
    filled = np.maximum(counts, 1)
    return np.stack([counts, sure / filled, hits / filled], axis=1)  # (bins, 3)


def calibration_error(bins: np.ndarray) -> float:
    """The mean gap between confidence and accuracy (Guo et al., arXiv:1706.04599)."""
    counts, sure, hits = bins.T
    return float((counts * abs(sure - hits)).sum() / counts.sum())


def compute(run: Run) -> Result:
    budget = run.budget
    rates = one_for_each(NAMES, budget.lr)
    data = load_rows(run, "mnist")
    classes, true = len(data.classes), data.test[1]
    metrics, curves, arrays, rows, scores = {}, {}, {}, [], []
    with run.progress(len(NAMES) * budget.seeds * budget.epochs) as bar:
        for (name, label), lr in zip(NAMES.items(), rates):

            def recipe(rng: np.random.Generator, name: str = name) -> tuple:
                model = MLP([data.features, 256, 128, classes], rng=rng)
                return model, loss_of(name), SGD(model.parameters(), 0)

            def targets(batch: Batch, one_hot: bool = name == "mse") -> Batch:
                x, y = batch
                return x, np.eye(classes, dtype=np.float32)[y] if one_hot else y

            runs, bins = [], []
            for seed in range(budget.seeds):
                trained = train(
                    run, recipe, targets(data.train), targets(data.test), key=(seed,), bar=bar,
                    validation=targets(data.validation),
                    schedule=rise_and_fall(lr, run, len(data.train[0])),
                    metric=one_hot_accuracy if name == "mse" else accuracy,
                )  # fmt: skip
                runs.append(trained)
                outputs = predict(trained.model, data.test[0], threads=run.threads)
                chance = np.clip(outputs, 0, 1) if name == "mse" else softmax(outputs)
                bins.append(calibration(chance.max(axis=1), outputs.argmax(axis=1) == true))
            scores.append([trained.test_metric for trained in runs])
            mean, std = mean_std(scores[-1])
            metrics[f"{name}_test_accuracy"], metrics[f"{name}_test_accuracy_std"] = mean, std
            curves[name] = Curve.over_runs(
                range(1, budget.epochs + 1),
                [trained.history.val_metric for trained in runs],
                "epoch",
                "validation accuracy",
            )
            gap: tuple | list = ["", ""]
            if name != "hinge":
                gap = mean_std(calibration_error(one) for one in bins)
                metrics[f"{name}_calibration_error"] = gap[0]
                arrays[f"bins_{name}"] = np.stack(bins)  # (n, bins, 3)
            rows.append([label, lr, mean, std, *gap, budget.seeds])
    arrays["test_accuracy"] = np.array(scores)  # (losses, n)
    order = sorted(rows, key=lambda row: -row[2])
    honest = sorted((row for row in rows if row[4] != ""), key=lambda row: row[4])
    answer = (
        "Test accuracy: "
        + ", ".join(f"{row[0]} {row[2]:.2%}{spread(100 * row[3], budget.seeds)}" for row in order)
        + f" (n = {budget.seeds}). Confidence is off by "
        + ", ".join(f"{100 * row[4]:.1f} points ({row[0]})" for row in honest)
        + " on average; hinge scores are no probabilities."
    )
    columns = ["loss", "peak lr", "test accuracy", "std", "calibration error", "std of it", "n"]
    tables = {"losses": Table(columns, rows)}
    return Result(answer, "cross_entropy_test_accuracy", metrics, curves, tables, arrays)


def draw(result: Result) -> dict[str, Figure]:
    rows = result.tables["losses"].rows
    scores = 100 * result.arrays["test_accuracy"]
    colours = dict(zip(NAMES, plots.COLOURS))

    accuracies, axes = plots.grid(1, 2, width=5.6, height=3.8)
    names = [f"{row[0].replace(', ', chr(10))}\n(lr {row[1]:g})" for row in rows]
    plots.show_runs(axes[0, 0], scores, names)
    axes[0, 0].set(ylabel="test accuracy (%)")
    for name, label in NAMES.items():
        plots.plot_curve(axes[0, 1], result.curves[name], label, marker="o", ms=3)
    axes[0, 1].legend(loc="lower right")
    axes[0, 1].set_title(f"on the way there ({of_runs(scores.shape[1])})")
    accuracies.suptitle(standing(scores, [row[0].replace(",", " with") for row in rows]))

    reliability, axes = plots.grid(width=5.6, height=4.4)
    place = axes[0, 0]
    place.plot([0, 1], [0, 1], color="black", ls=":", lw=1, label="confidence is accuracy")
    for row, (name, label) in zip(rows, NAMES.items()):
        if name == "hinge":
            continue
        bins = result.arrays[f"bins_{name}"]  # (n, bins, 3)
        counts = bins[..., 0].sum(axis=0)
        sure, hits = ((bins[..., k] * bins[..., 0]).sum(axis=0) for k in (1, 2))
        shown = counts >= ENOUGH
        sure, share, counts = (
            sure[shown] / counts[shown],
            hits[shown] / counts[shown],
            counts[shown],
        )
        error = np.sqrt(share * (1 - share) / counts)  # of a share of `counts` trials
        text = f"{label}: off by {100 * row[4]:.1f} points"
        place.errorbar(
            sure, share, error, fmt="o-", ms=4, capsize=2, color=colours[name], label=text
        )
    place.set(
        xlabel="confidence: the probability given to the class that was chosen",
        ylabel="share of these images that is right",
        title="above the line: too modest; below: too sure (bars: standard error)",
    )
    place.legend(loc="lower right", bbox_to_anchor=(1, 0.02))
    best = min((row for row in rows if row[4] != ""), key=lambda row: row[4])
    reliability.suptitle(f"The confidence of {best[0]} is closest to its accuracy")
    return {"accuracy": accuracies, "reliability": reliability}
