"""`load`: which data is used when, and that damage is never passed over."""

from __future__ import annotations

import gzip
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.utils.data.helpers import (
    cifar10_files,
    cifar100_files,
    idx_bytes,
    md5,
    mnist_files,
    write,
)
from utils.data import NAMES, DataError, Dataset, TextData, data_folder, disk, load
from utils.data.sources import CIFAR10, CIFAR100, MNIST, SOURCES, TINY_SHAKESPEARE


def expected_images(content: bytes) -> np.ndarray:
    pixels = np.frombuffer(content[16:], dtype=np.uint8).reshape(-1, 28, 28, 1)
    return pixels.astype(np.float64) / 255


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_from_disk(tmp_path: Path, name: str, packed: bool) -> None:
    files = mnist_files()
    on_disk = {f"{k}.gz": gzip.compress(v) for k, v in files.items()} if packed else files
    write(tmp_path, SOURCES[name], on_disk)
    data = load(name, root=tmp_path)
    assert isinstance(data, Dataset)
    assert data.train_x.shape == (20, 28, 28, 1)
    assert data.train_x.dtype == data.test_x.dtype == np.float32
    assert data.train_y.dtype == data.test_y.dtype == np.int64
    np.testing.assert_allclose(data.train_x, expected_images(files[MNIST.files[0]]), rtol=1e-6)
    np.testing.assert_allclose(data.test_x, expected_images(files[MNIST.files[2]]), rtol=1e-6)
    np.testing.assert_array_equal(data.train_y, np.arange(20) % 10)
    assert len(data.classes) == 10
    assert data.provenance == "unverified copy"
    assert data.description == f"{SOURCES[name].title} (unverified copy)"


def test_official_files_are_known_by_their_checksums(tmp_path: Path) -> None:
    files = mnist_files()
    official = {name: md5(content) for name, content in files.items()}
    sources = {"mnist": replace(MNIST, official=official)}
    folder = write(tmp_path, MNIST, files)
    assert load("mnist", root=tmp_path, sources=sources).provenance == "official"
    last = MNIST.files[-1]
    changed = files[last][:-1] + bytes([files[last][-1] ^ 1])
    (folder / last).write_bytes(changed)
    assert load("mnist", root=tmp_path, sources=sources).provenance == "unverified copy"


def test_unpacked_file_wins_over_packed(tmp_path: Path) -> None:
    write(tmp_path, MNIST, {f"{k}.gz": b"damaged" for k in MNIST.files})
    write(tmp_path, MNIST, mnist_files())
    assert len(load("mnist", root=tmp_path).train_y) == 20


def test_cifar10_from_disk(tmp_path: Path) -> None:
    files = cifar10_files()
    write(tmp_path, CIFAR10, files)
    data = load("cifar10", root=tmp_path)
    assert data.train_x.shape == (20, 32, 32, 3)
    assert data.test_x.shape == (4, 32, 32, 3)
    assert data.train_x.dtype == np.float32
    assert data.train_y.dtype == np.int64
    assert data.classes[3] == "class 3"
    third = np.random.default_rng(2).integers(0, 256, (4, 3072), dtype=np.uint8)
    for image, row in zip(data.train_x[8:12], third):
        for channel in range(3):
            plane = row[1024 * channel : 1024 * (channel + 1)].reshape(32, 32)
            np.testing.assert_allclose(image[..., channel], plane / 255, rtol=1e-6)


def test_cifar100_from_disk(tmp_path: Path) -> None:
    write(tmp_path, CIFAR100, cifar100_files())
    data = load("cifar100", root=tmp_path)
    assert data.train_x.shape == data.test_x.shape == (4, 32, 32, 3)
    assert len(data.classes) == 100
    assert data.provenance == "unverified copy"


