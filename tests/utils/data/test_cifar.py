"""The CIFAR reader: arrays from pickles of any age, and nothing else from any pickle."""

from __future__ import annotations

import os
import pickle
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.utils.data.helpers import batch, python2_batch
from utils.data import DataError
from utils.data.cifar import read_batch, read_names

CONTENT: Any = batch(6, seed=3)


def old_numpy(content: bytes) -> bytes:
    """The same pickle (of protocol 2) as NumPy 1 would have written it."""
    assert b"numpy._core" in content or b"numpy.core" in content
    return content.replace(b"numpy._core", b"numpy.core")


def assert_reads(path: Path) -> None:
    pixels, labels = read_batch(path, "labels", 10)
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(pixels, CONTENT["data"])
    np.testing.assert_array_equal(labels, CONTENT["labels"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_round_trip(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(CONTENT, protocol))
    assert_reads(path)


def test_round_trip_of_numpy_1(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(old_numpy(pickle.dumps(CONTENT, 2)))
    assert_reads(path)


def test_round_trip_of_python_2(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    content = python2_batch(CONTENT["data"], CONTENT["labels"])
    assert set(pickle.loads(content, encoding="bytes")) == {b"data", b"labels"}
    path.write_bytes(content)
    assert_reads(path)


@pytest.mark.parametrize("protocol", [2, 5])
def test_array_stored_by_columns(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "batch"
    content = {**CONTENT, "data": np.asfortranarray(CONTENT["data"])}
    path.write_bytes(pickle.dumps(content, protocol))
    assert_reads(path)


class Command:
    """An object whose pickle runs a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_that_runs_a_command_is_refused(tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "proof"
    path = tmp_path / "batch"
    content = pickle.dumps({**CONTENT, "extra": Command(f"echo > {proof}")}, protocol)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a call of (posix|nt)\.system"):
        read_batch(path, "labels", 10)
    assert not proof.exists()
    pickle.loads(content)
    assert proof.exists(), "the command must be one that would have run"


FORBIDDEN = [b"cbuiltins\neval\n(S'1'\ntR.", b"(S'1'\nibuiltins\neval\n.", b"\x82\x01."]


@pytest.mark.parametrize("content", [*FORBIDDEN, b"c_codecs\nencode\n(Vx\nVrot13\ntR."])
def test_other_ways_to_call_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "batch"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"found (Unpickling|Value)Error"):
        read_batch(path, "labels", 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": None}, "an array 'data'"),
        ({"labels": None}, "a list 'labels'"),
        ({"data": CONTENT["data"][:, :-1]}, "another shape"),
        ({"data": CONTENT["data"][0]}, "another shape"),
        ({"data": CONTENT["data"][:0], "labels": []}, "another shape"),
        ({"data": CONTENT["data"].astype(np.float32)}, "another type"),
        ({"data": CONTENT["data"].astype(object)}, "another type"),
        ({"labels": CONTENT["labels"][:-1]}, "5 labels"),
        ({"labels": [10, *CONTENT["labels"][1:]]}, "a label that is none"),
        ({"labels": [-1, *CONTENT["labels"][1:]]}, "a label that is none"),
        ({"labels": ["cat", *CONTENT["labels"][1:]]}, "a label that is none"),
        ({"labels": [1.0, *CONTENT["labels"][1:]]}, "a label that is none"),
    ],
)
def test_wrong_content_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({**CONTENT, **change}, 4))
    with pytest.raises(DataError, match=message) as error:
        read_batch(path, "labels", 10)
    assert str(path) in str(error.value)


HUGE = struct.pack("<Q", 40 * 2**30)
GREEDY = {
    "a memo of two thousand million places": b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b".",
    "bytes": b"\x80\x04\x8e" + HUGE + b"x.",
    "text": b"\x80\x04\x8d" + HUGE + b"x.",
    "a bytearray": b"\x80\x05\x96" + HUGE + b"x.",
    "a frame": b"\x80\x04\x95" + HUGE + b"x.",
    "an array": b"cnumpy\nndarray\n(I99999999999\ntR.",
}


@pytest.mark.parametrize("case", GREEDY)
def test_pickle_cannot_reserve_memory(tmp_path: Path, case: str) -> None:
    path = tmp_path / "batch"
    path.write_bytes(GREEDY[case])
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read_batch(path, "labels", 10)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content", [b"", b".", b"N.", pickle.dumps([1, 2]), pickle.dumps({1: 2}), b"<html>", b"(" * 9]
)
def test_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "batch"
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        read_batch(path, "labels", 10)


def test_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="FileNotFoundError"):
        read_batch(tmp_path / "nothing", "labels", 10)


def test_names(tmp_path: Path) -> None:
    path = tmp_path / "meta"
    path.write_bytes(pickle.dumps({b"label_names": [b"cat", "dog"]}))
    assert read_names(path, "label_names", 2) == ("cat", "dog")
    for names in ([b"cat"], "ab", [1, 2], [b"\xff", b"dog"]):
        path.write_bytes(pickle.dumps({"label_names": names}))
        with pytest.raises(DataError):
            read_names(path, "label_names", 2)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_mutations_give_a_batch_or_a_data_error(tmp_path: Path, protocol: int) -> None:
    rng = np.random.default_rng(protocol)
    good = pickle.dumps(batch(3, seed=0), protocol)
    path = tmp_path / "batch"
    refused = 0
    start = time.perf_counter()
    for _ in range(300):
        content = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(-250, 200)) % len(content)  # before or after the pixels
            kind = rng.integers(0, 3)
            if kind == 0:
                content[place] = rng.integers(0, 256)
            elif kind == 1:
                del content[place : place + int(rng.integers(1, 5))]
            else:
                content[place:place] = rng.bytes(int(rng.integers(1, 5)))
        path.write_bytes(content)
        try:
            images, labels = read_batch(path, "labels", 10)
        except DataError:
            refused += 1
        else:
            assert images.dtype == np.uint8
            assert images.shape == (len(labels), 3072)
            assert labels.min() >= 0
            assert labels.max() < 10
    assert 100 < refused < 300
    assert time.perf_counter() - start < 20
