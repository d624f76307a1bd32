"""Does it pay to change the learning rate while training, and how much does the schedule matter?

The same ReLU network learns MNIST by gradient descent with momentum, with every schedule of
the course at the same number of steps. Each schedule has a peak rate of its own, the one of a
small grid that does best on validation data, the mean over all seeds; so that a schedule is not
praised for a smaller rate alone. The test set is looked at for that rate only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._images import load_rows
from section1.experiments._training import (
    counted,
    level_with_best,
    mean_std,
    sharing,
    spread,
    telling_gap,
)
from section1.losses import SoftmaxCrossEntropy
from section1.training import evaluate
from section2 import schedules
from section2.experiments._optimizers import learn, listed
from section2.schedules import Schedule
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

SCHEDULES = {
    "constant": "all the way",
    "step_decay": "÷ 2 after each fifth",
    "multi_step": "÷ 10 after 1/2 and 3/4",
    "exponential": "to 1/100",
    "polynomial": "straight to zero",
    "cosine": "to zero",
    "warm_up": "10%, then cosine",
    "one_cycle": "up and down",
}
LOOK = [("-", "o"), ("--", "s"), ("-.", "D"), (":", "^")]


def schedule(name: str, peak: float, steps: int) -> Schedule:
    """The schedule of `section2.schedules` of this name that reaches `peak`, over `steps` steps."""
    if name == "constant":
        return schedules.constant(peak)
    if name == "step_decay":
        return schedules.step_decay(peak, max(1, -(-steps // 5)), 0.5)
    if name == "multi_step":
        return schedules.multi_step(peak, [steps // 2, 3 * steps // 4], 0.1)
    if name == "exponential":
        return schedules.exponential(peak, 0.01 ** (1 / steps))
    if name == "polynomial":
        return schedules.polynomial(peak, steps)
    if name == "cosine":
        return schedules.cosine(peak, steps)
    if name == "warm_up":
        rise = max(1, steps // 10)
        return schedules.warm_up(schedules.cosine(peak, max(1, steps - rise)), rise)
    return schedules.one_cycle(peak, steps)


def compute(run: Run) -> Result:
    budget = run.budget
    data = load_rows(run, "mnist")
    sizes = [data.features, budget.width, max(1, budget.width // 2), len(data.classes)]
    if budget.epochs * len(data.train[0]) < 10 * budget.batch_size:
        raise UserError("schedules need 10 steps or more: more epochs, or smaller batches")
    validation = np.full((len(SCHEDULES), len(budget.peaks), budget.seeds), np.nan)
    metrics: dict[str, float] = {}
    curves, rows, tests = {}, [], []
    with run.progress(validation.size) as bar:
        for place, name in enumerate(SCHEDULES):
            learned = {}
            for column, peak in enumerate(budget.peaks):
                for seed in range(budget.seeds):
                    found = learn(
                        run, sizes, "Momentum", data.train, data.validation, key=(seed,),
                        epochs=budget.epochs, batch_size=budget.batch_size, checks=budget.checks,
                        schedule=partial(schedule, name, peak),
                    )  # fmt: skip
                    if found is not None:
                        learned[column, seed] = found
                        validation[place, column, seed] = found.history.val_metric[-1]
                    bar.advance(f"{name} at {peak:g}")
            means = validation[place].mean(axis=1)  # NaN where a run blew up
            if np.isnan(means).all():
                raise FloatingPointError(f"{name} blew up at every learning rate that was tried")
            best = int(np.nanargmax(means))
            runs = [learned[best, seed] for seed in range(budget.seeds)]
            tests.append(
                [
                    evaluate(r.model, SoftmaxCrossEntropy(), data.test, threads=run.threads)[1]
                    for r in runs
                ]
            )
            (test, std), (val, _) = mean_std(tests[-1]), mean_std(validation[place, best])
            metrics[f"{name}_test_accuracy"], metrics[f"{name}_test_accuracy_std"] = test, std
            metrics[f"{name}_validation_accuracy"] = val
            rows.append([name, budget.peaks[best], val, test, std, budget.seeds])
            curves[f"{name}_error"] = Curve.over_runs(
                runs[0].x, [[100 - 100 * a for a in r.history.val_metric] for r in runs],
                "passes over the training data", "validation error (%)",
            )  # fmt: skip
            steps = len(runs[0].history.step_loss)
            rate = schedule(name, 1.0, steps)
            curves[f"{name}_rate"] = Curve(
                list(range(steps)),
                [rate(k) for k in range(steps)],
                None,
                1,
                "step",
                "share of the highest rate",
            )
            curves[f"{name}_peaks"] = Curve.over_runs(
                budget.peaks,
                100 * validation[place].T,
                "highest learning rate",
                "validation accuracy (%)",
            )
    scores = np.array(tests)
    means = scores.mean(axis=1)
    metrics["gain_over_constant"] = float(100 * (means[1:].max() - means[0]))
    best = int(means.argmax())
    names = list(SCHEDULES)
    level = [name for name in level_with_best(scores, names) if name != names[best]]
    answer = (
        f"{verdict(scores)}. The best is {rows[best][0]} with {means[best]:.2%}"
        f"{spread(100 * rows[best][4], budget.seeds)} of the test images"
        + (f"; constant has {means[0]:.2%}" if best else "")
        + (spread(100 * rows[0][4], budget.seeds) if best else "")
        + f" (n = {budget.seeds}, each at its best of {counted(len(budget.peaks), 'rate')} by "
        f"validation). Level with it as far as these seeds can tell: "
        f"{listed(level) if level else 'none'}."
    )
    columns = ["schedule", "highest lr", "validation accuracy", "test accuracy", "std", "n"]
    return Result(
        answer, "gain_over_constant", metrics, curves, {"schedules": Table(columns, rows)},
        {"test_accuracy": scores, "validation_accuracy": validation},
    )  # fmt: skip


def verdict(scores: np.ndarray) -> str:
    """How many schedules do better than a constant rate, and which worse, by `scores` (arms, n)."""
    constant, *others = scores.mean(axis=1)
    gap = telling_gap(scores)
    better = sum(mean > constant + gap for mean in others)
    worse = [name for name, mean in zip(list(SCHEDULES)[1:], others) if mean < constant - gap]
    return (
        f"{better} of {len(others)} schedules {'is' if better == 1 else 'are'} better than a "
        f"constant rate by more than chance explains, {listed(worse) if worse else 'none'} worse"
    )


def highest(scores: np.ndarray) -> str:
    """Who has the highest mean of `scores` (arms, n), in per cent, and what that gains."""
    means = dict(zip(SCHEDULES, scores.mean(axis=1).tolist()))
    names = sharing(means, max)
    if len(names) == len(means):
        return "All schedules end level"
    words = f"{listed(names)} end{'s' * (len(names) == 1)} highest"
    if "constant" in names:
        return words
    gain = max(means.values()) - means["constant"]
    return f"{words}, {gain:.2f} percentage points above a constant rate"


def fewest_errors(errors: Mapping[str, Sequence[float]]) -> str:
    """Who has the fewest errors, of these in per cent, half-way and at the end, in words."""
    points = len(errors["constant"])
    parts = []
    for when, at in (("half-way", (points - 1) // 2), ("at the end", points - 1))[points == 1 :]:
        there = {name: course[at] for name, course in errors.items()}
        parts.append(f"{when}: {listed(sharing(there, min))} ({min(there.values()):.1f}%)")
    return f"Fewest errors {', '.join(parts)}"


def draw(result: Result) -> dict[str, Figure]:
    rows = result.tables["schedules"].rows
    scores = 100 * result.arrays["test_accuracy"]

    shapes, axes = plots.grid(2, 4, width=2.6, height=2.1, sharex=True, sharey=True)
    for number, (name, label) in enumerate(SCHEDULES.items()):
        place, curve = axes.flat[number], result.curves[f"{name}_rate"]
        place.step(curve.x, curve.y, where="post", color=f"C{number}")
        place.fill_between(curve.x, 0, curve.y, step="post", color=f"C{number}", alpha=0.15)
        place.set_title(f"{name}: {label}", fontsize=8.5)
        place.set_ylim(0, 1.05)
    for place in axes[-1]:
        place.set_xlabel("step")
    for place in axes[:, 0]:
        place.set_ylabel("share of highest rate", fontsize="small")
    area = {name: float(np.mean(result.curves[f"{name}_rate"].y)) for name in SCHEDULES}
    low = min(area, key=area.__getitem__)
    shapes.suptitle(
        f"Of {len(SCHEDULES)} schedules {low} has the lowest mean rate, {area[low]:.0%} of its "
        f"highest; constant has {area['constant']:.0%}"
    )

    accuracy, axes = plots.grid(width=10.4, height=3.6)
    names = [f"{row[0]}\n(lr {row[1]:g})" for row in rows]
    plots.show_runs(axes[0, 0], scores, names)
    axes[0, 0].set_ylabel("test accuracy (%)")
    accuracy.suptitle(f"{highest(scores)}; {verdict(scores)}")

    course, axes = plots.grid(1, 2, width=5.2, height=4.2)
    for number, name in enumerate(SCHEDULES):
        dashes, marker = LOOK[number % 4]
        options = {"ls": dashes, "marker": marker, "ms": 4, "lw": 1.4}
        plots.plot_curve(axes[0, 0], result.curves[f"{name}_error"], name, **options)
        plots.plot_curve(axes[0, 1], result.curves[f"{name}_peaks"], name, **options)
    axes[0, 0].set(yscale="log", title="each at its best rate")
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    axes[0, 0].yaxis.set_minor_formatter("{x:g}")
    peaks = result.curves["constant_peaks"].x
    axes[0, 1].set(xscale="log", title="at the end, for every rate tried")
    axes[0, 1].set_xticks(peaks, [f"{peak:g}" for peak in peaks])
    axes[0, 1].set_xticks([], minor=True)
    course.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    errors = {name: result.curves[f"{name}_error"].y for name in SCHEDULES}
    course.suptitle(f"{fewest_errors(errors)}; n = {rows[0][-1]}")
    return {"schedules": shapes, "accuracy": accuracy, "course": course}
