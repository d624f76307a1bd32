"""What is told and drawn of a detector: how it learned, what it finds, where it errs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from section1.experiments._training import counted
from section4.detection.errors import KINDS, breakdown, judge, missed
from section4.detection.metrics import RECALLS, Detections, Truth, precision_recall
from section4.engine import count_parameters
from section4.experiments._detection import (
    NAMES,
    Learned,
    Measured,
    Pictures,
    learn,
    load_pictures,
    measure,
    sure_enough,
)
from section4.experiments._engine import QUICK
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

WORDS = ("right", *KINDS)  # what is said of a box that is drawn
SHOWN = 8  # test pictures, half of them without an error where there are so many


def trained_and_measured(run: Run, name: str) -> tuple[Learned, Pictures, Result]:
    """Train one detector, measure it on the test pictures, and tell what was found."""
    data = load_pictures(run)
    with run.resumable() as folder, run.progress(run.budget.epochs) as bar:
        learned = learn(run, name, data, folder, bar)
    measured = measure(learned, data)
    return learned, data, account(run, learned, measured, data)


def account(run: Run, learned: Learned, measured: Measured, data: Pictures) -> Result:
    name, history = NAMES[learned.name], learned.history
    errors = breakdown(measured.found, measured.true, len(data.classes))
    metrics = {
        "map_50": measured.map_50,
        "map_50_95": measured.map_50_95,
        "images_per_second": 1 / measured.seconds,
        "training_seconds": history.seconds[-1],
        "parameters": count_parameters(learned.model),
    } | {f"lost_by_{kind}": rise for kind, rise in errors.items()}
    lines = {
        "loss": Curve.over_runs(
            range(1, len(history.step_loss) + 1), [history.step_loss], "step", "training loss"
        ),
        "validation": Curve.over_runs(
            range(1, len(history.val_metric) + 1), [history.val_metric], "epoch", "mAP@0.5"
        ),
    } | precision_curves(measured, len(data.classes))
    labels = np.concatenate([truth.labels for truth in measured.true])
    counts = np.bincount(labels, minlength=len(data.classes)).tolist()
    by_class = [
        [label, counts[k], measured.precisions[0, k], float(measured.precisions[:, k].mean())]
        for k, label in enumerate(data.classes)
    ]
    tables = {
        "classes": Table(["class", "true boxes", "AP@0.5", "AP@[.5:.95]"], by_class),
        "errors": Table(["kind", "rise of mAP@0.5 without it"], [list(i) for i in errors.items()]),
    }
    sure = sure_enough(learned, data)
    which = telling(measured, sure)
    arrays = {
        "pictures": data.test.images[which],
        "boxes": drawn([measured.found[k] for k in which], [measured.true[k] for k in which], sure),
    }
    answer = (
        f"{name} ({metrics['parameters']:,} parameters) reaches mAP@0.5 {measured.map_50:.1%} and "
        f"mAP@[.5:.95] {measured.map_50_95:.1%} on {of_test(data)} after "
        f"{history.seconds[-1]:.0f} s of training on {len(data.train):,} (n = 1), and looks at "
        f"{1 / measured.seconds:,.0f} pictures a second. {what_is_lost(errors)}"
    )
    if run.settings.mode == "quick":
        answer += QUICK
    metrics["sure_enough"] = sure
    return Result(answer, "map_50", metrics, lines, tables, arrays)


def of_test(data: Pictures) -> str:
    return counted(len(data.test), "test picture")


def what_is_lost(errors: dict[str, float]) -> str:
    """Which kind of error costs most, from how much mAP@0.5 rises without each."""
    worst = max(errors, key=lambda kind: errors[kind])
    lost = round(100 * errors[worst], 1)
    if lost == 0:
        return "No kind of error costs as much as 0.1 points of mAP@0.5."
    return (
        f"Most is lost by errors of the kind {worst!r}: without them mAP@0.5 would be "
        f"{lost:.1f} points higher."
    )


def precision_curves(measured: Measured, classes: int) -> dict[str, Curve]:
    """Precision over recall, the mean over the classes that occur."""
    lines = {}
    for threshold in (0.5, 0.75):
        by_class = [
            precision_recall(measured.found, measured.true, k, threshold) for k in range(classes)
        ]
        mean = np.mean([curve.at_recalls() for curve in by_class if curve.truths], axis=0)
        lines[f"IoU {threshold}"] = Curve.over_runs(RECALLS.tolist(), [mean], "recall", "precision")
    return lines


# --- pictures -------------------------------------------------------------------------------


def shown(found: Detections, sure: float) -> Detections:
    keep = found.scores >= sure
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep])


def telling(measured: Measured, sure: float) -> np.ndarray:
    """Test pictures to show: some with nothing wrong and many things in them, and the worst."""
    wrong, count = [], []
    for found, true in zip(measured.found, measured.true):
        kinds, targets = judge(shown(found, sure), true)
        wrong.append(int((kinds != "right").sum() + missed(true, targets).sum()))
        count.append(len(true.boxes))
    order = np.lexsort((-np.array(count), np.array(wrong)))  # fewest errors first, then most things
    each = max(1, min(SHOWN, len(order)) // 2)
    return np.concatenate([order[:each], order[len(order) - each :]])


def drawn(found: Sequence[Detections], true: Sequence[Truth], sure: float) -> np.ndarray:
    """What to draw over pictures: (N, D, 7), box, label, score, place in WORDS; -1 for nothing."""
    rows = []
    for all_found, truth in zip(found, true):
        some = shown(all_found, sure)
        kinds, targets = judge(some, truth)
        kind = [WORDS.index(word) for word in kinds]
        lacking = missed(truth, targets)
        hits = np.column_stack([some.boxes, some.labels, some.scores, np.array(kind, float)])
        count = int(lacking.sum())
        misses = np.column_stack(
            [truth.boxes[lacking], truth.labels[lacking], np.zeros(count),
             np.full(count, WORDS.index("missed"))]
        )  # fmt: skip
        rows.append(np.concatenate([hits, misses]))
    together = np.full((len(rows), max([1, *map(len, rows)]), 7), -1.0)
    for place, some_rows in zip(together, rows):
        place[: len(some_rows)] = some_rows
    return together


def show_frames(axes: Axes, boxes: np.ndarray, colour: str, **look: Any) -> None:
    """Boxes (N, 4) without a word."""
    look = {"lw": 0.9, "alpha": 0.8} | look
    for x1, y1, x2, y2 in boxes:
        corner = (x1 - 0.5, y1 - 0.5)  # a pixel is drawn around its index, not from it on
        axes.add_patch(Rectangle(corner, x2 - x1, y2 - y1, fill=False, ec=colour, **look))


def show_boxes(axes: Axes, image: np.ndarray, rows: np.ndarray, classes: Sequence[str]) -> None:
    """A picture (H, W, 3) with boxes as `drawn` gives them: solid if right, dashed if not."""
    axes.imshow(image)
    axes.axis("off")
    for x1, y1, x2, y2, label, _, kind in rows[rows[:, 6] >= 0]:
        word = WORDS[int(kind)]
        colour = {"right": plots.COLOURS[5], "missed": "white"}.get(word, plots.COLOURS[4])
        style = {"right": "-", "missed": ":"}.get(word, "--")
        show_frames(axes, np.array([[x1, y1, x2, y2]]), colour, ls=style, lw=1.6)
        text = classes[int(label)] if word == "right" else f"{classes[int(label)]} {word}"
        axes.text(
            x1, y1 - 1.5, text, color="black", fontsize=7,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )  # fmt: skip


def class_names(result: Result) -> list[str]:
    return [str(row[0]) for row in result.tables["classes"].rows]


def draw_learning(result: Result, name: str) -> Figure:
    figure, axes = plots.grid(1, 3, width=4.2, height=3.8)
    plots.plot_curve(axes[0, 0], result.curves["loss"], "loss", lw=0.6)
    axes[0, 0].set_yscale("log")
    plots.plot_curve(axes[0, 1], result.curves["validation"], "validation", marker="o", ms=4)
    axes[0, 1].set_ylim(0, 1)
    axes[0, 1].set_title("on validation pictures")
    for key in ("IoU 0.5", "IoU 0.75"):
        plots.plot_curve(axes[0, 2], result.curves[key], f"{key} and more is right")
    axes[0, 2].set(ylim=(0, 1.02), xlim=(0, 1), title="on test pictures, mean over classes")
    axes[0, 2].legend()
    figure.suptitle(
        f"{name} reaches mAP@0.5 {result.metrics['map_50']:.1%} after "
        f"{result.metrics['training_seconds']:.0f} s of training (n = 1)"
    )
    return figure


def draw_pictures(result: Result, name: str) -> Figure:
    images, boxes = result.arrays["pictures"], result.arrays["boxes"]
    half = len(images) // 2
    figure, axes = plots.grid(2, half, width=2.6, height=2.7)
    for place, image, rows in zip(axes.flat, images, boxes):
        show_boxes(place, image, rows, class_names(result))
    above, below = (int((part[:, :, 6] > 0).sum()) for part in (boxes[:half], boxes[half:]))
    figure.suptitle(
        f"{name}, detections with a score of {result.metrics['sure_enough']:.2f} or more: "
        + ("above, the best; " if above else "above, test pictures with no error; ")
        + f"below, the worst ({counted(below, 'error')}). "
        "Solid: right; dashed: wrong; dotted: missed"
    )
    return figure


def draw_detector(result: Result, name: str) -> dict[str, Figure]:
    title = NAMES[name]
    return {"learning": draw_learning(result, title), "pictures": draw_pictures(result, title)}
