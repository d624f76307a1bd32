"""Two classifiers to hold residual networks against: one that knows nothing of images, and one
that knows that what belongs together lies side by side and may lie anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn


def mlp(
    shape: tuple[int, int, int], classes: int = 10, hidden: Sequence[int] = (512, 256)
) -> nn.Sequential:
    """Images (N, C, H, W) of this shape (C, H, W) -> scores (N, K), by layers relu(W x + b).

    Every pixel is a feature of its own, wherever it lies. Parameters: sum (in + 1) out over the
    layers; 1.7 million for images of 3x32x32 and the sizes given here.
    """
    sizes = [math.prod(shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]  # (N, C, H, W) -> (N, C*H*W)
    for inside, outside in zip(sizes, sizes[1:]):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


def cnn(
    channels: int = 3, classes: int = 10, filters: Sequence[int] = (64, 128, 256)
) -> nn.Sequential:
    """Images (N, C, H, W) -> scores (N, K): for each of `filters`, a pool of relu(bn(conv(x))).

    Then the mean over places, so images may have any size, and one layer of scores. No skips.
    Parameters: 9 C F for each convolution of C channels and F filters, 2 F for its batch norm,
    and (F + 1) K for the scores; 0.37 million with three channels, ten classes and these filters.
    """
    layers: list[nn.Module] = []
    for count in filters:
        layers += [
            nn.Conv2d(channels, count, 3, padding=1, bias=False),  # (N, F, H, W)
            nn.BatchNorm2d(count),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (N, F, H / 2, W / 2)
        ]
        channels = count
    scores = nn.Linear(channels, classes)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), scores)
