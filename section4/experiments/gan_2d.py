"""Which variant of a GAN finds all modes of a grid, and how many of its samples lie in one?

Four games on the same grid of 25 narrow Gaussians, with the same networks, initial weights and
learning rate, for the same number of steps: five of the discriminator for each of the generator,
as WGAN-GP wants it. There are two ways to fall short: to leave modes out, and to fill the space
between them.

What a generator makes changes from step to step, long after it has found all modes, until the
learning rate has fallen. So two are measured: the one that is trained, and the running mean of its
weights.
"""

from __future__ import annotations

from typing import Any

from matplotlib.animation import Animation
from matplotlib.figure import Figure

from section1.experiments._training import counted, mean_in_words, mean_std
from section4.experiments._engine import QUICK
from section4.experiments._points import GENERATORS, VARIANTS, find_mixture, play_all
from section4.experiments._points_drawn import (
    animate,
    arrays_of,
    curves_of,
    draw_curves,
    draw_samples,
)
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run

LABELS = {
    "standard": "standard", "lsgan": "LSGAN", "wgan_gp": "WGAN-GP", "sn_hinge": "SN + hinge",
}  # fmt: skip


def compute(run: Run) -> Result:
    mixture = find_mixture(run, run.budget.mixture)
    played = play_all(run, VARIANTS, mixture, falling=True)
    modes, n = len(mixture.centres), run.budget.seeds
    metrics, curves = dict[str, float](), dict[str, Curve]()
    rows = list[list[Any]]()
    for name, runs in played.items():
        row: list[Any] = [LABELS[name]]
        curves |= {f"{name}_{key}": curve for key, curve in curves_of(runs).items()}
        for key in ("modes", "good", "raw_modes", "raw_good"):
            ends = mean_std(one.series(key)[-1] for one in runs)
            metrics[f"{name}_{key}"], metrics[f"{name}_{key}_std"] = ends
            row += ends
        metrics[f"{name}_training_seconds"] = mean_std(r.history.seconds[-1] for r in runs)[0]
        rows.append([*row, metrics[f"{name}_training_seconds"], n])
    metrics["all_modes"] = modes
    metrics["most_modes"] = max(metrics[f"{name}_modes"] for name in LABELS)
    measured = [
        f"{what}, {of}"
        for of in GENERATORS.values()
        for what in ("modes", "std of modes", "good samples", "std of good samples")
    ]
    columns = ["variant", *measured, "training time (s)", "n"]
    steps = runs[0].steps[-1]
    slower = metrics["wgan_gp_training_seconds"] / metrics["standard_training_seconds"]
    answer = (
        f"After {counted(steps, 'step')} of the generator, of {modes} modes and all "
        "samples: "
        f"{ends_in_words(metrics, '', n)}, by the mean of the generator's weights. "
        f"By the generator itself: {ends_in_words(metrics, 'raw_', n)} (n = {n}). "
        f"WGAN-GP takes {slower:.1f} times as long as the standard GAN."
    )
    if run.settings.mode == "quick":
        answer += QUICK
    tables = {"variants": Table(columns, rows)}
    return Result(answer, "most_modes", metrics, curves, tables, arrays_of(played, mixture))


def ends_in_words(metrics: dict[str, float], of: str, n: int) -> str:
    """Modes and good samples of every variant in the end."""
    return "; ".join(
        f"{label} finds {mean_in_words(metrics, f'{name}_{of}modes', '.3g', n)}, with "
        f"{mean_in_words(metrics, f'{name}_{of}good', '.0%', n)} of its samples in one"
        for name, label in LABELS.items()
    )


def draw(result: Result) -> dict[str, Figure | Animation]:
    metrics, n = result.metrics, result.tables["variants"].rows[0][-1]
    finds = ", ".join(
        f"{label} {metrics[f'{name}_modes']:.3g} ({metrics[f'{name}_good']:.0%})"
        for name, label in LABELS.items()
    )
    title = f"Modes found of {metrics['all_modes']:.0f} (and samples that lie in one): {finds}"
    return {
        "samples": draw_samples(result, LABELS, f"{title}; the first of n = {n} is drawn"),
        "progress": draw_curves(result, LABELS, ["modes", "good"], f"{title}; n = {n}"),
        "training": animate(result, LABELS, title),
    }
