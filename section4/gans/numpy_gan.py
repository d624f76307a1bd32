"""A generative adversarial network in NumPy: two networks of the course against each other.

The generator G turns noise z into samples, the discriminator D gives a sample the logit of being
real. D is a classifier like any other: real samples are of class 1, generated ones of class 0.
What is new is G's gradient: G is trained to have its samples classified as real, so the chain
rule runs from D's loss back through all of D, down to its input, which is G's output:

    dx = D.backward(dL/dD(x))    and then    G.backward(dx)

On the way D's own parameters get gradients, too; they belong to no step and are thrown away.

Source: Goodfellow et al., Generative adversarial networks, arXiv:1406.2661.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from section1 import checkpoint
from section1.activations import LeakyReLU, ReLU, Tanh
from section1.layer import Layer
from section1.linear import Linear
from section1.losses import BinaryCrossEntropy
from section1.mlp import MLP
from section1.network import Sequential
from section1.parallel import Workers, one_blas_thread
from section1.row_parallel import row_parallel
from section1.sgd import Optimizer
from section1.training import micro_batches, rows_at_once
from section2.models import fully_connected_net
from section2.optimizers import clip_gradient_norm
from section2.schedules import Schedule
from section3.batchnorm import BatchNorm2D
from section3.conv import Conv2D
from section3.conv_transpose import ConvTranspose2D
from section3.flatten import Flatten, Unflatten
from section3.models import Shape, halved

Network = TypeVar("Network")
Measure = Callable[[Network], dict[str, float]]  # of a generator

LIMIT = 1e6  # no loss of a sound training comes near it
SLOPE = 0.2  # of LeakyReLU below zero


@dataclass
class History:
    """What a training saw: numbers per step of either side, and per epoch.

    `gradient_norm` is the length of the discriminator's gradient, `seconds` the time from the
    start to the end of each epoch, `measured` what was measured of the generator after it.
    """

    generator_loss: list[float] = field(default_factory=list)
    discriminator_loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    measured: list[dict[str, float]] = field(default_factory=list)

    def add(self, name: str, number: float) -> None:
        """One more number. Raises FloatingPointError where it shows that training has failed."""
        series = getattr(self, name)
        if not abs(number) <= LIMIT:
            what = "is no finite number" if not math.isfinite(number) else f"is {number:.3g}"
            raise FloatingPointError(
                f"the training diverged: the {name.replace('_', ' ')} {what} in epoch "
                f"{len(self.seconds) + 1}, step {len(series) + 1}: try a smaller learning rate, "
                "or go on from the last checkpoint with one"
            )
        series.append(number)


# --- networks -------------------------------------------------------------------------------


def mlp_generator(
    noise: int,
    features: int,
    hidden: Sequence[int] = (128, 128),
    *,
    batchnorm: bool = False,
    bounded: bool = True,
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> Sequential:
    """Noise (N, Z) -> samples (N, features), in (-1, 1) if `bounded`."""
    sizes = [noise, *hidden, features]
    network = fully_connected_net(sizes, "relu", batchnorm=batchnorm, rng=rng, dtype=dtype)
    return Sequential(*network.layers, Tanh()) if bounded else network


def mlp_discriminator(
    features: int,
    hidden: Sequence[int] = (128, 128),
    *,
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> Sequential:
    """Samples (N, features) -> logits (N, 1)."""
    return MLP([features, *hidden, 1], LeakyReLU(SLOPE), rng=rng, dtype=dtype)


def conv_generator(
    noise: int,
    shape: Shape = (28, 28, 1),
    widths: Sequence[int] = (64, 32),
    *,
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> Sequential:
    """Noise (N, Z) -> images (N, H, W, C) in (-1, 1), twice as large for each of `widths`.

    Raises ValueError for an image that cannot be halved so often without a rest.
    Source: Radford, Metz, Chintala, Unsupervised representation learning with deep convolutional
    generative adversarial networks, arXiv:1511.06434.
    """
    small = *whole_halves(shape, len(widths)), widths[0]
    layers: list[Layer] = [
        Linear(noise, math.prod(small), bias=False, rng=rng, dtype=dtype),
        Unflatten(small),
    ]
    double = partial(ConvTranspose2D, kernel=4, stride=2, padding=1, rng=rng, dtype=dtype)
    for number, (before, after) in enumerate(zip(widths, [*widths[1:], shape[2]]), 1):
        last = number == len(widths)  # before batch norm a bias would be taken out again
        layers += [BatchNorm2D(before, dtype=dtype), ReLU(), double(before, after, bias=last)]
    return Sequential(*layers, Tanh())


def conv_discriminator(
    shape: Shape = (28, 28, 1),
    widths: Sequence[int] = (32, 64),
    *,
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> Sequential:
    """Images (N, H, W, C) -> logits (N, 1), half as large for each of `widths`; no batch norm.

    Raises ValueError for an image that cannot be halved so often without a rest.
    """
    h, w = whole_halves(shape, len(widths))
    layers: list[Layer] = []
    for before, after in zip([shape[2], *widths], widths):
        layers += [
            Conv2D(before, after, 4, stride=2, padding=1, rng=rng, dtype=dtype),
            LeakyReLU(SLOPE),
        ]
    return Sequential(*layers, Flatten(), Linear(h * w * widths[-1], 1, rng=rng, dtype=dtype))


def whole_halves(shape: Shape, times: int) -> tuple[int, int]:
    h, w = halved(shape, times)
    if (h << times, w << times) != shape[:2]:
        raise ValueError(f"images of {shape[0]}x{shape[1]} cannot be halved {times} times evenly")
    return h, w


# --- training -------------------------------------------------------------------------------


class AdversarialStep:
    """One step of each network on a batch.

    Both are non-saturating: D minimises the mean of -log s(D(x)) over real samples and of
    -log(1 - s(D(x))) over as many generated ones, with the sigmoid s, and G minimises
    -log s(D(G(z))). D works as two replicas: one learns, and reads no slope along its input; the
    other passes the slope on to G, and its own gradients are never read.
    """

    def __init__(
        self,
        generator: Layer,
        discriminator: Layer,
        optimizers: tuple[Optimizer, Optimizer],
        workers: Workers,
    ):
        self.optimizers, self.workers = optimizers, workers
        self.parameters = discriminator.parameters()
        self.generator = self._replica(generator, learns=True)
        self.discriminator = self._replica(discriminator, learns=True)
        self.judge = self._replica(discriminator, learns=False)
        self.loss = BinaryCrossEntropy()

    def discriminate(self, x: np.ndarray, z: np.ndarray) -> tuple[float, float]:
        """(loss, length of its gradient) of D, for real x (N, ...) and noise z (N, Z)."""
        both = np.concatenate([x, self.generator.forward(z)])  # (2 N, ...)
        real = np.repeat([1, 0], [len(x), len(z)])
        for parameter in self.parameters:
            parameter.zero_grad()
        loss = self.loss.forward(self.discriminator.forward(both), real)
        self.discriminator.backward(self.loss.backward())
        length = clip_gradient_norm(self.parameters, math.inf)
        self.optimizers[1].step(self.workers)
        return loss, length

    def generate(self, z: np.ndarray) -> float:
        """The loss of G, for noise z (N, Z)."""
        self.generator.zero_grad()
        self.judge.zero_grad()
        logits = self.judge.forward(self.generator.forward(z))  # (N, 1)
        loss = self.loss.forward(logits, np.ones(len(z)))
        slope = self.judge.backward(self.loss.backward())
        assert slope is not None
        self.generator.backward(slope)
        self.optimizers[0].step(self.workers)
        return loss

    def _replica(self, network: Layer, learns: bool) -> Layer:
        replica = network.replica(share_gradients=learns)
        replica.train()
        if learns:
            replica.skip_input_gradient()
        at_once = rows_at_once(network)
        return row_parallel(replica, self.workers, lambda rows: micro_batches(rows, at_once))


def fit(
    generator: Layer,
    discriminator: Layer,
    optimizers: tuple[Optimizer, Optimizer],
    data: Callable[[np.random.Generator], Iterable[np.ndarray]],
    *,
    noise: int,
    epochs: int,
    rng: np.random.Generator,
    schedule: Schedule | None = None,
    threads: int | None = None,
    measure: Measure[Layer] | None = None,
    on_epoch: Callable[[History], object] | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    on_resume: Callable[[int], object] | None = None,
) -> History:
    """Train both networks in turns, a step each on every batch, and return what was seen.

    Args:
        optimizers: of the generator's parameters and of the discriminator's.
        data: takes `rng` and yields the batches x (N, ...) of one epoch.
        noise: Z; the noise of every step is normal, (N, Z), drawn from `rng`.
        schedule: the learning rate of both as a function of the step, from 0.
        threads: how many to use; all cores by default. They change no number.
        measure: gives named numbers of the generator, after every epoch.
        checkpoints: a folder for `last.npz`, after every epoch.
        resume: go on from `last.npz` where there is one.
        on_resume: called with the number of epochs that then lie behind this run.

    Raises ValueError for a checkpoint that does not fit, and FloatingPointError when a loss is no
    finite number or beyond all bounds; the checkpoint is then that of the last epoch that went
    well.
    """
    last = checkpoints / "last.npz" if checkpoints is not None else None
    both, turns = Sequential(generator, discriminator), _Turns(*optimizers)
    history = History()
    if last is not None and resume and last.exists():
        history = History(**checkpoint.load(last, both, turns, rng))  # type: ignore[arg-type]
        turns.restore_steps()
        if on_resume is not None:
            on_resume(len(history.seconds))
    dtype = generator.parameters()[0].value.dtype
    start = time.perf_counter() - sum(history.seconds[-1:])
    with Workers(threads) as workers, one_blas_thread():
        step = AdversarialStep(generator, discriminator, optimizers, workers)
        for _ in range(len(history.seconds), epochs):
            for x in data(rng):
                if schedule is not None:
                    for optimizer in optimizers:
                        optimizer.lr = float(schedule(optimizer.steps))
                first, second = rng.standard_normal((2, len(x), noise)).astype(dtype)
                loss, length = step.discriminate(x, first)
                history.add("discriminator_loss", loss)
                history.add("gradient_norm", length)
                history.add("generator_loss", step.generate(second))
            history.seconds.append(time.perf_counter() - start)
            if measure is not None:
                history.measured.append(measure(generator))
            if last is not None:
                turns.steps = optimizers[0].steps
                checkpoint.save(last, both, turns, rng, vars(history))
            if on_epoch is not None:
                on_epoch(history)
    return history


class _Turns(Optimizer):
    """Their optimizers as one, to be kept in one checkpoint. Both take as many steps."""

    def __init__(self, *optimizers: Optimizer):
        super().__init__([p for o in optimizers for p in o.parameters], optimizers[0].lr)
        self.optimizers = optimizers
        self.state = [kind for optimizer in optimizers for kind in optimizer.state]

    def restore_steps(self) -> None:
        for optimizer in self.optimizers:
            optimizer.steps = self.steps
