"""Has a generator learned digits by heart, and what lies between two points of its noise?

The generator is the best that `gan_variants` has trained with these settings, or else one trained
here. Copies would show in two ways. Samples would lie nearer to training images than new digits
do; and on the way from one point of the noise to another, samples would jump from one image to
the next instead of changing step by step.

The way from z0 to z1 is an arc, z = (sin((1 - t) a) z0 + sin(t a) z1) / sin(a), with a the angle
between them: normal noise of many dimensions lies near a sphere, and the straight line between two
of its points leads through its inside, where the generator has learned nothing.
Source: White, Sampling generative networks, arXiv:1609.04468.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from section4.experiments._engine import QUICK
from section4.experiments._gan_training import (
    VARIANTS,
    best_trained,
    find_setting,
    learn,
    noise,
)
from section4.experiments._gans import find_judge, load_digits, pictures, scaled
from section4.experiments._gans_drawn import show_rows
from section4.gans.metrics import features, squared_distances
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

OTHERWISE = "lsgan", 0  # what is trained where there is nothing to take: variant and seed
PATHS, STOPS = 6, 9  # that are drawn: ways through the noise, and samples on each
SHOWN = 12  # samples with the training images that are nearest
SPACES = {"pixels": "pixels", "features": "features of the judge"}
AT_ONCE = 5000  # training images
CLOSEST = 1  # per cent of the test images: those closest to a training image


def compute(run: Run) -> Result:
    budget = run.budget
    if budget.compared < SHOWN:
        raise UserError(f"compared must be at least {SHOWN}, got {budget.compared}")
    digits = load_digits(run)
    judge = find_judge(run, digits)
    found = best_trained(run)
    name, seed = found[:2] if found else OTHERWISE
    with run.resumable() as folder, run.progress(budget.looks) as bar:
        setting = find_setting(run, digits, folder)
        learned = learn(
            run, VARIANTS[name], digits, judge, setting, seed=seed, bar=bar,
            folder=found[2] if found else folder / f"{name}_{seed}",
        )  # fmt: skip
    if learned.fault:
        raise UserError(learned.fault)

    n = min(budget.compared, len(digits.test[0]))
    samples, test, train = learned.made(noise(run, n, 2)), digits.test[0][:n], digits.train[0]
    clouds = {
        "pixels": [x.flatten(1).numpy() for x in (samples, scaled(test), scaled(train))],
        "features": [
            features(judge.classifier, x, judge.setting)[0]
            for x in (samples, scaled(test), scaled(train))
        ],
    }
    metrics: dict[str, float] = {"judge_accuracy": judge.accuracy, "compared": n}
    arrays, rows = dict[str, np.ndarray](), list[list[Any]]()
    for space, (made, new, known) in clouds.items():
        (of_made, which), (of_new, _) = nearest(made, known), nearest(new, known)
        ratio = float(np.median(of_made) / np.median(of_new))
        close = float((of_made <= np.percentile(of_new, CLOSEST)).mean())
        metrics |= {f"{space}_ratio": ratio, f"{space}_close": close}
        medians = float(np.median(of_made)), float(np.median(of_new))
        rows.append([SPACES[space], *medians, ratio, close, n])
        arrays |= {f"{space}_samples": of_made, f"{space}_test": of_new}
        closest, others = np.split(np.argsort(of_made), [SHOWN // 2])
        shown = np.concatenate([closest, np.sort(others)[: SHOWN - len(closest)]])
        arrays[f"{space}_shown"] = pictures(samples[shown])
        arrays[f"{space}_nearest"] = pictures(scaled(train[which[shown]]))
    columns = ["distance in", "samples, median", "test images, median", "ratio"]
    columns += [f"share of samples as close as the closest {CLOSEST}% of test images", "n"]

    m = len(judge.test.real)
    starts, ends = noise(run, m, 3), noise(run, m, 4)
    shares = torch.linspace(0, 1, STOPS)
    for way, between in WAYS.items():
        on_the_way = [judge.test(learned.made(between(starts, ends, t))) for t in shares.tolist()]
        arrays[f"{way}_distance"] = np.array([one["frechet_distance"] for one in on_the_way])
        metrics[f"{way}_middle"] = float(arrays[f"{way}_distance"][STOPS // 2])
        images = [learned.made(between(starts[:PATHS], ends[:PATHS], t)) for t in shares.tolist()]
        arrays[f"{way}_images"] = np.stack([pictures(image) for image in images], axis=1)
    metrics["end"] = float(arrays["arc_distance"][[0, -1]].mean())
    curves = {
        way: Curve(shares.tolist(), arrays[f"{way}_distance"].tolist(), x_label="t",
                   y_label="Fréchet distance from test images")
        for way in WAYS
    }  # fmt: skip
    origin = "" if found else ", trained here,"
    answer = (
        f"The generator ({VARIANTS[name].label}{origin} seed {seed}) {of_copies(metrics)}. "
        f"{of_ways(metrics)} (n = 1 generator). The judge is right about "
        f"{judge.accuracy:.1%} of the test images."
    ) + QUICK * (run.settings.mode == "quick")
    tables = {"nearest": Table(columns, rows)}
    return Result(answer, "features_ratio", metrics, curves, tables, arrays)


def nearest(points: np.ndarray, cloud: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of the points (N, D) how far the nearest of the cloud (M, D) is, and which it is."""
    best = np.full(len(points), np.inf)
    which = np.zeros(len(points), int)
    for start in range(0, len(cloud), AT_ONCE):
        squared = np.concatenate([*squared_distances(points, cloud[start : start + AT_ONCE])])
        place = squared.argmin(axis=1)
        here = np.take_along_axis(squared, place[:, None], 1)[:, 0]
        nearer = here < best
        best[nearer], which[nearer] = here[nearer], start + place[nearer]
    return np.sqrt(best.clip(0)), which


