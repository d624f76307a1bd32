"""What the experiments on digits and clothes share: images as rows, and where a model errs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._training import counted, sharing
from section1.functions import softmax
from section1.layer import Layer
from section1.training import Batch, predict
from utils.errors import UserError
from utils.experiments.results import Result, Table
from utils.experiments.run import Run
from utils.output import plots

SPLIT = 1_000_000  # keys of `run.rng` that no repetition of a training has


@dataclass(frozen=True)
class Rows:
    """Images as rows (N, H*W*C) of standardised pixels, with their labels (N,)."""

    train: Batch
    validation: Batch
    test: Batch
    images: np.ndarray  # (N, H, W, C), those of the test set, to be looked at
    classes: tuple[str, ...]

    @property
    def features(self) -> int:
        return self.train[0].shape[1]


def load_rows(run: Run, name: str) -> Rows:
    """At most `samples` training images of a set, a tenth of them held out for validation.

    The mean training image is taken off each, and all is divided by one number, so that the
    training pixels have mean 0, each, and standard deviation 1, all together: what all images
    have in common would only limit the learning rate (LeCun et al., Efficient BackProp, 1998).
    Raises UserError for fewer than three samples: two to learn from, and one held out.
    """
    if run.budget.samples < 3:
        raise UserError(f"samples must be at least 3, got {run.budget.samples}")
    data = run.load(name).subset(run.budget.samples, rng=run.rng(SPLIT))
    held_out = math.ceil(len(data.train_x) / 10)
    split = data.split_validation(held_out, run.rng(SPLIT + 1))
    mean = split.train_x.mean(axis=0)
    std = (split.train_x - mean).std()

    def rows(x: np.ndarray, y: np.ndarray) -> Batch:
        return ((x - mean) / std).reshape(len(x), -1), y  # (N, H, W, C) -> (N, H*W*C)

    return Rows(
        rows(split.train_x, split.train_y),
        rows(split.val_x, split.val_y),
        rows(split.test_x, split.test_y),
        split.test_x,
        split.classes,
    )


# --- where a classifier errs -------------------------------------------------------------


def confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (K, K) by true class (rows) and predicted class (columns)."""
    return np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)


def most_confused(counts: np.ndarray, at_most: int = 5) -> list[tuple[int, int, int]]:
    """The most frequent errors as (true class, predicted class, count), the worst first."""
    errors = counts * (1 - np.eye(len(counts), dtype=int))
    order = np.argsort(errors, axis=None, kind="stable")[::-1][:at_most]
    pairs = zip(*np.unravel_index(order, errors.shape))
    return [(int(i), int(j), int(errors[i, j])) for i, j in pairs if errors[i, j]]


def hardest_and_easiest(classes: list[list], form: str) -> str:
    """Which classes, given as rows [name, images, share right], these are; several may tie."""
    shares = {row[0]: row[2] for row in classes}
    low, high = min(shares.values()), max(shares.values())
    if low == high:
        return f"all classes are equally hard ({low:{form}} right)"
    hard, easy = sharing(shares, min), sharing(shares, max)
    return (
        f"hardest {'are' if hard[1:] else 'is'} {', '.join(hard)} ({low:{form}} right), "
        f"easiest {', '.join(easy)} ({high:{form}})"
    )


def frequent_errors(pairs: list[list]) -> str:
    """The first three rows of the table "confused", in words."""
    return ", ".join(f"{true} taken for {other} ({n})" for true, other, n in pairs[:3])


def account_of_errors(
    model: Layer, data: Rows, run: Run
) -> tuple[dict[str, Table], dict[str, np.ndarray]]:
    """Tables and arrays on a model's errors on the test set, for `draw_errors`."""
    x, true = data.test
    probability = softmax(predict(model, x, threads=run.threads))
    return errors_among(probability, true, data.images, data.classes)


def errors_among(
    probability: np.ndarray,
    true: np.ndarray,
    images: np.ndarray,
    classes: tuple[str, ...],
    at_most: int = 18,
) -> tuple[dict[str, Table], dict[str, np.ndarray]]:
    """The same from probabilities (N, K), labels (N,) and the images (N, H, W, C) themselves.

    The examples are those in whose wrong class the model had most confidence.
    """
    predicted, confidence = probability.argmax(axis=1), probability.max(axis=1)
    counts = confusion(true, predicted, len(classes))
    wrong = np.flatnonzero(predicted != true)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:at_most]
    pairs = [[classes[i], classes[j], n] for i, j, n in most_confused(counts)]
    by_class = [
        [name, int(row.sum()), float(row[k] / max(row.sum(), 1))]
        for k, (name, row) in enumerate(zip(classes, counts))
    ]
    tables = {
        "confused": Table(["true class", "predicted class", "images"], pairs),
        "classes": Table(["class", "test images", "accuracy"], by_class),
    }
    arrays = {
        "confusion": counts,
        "mistakes": images[worst],
        "mistakes_true": true[worst],
        "mistakes_predicted": predicted[worst],
        "mistakes_confidence": confidence[worst],
    }
    return tables, arrays


def draw_errors(result: Result, model: str) -> dict[str, Figure]:
    """The confusion matrix and the worst errors of the model that `model` names."""
    classes = [row[0] for row in result.tables["classes"].rows]
    counts, pairs = result.arrays["confusion"], result.tables["confused"].rows
    total, wrong = int(counts.sum()), int(counts.sum() - np.trace(counts))

    wide = max(map(len, classes)) > 2
    matrix, axes = plots.grid(width=6.4 if wide else 5.4, height=5.6 if wide else 4.6)
    plots.show_confusion(axes[0, 0], counts, classes)
    title = f"{model}: {wrong:,} of {total:,} test images wrong"
    if pairs:
        title += f"; most frequent errors: {frequent_errors(pairs)}"
    matrix.suptitle(title)

    names = zip(result.arrays["mistakes_true"], result.arrays["mistakes_predicted"])
    titles = [
        f"true: {classes[true]}\nsaid: {classes[predicted]} ({sure:.0%})"
        for (true, predicted), sure in zip(names, result.arrays["mistakes_confidence"])
    ]
    columns = 6
    rows = max(1, math.ceil(len(titles) / columns))
    mistakes, axes = plots.grid(rows, columns, width=1.75 if wide else 1.3, height=1.75)
    plots.show_images(axes.ravel().tolist(), result.arrays["mistakes"], titles)
    mistakes.suptitle(
        f"{model}: {len(titles)} of {counted(wrong, 'error')}, the most confident first"
        if titles
        else f"{model}: no error on {total:,} test images"
    )
    return {"confusion": matrix, "mistakes": mistakes}
