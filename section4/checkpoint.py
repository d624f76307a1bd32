"""Checkpoints in PyTorch: tensors and plain values, so that reading one never runs code.

A pickle can run anything when it is loaded. `torch.load(weights_only=True)` builds tensors,
numbers, words, lists and dicts and refuses all else; what is written here is no more than that.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from section1.checkpoint import write_whole

FORMAT = 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Write `content`; whoever reads `path` finds the old file or the new one, whole."""
    whole = io.BytesIO()  # a full disk is then the system's OSError, not a riddle of PyTorch's
    torch.save({"format": FORMAT, **content}, whole)
    write_whole(path, lambda file: file.write(whole.getbuffer()))


def check_sums(path: Path) -> None:
    """Raise ValueError where a part of a file is damaged: `torch.load` itself does not look.

    Or where the parts, packed or one over the other, are larger than the file: nothing here writes
    such a file, and a small one could fill the memory.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged")


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU.

    Raises FileNotFoundError, or ValueError for a file that is damaged, cut short, of another
    format, or that holds more than tensors and plain values.
    """
    try:
        check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:  # its own words say how to read the file all the same
        raise ValueError(f"{path} holds more than tensors and plain values: refused") from error
    except Exception as error:  # a damaged file can lead an unpickler anywhere
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{path} is not a checkpoint that can be read: {reason}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of format {FORMAT}")
    return content
