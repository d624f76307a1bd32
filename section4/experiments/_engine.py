"""How the experiments of section 4 find their device, its fastest setting, and initial weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from section4 import distributed, engine
from section4.engine import Batch, Objective, Setting, cross_entropy
from utils.errors import UserError
from utils.experiments.results import to_json, write_file
from utils.experiments.run import Run

TIMED_AT_ONCE = 64  # rows, when settings are compared on a CPU

Model = TypeVar("Model", bound=nn.Module)


def seeded(seed: int, make: Callable[[], Model]) -> Model:
    """The model that `make()` makes with initial weights drawn from this seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def find_device(run: Run) -> torch.device:
    """The device of this run, which the other processes meet there; says why no better one."""
    try:
        device, reason = engine.find_device(run.settings.device)
    except ValueError as error:
        raise UserError(str(error)) from error
    if run.threads is not None:
        torch.set_num_threads(run.threads)
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
    expected_seconds: float = 0.0,
) -> Setting:
    """The fastest setting for training `model` on batches like this one, chosen by timing.

    What was chosen is kept in `folder`: a run that is resumed must not choose anew.
    """
    device = find_device(run)
    try:
        choices = engine.settings(device, run.settings.precision, images=batch[0].ndim == 4)
    except ValueError as error:
        raise UserError(str(error)) from error
    kept = folder / "engine.json" if folder is not None else None
    if kept is not None and distributed.of_first(kept.exists()):
        words = kept.read_text(encoding="utf-8")
        choices = [choice for choice in choices if str(choice) in words] or choices[:1]
    if device.type == "cpu":
        batch = [item[:TIMED_AT_ONCE] for item in batch]
    setting, times = engine.choose(model, batch, objective or cross_entropy(), choices)
    setting = engine.with_compiler(setting, expected_seconds)
    if kept is not None and distributed.rank() == 0:
        write_file(kept, to_json(str(replace(setting, compiled=False))))
    run.engine = str(setting)
    if times:
        slowest = max(times.values()) / times[replace(setting, compiled=False)]
        print(f"      {setting}: {slowest:.1f} times as fast as the slowest choice", flush=True)
    return setting
