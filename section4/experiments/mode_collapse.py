"""What makes a GAN put all its samples in one place, do the losses tell, and what helps?

A generator is best off, for the moment, where the discriminator's score is highest: all samples
there, in one mode or between two. The discriminator then learns to refuse that place, and the
samples move on to the next. What keeps them apart is a discriminator that is quick enough to be
right about the generator as it is now. So the collapse is provoked by a generator with a learning
rate many times that of the discriminator, and three remedies are tried: equal rates; more steps
of the discriminator for each of the generator; and WGAN-GP, with as many.

How far samples are spread is the effective number of modes: exp of the entropy of the shares of
samples that are nearest to each mode, 1 for all next to one, 8 for as many next to each of 8.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from matplotlib.animation import Animation
from matplotlib.figure import Figure

from section1.experiments._training import mean_in_words, mean_std
from section4.experiments._engine import QUICK
from section4.experiments._points import (
    VARIANTS,
    Played,
    Variant,
    find_mixture,
    losses_between,
    play_all,
)
from section4.experiments._points_drawn import (
    animate,
    arrays_of,
    curves_of,
    draw_curves,
    draw_samples,
)
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

LAST = 0.2  # the share of a training over which its end is averaged: samples move on and on
EVEN = {"discriminator": math.log(4), "generator": math.log(2)}  # losses where D cannot tell
SEEN = {  # of the generator itself, and of the mean of its weights
    "raw_spread": "effective modes", "raw_modes": "modes found", "raw_good": "good samples",
    "spread": "effective modes, mean of weights", "modes": "modes found, mean of weights",
    "good": "good samples, mean of weights",
}  # fmt: skip
LABELS = {
    "fast_generator": "fast G", "equal_rates": "equal rates",
    "more_steps": "fast G + 5 steps of D", "wgan_gp": "fast G + WGAN-GP",
}  # fmt: skip


def variants(fast: float) -> dict[str, Variant]:
    """The collapse, by a generator (G) `fast` times as fast as the discriminator (D); remedies."""
    standard, wgan_gp = VARIANTS["standard"], VARIANTS["wgan_gp"]
    return {
        "fast_generator": replace(standard, discriminator_steps=1, generator_lr=fast),
        "equal_rates": replace(standard, discriminator_steps=1),
        "more_steps": replace(standard, generator_lr=fast),
        "wgan_gp": replace(wgan_gp, generator_lr=fast),
    }


def compute(run: Run) -> Result:
    mixture, n = find_mixture(run, run.budget.mixture), run.budget.seeds
    played = play_all(run, variants(run.budget.generator_lr), mixture)
    metrics: dict[str, float] = {"all_modes": len(mixture.centres)}
    metrics["generator_lr"] = run.budget.generator_lr
    curves, rows = dict[str, Curve](), list[list[Any]]()
    for name, runs in played.items():
        curves |= {f"{name}_{key}": curve for key, curve in curves_of(runs).items()}
        curves |= {f"{name}_{side}_loss": loss_curve(runs, side) for side in EVEN}
        ends = {key: [late(one.series(key)) for one in runs] for key in SEEN}
        ends |= {
            f"{side}_loss": [late(losses_between(one.history, side)) for one in runs]
            for side in EVEN
        }
        row: list[Any] = [LABELS[name]]
        for key, values in ends.items():
            metrics[f"{name}_{key}"], metrics[f"{name}_{key}_std"] = mean_std(values)
            row += mean_std(values)
        rows.append([*row, mean_std(one.history.seconds[-1] for one in runs)[0], n])
    measured = [*SEEN.values(), "loss of the discriminator", "loss of the generator"]
    columns = [column for what in measured for column in (what, "std")]
    tables = {"variants": Table(["variant", *columns, "training time (s)", "n"], rows)}
    answer = in_words(metrics, n)
    if run.settings.mode == "quick":
        answer += QUICK
    arrays = arrays_of(played, mixture, of="raw_")
    return Result(answer, "fast_generator_raw_spread", metrics, curves, tables, arrays)


def late(values: np.ndarray) -> float:
    """The mean over the end of a training."""
    return float(values[-math.ceil(LAST * len(values)) :].mean())


def loss_curve(runs: list[Played], side: str) -> Curve:
    return Curve.over_runs(
        runs[0].steps, [losses_between(one.history, side) for one in runs],
        "step of the generator", f"loss of the {side}",
    )  # fmt: skip


def in_words(metrics: dict[str, float], n: int) -> str:
    def losses(name: str) -> str:
        numbers = (f"{metrics[f'{name}_{side}_loss']:.2f}" for side in EVEN)
        return f"{' and '.join(numbers)} ({LABELS[name]})"

    def amiss(name: str) -> float:
        return sum(abs(metrics[f"{name}_{side}_loss"] - even) for side, even in EVEN.items())

    of_logits = sorted((name for name in LABELS if name != "wgan_gp"), key=amiss)
    spreads = "; ".join(
        f"{label}: {mean_in_words(metrics, f'{name}_raw_spread', '.1f', n)}, "
        f"{mean_in_words(metrics, f'{name}_raw_good', '.0%', n)} good"
        for name, label in LABELS.items()
    )
    return (
        f"A generator that learns {metrics['generator_lr']:g} times as fast as the discriminator "
        f"spreads its samples over {metrics['fast_generator_raw_spread']:.1f} effective modes of "
        f"{metrics['all_modes']:.0f}. All variants, with the samples that lie in a mode: {spreads} "
        f"(the generator itself, over the last {LAST:.0%} of its training; n = {n}). With perfect "
        "samples discriminator and generator would have losses of "
        f"{' and '.join(f'{loss:.2f}' for loss in EVEN.values())}; nearest to that are "
        f"{losses(of_logits[0])}, farthest {losses(of_logits[-1])}."
    )


def draw(result: Result) -> dict[str, Figure | Animation]:
    metrics, n = result.metrics, result.tables["variants"].rows[0][-1]
    spreads = "; ".join(
        f"{label}: {metrics[f'{name}_raw_spread']:.1f}" for name, label in LABELS.items()
    )
    title = f"Effective modes of {metrics['all_modes']:.0f} in the end: {spreads}; n = {n}"
    return {
        "losses": draw_losses(result),
        "progress": draw_curves(result, LABELS, ["spread", "good"], title),
        "samples": draw_samples(result, LABELS, f"{title}, the first is drawn"),
        "training": animate(result, LABELS, title),
    }


def draw_losses(result: Result) -> Figure:
    """The losses beside what they ought to tell; WGAN-GP's have another unit."""
    figure, axes = plots.grid(1, 3, width=4.2, height=3.4)
    shown = {name: label for name, label in LABELS.items() if name != "wgan_gp"}
    keys = *(f"{side}_loss" for side in EVEN), "raw_spread"
    for (column, key), (number, (name, label)) in product(
        enumerate(keys), enumerate(shown.items())
    ):
        look: dict[str, Any] = {"marker": plots.MARKERS[number], "ms": 4, "lw": 1.2}
        plots.plot_curve(axes[0, column], result.curves[f"{name}_{key}"], label, **look)
    for place, even in zip(axes[0], EVEN.values()):
        place.axhline(even, color="black", ls="--", lw=1, label="perfect samples")
    axes[0, 2].axhline(result.metrics["all_modes"], color="black", ls="--", lw=1)
    axes[0, 2].set_ylim(bottom=0)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    metrics = result.metrics
    pairs = (
        f"{label} " + ", ".join(f"{metrics[f'{name}_{side}_loss']:.2f}" for side in EVEN)
        + f": {metrics[f'{name}_raw_spread']:.1f} modes" for name, label in shown.items()
    )  # fmt: skip
    figure.suptitle(
        f"Losses of D and G in the end, and effective modes: {'; '.join(pairs)} "
        f"(perfect samples: {', '.join(f'{loss:.2f}' for loss in EVEN.values())}: "
        f"{metrics['all_modes']:.0f} modes)"
    )
    return figure
