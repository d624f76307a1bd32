"""Networks that more than one experiment needs: trained once, and known again by their recipe."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from section3.experiments import _learning
from section4 import distributed
from utils.experiments.results import to_json, write_file
from utils.experiments.run import Run

FILE = "recipe.json"
# The loop, its batches and its engine, and how the learning rate goes up and down.
EVERYWHERE = Path(distributed.__file__).parent, Path(_learning.__file__)


def recipe_of(run: Run, budget: Mapping[str, Any], sources: Iterable[Path], data: Any) -> bytes:
    """All that a trained network depends on: of two with the same recipe one can be spared.

    budget: what of it counts. sources: files and folders of code, all that the training depends
    on besides EVERYWHERE. data: what tells the training data from others.
    """
    files = [
        file for path in (*sources, *EVERYWHERE) for file in sorted(path.glob("*.py")) or [path]
    ]
    code = zlib.crc32(b"".join(file.read_bytes() for file in files))
    return to_json(run.identity() | {"budget": dict(budget), "code": code, "data used": data})


def is_of(folder: Path, recipe: bytes) -> bool:
    """Whether what lies in a folder has been trained by this recipe."""
    file = folder / FILE
    return distributed.of_first(file.is_file() and file.read_bytes() == recipe)


def sign(folder: Path, recipe: bytes) -> None:
    """Note that what lies in a folder has been trained by this recipe."""
    if distributed.rank() == 0:
        write_file(folder / FILE, recipe)
