"""Sliding window, two stages or one look: which detector is how good, and how fast?

The three families on the same pictures, with the same backbone where they have one, trained with
the same optimizer for the same number of epochs, and judged by the same code (`metrics.py`, that
of COCO). With `--set detectors=faster_rcnn,torchvision` ours is held against the Faster R-CNN of
torchvision. What the experiments before this one have trained with the same settings is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from section2.experiments._optimizers import listed
from section4.detection.errors import KINDS
from section4.experiments._detected import account, class_names, drawn, of_test, show_boxes
from section4.experiments._detection import DETECTORS, NAMES, learn, load_pictures, measure
from section4.experiments._engine import QUICK
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

SHOWN = 4  # test pictures


def compute(run: Run) -> Result:
    names = list(dict.fromkeys(run.budget.detectors))
    if unknown := [name for name in names if name not in DETECTORS]:
        raise UserError(f"there is no detector {unknown[0]}: choose from {', '.join(DETECTORS)}")
    data = load_pictures(run)
    metrics, curves = dict[str, float](), dict[str, Curve]()
    rows, errors = list[list[Any]](), list[list[Any]]()
    arrays = {"pictures": data.test.images[:SHOWN]}
    with run.resumable() as folder, run.progress(len(names) * run.budget.epochs) as bar:
        for name in names:
            learned = learn(run, name, data, folder, bar)
            measured = measure(learned, data)
            own = account(run, learned, measured, data)
            metrics |= {f"{name}_{key}": value for key, value in own.metrics.items()}
            curves |= {f"{name}, {key}": curve for key, curve in own.curves.items()}
            columns = ("map_50", "map_50_95", "images_per_second", "training_seconds", "parameters")
            rows.append([NAMES[name], *(own.metrics[key] for key in columns)])
            errors.append([NAMES[name], *(own.metrics[f"lost_by_{kind}"] for kind in KINDS)])
            sure = own.metrics["sure_enough"]
            arrays[f"{name}_boxes"] = drawn(measured.found[:SHOWN], measured.true[:SHOWN], sure)
    tables = {
        "classes": own.tables["classes"],
        "detectors": Table(
            ["detector", "mAP@0.5", "mAP@[.5:.95]", "pictures per second", "training time (s)",
             "parameters"], rows,
        ),
        "errors": Table(["detector", *KINDS], errors),
    }  # fmt: skip
    best = max(names, key=lambda name: metrics[f"{name}_map_50"])
    answer = "; ".join(
        f"{name}: mAP@0.5 {good:.1%}, mAP@[.5:.95] {fits:.1%}, {speed:,.0f} pictures a second, "
        f"{seconds:.0f} s of training, {parameters:,} parameters"
        for name, good, fits, speed, seconds, parameters in rows
    )
    costs = (f"{name} {worst_of(lost)} ({100 * max(lost):.1f})" for name, *lost in errors)
    answer += (
        f" ({of_test(data)}, n = 1). The kind of error that costs each most, in "
        f"points of mAP@0.5: {', '.join(costs)}."
    )
    if run.settings.mode == "quick":
        answer += QUICK
    metrics["best_map_50"] = metrics[f"{best}_map_50"]
    return Result(answer, "best_map_50", metrics, curves, tables, arrays)


def worst_of(lost: list[float]) -> str:
    """The kind of error that costs most, or none where it would be 0.0 points."""
    return KINDS[lost.index(max(lost))] if round(100 * max(lost), 1) else "none"


def leaders(metrics: dict[str, float], names: list[str]) -> str:
    """Who finds most and who is fastest; who is alone leads nobody."""
    good = {name: f"{metrics[f'{name}_map_50']:.1%}" for name in names}
    speed = {name: metrics[f"{name}_images_per_second"] for name in names}
    fastest = max(names, key=lambda name: speed[name])
    pace = f"{speed[fastest]:,.0f} pictures a second; n = 1"
    if len(names) == 1:
        return f"{NAMES[fastest]}: mAP@0.5 {good[fastest]} ({pace})"
    best = max(names, key=lambda name: metrics[f"{name}_map_50"])
    level = [NAMES[name] for name in names if good[name] == good[best]]
    find = "finds most" if len(level) == 1 else "find most"
    find = "find equally much" if len(level) == len(names) else find
    return f"{listed(level)} {find} (mAP@0.5 {good[best]}), {NAMES[fastest]} is fastest ({pace})"


def draw(result: Result) -> dict[str, Figure]:
    names = [key.removesuffix("_map_50_95") for key in result.metrics if key.endswith("_map_50_95")]
    return {
        "comparison": draw_comparison(result, names),
        "errors": draw_errors(result, names),
        "pictures": draw_pictures(result, names),
    }


def draw_comparison(result: Result, names: list[str]) -> Figure:
    figure, axes = plots.grid(1, 3, width=4.2, height=3.9)
    metrics = result.metrics
    for number, name in enumerate(names):
        look = {"marker": plots.MARKERS[number], "ms": 9, "color": f"C{number}", "ls": ""}
        speed, good = metrics[f"{name}_images_per_second"], metrics[f"{name}_map_50"]
        axes[0, 0].plot(speed, good, label=NAMES[name], **look)
        axes[0, 0].plot(speed, metrics[f"{name}_map_50_95"], mfc="white", **look)
        for place, key in ((axes[0, 1], "IoU 0.5"), (axes[0, 2], "validation")):
            line = result.curves[f"{name}, {key}"]
            plots.plot_curve(place, line, NAMES[name], color=f"C{number}")
    axes[0, 0].set(
        xscale="log", xlabel="pictures per second", ylabel="mean average precision", ylim=(0, 1),
        title="full: mAP@0.5; empty: mAP@[.5:.95]",
    )  # fmt: skip
    axes[0, 0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0, 0].xaxis.set_major_formatter("{x:g}")
    axes[0, 0].minorticks_off()
    axes[0, 1].set(xlim=(0, 1), ylim=(0, 1.02), title="at IoU 0.5, mean over classes")
    axes[0, 2].set(ylim=(0, 1), title="on validation pictures")
    axes[0, 1].legend()
    figure.suptitle(leaders(metrics, names))
    return figure


def draw_errors(result: Result, names: list[str]) -> Figure:
    figure, axes = plots.grid(1, 1, width=8, height=3.8)
    wide = 0.8 / len(names)
    for number, name in enumerate(names):
        lost = [100 * result.metrics[f"{name}_lost_by_{kind}"] for kind in KINDS]
        place = np.arange(len(KINDS)) + (number - (len(names) - 1) / 2) * wide
        axes[0, 0].bar(place, lost, 0.9 * wide, label=NAMES[name], color=f"C{number}")
    axes[0, 0].set_xticks(range(len(KINDS)), KINDS)
    axes[0, 0].set(xlabel="kind of error", ylabel="points of mAP@0.5 that it costs")
    axes[0, 0].legend()
    rows = result.tables["errors"].rows
    figure.suptitle(
        "What costs most: " + ", ".join(f"{name}: {worst_of(lost)}" for name, *lost in rows)
    )
    return figure


def draw_pictures(result: Result, names: list[str]) -> Figure:
    images = result.arrays["pictures"]
    figure, axes = plots.grid(len(names), len(images), width=2.6, height=2.75)
    errors = []
    for row, name in zip(axes, names):
        boxes = result.arrays[f"{name}_boxes"]
        errors.append(f"{NAMES[name]} {int((boxes[..., 6] > 0).sum())}")
        for place, image, rows in zip(row, images, boxes):
            show_boxes(place, image, rows, class_names(result))
        row[0].set_title(NAMES[name], fontsize="small", loc="left")
    figure.suptitle(
        f"Errors in the same picture{'s' * (len(images) > 1)} (dashed: wrong, dotted: missed): "
        + ", ".join(errors)
    )
    return figure
