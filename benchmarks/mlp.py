"""A training step of the 784-256-128-10 ReLU network: forward, loss, backward, SGD update."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.timing import Comparison, compare
from section1.losses import SoftmaxCrossEntropy
from section1.mlp import MLP
from section1.parallel import Workers, one_blas_thread
from section1.sgd import SGD
from section1.training import TrainingStep

SIZES = [784, 256, 128, 10]


def numpy_step(x: np.ndarray, y: np.ndarray, workers: Workers) -> Callable[[], float]:
    model = MLP(SIZES, rng=np.random.default_rng(0))
    step = TrainingStep(model, SoftmaxCrossEntropy(), SGD(model.parameters(), lr=0.1), workers)
    return lambda: step(x, y)[0]


def torch_step(x: np.ndarray, y: np.ndarray) -> Callable[[], float]:
    layers: list[torch.nn.Module] = []
    for inputs, outputs in zip(SIZES, SIZES[1:]):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    loss = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs_, targets = torch.from_numpy(x), torch.from_numpy(y)

    def step() -> float:
        optimizer.zero_grad()
        value = loss(model(inputs_), targets)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def run(threads: int) -> dict[str, Comparison]:
    """Compare at batch 64 and 256, on `threads` threads on either side."""
    rng = np.random.default_rng(0)
    table = {}
    torch.set_num_threads(threads)
    with Workers(threads) as workers, one_blas_thread():
        for batch in (64, 256):
            x = rng.random((batch, SIZES[0]), dtype=np.float32)
            y = rng.integers(0, SIZES[-1], batch)
            table[f"batch {batch}"] = compare(numpy_step(x, y, workers), torch_step(x, y))
    return table
