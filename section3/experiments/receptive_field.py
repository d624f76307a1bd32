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
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from section1.experiments._training import mean_std, rise_and_fall, train
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

PLACES = 16  # units across that report in the distance task
BITS = np.array([-1, 1], np.float32)  # the pixels of the distance task
LEARNT = 0.99  # the accuracy from which on a distance counts as learnt
SLOPE = "slope along the pixel (1: steepest)"
DIGITS, DISTANCE = 1, 2  # first keys of the random numbers of the trainings


def small_digits(run: Run) -> tuple[Batch, Batch]:
    """Digits of 14x14 pixels, means of 2x2, so that a few layers see about all of one."""
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
        first, last = len(mass) // 2 - run.budget.depth, len(mass) // 2 + run.budget.depth
        return mass[first : last + 1, first : last + 1]  # its field

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
    options: dict[str, Any] = {"epochs": 1, "batch_size": 8, "validation": test}
    optimizer = Adam(model.parameters(), run.budget.lr)
    history = fit(
        model, BinaryCrossEntropy(), optimizer, batches, rng=rng, threads=run.threads, **options
    )
    noise = rng.choice(BITS, (200, field, field, 1))
    return effective_receptive_field(model, noise, rng=rng), history.val_metric[-1]


def compute(run: Run) -> Result:
    budget = run.budget
    n, distances, radius = budget.seeds, budget.distances, budget.depth
    if not min(distances) <= radius < max(distances):
        raise UserError(f"distances must lie on both sides of depth, {radius}")
    arrays: dict[str, np.ndarray] = {}
    layers: list[list] = []
    data, test = small_digits(run)
    run.note_data("noise", "random pixels")
    with run.progress(len(ARCHITECTURES) + n * (budget.epochs + len(distances))) as bar:
        for name, make in ARCHITECTURES.items():
            rows, arrays[name], box = untrained(make, run)
            arrays[f"{name} box"] = np.array(box)
            layers += [[name, *row, n] for row in rows]
            bar.advance(name)
        digits = [learn_digits(run, seed, data, test, bar) for seed in range(n)]
        reached = []
        for d in distances:
            for seed in range(n):
                mass, accuracy = learn_distance(run, d, seed)
                share = float(mass[radius, radius + d]) if d <= radius else 0.0
                reached.append([d, seed, accuracy, share])
                if seed == 0:
                    arrays[f"distance {d}"] = mass
                bar.advance(f"distance {d}")

    last = {name: row for name, *row in layers}
    depths, sees, uses = np.array([row[1:4] for row in layers if row[0] == PLAIN]).T
    worst = {d: min(row[2] for row in reached if row[0] == d) for d in distances}
    shares = [share for _, _, accuracy, share in reached if accuracy > LEARNT]
    metrics = {
        "seen_exponent": float(np.polyfit(np.log(depths), np.log(sees), 1)[0]),
        "used_exponent": float(np.polyfit(np.log(depths), np.log(uses), 1)[0]),
        "reached_by_all": max((d for d in distances if worst[d] > LEARNT), default=0),
        "accuracy_beyond": max(row[2] for row in reached if row[0] > radius),
        "pixel_share": float(np.mean(shares)) if shares else 0.0,
        "least_used_share": min(uses / sees for _, sees, uses, *_ in last.values()),
        "most_used_share": max(uses / sees for _, sees, uses, *_ in last.values()),
        "digits_accuracy": mean_std(r[2] for r in digits)[0],
        "radius": radius,
    }
    for k, key in enumerate(("before", "after")):
        metrics[f"used_{key}"], metrics[f"used_{key}_std"] = mean_std(side(r[k]) for r in digits)
        arrays[key] = np.mean([r[k] for r in digits], axis=0)
    each = [f"{name} {row[1]} and {row[2]:.1f}" for name, row in last.items()]
    answer = (
        f"Untrained, they can see and do use, in pixels across: {', '.join(each)}. With the depth "
        f"of plain 3x3 layers what is seen grows to the power {metrics['seen_exponent']:.2f}, what "
        f"is used to the power {metrics['used_exponent']:.2f}. Learning digits takes a stack that "
        f"sees {2 * radius + 1} pixels from {spread(metrics, 'used_before')} to "
        f"{spread(metrics, 'used_after')} (n = {n}). "
        f"{limit(metrics)}. A pixel that it learnt to report carries "
        f"{metrics['pixel_share']:.0%} of the variance."
    )
    tables = {
        "layers": Table(["architecture", "layer", "sees (px)", "uses (px)", "std", "n"], layers),
        "distances": Table(["distance (px)", "seed", "accuracy", "share of that pixel"], reached),
    }
    return Result(answer, "used_exponent", metrics, tables=tables, arrays=arrays)


def spread(metrics: dict[str, float], key: str) -> str:
    return f"{metrics[key]:.1f} ± {metrics[f'{key}_std']:.1f}"


def limit(metrics: dict[str, float]) -> str:
    far, best = metrics["reached_by_all"], metrics["accuracy_beyond"]
    reached = (
        f"Every run learns to report a pixel {far} pixels away" if far else "Not every run learns"
    )
    return (
        f"{reached}; beyond {metrics['radius']}, the radius of the field, at most {best:.1%} are "
        "right, and guessing gives 50%"
    )


# --- figures --------------------------------------------------------------------------------


