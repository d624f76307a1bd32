"""YOLO: one look at the picture, and every cell of a grid says what has its middle near it.

For each cell the network gives 5 + K numbers: how sure it is that something is there, the middle
and the size of its box, and scores for K classes. A true box is the business of the four cells
whose middles lie nearest to its own; all other cells learn to say that nothing is there.

Source: Redmon et al., You only look once, arXiv:1506.02640; without anchors and with more than
one cell for a box as in Ge et al., YOLOX, arXiv:2107.08430.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from section4.detection.boxes import clip, giou, to_centre, to_corners
from section4.detection.detector import (
    STRIDE,
    Found,
    backbone,
    by_place,
    keep_best,
    places,
)
from section4.vision.resnet import initialize

BOX_WEIGHT = 5.0  # of the loss of the boxes, against the other two
RARE = 0.02  # the share of cells that begin by saying that something is there


class YOLO(nn.Module):
    """A detector (see `detector`) of `classes` kinds of things."""

    def __init__(self, classes: int, width: int = 32):
        super().__init__()
        wide = 4 * width
        self.backbone = backbone(width)
        self.neck = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()
        ).apply(initialize)
        self.head = nn.Conv2d(wide, 5 + classes, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        bias = torch.zeros(5 + classes)
        bias[0] = -math.log(1 / RARE - 1)
        self.head.bias = nn.Parameter(bias)

    def answers(
        self, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each cell how sure it is (N, P), as a logit, its box (N, P, 4), its scores (N, P, K);
        and the cells' middles (P, 2).
        """
        maps = self.head(self.neck(self.backbone(images)))
        out, middles = by_place(maps, maps.shape[1]), places(maps)
        return out[..., 0], decode(out[..., 1:5], middles), out[..., 5:], middles

    def forward(
        self, images: torch.Tensor, truths: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor] | list[Found]:
        sure, boxes, scores, middles = self.answers(images)
        if truths is not None:
            return losses(sure, boxes, scores, truths, middles)
        best, labels = scores.softmax(-1).max(-1)  # (N, P)
        boxes = clip(boxes, *images.shape[-2:])
        return keep_best(boxes, sure.sigmoid() * best, labels)


def decode(numbers: torch.Tensor, middles: torch.Tensor) -> torch.Tensor:
    """(N, P, 4) -> boxes (N, P, 4): the move of the middle and the log of the size, in strides."""
    move, size = numbers.split(2, -1)
    size = STRIDE * torch.exp(size.clamp(max=5) + 1)  # at first about e strides, 22 pixels
    return to_corners(torch.cat([middles + STRIDE * move, size], -1))


def assign(truths: torch.Tensor, middles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whose business each cell is: (mine (N, P) bool, which row of truths (N, P)).

    A cell is near a box if their middles are less than a stride apart, in x and in y; of several
    such boxes it takes the nearest.
    """
    centre = to_centre(truths[..., :4])[..., :2]  # (N, M, 2)
    away = (middles[None, :, None] - centre[:, None]).abs().amax(-1)  # (N, P, M)
    away = away.masked_fill(truths[:, None, :, 4] < 0, math.inf)
    nearest, which = away.min(-1)
    return nearest < STRIDE, which


def losses(
    sure: torch.Tensor,
    boxes: torch.Tensor,
    scores: torch.Tensor,
    truths: torch.Tensor,
    middles: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Of all cells whether something is there; of those with a box, where and what it is."""
    mine, which = assign(truths, middles)
    image, place = mine.nonzero(as_tuple=True)
    true = truths[image, which[image, place]]  # (B, 5)
    count = max(len(true), 1)
    there = functional.binary_cross_entropy_with_logits(sure, mine.float(), reduction="sum")
    where = (1 - giou(boxes[image, place], true[:, :4])).sum()
    what = functional.cross_entropy(scores[image, place], true[:, 4].long(), reduction="sum")
    return {"object": there / count, "box": BOX_WEIGHT * where / count, "class": what / count}
