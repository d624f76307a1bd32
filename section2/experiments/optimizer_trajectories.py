"""What way does each optimizer take down a ravine, a plateau and a bent valley?

Two numbers are trained instead of a network, so that the way can be seen. The ravine is a
quadratic 50 times steeper across than along, turned by 30 degrees; Beale's function has steep
walls around a plateau; in Rosenbrock's the floor of a bent valley is almost flat. Gradients
are exact. Each optimizer has on each surface the learning rate, of a grid from 0.0005 to 5,
with which it is nearest to the minimum on average over all steps and several starts. AdamW's
decay pulls towards (0, 0), which is no minimum of any of them. Muon is missing: it needs
matrices, and for a vector it is AdamW.
"""

from __future__ import annotations

import numpy as np
from matplotlib.animation import Animation, FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from section1.experiments._training import counted, mean_std, sharing
from section2.experiments._optimizers import ELEMENTWISE, listed, look
from section2.experiments._surfaces import SURFACES, best_rate, descend, distances
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

AROUND = 0.1  # standard deviation of the starts around the one that is drawn
NEAR = 0.1  # a distance from the minimum at which it counts as found
FRAMES = 36  # of the animation, at most


def compute(run: Run) -> Result:
    budget = run.budget
    run.note_data("surfaces", "three analytic surfaces")
    metrics: dict[str, float] = {}
    curves, arrays, rows, sentences = {}, {}, [], []
    found = 0
    with run.progress(len(SURFACES) * len(ELEMENTWISE)) as bar:
        for place, (title, surface) in enumerate(SURFACES.items()):
            starts = surface.start + AROUND * run.rng(place).standard_normal((budget.seeds, 2))
            starts[0] = surface.start  # the one that is drawn
            left = {}
            for name, rule in ELEMENTWISE.items():
                lr = best_rate(rule, surface, starts, budget.steps)
                path = descend(rule, surface, starts, lr, budget.steps)
                distance = distances(path, surface)
                mean, std = mean_std(distance[-1])
                found += int((distance[-1] <= NEAR).sum())
                left[name] = mean
                metrics[f"{title}_{name}_distance"] = mean
                rows.append([title, name, lr, float(distance[-1, 0]), mean, std, budget.seeds])
                curves[f"{title}_{name}"] = Curve.over_runs(
                    range(budget.steps + 1), np.log10(np.maximum(distance.T, 1e-16)),
                    "step", "log10 of the distance to the minimum",
                )  # fmt: skip
                arrays[f"{title}_{name}"] = path[:, 0]
                bar.advance(f"{title} {name} {mean:.2g}")
            sentences.append(f"on {title} {ends(left)}")
    metrics["found"] = found / (len(rows) * budget.seeds)
    answer = (
        f"After {counted(budget.steps, 'step')} at the best learning rate of each, "
        f"{'; '.join(sentences)}{f'; means over {budget.seeds} starts' * (budget.seeds > 1)}. "
        f"{metrics['found']:.0%} of all paths end within {NEAR} of the minimum."
    )
    columns = ["surface", "optimizer", "lr", "distance left", "mean", "std", "n"]
    return Result(answer, "found", metrics, curves, {"paths": Table(columns, rows)}, arrays)


def ends(left: dict[str, float]) -> str:
    """Who ends nearest to the minimum and who farthest, by the distances left, in words."""
    near, far = (sharing(left, pick) for pick in (min, max))
    return (
        f"{listed(near)} end{'s' * (len(near) == 1)} nearest ({left[near[0]]:.2g} from the minimum)"
        f" and {listed(far)} farthest ({left[far[0]]:.2g})"
    )


