"""What generator and discriminator play for: four games, each a loss for either side.

The discriminator gives a score to every sample, real or generated; the generator wants high ones.
In the first game of 2014 the score is a logit and the discriminator minimises cross-entropy. Played
to the letter, the generator's loss log(1 - s), with the sigmoid s, is flat where the discriminator
is sure, and the generator learns nothing; the games here differ in what they put in its place.
Derivations: report.tex, eq:optimal-discriminator, eq:jensen-shannon,
eq:gan-generator, eq:least-squares-gan, eq:wasserstein, eq:wgan-gp, eq:hinge-gan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

Score = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Game:
    """Two losses to be made small, each a mean over scores (N,).

    discriminator: (scores of real samples, scores of generated ones) -> loss.
    generator: scores of generated samples -> loss.
    penalty: the weight of `gradient_penalty` in the discriminator's loss.
    """

    discriminator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    generator: Callable[[torch.Tensor], torch.Tensor]
    penalty: float = 0.0


def non_saturating() -> Game:
    """D: -log s(real) - log(1 - s(fake)), with the sigmoid s;  G: -log s(fake).

    -log s(x) = softplus(-x). The generator's loss is not the negative of the discriminator's,
    log(1 - s(fake)), which is flat where the discriminator is sure.
    Source: Goodfellow et al., Generative adversarial networks, arXiv:1406.2661.
    """
    return Game(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda fake: F.softplus(-fake).mean(),
    )


def least_squares() -> Game:
    """D: ((real - 1)^2 + fake^2) / 2;  G: (fake - 1)^2 / 2.

    Samples that already pass for real, but lie far from the data, are still pulled to it.
    Source: Mao et al., Least squares generative adversarial networks, arXiv:1611.04076.
    """
    return Game(
        lambda real, fake: ((real - 1).square().mean() + fake.square().mean()) / 2,
        lambda fake: (fake - 1).square().mean() / 2,
    )


def wasserstein(penalty: float = 10.0) -> Game:
    """D: fake - real + penalty (|slope| - 1)^2;  G: -fake. With penalty 10 it is WGAN-GP.

    If no slope of D is above 1, real - fake is at most the earth mover's distance between data
    and samples, and at best as large: it says how far away they are also where they do not meet.
    Sources: Arjovsky, Chintala, Bottou, Wasserstein GAN, arXiv:1701.07875; Gulrajani et al.,
    Improved training of Wasserstein GANs, arXiv:1704.00028.
    """
    return Game(lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean(), penalty)


def hinge() -> Game:
    """D: max(0, 1 - real) + max(0, 1 + fake);  G: -fake.

    What is on the right side by a margin of 1 teaches the discriminator nothing more.
    Source: Lim, Ye, Geometric GAN, arXiv:1705.02894.
    """
    return Game(
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        lambda fake: -fake.mean(),
    )


def gradient_penalty(
    discriminator: nn.Module | Score,
    real: torch.Tensor,
    fake: torch.Tensor,
    share: torch.Tensor,
) -> torch.Tensor:
    """The mean of (|dD(x)/dx| - 1)^2 at points x = share real + (1 - share) fake.

    Shapes: real and fake (N, ...), share (N,) in [0, 1]. The slope of this number along the
    weights of D goes through a slope, so `create_graph`. D must not use batch norm: then D(x)
    would depend on other rows than x.
    Source: Gulrajani et al., arXiv:1704.00028, section 4.
    """
    share = share.reshape(-1, *[1] * (real.ndim - 1))  # (N,) -> (N, 1, ...)
    x = torch.lerp(fake.detach(), real, share).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()
