"""Boxes: their formats, how much two overlap, and which of many that overlap to keep.

A box is (x1, y1, x2, y2) in pixels: left, top, right, bottom, with x to the right and y down. A
pixel covers the square from its index to its index + 1, so a box around all of a 96x96 image is
(0, 0, 96, 96), and its width is x2 - x1. All functions work on any number of boxes at once: the
last axis is that of the four numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

LONGEST = math.log(1000 / 16)  # a decoded box is at most that much larger than its anchor


def area(boxes: torch.Tensor) -> torch.Tensor:
    """(..., 4) -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The area that two boxes share: (..., 4), (..., 4) -> (...)."""
    corner = torch.maximum(a[..., :2], b[..., :2])  # left and top
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - corner).clamp(min=0)
    return size[..., 0] * size[..., 1]


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union: (..., 4), (..., 4) -> (...) in [0, 1]; 0 where both are empty."""
    both = intersection(a, b)
    return both / (area(a) + area(b) - both).clamp(min=torch.finfo(both.dtype).tiny)


def pairwise_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU of each of a (..., N, 4) with each of b (..., M, 4): (..., N, M)."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU minus the share of the smallest box around both that neither covers: in (-1, 1].

    Where two boxes do not touch, IoU is 0 and so is its gradient; this still says which way to go.
    Source: Rezatofighi et al., Generalized intersection over union, arXiv:1902.09630.
    """
    both = intersection(a, b)
    either = area(a) + area(b) - both
    size = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    around, tiny = size[..., 0] * size[..., 1], torch.finfo(both.dtype).tiny
    return both / either.clamp(min=tiny) - (around - either) / around.clamp(min=tiny)


def to_centre(boxes: torch.Tensor) -> torch.Tensor:
    """(x1, y1, x2, y2) -> (middle x, middle y, width, height)."""
    size = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([boxes[..., :2] + size / 2, size], -1)


def to_corners(boxes: torch.Tensor) -> torch.Tensor:
    """(middle x, middle y, width, height) -> (x1, y1, x2, y2)."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def encode(
    boxes: torch.Tensor, anchors: torch.Tensor, weights: Sequence[float] = (1, 1, 1, 1)
) -> torch.Tensor:
    """What takes anchors (..., 4) to boxes (..., 4), in numbers that do not depend on their size.

    t = ((x - xa) / wa, (y - ya) / ha, log(w / wa), log(h / ha)), with middles x and y, times
    `weights`. Boxes must not be empty.
    Source: Girshick et al., Rich feature hierarchies, arXiv:1311.2524, appendix C.
    """
    box, anchor = to_centre(boxes), to_centre(anchors)
    move = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:]
    deltas = torch.cat([move, torch.log(box[..., 2:] / anchor[..., 2:])], -1)
    return deltas * deltas.new_tensor(weights)


def decode(
    deltas: torch.Tensor, anchors: torch.Tensor, weights: Sequence[float] = (1, 1, 1, 1)
) -> torch.Tensor:
    """The boxes that `encode` would have turned into these numbers."""
    deltas, anchor = deltas / deltas.new_tensor(weights), to_centre(anchors)
    middle = anchor[..., :2] + deltas[..., :2] * anchor[..., 2:]
    size = anchor[..., 2:] * torch.exp(deltas[..., 2:].clamp(max=LONGEST))
    return to_corners(torch.cat([middle, size], -1))


def clip(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The parts of the boxes that lie inside the picture."""
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


# --- non-maximum suppression ----------------------------------------------------------------


def survivors(boxes: torch.Tensor, threshold: float) -> torch.Tensor:
    """Which boxes (..., N, 4) non-maximum suppression keeps, the best first: (..., N) bool.

    From the best on, each box that is still there removes all later ones that overlap it by more
    than `threshold` (IoU). Many images are done at once, one per place of the leading axes.
    """
    removes = (pairwise_iou(boxes, boxes) > threshold).triu(1)  # (..., N, N): row removes column
    alive = torch.ones(boxes.shape[:-1], dtype=torch.bool, device=boxes.device)
    for best in range(boxes.shape[-2]):
        alive &= ~(removes[..., best, :] & alive[..., best, None])
    return alive


def nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Non-maximum suppression: the indices of the boxes to keep, the highest score first.

    Boxes (N, 4), scores (N,); of equal scores the first comes first. As `torchvision.ops.nms`.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    return order[survivors(boxes[order], threshold)]


def apart(boxes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Boxes (..., 4) moved so that those of different labels (...) do not overlap.

    Suppression among these is suppression within each class.
    """
    if not boxes.numel():
        return boxes
    step = boxes.max() - boxes.min() + 1
    return boxes + (labels.to(boxes) * step)[..., None]
