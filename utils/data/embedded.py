"""Stand-ins that need no files and no network, in the shapes of the sets they replace.

    mnist            handwritten digits of scikit-learn, 28 x 28      see `digits.py`
    fashion_mnist    ten drawn shapes in grey, 28 x 28                see `shapes.py`
    cifar10          ten drawn shapes in colour, 32 x 32
    cifar100         ten drawn shapes in each of ten named colours
    tinyshakespeare  the language reference that comes with Python

Every call gives the same arrays. They are real tasks, but not the real sets: a result on
them says nothing about MNIST or CIFAR, which is why their provenance is printed with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from utils.data import digits, shapes
from utils.data.dataset import Dataset, TextData
from utils.data.errors import DataError

TRAIN_SEED, TEST_SEED = 20_240_601, 20_240_602


def stand_in(name: str) -> Dataset | TextData:
    """The embedded set that takes the place of `name`.

    Raises DataError if Python or scikit-learn lacks what it is made from.
    """
    return _STAND_INS[name]()


def _digits() -> Dataset:
    train_x, train_y, test_x, test_y = digits.split()
    return Dataset(
        "mnist", train_x, train_y, test_x, test_y, tuple("0123456789"), "embedded stand-in",
        "handwritten digits of scikit-learn (embedded stand-in for MNIST)",
    )  # fmt: skip


def _grey_shapes() -> Dataset:
    return _shapes("fashion_mnist", shapes.grey, shapes.SHAPES, "grey shapes", "Fashion-MNIST")


def _coloured_shapes() -> Dataset:
    return _shapes("cifar10", shapes.coloured, shapes.SHAPES, "drawn shapes", "CIFAR-10")


def _named_colour_shapes() -> Dataset:
    what = "drawn shapes in ten colours"
    return _shapes("cifar100", shapes.in_named_colours, shapes.COLOURED_SHAPES, what, "CIFAR-100")


def _shapes(
    name: str,
    draw: Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]],
    classes: tuple[str, ...],
    what: str,
    title: str,
) -> Dataset:
    train_x, train_y = draw(5000, np.random.default_rng(TRAIN_SEED))
    test_x, test_y = draw(1000, np.random.default_rng(TEST_SEED))
    return Dataset(
        name, train_x, train_y, test_x, test_y, classes, "embedded stand-in",
        f"{what} (embedded stand-in for {title})",
    )  # fmt: skip


def _text() -> TextData:
    """The topics of Python's `help()`, in the order of their names; about 465 kB."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError(
            "This Python lacks its own documentation (pydoc_data), the embedded text: "
            "install it, or allow downloads to get tinyshakespeare."
        ) from error
    version = ".".join(map(str, sys.version_info[:2]))
    return TextData(
        "tinyshakespeare",
        "\n".join(topics[key] for key in sorted(topics)),
        "embedded stand-in",
        f"Python {version}'s language reference (embedded stand-in for tiny Shakespeare)",
    )


_STAND_INS: dict[str, Callable[[], Dataset | TextData]] = {
    "mnist": _digits,
    "fashion_mnist": _grey_shapes,
    "cifar10": _coloured_shapes,
    "cifar100": _named_colour_shapes,
    "tinyshakespeare": _text,
}
