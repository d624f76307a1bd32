"""Architectures before any training: what a unit of them sees, and what it uses of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from section1.activations import ReLU
from section1.experiments._training import mean_std
from section1.network import Sequential
from section3.batchnorm import BatchNorm2D
from section3.conv import Conv2D
from section3.models import lenet5, mnist_cnn, numpy_resnet
from section3.receptive_field import effective_receptive_field, receptive_fields, side
from utils.experiments.run import Run

NOISE = 48  # pixels across of the images; no field reaches their edge
WIDTH = 8  # filters of the stacks


def stack(depth: int, rng: np.random.Generator, grow: int = 1, padding: Any = "same") -> Sequential:
    """3x3 convolutions, each with a ReLU; the dilation of each is `grow` times the last one's."""
    layers: list = []
    for k in range(depth):
        options: dict[str, Any] = {"dilation": grow**k, "padding": padding, "rng": rng}
        layers += [Conv2D(WIDTH if k else 1, WIDTH, 3, **options), ReLU()]
    return Sequential(*layers)


def resnet(rng: np.random.Generator, gamma: float) -> Sequential:
    """ResNet-8, with blocks that begin as their shortcuts (gamma = 0, as is usual) or at work."""
    model = numpy_resnet((8, 16, 32), channels=1, rng=rng)
    for layer in model.modules():
        if isinstance(layer, BatchNorm2D):
            layer.gamma.value[layer.gamma.value == 0] = gamma
    return model


PLAIN = "12 plain 3x3"
ARCHITECTURES: dict[str, Callable[[np.random.Generator], Sequential]] = {
    "LeNet-5": lambda rng: lenet5(rng=rng),
    "mnist_cnn": lambda rng: mnist_cnn((8, 16), 0, rng=rng),
    "VGG-style": lambda rng: mnist_cnn((8, 16, 16), 0, convolutions=2, rng=rng),
    PLAIN: lambda rng: stack(12, rng),
    "4 dilated 3x3": lambda rng: stack(4, rng, grow=2),
    "ResNet-8, γ = 0": lambda rng: resnet(rng, 0),
    "ResNet-8, γ = 1": lambda rng: resnet(rng, 1),
    "one 25x25": lambda rng: Sequential(Conv2D(1, WIDTH, 25, padding="same", rng=rng)),
}


def untrained(make: Callable, run: Run) -> tuple[list[list], np.ndarray, tuple[int, ...]]:
    """What an architecture sees and uses, at a unit near the middle of images of noise.

    For each layer that widens the field [number, sees, uses, std]; and for the last one the map
    (H, W), a mean over seeds, and the box by theory.
    """
    models = [make(run.rng(seed)) for seed in range(run.budget.seeds)]
    rows: list[list] = []
    size, box, maps = 1, (0, 0, 0, 0), [np.ones((1, 1))]
    for k, field in enumerate(receptive_fields(models[0])):
        if field.size[0] == size:
            continue
        size = field.size[0]
        unit = round((NOISE / 2 - field.start[0] - size / 2) / field.jump[0])
        box, maps = field.box(unit, unit), []
        for seed, model in enumerate(models):
            rng = run.rng(seed, k)
            noise = rng.standard_normal((4, NOISE, NOISE, 1), dtype=np.float32)
            part = Sequential(*model.layers[: k + 1])
            maps.append(effective_receptive_field(part, noise, rng=rng, unit=(unit, unit)))
        rows.append([len(rows) + 1, size, *mean_std(map(side, maps))])
    return rows, np.mean(maps, axis=0), box
