"""The engine's choice against every setting that it could have chosen, for a training step.

"ours" is the setting that `engine.choose` took on this device, "torch" the one that the case
names, each in milliseconds an image: the ratio in the plain row, float32, is what choosing is
worth, and the highest ratio is what it misses, above 1 where another setting was faster after
all. Settings take turns; each model starts from the same weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks.timing import Comparison
from section4.engine import (
    Setting,
    choose,
    cross_entropy,
    find_device,
    seconds,
    settings,
    training_step,
)
from section4.vision.resnet import resnet18, thin_resnet

CASES: list[tuple[str, Callable[[], nn.Module], int]] = [  # network, and images in a batch
    ("resnet18", resnet18, 32),
    ("resnet18", resnet18, 128),
    ("thin56", lambda: thin_resnet(56), 32),
]
ROUNDS = 5


def run(threads: int) -> dict[str, Comparison]:
    """Compare on `threads` threads of a CPU, or on the GPU where there is one."""
    torch.set_num_threads(threads)
    device, _ = find_device()
    table = {}
    for name, make, images in CASES:
        chosen, times = measure(make(), images, settings(device))
        for setting in times:
            mark = ", chosen" * (setting == chosen)
            table[f"{name} batch {images} {short(setting)}{mark}"] = against(
                times[chosen], times[setting]
            )
    return table


def measure(
    model: nn.Module, images: int, choices: list[Setting]
) -> tuple[Setting, dict[Setting, np.ndarray]]:
    """The engine's choice, and for every setting the milliseconds an image, in ROUNDS rounds."""
    batch = torch.randn(images, 3, 32, 32), torch.arange(images) % 10
    objective = cross_entropy()
    chosen, _ = choose(model, batch, objective, choices)
    steps = {choice: training_step(model, batch, objective, choice) for choice in choices}
    for step in steps.values():
        step()
    times = np.empty((ROUNDS, len(choices)))
    for k in range(ROUNDS):
        order = range(len(choices)) if k % 2 else reversed(range(len(choices)))
        for place in order:
            times[k, place] = seconds(steps[choices[place]], choices[place].device)
    return chosen, dict(zip(choices, 1e3 / images * times.T))


def against(ours: np.ndarray, theirs: np.ndarray) -> Comparison:
    """The ratio is the median over rounds, so that what slows a round slows both sides."""
    low, ratio, high = np.percentile(ours / theirs, (25, 50, 75))
    ms = np.median([ours, theirs], axis=1)
    return Comparison(float(ms[0]), float(ms[1]), float(ratio), float(low), float(high))


def short(setting: Setting) -> str:
    """ "bfloat16 NHWC": the precision and the order of memory."""
    return f"{str(setting.dtype)[6:]} {'NHWC' if setting.channels_last else 'NCHW'}"
