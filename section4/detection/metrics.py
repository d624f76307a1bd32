"""How good is a detector? Precision, recall, and average precision (AP).

A detection is right where it has the class of a true box, overlaps it enough (IoU at least t), and
no better-scored detection has taken that box. Go through all detections of a class from the
highest score down: recall, the share of the true boxes found so far, rises; precision, the share
of the detections so far that are right, mostly falls. AP is the mean of the precision over recalls
from 0 to 1, where the precision at a recall counts as the best at that recall or any higher one.
mAP@0.5 is its mean over classes for t = 0.5; mAP@[.5:.95] the mean over ten t as well.

There is no threshold on the score: AP looks at the whole curve, and cutting off the detections
with low scores can only lower it.

Source: Everingham et al., The PASCAL visual object classes challenge, 2010; Lin et al., Microsoft
COCO, arXiv:1405.0312, whose definition (101 recalls, at most 100 detections of a class in an
image) is the one computed here. Derivation: report.tex, eq:average-precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AT_MOST = 100  # detections of a class in an image


@dataclass(frozen=True)
class Detections:
    """What was found in one image: boxes (N, 4), scores (N,), labels (N,)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Truth:
    """What is in one image: boxes (M, 4), labels (M,)."""

    boxes: np.ndarray
    labels: np.ndarray


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs in float64: (N, 4), (M, 4) -> (N, M)."""
    a, b = np.asarray(a, float).reshape(-1, 1, 4), np.asarray(b, float).reshape(1, -1, 4)
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = np.where((size > 0).all(-1), size.prod(-1), 0)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)]
    either = areas[0] + areas[1] - both
    return np.divide(both, either, out=np.zeros_like(both), where=both > 0)


def last_argmax(values: np.ndarray) -> np.ndarray:
    """Where the largest value along the last axis is; the last of equal ones, as COCO has it."""
    return values.shape[-1] - 1 - values[..., ::-1].argmax(-1)


def match(overlap: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Which true box each detection gets: (N, M) overlaps, best score first -> (T, N), -1: none.

    Each detection takes the free box that it overlaps most, if by at least the threshold.
    """
    least = np.minimum(thresholds, 1 - 1e-10)  # equal boxes match at 1 whatever the rounding
    found = np.full((len(least), len(overlap)), -1)
    if overlap.shape[1] == 0:
        return found
    free = np.ones((len(least), overlap.shape[1]), bool)
    each = np.arange(len(least))
    for detection in np.flatnonzero(overlap.max(1) >= least.min()):  # the others match nothing
        available = np.where(free, overlap[detection], -1)  # (T, M)
        best = last_argmax(available)
        enough = available[each, best] >= least
        found[enough, detection] = best[enough]
        free[enough, best[enough]] = False
    return found


@dataclass(frozen=True)
class PrecisionRecall:
    """Of one class at one threshold: a point for each detection, the highest score first."""

    scores: np.ndarray  # (D,)
    precision: np.ndarray  # (D,)
    recall: np.ndarray  # (D,)
    truths: int

    def at_recalls(self) -> np.ndarray:
        """The best precision at each of RECALLS or at a higher one (101,)."""
        best_from_here = np.maximum.accumulate(self.precision[::-1])[::-1]
        place = np.searchsorted(self.recall, RECALLS, side="left")
        return np.append(best_from_here, 0.0)[place]

    @property
    def average_precision(self) -> float:
        """NaN for a class of which there is nothing to find."""
        return float(self.at_recalls().mean()) if self.truths else float("nan")


def curves(
    found: Sequence[Detections],
    true: Sequence[Truth],
    label: int,
    thresholds: Sequence[float] | np.ndarray,
) -> list[PrecisionRecall]:
    """The curves of one class over all images, one for each threshold.

    Raises ValueError where `found` and `true` are not of equally many images.
    """
    all_scores, all_right, truths = [np.zeros(0)], [np.zeros((len(thresholds), 0), bool)], 0
    for detections, truth in zip(found, true, strict=True):
        boxes = truth.boxes[truth.labels == label]
        truths += len(boxes)
        own = np.flatnonzero(detections.labels == label)
        order = own[np.argsort(-detections.scores[own], kind="stable")][:AT_MOST]
        all_scores.append(detections.scores[order])
        all_right.append(match(iou(detections.boxes[order], boxes), thresholds) >= 0)
    scores = np.concatenate(all_scores)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(np.concatenate(all_right, axis=1)[:, order], axis=1)  # (T, D)
    precision = hits / np.arange(1, len(order) + 1)
    recall = hits / max(truths, 1)
    return [PrecisionRecall(scores[order], p, r, truths) for p, r in zip(precision, recall)]


def precision_recall(
    found: Sequence[Detections], true: Sequence[Truth], label: int, threshold: float
) -> PrecisionRecall:
    """The curve of one class over all images at one threshold."""
    return curves(found, true, label, [threshold])[0]


def average_precisions(
    found: Sequence[Detections],
    true: Sequence[Truth],
    classes: int,
    thresholds: Sequence[float] | np.ndarray = THRESHOLDS,
) -> np.ndarray:
    """AP for every threshold and class (T, K); NaN for classes that occur in no image."""
    by_class = [curves(found, true, label, thresholds) for label in range(classes)]
    return np.array([[curve.average_precision for curve in row] for row in by_class]).T


def mean_average_precision(
    found: Sequence[Detections],
    true: Sequence[Truth],
    classes: int,
    thresholds: Sequence[float] | np.ndarray = THRESHOLDS,
) -> float:
    """mAP@[.5:.95], or with thresholds (0.5,) mAP@0.5: the mean over thresholds and the classes
    that occur; NaN where none does.
    """
    values = average_precisions(found, true, classes, thresholds)
    occurring = ~np.isnan(values)
    return float(values[occurring].mean()) if occurring.any() else float("nan")
