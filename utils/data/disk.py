"""From files on disk to arrays, with the question every file is asked: are you official?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from utils.data.cifar import read_batch, read_names
from utils.data.dataset import Dataset, Provenance, TextData
from utils.data.errors import damaged
from utils.data.idx import read_idx
from utils.data.sources import Source


def find(source: Source, root: Path) -> dict[str, Path]:
    """The files of a set that are there: file -> path, unpacked or (as MNIST's may) gzipped."""
    paths = {}
    for file in source.files:
        for name in (f"{file}.gz", file):  # the unpacked one wins: it loads faster
            path = root / source.folder / name
            if name in source.official and path.exists():
                paths[file] = path
    return paths


def read(name: str, source: Source, paths: dict[str, Path]) -> Dataset | TextData:
    """The set from its files, every one of which must be in `paths`.

    Raises DataError, naming the file, if one of them is damaged.
    """
    return _READERS[name](name, source, paths)


def provenance(source: Source, paths: dict[str, Path]) -> Provenance:
    """Whether the checksum of every file is the published one."""
    official = all(
        _checksum(path, source.official[path.name]) == source.official[path.name]
        for path in paths.values()
    )
    return "official" if official else "unverified copy"


def _checksum(path: Path, like: str) -> str:
    """The checksum of a file, with the algorithm of `like` ("md5:..." or "sha256:...")."""
    algorithm = like.partition(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return f"{algorithm}:{digest.hexdigest()}"


def _describe(source: Source, origin: Provenance) -> str:
    return f"{source.title} ({'official files' if origin == 'official' else origin})"


def _read_mnist(name: str, source: Source, paths: dict[str, Path]) -> Dataset:
    """MNIST and its relatives: images and labels in IDX files of their own."""
    train_images, train_labels, test_images, test_labels = (paths[file] for file in source.files)
    train = _read_pair(source, train_images, train_labels)
    test = _read_pair(source, test_images, test_labels)
    origin = provenance(source, paths)
    return Dataset(name, *train, *test, source.classes, origin, _describe(source, origin))


def _read_pair(
    source: Source, images_path: Path, labels_path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 1) float32 in [0, 1] and their labels (N,) int64."""
    images = read_idx(images_path, ndim=3)
    labels = read_idx(labels_path, ndim=1)
    size, classes = source.image_shape[:2], len(source.classes)
    if images.shape[1:] != size:
        raise damaged(images_path, f"images of {images.shape[1:]} pixels", f"{size}")
    if len(labels) != len(images):
        raise damaged(labels_path, f"{len(labels)} labels", f"one for each of {len(images)} images")
    if labels.max() >= classes:
        raise damaged(labels_path, f"the label {labels.max()}", f"0 to {classes - 1}")
    return np.divide(images[..., None], 255, dtype=np.float32), labels.astype(np.int64)


def _read_cifar10(name: str, source: Source, paths: dict[str, Path]) -> Dataset:
    return _read_cifar(name, source, paths, "labels", "label_names", 10)


def _read_cifar100(name: str, source: Source, paths: dict[str, Path]) -> Dataset:
    return _read_cifar(name, source, paths, "fine_labels", "fine_label_names", 100)


def _read_cifar(
    name: str, source: Source, paths: dict[str, Path], labels: str, names: str, count: int
) -> Dataset:
    """CIFAR: any number of training batches, one test batch, one file of class names."""
    *train_files, test_file, names_file = source.files
    classes = read_names(paths[names_file], names, count)
    train = [read_batch(paths[file], labels, count) for file in train_files]
    test = [read_batch(paths[test_file], labels, count)]
    origin = provenance(source, paths)
    return Dataset(name, *_join(train), *_join(test), classes, origin, _describe(source, origin))


def _join(batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Batches of planes (N, 3*32*32) uint8 -> one (N, 32, 32, 3) float32, and the labels."""
    labels = np.concatenate([y for _, y in batches])
    images = np.empty((len(labels), 32, 32, 3), dtype=np.float32)
    start = 0
    for x, y in batches:
        planes = x.reshape(len(x), 3, 32, 32)  # (N, C, H, W)
        out = images[start : start + len(x)]
        for channel in range(3):  # plane by plane is three times faster than a transpose
            np.divide(planes[:, channel], 255, out=out[..., channel], dtype=np.float32)
        start += len(y)
    return images, labels


def _read_text(name: str, source: Source, paths: dict[str, Path]) -> TextData:
    """A set that is one text file."""
    (path,) = paths.values()
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, f"something unreadable ({error})", "a text in UTF-8") from error
    if not text.strip():
        raise damaged(path, "no text", "a text in UTF-8")
    origin = provenance(source, paths)
    return TextData(name, text, origin, _describe(source, origin))


_READERS: dict[str, Callable[[str, Source, dict[str, Path]], Dataset | TextData]] = {
    "mnist": _read_mnist,
    "fashion_mnist": _read_mnist,
    "cifar10": _read_cifar10,
    "cifar100": _read_cifar100,
    "tinyshakespeare": _read_text,
}
