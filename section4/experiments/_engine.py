"""How the experiments of section 4 find their device, its fastest setting, and initial weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from section1.experiments._training import counted
from section4 import distributed, engine
from section4.engine import Batch, Objective, Setting, cross_entropy
from utils.errors import UserError
from utils.experiments.results import to_json, write_file
from utils.experiments.run import Run

THREADS = torch.get_num_threads()  # every core, or what OMP_NUM_THREADS says
TIMED_AT_ONCE = 64  # rows, when settings are compared on a CPU
QUICK = " QUICK trains for seconds: to be seen working, not a finding."

Model = TypeVar("Model", bound=nn.Module)


def seeded(seed: int, make: Callable[[], Model]) -> Model:
    """The model that `make()` makes with initial weights drawn from this seed."""
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU, and no GPU is asked
        torch.default_generator.manual_seed(seed)
        return make()


def find_device(run: Run) -> torch.device:
    """The device of this run, which the other processes meet there; says why no better one."""
    try:
        device, reason = engine.find_device(run.settings.device)
    except ValueError as error:
        raise UserError(str(error)) from error
    torch.set_num_threads(run.threads or THREADS)
    flag, name, processes = "--batch-size ", "batch_size", distributed.count()
    if device.type != "cpu" and "batch_size_on_gpu" in run.budget:
        flag, name = "--set batch_size_on_gpu=", "batch_size_on_gpu"
    rows = run.budget.get(name, processes)
    if rows < processes:
        raise UserError(
            f"{processes} processes cannot share a batch of {counted(rows, 'row')}: take "
            f"{flag}{processes} or more"
        )
    distributed.join(device)
    if not run.engine:
        print(f"      on {device}" + (f" ({reason})" if reason else ""), flush=True)
        run.engine = str(device)
    return device


def choose(
    run: Run,
    model: nn.Module,
    batch: Batch,
    objective: Objective | None = None,
    *,
    folder: Path | None = None,
    steps: int = 0,
) -> Setting:
    """The fastest setting for training `model` on batches like this one, chosen by timing.

    What was chosen is kept in `folder`: a run that is resumed must not choose anew. steps: of the
    training to come, on a GPU; where they take long, the model is compiled.
    """
    device, objective = find_device(run), objective or cross_entropy()
    try:
        choices = engine.settings(device, run.settings.precision, images=batch[0].ndim == 4)
    except ValueError as error:
        raise UserError(str(error)) from error
    if device.type == "cpu":
        batch = [item[:TIMED_AT_ONCE] for item in batch]
    file = folder / "engine.json" if folder is not None else None
    kept: dict[str, Any] = {"setting": ""}
    if file is not None and distributed.of_first(file.exists()):
        kept = json.loads(file.read_text(encoding="utf-8"))
    known = [*choices, *(replace(choice, compiled=True) for choice in choices)]
    chosen = [choice for choice in known if str(choice) == kept["setting"]]
    if kept["setting"] and not chosen:
        raise UserError(
            f"this training was begun on {kept['setting']}, which this machine does not have: "
            "start it anew, without --resume"
        )
    if chosen:
        setting, threads = chosen[0], run.threads or kept["threads"]
    else:
        setting = fastest(model, batch, objective, choices, steps)
        threads = torch.get_num_threads()
        if device.type == "cpu" and run.threads is None and distributed.count() == 1:
            threads = engine.best_threads(model, batch, objective, setting)
    if file is not None and distributed.rank() == 0:
        write_file(file, to_json({"setting": str(setting), "threads": threads}))
    torch.set_num_threads(threads)
    run.engine = str(setting)
    if device.type == "cpu":
        run.engine += f", {counted(threads, 'thread')}"
    return setting


def fastest(
    model: nn.Module, batch: Batch, objective: Objective, choices: Sequence[Setting], steps: int
) -> Setting:
    """The choice that is measured fastest, compiled where that pays for so many steps.

    Timed on the whole batch or, where a GPU has no memory for that, on a half, a quarter, ... of
    it: training will cut it as well. Raises MemoryError where not even one row fits.
    """
    rows = len(batch[0])
    while True:
        try:
            setting, times = engine.choose(model, batch, objective, choices)
            break
        except torch.cuda.OutOfMemoryError as error:
            if distributed.count() > 1 or len(batch[0]) == 1:
                raise engine.no_memory(len(batch[0])) from error
        batch = [item[: len(item) // 2] for item in batch]
        torch.cuda.empty_cache()
    if times:
        slowest = max(times.values()) / times[setting]
        print(f"      {setting}: {slowest:.1f} times as fast as the slowest choice", flush=True)
    # Of a single choice nothing is timed, and so it is not compiled.
    expected = steps * times.get(setting, 0.0) * rows / len(batch[0])
    setting, fault = engine.with_compiler(model, batch, objective, setting, expected)
    if fault:
        print(f"      not compiled: {fault}", flush=True)
    return setting
