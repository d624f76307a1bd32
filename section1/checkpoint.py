"""Checkpoints: all that a run needs to go on as if it had never stopped.

That is more than the weights: running statistics, the optimizer's averages and its count of
steps, the state of the random numbers, and what was seen so far. A schedule is a function
of the step and needs nothing kept. All of it goes into one `.npz` file of plain arrays; the
few that are not arrays are one line of JSON.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from section1.layer import Layer
from section1.sgd import Optimizer

FORMAT = 1


def save(
    path: Path,
    model: Layer,
    optimizer: Optimizer,
    rng: np.random.Generator,
    history: dict[str, list[float]],
) -> None:
    """Write a checkpoint; whoever reads `path` finds the old one or the new one, whole.

    `history` has a list of numbers for each thing that was measured.

    Raises FloatingPointError, and leaves the old one, where a weight is not a finite number.
    """
    if not all(np.isfinite(p.value).all() for p in model.parameters()):
        raise FloatingPointError(
            f"a weight is no longer a finite number after step {optimizer.steps}, at learning "
            f"rate {optimizer.lr:g}: try a smaller one; {path.name} was left as it was"
        )
    facts = {
        "format": FORMAT,
        **_kind(model, optimizer, rng),
        "steps": optimizer.steps,
        "lr": float(optimizer.lr),
        "random state": rng.bit_generator.state,
        "history": history,
    }
    arrays: dict[str, Any] = dict(_arrays(model, optimizer))
    arrays["facts"] = np.array(json.dumps(facts, default=lambda array: array.tolist()))
    write_whole(path, lambda file: np.savez(file, **arrays))


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Create or replace a file by what `write` puts into it: wholly or, on an error, not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)  # temporary files are private, checkpoints are not
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)  # renamed already, where Ctrl-C came right after
        raise


def load(
    path: Path, model: Layer, optimizer: Optimizer, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Put everything back, in place, and return the history.

    Raises ValueError, before anything is changed, for a file that is damaged or cut short,
    or that belongs to another model, optimizer, setting of it or kind of random numbers.
    """
    saved, facts = _read(path)
    for what, now in _kind(model, optimizer, rng).items():
        if facts.get(what) != now:
            then = facts.get(what)
            raise ValueError(f"{path} is a checkpoint of another {what}: {then}, here {now}")
    arrays = _arrays(model, optimizer)
    if saved.keys() != arrays.keys():
        raise ValueError(f"{path} is a checkpoint of another model: {_difference(saved, arrays)}")
    for name, array in arrays.items():
        then, now = (f"{a.dtype} {a.shape}" for a in (saved[name], array))
        if then != now:
            raise ValueError(
                f"{path} is a checkpoint of another model: {name} is {then}, here {now}"
            )

    try:
        steps, lr, history = int(facts["steps"]), float(facts["lr"]), dict(facts["history"])
        type(rng.bit_generator)().state = state = _with_arrays(facts["random state"])
    except Exception as error:
        raise ValueError(f"{path} is a checkpoint with a fault: {error}") from error

    for name, array in arrays.items():
        array[...] = saved[name]
    optimizer.steps, optimizer.lr = steps, lr
    rng.bit_generator.state = state
    return history


def _arrays(model: Layer, optimizer: Optimizer) -> dict[str, np.ndarray]:
    """Every array of the run under a name of its own: the arrays themselves, not copies."""
    arrays = {f"weight {k}": p.value for k, p in enumerate(model.parameters())}
    arrays |= {f"buffer {k}": array for k, array in enumerate(model.buffers())}
    for number, kind in enumerate(optimizer.state):
        arrays |= {f"state {number} of {k}": array for k, array in enumerate(kind)}
    return arrays


def _kind(model: Layer, optimizer: Optimizer, rng: np.random.Generator) -> dict[str, str]:
    return {
        "model": " ".join(type(layer).__name__ for layer in model.modules()),
        "optimizer": type(optimizer).__name__,
        "setting of the optimizer": repr(optimizer),
        "kind of random numbers": type(rng.bit_generator).__name__,
    }


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if sum(part.file_size for part in archive.zip.infolist()) > path.stat().st_size:
                raise ValueError("its arrays are larger than the file")  # they would be packed
            saved = {name: np.asarray(archive[name]) for name in archive.files}
        facts = json.loads(str(saved.pop("facts")))
        if facts["format"] == FORMAT:
            return saved, facts
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can lead a reader anywhere
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not a checkpoint, or one cut short: {reason}") from error
    raise ValueError(f"{path} is a checkpoint of format {facts['format']}, not {FORMAT}")


def _difference(saved: dict, here: dict) -> str:
    names = sorted(saved.keys() ^ here.keys())
    return f"only one of the two has {', '.join(names[:3])}" + (" ..." if names[3:] else "")


def _with_arrays(state: Any) -> Any:
    """JSON knows lists where some generators keep arrays of unsigned integers."""
    if isinstance(state, dict):
        return {name: _with_arrays(value) for name, value in state.items()}
    return np.array(state, np.uint64) if isinstance(state, list) else state
