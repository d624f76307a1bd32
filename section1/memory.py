"""How much memory a training step will take, before it takes it.

A step that does not fit into memory does not fail: the machine writes memory out to disk and
goes on a thousand times slower. So a batch is cut into pieces that fit.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np

from section1.layer import Layer

GIGABYTE = 2**30
UNKNOWN = 4 * GIGABYTE  # where the system does not tell


def usable_memory() -> int:
    """Bytes that training may use: half of what this machine, or this container, has."""
    sizes = []
    if hasattr(os, "sysconf"):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such file, or "max" in it: no limit of a container
        pass
    return min(sizes, default=2 * UNKNOWN) // 2


def bytes_per_row(model: Layer, x: np.ndarray, rows: int = 2) -> int:
    """What a replica of `model` keeps for one row of x in forward and backward, in bytes.

    Measured on `rows` rows with a copy of the model, whose scratch arrays are then counted. As
    some of them serve several rows in turn, more rows give a lower and better estimate.
    """
    twin = copy.deepcopy(model).replica()
    twin.train()
    twin.skip_input_gradient()
    part = x[np.arange(rows) % len(x)]
    y = twin.forward(part)
    twin.backward(np.zeros_like(y))
    memories = [twin._workspace, *(module._scratch for module in twin.modules())]
    kept = sum(array.nbytes for memory in memories for array in (memory or {}).values())
    return (part.nbytes + y.nbytes + kept) // rows
