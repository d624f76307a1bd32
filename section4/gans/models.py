"""Generators and discriminators: of linear layers, and of convolutions (DCGAN).

A generator makes a sample of a vector of noise, a discriminator makes a score of a sample. Told
a class as well, the generator makes samples of that class, and the discriminator asks besides
whether a sample looks like one: a row for each class, times what it sees in the sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

Shape = tuple[int, ...]
Network = TypeVar("Network", bound=nn.Module)
SLOPE = 0.2  # of LeakyReLU below zero


class Generator(nn.Module):
    """Noise (N, Z), and classes (N,) where there are any -> samples (N, ...).

    body: takes (N, Z), or (N, Z + classes): the class is a one-hot vector behind the noise.
    """

    def __init__(self, body: nn.Module, noise: int, classes: int = 0):
        super().__init__()
        self.body, self.noise, self.classes = body, noise, classes

    def forward(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        if self.classes:
            z = torch.cat([z, F.one_hot(needed(y), self.classes).to(z.dtype)], 1)
        return self.body(z)


class Discriminator(nn.Module):
    """Samples (N, ...), and classes (N,) where there are any -> scores (N,): w . h + e_y . h + b.

    body: samples -> features h (N, D).
    Source of e_y: Miyato, Koyama, cGANs with projection discriminator, arXiv:1802.05637.
    """

    def __init__(self, body: nn.Module, features: int, classes: int = 0):
        super().__init__()
        self.body = body
        self.score = nn.Linear(features, 1)
        self.of_class = nn.Embedding(classes, features) if classes else None

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        h = self.body(x)  # (N, D)
        score = self.score(h).squeeze(1)  # (N, 1) -> (N,)
        if self.of_class is not None:
            score = score + (self.of_class(needed(y)) * h).sum(1)
        return score


def needed(y: torch.Tensor | None) -> torch.Tensor:
    if y is None:
        raise ValueError("a network that knows classes needs the class of every sample")
    return y


def mlp_generator(
    noise: int, shape: Shape, hidden: Sequence[int] = (256, 256), *,
    classes: int = 0, batchnorm: bool = False, bounded: bool = True,
) -> Generator:  # fmt: skip
    """Linear layers and ReLUs: noise -> samples of `shape`, in (-1, 1) if `bounded`."""
    layers: list[nn.Module] = []
    width = noise + classes
    for size in hidden:
        layers += [nn.Linear(width, size), *[nn.BatchNorm1d(size)] * batchnorm, nn.ReLU()]
        width = size
    layers += [nn.Linear(width, math.prod(shape)), *[nn.Tanh()] * bounded]
    return Generator(nn.Sequential(*layers, nn.Unflatten(1, shape)), noise, classes)


def mlp_discriminator(
    shape: Shape, hidden: Sequence[int] = (256, 256), *, classes: int = 0
) -> Discriminator:
    """Samples of `shape` -> scores, by linear layers and leaky ReLUs."""
    layers: list[nn.Module] = [nn.Flatten()]  # (N, ...) -> (N, C*H*W)
    width = math.prod(shape)
    for size in hidden:
        layers += [nn.Linear(width, size), nn.LeakyReLU(SLOPE)]
        width = size
    return Discriminator(nn.Sequential(*layers), width, classes)


def dcgan_generator(
    noise: int, shape: Shape = (1, 28, 28), widths: Sequence[int] = (128, 64), *, classes: int = 0
) -> Generator:
    """A linear layer to a small image of widths[0] channels, then twice as large for each width.

    Batch norm and ReLU before every transposed convolution, tanh after the last.
    Raises ValueError for an image that cannot be halved so often.
    Source: Radford, Metz, Chintala, arXiv:1511.06434.
    """
    channels = [*widths, shape[0]]
    small = channels[0], *halved(shape, len(widths))
    layers: list[nn.Module] = [
        nn.Linear(noise + classes, math.prod(small), bias=False),
        nn.Unflatten(1, small),
    ]
    for number, (before, after) in enumerate(zip(channels, channels[1:]), 1):
        last = number == len(widths)  # before batch norm a bias would be taken out again
        layers += [nn.BatchNorm2d(before), nn.ReLU()]
        layers.append(nn.ConvTranspose2d(before, after, 4, 2, 1, bias=last))
    return initialised(Generator(nn.Sequential(*layers, nn.Tanh()), noise, classes))


def dcgan_discriminator(
    shape: Shape = (1, 28, 28), widths: Sequence[int] = (64, 128), *, classes: int = 0
) -> Discriminator:
    """Half as large for each width, by convolutions of stride 2 and leaky ReLUs; then scores.

    The paper has batch norm after all convolutions but the first. Here is none: WGAN-GP must
    not have it.
    Raises ValueError for an image that cannot be halved so often.
    Source: Radford, Metz, Chintala, arXiv:1511.06434.
    """
    layers: list[nn.Module] = []
    channels = shape[0]
    for width in widths:
        layers += [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        channels = width
    features = channels * math.prod(halved(shape, len(widths)))
    return initialised(Discriminator(nn.Sequential(*layers, nn.Flatten()), features, classes))


def initialised(network: Network) -> Network:
    """The same network with normal weights of deviation 0.02, as DCGANs start."""
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)):
            nn.init.normal_(layer.weight, std=0.02)
    return network


def halved(shape: Shape, times: int) -> tuple[int, int]:
    """(H, W) of an image (C, H, W) after so many halvings without a rest."""
    _, h, w = shape
    if h % 2**times or w % 2**times:
        raise ValueError(f"images of {h}x{w} cannot be halved {times} times")
    return h >> times, w >> times