def show_map(axes: Axes, mass: np.ndarray, box: Any, title: str) -> Any:
    """A map with its unit at (0, 0), the box by theory, and the square that is used.

    The square is centred where the mass is.
    """
    top, left, bottom, _ = box
    reach = (bottom - top) / 2
    h, w = mass.shape
    extent = (-left - reach, w - left - reach, h - top - reach, -top - reach)
    image = axes.imshow(np.sqrt(mass / (mass.max() or 1)), extent=extent, vmin=0, vmax=1)
    row, column = (mass.sum(axis=a) @ (np.arange(mass.shape[1 - a]) + 0.5) for a in (1, 0))
    centre = column - left - reach, row - top - reach
    for (x, y), edge, line, colour in (
        ((0, 0), reach, "-", "C4"),
        (centre, side(mass) / 2, "--", "white"),
    ):
        square = Rectangle((x - edge, y - edge), 2 * edge, 2 * edge, fill=False, ls=line, lw=2)
        square.set_edgecolor(colour)
        axes.add_patch(square)
    axes.set(title=title, xlabel="pixels from the unit")
    axes.set_facecolor("#440154")  # the colour of 0
    axes.grid(False)
    return image


def draw(result: Result) -> dict[str, Figure]:
    metrics, arrays, rows = result.metrics, result.arrays, result.tables["layers"].rows
    last = {name: row for name, *row in rows}
    before, after = spread(metrics, "used_before"), spread(metrics, "used_after")
    radius, n = int(metrics["radius"]), rows[0][5]
    size = 2 * radius + 1

    maps, axes = plots.grid(2, 4, width=2.9, height=3.1)
    for place, (name, row) in zip(axes.flat, last.items()):
        title = f"{name}:\nsees {row[1]}, uses {row[2]:.1f}"
        image = show_map(place, arrays[name], arrays[f"{name} box"], title)
        place.set(xlim=(-20, 20), ylim=(20, -20), xticks=range(-20, 21, 10))
        place.set_yticks(range(-20, 21, 10))
    maps.colorbar(image, ax=axes.ravel().tolist(), label=SLOPE, shrink=0.7)
    maps.suptitle(
        f"Untrained networks use {metrics['least_used_share']:.0%} to "
        f"{metrics['most_used_share']:.0%} of the width that they see. Solid: the field by "
        "theory; dashed: a square of as many pixels as carry 95% of the variance"
    )

    growth, axes = plots.grid(width=7.5, height=4.8)
    widest = max(row[1] for row in last.values())
    axes[0, 0].plot([1, widest], [1, widest], color="grey", ls=":", label="all that is seen")
    for number, name in enumerate(last):
        _, sees, uses, std = zip(*(row[1:5] for row in rows if row[0] == name))
        style: dict[str, Any] = {"marker": plots.MARKERS[number], "ms": 6, "capsize": 3}
        axes[0, 0].errorbar(sees, uses, std, label=name, color=f"C{number}", **style)
    axes[0, 0].set(xlabel="seen, by theory (pixels across)", ylabel="used (pixels across)")
    axes[0, 0].legend()
    growth.suptitle(
        f"Layer by layer: {PLAIN} end by using {last[PLAIN][2] / last[PLAIN][1]:.0%} of what they "
        f"see, which grows with depth to the power {metrics['seen_exponent']:.2f}, and what is "
        f"used to the power {metrics['used_exponent']:.2f} (bars: one standard deviation, n = {n})"
    )

    runs = result.tables["distances"].rows
    distances = sorted({row[0] for row in runs})
    near = [d for d in distances if d <= max(metrics["reached_by_all"], distances[0])]
    shown = {"before": "untrained", "after": "has learnt digits"}
    chosen = dict.fromkeys((near[len(near) // 2], near[-1]))
    shown |= {f"distance {d}": f"reports {d} to the right" for d in chosen}
    training, axes = plots.grid(1, len(shown), width=2.9, height=3.3)
    for place, (key, title) in zip(axes[0], shown.items()):
        image = show_map(place, arrays[key], (0, 0, size, size), title)
        place.set(xlim=(-radius - 1, radius + 1), ylim=(radius + 1, -radius - 1))
    training.colorbar(image, ax=axes.ravel().tolist(), label=SLOPE, shrink=0.8)
    training.suptitle(
        f"Of {size} pixels across the stack uses {before} untrained and {after} when it has learnt "
        f"digits ({metrics['digits_accuracy']:.0%} right, n = {n}); when it reports one pixel, "
        f"that one carries {metrics['pixel_share']:.0%} of the variance"
    )

    reach, axes = plots.grid(width=7.5, height=3.6)
    mean = [np.mean([row[2] for row in runs if row[0] == d]) for d in distances]
    axes[0, 0].plot(distances, mean, label=f"mean of {n} runs")
    axes[0, 0].plot([row[0] for row in runs], [row[2] for row in runs], "o", label="one run each")
    edge = f"the edge of the field: {radius} pixels"
    axes[0, 0].axvline(radius + 0.5, color="C1", ls="--", label=edge)
    axes[0, 0].axhline(0.5, color="grey", ls=":", label="guessing")
    axes[0, 0].set(xlabel="distance of the pixel to be reported (pixels)", ylabel="accuracy")
    axes[0, 0].set(ylim=(0.4, 1.05), xticks=distances)
    axes[0, 0].legend(loc="center left")
    reach.suptitle(limit(metrics))
    return {"architectures": maps, "growth": growth, "training": training, "reach": reach}
