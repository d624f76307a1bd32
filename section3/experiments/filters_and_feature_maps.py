"""What do the filters of a network become when it learns digits, and what do its answers hang on?

A small CNN is looked at before and after training: its filters, what they make of a few digits,
the pieces of images to which each answers most, and the pixels that its answer hangs on, found
in two ways: by a slope (saliency) and by covering a patch (occlusion). Beside every picture
stands a number for what it seems to show, for pictures alone are easily believed.
Sources: Simonyan et al., arXiv:1312.6034; Zeiler, Fergus, arXiv:1311.2901; Adebayo et al., Sanity
checks for saliency maps, arXiv:1810.03292 (why untrained networks are looked at, too).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from section1.activations import ReLU
from section1.experiments._training import mean_std, rise_and_fall, rounded, spread, train
from section1.losses import SoftmaxCrossEntropy
from section1.network import Sequential
from section2.optimizers import Adam
from section3.conv import Conv2D
from section3.experiments._cnns import Images, load_images
from section3.fused import fused
from section3.im2col import windows
from section3.models import mnist_cnn
from section3.receptive_field import receptive_fields
from section3.visualize import best_patches, filters, layer_output, occlusion, saliency, tiles
from utils.errors import UserError
from utils.experiments.progress import Progress
from utils.experiments.results import Result, Table
from utils.experiments.run import Run
from utils.output import plots

PATCH, STEP = 7, 3  # pixels: the side of the patch that covers, and how far it moves
COVERED = 40  # images of which occlusion is measured
SHOWN, DIGITS = 8, 6  # patches a filter, and images, in the figures
INK = 0.5  # pixels above are ink
GAP = "#a9c4dc"  # between tiles: a colour that no grey image has
MEASURES = {
    "change_1": "change of the first filters",
    "change_2": "change of the second filters",
    "dead": "dead filters",
    "same_class_1": "most frequent class among a first filter's best patches",
    "same_class_2": "most frequent class among a second filter's best patches",
    "ink_before": "saliency on ink, untrained",
    "ink_after": "saliency on ink, trained",
    "agreement": "correlation of saliency and occlusion",
    "test_accuracy": "test accuracy",
}


def layers_of(model: Sequential, kind: type) -> list[int]:
    """The numbers of the layers of a kind whose units have a place in the image."""
    return [k for k in range(len(receptive_fields(model))) if isinstance(model[k], kind)]


def change(model: Sequential, before: Sequential, layer: int) -> float:
    """How far a layer's weights have moved, over the size that they had."""
    new, old = (net.layers[layer].parameters()[0].value for net in (model, before))
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


def on_ink(maps: np.ndarray, raw: np.ndarray) -> float:
    """The share of maps (N, H, W) on the ink of images (N, H, W, 1), a mean over images."""
    inside = (maps * (raw[..., 0] > INK)).sum(axis=(1, 2))
    return float((inside / np.maximum(maps.sum(axis=(1, 2)), 1e-12)).mean())


def agreement(slopes: np.ndarray, drops: np.ndarray) -> float:
    """The correlation of occlusion (N, OH, OW) with saliency summed over the same patches.

    It is a mean over images in which neither is the same everywhere; 0 where there is none, as of
    a network that is dead.
    """
    sums = windows(slopes, (PATCH, PATCH), (STEP, STEP)).sum(axis=(3, 4))  # (N, OH, OW)
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(sums, drops) if a.std() and b.std()]
    return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])) if pairs else 0.0


