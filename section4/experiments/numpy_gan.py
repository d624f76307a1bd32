"""How far does a GAN get in NumPy, with every gradient written by hand?

It learns a ring of eight narrow Gaussians, a rolled-up strip, and handwritten digits. Before that
the gradients of both networks are held against PyTorch's, in float64, and the time of a step
against that of a plain loop in PyTorch, for the same two networks in the same process, on one
thread.

In the plane it is counted how many samples are near the data, and how much of the data has samples
near it. Digits are judged by a classifier that has learned from real ones (see `_gans`), and in
the end compared with as many real ones of the test set.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from section1.experiments._training import counted
from section4.experiments._engine import QUICK
from section4.experiments._gan_against_torch import gradient_error, step_seconds
from section4.experiments._gans import find_judge, load_digits, scaled
from section4.experiments._numpy_gan import (
    DIGIT_NOISE,
    DIGITS,
    JUDGED,
    PLANES,
    POINTS,
    WIDTHS,
    Learned,
    learn_digits,
    learn_points,
    made,
    real_points,
)
from section4.experiments._points import losses_between
from section4.experiments._points_drawn import show_points
from section4.gans.metrics import Evaluator, class_shares, features
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

CHECK = 2  # a key of what is drawn at random, besides POINTS and DIGITS
EVEN = math.log(2)  # the losses of both where the discriminator cannot tell; its is a mean, too
ROWS = 7  # of digits: the looks that are drawn
SIDES = "discriminator", "generator"
NEARNESS = {"near": "share of samples near the data", "covered": "share of data near a sample"}
SCORES = {
    "frechet_distance": "Fréchet distance", "rarest_class": "share of the rarest digit",
    "classes": "digits with a share of 3% or more", "precision": "precision", "recall": "recall",
}  # fmt: skip


def compute(run: Run) -> Result:
    budget = run.budget
    digits = load_digits(run)
    run.note_data("points", "ring and strip: always new samples")
    judge = find_judge(run, digits)
    x = scaled(digits.train[0]).flatten(1).numpy()  # (N, 784)
    error = gradient_error(run.rng(CHECK))
    seconds = step_seconds(x[: budget.batch_size], WIDTHS, DIGIT_NOISE, run.rng(CHECK))
    with run.resumable() as folder, run.progress((len(PLANES) + 1) * budget.checks) as bar:
        planes = {name: learn_points(run, name, folder / name, bar) for name in PLANES}
        learned = learn_digits(run, x, judge, folder / "digits", bar)

    z = run.rng(DIGITS, 1).standard_normal((len(judge.test.real), DIGIT_NOISE)).astype(np.float32)
    images = made(learned.generator, z, run)
    shares = class_shares(features(judge.classifier, images, judge.setting)[1])
    metrics: dict[str, float] = {**judge.test(images), "judge_accuracy": judge.accuracy}
    metrics |= {"gradient_error": error, "times_of_pytorch": seconds[0] / seconds[1]}
    metrics |= {"numpy_step_seconds": seconds[0], "torch_step_seconds": seconds[1]}
    curves, arrays = curves_of("digits", learned, SCORES), dict[str, np.ndarray]()
    for name, plane in planes.items():
        metrics |= {f"{name}_{key}": plane.series(key)[-1] for key in NEARNESS}
        curves |= curves_of(name, plane, NEARNESS)
        arrays[f"{name}_samples"] = plane.samples[plane.steps[-1]].numpy()
        arrays[f"{name}_real"] = real_points(name, JUDGED, run.rng(POINTS, len(PLANES)))
    arrays["digits"] = torch.stack(list(learned.samples.values())).numpy()
    rows = [list(row) for row in zip(digits.classes, shares)]
    tables = {"digits": Table(["digit", "share of samples"], rows)}
    answer = in_words(metrics)
    if run.settings.mode == "quick":
        answer += QUICK
    return Result(answer, "frechet_distance", metrics, curves, tables, arrays)


def curves_of(name: str, learned: Learned, measured: dict[str, str]) -> dict[str, Curve]:
    """What was measured, and the losses of both sides, between every two measurements."""
    series = {key: (learned.series(key), label) for key, label in measured.items()}
    for side in SIDES:
        series[f"{side}_loss"] = losses_between(learned.history, side).tolist(), "loss"
    return {
        f"{name}_{key}": Curve(learned.steps, values, x_label="step", y_label=label)
        for key, (values, label) in series.items()
    }


def in_words(metrics: dict[str, float]) -> str:
    planes = " and ".join(
        f"{metrics[f'{name}_near']:.0%} of the samples of {what} are near it, and samples are "
        f"near {metrics[f'{name}_covered']:.0%} of it"
        for name, what in PLANES.items()
    )
    return (
        f"The gradients differ from PyTorch's by {metrics['gradient_error']:.0e} of a parameter's "
        f"largest at most, and on one thread a step with digits takes "
        f"{metrics['times_of_pytorch']:.2f} of the time of a plain loop in PyTorch. "
        f"In the plane {planes}. Of the 10 digits {frequent(metrics)}, the rarest "
        f"{metrics['rarest_class']:.1%}, by a classifier that is right about "
        f"{metrics['judge_accuracy']:.1%} of real ones; the Fréchet distance from real digits is "
        f"{metrics['frechet_distance']:.1f}, in the features of that classifier (n = 1)."
    )


def frequent(metrics: dict[str, float]) -> str:
    """How many digits have a share of the samples that counts."""
    count = metrics["classes"]
    makes, each = ("make", " each") if count > 1 else ("makes", "")
    return f"{count:.0f} {makes} up {Evaluator.LEAST:.0%} or more of the samples{each}"


def draw(result: Result) -> dict[str, Figure]:
    return {
        "digits": draw_digits(result),
        "points": draw_points(result),
        "quality": draw_quality(result),
        "losses": draw_losses(result),
    }


def draw_digits(result: Result) -> Figure:
    steps = result.curves["digits_frechet_distance"].x
    looks = np.unique(np.geomspace(1, len(steps), ROWS).round().astype(int) - 1)
    rows = result.arrays["digits"][looks, ..., 0]  # (looks, SHOWN, H, W)
    side = rows.shape[-1]
    figure, axes = plots.grid(1, 1, width=6.6, height=0.62 * len(looks))
    mosaic = rows.swapaxes(1, 2).reshape(len(looks) * side, -1)
    axes[0, 0].imshow(mosaic, cmap="gray", vmin=0, vmax=255)
    axes[0, 0].set_yticks(side * (np.arange(len(looks)) + 0.5), [f"{steps[k]:,}" for k in looks])
    axes[0, 0].set(xticks=[], ylabel="step", xlabel="each column is of the same noise")
    axes[0, 0].grid(False)
    figure.suptitle(
        f"{counted(steps[-1], 'step')} in NumPy: of the 10 digits "
        f"{frequent(result.metrics)} (n = 1)"
    )
    return figure


def draw_points(result: Result) -> Figure:
    figure, axes = plots.grid(1, 2 * len(PLANES), width=2.7, height=3)
    for number, name in enumerate(PLANES):
        for place, kind in zip(axes[0, 2 * number :], ("real", "samples")):
            points, colour = result.arrays[f"{name}_{kind}"], "k" if kind == "real" else "C0"
            show_points(place, points, color=colour)
            place.set_title(f"{name}: {kind}")
    axes[0, 0].set_ylabel("second number")
    metrics = result.metrics
    figure.suptitle(
        "; ".join(
            f"{name}: {metrics[f'{name}_near']:.0%} of the samples near the data, "
            f"{metrics[f'{name}_covered']:.0%} of the data near a sample"
            for name in PLANES
        )
        + " (n = 1)"
    )
    return figure


def draw_quality(result: Result) -> Figure:
    figure, axes = plots.grid(1, 3, width=4.2, height=3.3)
    metrics = result.metrics
    curve = result.curves["digits_frechet_distance"]
    plots.plot_curve(axes[0, 0], curve, "", marker="o", ms=4)
    axes[0, 0].set(ylim=(0, 4 * min(curve.y)), title="against validation images")
    for number, key in enumerate(("precision", "recall")):
        marker = plots.MARKERS[number]
        plots.plot_curve(axes[0, 1], result.curves[f"digits_{key}"], key, marker=marker, ms=4)
    axes[0, 1].set(ylim=(0, 1), ylabel="share", title="against validation images")
    axes[0, 1].legend()
    names, shares = zip(*result.tables["digits"].rows)
    axes[0, 2].bar(names, [100 * share for share in shares], color="C0")
    axes[0, 2].axhline(100 * Evaluator.LEAST, color="k", ls="--", lw=1)
    axes[0, 2].set(xlabel="digit, as the judge sees it", ylabel="share of the samples (%)")
    axes[0, 2].set_title(f"in the end; dashed: {Evaluator.LEAST:.0%}")
    figure.suptitle(
        f"Fréchet distance from test images {metrics['frechet_distance']:.1f}, precision "
        f"{metrics['precision']:.2f}, recall {metrics['recall']:.2f}; the rarest digit makes up "
        f"{metrics['rarest_class']:.1%} of the samples (n = 1)"
    )
    return figure


def draw_losses(result: Result) -> Figure:
    names, curves = [*PLANES, "digits"], result.curves
    figure, axes = plots.grid(1, len(names), width=4.2, height=3.3)
    for place, name in zip(axes[0], names):
        for number, side in enumerate(SIDES):
            look: dict[str, Any] = {"marker": plots.MARKERS[number], "ms": 4}
            plots.plot_curve(place, curves[f"{name}_{side}_loss"], side, **look)
        place.axhline(EVEN, color="k", ls="--", lw=1, label="cannot tell: log 2")
        place.set_title(name)
        place.set_ylim(bottom=0)
    axes[0, 0].legend()
    ends = " and ".join(f"{curves[f'digits_{side}_loss'].y[-1]:.2f}" for side in SIDES)
    figure.suptitle(
        f"The losses of {' and '.join(SIDES)} of digits end at {ends}; both are {EVEN:.2f} where "
        "the discriminator cannot tell real from generated (n = 1)"
    )
    return figure
