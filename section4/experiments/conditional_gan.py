"""Does a generator that is told which digit to make make that digit?

The class goes to the generator as a one-hot vector behind the noise. The discriminator scores a
sample x of class y by w . h(x) + e_y . h(x): does it look real, and does it look like a y (Miyato,
Koyama, arXiv:1802.05637)? Whether the samples are what was asked for is for a judge to say that
has learned from real digits. Real test digits satisfy it as often as those of a perfect generator
would; one that makes nothing but typical digits may satisfy it more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure

from section1.experiments._images import confusion, most_confused
from section1.experiments._training import counted, sharing
from section2.experiments._optimizers import listed
from section4.experiments._engine import QUICK
from section4.experiments._gan_training import (
    VARIANTS,
    evenly,
    find_setting,
    learn,
    noise,
    steps_of,
)
from section4.experiments._gans import find_judge, load_digits, pictures
from section4.experiments._gans_drawn import show_rows
from section4.gans.metrics import features
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

VARIANT = replace(VARIANTS["sn"], conditional=True, label="conditional")
COLUMNS = 10  # samples of each class that are shown


def compute(run: Run) -> Result:
    digits = load_digits(run)
    judge = find_judge(run, digits)
    with run.resumable() as folder, run.progress(run.budget.looks) as bar:
        setting = find_setting(run, digits, folder)
        learned = learn(
            run, VARIANT, digits, judge, setting, seed=0, folder=folder / "conditional", bar=bar
        )
    if learned.fault:
        raise UserError(learned.fault)

    n, classes = len(judge.test.real), len(digits.classes)
    y = evenly(n, digits)
    z = noise(run, n, 1)
    images = learned.made(z, y)
    _, probabilities = features(judge.classifier, images, judge.setting)
    counts = confusion(y.numpy(), probabilities.argmax(axis=1), classes)
    right = np.diag(counts) / counts.sum(axis=1)
    metrics: dict[str, float] = judge.test(images) | {
        "as_asked": float(np.trace(counts) / n),
        "judge_accuracy": judge.accuracy,
        "training_seconds": learned.history.seconds[-1],
        "steps": steps_of(run),
    }
    rows = [[name, int(row.sum()), float(share)]
            for name, row, share in zip(digits.classes, counts, right)]  # fmt: skip
    each = torch.arange(classes).repeat_interleave(COLUMNS)
    same = noise(run, COLUMNS, 2).repeat(classes, 1)  # in a column the same noise for every class
    shown = pictures(learned.made(same, each))
    arrays = {"grid": shown.reshape(classes, COLUMNS, *shown.shape[1:]), "confusion": counts}
    curves = {
        "distance": Curve(
            list(learned.samples),
            [measured["frechet_distance"] for measured in learned.history.measured],
            x_label="step", y_label="Fréchet distance, validation images",
        )
    }  # fmt: skip
    answer = (
        f"After {counted(metrics['steps'], 'step')} {metrics['as_asked']:.1%} "
        f"of {n:,} samples are the digit that was asked for, by a judge that is right about "
        f"{judge.accuracy:.1%} of real test images; {least_often(digits.classes, right)}. The "
        f"Fréchet distance from test images is {metrics['frechet_distance']:.1f} (n = 1)."
    ) + QUICK * (run.settings.mode == "quick")
    tables = {"classes": Table(["class asked for", "samples", "share that is it"], rows)}
    return Result(answer, "as_asked", metrics, curves, tables, arrays)


def least_often(classes: Sequence[str], right: np.ndarray) -> str:
    """Which classes have the least share (K,) of samples that are what was asked for."""
    least = sharing(dict(zip(classes, right.tolist())), min)
    if len(least) == len(classes):
        return "no digit less often than another"
    return f"the {listed(least)} least often ({right.min():.1%})"


def draw(result: Result) -> dict[str, Figure]:
    names = [str(row[0]) for row in result.tables["classes"].rows]
    share = f"{result.metrics['as_asked']:.1%}"
    grid = result.arrays["grid"]
    samples, axes = plots.grid(width=5.4, height=5)
    show_rows(axes[0, 0], grid)
    axes[0, 0].set_yticks(grid.shape[2] * (np.arange(len(names)) + 0.5), names)
    axes[0, 0].set(xlabel="each column is of the same noise", ylabel="class that was asked for")
    samples.suptitle(f"One row for each class: {share} of samples are what was asked for")

    quality, axes = plots.grid(1, 2, width=5, height=4.4)
    plots.show_confusion(axes[0, 0], result.arrays["confusion"], names)
    axes[0, 0].set(xlabel="class that the judge sees", ylabel="class that was asked for")
    plots.plot_curve(axes[0, 1], result.curves["distance"], "distance", marker="o", ms=4)
    axes[0, 1].set(yscale="log")
    pairs = most_confused(result.arrays["confusion"], 1)
    title = f"{share} of samples are what was asked for"
    if pairs:
        asked, seen, times = pairs[0]
        title += (
            f"; most frequent error: {names[seen]} for {names[asked]} ({counted(times, 'time')})"
        )
    quality.suptitle(title)
    return {"samples": samples, "quality": quality}