def test_text_from_disk(tmp_path: Path) -> None:
    folder = write(tmp_path, TINY_SHAKESPEARE, {"input.txt": "To be, or not.\r\n—".encode()})
    data = load("tinyshakespeare", root=tmp_path)
    assert data.text == "To be, or not.\r\n—"
    assert data.provenance == "unverified copy"
    for damage in (b"\xff\xfe", b"", b" \n"):
        (folder / "input.txt").write_bytes(damage)
        with pytest.raises(DataError, match=r"input\.txt is damaged"):
            load("tinyshakespeare", root=tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_absent_set_falls_through_to_embedded(tmp_path: Path, name: str) -> None:
    assert load(name, root=tmp_path / "nothing").provenance == "embedded stand-in"


@pytest.mark.parametrize("file", MNIST.files)
def test_incomplete_set_is_an_error(tmp_path: Path, file: str) -> None:
    folder = write(tmp_path, MNIST, mnist_files())
    (folder / file).unlink()
    with pytest.raises(DataError, match=f"incomplete, it lacks {file}:"):
        load("mnist", root=tmp_path)
    assert load("mnist", "embedded", root=tmp_path).provenance == "embedded stand-in"


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("policy", ["auto", "real"])
@pytest.mark.parametrize("file", MNIST.files)
def test_damaged_file_is_an_error(tmp_path: Path, file: str, policy: str, download: bool) -> None:
    folder = write(tmp_path, MNIST, mnist_files())
    (folder / file).write_bytes(mnist_files()[file][:-1])
    with pytest.raises(DataError, match=f"{file} is damaged"):
        load("mnist", policy, download, tmp_path)  # type: ignore[call-overload]


@pytest.mark.parametrize("file", CIFAR10.files)
def test_damaged_cifar_file_is_an_error(tmp_path: Path, file: str) -> None:
    folder = write(tmp_path, CIFAR10, cifar10_files())
    (folder / file).write_bytes(cifar10_files()[file][:-10])
    with pytest.raises(DataError, match=f"{file} is damaged"):
        load("cifar10", root=tmp_path)


@pytest.mark.parametrize(
    ("number", "array", "message"),
    [
        (0, np.zeros((20, 27, 28), np.uint8), r"images of \(27, 28\)"),
        (0, np.zeros((19, 28, 28), np.uint8), "20 labels"),
        (1, np.full(20, 10, np.uint8), "the label 10"),
        (3, np.zeros(20, np.uint8), "20 labels"),
    ],
)
def test_files_that_do_not_fit_together(
    tmp_path: Path, number: int, array: np.ndarray, message: str
) -> None:
    files = {**mnist_files(), MNIST.files[number]: idx_bytes(array)}
    write(tmp_path, MNIST, files)
    with pytest.raises(DataError, match=message):
        load("mnist", root=tmp_path)


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(DataError, match="'mnits': choose from mnist, fashion_mnist, cifar10"):
        load("mnits")
    with pytest.raises(DataError, match="'fast': choose from auto, real, embedded"):
        load("mnist", "fast")  # type: ignore[call-overload]


def test_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COURSE_DATA_DIR", raising=False)
    assert data_folder() == Path(__file__).resolve().parents[3] / "data"
    monkeypatch.setenv("COURSE_DATA_DIR", "")
    assert data_folder().name == "data"
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    assert data_folder() == tmp_path
    assert data_folder(tmp_path / "other") == tmp_path / "other"
    write(tmp_path, MNIST, mnist_files())
    assert load("mnist").provenance == "unverified copy"


def test_a_variable_that_names_no_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "mistyped"))
    with pytest.raises(DataError, match=r"COURSE_DATA_DIR names .*mistyped, which is no folder"):
        load("mnist")
    assert load("mnist", "embedded").provenance == "embedded stand-in"
    assert data_folder(tmp_path / "other") == tmp_path / "other"


def test_importing_is_light() -> None:
    code = "import sys, utils.data; print([m for m in ('pooch', 'sklearn') if m in sys.modules])"
    root = Path(__file__).resolve().parents[3]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "shape", "train", "test"),
    [
        ("mnist", (28, 28, 1), 60_000, 10_000),
        ("fashion_mnist", (28, 28, 1), 60_000, 10_000),
        ("cifar10", (32, 32, 3), 50_000, 10_000),
        ("cifar100", (32, 32, 3), 50_000, 10_000),
    ],
)
def test_real_images(real_data: Path, name: str, shape: tuple, train: int, test: int) -> None:
    if not disk.find(SOURCES[name], real_data):
        pytest.skip(f"needs {SOURCES[name].title}")
    data = load(name, "auto", root=real_data)
    assert isinstance(data, Dataset)
    assert data.provenance in ("official", "unverified copy")
    assert data.train_x.shape == (train, *shape)
    assert data.test_x.shape == (test, *shape)
    assert data.train_x.min() == 0
    assert data.train_x.max() == 1
    assert set(np.unique(data.test_y)) == set(range(len(data.classes)))
    assert 0.1 < data.train_x.mean() < 0.6


@pytest.mark.realdata
def test_real_text(real_data: Path) -> None:
    if not (real_data / TINY_SHAKESPEARE.folder).exists():
        pytest.skip("needs tiny Shakespeare")
    data = load("tinyshakespeare", root=real_data)
    assert isinstance(data, TextData)
    assert data.text.startswith("First Citizen:")
    assert len(data.text) > 1_000_000
