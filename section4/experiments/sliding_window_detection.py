"""How far does a detector get that only asks a classifier, at every place and in every size?

The sliding window (`detection/sliding_window.py`) lays a classifier over smaller and larger copies
of the picture. Nobody tells it where in its window the thing lies: a box is as wide and as high as
its class is on average. It learns on the same pictures as the other detectors.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from section4.detection.sliding_window import THING, SlidingWindow
from section4.experiments._detected import (
    class_names,
    draw_detector,
    show_boxes,
    trained_and_measured,
)
from section4.training import evaluation
from utils.experiments.results import Result
from utils.experiments.run import Run
from utils.output import plots


def compute(run: Run) -> Result:
    learned, data, result = trained_and_measured(run, "sliding_window")
    model, setting = learned.model, learned.setting
    assert isinstance(model, SlidingWindow)
    with evaluation(model, setting):
        answers = model.answers(data.pixels(result.arrays["pictures"][:1], setting))
    windows = 0
    for scale, scores in answers:
        share = scores[0].softmax(0)[1:].amax(0)  # (H, W): of the best class but "nothing"
        result.arrays[f"copy_{THING / scale:02.0f}"] = share.cpu().numpy()
        windows += share.numel()
    result.metrics["windows"] = windows
    return result


def draw(result: Result) -> dict[str, Figure]:
    return draw_detector(result, "sliding_window") | {"copies": draw_copies(result)}


def draw_copies(result: Result) -> Figure:
    """How sure the classifier is at every window of every copy of the first picture."""
    copies = {name: map_ for name, map_ in result.arrays.items() if name.startswith("copy_")}
    figure, axes = plots.grid(1, len(copies) + 1, width=2.5, height=3.1)
    show_boxes(
        axes[0, 0], result.arrays["pictures"][0], result.arrays["boxes"][0], class_names(result)
    )
    axes[0, 0].set_title("what is left of all of it", fontsize="small")
    for place, (name, share) in zip(axes[0, 1:], copies.items()):
        shade = place.imshow(share, vmin=0, vmax=1)
        place.set_title(
            f"things of {int(name.removeprefix('copy_'))} pixels:\n"
            f"{share.shape[0]} x {share.shape[1]} windows",
            fontsize="small",
        )  # fmt: skip
        place.axis("off")
    figure.colorbar(shade, ax=axes[0, -1], shrink=0.6, label="share of the best class")
    sure = sum(int((share >= result.metrics["sure_enough"]).sum()) for share in copies.values())
    total = int(result.metrics["windows"])
    figure.suptitle(
        f"The classifier is asked about {total:,} windows of one picture, and is sure of "
        f"{sure} ({np.round(100 * sure / total, 1)}%)"
    )
    return figure
