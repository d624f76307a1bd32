"""Checkpoint files: whole or not at all, and reading one never runs code."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from section4 import checkpoint

CONTENT: dict[str, Any] = {
    "model": {"weight": torch.linspace(-1, 1, 100).reshape(20, 5), "steps": torch.tensor(7)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
    "history": {"loss": [0.5, 0.25], "parts": 1},
    "average": None,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "last.pt", CONTENT)
    return tmp_path / "last.pt"


class Code:
    """Pickled, it makes whoever loads it create a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.file),)


def as_pickle(content: object) -> bytes:
    return pickle.dumps(content, 2)


def as_torch(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def as_zip(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return file.getvalue()


def test_what_is_saved_can_be_loaded(path: Path) -> None:
    loaded = checkpoint.load(path)
    assert loaded.pop("format") == checkpoint.FORMAT
    torch.testing.assert_close(loaded.pop("model"), CONTENT["model"], rtol=0, atol=0)
    assert loaded == {key: value for key, value in CONTENT.items() if key != "model"}


def test_a_file_cut_short_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in (0, 1, 10, 200, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"last\.pt is not a checkpoint that can be read: .+"):
            checkpoint.load(path)


def test_a_weight_of_which_one_bit_is_wrong_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    place = whole.index(CONTENT["model"]["weight"].numpy().tobytes()) + 50
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ValueError, match=r"CRC|damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "raw",
    [
        b"weights = [1, 2, 3]\n" * 20,
        as_pickle({"format": 1}),
        as_zip(readme=b"garbage"),
        as_zip(**{"archive/data.pkl": b"\x80\x02garbage.", "archive/version": b"3\n"}),
        as_zip(**{"archive/data.pkl": b"\x80\x02000000.", "archive/version": b"3\n"}),
        bytes(range(256)),
    ],
    ids=["text", "pickle", "zip", "zip with a pickle", "zip with an empty stack", "bytes"],
)
def test_other_files_are_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"last\.pt") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("content", [{"weights": torch.zeros(3)}, {"format": 99}, [1, 2], 3.0])
def test_another_format_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(as_torch(content))
    with pytest.raises(ValueError, match=r"last\.pt is not a checkpoint of format 1"):
        checkpoint.load(path)


@pytest.mark.parametrize("write", [as_pickle, as_torch])
def test_code_in_a_file_is_not_run(tmp_path: Path, write: Any) -> None:
    trace, path = tmp_path / "code was here", tmp_path / "last.pt"
    path.write_bytes(write({"format": 1, "model": Code(trace)}))
    with pytest.raises(ValueError, match=r"last\.pt"):
        checkpoint.load(path)
    assert not trace.exists()
    pickle.loads(as_pickle(Code(trace)))  # the code does work
    assert trace.exists()


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.pt")


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_rest(
    path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    good = path.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, at, full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, {"model": {}})
    assert path.read_bytes() == good and list(path.parent.iterdir()) == [path]


def test_a_disk_that_is_full_is_called_by_its_name(path: Path) -> None:
    """PyTorch's own words for it are "unexpected pos 704 vs 598"."""
    resource = pytest.importorskip("resource")
    good, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good), limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            checkpoint.save(path, {"model": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == good and list(path.parent.iterdir()) == [path]


def test_what_cannot_be_saved_leaves_the_old_file(path: Path) -> None:
    good = path.read_bytes()
    with pytest.raises(Exception, match=r"pickle|local"):
        checkpoint.save(path, {"model": lambda: None})
    assert path.read_bytes() == good and list(path.parent.iterdir()) == [path]