def draw(result: Result) -> dict[str, Figure | Animation]:
    rows = result.tables["paths"].rows
    steps, n = len(result.arrays["ravine_SGD"]) - 1, rows[0][-1]
    nearest = winners(result)

    still, axes = plots.grid(1, 3, width=4.3, height=5)
    for place, title in zip(axes[0], SURFACES):
        landscape(place, title)
        for row in (row for row in rows if row[0] == title):
            path = result.arrays[f"{title}_{row[1]}"]
            place.plot(
                *path.T, **look(row[1]), lw=1.3, ms=4, markevery=max(1, steps // 12),
                label=f"{row[1]}, lr {row[2]:g}: {row[3]:.2g} left",
            )  # fmt: skip
        place.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize="x-small")
        place.set_title(title)
    still.suptitle(
        f"{counted(steps, 'step')} from one start, each at its best learning rate; nearest to the "
        f"minimum in the end: {nearest}"
    )

    distance, axes = plots.grid(1, 3, width=4.3, height=3.8, sharey=True)
    for place, title in zip(axes[0], SURFACES):
        for name in ELEMENTWISE:
            options = {"markevery": max(1, steps // 8), "ms": 4, "lw": 1.4}
            plots.plot_curve(place, result.curves[f"{title}_{name}"], name, **look(name), **options)
        place.set_title(title)
    axes[0, 0].set_ylim(bottom=-6)
    axes[0, 1].set_ylabel("")
    axes[0, 2].set_ylabel("")
    distance.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    distance.suptitle(
        f"{result.metrics['found']:.0%} of all paths end within {NEAR} of the minimum "
        + (f"(mean and standard deviation of {n} starts)" if n > 1 else "(one start)")
    )
    return {"paths": still, "distance": distance, "descent": animate(result, steps)}


def winners(result: Result) -> str:
    """Who ends nearest to the minimum from the start that is drawn, for each surface."""
    nearest = []
    for title in SURFACES:
        left = {row[1]: row[3] for row in result.tables["paths"].rows if row[0] == title}
        nearest.append(f"{listed(sharing(left, min))} ({title})")
    return ", ".join(nearest)


def landscape(axes: Axes, title: str) -> None:
    """Lines of equal height, evenly spaced in the logarithm, the start and the minimum."""
    surface = SURFACES[title]
    left, right, bottom, top = surface.window
    x, y = np.meshgrid(np.linspace(left, right, 101), np.linspace(bottom, top, 101))
    height = np.log10(surface.height(x, y) + 1e-3)
    axes.contour(x, y, height, 14, cmap="Greys_r", linewidths=0.7, alpha=0.6)
    axes.plot(*surface.start, "o", color="white", mec="black", ms=9, zorder=4)
    axes.plot(*surface.minimum, "*", color="#FFD700", mec="black", ms=15, zorder=4)
    axes.annotate("start", surface.start, (-6, 8), textcoords="offset points", ha="right")
    axes.annotate("minimum", surface.minimum, (8, -14), textcoords="offset points")
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="first number", ylabel="second number")
    axes.grid(False)


def animate(result: Result, steps: int) -> Animation:
    """The same paths growing, a frame for ever more steps: the first steps are the fastest."""
    figure, axes = plots.grid(1, 3, width=3.4, height=3.5)
    lines, heads = {}, {}
    for place, title in zip(axes[0], SURFACES):
        landscape(place, title)
        for name in ELEMENTWISE:
            style = look(name)
            key = f"{title}_{name}"
            (lines[key],) = place.plot([], [], color=style["color"], ls=style["ls"], lw=1.3)
            (heads[key],) = place.plot(
                [],
                [],
                style["marker"],
                color=style["color"],
                mec="black",
                ms=7,
                label=name,
                zorder=5,
            )
        place.set_title(title)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    figure.suptitle(f"Nearest to the minimum after {counted(steps, 'step')}: {winners(result)}")
    shown = np.unique(np.round(steps * np.linspace(0, 1, FRAMES) ** 2).astype(int)).tolist()

    def show(step: int) -> list:
        for place, title in zip(axes[0], SURFACES):
            place.set_title(f"{title}: step {step}")
        for key, line in lines.items():
            path = result.arrays[key][: step + 1]
            line.set_data(*path.T)
            heads[key].set_data(path[-1:, 0], path[-1:, 1])
        return []

    return FuncAnimation(figure, show, shown)
