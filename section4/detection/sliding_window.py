"""The sliding window: ask a classifier at every place and in every size.

A network that tells what a window of 32x32 pixels shows, one of K classes or nothing, is laid over
the picture every 4 pixels, and over smaller and larger copies of the picture, so that things of
other sizes fit the window as well. Its layers are convolutions, also the last ones, which would
otherwise be called fully connected: so neighbouring windows share what they compute, and the
answers for all windows are one forward pass over the whole copy.

The window is square and says nothing of where in it the thing is. Its box is the mean box of its
class in the training set: the best that a classifier alone can say.

Source: Sermanet et al., OverFeat, arXiv:1312.6229, without its regressor of boxes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from section4.detection.boxes import clip, pairwise_iou, to_centre, to_corners
from section4.detection.detector import Found, indices, keep_best
from section4.vision.resnet import initialize

WINDOW = 32  # pixels of a copy
STEP = 4  # pixels of a copy between windows: what the two pools make of it
THING = 24  # the longer side of a thing that fills its window well
SIZES = (16.0, 20.0, 25.0, 32.0, 40.0)  # of things; each gets a copy in which it is THING long
BORDER = 20  # pixels around the picture, so that windows reach things at its edge
DRAWN = 10  # windows an image that training looks at, besides those of its things
FITS = 0.6  # IoU of a window and that of a thing, from which on it shows the thing
MISSES = 0.45  # IoU below which it shows nothing


class SlidingWindow(nn.Module):
    """A detector (see `detector`) of `classes` kinds of things."""

    shape_sums: torch.Tensor  # (K, 3): of widths and heights, in windows, and how many

    def __init__(self, classes: int, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(
            *layer(3, width // 2, 3),  # 32 -> 30
            nn.MaxPool2d(2),  # 15
            *layer(width // 2, width, 4),  # 12
            nn.MaxPool2d(2),  # 6
            *layer(width, 2 * width, 3),  # 4
            *layer(2 * width, 2 * width, 4),  # 1
            nn.Conv2d(2 * width, 1 + classes, 1),
        ).apply(initialize)
        self.register_buffer("shape_sums", torch.zeros(classes, 3))

    def forward(
        self, images: torch.Tensor, truths: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor] | list[Found]:
        if truths is None:
            return self.detections(images)
        windows, labels = draw_windows(truths, images.shape[-1])
        if self.training:
            self.learn_shapes(truths)
        chosen = labels >= 0
        scores = self.layers(crops(images, windows)[chosen])  # (R, 1 + K, 1, 1)
        return {"class": functional.cross_entropy(scores.flatten(1).float(), labels[chosen])}

    def answers(self, images: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
        """For each copy of the pictures its scale and its windows' scores (N, 1 + K, H, W)."""
        padded = functional.pad(images, (BORDER,) * 4, mode="replicate")
        answers = []
        for size in SIZES:
            copy = functional.interpolate(padded, scale_factor=THING / size, mode="bilinear")
            answers.append((THING / size, self.layers(copy).float()))
        return answers

    def detections(self, images: torch.Tensor) -> list[Found]:
        boxes, shares = list[torch.Tensor](), list[torch.Tensor]()
        for scale, scores in self.answers(images):
            shares.append(scores.softmax(1)[:, 1:].flatten(2).transpose(1, 2))  # (N, H W, K)
            boxes.append(windows_of(scores, scale))
        share, label = torch.cat(shares, 1).max(-1)  # (N, P)
        middle, side = to_centre(torch.cat(boxes)).split(2, -1)  # (P, 2)
        shape = self.shape_sums[:, :2] / self.shape_sums[:, 2:].clamp(min=1)  # (K, 2)
        found = torch.cat([middle.expand(len(label), -1, -1), side * shape[label]], -1)
        return keep_best(clip(to_corners(found), *images.shape[-2:]), share, label)

    def learn_shapes(self, truths: torch.Tensor) -> None:
        """Add the boxes of these truths to the mean of each class."""
        real = truths[truths[..., 4] >= 0]
        boxes, labels = real[:, :4], real[:, 4].long()
        share = to_centre(boxes)[:, 2:] / to_centre(window_around(boxes))[:, 2:]  # (B, 2)
        counted = torch.cat([share, torch.ones_like(share[:, :1])], 1)
        self.shape_sums.index_add_(0, labels, counted)


