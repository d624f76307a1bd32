"""Augmentation on the device: every training image is changed at random, at every epoch anew.

`crop`, `flip` and `cutout` are written out and change each image of a batch by itself. The
others are those of torchvision.transforms.v2, which draws its random numbers once a call: to call
it for every single image would take longer than training does, so `in_groups` calls it for a few
images at a time. `mixup` and `cutmix` blend images in pairs and their labels with them.

A change takes images (n, C, H, W) in [0, 1] and labels (n,), and returns new images and labels,
(n,) or, where they were blended, shares of the classes (n, K).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from section4.compat import v2
from section4.images import Change, Pair

GROUP = 8  # images that share one draw of a transform of torchvision


def crop(padding: int = 4) -> Change:
    """Each image moved by up to `padding` pixels both ways; what comes into view is black."""

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        n, _, h, w = x.shape
        padded = torch.nn.functional.pad(x, (padding,) * 4)
        down, right = torch.randint(0, 2 * padding + 1, (2, n, 1), device=x.device)
        rows = down + torch.arange(h, device=x.device)  # (n, H)
        columns = right + torch.arange(w, device=x.device)  # (n, W)
        image = torch.arange(n, device=x.device)[:, None, None]
        moved = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2), y  # (n, H, W, C) -> (n, C, H, W)

    return change


def flip(x: torch.Tensor, y: torch.Tensor) -> Pair:
    """Each image as it is or, with chance 1/2, in a mirror."""
    mirrored = torch.rand(len(x), device=x.device) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(3), x), y


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


def blended(transform: Callable) -> Change:
    """Mixup or CutMix of torchvision: they see the whole batch, and blend the labels too."""

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        return transform(x, y)

    return change


def chain(*changes: Change) -> Change:
    """One change after the other."""

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        for step in changes:
            x, y = step(x, y)
        return x, y

    return change


def standard(padding: int = 4) -> Change:
    """What CIFAR-10 is nearly always trained with: crop and flip."""
    return chain(crop(padding), flip)


def arms(classes: int, side: int = 32) -> dict[str, Change | None]:
    """The augmentations that `augmentation_study` compares, by name; None changes nothing."""
    move, jitter = crop(side // 8), in_groups(v2.ColorJitter(0.4, 0.4, 0.4, 0.1))
    mirrored = chain(move, flip)
    mixup, cutmix = v2.MixUp(num_classes=classes), v2.CutMix(num_classes=classes)
    return {
        "none": None,
        "flip": flip,
        "crop": move,
        "crop + flip": mirrored,
        "rotation": in_groups(v2.RandomRotation(15)),
        "colour jitter": jitter,
        "random erasing": in_groups(v2.RandomErasing(p=0.5)),
        "cutout": cutout(side // 2),
        "mixup": blended(mixup),
        "cutmix": blended(cutmix),
        "trivial augment": in_groups(v2.TrivialAugmentWide()),
        "all": chain(
            mirrored, in_groups(v2.TrivialAugmentWide()), cutout(side // 4),
            blended(v2.RandomChoice([mixup, cutmix])),
        ),
    }  # fmt: skip
