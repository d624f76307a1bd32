"""Augmentation on the device: every training image is changed at random, at every epoch anew.

What is written out here changes each image of a batch by itself. The others are those of
torchvision.transforms.v2, which draws its random numbers once a call: to call it for every single
image would take as long as to train a small network, so `in_groups` calls it for a few images at
a time. Mixup and CutMix blend images in pairs, and their labels with them.

A change takes images (n, C, H, W) in [0, 1] and labels (n,), and returns new images and labels,
(n,) or, where they were blended, shares of the classes (n, K).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from section4.compat import v2
from section4.images import Change, Pair

GROUP = 4  # images that share one draw of a transform of torchvision
GREY = (0.2989, 0.587, 0.114)  # the share of red, green and blue in how bright a colour is seen


def windows(height: int, width: int) -> Change:
    """Of each image a part of height x width pixels in a random place."""

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        n, _, h, w = x.shape
        down = torch.randint(0, h - height + 1, (n, 1), device=x.device)
        right = torch.randint(0, w - width + 1, (n, 1), device=x.device)
        rows = down + torch.arange(height, device=x.device)  # (n, height)
        columns = right + torch.arange(width, device=x.device)  # (n, width)
        image = torch.arange(n, device=x.device)[:, None, None]
        parts = x.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
        return parts.permute(0, 3, 1, 2), y  # (n, height, width, C) -> (n, C, height, width)

    return change


def crop(padding: int = 4) -> Change:
    """Each image moved by up to `padding` pixels both ways; what comes into view is black."""

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        padded = nn.functional.pad(x, (padding,) * 4)
        return windows(*x.shape[2:])(padded, y)

    return change


def flip(x: torch.Tensor, y: torch.Tensor) -> Pair:
    """Each image as it is or, with chance 1/2, in a mirror."""
    mirrored = torch.rand(len(x), device=x.device) < 0.5
    return torch.where(mirrored[:, None, None, None], mirror(x, y)[0], x), y


def mirror(x: torch.Tensor, y: torch.Tensor) -> Pair:
    """Each image in a mirror."""
    return x.flip(3), y


def turn(degrees: float) -> Change:
    """Each image turned about its middle by an angle from [-degrees, degrees].

    The value at a place p is that of the image at R p, between pixels by bilinear interpolation,
    outside of the image black; R = [[cos a, -sin a], [sin a, cos a]], for square images.
    """

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        angle = math.radians(degrees) * (2 * torch.rand(len(x), device=x.device) - 1)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        moves = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
        places = nn.functional.affine_grid(moves, list(x.shape), align_corners=False)
        return nn.functional.grid_sample(x, places, align_corners=False), y

    return change


def grey(x: torch.Tensor) -> torch.Tensor:
    """How bright each pixel is seen: (n, C, H, W) -> (n, 1, H, W)."""
    weights = GREY if x.shape[1] == 3 else (1.0,)
    return (x * x.new_tensor(weights)[:, None, None]).sum(1, keepdim=True)


def colours(strength: float) -> Change:
    """Each image with its own brightness, contrast and saturation, in this order.

    Each is a factor f from [1 - strength, 1 + strength] by which the colours c get farther from a
    colour m, c <- m + f (c - m), cut to [0, 1]: for brightness m is black, for contrast the grey
    of the whole image, for saturation the grey of the same pixel. Three channels, or one.
    """

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        factors = 1 + strength * (2 * torch.rand(3, len(x), 1, 1, 1, device=x.device) - 1)
        x = (factors[0] * x).clamp(0, 1)
        x = torch.lerp(grey(x).mean((2, 3), keepdim=True), x, factors[1]).clamp(0, 1)
        return torch.lerp(grey(x), x, factors[2]).clamp(0, 1), y

    return change


def cutout(side: int = 16) -> Change:
    """In each image a square in a random place, which may reach over the edge, is made grey.

    Source: DeVries, Taylor, Improved regularization of CNNs with Cutout, arXiv:1708.04552.
    """

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        n, _, h, w = x.shape

        def covered(length: int) -> torch.Tensor:  # (n, length)
            middle = torch.randint(0, length, (n, 1), device=x.device)
            place = torch.arange(length, device=x.device)
            return (place >= middle - side // 2) & (place < middle + (side + 1) // 2)

        square = covered(h)[:, None, :, None] & covered(w)[:, None, None, :]  # (n, 1, H, W)
        return torch.where(square, 0.5, x), y

    return change


def in_groups(transform: Callable, size: int = GROUP) -> Change:
    """A transform of torchvision.transforms.v2, called anew for every `size` images."""

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        return torch.cat([transform(part) for part in x.split(size)]), y

    return change


def chain(*changes: Change) -> Change:
    """One change after the other."""

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        for step in changes:
            x, y = step(x, y)
        return x, y

    return change


def standard(padding: int = 4) -> Change:
    """What CIFAR-10 is nearly always trained with: crop and flip; without padding, flip alone."""
    return chain(crop(padding), flip) if padding else flip


def arms(classes: int, side: int = 32) -> dict[str, Change | None]:
    """The augmentations that `augmentation_study` compares, by name; None changes nothing."""
    move = crop(side // 8)
    mixup, cutmix = v2.MixUp(num_classes=classes), v2.CutMix(num_classes=classes)
    return {
        "none": None,
        "flip": flip,
        "crop": move,
        "crop + flip": chain(move, flip),
        "rotation": turn(15),
        "colour jitter": colours(0.4),
        "random erasing": in_groups(v2.RandomErasing(p=0.5)),
        "cutout": cutout(side // 2),
        "mixup": mixup,
        "cutmix": cutmix,
        "trivial augment": in_groups(v2.TrivialAugmentWide()),
        "combined": chain(
            move, flip, in_groups(v2.TrivialAugmentWide()), cutout(side // 4),
            v2.RandomChoice([mixup, cutmix]),
        ),
    }  # fmt: skip
