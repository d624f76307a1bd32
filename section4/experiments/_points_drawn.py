"""What the experiments on GANs in the plane keep of their trainings, and how they draw it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np
import torch
from matplotlib.animation import Animation, FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from section4.experiments._points import GENERATORS, Played
from section4.gans.mixtures import Mixture
from utils.experiments.results import Curve, Result
from utils.output import plots

WINDOW = 2.4  # half the side of the square that is drawn
MEASURED = {  # by `Watch`; how it is called, and in what unit it is drawn
    "modes": ("modes found", 1),
    "good": ("samples that lie in a mode (%)", 100),
    "spread": ("effective number of modes", 1),
}


def curves_of(runs: list[Played]) -> dict[str, Curve]:
    """All that was measured, over steps: mean and deviation over the seeds."""
    return {
        of + key: Curve.over_runs(
            runs[0].steps, [scale * run.series(of + key) for run in runs],
            "step of the generator", label,
        )
        for of, (key, (label, scale)) in product(GENERATORS, MEASURED.items())
    }  # fmt: skip


def arrays_of(
    runs: Mapping[str, list[Played]], mixture: Mixture, of: str = ""
) -> dict[str, np.ndarray]:
    """Samples (steps, KEPT, 2) of the first seed of every variant, by one of `GENERATORS`."""
    which = list(GENERATORS).index(of)
    arrays = {
        f"{name}_points": torch.stack([both[which] for both in ones[0].points.values()]).numpy()
        for name, ones in runs.items()
    }
    steps = next(iter(runs.values()))[0].steps
    return arrays | {"centres": mixture.centres, "steps": np.array(steps)}


def show_points(axes: Axes, points: np.ndarray, **options: Any) -> None:
    """Points (N, 2) of the plane as dots."""
    axes.plot(*points.T, ".", ms=2.5, mew=0, alpha=0.6, rasterized=True, **options)
    axes.set(xlim=(-WINDOW, WINDOW), ylim=(-WINDOW, WINDOW), aspect="equal")
    axes.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2], xlabel="first number")
    axes.grid(False)


def draw_samples(result: Result, labels: Mapping[str, str], title: str) -> Figure:
    """The samples of every variant in the end, of the first seed."""
    figure, axes = plots.grid(1, len(labels), width=2.7, height=3)
    for number, (place, (name, label)) in enumerate(zip(axes[0], labels.items())):
        modes = result.arrays["centres"].T
        place.plot(*modes, "o", ms=8, mfc="none", mec="#aaaaaa", mew=0.8, zorder=1)
        show_points(place, result.arrays[f"{name}_points"][-1], color=f"C{number}")
        place.set_title(label)
    axes[0, 0].set_ylabel("second number")
    figure.suptitle(title)
    return figure


def draw_curves(
    result: Result, labels: Mapping[str, str], keys: Iterable[str], title: str
) -> Figure:
    """What was measured, over steps: of the mean of weights above, of the generator below."""
    keys = list(keys)
    figure, axes = plots.grid(2, len(keys), width=4.6, height=2.9, sharex=True, sharey="col")
    for (row, (of, words)), (column, key) in product(
        enumerate(GENERATORS.items()), enumerate(keys)
    ):
        place = axes[row, column]
        for number, (name, label) in enumerate(labels.items()):
            curve = result.curves[f"{name}_{of}{key}"]
            plots.plot_curve(place, curve, label, marker=plots.MARKERS[number], ms=4, lw=1.2)
        if key != "good":
            place.axhline(
                len(result.arrays["centres"]), color="k", ls="--", lw=1, label="all modes"
            )
        place.set_title(words)
        place.set_ylim(bottom=0)
        if row == 0:
            place.set_xlabel("")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle(title)
    return figure


def animate(result: Result, labels: Mapping[str, str], title: str) -> Animation:
    """Samples of every variant while it learns: a frame for each time that it was measured."""
    figure = draw_samples(result, labels, title)
    steps = result.arrays["steps"]
    places = dict(zip(labels, figure.axes))

    def show(frame: int) -> list:
        for name, place in places.items():
            place.lines[-1].set_data(*result.arrays[f"{name}_points"][frame].T)
            place.set_xlabel(f"step {steps[frame]:,} of the generator")
        return []

    return FuncAnimation(figure, show, range(len(steps)))
