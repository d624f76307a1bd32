"""What `data_parallel` starts for each number of processes: train, time, compare one step.

python -m section4.experiments._data_parallel_worker TASK ANSWER PROCESSES THREADS [THREADS ...]

TASK and ANSWER are files of `section4.checkpoint`. Everything is repeated for each number of
threads. It runs in every process, and the first one writes the answer. The processes are started
by `torch.multiprocessing`, which does in one program what torchrun does for any: it tells each its
rank, and ends all when one fails.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from section4 import checkpoint
from section4.engine import Setting, cross_entropy, find_device
from section4.experiments._engine import seeded
from section4.images import Batches, Pair
from section4.training import History, evaluate, fit
from section4.vision.resnet import thin_resnet

EVALUATED_AT_ONCE = 500  # images

Task = dict[str, Any]


def net(task: Task, seed: int, norm: bool = True) -> nn.Module:
    """A residual network with weights drawn from the seed; without batch norm, if told."""
    model = seeded(seed, lambda: thin_resnet(task["depth"], task["classes"]))
    if not norm:
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.Identity())
    return model


def batches(task: Task, pair: Pair, size: int, setting: Setting, seed: int | None) -> Batches:
    return Batches(*pair, task["mean"], task["std"], size, setting, seed=seed)


def learn(
    task: Task, model: nn.Module, pair: Pair, setting: Setting, epochs: int, seed: int
) -> History:
    """By SGD with momentum at a constant rate, as plain as can be."""
    data = batches(task, pair, task["batch_size"], setting, seed)
    optimizer = torch.optim.SGD(model.parameters(), task["lr"], momentum=0.9, weight_decay=5e-4)
    return fit(model, cross_entropy(), optimizer, data, epochs=epochs, seed=seed, setting=setting)


def first_step(task: Task, setting: Setting, norm: bool) -> dict[str, torch.Tensor]:
    """All weights before and after one step on one whole batch, each as one vector."""
    model = net(task, task["seeds"][0], norm)
    x, y = task["train"]
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    first = x[: task["batch_size"]], y[: task["batch_size"]]
    learn(task, model, first, setting, 1, task["seeds"][0])
    after = nn.utils.parameters_to_vector(model.parameters()).detach().cpu()
    return {"before": before, "after": after}


def measure(task: Task, setting: Setting) -> dict[str, Any]:
    """Seconds of each epoch (seeds, epochs) and test accuracy (seeds,), and the first step."""
    steps = {name: first_step(task, setting, norm) for name, norm in NORMS.items()}
    seconds, accuracy = [], []
    for seed in task["seeds"]:
        model = net(task, seed)
        history = learn(task, model, task["train"], setting, task["epochs"], seed)
        seconds.append([b - a for a, b in itertools.pairwise([0.0, *history.seconds])])
        test = batches(task, task["test"], EVALUATED_AT_ONCE, setting, None)
        accuracy.append(evaluate(model, cross_entropy(), test, setting)[1])
    return {"seconds": seconds, "accuracy": accuracy, "steps": steps}


NORMS = {"without batch norm": False, "with batch norm": True}


def work(rank: int, file: Path, answer: Path, threads: list[int]) -> None:
    """What each process does."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    task = checkpoint.load(file)
    device, _ = find_device(task["device"])
    found = []
    for number in threads:
        torch.set_num_threads(number)
        found.append(measure(task, Setting(device)))
    if rank == 0:
        checkpoint.save(answer, {"found": found})


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def main() -> None:
    file, answer, processes, *threads = sys.argv[1:]
    told = Path(file), Path(answer), list(map(int, threads))
    if processes == "1":
        work(0, *told)
    else:
        os.environ |= {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        torch.multiprocessing.spawn(work, told, int(processes))


if __name__ == "__main__":
    main()
