"""Several processes that train one model: each on its share of every batch.

`torchrun --nproc-per-node=2 main.py 4` starts the program twice and tells each process its rank
in the environment. Every process has the whole model; after backward their gradients are averaged
(PyTorch's DistributedDataParallel), so all take the same step. Started without torchrun, there is
one process, and all of this does nothing.

Source: Li et al., PyTorch Distributed: experiences on accelerating data parallel training,
arXiv:2006.15704.
"""

from __future__ import annotations

import atexit
import gc
import os
import warnings
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

# What a process waits for the others: the first one alone does what is done once, for hours.
PATIENCE = timedelta(days=7)


def rank() -> int:
    """The number of this process, from 0; process 0 alone writes files."""
    return int(os.environ.get("RANK", 0))


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """The number of this process on its own machine: which GPU is its own."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_count() -> int:
    """How many of the processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", count()))


def join(device: torch.device) -> None:
    """Meet the other processes, once: over gloo and, if this is a GPU, NCCL for what lies there.

    Over gloo a process waits in peace; over NCCL it keeps its GPU and a core of the CPU busy.
    """
    if count() == 1 or dist.is_initialized():
        return
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
    atexit.register(_leave)


def _leave() -> None:
    """Close the connection, after the wrapped models that still hold it and wait to be collected.

    Else they close it when Python has ended, and that can abort the process.
    """
    gc.collect()
    dist.destroy_process_group()


def share(rows: Any) -> Any:
    """Every `count`-th of the rows, from the `rank`-th on: what this process has to do."""
    return rows[rank() :: count()]


def of_first(answer: bool) -> bool:
    """What process 0 answers, for all."""
    return bool(total([float(answer and rank() == 0)])[0])


def total(numbers: Sequence[float]) -> list[float]:
    """The sums over all processes; float64."""
    return _reduced(numbers, dist.ReduceOp.SUM)


def highest(numbers: Sequence[float]) -> list[float]:
    """The largest of each number in all processes."""
    return _reduced(numbers, dist.ReduceOp.MAX)


def _reduced(numbers: Sequence[float], how: dist.ReduceOp.RedOpType) -> list[float]:
    if count() == 1:
        return list(numbers)
    if not dist.is_initialized():
        raise RuntimeError("the processes have not met yet: `join` comes first")
    table = torch.tensor(list(numbers), dtype=torch.float64)  # on the CPU: see `join`
    dist.all_reduce(table, how)
    return table.tolist()


def wrap(model: nn.Module) -> nn.Module:
    """The model with gradients averaged over all processes; itself, where there is one.

    The mean is over processes: of a last batch of 5 rows, each of the 2 that one process has
    counts for more than each of the 3 of the other. Batch norm sees the rows of its own process.
    """
    if not dist.is_initialized():
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.parallel.DistributedDataParallel(model)


def same_buffers(model: nn.Module) -> None:
    """Give all processes the running statistics of process 0: each has seen its own share."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def same_weights(model: nn.Module) -> None:
    """Give all processes the weights and buffers of process 0."""
    if dist.is_initialized():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes: what `wrap` does, when asked to.

    For networks that are run several times before backward, or whose gradient is itself
    differentiated: `wrap` would not see either.
    """
    if dist.is_initialized():
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= count()
