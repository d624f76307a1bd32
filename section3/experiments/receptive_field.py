"""How much of an image can a unit see, how much of it does it use, and does training change that?

What it can see follows from kernels, strides and dilations. What it uses is measured by
gradients: were all pixels to wobble a little, each would have a share in the variance of the
unit, and the "used" field is a square of as many pixels as it takes for 95% of it. Measured
are eight untrained architectures, on noise (a ResNet with γ = 0 starts as its shortcuts alone);
a plain stack of 3x3 convolutions before and after it learns digits; and that stack on a task
that needs one distance: to say whether the pixel d to the right is bright. There is no other
way to know than to see it, so this tests the theory.
Sources: Araujo, Norris, Sim, Distill (2019); Luo et al., arXiv:1701.04128.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from section1.experiments._training import counted, mean_std, of_runs, rise_and_fall, spread, train
from section1.linear import Linear
from section1.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from section1.network import Sequential
from section1.training import Batch, fit
from section2.optimizers import Adam
from section3.conv import Conv2D
from section3.experiments._fields import ARCHITECTURES, PLAIN, WIDTH, stack, untrained
from section3.pooling import AvgPool2D, GlobalAvgPool2D
from section3.receptive_field import effective_receptive_field, side
from utils.errors import UserError
from utils.experiments.progress import Progress
from utils.experiments.results import Result, Table
from utils.experiments.run import Run
from utils.output import plots

SIDE = 14  # pixels across of the digits
PLACES = 16  # units across that report in the distance task
BITS = np.array([-1, 1], np.float32)  # the pixels of the distance task
LEARNT = 0.99  # the accuracy from which on a distance counts as learnt
DIGITS, DISTANCE = 1, 2  # first keys of the random numbers of the trainings


def small_digits(run: Run) -> tuple[Batch, Batch]:
    """Digits of SIDE x SIDE pixels, means of 2x2, so that a few layers see about all of one."""
    data = run.load("mnist").subset(run.budget.samples, rng=run.rng())
    train_x, test_x = (AvgPool2D(2)(x) for x in (data.train_x, data.test_x))
    mean, std = train_x.mean(), train_x.std()
    return ((train_x - mean) / std, data.train_y), ((test_x - mean) / std, data.test_y)


def learn_digits(run: Run, seed: int, data: Batch, test: Batch, bar: Progress) -> tuple:
    """Maps of the middle unit before and after training, of its field alone, and test accuracy."""
    rng = run.rng(DIGITS, seed)
    body = stack(run.budget.depth, rng)
    head = Linear(WIDTH, 10, init="xavier_uniform", rng=rng)
    model = Sequential(*body.layers, GlobalAvgPool2D(), head)

    def used() -> np.ndarray:
        mass = effective_receptive_field(body, test[0][:200], rng=run.rng(DIGITS, seed, 0))
        middle, depth = len(mass) // 2, run.budget.depth
        field = slice(middle - depth, middle + depth + 1)
        return mass[field, field]

    before = used()
    trained = train(
        run, lambda _: (model, SoftmaxCrossEntropy(), Adam(model.parameters(), 0)), data, test,
        key=(DIGITS, seed), bar=bar, schedule=rise_and_fall(run.budget.lr, run, len(data[0])),
    )  # fmt: skip
    return before, used(), trained.test_metric


def learn_distance(run: Run, d: int, seed: int) -> tuple[np.ndarray, float]:
    """The map after learning to report the pixel d to the right, and the accuracy at the end.

    Pixels are -1 or 1 at random. Nothing is padded: every unit that reports has its whole field.
    """
    depth, steps = run.budget.depth, run.budget.steps
    field, wide = 2 * depth + 1, 2 * depth + PLACES
    rng = run.rng(DISTANCE, d, seed)
    body = stack(depth, rng, padding=0)
    model = Sequential(*body.layers, Conv2D(WIDTH, 1, 1, init="xavier_uniform", rng=rng))

    def batches(rng: np.random.Generator, count: int = steps) -> Iterator[Batch]:
        for _ in range(count):
            x = rng.choice(BITS, (8, wide, wide + d, 1))
            bright = x[:, depth:-depth, depth + d : depth + d + PLACES] > 0
            yield x[:, :, :wide], bright.astype(np.float32)

    (test,) = batches(rng, 1)
    history = fit(
        model, BinaryCrossEntropy(), Adam(model.parameters(), run.budget.lr), batches, rng=rng,
        epochs=1, batch_size=8, validation=test, threads=run.threads,
    )  # fmt: skip
    noise = rng.choice(BITS, (200, field, field, 1))
    return effective_receptive_field(model, noise, rng=rng), history.val_metric[-1]


def compute(run: Run) -> Result:
    budget = run.budget
    n, distances, radius = budget.seeds, sorted(budget.distances), budget.depth
    if not distances[0] <= radius < distances[-1]:
        raise UserError(f"distances must lie on both sides of depth, {radius}")
    if 2 * radius + 1 > SIDE:
        raise UserError(
            f"depth must be at most {(SIDE - 1) // 2}, got {radius}: the field, {2 * radius + 1} "
            f"pixels across, must fit into digits of {SIDE}x{SIDE}"
        )
    layers: list[list] = []
    accuracy = np.zeros((len(distances), n))
    arrays = {"accuracy": accuracy}
    data, test = small_digits(run)
    run.note_data("noise", "random pixels")
    with run.progress(len(ARCHITECTURES) + n * (budget.epochs + len(distances))) as bar:
        for name, make in ARCHITECTURES.items():
            rows, mass, (top, left, bottom, right) = untrained(make, run)
            arrays[name] = mass[top:bottom, left:right]
            layers += [[name, *row, n] for row in rows]
            bar.advance(name)
        digits = [learn_digits(run, seed, data, test, bar) for seed in range(n)]
        for (k, d), seed in product(enumerate(distances), range(n)):
            mass, accuracy[k, seed] = learn_distance(run, d, seed)
            arrays.setdefault(f"distance {d}", mass)
            bar.advance(f"distance {d}")

    last = {name: row for name, *row in layers}
    depths, sees, uses = np.array([row[1:4] for row in layers if row[0] == PLAIN]).T
    alive = uses > 0  # all units may be dead at the place that is looked at
    learnt = (accuracy > LEARNT).all(axis=1)
    metrics = {
        "seen_exponent": float(np.polyfit(np.log(depths), np.log(sees), 1)[0]),
        "used_exponent": float(np.polyfit(np.log(depths[alive]), np.log(uses[alive]), 1)[0]),
        "reached_by_all": max(np.array(distances)[learnt], default=0),
        "accuracy_beyond": accuracy[np.array(distances) > radius].max(),
        "least_used_share": min(row[2] / row[1] for row in last.values()),
        "most_used_share": max(row[2] / row[1] for row in last.values()),
        "digits_accuracy": float(np.mean([row[2] for row in digits])),
        "radius": radius,
    }
    for k, key in enumerate(("before", "after")):
        metrics[f"used_{key}"], metrics[f"used_{key}_std"] = mean_std(side(r[k]) for r in digits)
        arrays[key] = np.mean([row[k] for row in digits], axis=0)
    each = [f"{name} {row[1]} and {row[2]:.1f}" for name, row in last.items()]
    answer = (
        f"Untrained, they can see and do use, in pixels across: {', '.join(each)}. "
        f"{growth(metrics)}. {change(metrics, n)} (n = {n}). {limit(metrics)}."
    )
    rows = [[d, *mean_std(runs), n] for d, runs in zip(distances, accuracy)]
    tables = {
        "layers": Table(["architecture", "layer", "sees (px)", "uses (px)", "std", "n"], layers),
        "distances": Table(["distance (px)", "accuracy", "std", "n"], rows),
    }
    return Result(answer, "used_exponent", metrics, tables=tables, arrays=arrays)


def growth(metrics: dict[str, float]) -> str:
    return (
        "With the depth of plain 3x3 layers what is seen grows to the power "
        f"{metrics['seen_exponent']:.2f}, what is used to the power {metrics['used_exponent']:.2f}"
    )


def change(metrics: dict[str, float], n: int) -> str:
    before, after = (
        f"{metrics[f'used_{key}']:.1f}{spread(metrics[f'used_{key}_std'], n, '.1f')}"
        for key in ("before", "after")
    )
    return (
        f"Learning digits ({metrics['digits_accuracy']:.0%} right) takes what a stack uses of "
        f"{2 * metrics['radius'] + 1:.0f} pixels across from {before} to {after}"
    )


def limit(metrics: dict[str, float]) -> str:
    far, best = metrics["reached_by_all"], metrics["accuracy_beyond"]
    reached = "No distance is learnt by all runs"
    if far:
        reached = f"All runs learn a distance of {counted(int(far), 'pixel')}"
    return (
        f"{reached}; beyond {metrics['radius']:.0f}, the radius of the field, at most {best:.1%} "
        "are right, and guessing gives 50%"
    )


def show_map(axes: Axes, mass: np.ndarray, title: str, reach: float) -> Any:
    """The map of a field around its unit, and the square that is used, where the mass is."""
    h, w = mass.shape
    slope, extent = np.sqrt(mass / (mass.max() or 1)), (-w / 2, w / 2, h / 2, -h / 2)
    image = axes.imshow(slope, extent=extent, vmin=0, vmax=1)
    y, x = (mass.sum(axis=1 - k) @ (np.arange(n) + (1 - n) / 2) for k, n in enumerate(mass.shape))
    corner, used = (x - side(mass) / 2, y - side(mass) / 2), side(mass)
    axes.add_patch(Rectangle(corner, used, used, fill=False, ls="--", lw=2, edgecolor="white"))
    axes.set(title=title, xlabel="pixels from the unit", facecolor="#dddddd")
    axes.set(xlim=(-reach, reach), ylim=(reach, -reach))
    axes.grid(False)
    return image


def draw(result: Result) -> dict[str, Figure]:
    metrics, arrays, rows = result.metrics, result.arrays, result.tables["layers"].rows
    last = {name: row for name, *row in rows}
    radius, n = int(metrics["radius"]), rows[0][5]

    maps, axes = plots.grid(2, 4, width=2.9, height=3.1)
    for place, (name, row) in zip(axes.flat, last.items()):
        image = show_map(place, arrays[name], f"{name}:\nsees {row[1]}, uses {row[2]:.1f}", 20)
    maps.colorbar(
        image, ax=axes.ravel().tolist(), label="slope along the pixel (1: steepest)", shrink=0.7
    )
    maps.suptitle(
        f"Untrained networks use {metrics['least_used_share']:.0%} to "
        f"{metrics['most_used_share']:.0%} of the width that they see. Coloured: the field by "
        "theory; dashed: a square of as many pixels as carry 95% of the variance"
    )

    deeper, ((place,),) = plots.grid(width=7.5, height=4.8)
    widest = max(row[1] for row in last.values())
    place.plot([1, widest], [1, widest], color="grey", ls=":", label="all that is seen")
    for number, name in enumerate(last):
        sees, uses, std = np.array([row[2:5] for row in rows if row[0] == name], float).T
        style: dict[str, Any] = {"marker": plots.MARKERS[number], "ms": 6, "capsize": 3}
        place.errorbar(sees, uses, std, label=name, color=f"C{number}", **style)
    place.set(xlabel="seen, by theory (pixels across)", ylabel="used (pixels across)")
    place.legend(title=f"layer by layer; {of_runs(n)}")
    deeper.suptitle(growth(metrics))

    distances = [row[0] for row in result.tables["distances"].rows]
    far = int(metrics["reached_by_all"]) or distances[0]
    shown = {
        "before": "untrained",
        "after": "has learnt digits",
        f"distance {far}": f"told to report {far} to the right",
    }
    training, axes = plots.grid(1, 3, width=2.9, height=3.3)
    for place, (key, title) in zip(axes[0], shown.items()):
        show_map(place, arrays[key], title, radius + 1)
    training.suptitle(f"{change(metrics, n)} (n = {n})")

    reach, ((place,),) = plots.grid(width=max(7.5, 1.35 * len(distances)), height=3.6)
    plots.show_runs(place, 100 * arrays["accuracy"], [f"{d}" for d in distances])
    place.axvline(sum(d <= radius for d in distances) - 0.5, color="black", ls="--")
    label = "distance of the pixel to be reported (pixels); dashed: the edge of the field"
    place.set(xlabel=f"{label}\n{place.get_xlabel()}", ylabel="accuracy (%)")
    reach.suptitle(limit(metrics))
    return {"architectures": maps, "growth": deeper, "training": training, "reach": reach}
