"""What does a detector find that first asks where, and then what?

Faster R-CNN (`detection/faster_rcnn.py`): a small network proposes boxes that may hold something,
whatever it is; a second one looks at each of them, says what it is and corrects the box. It learns
on the same pictures as the other detectors.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from section4.detection.faster_rcnn import FasterRCNN
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

PROPOSED = 20  # boxes that are shown of stage one


def compute(run: Run) -> Result:
    learned, data, result = trained_and_measured(run, "faster_rcnn")
    model, setting = learned.model, learned.setting
    assert isinstance(model, FasterRCNN)
    with evaluation(model, setting):
        boxes, _ = model.propose(data.pixels(result.arrays["pictures"], setting), PROPOSED)
    result.arrays["proposed"] = boxes.cpu().numpy()  # (N, PROPOSED, 4)
    return result


def draw(result: Result) -> dict[str, Figure]:
    return draw_detector(result, "faster_rcnn") | {"stages": draw_stages(result)}


def draw_stages(result: Result) -> Figure:
    """What each stage says of a few pictures."""
    arrays, count = result.arrays, min(3, len(result.arrays["pictures"]))
    figure, axes = plots.grid(2, count, width=3.2, height=3.3)
    for k, (above, below) in enumerate(axes.T):
        above.imshow(arrays["pictures"][k])
        show_frames(above, arrays["proposed"][k], "white")
        above.axis("off")
        above.set_title(f"stage one: its best {PROPOSED} boxes" if k == 0 else "")
        show_boxes(below, arrays["pictures"][k], arrays["boxes"][k], class_names(result))
        below.set_title("stage two: what is in them" if k == 0 else "")
    figure.suptitle(
        "Stage one proposes boxes around whatever may be something; stage two names it, corrects "
        "the box, or says that it is nothing"
    )
    return figure
