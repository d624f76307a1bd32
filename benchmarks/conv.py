"""Single convolutions, forward and backward (dW, db and dx), float32, 16 or 64 images.

A case is the size of the image, channels-filters, the kernel, and what else is not usual.
PyTorch runs in the faster of its two memory formats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.timing import Comparison, compare
from section1.parallel import Workers, one_blas_thread
from section1.row_parallel import row_parallel
from section1.training import micro_batches
from section3.conv import Conv2D


@dataclass(frozen=True)
class Case:
    images: int
    size: int
    channels: int
    filters: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1

    def __str__(self) -> str:
        text = (
            f"{self.images}x{self.size}x{self.size} {self.channels}-{self.filters} k{self.kernel}"
        )
        text += f" s{self.stride}" if self.stride != 1 else ""
        return text + (f" g{self.groups}" if self.groups != 1 else "")

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def gflop(self) -> float:
        """Forward, dW and dx: the same number of multiplications each."""
        places = self.images * (-(-self.size // self.stride)) ** 2
        each = self.kernel**2 * self.channels // self.groups * self.filters
        return 3 * 2 * places * each / 1e9


CASES = [
    Case(64, 28, 1, 8),
    Case(64, 28, 1, 32),
    Case(64, 14, 8, 16),
    Case(64, 14, 32, 64),
    Case(64, 32, 3, 32),
    Case(64, 32, 3, 32, kernel=7),
    Case(64, 32, 16, 16),
    Case(64, 16, 32, 64),
    Case(64, 16, 64, 64),
    Case(64, 8, 128, 128),
    Case(64, 16, 64, 128, stride=2),
    Case(64, 16, 64, 128, kernel=1),
    Case(16, 56, 64, 64),
    Case(64, 12, 6, 16, kernel=5),
    Case(64, 16, 64, 64, groups=4),
]


def numpy_pass(case: Case, workers: Workers) -> Callable[[], tuple]:
    rng = np.random.default_rng(0)
    layer = Conv2D(
        case.channels, case.filters, case.kernel, stride=case.stride,
        padding=case.padding, groups=case.groups, rng=rng,
    )  # fmt: skip
    quarter = case.images // 4  # cut alike for any number of threads, as in `fit`
    parallel = row_parallel(layer.replica(), workers, lambda n: micro_batches(n, quarter))
    x = rng.standard_normal((case.images, case.size, case.size, case.channels), np.float32)
    dy = rng.standard_normal(parallel.forward(x).shape, np.float32)

    def both() -> tuple:
        parallel.zero_grad()
        return parallel.forward(x), parallel.backward(dy), parallel.parameters()[0].grad

    return both


def torch_pass(case: Case, channels_last: bool) -> Callable[[], tuple]:
    layer = torch.nn.Conv2d(
        case.channels, case.filters, case.kernel, stride=case.stride,
        padding=case.padding, groups=case.groups,
    )  # fmt: skip
    memory = torch.channels_last if channels_last else torch.contiguous_format
    layer = layer.to(memory_format=memory)  # type: ignore[call-overload]
    x = torch.randn(case.images, case.channels, case.size, case.size).to(memory_format=memory)
    x.requires_grad_()
    dy = torch.randn_like(layer(x))

    def both() -> tuple:
        layer.zero_grad()
        x.grad = None
        y = layer(x)
        y.backward(dy)
        return y, x.grad, layer.weight.grad

    return both


def run(threads: int) -> dict[str, Comparison]:
    """Compare on `threads` threads; of PyTorch's two memory formats the faster one counts."""
    torch.set_num_threads(threads)
    table = {}
    with Workers(threads) as workers, one_blas_thread():
        for case in CASES:
            ours = numpy_pass(case, workers)
            formats = [torch_pass(case, last) for last in (False, True)]
            results = [compare(ours, theirs, rounds=9) for theirs in formats]
            best = max(results, key=lambda result: result.ratio)
            table[str(case)] = replace(best, gflop=case.gflop)
    return table
