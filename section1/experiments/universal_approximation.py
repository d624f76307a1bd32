"""How fast does the error of a network with one hidden layer fall as it gets wider?

That it can come as close to a continuous function as one likes is a theorem (Cybenko, 1989);
that gradient descent gets there is not, and is what is measured here. Every network has a
single hidden layer of tanh units and is trained by plain gradient descent. The more units,
the steeper the loss along the direction that moves all of them, so the learning rate is
divided by the width; it falls to zero in the end, and with it the noise of the batches.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from section1.experiments._functions import tanh_units
from section1.experiments._training import counted, rise_and_fall, train
from section1.losses import MeanSquaredError
from section1.sgd import SGD
from section1.training import predict
from utils.data.functions import TARGETS_1D, TARGETS_2D, Target
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

SMOOTH = ("sines", "bump", "chirp")  # the others have a corner or a jump
FEWEST = 8  # the learning rate is divided by the width, but by no less than this
DENSE = {1: 1001, 2: 61 * 61}  # points of the grid on which the error is measured


def grid(dimensions: int, points: int) -> np.ndarray:
    """About `points` points (N, dimensions) of a square grid over [-1, 1]^dimensions."""
    span = np.linspace(-1, 1, round(points ** (1 / dimensions)), dtype=np.float32)
    return np.stack(np.meshgrid(*[span] * dimensions), axis=-1).reshape(-1, dimensions)


def compute(run: Run) -> Result:
    budget = run.budget
    run.note_data("functions", f"{budget.samples} points of each target function, without noise")
    widths = sorted(set(budget.widths))
    first, last = widths[0], widths[-1]
    metrics, curves, rows, arrays, folds = {}, {}, [], {}, {}
    works = [(1, name) for name in budget.targets] + [(2, name) for name in budget.targets_2d]
    with run.progress(len(works) * len(widths) * budget.seeds * budget.epochs) as bar:
        for place, (dimensions, name) in enumerate(works):
            target = chosen(TARGETS_1D if dimensions == 1 else TARGETS_2D, name)
            x, dense = grid(dimensions, budget.samples), grid(dimensions, DENSE[dimensions])
            y, truth = target(*x.T), target(*dense.T)  # (N,)
            errors = np.empty((budget.seeds, len(widths)))
            for column, width in enumerate(widths):
                peak = budget.lr / max(width, FEWEST)

                def recipe(
                    rng: np.random.Generator, inputs: int = dimensions, width: int = width
                ) -> tuple:
                    model = tanh_units(inputs, width, rng)
                    return model, MeanSquaredError(), SGD(model.parameters(), 0)

                for seed in range(budget.seeds):
                    trained = train(
                        run, recipe, (x, y), (dense, truth), key=(place, width, seed), bar=bar,
                        metric=None, schedule=rise_and_fall(peak, run, len(x)),
                    )  # fmt: skip
                    errors[seed, column] = trained.test_loss**0.5
                    if seed == 0:
                        fit = predict(trained.model, dense, threads=run.threads)
                        arrays[f"{name}_{width}"] = fit[:, 0]
            arrays[f"{name}_errors"] = errors
            curves[name] = Curve.over_runs(
                widths, errors, "hidden units", "RMSE on a dense grid (units of f)"
            )
            folds[name] = float(np.mean(errors[:, 0]) / np.mean(errors[:, -1]))
            metrics[f"fold_{first}_to_{last}_{name}"] = folds[name]
            metrics[f"rmse_{last}_{name}"] = curves[name].y[-1]
            rows.append([name, dimensions, curves[name].y[0], curves[name].y[-1], folds[name]])
    flat = smooth(list(folds))
    headline = f"fold_{first}_to_{last}"
    metrics[headline] = float(np.exp(np.mean([np.log(folds[name]) for name in flat])))
    ten = [f"{name} {times(fold)}" for name, fold in folds.items() if fold >= 10]
    less = [f"{name} {times(fold)}" for name, fold in folds.items() if fold < 10]
    answer = (
        f"From {first} to {counted(last, 'unit')} the error is divided by "
        f"{times(metrics[headline])} (geometric mean over {', '.join(flat)}; "
        f"{counted(budget.seeds, 'seed')}). By ten or more: {', '.join(ten) or 'none'}; by less: "
        f"{', '.join(less) or 'none'}."
    )
    columns = [
        "target",
        "inputs",
        *(f"RMSE, {counted(width, 'unit')}" for width in (first, last)),
        "fold",
    ]
    return Result(answer, headline, metrics, curves, {"targets": Table(columns, rows)}, arrays)


def times(fold: float) -> str:
    return f"{fold:.0f}" if fold >= 10 else f"{fold:.3g}"


def smooth(names: list[str]) -> list[str]:
    """The smooth targets of one variable, which the headline is about; all where none is."""
    return [name for name in names if name in SMOOTH] or names


def chosen(targets: Mapping[str, Target], name: str) -> Target:
    if name not in targets:
        raise UserError(f"there is no target function {name!r}; there are {', '.join(targets)}")
    return targets[name]


def draw(result: Result) -> dict[str, Figure]:
    rows = {row[0]: row for row in result.tables["targets"].rows}
    lines = [name for name, row in rows.items() if row[1] == 1]
    planes = [name for name, row in rows.items() if row[1] == 2]
    widths = [int(width) for width in next(iter(result.curves.values())).x]
    figures = {"error": draw_errors(result, rows, widths)}
    x = grid(1, DENSE[1])[:, 0]

    if lines:
        shown = sorted({widths[0], widths[len(widths) // 2], widths[-1]})
        columns = min(len(lines), 3)
        fits, axes = plots.grid(-(-len(lines) // columns), columns, width=3.6, height=3)
        for place in axes.flat[len(lines) :]:
            place.axis("off")
        for name, place in zip(lines, axes.flat):
            place.plot(x, TARGETS_1D[name](x), color="0.7", lw=6, label="target f")
            for width, style in zip(shown, (":", "--", "-")):
                y = result.arrays[f"{name}_{width}"]
                place.plot(x, y, style, lw=1.6, label=counted(width, "unit"))
            place.set(title=f"{name}: {TARGETS_1D[name].formula}", xlabel="x", ylabel="f(x)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fits.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        fits.suptitle(
            f"RMSE from {widths[0]} to {counted(widths[-1], 'unit')}: "
            + "; ".join(f"{name} {rows[name][2]:.2g} to {rows[name][3]:.2g}" for name in lines)
        )
        figures["fits"] = fits
    if planes:
        maps, axes = plots.grid(len(planes), 3, width=3.6, height=2.8)
        for name, line in zip(planes, axes):
            side = round(DENSE[2] ** 0.5)
            truth = TARGETS_2D[name](*grid(2, DENSE[2]).T).reshape(side, side)
            fit = result.arrays[f"{name}_{widths[-1]}"].reshape(side, side)
            top = np.abs(truth).max()
            draws = [
                (truth, top, f"target: {name}"),
                (fit, top, counted(widths[-1], "unit")),
                (fit - truth, np.abs(fit - truth).max(), "error: fit - target"),
            ]
            for place, (image, limit, title) in zip(line, draws):
                shown_image = place.imshow(
                    image, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower",
                    extent=(-1, 1, -1, 1),
                )  # fmt: skip
                place.set(title=title, xlabel="$x_1$", ylabel="$x_2$")
                place.grid(False)
                maps.colorbar(shown_image, ax=place, shrink=0.8)
        maps.suptitle(
            "; ".join(
                f"{name}: RMSE {rows[name][3]:.2g} with {counted(widths[-1], 'unit')} "
                f"({rows[name][3] / deviation(name):.0%} of the target's spread)"
                for name in planes
            )
        )
        figures["planes"] = maps
    return figures


def deviation(name: str) -> float:
    """The standard deviation of a target over the square."""
    return float(TARGETS_2D[name](*grid(2, DENSE[2]).T).std())


def draw_errors(result: Result, rows: dict, widths: list[int]) -> Figure:
    figure, axes = plots.grid(width=7, height=4.4)
    for k, name in enumerate(rows):
        curve, errors = result.curves[name], result.arrays[f"{name}_errors"]
        low, high = errors.min(axis=0), errors.max(axis=0)  # a std could reach below zero
        inputs = "$x$" if rows[name][1] == 1 else "$x_1, x_2$"
        axes[0, 0].errorbar(
            curve.x, curve.y, [curve.y - low, high - curve.y], capsize=3,
            marker=plots.MARKERS[k % len(plots.MARKERS)], ls="-" if rows[name][1] == 1 else "--",
            label=f"{name} ({inputs}): ÷ {times(rows[name][4])}",
        )  # fmt: skip
    x = np.array(widths, float)
    axes[0, 0].set_xscale("log", base=2)
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_xticks(x, [str(width) for width in widths])
    axes[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    axes[0, 0].yaxis.set_minor_formatter("")
    curve = next(iter(result.curves.values()))
    axes[0, 0].set(xlabel=curve.x_label, ylabel=curve.y_label)
    axes[0, 0].set_title(f"mean and range of {counted(curve.n, 'seed')}")
    figure.legend(
        loc="outside right center", title=f"error, {widths[0]} to {counted(widths[-1], 'unit')}"
    )
    fold, over = result.metrics[result.headline], ", ".join(smooth(list(rows)))
    figure.suptitle(
        f"From {widths[0]} to {counted(widths[-1], 'unit')} the error is divided by {times(fold)} "
        f"(geometric mean of {over})"
    )
    return figure
