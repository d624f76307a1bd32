"""Which loss makes a GAN's digits most like real ones, at the same number of steps?

Three losses (`gans/losses.py`), and the first of them once more with a spectrally normalised
discriminator, on the same convolutional networks, from the same initial weights, with the same
optimizer, for as many steps of either network; and as a baseline the standard loss on linear
layers. No loss tells how good samples are. So they are measured by a classifier of digits
(`gans/metrics.py`), on the way against validation images, in the end against test images. What it
says of real training images is what a perfect generator would get.
"""

from __future__ import annotations

from itertools import chain, product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._training import counted, mean_std, smoothed
from section4.experiments._engine import QUICK
from section4.experiments._gan_training import (
    VARIANTS,
    Learned,
    find_setting,
    learn,
    noise,
    steps_of,
)
from section4.experiments._gans import find_judge, load_digits, pictures, scaled
from section4.experiments._gans_drawn import (
    BASELINE,
    MEASURES,
    SERIES,
    best_of,
    draw_distance,
    draw_losses,
    draw_quality,
    draw_samples,
    finding,
)
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run

POINTS = 40  # of a curve over steps, each a mean
SHOWN = 4  # images along each side of a picture of samples


def compute(run: Run) -> Result:
    budget = run.budget
    digits = load_digits(run)
    judge = find_judge(run, digits)
    learned: dict[str, list[Learned]] = {name: [] for name in VARIANTS}
    total = len(VARIANTS) * budget.seeds * budget.looks
    with run.resumable() as folder, run.progress(total) as bar:
        setting = find_setting(run, digits, folder)
        for (name, variant), seed in product(VARIANTS.items(), range(budget.seeds)):
            place = folder / f"{name}_{seed}"
            learned[name].append(
                learn(run, variant, digits, judge, setting, seed=seed, folder=place, bar=bar)
            )
    ended = {name: [one for one in runs if not one.fault] for name, runs in learned.items()}
    if not any(ended[name] for name in VARIANTS if name != BASELINE):
        raise UserError("every training diverged: take a smaller learning rate (--lr)")

    n = len(judge.test.real)
    z, known = noise(run, n, 1), scaled(digits.train[0])
    real, nearby = judge.test(known[:n]), judge.validation(known[: len(judge.validation.real)])
    metrics = {"judge_accuracy": judge.accuracy, "steps": steps_of(run), "seeds": budget.seeds}
    metrics |= {f"real_{key}": value for key, value in real.items()}
    metrics["real_validation_distance"] = nearby["frechet_distance"]
    curves, rows = dict[str, Curve](), list[list[Any]]()
    arrays = {"real": pictures(known[: len(VARIANTS) * SHOWN**2])}
    for name, variant in VARIANTS.items():
        looks = learned[name][0].samples
        arrays[f"{name}_samples"] = np.array([look[: SHOWN**2].numpy() for look in looks.values()])
        scores = [judge.test(one.made(z)) for one in ended[name]]
        arrays[f"{name}_distances"] = np.array([score["frechet_distance"] for score in scores])
        values = {key: [score[key] for score in scores] for key in MEASURES}
        values["training_seconds"] = [one.history.seconds[-1] for one in ended[name]]
        row: list[Any] = [variant.label]
        for key, numbers in values.items():
            row += mean_std(numbers) if numbers else [None, None]
            if numbers:
                metrics[f"{name}_{key}"], metrics[f"{name}_{key}_std"] = row[-2:]
        rows.append([*row, len(ended[name]), len(learned[name]) - len(ended[name])])
        if ended[name]:
            curves |= {f"{name}_{kind}": curve for kind, curve in seen(ended[name]).items()}
    spread_out = [item for key in MEASURES for item in (real[key], None)]
    rows.append(["real digits", *spread_out, None, None, 1, 0])
    names = [*MEASURES.values(), "training time (s)"]
    columns = ["variant", *[word for name in names for word in (name, "std")], "n", "diverged"]
    everyone = chain.from_iterable(learned.values())
    faults = [[one.variant.label, one.fault] for one in everyone if one.fault]
    tables = {"variants": Table(columns, rows), "diverged": Table(["variant", "reason"], faults)}
    metrics["best_frechet_distance"] = metrics[f"{best_of(metrics)}_frechet_distance"]
    answer = in_words(metrics, arrays) + QUICK * (run.settings.mode == "quick")
    return Result(answer, "best_frechet_distance", metrics, curves, tables, arrays)


def distances(one: Learned) -> list[float]:
    """From validation images, at every look."""
    return [measured["frechet_distance"] for measured in one.history.measured]


def seen(runs: list[Learned]) -> dict[str, Curve]:
    """What is drawn of the trainings of one variant."""
    steps, over = list(runs[0].samples), Curve.over_runs
    seconds = np.mean([one.history.seconds for one in runs], axis=0).tolist()
    label, found = "Fréchet distance", [distances(one) for one in runs]
    curves = {
        "distance": over(steps, found, "step", label),
        "distance_by_seconds": over(seconds, found, "training time (s)", label),
    }
    for key, label in SERIES.items():
        series = np.array([getattr(one.history, key) for one in runs])  # (n, steps)
        curves[key] = over(*smoothed(series, POINTS), "step", label)
    return curves


def in_words(metrics: dict[str, float], arrays: dict[str, np.ndarray]) -> str:
    alive = [name for name in VARIANTS if len(arrays[f"{name}_distances"])]
    every = ", ".join(
        f"{VARIANTS[name].label} {metrics[f'{name}_frechet_distance']:.1f} in "
        f"{metrics[f'{name}_training_seconds']:.0f} s"
        for name in alive
    )
    lost = {
        variant.label: int(metrics["seeds"]) - len(arrays[f"{name}_distances"])
        for name, variant in VARIANTS.items()
    }
    return (
        f"{finding(metrics, arrays)}. {every}; real training images "
        f"{metrics['real_frechet_distance']:.1f}, in the features of a classifier that is right "
        f"about {metrics['judge_accuracy']:.1%} of the test images."
        + "".join(
            f" {label} diverged in {count} of {counted(int(metrics['seeds']), 'training')}."
            for label, count in lost.items()
            if count
        )
    )


def draw(result: Result) -> dict[str, Figure]:
    alive = [name for name in VARIANTS if len(result.arrays[f"{name}_distances"])]
    return {
        "samples": draw_samples(result),
        "distance": draw_distance(result, alive),
        "quality": draw_quality(result, alive),
        "losses": draw_losses(result, alive),
    }
