"""Checkpoints in PyTorch: tensors and plain values, so that reading one never runs code.

A pickle can run anything when it is loaded. `torch.load(weights_only=True)` builds tensors,
numbers, words, lists and dicts and refuses all else; what is written here is no more than that.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from section1.checkpoint import write_whole

FORMAT = 1
DAMAGED = (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError)


def save(path: Path, content: dict[str, Any]) -> None:
    """Write `content`; whoever reads `path` finds the old file or the new one, whole."""
    write_whole(path, lambda file: torch.save({"format": FORMAT, **content}, file))


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU.

    Raises FileNotFoundError, or ValueError for a file that is damaged, cut short, of another
    format, or that holds more than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it is cut short"
        raise ValueError(f"{path} is not a checkpoint that can be read: {reason}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of format {FORMAT}")
    return content
