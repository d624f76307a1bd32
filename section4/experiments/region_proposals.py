"""How many boxes must be looked at until every thing is among them?

Nothing is found that nobody proposes. Three ways to propose boxes in a picture: all windows of
some sizes and shapes, in any order; those that the classifier of the sliding window is surest of;
and the region proposal network of Faster R-CNN. Measured is the recall: the share of the true boxes
that one of the first N proposals of their picture overlaps by an IoU of 0.5 or more; and the mean
of that over thresholds from 0.5 to 0.95, which asks for boxes that fit well.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from matplotlib.figure import Figure

from section1.experiments._training import counted
from section4.detection.detector import detect
from section4.detection.faster_rcnn import RATIOS, FasterRCNN
from section4.detection.metrics import THRESHOLDS, Truth, iou
from section4.detection.sliding_window import SIZES
from section4.experiments._detected import of_test, show_frames
from section4.experiments._detection import (
    AT_ONCE,
    Learned,
    Pictures,
    learn,
    load_pictures,
    truths_of,
)
from section4.training import evaluation
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

ARMS = {
    "windows": "windows in any order",
    "sliding_window": "sliding window, the surest first",
    "faster_rcnn": "region proposal network",
}
ENOUGH = 0.9  # of the true boxes
SHOWN = 10  # proposals of each arm in the picture
STEPS = 4  # windows in a row, from one to the next that it does not overlap


def compute(run: Run) -> Result:
    data, counts = load_pictures(run), sorted(run.budget.counts)
    with run.resumable() as folder, run.progress(2 * run.budget.epochs) as bar:
        learned = [
            learn(run, name, data, folder, bar) for name in ("sliding_window", "faster_rcnn")
        ]
    sliding, proposing = learned
    rng, windows, true = run.rng(0), all_windows(run.budget.side), truths_of(data.test)
    test = data.batches(data.test, AT_ONCE, sliding.setting, shared=False)
    boxes = {
        "windows": [windows[rng.permutation(len(windows))[: counts[-1]]] for _ in true],
        "sliding_window": [found.boxes for found in detect(sliding.model, test, sliding.setting)],
        "faster_rcnn": proposed(proposing, data, counts[-1]),
    }
    curves, rows = dict[str, Curve](), list[list[object]]()
    metrics: dict[str, float] = {"windows": len(windows)}
    for arm, name in ARMS.items():
        share = recall(boxes[arm], true, counts)  # (counts, thresholds)
        for key, values in {"IoU 0.5": share[:, 0], "mean": share.mean(1)}.items():
            label = "share of the true boxes" + (" (mean over IoU)" if key == "mean" else "")
            curves[f"{arm}, {key}"] = Curve.over_runs(
                counts, [values], "proposals for each picture", label
            )
        metrics |= {f"{arm}_recall_{n}": at[0] for n, at in zip(counts, share)}
        rows += [[name, n, at[0], at.mean()] for n, at in zip(counts, share)]
    columns = ["proposals by", "for each picture", "recall at IoU 0.5", "mean recall"]
    arrays = {"pictures": data.test.images[:2]} | {
        f"{arm}_boxes": np.stack([resized(some[: counts[-1]]) for some in boxes[arm][:2]])
        for arm in ARMS
    }
    place = next((n for n in counts if n >= 10), counts[-1])
    things = sum(len(truth.boxes) for truth in true)
    answer = (
        f"Of {counted(things, 'true box', 'true boxes')} in {of_test(data)} are proposed by "
        + "; ".join(
            in_words(name, curves[f"{arm}, IoU 0.5"], max(map(len, boxes[arm])))
            for arm, name in ARMS.items()
        )
        + f" (n = 1). There are {len(windows):,} windows in a picture."
    )
    headline = f"faster_rcnn_recall_{place}"
    return Result(answer, headline, metrics, curves, {"recall": Table(columns, rows)}, arrays)


def in_words(name: str, curve: Curve, most: int) -> str:
    """most: proposals that a picture has."""
    enough = [n for n, share in zip(curve.x, curve.y) if share >= ENOUGH]
    share, count = (f"{ENOUGH:.0%}", enough[0]) if enough else (f"{curve.y[-1]:.1%}", curve.x[-1])
    among = f"the first {count}" if count <= most else f"all, at most {most}"
    return f"{name}: {share} among {among}"


def all_windows(side: int) -> np.ndarray:
    """Boxes (P, 4) of all sizes and ratios, from edge to edge of the picture.

    From one to the next it is a quarter of their size, or a little less.
    """
    found = []
    for size in SIZES:
        for ratio in RATIOS:
            w, h = size / ratio**0.5, size * ratio**0.5
            if max(w, h) <= side:
                x, y = (np.linspace(0, side - a, 1 + ceil(STEPS * (side - a) / a)) for a in (w, h))
                x, y = (places.ravel() for places in np.meshgrid(x, y))
                found.append(np.stack([x, y, x + w, y + h], 1))
    return np.concatenate(found)


def proposed(learned: Learned, data: Pictures, count: int) -> list[np.ndarray]:
    """The best boxes of stage one for every test picture, the best first."""
    model, boxes = learned.model, list[torch.Tensor]()
    assert isinstance(model, FasterRCNN)
    with evaluation(model, learned.setting):
        for images, _ in data.batches(data.test, AT_ONCE, learned.setting, shared=False)():
            boxes += model.propose(images, count)[0].cpu()
    return [some.numpy() for some in boxes]


def recall(
    proposals: Sequence[np.ndarray], true: Sequence[Truth], counts: Sequence[int]
) -> np.ndarray:
    """The share of the true boxes that the first n proposals hold: (counts, thresholds).

    Where a picture has fewer proposals, all of them.
    """
    held = np.zeros((len(counts), len(THRESHOLDS)))
    for boxes, truth in zip(proposals, true):
        best = np.maximum.accumulate(iou(boxes, truth.boxes), 0)  # (P, M), of the first 1, 2 ...
        if best.size:
            reached = best[np.minimum(counts, len(best)) - 1]  # (counts, M)
            held += (reached[..., None] >= THRESHOLDS).sum(1)
    return held / max(1, sum(len(truth.boxes) for truth in true))


def resized(boxes: np.ndarray) -> np.ndarray:
    """The first of these boxes, and empty ones up to SHOWN."""
    return np.concatenate([boxes[:SHOWN], np.zeros((max(0, SHOWN - len(boxes)), 4))])


def draw(result: Result) -> dict[str, Figure]:
    figure, axes = plots.grid(1, 2, width=4.8, height=3.9)
    for number, (arm, name) in enumerate(ARMS.items()):
        for place, key in zip(axes[0], ("IoU 0.5", "mean")):
            look = {"marker": plots.MARKERS[number], "ms": 5, "color": f"C{number}"}
            plots.plot_curve(place, result.curves[f"{arm}, {key}"], name, **look)
    for place in axes[0]:
        place.set(xscale="log", ylim=(0, 1.02))
    axes[0, 0].set_title("overlap of 0.5 or more", fontsize="small")
    axes[0, 1].set_title("mean over overlaps of 0.5 to 0.95", fontsize="small")
    axes[0, 1].legend(loc="upper left")
    count = int(result.headline.rpartition("_")[2])
    shares = {arm: result.metrics[f"{arm}_recall_{count}"] for arm in ARMS}
    figure.suptitle(
        f"Among the first {count} are {shares['faster_rcnn']:.0%} of the things where a network "
        f"proposes, {shares['sliding_window']:.0%} where the surest windows do, "
        f"{shares['windows']:.0%} where any do (n = 1)"
    )
    return {"recall": figure, "proposals": draw_proposals(result)}


def draw_proposals(result: Result) -> Figure:
    pictures = result.arrays["pictures"]
    figure, axes = plots.grid(len(pictures), len(ARMS), width=3.0, height=3.1)
    for (row, column), place in np.ndenumerate(axes):
        arm = list(ARMS)[column]
        place.imshow(pictures[row])
        show_frames(place, result.arrays[f"{arm}_boxes"][row], "white")
        place.axis("off")
        if row == 0:
            place.set_title(ARMS[arm], fontsize="small")
    count = int(result.headline.rpartition("_")[2])
    shares = [f"{result.metrics[f'{arm}_recall_{count}']:.0%}" for arm in ARMS]
    most = max(result.curves["windows, mean"].x)
    figure.suptitle(
        f"The first proposals in a picture, at most {min(SHOWN, most)}; in all test pictures "
        f"{', '.join(shares[:-1])} and {shares[-1]} of the things are among the first {count}"
    )
    return figure
