"""The IDX reader: what it must read, and what it must refuse."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.utils.data.helpers import idx_bytes
from utils.data import DataError
from utils.data.idx import read_idx

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("array", [IMAGES, IMAGES[:1, :3, :5], IMAGES[:, 0, 0]])
def test_round_trip(tmp_path: Path, array: np.ndarray, packed: bool) -> None:
    path = tmp_path / ("x.gz" if packed else "x")
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if packed else content)
    result = read_idx(path, array.ndim)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, array)


GOOD = idx_bytes(IMAGES)
DAMAGED = {
    "empty": (b"", "missing"),
    "truncated header": (GOOD[:9], "header of 9 bytes"),
    "truncated body": (GOOD[:-1], "only 5487 bytes"),
    "no body": (GOOD[:16], "only 0 bytes"),
    "too long": (GOOD + b"\0", "more bytes"),
    "not an IDX file": (b"<!DOCTYPE html><html></html>", "3c 21 44 4f"),
    "another type of number": (b"\0\0\x0d\x03" + GOOD[4:], "00 00 0d 03"),
    "labels in place of images": (idx_bytes(IMAGES[:, 0, 0]), "00 00 08 01"),
    "no images": (idx_bytes(IMAGES[:0]), "dimensions"),
    "huge": (b"\0\0\x08\x03" + struct.pack(">3I", *[2**32 - 1] * 3), "dimensions"),
    "just too huge": (b"\0\0\x08\x03" + struct.pack(">3I", 2**15, 2**15, 2), "dimensions"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_file_is_refused(tmp_path: Path, case: str, packed: bool) -> None:
    content, found = DAMAGED[case]
    path = tmp_path / ("x.gz" if packed else "x")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError) as error:
        read_idx(path, ndim=3)
    assert found in str(error.value)
    assert str(path) in str(error.value)
    assert "delete it" in str(error.value)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(GOOD)
    wrong_sum = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
    for number, content in enumerate([GOOD, packed[:100], packed[:-4], wrong_sum]):
        path = tmp_path / f"{number}.gz"
        path.write_bytes(content)
        with pytest.raises(DataError, match="gzipped IDX"):
            read_idx(path, ndim=3)


def test_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(GOOD + bytes(2**26)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more bytes"):
            read_idx(path, ndim=3)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_directory_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unreadable"):
        read_idx(tmp_path, ndim=3)


def test_mutations_give_an_array_or_a_data_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "x"
    refused = 0
    for _ in range(400):
        content = bytearray(GOOD)
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(0, 20)] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            result = read_idx(path, ndim=3)
        except DataError:
            refused += 1
        else:
            assert result.shape == IMAGES.shape
    assert 200 < refused < 400
