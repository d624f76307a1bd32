"""Fair timing on a noisy machine: both sides in turns, many times, and the median."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from section1.parallel import Workers, one_blas_thread


@dataclass
class Comparison:
    """Milliseconds a call, and their ratio: below 1 this code is the faster one.

    `low` and `high` are the quartiles of the ratio over the rounds; `gflop` is the work of a
    call in 10^9 additions and multiplications of its matrix products, where that is known.
    """

    ours_ms: float
    torch_ms: float
    ratio: float
    low: float
    high: float
    gflop: float | None = None

    @property
    def gflop_per_second(self) -> float:
        return self.gflop / self.ours_ms * 1e3 if self.gflop else float("nan")


def milliseconds(function: Callable[[], object], calls: int) -> float:
    """The time of one call, after a pause in which the threads of the other side, which stay
    awake for a few milliseconds to be ready for more work, have gone to sleep."""
    time.sleep(0.02)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls * 1e3


def compare(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    rounds: int = 31,
    budget_ms: float = 40,
) -> Comparison:
    """Time two functions in alternating blocks of about `budget_ms` milliseconds each.

    The ratio is the median over the rounds of the ratio within a round, so that what slows
    the machine for a while slows both sides alike.
    """
    functions = (ours, theirs)
    calls = []
    for function in functions:
        milliseconds(function, 5)  # warm up caches, threads and allocators
        calls.append(max(1, round(budget_ms / milliseconds(function, 5))))
    times = np.empty((rounds, 2))
    for k in range(rounds):
        for side in ((0, 1), (1, 0))[k % 2]:
            times[k, side] = milliseconds(functions[side], calls[side])
    low, ratio, high = np.percentile(times[:, 0] / times[:, 1], (25, 50, 75))
    ours_ms, torch_ms = np.median(times, axis=0)
    return Comparison(float(ours_ms), float(torch_ms), float(ratio), float(low), float(high))


def gemm_peak(threads: int, size: int = 1024) -> float:
    """10^9 operations a second in the largest products of float32 matrices, on some threads."""
    rng = np.random.default_rng(0)
    pairs = rng.random((threads, 2, size, size), np.float32)
    with Workers(threads) as workers, one_blas_thread():
        times = [milliseconds(lambda: workers.map(np.matmul, *zip(*pairs)), 1) for _ in range(15)]
    return threads * 2 * size**3 / np.median(times[5:]) / 1e6