def arc(first: torch.Tensor, second: torch.Tensor, t: float) -> torch.Tensor:
    """From noise z0 (N, Z), t = 0, to z1 (N, Z), t = 1, about the origin.

    Where both lie on one line through it, as all noise of one number does, along that line.
    """
    cos = torch.cosine_similarity(first, second, 1)[:, None]
    a = cos.arccos()
    way = (((1 - t) * a).sin() * first + (t * a).sin() * second) / a.sin()
    return torch.where(cos.abs() < 1, way, straight(first, second, t))


def straight(first: torch.Tensor, second: torch.Tensor, t: float) -> torch.Tensor:
    return torch.lerp(first, second, t)


WAYS = {"arc": arc, "straight": straight}


# --- in words -------------------------------------------------------------------------------


def of_copies(metrics: dict[str, float]) -> str:
    ratios = [metrics[f"{space}_ratio"] for space in SPACES]
    close = [metrics[f"{space}_close"] for space in SPACES]
    verdict = "has not learned by heart"
    if max(close) > 2 * CLOSEST / 100:
        verdict = "makes more near-copies than new digits would be"
    return (
        f"{verdict}: its samples are {ratios[0]:.2f} times as far from the nearest training image "
        f"as test images are in pixels and {ratios[1]:.2f} times in features (medians, "
        f"n = {metrics['compared']}), and {close[0]:.1%} and {close[1]:.1%} of them are as close "
        f"as the closest {CLOSEST}% of test images"
    )


def of_ways(metrics: dict[str, float]) -> str:
    return (
        f"Half-way between two points of the noise the Fréchet distance from real digits is "
        f"{metrics['arc_middle']:.1f} on the arc and {metrics['straight_middle']:.1f} on the "
        f"straight line, at the ends {metrics['end']:.1f}"
    )


# --- drawn ----------------------------------------------------------------------------------


def draw(result: Result) -> dict[str, Figure]:
    return {
        "ways": draw_ways(result),
        "nearest": draw_nearest(result),
        "distances": draw_distances(result),
    }


def draw_ways(result: Result) -> Figure:
    figure, axes = plots.grid(1, 3, width=4.3, height=3.1)
    for place, (way, title) in zip(axes[0], {"arc": "the arc", "straight": "the line"}.items()):
        show_rows(place, result.arrays[f"{way}_images"])
        place.set(xlabel="t from 0 to 1", title=f"along {title}")
    for number, way in enumerate(WAYS):
        style = {"marker": plots.MARKERS[number], "ms": 4}
        plots.plot_curve(axes[0, 2], result.curves[way], way, **style)
    axes[0, 2].set_title("how good the samples are on the way")
    axes[0, 2].legend()
    figure.suptitle(of_ways(result.metrics))
    return figure


def draw_nearest(result: Result) -> Figure:
    figure, axes = plots.grid(len(SPACES), 1, width=6.4, height=1.4)
    for place, (space, label) in zip(axes[:, 0], SPACES.items()):
        both = [result.arrays[f"{space}_{kind}"] for kind in ("shown", "nearest")]
        show_rows(place, np.stack(both))
        side = both[0].shape[1]
        place.set_yticks([side / 2, 1.5 * side], ["sample", "training image"])
        place.set_title(f"nearest in {label}")
    figure.suptitle(
        f"Left the {SHOWN // 2} samples of {result.metrics['compared']} that are closest to a "
        "training image, right as many others"
    )
    return figure


def draw_distances(result: Result) -> Figure:
    figure, axes = plots.grid(1, len(SPACES), width=4.8, height=3.5)
    for place, (space, label) in zip(axes[0], SPACES.items()):
        both = {kind: result.arrays[f"{space}_{kind}"] for kind in ("test", "samples")}
        edges = np.histogram_bin_edges(np.concatenate(list(both.values())), 30)
        looks = {"test": ("test images", "C0", "-"), "samples": ("samples", "C1", "--")}
        for kind, (word, colour, dashes) in looks.items():
            place.hist(both[kind], edges, histtype="step", color=colour, ls=dashes, lw=1.8,
                       label=word)  # fmt: skip
        place.set(xlabel=f"distance to the nearest training image, {label}", ylabel="images")
    axes[0, 0].legend()
    figure.suptitle(f"The generator {of_copies(result.metrics)}")
    return figure
