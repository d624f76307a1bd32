"""Residual networks: blocks that add to what they are given.

A block computes y = relu(x + f(x)). Its Jacobian is D (I + J), with J that of f and D the diagonal
of ones where y > 0 and zeros elsewhere: where the stream is positive, the gradient passes a block
as it is, however many blocks there are. And a block that has nothing to add can learn f = 0.
Without the skip, y = relu(f(x)), both are lost, and a deep network trains worse than a shallow one:
not for lack of power, since it could copy the shallow one.

Source: He et al., Deep residual learning for image recognition, arXiv:1512.03385.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class BasicBlock(nn.Module):
    """relu(x + bn2(conv2(relu(bn1(conv1(x)))))): (N, C, H, W) -> (N, F, H / stride, W / stride).

    Where the shapes differ, x passes through a convolution of 1x1 and batch norm ("option B" of
    the paper) or, with `projection=False`, through every other pixel and channels of zeros ("option
    A", which has no parameters). `skip=False` leaves x out: a plain network's two layers.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        stride: int = 1,
        skip: bool = True,
        projection: bool = True,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.stride, self.padding = stride, filters - channels
        self.skip, self.downsample = skip, None
        if skip and projection and (stride, filters) != (1, channels):
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.shortcut(x)) if self.skip else torch.relu(y)

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        if self.downsample is not None:
            return self.downsample(x)
        if self.stride == 1 and self.padding == 0:
            return x
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.padding))


class ResNet(nn.Module):
    """Images (N, C, H, W) -> scores (N, K): a stem, groups of blocks, the mean over places, Linear.

    widths: filters of each group; blocks: blocks of each group. Every group but the first halves
    the image. stem: "small" (one convolution of 3x3) or "large" (7x7 with stride 2, then a
    max-pool: for images of 224x224). Modules have torchvision's names, so weights can be exchanged.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        *,
        classes: int = 10,
        stem: str = "small",
        skip: bool = True,
        projection: bool = True,
    ):
        super().__init__()
        if stem not in ("small", "large"):
            raise ValueError(f"stem must be small or large, got {stem!r}")
        large = stem == "large"
        self.conv1 = nn.Conv2d(
            3, widths[0], 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        self.groups, inside = len(widths), widths[0]
        for group, (filters, count) in enumerate(zip(widths, blocks), start=1):
            layers = []
            for number in range(count):
                stride = 2 if group > 1 and number == 0 else 1
                layers.append(BasicBlock(inside, filters, stride, skip, projection))
                inside = filters
            self.add_module(f"layer{group}", nn.Sequential(*layers))
        self.fc = nn.Linear(inside, classes)
        self.apply(initialize)

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What each group of blocks gives: (N, F, H, W), from the input to the output."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        found = []
        for group in range(1, self.groups + 1):
            x = self.get_submodule(f"layer{group}")(x)
            found.append(x)
        return found

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The mean over places of the last block's maps: (N, F)."""
        return self.maps(x)[-1].mean((2, 3))  # (N, F, H, W) -> (N, F)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))

    def blocks(self) -> list[BasicBlock]:
        """All blocks, from the input to the output."""
        return [module for module in self.modules() if isinstance(module, BasicBlock)]


def initialize(module: nn.Module) -> None:
    """He initialisation of convolutions: gradients keep their size through relu."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18(classes: int = 10, *, stem: str = "small", width: int = 64) -> ResNet:
    """Eight blocks of two layers in four groups: 11.2 million parameters for width 64."""
    widths = [width * 2**k for k in range(4)]
    return ResNet(widths, [2, 2, 2, 2], classes=classes, stem=stem)


def thin_resnet(depth: int, classes: int = 10, *, skip: bool = True) -> ResNet:
    """The paper's networks for CIFAR-10, of 6n + 2 layers: three groups with 16, 32, 64 filters.

    0.27 million parameters with 20 layers, 0.85 with 56; as many without the skips, since those
    have no parameters here. Raises ValueError for a depth that is not 6n + 2.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth must be 8, 14, 20 ... (6n + 2), got {depth}")
    n = (depth - 2) // 6
    return ResNet([16, 32, 64], [n, n, n], classes=classes, skip=skip, projection=False)
