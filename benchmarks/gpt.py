"""A training step of a small GPT on characters: 4 layers, 4 heads, 128 wide, 64 tokens, batch 12.

Forward, loss, backward, the gradient's norm clipped, AdamW: nanoGPT's setting for a CPU. PyTorch
takes its exact GELU, which is the faster one there, and ours the approximation by tanh, which is
the faster one here; the last row has that one on both sides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks.timing import Comparison, compare
from section1.losses import SoftmaxCrossEntropy
from section1.parallel import Workers, one_blas_thread
from section1.training import TrainingStep
from section2.optimizers import AdamW, clip_gradient_norm
from section4.transformers.gpt import GPTConfig, NumpyGPT
from section4.transformers.torch_gpt import TorchGPT

CONFIG = GPTConfig(vocabulary=65, context=64)
BATCHES = (4, 12, 32)
LR, BETAS, DECAY = 1e-3, (0.9, 0.99), 0.1


def numpy_step(x: np.ndarray, y: np.ndarray, workers: Workers) -> Callable[[], float]:
    model = NumpyGPT(CONFIG, rng=np.random.default_rng(0))
    parameters = model.parameters()
    step = TrainingStep(
        model,
        SoftmaxCrossEntropy(),
        AdamW(parameters, LR, BETAS, weight_decay=DECAY),
        workers,
        on_gradients=lambda: clip_gradient_norm(parameters, 1.0),
    )
    return lambda: step(x, y)[0]


def torch_step(x: np.ndarray, y: np.ndarray, gelu: str = "none") -> Callable[[], float]:
    model = TorchGPT(CONFIG)
    for module in model.modules():
        if isinstance(module, nn.GELU):
            module.approximate = gelu
    optimizer = torch.optim.AdamW(model.parameters(), LR, BETAS, weight_decay=DECAY)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def run(threads: int) -> dict[str, Comparison]:
    """Compare at several batch sizes, on `threads` threads on either side."""
    rng = np.random.default_rng(0)
    table = {}
    torch.set_num_threads(threads)
    with Workers(threads) as workers, one_blas_thread():
        for batch in BATCHES:
            x, y = rng.integers(CONFIG.vocabulary, size=(2, batch, CONFIG.context))
            table[f"batch {batch}"] = compare(numpy_step(x, y, workers), torch_step(x, y))
        x, y = x[:12], y[:12]
        table["batch 12, tanh"] = compare(numpy_step(x, y, workers), torch_step(x, y, "tanh"))
    return table