def layer(channels: int, filters: int, kernel: int) -> list[nn.Module]:
    """Without padding: what a window shows must not depend on what lies around it."""
    conv = nn.Conv2d(channels, filters, kernel, bias=False)
    return [conv, nn.BatchNorm2d(filters), nn.ReLU()]


def crops(images: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """What windows (N, R, 4) show of images (N, C, H, W): (N, R, C, 32, 32).

    Beyond the edge of the picture they show its nearest pixel.
    """
    steps = (torch.arange(WINDOW, device=windows.device) + 0.5) / WINDOW
    low, size = windows[..., None, :2], windows[..., None, 2:] - windows[..., None, :2]
    at = low + size * steps[:, None]  # (N, R, 32, 2): x and y in pixels
    sides = at.new_tensor(images.shape[:1:-1])
    at = torch.minimum(at.clamp(min=0.5), sides - 0.5)  # the middles of the outermost pixels
    at = 2 * at / sides - 1  # -1 and 1 are the edges of the picture
    x, y = at.unbind(-1)
    grid = torch.stack(torch.broadcast_tensors(x[:, :, None, :], y[:, :, :, None]), -1)
    shown = functional.grid_sample(images, grid.flatten(1, 2), align_corners=False)
    return shown.unflatten(2, (-1, WINDOW)).transpose(1, 2)  # (N, C, R 32, 32) -> (N, R, C, 32, 32)


def windows_of(scores: torch.Tensor, scale: float) -> torch.Tensor:
    """The windows (H W, 4), in pixels of the picture, behind scores (N, 1 + K, H, W) of a copy."""
    corner = STEP * indices(scores)
    return torch.cat([corner, corner + WINDOW], -1) / scale - BORDER


def window_around(boxes: torch.Tensor) -> torch.Tensor:
    """The square window that a box (..., 4) fills well."""
    middle, size = to_centre(boxes).split(2, -1)
    side = size.amax(-1, keepdim=True) * (WINDOW / THING)
    return to_corners(torch.cat([middle, side, side], -1))


def draw_windows(truths: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows (N, R, 4) to learn from, and what they show (N, R): 0 nothing, 1 + class, -1 unused.

    One for each thing, as far off as the nearest window of the pyramid may be; as many near it,
    which show a part of it or it and too much else; and some anywhere.
    """
    ideal = to_centre(window_around(truths[..., :4]))  # (N, M, 4)

    def moved(shift: float, factor: float) -> torch.Tensor:
        """The ideal windows, moved by up to `shift` of their side, up to `factor` times larger."""
        noise = 2 * torch.rand_like(ideal) - 1  # one factor for both sides: they stay square
        middle = ideal[..., :2] + shift * noise[..., :2] * ideal[..., 2:]
        return torch.cat([middle, ideal[..., 2:] * factor ** noise[..., 2:3]], -1)

    n, device = len(truths), truths.device
    sizes = torch.tensor(SIZES, device=device) * (WINDOW / THING)
    size = sizes[torch.randint(len(SIZES), (n, DRAWN, 1), device=device)].expand(-1, -1, 2)
    anywhere = torch.cat([side * torch.rand(n, DRAWN, 2, device=device), size], -1)
    windows = to_corners(torch.cat([moved(0.07, 1.15), moved(0.5, 2.0), anywhere], 1))
    overlap = pairwise_iou(windows, to_corners(ideal))
    overlap, which = overlap.masked_fill(truths[:, None, :, 4] < 0, -1.0).max(-1)  # (N, R)
    shown = truths[..., 4].gather(1, which).long() + 1
    labels = torch.where(overlap >= FITS, shown, torch.where(overlap < MISSES, 0, -1))
    # Windows around the rows of truths that are none were drawn in vain.
    m = truths.shape[1]
    labels[:, : 2 * m] = labels[:, : 2 * m].masked_fill((truths[..., 4] < 0).repeat(1, 2), -1)
    return windows, labels
