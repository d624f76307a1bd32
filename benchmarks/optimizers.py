"""An optimizer's step over 1 and 10 million float32 parameters in eight tensors."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.timing import Comparison, compare
from section1.parallel import Workers
from section1.parameter import Parameter
from section1.sgd import Optimizer
from section2.optimizers import SGD, Adam, AdamW, Momentum, RMSprop

LR = 1e-3
TENSORS = 8
RULES: dict[str, tuple[type[Optimizer], Any, dict]] = {
    "SGD": (SGD, torch.optim.SGD, {}),
    "Momentum": (Momentum, torch.optim.SGD, {"momentum": 0.9}),
    "RMSprop": (RMSprop, torch.optim.RMSprop, {}),
    "Adam": (Adam, torch.optim.Adam, {}),
    "AdamW": (AdamW, torch.optim.AdamW, {}),
}
FUSED = ("SGD", "Momentum", "Adam", "AdamW")  # RMSprop has no fused form in PyTorch


def parameters(millions: int) -> tuple[list[Parameter], list[torch.Tensor]]:
    rng = np.random.default_rng(0)
    ours, theirs = [], []
    for _ in range(TENSORS):
        value, grad = rng.standard_normal((2, millions * 1000, 1000 // TENSORS), np.float32)
        ours.append(Parameter(value))
        ours[-1].grad = grad
        theirs.append(torch.tensor(value, requires_grad=True))
        theirs[-1].grad = torch.tensor(grad)
    return ours, theirs


def run(threads: int) -> dict[str, Comparison]:
    """Compare with PyTorch's default and with `fused=True`, on `threads` threads."""
    torch.set_num_threads(threads)
    table = {}
    with Workers(threads) as workers:
        for millions in (1, 10):
            ours, theirs = parameters(millions)
            for name, (rule, twin, options) in RULES.items():
                optimizer = rule(ours, LR)
                for fused in (False, True) if name in FUSED else (False,):
                    extra = {"fused": True} if fused else {}
                    reference = twin(theirs, lr=LR, **options, **extra)
                    ours_step = partial(optimizer.step, workers)
                    case = f"{name} {millions} M{' fused' * fused}"
                    table[case] = compare(ours_step, reference.step, rounds=15)
    return table
