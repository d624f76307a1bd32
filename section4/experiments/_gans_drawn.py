"""What is told and drawn of the comparison of GANs, and pictures of many images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from section1.experiments._training import counted, mean_in_words, of_runs
from section3.experiments._cnns import tied
from section4.experiments._gan_training import VARIANTS
from utils.experiments.results import Result
from utils.output import plots

BASELINE = "mlp"
MEASURES = {
    "frechet_distance": "Fréchet distance",
    "precision": "precision",
    "recall": "recall",
    "classifier_score": "classifier score",
    "classes": "classes covered",
    "rarest_class": "share of the rarest class",
}
SERIES = {
    "generator_loss": "loss of the generator",
    "discriminator_loss": "loss of the discriminator",
    "gradient_norm": "length of the discriminator's gradient",
}
COLUMNS = 5  # of pictures of samples, for different steps


def best_of(metrics: dict[str, float]) -> str:
    """The variant with convolutions that came closest to test images."""
    keys = {name: f"{name}_frechet_distance" for name in VARIANTS if name != BASELINE}
    return min((name for name in keys if keys[name] in metrics), key=lambda k: metrics[keys[k]])


def finding(metrics: dict[str, float], arrays: dict[str, np.ndarray]) -> str:
    """The best variant and how far it is ahead, with what noise leaves open."""
    best = best_of(metrics)
    runs = arrays[f"{best}_distances"]
    words = (
        f"Of the convolutional GANs {VARIANTS[best].label} comes closest to real digits after "
        f"{counted(metrics['steps'], 'step')} of either network: Fréchet "
        f"distance {mean_in_words(metrics, f'{best}_frechet_distance', '.1f', len(runs))}"
    )
    equal = [
        variant.label
        for name, variant in VARIANTS.items()
        if name not in (best, BASELINE)
        and min(len(arrays[f"{name}_distances"]), len(runs)) > 1
        and tied(arrays[f"{name}_distances"], runs)
    ]
    if equal:
        words += f" (no more than noise behind: {', '.join(equal)})"
    others = arrays[f"{BASELINE}_distances"]
    if len(others):
        key = f"{BASELINE}_frechet_distance"
        words += (
            f"; the standard loss with linear layers "
            f"{mean_in_words(metrics, key, '.1f', len(others))}, "
            f"{metrics[key] / metrics[f'{best}_frechet_distance']:.1f} times as much"
        )
    return f"{words} (n = {len(runs)})"


# --- drawn ----------------------------------------------------------------------------------


def label_of(result: Result, name: str) -> str:
    """A variant, and how many of its trainings are left where some diverged."""
    n = len(result.arrays[f"{name}_distances"])
    return VARIANTS[name].label + f" (n = {n})" * (n < result.metrics["seeds"])


def look(name: str) -> dict[str, Any]:
    place = list(VARIANTS).index(name)
    return {"color": f"C{place}", "marker": plots.MARKERS[place], "ms": 4}


def draw_samples(result: Result) -> Figure:
    """A row for each variant, a column for some of the looks; real digits last."""
    metrics, arrays = result.metrics, result.arrays
    steps = result.curves[f"{best_of(metrics)}_distance"].x
    which = np.unique(np.linspace(0, len(steps) - 1, COLUMNS).round().astype(int))
    figure, axes = plots.grid(len(VARIANTS), len(which) + 1, width=1.55, height=1.5)
    titles = [*(f"step {steps[k]:,}" for k in which), "real digits"]
    real = np.array_split(arrays["real"], len(VARIANTS))
    for row, name, others in zip(axes, VARIANTS, real):
        samples = arrays[f"{name}_samples"]
        for place, k in zip(row, which):
            if k < len(samples):
                show_square(place, samples[k])
            else:
                place.text(0.5, 0.5, "diverged", ha="center", transform=place.transAxes)
                place.set(xticks=[], yticks=[])
        show_square(row[-1], others)
        row[0].set_ylabel(VARIANTS[name].label)
    for place, title in zip(axes[0], titles):
        place.set_title(title, fontsize="small")
    figure.suptitle(
        f"Samples of the same noise while training: in the end those of "
        f"{VARIANTS[best_of(metrics)].label} are closest to real digits"
    )
    return figure


def show_rows(axes: Axes, images: np.ndarray) -> None:
    """Bytes (rows, columns, H, W, 1) as one picture."""
    rows, columns, height, width = images.shape[:4]
    whole = images[..., 0].swapaxes(1, 2).reshape(rows * height, columns * width)
    axes.imshow(whole, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


def show_square(axes: Axes, images: np.ndarray) -> None:
    """Bytes (N, H, W, 1) as one picture of n x n, the largest that N images fill."""
    n = math.isqrt(len(images))
    show_rows(axes, images[: n * n].reshape(n, n, *images.shape[1:]))


def draw_distance(result: Result, alive: list[str]) -> Figure:
    figure, axes = plots.grid(1, 2, width=5, height=3.9)
    for place, kind in zip(axes[0], ("distance", "distance_by_seconds")):
        for name in alive:
            curve = result.curves[f"{name}_{kind}"]
            style = {"capsize": 3, "label": label_of(result, name)} | look(name)
            place.errorbar(curve.x, curve.y, curve.std, **style)
        real = result.metrics["real_validation_distance"]
        place.axhline(real, color="k", ls=":", label="real digits")
        place.set(yscale="log", xlabel=curve.x_label, ylabel="Fréchet distance, validation images")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        *handles, loc="outside lower center", ncols=6, title=of_runs(int(result.metrics["seeds"]))
    )
    figure.suptitle(finding(result.metrics, result.arrays))
    return figure


def draw_quality(result: Result, alive: list[str]) -> Figure:
    metrics = result.metrics
    figure, axes = plots.grid(2, 3, width=3.7, height=2.7)
    for number, (place, (key, label)) in enumerate(zip(axes.flat, MEASURES.items())):
        for row, name in enumerate(alive):
            value, std = metrics[f"{name}_{key}"], metrics[f"{name}_{key}_std"]
            place.errorbar(value, row, xerr=std or None, capsize=4, **look(name) | {"ms": 6})
        place.axvline(metrics[f"real_{key}"], color="k", ls=":", label="real digits")
        place.set_xlabel(label)
        labels = [label_of(result, name) if number % 3 == 0 else "" for name in alive]
        place.set_yticks(range(len(alive)), labels)
        place.set_ylim(len(alive) - 0.5, -0.5)
        if key == "frechet_distance":
            place.set_xscale("log")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower right",
        title=of_runs(int(result.metrics["seeds"])),
    )
    best = best_of(metrics)
    figure.suptitle(
        f"Held against test images, samples of {VARIANTS[best].label} have a precision of "
        f"{metrics[f'{best}_precision']:.2f} and a recall of {metrics[f'{best}_recall']:.2f}, real "
        f"digits of {metrics['real_precision']:.2f} and {metrics['real_recall']:.2f}"
    )
    return figure


def draw_losses(result: Result, alive: list[str]) -> Figure:
    figure, axes = plots.grid(2, len(alive), width=2.9, height=2.7, sharex=True)
    for column, name in zip(axes.T, alive):
        for number, key in enumerate(("discriminator_loss", "generator_loss")):
            style = {"color": f"C{number}", "ls": ("-", "--")[number]}
            plots.plot_curve(column[0], result.curves[f"{name}_{key}"], SERIES[key], **style)
        plots.plot_curve(column[1], result.curves[f"{name}_gradient_norm"], "gradient", color="C2")
        column[0].set(title=VARIANTS[name].label, xlabel="", ylabel="")
        column[1].set(yscale="log", ylabel="")
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("length of gradient")
    axes[0, 0].legend()
    limits = np.array([place.get_ylim() for place in axes[1]])
    for place in axes[1]:
        place.set_ylim(limits.min(), limits.max())
    best = best_of(result.metrics)
    distance, loss = (result.curves[f"{best}_{key}"] for key in ("distance", "generator_loss"))
    ends = distance.x[0], distance.x[-1]
    there = np.interp(ends, loss.x, loss.y)
    figure.suptitle(
        f"{VARIANTS[best].label}: from step {ends[0]:,} to {ends[1]:,} the generator's loss goes "
        f"from {there[0]:.2f} to {there[1]:.2f}, the Fréchet distance of its samples from "
        f"{distance.y[0]:.1f} to {distance.y[-1]:.1f} ({of_runs(distance.n)})"
    )
    return figure
