"""What all detectors share: their backbone, their outputs, and how they are trained and asked.

A detector is a module with two uses. `detector(images, truths)` gives its losses by name, which
training makes small together. `detector(images)` gives, for each image, `Found`: boxes, scores and
labels. images: (N, 3, H, W), standardised; truths: (N, M, 5), a box and its class in each row, and
class -1 in the rows that are not needed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from section4.detection.boxes import apart, survivors
from section4.detection.metrics import Detections
from section4.engine import Batch, Setting
from section4.training import Data, evaluation
from section4.vision.resnet import BasicBlock, initialize

STRIDE = 8  # pixels between two places of the backbone's maps
CANDIDATES = 300  # boxes of an image that suppression looks at
AT_MOST = 100  # detections of an image
OVERLAP = 0.3  # IoU above which a box suppresses a worse one of its class: best in validation


class Found(NamedTuple):
    """The detections in an image, the best first: (D, 4), (D,), (D,)."""

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor


def backbone(width: int) -> nn.Sequential:
    """Images (N, 3, H, W) -> maps (N, 4 width, H / 8, W / 8) whose places see 71x71 pixels."""
    net = nn.Sequential(
        nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width // 2),
        nn.ReLU(),
        BasicBlock(width // 2, width, stride=2),
        BasicBlock(width, 2 * width, stride=2),
        BasicBlock(2 * width, 4 * width),
    )
    return net.apply(initialize)


def indices(maps: torch.Tensor) -> torch.Tensor:
    """Column and row (x, y) of each place of maps (N, C, H, W), row by row: (H W, 2)."""
    h, w = maps.shape[-2:]
    y, x = torch.meshgrid(*(torch.arange(n, device=maps.device) for n in (h, w)), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def places(maps: torch.Tensor) -> torch.Tensor:
    """The middles (x, y) in pixels of the places of maps (N, C, H, W), row by row: (H W, 2)."""
    return STRIDE * (indices(maps) + 0.5)


def by_place(maps: torch.Tensor, numbers: int) -> torch.Tensor:
    """(N, A numbers, H, W) -> (N, H W A, numbers), float32: a row for each thing at each place."""
    n = len(maps)
    return maps.permute(0, 2, 3, 1).reshape(n, -1, numbers).float()


def keep_best(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> list[Found]:
    """The end of every detector: boxes (N, D, 4), scores and labels (N, D) -> `Found` per image.

    The best candidates, without those that a better one of the same class overlaps. No box is
    left out for its low score: who wants only sure ones can do so later.
    """
    scores, order = scores.topk(min(CANDIDATES, scores.shape[1]))
    labels = labels.gather(1, order)
    boxes = rows(boxes, order)
    alive = survivors(apart(boxes, labels), OVERLAP)
    return [
        Found(*(item[image][alive[image]][:AT_MOST] for item in (boxes, scores, labels)))
        for image in range(len(boxes))
    ]


def sum_of_losses(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The objective of a detector, for `training.fit`; its score is minus the loss.

    What a detector is worth, its mean average precision, takes more than a batch to say.
    """
    images, truths = batch
    loss = torch.stack(list(model(images, truths).values())).sum()
    return loss, -loss.detach()


def detect(model: nn.Module, data: Data, setting: Setting) -> list[Detections]:
    """What the model finds in every image of `data(0)`, in NumPy on the CPU."""
    found = list[Detections]()
    with evaluation(model, setting):
        for images, *_ in data(0):
            found += [Detections(*(part.cpu().numpy() for part in item)) for item in model(images)]
    return found


def pick(
    positive: torch.Tensor, negative: torch.Tensor, count: int, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw `count` of the candidates of each image: their indices (N, count), and which are real.

    positive, negative: (N, A) bool. At most `share` of those drawn are positive, the rest negative;
    where there are too few of both, some places stay empty (False).
    """
    chance = torch.rand(positive.shape, device=positive.device)
    chosen, which = torch.where(positive, chance, -1.0).topk(
        min(int(share * count), positive.shape[1])
    )
    key = torch.where(negative, chance, -1.0)
    key = key.scatter(1, which, torch.where(chosen >= 0, 2.0, key.gather(1, which)))
    chosen, which = key.topk(min(count, key.shape[1]))
    return which, chosen >= 0


def rows(items: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """The rows `which` (N, R) of items (N, A, K): (N, R, K)."""
    return items.gather(1, which[..., None].expand(-1, -1, items.shape[-1]))
