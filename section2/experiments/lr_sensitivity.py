"""How wide is the range of learning rates that an optimizer can use?

Every optimizer trains the same small ReLU network on MNIST for a short while at every learning
rate of a grid from 1e-5 to 10, held constant. What counts is the validation accuracy at the
end. A rate is usable where that is within five percentage points of the optimizer's own best,
and the width is that of the usable rates next to the best one, in decades (powers of ten). The
test set is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._images import load_rows
from section1.experiments._training import mean_std, sharing
from section2.experiments._optimizers import NAMES, learn, listed, look
from section2.schedules import Schedule, constant
from utils.experiments.results import Result, Table
from utils.experiments.run import Run
from utils.output import plots

LOWEST, HIGHEST = -5, 1  # powers of ten
TOLERANCE = 0.05  # of accuracy


def held(lr: float) -> Callable[[int], Schedule]:
    return lambda steps: constant(lr)


def usable(scores: np.ndarray) -> tuple[int, int]:
    """The first and the last of the rates next to the best at which `scores` is near its best.

    scores (rates,) is NaN where a run blew up.
    """
    known = np.where(np.isnan(scores), -np.inf, scores)
    near = known >= known.max() - TOLERANCE
    first = last = int(known.argmax())
    while first > 0 and near[first - 1]:
        first -= 1
    while last < len(near) - 1 and near[last + 1]:
        last += 1
    return first, last


def compute(run: Run) -> Result:
    budget = run.budget
    data = load_rows(run, "mnist")
    sizes = [data.features, budget.width, max(1, budget.width // 2), len(data.classes)]
    number = (HIGHEST - LOWEST) * budget.per_decade + 1
    rates = np.logspace(LOWEST, HIGHEST, number)
    scores = np.full((len(NAMES), number, budget.seeds), np.nan)
    with run.progress(scores.size) as bar:
        for place, name in enumerate(NAMES):
            for column, lr in enumerate(rates.tolist()):
                for seed in range(budget.seeds):
                    learned = learn(
                        run, sizes, name, data.train, data.validation, key=(seed,),
                        epochs=budget.epochs, batch_size=budget.batch_size,
                        schedule=held(lr),
                    )  # fmt: skip
                    if learned is not None:
                        scores[place, column, seed] = learned.history.val_metric[-1]
                    bar.advance(f"{name} at {lr:.2g}")
    blown = np.isnan(scores).sum(axis=2)  # (optimizers, rates)
    means = scores.mean(axis=2)  # NaN where any run blew up
    metrics: dict[str, float] = {"blown_up": float(blown.sum())}
    rows = []
    for name, row, count in zip(NAMES, means, blown):
        first, last = usable(row)
        best = int(np.nanargmax(row))
        width = (last - first) / budget.per_decade
        accuracy, std = mean_std(scores[NAMES.index(name), best])
        failed = np.flatnonzero(count)
        metrics[f"{name.lower()}_decades"] = width
        metrics[f"{name.lower()}_best_accuracy"] = accuracy
        rows.append(
            [name, float(rates[best]), accuracy, std, float(rates[first]),
             float(rates[last]), width, float(rates[failed[0]]) if len(failed) else None,
             budget.seeds]
        )  # fmt: skip
    metrics["widest_decades"] = max(row[6] for row in rows)
    columns = ["optimizer", "best lr", "validation accuracy", "std", "usable from", "usable to",
               "decades", "blows up from", "n"]  # fmt: skip
    answer = (
        f"{verdict(rows)} {best_rates(rows)}. {int(blown.sum())} of {scores.size} runs blew up "
        f"(n = {budget.seeds} at each rate)."
    )
    return Result(
        answer, "widest_decades", metrics, {}, {"optimizers": Table(columns, rows)},
        {"validation_accuracy": scores, "rates": rates},
    )  # fmt: skip


def verdict(rows: list[list]) -> str:
    """The widest and the narrowest usable ranges, in words."""
    wide, narrow = max(row[6] for row in rows), min(row[6] for row in rows)
    names = {width: listed([row[0] for row in rows if row[6] == width]) for width in (wide, narrow)}
    if wide == narrow:
        return f"All optimizers have a usable range of {decades(wide)}."
    return (
        f"The widest range of usable rates is that of {names[wide]} ({decades(wide)}), the "
        f"narrowest that of {names[narrow]} ({decades(narrow)})."
    )


def best_rates(rows: list[list]) -> str:
    """Whose best rate is the lowest, and whose the highest, in words."""
    rates = {row[0]: row[1] for row in rows}
    low, high = (sharing(rates, pick) for pick in (min, max))
    if low == high:
        return f"The best rate of all optimizers is {rates[low[0]]:.2g}"
    return (
        f"The best rate is lowest for {listed(low)} ({rates[low[0]]:.2g}) and highest for "
        f"{listed(high)} ({rates[high[0]]:.2g})"
    )


def decades(width: float) -> str:
    return f"{width:.2g} decade{'' if width == 1 else 's'}"


def draw(result: Result) -> dict[str, Figure]:
    rows = result.tables["optimizers"].rows
    scores, rates = result.arrays["validation_accuracy"], result.arrays["rates"]
    means, blown = 100 * scores.mean(axis=2), np.isnan(scores).sum(axis=2)
    seeds = scores.shape[2]

    figure, axes = plots.grid(width=3 + 0.62 * len(rates), height=4.6)
    place = axes[0, 0]
    place.set_facecolor("#dddddd")
    image = place.imshow(means, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for row, column in np.ndindex(*means.shape):
        if blown[row, column]:
            text, colour = f"×{blown[row, column]}" if seeds > 1 else "×", "black"
        else:
            text = f"{means[row, column]:.0f}"
            colour = "black" if means[row, column] > 55 else "white"
        place.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    for height, row in enumerate(rows):
        first, last = (int(np.abs(rates - rate).argmin()) for rate in row[4:6])
        x, y = (first - 0.46, last + 0.46), (height - 0.44, height + 0.44)
        place.plot(
            [x[0], x[1], x[1], x[0], x[0]], [y[0], y[0], y[1], y[1], y[0]], color="black", lw=2.5
        )  # fmt: skip
    place.set_xticks(range(len(rates)), [f"{rate:.2g}" for rate in rates])
    place.set_yticks(range(len(rows)), [row[0] for row in rows])
    place.set_xlabel(
        f"learning rate (constant)\nframe: best and next to it, within {100 * TOLERANCE:g} points; "
        f"×: blew up{f' (so many of {seeds} runs)' if seeds > 1 else ''}"
    )
    place.grid(False)
    figure.colorbar(
        image,
        ax=place,
        label="validation accuracy (%)" + (f", mean of {seeds} runs" if seeds > 1 else ""),
    )
    figure.suptitle(verdict(rows))

    curves, axes = plots.grid(1, 2, width=5.2, height=3.8, sharey=True)
    for half, place in zip(np.array_split(np.arange(len(NAMES)), 2), axes[0]):
        for number in half:
            ok = blown[number] == 0
            deviation = 100 * scores[number].std(axis=1, ddof=1) if seeds > 1 else 0 * means[number]
            place.errorbar(
                rates[ok], means[number][ok], deviation[ok], capsize=2, label=NAMES[number],
                **look(NAMES[number]), ms=5, lw=1.4,
            )  # fmt: skip
            place.plot(
                rates[~ok], np.full((~ok).sum(), -4 - 3 * (number % 4)), "x",
                color=look(NAMES[number])["color"],
            )  # fmt: skip
        place.set(xscale="log", xlabel="learning rate (constant)")
    axes[0, 0].set_ylabel("validation accuracy (%)\n× below zero: a run blew up")
    handles = [place.get_legend_handles_labels() for place in axes[0]]
    curves.legend(*map(sum, zip(*handles), ([], [])), loc="outside lower center", ncols=8)
    curves.suptitle(
        best_rates(rows) + (f" (mean and standard deviation, n = {seeds})" if seeds > 1 else "")
    )
    return {"heat_map": figure, "curves": curves}