def look(
    model: Sequential, before: Sequential, data: Images, run: Run
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Numbers and pictures of a trained network, beside the one that it was at first."""
    x, labels = (array[: run.budget.looked_at] for array in data.test)
    raw = data.raw[: len(x)]
    numbers, pictures, dead = {}, {}, []
    for number, (conv, relu) in enumerate(zip(layers_of(model, Conv2D), layers_of(model, ReLU)), 1):
        found = best_patches(
            model, x, relu, min(SHOWN, len(x)), outside=float(x.min()), threads=run.threads
        )
        dead += (found.answers[:, 0] <= 0).tolist()
        counts = [np.bincount(labels[row]).max() / len(row) for row in found.images]
        numbers[f"same_class_{number}"] = float(np.mean(counts))
        numbers[f"change_{number}"] = change(model, before, conv)
        for key, net in (("before", before), ("after", model)):
            pictures[f"filters_{key}_{number}"] = net.layers[conv].parameters()[0].value
        pictures[f"patches_{number}"] = data.std * found.crops + data.mean
        maps = layer_output(model, x[:DIGITS], relu, threads=run.threads)
        pictures[f"maps_{number}"] = maps
    slopes = {key: saliency(net, x, labels) for key, net in (("before", before), ("after", model))}
    options: dict[str, Any] = {"patch": PATCH, "stride": STEP, "threads": run.threads}
    drops = occlusion(model, x[:COVERED], labels[:COVERED], **options)
    numbers |= {f"ink_{key}": on_ink(maps, raw) for key, maps in slopes.items()}
    numbers["dead"] = float(np.mean(dead))
    numbers["agreement"] = agreement(slopes["after"][:COVERED], drops)
    pictures |= {f"saliency_{key}": maps[:DIGITS] for key, maps in slopes.items()}
    pictures |= {"occlusion": drops[:DIGITS], "digits": raw[:DIGITS], "labels": labels[:DIGITS]}
    return numbers, pictures


def learn(run: Run, data: Images, seed: int, bar: Progress) -> tuple[Sequential, Sequential, float]:
    """A network, what it was before training, and its test accuracy."""
    budget = run.budget
    model = mnist_cnn(budget.filters, 64, shape=data.shape, rng=run.rng(seed))
    before = copy.deepcopy(model)
    quick = fused(model)  # it has the parameters of `model`, which learns with it
    trained = train(
        run, lambda _: (quick, SoftmaxCrossEntropy(), Adam(quick.parameters(), 0)),
        data.train, data.test, key=(seed,), bar=bar,
        schedule=rise_and_fall(budget.lr, run, len(data.train[0])),
    )  # fmt: skip
    return model, before, trained.test_metric


def compute(run: Run) -> Result:
    budget, n = run.budget, run.budget.seeds
    if len(budget.filters) != 2:
        raise UserError(f"filters must be two numbers, one for each layer, got {budget.filters}")
    data = load_images(run, "mnist")
    runs: list[dict[str, float]] = []
    arrays: dict[str, np.ndarray] = {}
    with run.progress(budget.seeds * budget.epochs) as bar:
        for seed in range(budget.seeds):
            model, before, accuracy = learn(run, data, seed, bar)
            numbers, pictures = look(model, before, data, run)
            runs.append(numbers | {"test_accuracy": accuracy})
            arrays = arrays or pictures
    rows = [[MEASURES[key], *mean_std(one[key] for one in runs), budget.seeds] for key in MEASURES]
    metrics = {key: row[1] for key, row in zip(MEASURES, rows)}
    metrics |= {f"{key}_std": row[2] for key, row in zip(MEASURES, rows)}
    raw = data.raw[: budget.looked_at]
    metrics["ink"] = float((raw > INK).mean())
    metrics["same_class_chance"] = chance(data.test[1][: budget.looked_at], run)
    shown = min(SHOWN, len(raw))
    words = {
        key: f"{row[1]:.0%}{spread(100 * row[2], n, '.0f')}" for key, row in zip(MEASURES, rows)
    }
    answer = (
        f"Training ({metrics['test_accuracy']:.1%} right) moves the first filters by "
        f"{words['change_1']} of their size, the second by {words['change_2']}; "
        f"{words['dead']} are dead. Of the images to which a filter answers most, {shown} "
        f"each, {words['same_class_1']} are of one class in the first layer and "
        f"{words['same_class_2']} in the second ({shown} at random: "
        f"{metrics['same_class_chance']:.0%}). Ink, "
        f"{metrics['ink']:.0%} of the pixels, has {words['ink_before']} of the saliency before "
        f"training and {words['ink_after']} after; saliency and occlusion correlate by "
        f"{correlation(metrics)}{spread(metrics['agreement_std'], n, '.2f')} (n = {n})."
    )
    tables = {"measures": Table(["measure", "mean", "std", "n"], rows)}
    return Result(answer, "ink_after", metrics, tables=tables, arrays=arrays)


def correlation(metrics: dict[str, float]) -> str:
    """That of saliency and occlusion."""
    return f"{rounded(metrics['agreement'], 2):.2f}"


def chance(labels: np.ndarray, run: Run) -> float:
    """The share of the most frequent class among as many images drawn at random."""
    draws = run.rng(0, 0).choice(labels, (1000, min(SHOWN, len(labels))))
    return float(np.mean([np.bincount(row).max() for row in draws]) / draws.shape[1])


# --- figures --------------------------------------------------------------------------------


def show(axes: Axes, image: np.ndarray, title: str = "", **options: Any) -> Any:
    """An image without ticks; gaps between tiles are bluish, so that white and black tiles end."""
    colours = colormaps[options.pop("cmap", "gray")].with_extremes(bad=GAP)
    picture = axes.imshow(image, cmap=colours, **options)
    axes.set_title(title, fontsize="small")
    axes.axis("off")
    return picture


def blocks(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W) as a block of tiles about twice as wide as high, or a square."""
    rows = max(k for k in (1, 2, 4) if len(images) % k == 0 and k * k <= len(images))
    return tiles(images.reshape(rows, -1, *images.shape[1:]))


def draw_filters(result: Result) -> Figure:
    metrics, arrays = result.metrics, result.arrays
    signed: dict[str, Any] = {"cmap": "PuOr", "vmin": -1, "vmax": 1}
    kernels, axes = plots.grid(2, 2, width=4.8, height=2.9)
    for column, (key, name) in enumerate((("before", "untrained"), ("after", "trained"))):
        first = filters(arrays[f"filters_{key}_1"])[:, 0]  # (F, 3, 3)
        second = filters(arrays[f"filters_{key}_2"])  # (F, C, 3, 3)
        show(axes[0, column], blocks(first), f"first layer, {name}", **signed)
        title = f"second layer, {name}: a column for each filter"
        image = show(axes[1, column], tiles(second.transpose(1, 0, 2, 3)), title, **signed)
    label = "weight (1: the filter's largest)"
    kernels.colorbar(image, ax=axes.ravel().tolist(), shrink=0.7, label=label)
    kernels.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
    n = result.tables["measures"].rows[0][3]
    kernels.suptitle(
        f"Training moves the first filters by {metrics['change_1']:.0%} of their size and the "
        f"second by {metrics['change_2']:.0%} (n = {n}; the first run is shown)"
    )
    return kernels


def draw_maps(result: Result) -> Figure:
    arrays = result.arrays
    digits, labels = arrays["digits"][:4, ..., 0], arrays["labels"]
    at_work = [(arrays[f"maps_{k}"] > 0).mean() for k in (1, 2)]
    options: dict[str, Any] = {"width_ratios": (1, 2, 1.2)}
    maps, axes = plots.grid(len(digits), 3, width=3.3, height=2, **options)
    for row, digit in enumerate(digits):
        show(axes[row, 0], digit, f"a {labels[row]}")
        for k in (1, 2):
            channels = arrays[f"maps_{k}"][row].transpose(2, 0, 1)
            title = f"layer {k}: {len(channels)} filters"
            image = show(axes[row, k], blocks(channels), title, cmap="viridis", vmin=0)
            maps.colorbar(image, ax=axes[row, k], shrink=0.9, label="output")
    maps.suptitle(
        f"A digit puts {at_work[0]:.0%} of the units of the first layer to work and "
        f"{at_work[1]:.0%} of the second; {result.metrics['dead']:.0%} of all filters are dead"
    )
    return maps


def draw_patches(result: Result) -> Figure:
    metrics = result.metrics
    n = result.tables["measures"].rows[0][3]
    patches, axes = plots.grid(1, 2, width=4.2, height=6.6)
    for k in (1, 2):
        crops = result.arrays[f"patches_{k}"][..., 0]
        title = f"layer {k}: a row for each filter, {crops.shape[2]}x{crops.shape[3]} pixels each"
        show(axes[0, k - 1], tiles(crops), title, vmin=0, vmax=1)
    patches.suptitle(
        f"The patches to which a filter answers most. In the second layer "
        f"{metrics['same_class_2']:.0%} are from one class, in the first "
        f"{metrics['same_class_1']:.0%}, of random images {metrics['same_class_chance']:.0%} "
        f"(n = {n})"
    )
    return patches


def draw_pixels(result: Result) -> Figure:
    metrics, arrays = result.metrics, result.arrays
    digits, labels = arrays["digits"][..., 0], arrays["labels"]
    pixels, axes = plots.grid(4, len(digits), width=1.75, height=1.85)
    for column, digit in enumerate(digits):
        show(axes[0, column], digit, f"a {labels[column]}")
        for row, key in ((1, "before"), (2, "after")):
            show(axes[row, column], arrays[f"saliency_{key}"][column], cmap="viridis", vmin=0)
        drop = arrays["occlusion"][column]
        far = np.abs(drop).max() or 1
        start = (PATCH - 1 - STEP) / 2  # a cell lies around the middle of the patch
        end = start + STEP * len(drop)
        show(
            axes[3, column], drop, f"up to {drop.max():.2g} nats",
            cmap="PuOr_r", vmin=-far, vmax=far, extent=(start, end, end, start),
        )  # fmt: skip
        axes[3, column].contour(digit, [INK], colors="black", linewidths=1)
        axes[3, column].set(xlim=(-0.5, len(digit) - 0.5), ylim=(len(digit) - 0.5, -0.5))
    names = (
        "image",
        "saliency,\nuntrained",
        "saliency,\ntrained",
        "occlusion\n(orange: log p\nfalls)",
    )
    for place, name in zip(axes[:, 0], names):
        place.text(-0.1, 0.5, name, transform=place.transAxes, ha="right", va="center")
    n = result.tables["measures"].rows[0][3]
    pixels.suptitle(
        f"Ink is {metrics['ink']:.0%} of the pixels and has {metrics['ink_before']:.0%} of the "
        f"saliency before training, {metrics['ink_after']:.0%} after. Saliency and occlusion "
        f"correlate by {correlation(metrics)} (n = {n})"
    )
    return pixels


def draw(result: Result) -> dict[str, Figure]:
    return {
        "filters": draw_filters(result),
        "feature_maps": draw_maps(result),
        "patches": draw_patches(result),
        "pixels": draw_pixels(result),
    }
