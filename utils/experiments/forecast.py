"""How long a run will take here: the times of `config.py`, times how slow this machine is.

Those times were measured on one machine. A few rounds of what networks do most, timed there and
here, tell how the two compare.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

from utils.experiments import registry
from utils.experiments.registry import Experiment

REFERENCE = 2100.0  # rounds a second on the two cores (AMD Zen 5) of the times in config.py
THREADS = 2  # more of them would help the small networks of this course but little
SLICES, SLICE = 5, 0.08  # so many measurements of so many seconds


def expected_time(experiments: list[Experiment], mode: str, threads: int | None = None) -> str:
    """What to expect of these experiments, in one sentence."""
    factor = slowness(threads)
    seconds = factor * sum(experiment.expected_seconds(mode) for experiment in experiments)
    compared = f"{factor:.1f} times as long as stated in config.py" if factor >= 1 else (
        f"{1 / factor:.1f} times as fast as stated in config.py"
    )  # fmt: skip
    if any(experiment.section == 4 for experiment in experiments):
        compared += "; section 4: less on a GPU"
    duration = registry.duration(seconds)
    return f"This will take about {duration} on this machine's processor ({compared})."


def slowness(threads: int | None = None) -> float:
    """The time that a run takes here over that which it takes on the reference machine."""
    workers = min(threads or os.cpu_count() or 1, THREADS)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        speeds = [sum(pool.map(rounds, [SLICE] * workers)) / SLICE for _ in range(SLICES)]
    return REFERENCE / median(speeds)


def rounds(seconds: float) -> int:
    """How often forward and backward of a small layer are done in this time."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape, np.float32) for shape in ((128, 784), (784, 256)))
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        y = np.maximum(x @ w, 0)
        y /= np.exp(-y).sum(axis=1, keepdims=True)
        x.T @ y
        count += 1
    return count
