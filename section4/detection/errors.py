"""Where does a detector lose its average precision? Every error has a kind.

By the largest overlap (IoU) of a detection with the true boxes of its own class and of other
classes, one that is not right is, the first that holds:

    location     0.1 <= own < 0.5    the right class, a box that is not good enough
    class        other >= 0.5        a good box around something else
    duplicate    own >= 0.5          a better-scored detection has taken that box
    both         other >= 0.1        neither the class nor the box
    background   else                there is nothing

and a true box that nothing found, nor would find if its class or its box were mended, is missed.
How much a kind costs is how much mAP@0.5 rises when an oracle mends the errors of that kind alone:

    class, location              the detection is made right, or removed if its true box is taken
    both, duplicate, background  the detection is removed
    missed                       the true box is removed

With all errors mended mAP would be 1, but the rises do not add up to what is lacking: each is of
one oracle alone, and what one mends may only show once another has.

Source: Bolya et al., TIDE: a general toolbox for identifying object detection errors,
arXiv:2008.08115, section 2. The order of the first list is that of the authors' code, tidecv. In
that code a location error also loses its true box to a better-scored class error, and the other
way round; here the oracles know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from section4.detection.metrics import (
    Detections,
    Truth,
    iou,
    last_argmax,
    match,
    mean_average_precision,
)

THRESHOLD = 0.5  # IoU from which on a box is good enough
BACKGROUND = 0.1  # IoU below which a box has nothing to do with a thing
KINDS = ("class", "location", "both", "duplicate", "background", "missed")


def judge(detections: Detections, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each detection of one image, "right" or one of KINDS (N,), and its true box (N,).

    That is the one which it found or, by a wrong class or location, failed to find; -1 for others.
    """
    if len(truth.boxes) == 0:
        return np.full(len(detections.boxes), "background"), np.full(len(detections.boxes), -1)
    overlap = iou(detections.boxes, truth.boxes)  # (N, M)
    same = detections.labels[:, None] == truth.labels
    own, other = np.where(same, overlap, 0), np.where(same, 0, overlap)
    order = np.argsort(-detections.scores, kind="stable")
    matched = np.empty(len(order), int)
    matched[order] = match(own[order], [THRESHOLD])[0]
    best, rival = own.max(1), other.max(1)
    conditions = {
        "right": matched >= 0,
        "location": (best >= BACKGROUND) & (best < THRESHOLD),
        "class": rival >= THRESHOLD,
        "duplicate": best >= THRESHOLD,
        "both": rival >= BACKGROUND,
    }
    judged = np.select(list(conditions.values()), list(conditions), "background")
    targets = np.select(
        [judged == "right", judged == "location", judged == "class"],
        [matched, last_argmax(own), last_argmax(other)],
        -1,
    )
    return judged, targets


def missed(truth: Truth, targets: np.ndarray) -> np.ndarray:
    """Which true boxes of one image are no detection's, by the targets of `judge`: (M,) bool."""
    return ~np.isin(np.arange(len(truth.boxes)), targets)


def mend(
    kind: str, detections: Detections, truth: Truth, judged: np.ndarray, targets: np.ndarray
) -> tuple[Detections, Truth]:
    """What the oracle of that kind makes of one image, of which `judge` said what is wrong."""
    if kind == "missed":
        kept = ~missed(truth, targets)
        return detections, Truth(truth.boxes[kept], truth.labels[kept])
    boxes, labels = detections.boxes.copy(), detections.labels.copy()
    kept = judged != kind
    if kind in ("class", "location"):
        taken = set(targets[judged == "right"])
        for detection in np.argsort(-detections.scores, kind="stable"):
            target = targets[detection]
            if judged[detection] == kind and target not in taken:
                taken.add(target)
                kept[detection] = True
                if kind == "class":
                    labels[detection] = truth.labels[target]
                else:
                    boxes[detection] = truth.boxes[target]
    return Detections(boxes[kept], detections.scores[kept], labels[kept]), truth


def breakdown(found: Sequence[Detections], true: Sequence[Truth], classes: int) -> dict[str, float]:
    """The rise of mAP@0.5 by each oracle alone, in the order of KINDS.

    A class of which nothing is left to find drops out of the mean; if nothing is left at all, mAP
    counts as 1. No rise is negative where no image has more than 100 detections, so that COCO
    looks at all of them. Raises ValueError where there is nothing to find.
    """
    before = mean_average_precision(found, true, classes, [THRESHOLD])
    if np.isnan(before):
        raise ValueError(f"no image has a true box of classes 0 to {classes - 1}: nothing to find")
    judged = [judge(*image) for image in zip(found, true)]
    rises = {}
    for kind in KINDS:
        mended = [mend(kind, d, t, *verdict) for d, t, verdict in zip(found, true, judged)]
        detections, truths = zip(*mended)
        after = mean_average_precision(detections, truths, classes, [THRESHOLD])
        rises[kind] = (1.0 if np.isnan(after) else after) - before
    return rises
