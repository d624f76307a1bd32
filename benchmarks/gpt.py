"""A training step of a GPT on characters, in the two settings of nanoGPT: for a CPU (4 layers,
4 heads, 128 wide, 64 tokens, batch 12) and for a GPU (6 layers, 6 heads, 384 wide, 256 tokens; here
without dropout, and few texts at a time).

Forward, loss, backward, the gradient's norm clipped, AdamW. PyTorch takes its exact GELU, which is
the faster one there, and ours the approximation by tanh, which is the faster one here; the row
"tanh" has that one on both sides.
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
LARGE = GPTConfig(vocabulary=65, context=256, layers=6, heads=6, width=384)
BATCHES = (4, 12, 32)
LARGE_BATCH, LARGE_ROUNDS = 4, 7
LR, BETAS, DECAY = 1e-3, (0.9, 0.99), 0.1


def numpy_step(
    x: np.ndarray, y: np.ndarray, workers: Workers, config: GPTConfig = CONFIG
) -> Callable[[], float]:
    model = NumpyGPT(config, rng=np.random.default_rng(0))
    parameters = model.parameters()
    step = TrainingStep(
        model,
        SoftmaxCrossEntropy(),
        AdamW(parameters, LR, BETAS, weight_decay=DECAY),
        workers,
        on_gradients=lambda: clip_gradient_norm(parameters, 1.0),
    )
    return lambda: step(x, y)[0]


def torch_step(
    x: np.ndarray, y: np.ndarray, gelu: str = "none", config: GPTConfig = CONFIG
) -> Callable[[], float]:
    model = TorchGPT(config)
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
        x, y = rng.integers(LARGE.vocabulary, size=(2, LARGE_BATCH, LARGE.context))
        sides = numpy_step(x, y, workers, LARGE), torch_step(x, y, config=LARGE)
        table[f"6 x 384, batch {LARGE_BATCH}"] = compare(*sides, rounds=LARGE_ROUNDS)
    return table
