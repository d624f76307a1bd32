"""What does a detector find that looks at the picture once?

YOLO (`detection/yolo.py`) asks every cell of a grid whether the middle of something lies near it,
how large that is and what: one forward pass, and one suppression of boxes where several cells
found the same. It learns on scenes composed of handwritten digits, or on the pictures of a folder
with annotations as COCO or VOC have them (`--set folder=PATH`).
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._training import counted
from section4.detection.yolo import YOLO
from section4.experiments._detected import (
    class_names,
    draw_detector,
    show_boxes,
    show_frames,
    trained_and_measured,
)
from section4.training import evaluation
from utils.experiments.results import Result
from utils.experiments.run import Run
from utils.output import plots


def compute(run: Run) -> Result:
    learned, data, result = trained_and_measured(run, "yolo")
    model, setting = learned.model, learned.setting
    assert isinstance(model, YOLO)
    with evaluation(model, setting):
        pixels = data.pixels(result.arrays["pictures"][:1], setting)
        sure, boxes, scores, _ = model.answers(pixels)
    cells = round(sure.shape[1] ** 0.5)
    result.arrays["sure"] = sure[0].sigmoid().reshape(cells, cells).cpu().numpy()
    result.arrays["scores"] = (sure.sigmoid() * scores.softmax(-1).amax(-1))[0].cpu().numpy()
    result.arrays["all_boxes"] = boxes[0].cpu().numpy()
    return result


def draw(result: Result) -> dict[str, Figure]:
    return draw_detector(result, "yolo") | {"look": draw_look(result)}


def draw_look(result: Result) -> Figure:
    """From the grid's answers to detections, on the first picture."""
    image, sure = result.arrays["pictures"][0], result.arrays["sure"]
    figure, axes = plots.grid(1, 3, width=3.8, height=3.9)
    extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
    axes[0, 0].imshow(image)
    shade = axes[0, 0].imshow(sure, extent=extent, alpha=0.65, vmin=0, vmax=1)
    figure.colorbar(shade, ax=axes[0, 0], shrink=0.7, label="sure that something is there")
    axes[0, 0].set_title(f"{sure.size} cells answer")
    strong = np.flatnonzero(result.arrays["scores"] >= result.metrics["sure_enough"])
    axes[0, 1].imshow(image)
    show_frames(axes[0, 1], result.arrays["all_boxes"][strong], "white")
    axes[0, 1].set_title(f"{len(strong)} with a score that is high enough")
    rows = result.arrays["boxes"][0]
    show_boxes(axes[0, 2], image, rows, class_names(result))
    left = int(((rows[:, 6] >= 0) & (rows[:, 5] > 0)).sum())
    axes[0, 2].set_title(f"{counted(left, 'box', 'boxes')} left")
    for place in axes.flat:
        place.axis("off")
    figure.suptitle(
        f"One look: {len(strong)} of {sure.size} cells {'has' if len(strong) == 1 else 'have'} a "
        "score that is high enough; "
        f"suppression leaves {left} of them"
    )
    return figure
