"""Faster R-CNN: first where something may be, then what it is.

Stage one, the region proposal network (RPN): at every place of the backbone's maps some boxes of
fixed shapes, the anchors, get a score for "something is there" and four numbers that move the
anchor onto it. The best of them, the proposals, go to stage two: RoIAlign cuts each one's features
out of the maps, and two layers say which class it is, or none, and correct its box once more. Both
stages learn together, on the same maps.

Source: Ren et al., Faster R-CNN, arXiv:1506.01497. The settings are torchvision's, made small.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from section4.detection.boxes import clip, decode, encode, pairwise_iou, survivors
from section4.detection.detector import (
    STRIDE,
    Found,
    backbone,
    by_place,
    keep_best,
    pick,
    places,
    rows,
)
from section4.detection.roi_align import roi_align

SIZES = (16.0, 26.0, 40.0)  # of anchors, in pixels: the root of their area
RATIOS = (1.0, 2.0)  # height / width of anchors
RPN_OVERLAPS = (0.3, 0.7)  # IoU below which an anchor is background, and from which on it is not
RPN_DRAWN = 64  # anchors an image that stage one learns from
PROPOSALS = 50  # an image, of which stage two is told
BEFORE_NMS = 200
RPN_NMS = 0.7
HEAD_OVERLAP = 0.5  # IoU from which on a proposal is the thing it overlaps
HEAD_DRAWN = 32  # proposals an image that stage two learns from
HEAD_SHARE = 0.25  # of which at most so many are things
HEAD_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # so that the four numbers vary as much as class scores do
POOLED = 5  # bins of RoIAlign along each axis


class RegionProposals(nn.Module):
    """Maps (N, C, H, W) -> scores (N, P) and deltas (N, P, 4) of all P = H W A anchors."""

    def __init__(self, channels: int):
        super().__init__()
        shapes = len(SIZES) * len(RATIOS)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.score = nn.Conv2d(channels, shapes, 1)
        self.delta = nn.Conv2d(channels, 4 * shapes, 1)
        for layer in (self.conv, self.score, self.delta):
            nn.init.normal_(layer.weight, std=0.01)
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.conv(maps))
        return by_place(self.score(x), 1)[..., 0], by_place(self.delta(x), 4)


class BoxHead(nn.Module):
    """Features of boxes (R, C, 5, 5) -> scores (R, 1 + K), class 0 nothing, deltas (R, K, 4)."""

    def __init__(self, channels: int, classes: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * POOLED**2, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )
        self.score = nn.Linear(width, 1 + classes)
        self.delta = nn.Linear(width, 4 * classes)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.layers(features)
        return self.score(x).float(), self.delta(x).float().unflatten(-1, (-1, 4))


class FasterRCNN(nn.Module):
    """A detector (see `detector`) of `classes` kinds of things."""

    def __init__(self, classes: int, width: int = 32):
        super().__init__()
        self.backbone = backbone(width)
        self.rpn = RegionProposals(4 * width)
        self.head = BoxHead(4 * width, classes, 8 * width)

    def forward(
        self, images: torch.Tensor, truths: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor] | list[Found]:
        maps = self.backbone(images)
        scores, deltas = self.rpn(maps)
        frames = anchors(places(maps))
        size = images.shape[-2:]
        proposed, _ = proposals(scores.detach(), deltas.detach(), frames, size, PROPOSALS)
        if truths is None:
            return self.detections(maps, proposed, size)
        return rpn_losses(scores, deltas, frames, truths) | self.head_losses(maps, proposed, truths)

    def propose(self, images: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The best `count` boxes of stage one, and their scores: (N, count, 4), (N, count)."""
        maps = self.backbone(images)
        scores, deltas = self.rpn(maps)
        return proposals(scores, deltas, anchors(places(maps)), images.shape[-2:], count)

    def classify(
        self, maps: torch.Tensor, boxes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage two for boxes (N, R, 4): scores (N, R, 1 + K) and deltas (N, R, K, 4)."""
        features = roi_align(maps, boxes, POOLED, 1 / STRIDE)
        scores, deltas = self.head(features.flatten(0, 1))
        return tuple(item.unflatten(0, boxes.shape[:2]) for item in (scores, deltas))

    def head_losses(
        self, maps: torch.Tensor, proposed: torch.Tensor, truths: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Of some proposals what they are; of those that are something, where it is."""
        # The true boxes are proposed as well: at first the RPN finds nothing to learn from.
        candidates = torch.cat([proposed, truths[..., :4]], 1)
        overlap, which = overlaps(candidates, truths).max(-1)
        usable = functional.pad(truths[..., 4] >= 0, (proposed.shape[1], 0), value=True)
        positive = usable & (overlap >= HEAD_OVERLAP)
        drawn, real = pick(positive, usable & ~positive, HEAD_DRAWN, HEAD_SHARE)
        boxes, true = rows(candidates, drawn), rows(truths, which.gather(1, drawn))
        scores, deltas = self.classify(maps, boxes)
        something = positive.gather(1, drawn) & real
        labels = torch.where(something, true[..., 4].long() + 1, 0)
        what = functional.cross_entropy(scores[real], labels[real])
        wanted = encode(true[something][:, :4], boxes[something], HEAD_WEIGHTS)
        own = deltas[something, true[something][:, 4].long()]  # those for the right class
        where = functional.smooth_l1_loss(own, wanted, beta=1 / 9, reduction="sum")
        return {"class": what, "box": where / real.sum()}

    def detections(
        self, maps: torch.Tensor, proposed: torch.Tensor, size: torch.Size
    ) -> list[Found]:
        scores, deltas = self.classify(maps, proposed)  # (N, R, 1 + K), (N, R, K, 4)
        boxes = clip(decode(deltas, proposed[:, :, None], HEAD_WEIGHTS), *size)
        share = scores.softmax(-1)[..., 1:]  # (N, R, K)
        labels = torch.arange(share.shape[-1], device=share.device).expand_as(share)
        return keep_best(*(item.flatten(1, 2) for item in (boxes, share, labels)))


def anchors(middles: torch.Tensor) -> torch.Tensor:
    """Boxes of every size and ratio around each middle (P, 2): (P A, 4)."""
    size, ratio = torch.tensor(SIZES)[:, None], torch.tensor(RATIOS)[None]
    half = torch.stack([size / ratio.sqrt(), size * ratio.sqrt()], -1).reshape(-1, 2) / 2
    half = half.to(middles.device)
    return torch.cat([middles[:, None] - half, middles[:, None] + half], -1).reshape(-1, 4)


def overlaps(boxes: torch.Tensor, truths: torch.Tensor) -> torch.Tensor:
    """IoU (N, R, M) with the true boxes; -1 in the rows of truths that are none."""
    return pairwise_iou(boxes, truths[..., :4]).masked_fill(truths[:, None, :, 4] < 0, -1.0)


def proposals(
    scores: torch.Tensor, deltas: torch.Tensor, frames: torch.Tensor, size: torch.Size, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best `count` boxes of stage one after suppression, and their scores.

    Where fewer are left, the best suppressed ones fill up. (N, count, 4), (N, count).
    """
    best, order = scores.topk(min(max(BEFORE_NMS, count), scores.shape[1]))
    boxes = clip(decode(rows(deltas, order), frames[order]), *size)
    alive = survivors(boxes, RPN_NMS)
    first = torch.argsort((~alive).int(), dim=1, stable=True)[:, :count]  # survivors, best first
    return rows(boxes, first), best.gather(1, first)


def rpn_losses(
    scores: torch.Tensor, deltas: torch.Tensor, frames: torch.Tensor, truths: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Of some anchors whether something is there; of those that have it, where it is."""
    overlap = overlaps(frames.expand(len(truths), -1, -1), truths)  # (N, P, M)
    best, which = overlap.max(-1)
    low, high = RPN_OVERLAPS
    # Every true box gets the anchor that fits it best, however badly that fits.
    fitting = (overlap == overlap.amax(1, keepdim=True)) & (overlap > 0)
    positive = (best >= high) | fitting.any(-1)
    drawn, real = pick(positive, ~positive & (best < low), RPN_DRAWN, 0.5)
    something = positive.gather(1, drawn) & real
    there = functional.binary_cross_entropy_with_logits(
        scores.gather(1, drawn)[real], something[real].float()
    )
    true = rows(truths, which.gather(1, drawn))[something][:, :4]
    wanted = encode(true, frames[drawn][something])
    own = rows(deltas, drawn)[something]
    where = functional.smooth_l1_loss(own, wanted, beta=1 / 9, reduction="sum")
    return {"objectness": there, "proposal": where / real.sum()}
