"""A training step of a CNN on images of 28x28: forward, loss, backward, SGD update.

Small: convolutions 1-8 and 8-16, then a linear layer. Large: 1-32 and 32-64, then 128 units.
PyTorch has the same layers in the same order, in the faster of its two memory formats; or,
"as usual", with ReLU before the pool, as networks are mostly written.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.timing import Comparison, compare
from section1.losses import SoftmaxCrossEntropy
from section1.parallel import Workers, one_blas_thread
from section1.sgd import SGD
from section1.training import TrainingStep
from section3.fused import fused
from section3.models import mnist_cnn
from utils.experiments import machine
from utils.experiments.registry import ROOT

NETS = {"small": ((8, 16), 0), "large": ((32, 64), 128)}
BATCHES = (64, 256)
STEPS = 10  # for the peak of memory

Step = Callable[[], float]


def batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((size, 28, 28, 1), dtype=np.float32), rng.integers(0, 10, size)


def gflop(net: str, size: int) -> float:
    """Of a step: a product for forward, one for dW, and one for dx but in the first layer."""
    (a, b), hidden = NETS[net]
    first, second = 784 * 9 * a, 196 * 9 * a * b
    linear = 49 * b * hidden + hidden * 10 if hidden else 49 * b * 10
    return 2 * size * (2 * first + 3 * second + 3 * linear) / 1e9


def numpy_step(net: str, size: int, workers: Workers) -> Step:
    filters, hidden = NETS[net]
    model = mnist_cnn(filters, hidden, rng=np.random.default_rng(0))
    optimizer = SGD(model.parameters(), lr=0.01)
    step = TrainingStep(fused(model), SoftmaxCrossEntropy(), optimizer, workers)
    x, y = batch(size)
    return lambda: step(x, y)[0]


def torch_step(net: str, size: int, channels_last: bool, relu_first: bool = False) -> Step:
    import torch
    from torch import nn

    (a, b), hidden = NETS[net]
    layers: list[nn.Module] = []
    for channels, filters in ((1, a), (a, b)):
        pool = [nn.ReLU(), nn.MaxPool2d(2)] if relu_first else [nn.MaxPool2d(2), nn.ReLU()]
        layers += [nn.Conv2d(channels, filters, 3, padding=1), *pool]
    layers.append(nn.Flatten())
    if hidden:
        layers += [nn.Linear(49 * b, hidden), nn.ReLU(), nn.Linear(hidden, 10)]
    else:
        layers.append(nn.Linear(49 * b, 10))
    model = nn.Sequential(*layers)
    images, classes = batch(size)
    x, y = torch.tensor(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(classes)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.to(memory_format=torch.channels_last)
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> float:
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def run(threads: int) -> dict[str, Comparison]:
    """Compare on `threads` threads; of PyTorch's two memory formats the faster one counts."""
    import torch

    torch.set_num_threads(threads)
    table = {}
    with Workers(threads) as workers, one_blas_thread():
        for net in NETS:
            for size in BATCHES:
                ours = numpy_step(net, size, workers)
                for name, relu_first in (("", False), (", as usual", True)):
                    formats = [torch_step(net, size, last, relu_first) for last in (False, True)]
                    results = [compare(ours, theirs, rounds=15) for theirs in formats]
                    best = max(results, key=lambda result: result.ratio)
                    table[f"{net}, batch {size}{name}"] = replace(best, gflop=gflop(net, size))
    return table


def memory(threads: int) -> dict[str, tuple[float, float]]:
    """Megabytes by which the peak of a process grows in ten steps, ours and PyTorch's.

    Each is a process of its own that has loaded its library and made a step of 8 images; of
    PyTorch's two memory formats the one with the lower peak counts.
    """
    table = {}
    for net in NETS:
        for size in BATCHES:
            sides = "numpy", "torch", "torch-channels-last"
            ours, *theirs = (peak_growth(side, net, size, threads) for side in sides)
            table[f"{net}, batch {size}"] = ours, min(theirs)
    return table


def peak_growth(side: str, net: str, size: int, threads: int) -> float:
    command = [sys.executable, "-m", "benchmarks.cnn", side, net, str(size), str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return float(done.stdout)


def main() -> None:
    """What `peak_growth` starts: one side alone, which prints megabytes."""
    side, net, size, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

    def make(images: int, workers: Workers) -> Step:
        if side == "numpy":
            return numpy_step(net, images, workers)
        return torch_step(net, images, side == "torch-channels-last")

    if side != "numpy":
        import torch

        torch.set_num_threads(threads)
    with Workers(threads) as workers, one_blas_thread():
        make(8, workers)()
        step = make(size, workers)
        machine.reset_peak_memory()
        before = machine.peak_memory_mb() or 0
        for _ in range(STEPS):
            step()
    print((machine.peak_memory_mb() or 0) - before)


if __name__ == "__main__":
    main()
