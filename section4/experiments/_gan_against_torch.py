"""The NumPy GAN held against PyTorch: the gradients of both networks, and the time of a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from section1.activations import LeakyReLU, ReLU, Tanh
from section1.linear import Linear
from section1.network import Sequential
from section1.parallel import Workers
from section1.sgd import SGD
from section2.batchnorm import BatchNorm1D
from section2.optimizers import Adam
from section4.experiments._engine import seeded
from section4.gans import models, numpy_gan
from section4.gans.numpy_gan import AdversarialStep, mlp_discriminator, mlp_generator

STEPS = 10  # that are timed at a time
ROUNDS = 4


def as_torch(network: Sequential, x: torch.Tensor, rest: Iterator[torch.Tensor]) -> torch.Tensor:
    """What PyTorch makes of x (N, features), with the parameters of `network` from `rest`."""
    for layer in network.layers:
        match layer:
            case Sequential():
                x = as_torch(layer, x, rest)
            case Linear():
                x = x @ next(rest)
                x = x if layer.bias is None else x + next(rest)
            case BatchNorm1D():
                x = F.batch_norm(x, None, None, next(rest), next(rest), True, eps=layer.eps)
            case LeakyReLU():
                x = F.leaky_relu(x, layer.a)
            case ReLU():
                x = torch.relu(x)
            case Tanh():
                x = torch.tanh(x)
            case _:
                raise TypeError(f"there is no twin of {type(layer).__name__}")
    return x


def gradient_error(rng: np.random.Generator) -> float:
    """The largest difference of any gradient of a small GAN from PyTorch's, over its largest.

    Both steps of the game, with batch norm in the generator, in float64.
    """
    n, noise, features = 6, 3, 5
    make: dict[str, Any] = {"rng": rng, "dtype": np.float64}
    generator = mlp_generator(noise, features, (8, 7), batchnorm=True, **make)
    discriminator = mlp_discriminator(features, (7, 6), **make)
    x, z, other = (rng.standard_normal((n, width)) for width in (features, noise, noise))
    still = SGD(generator.parameters(), 0.0), SGD(discriminator.parameters(), 0.0)
    with Workers(1) as workers:
        step = AdversarialStep(generator, discriminator, still, workers)
        step.discriminate(x, z)
        ours = [parameter.grad.copy() for parameter in discriminator.parameters()]
        step.generate(other)
        ours += [parameter.grad.copy() for parameter in generator.parameters()]

    g, d = (
        [torch.tensor(parameter.value, requires_grad=True) for parameter in network.parameters()]
        for network in (generator, discriminator)
    )
    fake = as_torch(generator, torch.tensor(z), iter(g)).detach()
    real = as_torch(discriminator, torch.cat([torch.tensor(x), fake]), iter(d))
    target = torch.tensor([[1.0]] * n + [[0.0]] * n, dtype=torch.float64)
    first = torch.autograd.grad(F.binary_cross_entropy_with_logits(real, target), d)
    judged = as_torch(discriminator, as_torch(generator, torch.tensor(other), iter(g)), iter(d))
    second = torch.autograd.grad(F.softplus(-judged).mean(), g)
    return max(
        float(np.abs(mine - its.numpy()).max() / its.abs().max())
        for mine, its in zip(ours, (*first, *second), strict=True)
    )


def step_seconds(
    batch: np.ndarray,
    hidden: tuple[tuple[int, ...], tuple[int, ...]],
    noise: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Seconds that a step of both networks takes on a batch (N, features): in NumPy, in PyTorch.

    The generator with batch norm and the widths hidden[0], the discriminator with hidden[1]. In
    PyTorch it is a plain loop, with all that makes it fast: like ours it takes real and generated
    samples through the discriminator in one pass, and it makes no gradient to be thrown away. The
    two take turns, some steps each, on one thread; the fastest turn of each counts.
    """
    features = batch.shape[1]
    ours = (
        mlp_generator(noise, features, hidden[0], batchnorm=True, rng=rng),
        mlp_discriminator(features, hidden[1], rng=rng),
    )
    adams = Adam(ours[0].parameters(), 2e-4), Adam(ours[1].parameters(), 2e-4)
    theirs: Any = seeded(
        int(rng.integers(2**63)),
        lambda: torch.nn.ModuleList([
            models.mlp_generator(noise, (features,), hidden[0], batchnorm=True),
            models.mlp_discriminator((features,), hidden[1]),
        ]),
    )  # fmt: skip
    fused: Any = tuple(torch.optim.Adam(side.parameters(), 2e-4, fused=True) for side in theirs)
    generator, discriminator = theirs
    x, n = torch.from_numpy(batch), len(batch)
    real, target = torch.ones(n), torch.tensor([1.0] * n + [0.0] * n)
    draw, entropy = torch.Generator(), F.binary_cross_entropy_with_logits

    def in_numpy() -> float:
        history = numpy_gan.fit(
            *ours, adams, lambda _: [batch] * STEPS, noise=noise, epochs=1, rng=rng,
            threads=1,
        )  # fmt: skip
        return history.seconds[-1] / STEPS

    def in_torch() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            with torch.no_grad():
                fake = generator(torch.randn(n, noise, generator=draw))
            first = entropy(discriminator(torch.cat([x, fake])), target)
            fused[1].zero_grad()
            first.backward()
            fused[1].step()
            discriminator.requires_grad_(False)
            fake = generator(torch.randn(n, noise, generator=draw))
            second = entropy(discriminator(fake), real)
            fused[0].zero_grad()
            second.backward()
            fused[0].step()
            discriminator.requires_grad_(True)
            first.item(), second.item()
        return (time.perf_counter() - start) / STEPS

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    times = [(in_numpy(), in_torch()) for _ in range(ROUNDS)]
    torch.set_num_threads(before)
    return min(first for first, _ in times), min(second for _, second in times)
